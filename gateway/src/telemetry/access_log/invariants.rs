//! What holds for every line, whatever a request says and however an operator wants it: for tests here and for the fuzzer
//! in `tests/fuzz`.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::{
    Captured, Entry, LogFormat, TlsEntry,
    format::{Layout, Memory},
};
use crate::telemetry::ResponseFlags;

/// Fields of an entry, by the byte between them.
const BETWEEN: u8 = 0xff;

/// Writes a request in Istio's two formats and in one of the bytes' own. What stands before the first [`BETWEEN`] is
/// that format: JSON if it begins with `{`.
///
/// # Panics
/// A line is more than one, is not printable, or is not the JSON that the format says.
pub(crate) fn check(bytes: &[u8]) {
    let mut fields = bytes.split(|byte| *byte == BETWEEN);
    let own = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    let values: Vec<&[u8]> = fields.collect();

    let line = line_of(&LogFormat::Text, &values);
    assert!(line.trim_end_matches('\n').bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
    // Seven quoted columns, and as many columns outside of quotes as in an ordinary line.
    let outside: Vec<&str> = line.split('"').step_by(2).collect();
    assert_eq!(outside.len(), 8, "{line:?}");
    assert_eq!(outside.concat().split_whitespace().count(), 15, "{line:?}");

    let members = json(&line_of(&LogFormat::Json, &values));
    assert_eq!(members.len(), 24);
    if let Ok(agent) = str::from_utf8(value(&values, 4))
        && !agent.is_empty()
        && agent.len() < 1000
    {
        assert_eq!(members.get("user_agent").and_then(Value::as_str), Some(agent));
    }

    if own.starts_with('{') {
        let Ok(wanted) = serde_json::from_str::<Map<String, Value>>(&own) else { return };
        let format = LogFormat::CustomJson(wanted.clone());
        if format.check().is_ok() {
            let members = json(&line_of(&format, &values));
            assert!(wanted.keys().all(|key| members.contains_key(key)) && members.len() == wanted.len(), "{own}");
        }
    } else {
        let format = LogFormat::CustomText(own.clone());
        if format.check().is_ok() {
            let line = line_of(&format, &values);
            // What is not printable is the operator's own.
            let strange = |text: &str| text.chars().filter(|char| !(' '..='~').contains(char)).count();
            assert!(strange(&line) <= strange(&own) + 1, "{own:?} {line:?}");
        }
    }
}

/// The one JSON object of a line, which is all printable.
fn json(line: &str) -> Map<String, Value> {
    let text = line.strip_suffix('\n').unwrap_or_default();
    assert!(!text.contains(|char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')), "{line:?}");
    let parsed = serde_json::from_str(text);
    assert!(parsed.is_ok(), "{line:?}: {parsed:?}");
    parsed.unwrap_or_default()
}

/// The value at a place; empty if there are not so many.
fn value<'a>(values: &[&'a [u8]], place: usize) -> &'a [u8] {
    values.get(place).copied().unwrap_or_default()
}

/// The line of a request with these values.
fn line_of(format: &LogFormat, values: &[&[u8]]) -> String {
    let Ok(layout) = Layout::of(format, "gateway-1") else { return String::new() };
    let bytes = |place: usize| value(values, place);
    let word = |place: usize| str::from_utf8(value(values, place)).unwrap_or("\u{fffd}");
    let number = |place: usize| bytes(place).iter().fold(0_u64, |sum, byte| sum.wrapping_mul(256) + u64::from(*byte));
    let mut headers = Captured::default();
    let wanted = layout.wanted();
    for (slot, name) in
        wanted.request.iter().chain(&wanted.response).chain(&wanted.trailers).chain(&wanted.filter_state)
    {
        let value = match &**name {
            "user-agent" => bytes(4),
            "x-forwarded-for" => bytes(5),
            name => bytes(6 + name.len() % 4),
        };
        headers.set(*slot, (!value.is_empty()).then_some(value));
    }
    let tls = TlsEntry { version: word(7), peer_subject: word(8), peer_dns: word(9), ..TlsEntry::default() };
    let entry = Entry {
        start: UNIX_EPOCH + Duration::from_millis(number(10) % (1 << 50)),
        duration: Duration::from_micros(number(11)),
        method: word(0),
        path: bytes(1),
        protocol: "HTTP/1.1",
        code: number(12) as u16,
        flags: ResponseFlags::NONE,
        code_details: word(2),
        connection_termination_details: word(3),
        upstream_transport_failure_reason: word(13),
        request_head_bytes: number(14),
        response_head_bytes: 0,
        bytes_received: number(14),
        bytes_sent: number(15),
        upstream_service_time: (!bytes(16).is_empty()).then(|| number(16)),
        upstream_attempts: 1,
        headers: &headers,
        grpc_status: (!bytes(17).is_empty()).then(|| number(17) as u16),
        authority: (!bytes(18).is_empty()).then(|| bytes(18)),
        upstream_host: bytes(19).first().map(|port| ([127, 0, 0, 1], u16::from(*port)).into()),
        upstream_cluster: word(20),
        upstream_local_address: None,
        downstream_local_address: None,
        downstream_remote_address: bytes(19).first().map(|last| ([0, 0, 0, 0, 0, 0, 0, u16::from(*last)], 1).into()),
        connection_id: number(15),
        requested_server_name: Some(bytes(21)),
        tls: (!bytes(7).is_empty()).then_some(tls),
        route_name: word(22),
    };
    let mut out = Vec::new();
    layout.write(&entry, &mut Memory::default(), &mut out);
    // What stood in the line before makes no difference.
    let others = Captured::default();
    let other = Entry { method: word(1), path: bytes(0), code: 200, headers: &others, upstream_host: None, ..entry };
    let mut memory = Memory::default();
    for (entry, again) in [(entry, true), (other, false), (entry, true), (entry, true)] {
        let mut line = Vec::new();
        layout.write(&entry, &mut memory, &mut line);
        assert!(!again || line == out, "{:?} {:?}", String::from_utf8_lossy(&line), String::from_utf8_lossy(&out));
    }
    let line = String::from_utf8(out);
    assert!(line.as_ref().is_ok_and(|line| line.ends_with('\n')), "{line:?}");
    line.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(prop::sample::select(b"\" \\\n\r\t\x1b[]{}:,\xc3\xa9".to_vec()), 0..40),
        ]
    }

    fn own() -> impl Strategy<Value = String> {
        prop_oneof![
            "(%(REQ\\(X-A\\)|START_TIME\\(%Y\n%3f\\)|PROTOCOL|RESPONSE_CODE|REQ\\(X-A\\?Y\\):3|GRPC_STATUS|FILTER_STATE\\(wasm.a(:PLAIN)?\\)(:9)?)%|[a \"\n%]){0,5}",
            Just(
                r#"{"a": "%REQ(X-A)%", "b\n": {"c": ["%DURATION% \"%PATH%\"", 1]}, "d": "%START_TIME(%Y")%"}"#
                    .to_owned()
            ),
        ]
    }

    proptest! {
        #[test]
        fn a_request_is_a_line_whatever_is_wanted(own in own(), values in prop::collection::vec(hostile(), 0..24)) {
            let values = values.iter().map(|value| value.iter().filter(|byte| **byte != BETWEEN).copied().collect());
            let all: Vec<Vec<u8>> = [own.into_bytes()].into_iter().chain(values).collect();
            check(&all.join(&BETWEEN));
        }
    }
}
