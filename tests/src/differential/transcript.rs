//! What the plugins wrote down: every callback with its arguments, every host call with its status and results.

use super::{Case, Seen};
use crate::client::RawClient;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// How long a plugin that is not called may keep the other side waiting.
const PAUSE: Duration = Duration::from_millis(150);
/// How long the end of a stream may take.
const END: Duration = Duration::from_secs(3);

/// Reads what each plugin wrote down, when its stream is over.
pub(super) async fn read(case: &Case, front: SocketAddr, seen: &mut Seen) {
    let ended = |text: &str| text.lines().any(|line| line.starts_with("delete() ="));
    let mut order = Vec::new();
    for (place, name) in case.scripted().iter().enumerate() {
        // When the first has seen the end, one that has written nothing was not called.
        let enough = |text: &str| ended(text) || place > 0 && text.is_empty();
        let text = wait_for(case, name, front, END, enough).await;
        order.extend(plugin(&text, name, case, seen));
    }
    if !order.is_empty() {
        // Of one plugin they are in order already.
        order.sort_by_key(|(time, _)| *time);
        // How the streams of several end is the business of one case.
        if case.scripted().len() > 1 && !case.name.contains("order") {
            let ends = [" log", " done", " delete"];
            order.retain(|(_, callback)| !ends.iter().any(|end| callback.ends_with(end)));
        }
        let order: Vec<_> = order.into_iter().map(|(_, callback)| callback).collect();
        seen.push("callbacks", order.join(" "));
    }
}

/// A line, its value, and when a callback came.
struct Line<'a> {
    what: &'a str,
    value: String,
    time: u64,
}

/// What one plugin saw. Gives its callbacks with their times.
///
/// Envoy tells the end of a body in a callback of its own, without bytes; here the last bytes tell it. Plugins must be
/// prepared for both, so that is not compared.
fn plugin(text: &str, name: &str, case: &Case, seen: &mut Seen) -> Vec<(u64, String)> {
    let (coarse, ordered) = (case.coarse, case.name.contains("order"));
    let lines = text.lines().map(|line| {
        let (what, value) = line.split_once(" = ").unwrap_or((line.trim_end_matches(" ="), ""));
        let (value, time) = match value.rsplit_once('@') {
            Some((value, time)) if what.ends_with("()") => (value.trim_end(), time.parse().unwrap_or_default()),
            _ => (value, 0),
        };
        Line { what, value: value.to_owned(), time }
    });
    let mut lines: Vec<_> = lines.collect();
    for body in ["request_body()", "response_body()"] {
        let ends = lines.iter().position(|line| line.what == body && line.value == "n=0 eos=1");
        let before = ends.and_then(|end| lines[..end].iter().rposition(|line| line.what == body));
        if let (Some(end), Some(before)) = (ends, before) {
            lines[before].value = lines[before].value.replace("eos=0", "eos=1");
            let next = lines[end + 1..].iter().position(|line| line.what.ends_with("()"));
            let next = next.map_or(lines.len(), |next| end + 1 + next);
            // What the plugin did in both counts once: as it went with the bytes, or at the end if only that allows it.
            for line in lines.drain(end..next).skip(1).collect::<Vec<_>>() {
                match lines[before..end].iter_mut().find(|own| own.what == line.what) {
                    Some(own) if own.value == "2" && line.value.starts_with('0') => own.value = line.value,
                    Some(_) => {}
                    None => lines.insert(end, line),
                }
            }
        }
    }
    if coarse {
        lines.retain(|line| line.what.ends_with("()"));
        lines.dedup_by_key(|line| line.what);
    }
    let mut order = Vec::new();
    for Line { what, value, time } in &lines {
        if let Some(callback) = what.strip_suffix("()") {
            order.push((*time, format!("{name} {callback}").trim().to_owned()));
        }
        if !coarse {
            let value = if what.contains(" pairs ") && !ordered { sorted(value) } else { masked(what, value) };
            let of = if name.is_empty() { String::new() } else { format!(" in {name}") };
            seen.push(format!("{what}{of}"), value);
        }
    }
    order
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

/// Waits until the plugin that sees it first has been called so often about this, or for so long that it will not be.
pub(super) async fn wait_for_callbacks(case: &Case, front: SocketAddr, at: &str, count: usize) {
    let names = case.scripted();
    let first = if at.starts_with("response") { names.last() } else { names.first() };
    if let Some(name) = first {
        let begins = format!("{at}() =");
        let enough = |text: &str| text.lines().filter(|line| line.starts_with(&begins)).count() >= count;
        wait_for(case, name, front, PAUSE, enough).await;
    }
}

/// The plugin's transcript as soon as it is `enough`, or when the time is over.
async fn wait_for(case: &Case, name: &str, front: SocketAddr, most: Duration, enough: impl Fn(&str) -> bool) -> String {
    let until = Instant::now() + most;
    loop {
        let text = transcript(case, name, front).await.unwrap_or_default();
        if enough(&text) || Instant::now() >= until {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

async fn transcript(case: &Case, name: &str, front: SocketAddr) -> anyhow::Result<String> {
    let mut client = RawClient::connect(front).await?;
    let header = if name.is_empty() { "x-transcript".to_owned() } else { format!("x-transcript-{name}") };
    client.send(format!("GET / HTTP/1.1\r\nhost: test.example.dev\r\n{header}: {}\r\n\r\n", case.name)).await?;
    Ok(client.response().await?.text())
}
