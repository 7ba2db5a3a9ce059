//! What reaches the service: its bytes, read as strictly as it can be done, in both versions of HTTP.

use super::recorder::{End, Say, Service};
use crate::http2_frames::{ACK, END_HEADERS, END_STREAM, PRIORITY, frame, header_block, kind, unpadded};
use loona_hpack::Decoder;
use std::collections::BTreeMap;
use std::fmt;
use tokio::sync::mpsc::UnboundedSender;

/// Bytes of a body that are kept.
const SHOWN: usize = 60;

/// A request, or something that is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// The method; empty if what came is no request.
    pub method: String,
    /// The target as it was written.
    pub target: String,
    /// Header fields in order, names as they were written. `host` also for HTTP/2, where it is `:authority`.
    pub headers: Vec<(String, String)>,
    /// The begin of the body, without its framing.
    pub body: Vec<u8>,
    /// Bytes of the body.
    pub length: usize,
    /// The trailers.
    pub trailers: Vec<(String, String)>,
    /// Whether it came to its end.
    pub whole: bool,
    /// What must never arrive: two framings, a line that is no header, bytes that are no request.
    pub broken: Option<String>,
}

impl Arrived {
    fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        let room = SHOWN.saturating_sub(self.body.len()).min(bytes.len());
        self.body.extend(&bytes[..room]);
    }

    /// All values of a header, as one.
    pub fn header(&self, name: &str) -> Option<String> {
        let fields = self.headers.iter().chain(&self.trailers);
        let values: Vec<_> = fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(" | "))
    }

    /// As text, with these headers: `POST /path "hello" (host: a; via: -)`.
    pub fn text(&self, headers: &[&str]) -> String {
        let mut text = self.to_string();
        let shown: Vec<_> =
            headers.iter().map(|name| format!("{name}: {}", self.header(name).as_deref().unwrap_or("-"))).collect();
        if !shown.is_empty() {
            text += &format!(" ({})", shown.join("; "));
        }
        text
    }
}

impl fmt::Display for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(broken) = &self.broken {
            return write!(f, "BROKEN {broken}");
        }
        write!(f, "{} {}", self.method, self.target.escape_debug())?;
        match self.length {
            0 => {}
            1..=SHOWN => write!(f, " \"{}\"", self.body.escape_ascii())?,
            more => write!(f, " {more} bytes")?,
        }
        if !self.whole {
            f.write_str(" broken off")?;
        }
        Ok(())
    }
}

type Current = Box<dyn Fn() -> Service + Send>;

/// What came on one connection.
struct Log {
    requests: Vec<Arrived>,
    outbox: UnboundedSender<Say>,
    service: Current,
}

impl Log {
    /// Says the service's piece for this request, if it has one to say so early. True: that was the answer.
    fn head_has_come(&self, stream: u32, request: &Arrived) -> bool {
        match (self.service)() {
            Service::Says(bytes, end) if request.target != super::PROBE => {
                self.say(bytes(stream));
                self.end(end);
                true
            }
            _ => false,
        }
    }

    fn say(&self, bytes: Vec<u8>) {
        // The connection may have ended.
        let _ = self.outbox.send(Say::Bytes(bytes));
    }

    fn end(&self, end: End) {
        let _ = self.outbox.send(Say::End(end));
    }
}

/// HTTP/1.1.
pub(super) struct Http1 {
    log: Log,
    /// Not understood yet.
    bytes: Vec<u8>,
    /// The request whose body is coming.
    open: Option<Open>,
    /// Nothing more is understood.
    lost: bool,
}

struct Open {
    request: Arrived,
    answered: bool,
    left: Body,
}

enum Body {
    Length(usize),
    Chunked,
    Trailers,
}

impl Http1 {
    pub(super) fn new(outbox: UnboundedSender<Say>, service: Current) -> Http1 {
        Http1 { log: Log { requests: Vec::new(), outbox, service }, bytes: Vec::new(), open: None, lost: false }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        while !self.lost && self.step() {}
    }

    pub(super) fn ended(&mut self) {
        if let Some(open) = self.open.take() {
            self.log.requests.push(open.request);
        } else if !self.bytes.is_empty() && !self.lost {
            self.broken(format!("the connection ended within a head: {}", self.bytes.escape_ascii()));
        }
    }

    pub(super) fn is_within_a_request(&self) -> bool {
        !self.lost && (self.open.is_some() || !self.bytes.is_empty())
    }

    /// What has come so far. What is still coming belongs to an earlier case from now on.
    pub(super) fn take(&mut self) -> Vec<Arrived> {
        let mut arrived = std::mem::take(&mut self.log.requests);
        if let Some(open) = self.open.take() {
            self.lost = true;
            self.log.end(End::Reset);
            arrived.push(open.request);
        }
        arrived
    }

    fn broken(&mut self, what: String) {
        self.lost = true;
        self.log.requests.push(Arrived { broken: Some(what), ..Arrived::default() });
        self.log.end(End::Close);
    }

    /// Understands a piece more. False: there is none.
    fn step(&mut self) -> bool {
        let Some(open) = &mut self.open else { return self.head() };
        match open.left {
            Body::Length(left) => {
                let more = left.min(self.bytes.len());
                open.request.add(&self.bytes[..more]);
                self.bytes.drain(..more);
                open.left = Body::Length(left - more);
                if left == more {
                    self.whole();
                }
                left == more || more > 0
            }
            Body::Chunked => {
                let Some(end) = find(&self.bytes, b"\r\n") else { return false };
                let size = std::str::from_utf8(&self.bytes[..end]).ok().filter(|size| size.len() < 9);
                let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
                    let line = self.bytes[..end].escape_ascii().to_string();
                    self.broken(format!("{line} is no plain chunk size"));
                    return false;
                };
                if size == 0 {
                    self.bytes.drain(..end + 2);
                    open.left = Body::Trailers;
                    return true;
                }
                let Some(chunk) = self.bytes.get(end + 2..end + 2 + size + 2) else { return false };
                if !chunk.ends_with(b"\r\n") {
                    self.broken("a chunk is longer than it says".to_owned());
                    return false;
                }
                open.request.add(&chunk[..size]);
                self.bytes.drain(..end + 2 + size + 2);
                true
            }
            Body::Trailers => {
                let Some(end) = find(&self.bytes, b"\r\n") else { return false };
                let line: Vec<u8> = self.bytes.drain(..end + 2).collect();
                if end == 0 {
                    self.whole();
                } else {
                    match field(&line[..end]) {
                        Some(field) => open.request.trailers.push(field),
                        None => self.broken(format!("{} is no trailer", line.escape_ascii())),
                    }
                }
                true
            }
        }
    }

    fn head(&mut self) -> bool {
        let Some(end) = find(&self.bytes, b"\r\n\r\n") else { return false };
        let head: Vec<u8> = self.bytes.drain(..end + 4).collect();
        let Some((request, body)) = read_head(&head[..end]) else {
            self.broken(head.escape_ascii().to_string());
            return false;
        };
        if let Some(broken) = request.broken {
            self.broken(broken);
            return false;
        }
        let expects = request.header("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue"));
        let answered = self.log.head_has_come(0, &request);
        if expects && !answered {
            self.log.say(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec());
        }
        self.open = Some(Open { request, answered, left: body });
        true
    }

    fn whole(&mut self) {
        let Some(Open { mut request, answered, .. }) = self.open.take() else { return };
        request.whole = true;
        if !answered {
            let body = if request.method == "HEAD" { "" } else { "ok" };
            self.log.say(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}").into_bytes());
        }
        self.log.requests.push(request);
    }
}

/// A head without its empty line, and how the body ends; `None` if it is none.
fn read_head(head: &[u8]) -> Option<(Arrived, Body)> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = String::from_utf8_lossy(lines.next()?).into_owned();
    let words: Vec<_> = first.split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = words[..] else { return None };
    // A line feed without its companion was there if this is more than the number of lines.
    let feeds = head.iter().filter(|byte| **byte == b'\n').count();
    let pairs = head.windows(2).filter(|pair| pair == b"\r\n").count();
    let mut request = Arrived {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: lines.map(field).collect::<Option<_>>()?,
        ..Arrived::default()
    };
    if feeds != pairs || head.iter().filter(|byte| **byte == b'\r').count() != pairs {
        request.broken = Some("a line does not end with CR LF".to_owned());
    }
    let (lengths, codings) = (request.header("content-length"), request.header("transfer-encoding"));
    let body = match (lengths, codings) {
        (None, None) => Body::Length(0),
        (Some(length), None) => match length.parse::<usize>() {
            Ok(number) if number.to_string() == length => Body::Length(number),
            _ => {
                request.broken = Some(format!("content-length: {length}"));
                Body::Length(0)
            }
        },
        (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Body::Chunked,
        (length, coding) => {
            request.broken = Some(format!(
                "content-length: {}, transfer-encoding: {}",
                length.as_deref().unwrap_or("-"),
                coding.as_deref().unwrap_or("-")
            ));
            Body::Length(0)
        }
    };
    Some((request, body))
}

fn field(line: &[u8]) -> Option<(String, String)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let name = &line[..colon];
    if name.is_empty() || !name.iter().all(is_token) {
        return None;
    }
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    Some((text(name), text(line[colon + 1..].trim_ascii())))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// HTTP/2, read frame by frame.
pub(super) struct Http2 {
    log: Log,
    bytes: Vec<u8>,
    greeted: bool,
    decoder: Decoder<'static>,
    /// The stream whose head is coming, its last flag, and what has come of it.
    head: Option<(u32, bool, Vec<u8>)>,
    open: BTreeMap<u32, (Arrived, bool)>,
    lost: bool,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Http2 {
    pub(super) fn new(outbox: UnboundedSender<Say>, service: Current) -> Http2 {
        Http2 {
            log: Log { requests: Vec::new(), outbox, service },
            bytes: Vec::new(),
            greeted: false,
            decoder: Decoder::new(),
            head: None,
            open: BTreeMap::new(),
            lost: false,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        while !self.lost && self.step() {}
    }

    pub(super) fn ended(&mut self) {
        self.log.requests.extend(std::mem::take(&mut self.open).into_values().map(|(request, _)| request));
    }

    pub(super) fn is_within_a_request(&self) -> bool {
        !self.lost && (!self.open.is_empty() || self.head.is_some())
    }

    pub(super) fn take(&mut self) -> Vec<Arrived> {
        let mut arrived = std::mem::take(&mut self.log.requests);
        arrived.extend(std::mem::take(&mut self.open).into_values().map(|(request, _)| request));
        arrived
    }

    fn broken(&mut self, what: String) {
        self.lost = true;
        self.log.requests.push(Arrived { broken: Some(what), ..Arrived::default() });
        self.log.end(End::Close);
    }

    fn step(&mut self) -> bool {
        if !self.greeted {
            if self.bytes.len() < PREFACE.len() {
                return false;
            }
            if !self.bytes.starts_with(PREFACE) {
                self.broken(format!("no HTTP/2: {}", self.bytes[..PREFACE.len()].escape_ascii()));
                return false;
            }
            self.bytes.drain(..PREFACE.len());
            self.greeted = true;
            self.log.say(frame(kind::SETTINGS, 0, 0, &[]));
        }
        let Some(&[a, b, c, kind, flags, s, t, u, v]) = self.bytes.first_chunk() else { return false };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if self.bytes.len() < 9 + length {
            return false;
        }
        let frame: Vec<u8> = self.bytes.drain(..9 + length).collect();
        self.frame(kind, flags, u32::from_be_bytes([s & 0x7f, t, u, v]), &frame[9..]);
        true
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let ended = flags & END_STREAM != 0;
        match kind {
            kind::SETTINGS | kind::PING if flags & ACK == 0 => {
                let payload = if kind == kind::PING { payload } else { &[] };
                self.log.say(frame(kind, ACK, 0, payload));
            }
            kind::HEADERS => {
                let Some(block) = unpadded(flags, payload) else { return self.broken("bad padding".to_owned()) };
                let block = block.get(if flags & PRIORITY != 0 { 5 } else { 0 }..).unwrap_or_default();
                self.head = Some((stream, ended, block.to_vec()));
            }
            kind::CONTINUATION => match &mut self.head {
                Some((_, _, block)) => block.extend(payload),
                None => return self.broken("CONTINUATION of nothing".to_owned()),
            },
            kind::DATA => {
                let Some(data) = unpadded(flags, payload) else { return self.broken("bad padding".to_owned()) };
                if !payload.is_empty() {
                    let more = (payload.len() as u32).to_be_bytes();
                    self.log.say(frame(kind::WINDOW_UPDATE, 0, 0, &more));
                    self.log.say(frame(kind::WINDOW_UPDATE, 0, stream, &more));
                }
                if let Some((request, _)) = self.open.get_mut(&stream) {
                    request.add(data);
                    if ended {
                        self.whole(stream);
                    }
                }
            }
            kind::RST_STREAM => {
                self.log.requests.extend(self.open.remove(&stream).map(|(request, _)| request));
            }
            _ => {}
        }
        if matches!(kind, kind::HEADERS | kind::CONTINUATION)
            && flags & END_HEADERS != 0
            && let Some((stream, ended, block)) = self.head.take()
        {
            self.fields(stream, ended, &block);
        }
    }

    fn fields(&mut self, stream: u32, ended: bool, block: &[u8]) {
        let Ok(fields) = self.decoder.decode(block) else {
            return self.broken("a header block that is none".to_owned());
        };
        let text = |bytes: Vec<u8>| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => error.as_bytes().escape_ascii().to_string(),
        };
        let fields: Vec<_> = fields.into_iter().map(|(name, value)| (text(name), text(value))).collect();
        if let Some((request, _)) = self.open.get_mut(&stream) {
            request.trailers = fields;
        } else {
            let mut request = Arrived::default();
            for (name, value) in fields {
                match name.as_str() {
                    ":method" => request.method = value,
                    ":path" => request.target = value,
                    ":authority" => request.headers.insert(0, ("host".to_owned(), value)),
                    ":scheme" => {}
                    _ => request.headers.push((name, value)),
                }
            }
            let broken = request.headers.iter().find(|(name, value)| {
                // RFC 9113 8.2.
                name.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' ' || byte == b':' || byte >= 0x7f)
                    || value.bytes().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
                    || matches!(name.as_str(), "connection" | "transfer-encoding" | "upgrade" | "keep-alive")
            });
            if let Some((name, value)) = broken {
                return self.broken(format!("{name}: {value}"));
            }
            let answered = self.log.head_has_come(stream, &request);
            self.open.insert(stream, (request, answered));
        }
        if ended {
            self.whole(stream);
        }
    }

    fn whole(&mut self, stream: u32) {
        let Some((mut request, answered)) = self.open.remove(&stream) else { return };
        request.whole = true;
        let length = request.header("content-length");
        if length.is_some_and(|length| length != request.length.to_string()) {
            return self.broken(format!("{request} whose content-length is another"));
        }
        if !answered {
            let block = header_block([(":status", "200"), ("content-length", "2")]);
            if request.method == "HEAD" {
                self.log.say(frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block));
            } else {
                self.log.say(frame(kind::HEADERS, END_HEADERS, stream, &block));
                self.log.say(frame(kind::DATA, END_STREAM, stream, b"ok"));
            }
        }
        self.log.requests.push(request);
    }
}
