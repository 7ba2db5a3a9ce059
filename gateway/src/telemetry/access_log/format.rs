//! Which fields a line has, in which shape.
//!
//! A [`Field`] knows where its value is in an [`Entry`]; a [`Layout`] is a list of fields with what is around
//! them. Istio's two defaults are such lists, written down as constants; a user's own format string would be
//! compiled to the same lists.

use std::{io::Write, net::SocketAddr, time::SystemTime};

use super::{Entry, LogFormat, escape, timestamp::Clock};
use crate::telemetry::ResponseFlags;

/// What a line looks like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layout {
    /// Pieces one after the other.
    Text(&'static [Piece]),
    /// An object with these members.
    Json(&'static [(&'static str, Field)]),
}

/// A piece of a text line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    /// As it is.
    Literal(&'static str),
    /// A value.
    Value(Field),
}

/// What can be logged; the names are Envoy's command operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    StartTime,
    Method,
    Path,
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    Duration,
    UpstreamServiceTime,
    XForwardedFor,
    UserAgent,
    RequestId,
    Authority,
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocalAddress,
    DownstreamLocalAddress,
    DownstreamRemoteAddress,
    RequestedServerName,
    RouteName,
}

/// The value of a field.
enum Value<'a> {
    Missing,
    /// One word; a space in it is escaped, because in text lines spaces separate columns.
    Word(&'a [u8]),
    /// Words; stands between quotes in text lines.
    Words(&'a [u8]),
    Number(u64),
    /// A number that comes from a header, hence a string in JSON.
    Digits(u64),
    Address(SocketAddr),
    Time(SystemTime),
    Flags(ResponseFlags),
}

use Field as F;
use Piece::{Literal as L, Value as V};

/// Istio's default (istio.md 5.2; pilot/pkg/model/telemetry_logging.go).
const ISTIO_TEXT: &[Piece] = &[
    L("["),
    V(F::StartTime),
    L("] \""),
    V(F::Method),
    L(" "),
    V(F::Path),
    L(" "),
    V(F::Protocol),
    L("\" "),
    V(F::ResponseCode),
    L(" "),
    V(F::ResponseFlags),
    L(" "),
    V(F::ResponseCodeDetails),
    L(" "),
    V(F::ConnectionTerminationDetails),
    L(" \""),
    V(F::UpstreamTransportFailureReason),
    L("\" "),
    V(F::BytesReceived),
    L(" "),
    V(F::BytesSent),
    L(" "),
    V(F::Duration),
    L(" "),
    V(F::UpstreamServiceTime),
    L(" \""),
    V(F::XForwardedFor),
    L("\" \""),
    V(F::UserAgent),
    L("\" \""),
    V(F::RequestId),
    L("\" \""),
    V(F::Authority),
    L("\" \""),
    V(F::UpstreamHost),
    L("\" "),
    V(F::UpstreamCluster),
    L(" "),
    V(F::UpstreamLocalAddress),
    L(" "),
    V(F::DownstreamLocalAddress),
    L(" "),
    V(F::DownstreamRemoteAddress),
    L(" "),
    V(F::RequestedServerName),
    L(" "),
    V(F::RouteName),
];

/// Istio's default keys, sorted.
const ISTIO_JSON: &[(&str, Field)] = &[
    ("authority", F::Authority),
    ("bytes_received", F::BytesReceived),
    ("bytes_sent", F::BytesSent),
    ("connection_termination_details", F::ConnectionTerminationDetails),
    ("downstream_local_address", F::DownstreamLocalAddress),
    ("downstream_remote_address", F::DownstreamRemoteAddress),
    ("duration", F::Duration),
    ("method", F::Method),
    ("path", F::Path),
    ("protocol", F::Protocol),
    ("request_id", F::RequestId),
    ("requested_server_name", F::RequestedServerName),
    ("response_code", F::ResponseCode),
    ("response_code_details", F::ResponseCodeDetails),
    ("response_flags", F::ResponseFlags),
    ("route_name", F::RouteName),
    ("start_time", F::StartTime),
    ("upstream_cluster", F::UpstreamCluster),
    ("upstream_host", F::UpstreamHost),
    ("upstream_local_address", F::UpstreamLocalAddress),
    ("upstream_service_time", F::UpstreamServiceTime),
    ("upstream_transport_failure_reason", F::UpstreamTransportFailureReason),
    ("user_agent", F::UserAgent),
    ("x_forwarded_for", F::XForwardedFor),
];

impl Layout {
    /// The layout of a format.
    pub(super) fn of(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text(ISTIO_TEXT),
            LogFormat::Json => Self::Json(ISTIO_JSON),
        }
    }

    /// Appends the line of `entry`, with its newline.
    pub(super) fn write(self, entry: &Entry<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::Text(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                        Piece::Value(field) => field.of(entry).write_text(clock, out),
                    }
                }
            }
            Self::Json(members) => {
                let mut before: &[u8] = b"{\"";
                for (key, field) in members {
                    out.extend_from_slice(before);
                    out.extend_from_slice(key.as_bytes());
                    out.extend_from_slice(b"\":");
                    field.of(entry).write_json(clock, out);
                    before = b",\"";
                }
                out.push(b'}');
            }
        }
        out.push(b'\n');
    }
}

impl Field {
    /// Inlined with what consumes the value, so that it need not be built in memory (15 % of a line).
    #[inline(always)]
    fn of<'a>(self, entry: &Entry<'a>) -> Value<'a> {
        match self {
            Self::StartTime => Value::Time(entry.start),
            Self::Method => Value::word(entry.method.as_bytes()),
            Self::Path => Value::word(entry.path),
            Self::Protocol => Value::word(entry.protocol.as_bytes()),
            Self::ResponseCode => Value::Number(entry.code.into()),
            Self::ResponseFlags => Value::Flags(entry.flags),
            Self::ResponseCodeDetails => Value::word(entry.code_details.as_bytes()),
            Self::ConnectionTerminationDetails => Value::word(entry.connection_termination_details.as_bytes()),
            Self::UpstreamTransportFailureReason => {
                Value::words(Some(entry.upstream_transport_failure_reason.as_bytes()))
            }
            Self::BytesReceived => Value::Number(entry.bytes_received),
            Self::BytesSent => Value::Number(entry.bytes_sent),
            Self::Duration => Value::Number(u64::try_from(entry.duration.as_millis()).unwrap_or(u64::MAX)),
            Self::UpstreamServiceTime => entry.upstream_service_time.map_or(Value::Missing, Value::Digits),
            Self::XForwardedFor => Value::words(entry.x_forwarded_for),
            Self::UserAgent => Value::words(entry.user_agent),
            Self::RequestId => Value::words(entry.request_id),
            Self::Authority => Value::words(entry.authority),
            Self::UpstreamHost => Value::address(entry.upstream_host),
            Self::UpstreamCluster => Value::word(entry.upstream_cluster.as_bytes()),
            Self::UpstreamLocalAddress => Value::address(entry.upstream_local_address),
            Self::DownstreamLocalAddress => Value::address(entry.downstream_local_address),
            Self::DownstreamRemoteAddress => Value::address(entry.downstream_remote_address),
            Self::RequestedServerName => entry.requested_server_name.map_or(Value::Missing, Value::word),
            Self::RouteName => Value::word(entry.route_name.as_bytes()),
        }
    }
}

impl<'a> Value<'a> {
    fn word(text: &'a [u8]) -> Self {
        if text.is_empty() { Self::Missing } else { Self::Word(text) }
    }

    fn words(text: Option<&'a [u8]>) -> Self {
        text.filter(|text| !text.is_empty()).map_or(Self::Missing, Self::Words)
    }

    fn address(address: Option<SocketAddr>) -> Self {
        address.map_or(Self::Missing, Self::Address)
    }

    #[inline(always)]
    fn write_text(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::Missing => out.push(b'-'),
            Self::Word(word) => escape::text(word, false, out),
            Self::Words(words) => escape::text(words, true, out),
            Self::Number(number) | Self::Digits(number) => push_number(*number, out),
            Self::Address(address) => push_address(address, out),
            Self::Time(time) => clock.write(*time, out),
            Self::Flags(flags) => push_flags(*flags, out),
        }
    }

    #[inline(always)]
    fn write_json(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::Missing => out.extend_from_slice(b"null"),
            Self::Word(text) | Self::Words(text) => escape::json(text, out),
            Self::Number(number) => push_number(*number, out),
            // Neither of these can hold anything that would have to be escaped.
            Self::Digits(_) | Self::Address(_) | Self::Time(_) | Self::Flags(_) => {
                out.push(b'"');
                self.write_text(clock, out);
                out.push(b'"');
            }
        }
    }
}

fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push_address(address: &SocketAddr, out: &mut Vec<u8>) {
    match address {
        // Four of these per line: the standard formatter takes several times as long.
        SocketAddr::V4(address) => {
            for (position, octet) in address.ip().octets().into_iter().enumerate() {
                if position > 0 {
                    out.push(b'.');
                }
                push_number(octet.into(), out);
            }
            out.push(b':');
            push_number(address.port().into(), out);
        }
        // Writing to a vector does not fail.
        SocketAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

fn push_flags(flags: ResponseFlags, out: &mut Vec<u8>) {
    if flags.is_empty() {
        out.push(b'-');
    }
    for (position, code) in flags.codes().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        out.extend_from_slice(code.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            start: UNIX_EPOCH + Duration::from_millis(1_795_346_080_066),
            duration: Duration::from_micros(1900),
            method: "GET",
            path: b"/foo/bar",
            protocol: "HTTP/1.1",
            code: 200,
            flags: ResponseFlags::NONE,
            code_details: "via_upstream",
            connection_termination_details: "",
            upstream_transport_failure_reason: "",
            bytes_received: 0,
            bytes_sent: 358,
            upstream_service_time: Some(1),
            x_forwarded_for: Some(b"192.0.2.2"),
            user_agent: Some(b"curl/7.88.1"),
            request_id: Some(b"af8f7f2a-31a8-4da7-a773-9f514df442a3"),
            authority: Some(b"main.com"),
            upstream_host: Some(([127, 0, 0, 1], 28811).into()),
            upstream_cluster: "a",
            upstream_local_address: Some(([127, 0, 0, 1], 51116).into()),
            downstream_local_address: Some(([127, 0, 0, 1], 28800).into()),
            downstream_remote_address: Some(([127, 0, 0, 1], 43708).into()),
            requested_server_name: None,
            route_name: "",
        }
    }

    fn line(format: LogFormat, entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        Layout::of(format).write(entry, &mut Clock::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The three lines that istio.md 5.2 recorded from a real gateway.
    #[test]
    fn text_is_istios_byte_for_byte() {
        assert_eq!(
            line(LogFormat::Text, &entry()),
            "[2026-11-22T11:14:40.066Z] \"GET /foo/bar HTTP/1.1\" 200 - via_upstream - \"-\" 0 358 1 1 \"192.0.2.2\" \
             \"curl/7.88.1\" \"af8f7f2a-31a8-4da7-a773-9f514df442a3\" \"main.com\" \"127.0.0.1:28811\" a \
             127.0.0.1:51116 127.0.0.1:28800 127.0.0.1:43708 - -\n"
        );
        let timeout = Entry {
            start: UNIX_EPOCH + Duration::from_millis(1_795_346_080_129),
            duration: Duration::from_millis(398),
            path: b"/slow",
            code: 504,
            flags: ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
            code_details: "response_timeout",
            bytes_sent: 24,
            upstream_service_time: None,
            request_id: Some(b"c135738b-ef45-48c0-b826-03241b09eb03"),
            downstream_remote_address: Some(([127, 0, 0, 1], 43724).into()),
            ..entry()
        };
        assert_eq!(
            line(LogFormat::Text, &timeout),
            "[2026-11-22T11:14:40.129Z] \"GET /slow HTTP/1.1\" 504 UT response_timeout - \"-\" 0 24 398 - \"192.0.2.2\" \
             \"curl/7.88.1\" \"c135738b-ef45-48c0-b826-03241b09eb03\" \"main.com\" \"127.0.0.1:28811\" a \
             127.0.0.1:51116 127.0.0.1:28800 127.0.0.1:43724 - -\n"
        );
        let not_found = Entry {
            start: UNIX_EPOCH + Duration::from_millis(1_795_346_081_579),
            duration: Duration::ZERO,
            path: b"/x",
            code: 404,
            flags: ResponseFlags::NO_ROUTE,
            code_details: "route_not_found",
            bytes_sent: 0,
            upstream_service_time: None,
            request_id: Some(b"01d939ab-ce3c-48f5-8c0a-f0025f4250e4"),
            upstream_host: None,
            upstream_cluster: "",
            upstream_local_address: None,
            downstream_remote_address: Some(([127, 0, 0, 1], 43886).into()),
            ..entry()
        };
        assert_eq!(
            line(LogFormat::Text, &not_found),
            "[2026-11-22T11:14:41.579Z] \"GET /x HTTP/1.1\" 404 NR route_not_found - \"-\" 0 0 0 - \"192.0.2.2\" \
             \"curl/7.88.1\" \"01d939ab-ce3c-48f5-8c0a-f0025f4250e4\" \"main.com\" \"-\" - - 127.0.0.1:28800 \
             127.0.0.1:43886 - -\n"
        );
    }

    #[test]
    fn json_has_istios_keys_and_types() {
        let text = line(LogFormat::Json, &entry());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "start_time": "2026-11-22T11:14:40.066Z", "route_name": null, "method": "GET", "path": "/foo/bar",
                "protocol": "HTTP/1.1", "response_code": 200, "response_flags": "-",
                "response_code_details": "via_upstream", "connection_termination_details": null,
                "bytes_received": 0, "bytes_sent": 358, "duration": 1, "upstream_service_time": "1",
                "x_forwarded_for": "192.0.2.2", "user_agent": "curl/7.88.1",
                "request_id": "af8f7f2a-31a8-4da7-a773-9f514df442a3", "authority": "main.com",
                "upstream_host": "127.0.0.1:28811", "upstream_cluster": "a",
                "upstream_local_address": "127.0.0.1:51116", "downstream_local_address": "127.0.0.1:28800",
                "downstream_remote_address": "127.0.0.1:43708", "requested_server_name": null,
                "upstream_transport_failure_reason": null,
            })
        );
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn addresses_and_flags_of_both_formats() {
        let entry = Entry {
            upstream_host: Some("[2001:db8::1]:443".parse().unwrap()),
            flags: ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED,
            ..entry()
        };
        let text = line(LogFormat::Text, &entry);
        assert!(text.contains(" \"[2001:db8::1]:443\" ") && text.contains(" 200 UF,URX via"), "{text}");
        assert!(line(LogFormat::Json, &entry).contains("\"response_flags\":\"UF,URX\""));
    }

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(prop::sample::select(b"\" \\\n\r\t\x1b[]{}:,".to_vec()), 0..40),
        ]
    }

    proptest! {
        #[test]
        fn a_request_is_one_line_whatever_it_says(
            bytes in prop::collection::vec(hostile(), 6),
            text in prop::collection::vec(any::<String>(), 5),
        ) {
            let entry = Entry {
                method: &text[0],
                path: &bytes[0],
                code_details: &text[1],
                connection_termination_details: &text[2],
                upstream_transport_failure_reason: &text[3],
                x_forwarded_for: Some(&bytes[1]),
                user_agent: Some(&bytes[2]),
                request_id: Some(&bytes[3]),
                authority: Some(&bytes[4]),
                requested_server_name: Some(&bytes[5]),
                route_name: &text[4],
                ..entry()
            };
            let line_of_text = line(LogFormat::Text, &entry);
            prop_assert_eq!(line_of_text.find('\n'), Some(line_of_text.len() - 1));
            prop_assert!(line_of_text.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            // Seven quoted columns, and as many columns outside of quotes as in an ordinary line.
            let outside = |line: &str| line.split('"').step_by(2).map(str::to_owned).collect::<Vec<_>>();
            let columns = outside(&line_of_text);
            prop_assert_eq!(columns.len(), 8);
            prop_assert_eq!(columns.join("").split_whitespace().count(), 15);

            let json = line(LogFormat::Json, &entry);
            prop_assert_eq!(json.find('\n'), Some(json.len() - 1));
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(value.as_object().unwrap().len(), 24);
            if let Ok(agent) = std::str::from_utf8(&bytes[2]) && !agent.is_empty() {
                prop_assert_eq!(value["user_agent"].as_str(), Some(agent));
            }
        }
    }
}
