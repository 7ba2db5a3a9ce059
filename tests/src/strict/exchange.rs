//! Sends a case to a gateway and tells what came of it, on both sides.

use super::arrived::Arrived;
use super::{Case, Door, HOST, PROBE, Recorder, Service, Step, certificates};
use crate::client::{RawClient, RawResponse};
use crate::http2_frames::{ACK, END_HEADERS, END_STREAM, Frame, Frames, frame, header_block, kind, unpadded};
use crate::server::Protocol;
use loona_hpack::Decoder;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How bytes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// As few writes as there can be.
    Nowhere,
    /// Every byte on its own; what is long, in pieces of this size.
    Everywhere,
}

/// What came of a case.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What the client got.
    pub answer: String,
    /// What reached the service, broken-off requests included.
    pub arrived: Vec<Arrived>,
}

impl Seen {
    /// Whether nothing that a service would act on has reached it, and the client was not told that all is well. Where
    /// it is the service that breaks the rules, only the latter.
    pub fn is_refused(&self, case: &Case) -> bool {
        let well = |part: &str| part.starts_with(['1', '2', '3']) && !part.ends_with("cut");
        let arrived = || self.arrived.iter().any(|request| request.whole || request.broken.is_some());
        !self.answer.split(", ").any(|part| well(part) || part == SERVER_HELLO)
            && self.answer != "silent"
            && (!matches!(case.service, Service::Answers) || !arrived())
    }

    /// In one line, without what was broken off: how much of that arrives is a matter of chance.
    pub fn text(&self, case: &Case) -> String {
        let certain = self.arrived.iter().filter(|request| request.whole || request.broken.is_some());
        let arrived: Vec<_> = certain.map(|request| request.text(case.shown)).collect();
        summary(&self.answer, &arrived)
    }
}

/// What the client got and what reached the service, in one line.
pub(super) fn summary(answer: &str, arrived: &[String]) -> String {
    let mut text = answer.to_owned();
    for (request, times) in runs(arrived) {
        text += " → ";
        text += request;
        if times > 1 {
            text += &format!(" ×{times}");
        }
    }
    text
}

/// Neighbours that are the same, and how many.
fn runs(texts: &[String]) -> Vec<(&str, usize)> {
    let runs = texts.chunk_by(|a, b| a == b);
    runs.map(|run| (run[0].as_str(), run.len())).collect()
}

/// Sends a case. `patience` is how long the gateway may be silent before that is what it does.
///
/// # Errors
/// The gateway cannot be connected to.
pub async fn exchange(
    case: &Case,
    front: SocketAddr,
    recorder: &Recorder,
    patience: Duration,
    cut: Cut,
) -> anyhow::Result<Seen> {
    recorder.behave(case.service.clone());
    if !matches!(case.service, Service::Answers) && !is_post(case) {
        // A request on a kept connection may be sent twice, if it does no harm.
        recorder.hang_up();
    }
    let answers = match (case.door, case.client) {
        (Door::Mutual(shown), _) => certificates::ask(shown, front, patience).await?,
        (Door::Tls, _) => into_tls(case, front, patience, cut).await?,
        (Door::Clear, Protocol::Http2) => http2(case, front, patience).await?,
        (Door::Clear, _) => http1(case, front, patience, cut).await?,
    };
    let arrived = recorder.arrived(patience).await?;
    let answers: Vec<_> = runs(&answers)
        .into_iter()
        .map(|(answer, times)| if times > 1 { format!("{answer} ×{times}") } else { answer.to_owned() })
        .collect();
    Ok(Seen { answer: answers.join(", "), arrived })
}

/// The server goes on with the handshake.
const SERVER_HELLO: &str = "ServerHello";

/// What comes of bytes on a port for TLS: the kinds of its records.
async fn into_tls(case: &Case, front: SocketAddr, patience: Duration, cut: Cut) -> anyhow::Result<Vec<String>> {
    let mut stream = TcpStream::connect(front).await?;
    stream.set_nodelay(true)?;
    for step in &case.steps {
        let Step::Send(bytes) = step else { continue };
        let piece = if cut == Cut::Everywhere { bytes.len() / 1_000 + 1 } else { bytes.len().max(1) };
        for piece in bytes.chunks(piece) {
            // Whoever has heard enough may hang up before everything is sent.
            if stream.write_all(piece).await.is_err() {
                break;
            }
        }
    }
    let mut came = Vec::new();
    // The first byte of a record of the handshake, and of a ServerHello in it: that is all there is to know.
    let goes_on = |came: &[u8]| came.first() == Some(&22) && came.get(5) == Some(&2);
    let end = loop {
        match timeout(patience, stream.read_buf(&mut came)).await {
            _ if goes_on(&came) => return Ok(vec![SERVER_HELLO.to_owned()]),
            Err(_) => break "silent",
            Ok(Ok(0) | Err(_)) => break "closed",
            Ok(Ok(_)) => {}
        }
    };
    let mut texts = Vec::new();
    let mut rest = &came[..];
    if let Some(status) = rest.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)) {
        texts.push(String::from_utf8_lossy(status).into_owned());
        rest = &[];
    }
    while let [kind, _, _, high, low, behind @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(behind.len());
        let (record, behind) = behind.split_at(length);
        rest = behind;
        match (kind, record) {
            (21, [_, code, ..]) => texts.push(format!("alert {}", alert(*code))),
            _ => texts.push("no TLS".to_owned()),
        }
    }
    texts.push(end.to_owned());
    Ok(texts)
}

/// The name of an alert (RFC 8446 6), as far as somebody sends it here.
fn alert(code: u8) -> String {
    let name = match code {
        0 => "close_notify",
        10 => "unexpected_message",
        22 => "record_overflow",
        40 => "handshake_failure",
        47 => "illegal_parameter",
        50 => "decode_error",
        70 => "protocol_version",
        80 => "internal_error",
        109 => "missing_extension",
        112 => "unrecognized_name",
        120 => "no_application_protocol",
        _ => return code.to_string(),
    };
    name.to_owned()
}

fn is_post(case: &Case) -> bool {
    matches!(case.steps.first(), Some(Step::Send(bytes)) if bytes.starts_with(b"POST "))
}

/// How many responses there are to wait for before the connection is probed; `None`: it is expected to end.
fn awaited(case: &Case) -> Option<usize> {
    let finals = case.answer.split(", ").filter(|part| part.starts_with(['2', '3', '4', '5', 'R']));
    let count = finals.map(|part| part.rsplit_once('×').map_or(1, |(_, times)| times.parse().unwrap_or(1))).sum();
    (count > 0).then_some(count)
}

async fn http1(case: &Case, front: SocketAddr, patience: Duration, cut: Cut) -> anyhow::Result<Vec<String>> {
    let mut client = RawClient::connect(front).await?;
    let mut answers = Answers { texts: Vec::new(), finals: 0, last: None };
    let bodyless = matches!(case.steps.first(), Some(Step::Send(bytes)) if bytes.starts_with(b"HEAD "));
    let mut finished = false;
    for step in &case.steps {
        // Whoever has heard enough may hang up before everything is sent.
        let sent = match step {
            Step::Send(bytes) => send(&mut client, bytes, cut).await,
            Step::Flood(bytes, times) => flood(&mut client, bytes, *times, patience).await,
            Step::Finish => {
                finished = true;
                client.finish_sending().await
            }
            Step::Wait => {
                answers.next(&mut client, bodyless, patience).await;
                Ok(())
            }
        };
        if sent.is_err() {
            break;
        }
    }
    let awaited = awaited(case).unwrap_or(usize::MAX);
    while answers.last.is_none() && answers.finals < awaited {
        answers.next(&mut client, bodyless, patience).await;
    }
    // One that waits for more of a message does not answer another.
    if answers.last == Some("silent") && answers.finals == 0 || answers.last == Some("closed") {
        answers.texts.extend(answers.last.map(str::to_owned));
        return Ok(answers.texts);
    }
    let probe = format!("GET {PROBE} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    answers.last = None;
    if !finished {
        // It may have been closed just now.
        let _ = client.send(probe).await;
    }
    let mut probed = Answers { texts: Vec::new(), finals: 0, last: None };
    while probed.last.is_none() {
        probed.next(&mut client, false, patience).await;
    }
    match probed.texts.first().map(String::as_str) {
        None => answers.texts.extend(probed.last.map(str::to_owned)),
        Some("200") => {
            answers.texts.push("open".to_owned());
            answers.texts.extend(probed.texts.into_iter().skip(1).map(|text| format!("and {text}")));
        }
        Some(other) => answers.texts.push(format!("open, then {other}")),
    }
    Ok(answers.texts)
}

/// What came over HTTP/1.1.
struct Answers {
    texts: Vec<String>,
    /// Responses that are not interim.
    finals: usize,
    /// Nothing more will come, and why.
    last: Option<&'static str>,
}

impl Answers {
    async fn next(&mut self, client: &mut RawClient, bodyless: bool, patience: Duration) {
        let mut response = match timeout(patience, client.head()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                if error.to_string().contains("no status line") {
                    self.texts.push("something else".to_owned());
                }
                self.last = Some("closed");
                return;
            }
            Err(_) => {
                self.last = Some("silent");
                return;
            }
        };
        let status = response.status;
        if status < 200 {
            self.texts.push(status.to_string());
            return;
        }
        self.finals += 1;
        let body = async { if bodyless { Ok(()) } else { client.body(&mut response).await } };
        let whole = matches!(timeout(patience, body).await, Ok(Ok(())));
        self.texts.push(if whole { said(&response) } else { format!("{status} cut") });
        if !whole {
            self.last = Some("closed");
        }
    }
}

/// A response in one word; the service's own is known by its body.
fn said(response: &RawResponse) -> String {
    let theirs = response.status != 200 || response.body.is_empty() || response.body == b"ok";
    if theirs { response.status.to_string() } else { format!("200 with {} bytes", response.body.len()) }
}

async fn send(client: &mut RawClient, bytes: &[u8], cut: Cut) -> anyhow::Result<()> {
    let piece = match cut {
        Cut::Nowhere => bytes.len().max(1),
        Cut::Everywhere if bytes.len() <= 1_000 => 1,
        Cut::Everywhere => bytes.len() / 7 + 1,
    };
    for piece in bytes.chunks(piece) {
        client.send(piece).await?;
        if cut == Cut::Everywhere {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn flood(client: &mut RawClient, bytes: &[u8], times: usize, patience: Duration) -> anyhow::Result<()> {
    for _ in 0..times {
        timeout(patience, client.send(bytes)).await??;
    }
    Ok(())
}

/// What came over HTTP/2.
struct Streams {
    decoder: Decoder<'static>,
    /// What is not about a stream, and interim responses.
    texts: Vec<String>,
    /// Statuses of streams that have not come to their end.
    open: BTreeMap<u32, String>,
    /// What became of streams that have.
    done: BTreeMap<u32, String>,
    /// A header block that goes on.
    block: Vec<u8>,
    probed: Option<String>,
}

/// Larger than any stream of a case.
const PROBE_STREAM: u32 = 0x7fff_fff1;

async fn http2(case: &Case, front: SocketAddr, patience: Duration) -> anyhow::Result<Vec<String>> {
    let mut client = Frames::connect(front).await?;
    let mut streams = Streams {
        decoder: Decoder::new(),
        texts: Vec::new(),
        open: BTreeMap::new(),
        done: BTreeMap::new(),
        block: Vec::new(),
        probed: None,
    };
    let mut over = None;
    for step in &case.steps {
        let sent = match step {
            Step::Send(bytes) => client.send(bytes).await,
            Step::Flood(bytes, times) => {
                let (came, end) = client.pour(bytes, *times, patience).await;
                came.iter().for_each(|frame| drop(streams.take(frame)));
                over = end;
                Ok(())
            }
            Step::Wait => {
                let before = streams.done.len();
                while over.is_none() && streams.done.len() == before {
                    over = streams.next(&mut client, patience).await;
                }
                Ok(())
            }
            Step::Finish => client.finish_sending().await,
        };
        if sent.is_err() {
            break;
        }
    }
    let awaited = awaited(case).unwrap_or(usize::MAX);
    while over.is_none() && streams.done.len() < awaited {
        over = streams.next(&mut client, patience).await;
    }
    if over != Some("closed") {
        let block = header_block([(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", PROBE)]);
        let _ = client.send(frame(kind::HEADERS, END_HEADERS | END_STREAM, PROBE_STREAM, &block)).await;
        over = None;
        while over.is_none() && streams.probed.is_none() {
            over = streams.next(&mut client, patience).await;
        }
    }
    let (goodbyes, interim): (Vec<_>, Vec<_>) = streams.texts.into_iter().partition(|text| text.starts_with("GOAWAY"));
    let end = match streams.probed {
        Some(text) if text == "200" => "open".to_owned(),
        Some(text) => format!("open, then {text}"),
        None => over.unwrap_or("silent").to_owned(),
    };
    Ok(interim.into_iter().chain(streams.done.into_values()).chain(goodbyes).chain([end]).collect())
}

impl Streams {
    /// Waits for a frame; why there is none.
    async fn next(&mut self, client: &mut Frames, patience: Duration) -> Option<&'static str> {
        match timeout(patience, client.next()).await {
            Err(_) => Some("silent"),
            Ok(Ok(Some(frame))) => {
                if let Some(answer) = self.take(&frame) {
                    let _ = client.send(answer).await;
                }
                None
            }
            Ok(Ok(None) | Err(_)) => Some("closed"),
        }
    }

    /// Understands a frame; what is to be sent in answer.
    fn take(&mut self, came: &Frame) -> Option<Vec<u8>> {
        let stream = came.stream;
        match came.kind {
            kind::SETTINGS if came.flags & ACK == 0 => return Some(frame(kind::SETTINGS, ACK, 0, &[])),
            kind::HEADERS | kind::CONTINUATION => {
                self.block.extend(unpadded(came.flags, &came.payload).unwrap_or_default());
                if came.flags & END_HEADERS != 0 {
                    let fields = self.decoder.decode(&std::mem::take(&mut self.block)).unwrap_or_default();
                    let status = fields.into_iter().find(|(name, _)| name == b":status");
                    if let Some((_, status)) = status {
                        let status = String::from_utf8_lossy(&status).into_owned();
                        if status.starts_with('1') {
                            self.texts.push(status);
                        } else {
                            self.open.insert(stream, status);
                        }
                    }
                }
            }
            kind::RST_STREAM if !self.done.contains_key(&stream) && Some(stream) != self.probed_stream() => {
                let reason = reason(came);
                let text = match self.open.remove(&stream) {
                    // What is left of the request is not wanted.
                    Some(status) if reason == "NO_ERROR" => status,
                    Some(status) => format!("{status} cut"),
                    None => format!("RST {reason}"),
                };
                self.ended(stream, text);
            }
            kind::GOAWAY if came.error_code() != Some(0) => self.texts.push(format!("GOAWAY {}", reason(came))),
            _ => {}
        }
        if came.is_end_stream()
            && let Some(status) = self.open.remove(&stream)
        {
            self.ended(stream, status);
        }
        None
    }

    fn probed_stream(&self) -> Option<u32> {
        self.probed.as_ref().map(|_| PROBE_STREAM)
    }

    fn ended(&mut self, stream: u32, text: String) {
        if stream == PROBE_STREAM {
            self.probed = Some(text);
        } else {
            self.done.insert(stream, text);
        }
    }
}

fn reason(frame: &Frame) -> String {
    let names = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
    ];
    let code = frame.error_code().unwrap_or(u32::MAX);
    names.get(code as usize).map_or_else(|| code.to_string(), |name| (*name).to_owned())
}
