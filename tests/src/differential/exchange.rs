//! Sends one case to one gateway and writes down what everybody saw.

use super::service::Service;
use super::{Case, Site};
use crate::client::{RawClient, RawResponse};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Names and values.
pub(super) type Fields = Vec<(String, String)>;

/// What everybody saw: lines `what = value`, in order.
#[derive(Clone, Debug, Default)]
pub struct Seen(pub Vec<(String, String)>);

/// Headers that are different each time, or belong to the test; and those that frame a body, which depend on how its
/// pieces come: client and service read bodies as they say, so that a wrong one shows.
const LEFT_OUT: [&str; 9] = [
    "x-request-id",
    "x-forwarded-for",
    "date",
    "x-envoy-upstream-service-time",
    "x-script",
    "x-case",
    "x-transcript",
    "content-length",
    "transfer-encoding",
];

/// How long a plugin that is not called may keep the other side waiting.
const PAUSE: Duration = Duration::from_millis(150);
/// How long the end of a stream may take.
const END: Duration = Duration::from_secs(3);

impl Seen {
    fn push(&mut self, what: impl Into<String>, value: impl Into<String>) {
        let what = what.into();
        let same = self.0.iter().filter(|(own, _)| own.split(" #").next() == Some(&what)).count();
        let what = if same == 0 { what } else { format!("{what} #{}", same + 1) };
        self.0.push((what, value.into()));
    }

    /// Values of the same name are one line, since their order counts; that of the names does not.
    fn push_fields(&mut self, who: &str, fields: &Fields) {
        let mut named = BTreeMap::<String, Vec<&str>>::new();
        for (name, value) in fields {
            named.entry(name.to_ascii_lowercase()).or_default().push(value);
        }
        for (name, values) in named.into_iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_str())) {
            self.push(format!("{who} {name}"), values.join(" & "));
        }
    }
}

/// Sends a case.
///
/// # Errors
/// The gateway cannot be reached.
pub async fn run(case: &Case, site: &Site) -> anyhow::Result<Seen> {
    let front = site.front(case.plugin)?;
    site.service.behave(case, front);
    let mut seen = Seen::default();
    client(case, front, &mut seen).await?;
    if case.is_scripted() {
        let transcript =
            wait_for(case, front, END, |text| text.lines().any(|line| line.starts_with("delete() ="))).await;
        plugin(&transcript, case, &mut seen);
    }
    service(&site.service, &mut seen);
    Ok(seen)
}

async fn client(case: &Case, front: SocketAddr, seen: &mut Seen) -> anyhow::Result<()> {
    let mut client = RawClient::connect(front).await?;
    let talking = async {
        client.send(bytes(&case.head())).await?;
        for (number, piece) in case.pieces.iter().enumerate() {
            // A gateway may answer and hang up before it has all of the body.
            if client.send(case.piece(piece)).await.is_err() {
                break;
            }
            wait_for_callbacks(case, front, "request_body", number + 1).await;
        }
        // As above.
        let _ = client.send(case.end()).await;
        let mut response = client.head().await?;
        let complete = client.body(&mut response).await;
        anyhow::Ok((response, complete.is_ok()))
    };
    match timeout(case.patience, talking).await {
        Err(_) => seen.push("client", "gets nothing"),
        Ok(Err(_)) => seen.push("client", "sees the connection end"),
        // Whether a head gets out before the connection is cut is a matter of luck.
        Ok(Ok((response, false))) if response.body.is_empty() => seen.push("client", "sees the connection end"),
        Ok(Ok((response, complete))) => answer(&response, complete, seen),
    }
    Ok(())
}

/// A letter is a byte, so that headers need not be UTF-8.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap_or(b'?')).collect()
}

fn answer(response: &RawResponse, complete: bool, seen: &mut Seen) {
    seen.push("client", response.status.to_string());
    seen.push_fields("client", &response.headers);
    if !response.body.is_empty() || !complete {
        let broken = if complete { "" } else { ", then the connection ends" };
        seen.push("client body", format!("{}{broken}", shown(&response.body)));
    }
    seen.push_fields("client trailer", &response.trailers);
}

fn service(service: &Service, seen: &mut Seen) {
    for request in service.arrived() {
        seen.push("service", request.line);
        seen.push_fields("service", &request.headers);
        if !request.body.is_empty() {
            seen.push("service body", shown(&request.body));
        }
        seen.push_fields("service trailer", &request.trailers);
    }
}

/// Long bodies as their length.
fn shown(bytes: &[u8]) -> String {
    if bytes.len() > 200 { format!("{} bytes", bytes.len()) } else { format!("\"{}\"", bytes.escape_ascii()) }
}

/// Envoy tells the end of a body in a callback of its own, without bytes; here the last bytes tell it. Plugins must be
/// prepared for both, so that is not compared.
fn plugin(transcript: &str, case: &Case, seen: &mut Seen) {
    let (coarse, ordered) = (case.coarse, case.name.contains("order"));
    let lines = transcript.lines().map(|line| line.split_once(" = ").unwrap_or((line.trim_end_matches(" ="), "")));
    let mut lines: Vec<(&str, String)> = lines.map(|(what, value)| (what, value.to_owned())).collect();
    for body in ["request_body()", "response_body()"] {
        let ends = lines.iter().position(|(what, value)| *what == body && value == "n=0 eos=1");
        let before = ends.and_then(|end| lines[..end].iter().rposition(|(what, _)| *what == body));
        if let (Some(end), Some(before)) = (ends, before) {
            lines[before].1 = lines[before].1.replace("eos=0", "eos=1");
            let next = lines[end + 1..].iter().position(|(what, _)| what.ends_with("()"));
            let next = next.map_or(lines.len(), |next| end + 1 + next);
            // What the plugin did in both counts once: as it went with the bytes, or at the end if only that allows it.
            for (what, value) in lines.drain(end..next).skip(1).collect::<Vec<_>>() {
                match lines[before..end].iter_mut().find(|(own, _)| *own == what) {
                    Some((_, own)) if own == "2" && value.starts_with('0') => *own = value,
                    Some(_) => {}
                    None => lines.insert(end, (what, value)),
                }
            }
        }
    }
    let mut order = Vec::new();
    if coarse {
        lines.retain(|(what, _)| what.ends_with("()"));
        lines.dedup_by_key(|(what, _)| *what);
    }
    for (what, value) in &lines {
        if let Some(callback) = what.strip_suffix("()") {
            order.push(callback);
        }
        if !coarse {
            let value = if what.contains(" pairs ") && !ordered { sorted(value) } else { masked(what, value) };
            seen.push(*what, value);
        }
    }
    seen.push("callbacks", order.join(" "));
}

/// Headers in an order of ours: theirs is the business of one case.
fn sorted(value: &str) -> String {
    let (status, fields) = value.split_once(' ').unwrap_or((value, ""));
    let mut fields: Vec<_> = fields.split(' ').collect();
    // Of one name they keep their order.
    fields.sort_by_key(|field| field.split('=').next());
    format!("{status} {}", fields.join(" "))
}

/// Numbers that are different each time: only whether there is one, and how long it is.
fn masked(what: &str, value: &str) -> String {
    const DIFFERENT: [&str; 14] = [
        "\\x00time\"",
        "\\x00duration\"",
        "\\x00id\"",
        "\\x00port\"",
        "\\x00headers_bytes\"",
        "\\x00total_size\"",
        "\\x00backend_latency\"",
        "\\x00cx_pool_ready_duration\"",
        "\"connection_id\"",
        "current_time_nanoseconds",
        "x-request-id",
        "get_header_map_size 0",
        "get_header_map_size 2",
        "\\x00termination_details\"",
    ];
    if DIFFERENT.iter().any(|part| what.contains(part)) {
        let (status, result) = value.split_once(' ').unwrap_or((value, ""));
        let unescaped = result.replace("\\\\", "\\").len();
        // A number of 8 bytes is shown with many escapes, or few.
        let kind = if result.is_empty() || result == "\"\"" {
            ""
        } else if unescaped > 40 {
            " a text"
        } else {
            " a number"
        };
        return format!("{status}{kind}");
    }
    // Addresses: the ports are the kernel's.
    let mut masked = String::new();
    let mut parts = value.split("127.0.0.1:");
    masked.push_str(parts.next().unwrap_or_default());
    for part in parts {
        masked.push_str("127.0.0.1:PORT");
        masked.push_str(part.trim_start_matches(|letter: char| letter.is_ascii_digit()));
    }
    masked
}

/// Waits until the plugin has been called so often about this, or for so long that it will not be.
pub(super) async fn wait_for_callbacks(case: &Case, front: SocketAddr, at: &str, count: usize) {
    if case.is_scripted() {
        let begins = format!("{at}() =");
        wait_for(case, front, PAUSE, |text| text.lines().filter(|line| line.starts_with(&begins)).count() >= count)
            .await;
    }
}

/// The plugin's transcript as soon as it is `enough`, or when the time is over.
async fn wait_for(case: &Case, front: SocketAddr, most: Duration, enough: impl Fn(&str) -> bool) -> String {
    let until = Instant::now() + most;
    loop {
        let text = transcript(case, front).await.unwrap_or_default();
        if enough(&text) || Instant::now() >= until {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

async fn transcript(case: &Case, front: SocketAddr) -> anyhow::Result<String> {
    let mut client = RawClient::connect(front).await?;
    client.send(format!("GET / HTTP/1.1\r\nhost: test.example.dev\r\nx-transcript: {}\r\n\r\n", case.name)).await?;
    Ok(client.response().await?.text())
}
