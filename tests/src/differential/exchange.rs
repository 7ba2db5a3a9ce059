//! Sends one case to one gateway and writes down what everybody saw.

use super::service::Service;
use super::{Case, Site, http2, transcript};
use crate::client::{RawClient, RawResponse};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::time::timeout;

/// Names and values.
pub(super) type Fields = Vec<(String, String)>;

/// What everybody saw: lines `what = value`, in order.
#[derive(Clone, Debug, Default)]
pub struct Seen(pub Vec<(String, String)>);

/// Headers that are different each time, or belong to the test; and those that frame a body, which depend on how its
/// pieces come: client and service read bodies as they say, so that a wrong one shows.
const LEFT_OUT: [&str; 11] = [
    "x-request-id",
    "x-forwarded-for",
    "date",
    "x-envoy-upstream-service-time",
    "x-script",
    "x-script-first",
    "x-script-second",
    "x-script-third",
    "x-case",
    "content-length",
    "transfer-encoding",
];

impl Seen {
    pub(super) fn push(&mut self, what: impl Into<String>, value: impl Into<String>) {
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
    client(case, front, &mut seen).await;
    transcript::read(case, front, &mut seen).await;
    service(&site.service, &mut seen);
    Ok(seen)
}

async fn client(case: &Case, front: SocketAddr, seen: &mut Seen) {
    if case.http2 {
        match timeout(case.patience, http2::ask(case, front)).await {
            Err(_) => seen.push("client", "gets nothing"),
            Ok(Err(reason)) => seen.push("client", format!("sees the stream end: {reason}")),
            Ok(Ok((response, reason))) => answer(&response, reason.as_deref(), seen),
        }
        return;
    }
    let Ok(mut client) = RawClient::connect(front).await else {
        seen.push("client", "cannot connect");
        return;
    };
    let talking = async {
        client.send(bytes(&case.head())).await?;
        for (number, piece) in case.pieces.iter().enumerate() {
            // A gateway may answer and hang up before it has all of the body.
            if client.send(case.piece(piece)).await.is_err() {
                break;
            }
            transcript::wait_for_callbacks(case, front, "request_body", number + 1).await;
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
        Ok(Ok((response, true))) => answer(&response, None, seen),
        Ok(Ok((response, false))) => answer(&response, Some("the connection ends"), seen),
    }
}

/// A letter is a byte, so that headers need not be UTF-8.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap_or(b'?')).collect()
}

/// `broken`: what came before it was complete.
fn answer(response: &RawResponse, broken: Option<&str>, seen: &mut Seen) {
    seen.push("client", response.status.to_string());
    seen.push_fields("client", &response.headers);
    if !response.body.is_empty() || broken.is_some() {
        let broken = broken.map(|broken| format!(", then {broken}")).unwrap_or_default();
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
