//! Envoy's command operators: `%NAME(ARGUMENT):LENGTH%` in a user's format becomes a [`Field`].
//!
//! Names and meanings are those of Envoy's access log. What exists there and never has a value here is `-`, as in Envoy
//! where there is nothing to show; a name that does not exist is an error that the operator of the gateway sees.

use super::{
    FormatErrors, WantedHeaders,
    field::{AddressPart, Endpoint, Field, TlsPart},
    timestamp::TimeFormat,
};

/// Bytes of a format, and values in it.
const MAX_BYTES: usize = 64 * 1024;
const MAX_VALUES: usize = 256;
/// Longest name of a header.
const MAX_NAME: usize = 256;

/// A piece of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// As it is.
    Literal(String),
    /// A value.
    Value(Field),
}

/// Reads formats, and remembers which headers they want and what was wrong.
pub(super) struct Operators<'a> {
    hostname: &'a str,
    headers: Vec<(From, String)>,
    values: usize,
    errors: Vec<String>,
}

/// Where a header stands, or another value that is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Request,
    Response,
    Trailers,
    FilterState,
}

impl<'a> Operators<'a> {
    pub(super) fn new(hostname: &'a str) -> Self {
        Self { hostname, headers: Vec::new(), values: 0, errors: Vec::new() }
    }

    /// Something about the format is wrong.
    pub(super) fn refuse(&mut self, what: String) {
        self.errors.push(what);
    }

    /// The headers that all formats read so far want; or everything that is wrong with them.
    pub(super) fn finish(self) -> Result<WantedHeaders, FormatErrors> {
        if !self.errors.is_empty() {
            return Err(FormatErrors(self.errors));
        }
        let mut wanted = WantedHeaders::default();
        for (slot, (from, name)) in self.headers.into_iter().enumerate() {
            let list = match from {
                From::Request => &mut wanted.request,
                From::Response => &mut wanted.response,
                From::Trailers => &mut wanted.trailers,
                From::FilterState => &mut wanted.filter_state,
            };
            list.push((slot, name.into_boxed_str()));
        }
        Ok(wanted)
    }

    /// Reads a format.
    pub(super) fn pieces(&mut self, format: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if format.len() > MAX_BYTES {
            self.refuse(format!("longer than {MAX_BYTES} bytes"));
            return pieces;
        }
        let mut literal = String::new();
        let mut rest = format;
        while let Some((before, operator)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(behind) = operator.strip_prefix('%') {
                literal.push('%');
                rest = behind;
                continue;
            }
            let Some((operator, behind)) = split_operator(operator) else {
                self.refuse(format!("%{} has no end; a percent sign is written %%", shown(operator)));
                return pieces;
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            self.values += 1;
            match self.field(operator) {
                Ok(_) if self.values > MAX_VALUES => {
                    self.refuse(format!("more than {MAX_VALUES} operators"));
                    return pieces;
                }
                Ok(field) => pieces.push(Piece::Value(field)),
                Err(what) => self.refuse(format!("%{}%: {what}", shown(operator))),
            }
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        pieces
    }

    /// What stands between percent signs.
    fn field(&mut self, operator: &str) -> Result<Field, String> {
        let (call, length) = match operator.rsplit_once(':') {
            Some((call, digits)) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (call, Some(digits.parse().map_err(|_| "the length is too large")?))
            }
            _ => (operator, None),
        };
        let (name, argument) = match call.split_once('(') {
            Some((name, argument)) => (name, Some(argument.strip_suffix(')').ok_or("the ) is missing")?)),
            None => (call, None),
        };
        let field = match (name, argument) {
            ("START_TIME", None | Some("")) => Field::StartTime,
            ("START_TIME", Some(format)) => Field::StartTimeAs(
                TimeFormat::parse(format).map_err(|what| format!("{what} is not supported in a time format"))?,
            ),
            ("REQ", Some(names)) => self.header(From::Request, names)?,
            ("RESP", Some(names)) => self.header(From::Response, names)?,
            ("TRAILER", Some(names)) => self.header(From::Trailers, names)?,
            ("REQ" | "RESP" | "TRAILER", None) => return Err("the name of a header is missing: REQ(X-NAME)".to_owned()),
            ("FILTER_STATE", Some(state)) => self.filter_state(state)?,
            ("FILTER_STATE", None) => return Err("the name of a state is missing: FILTER_STATE(wasm.NAME)".to_owned()),
            ("ENVIRONMENT", Some(variable)) => {
                Field::Constant(std::env::var(variable).unwrap_or_default().into_boxed_str())
            }
            ("ENVIRONMENT", None) => return Err("the name of a variable is missing: ENVIRONMENT(NAME)".to_owned()),
            ("HOSTNAME", None) => Field::Constant(self.hostname.into()),
            ("GRPC_STATUS", Some("NUMBER")) => Field::GrpcStatusNumber,
            ("GRPC_STATUS", None | Some("" | "CAMEL_STRING")) => Field::GrpcStatus,
            _ => plain(name).ok_or("there is no such operator in Envoy's access log")?,
        };
        Ok(match length {
            Some(length) => Field::Cut(Box::new(field), length),
            None => field,
        })
    }

    /// `NAME` or `NAME?OTHER`.
    fn header(&mut self, from: From, names: &str) -> Result<Field, String> {
        match names.split_once('?') {
            None => self.one_header(from, names),
            Some((first, second)) => {
                Ok(Field::Either(Box::new([self.one_header(from, first)?, self.one_header(from, second)?])))
            }
        }
    }

    fn one_header(&mut self, from: From, name: &str) -> Result<Field, String> {
        let name = name.to_ascii_lowercase();
        match (from, name.as_str()) {
            (From::Request, ":method") => return Ok(Field::Method),
            (From::Request, ":path") => return Ok(Field::Path),
            (From::Request, ":authority" | "host") => return Ok(Field::Authority),
            (From::Response, ":status") => return Ok(Field::ResponseCode),
            (From::Response, "x-envoy-upstream-service-time") => return Ok(Field::UpstreamServiceTime),
            _ => {}
        }
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_token) {
            return Err(format!("{:?} is not the name of a header", shown(&name)));
        }
        Ok(Field::Captured(self.slot(from, name)))
    }

    /// `KEY`, `KEY:TYPED`, `KEY:PLAIN` or `KEY:FIELD:NAME`. All state there is are properties that plugins have set, which
    /// have no fields.
    fn filter_state(&mut self, state: &str) -> Result<Field, String> {
        let mut parts = state.split(':');
        let (key, form, field, rest) = (parts.next().unwrap_or_default(), parts.next(), parts.next(), parts.next());
        let typed = match (form, field, rest) {
            (None | Some("TYPED"), None, None) => true,
            (Some("PLAIN"), None, None) => false,
            (Some("FIELD"), Some(_), None) => return Ok(Field::Nothing),
            _ => return Err("behind the name of a state there is TYPED, PLAIN or FIELD:NAME".to_owned()),
        };
        if key.is_empty() || key.len() > MAX_NAME {
            return Err(format!("{:?} is not the name of a state", shown(key)));
        }
        Ok(match key.strip_prefix("wasm.") {
            Some(name) => Field::State { slot: self.slot(From::FilterState, name.to_owned()), typed },
            None => Field::Nothing,
        })
    }

    fn slot(&mut self, from: From, name: String) -> usize {
        let known = self.headers.iter().position(|(f, n)| *f == from && *n == name);
        known.unwrap_or_else(|| {
            self.headers.push((from, name));
            self.headers.len() - 1
        })
    }
}

/// Splits what follows a percent sign at the one that ends the operator. An argument may hold percent signs.
fn split_operator(text: &str) -> Option<(&str, &str)> {
    let end = text.find(['%', '('])?;
    if text[end..].starts_with('%') {
        return Some((&text[..end], &text[end + 1..]));
    }
    text.match_indices(')').find_map(|(close, _)| {
        let behind = &text[close + 1..];
        let digits = behind.strip_prefix(':').map_or(0, |rest| {
            1 + rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len()
        });
        let end = close + 1 + digits;
        text[end..].strip_prefix('%').map(|rest| (&text[..end], rest))
    })
}

/// Operators without an argument, or with one that says something about what is never there.
fn plain(name: &str) -> Option<Field> {
    let address = |endpoint, part| Field::Address(endpoint, part);
    Some(match name {
        "PROTOCOL" => Field::Protocol,
        "RESPONSE_CODE" => Field::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Field::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Field::ConnectionTerminationDetails,
        "RESPONSE_FLAGS" => Field::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Field::ResponseFlagsLong,
        "BYTES_RECEIVED" => Field::BytesReceived,
        "BYTES_SENT" => Field::BytesSent,
        "REQUEST_HEADERS_BYTES" | "DOWNSTREAM_HEADER_BYTES_RECEIVED" => Field::RequestHeadBytes,
        "RESPONSE_HEADERS_BYTES" | "DOWNSTREAM_HEADER_BYTES_SENT" => Field::ResponseHeadBytes,
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Field::WireBytesReceived,
        "DOWNSTREAM_WIRE_BYTES_SENT" => Field::WireBytesSent,
        "DURATION" => Field::Duration,
        "RESPONSE_DURATION" => Field::ResponseDuration,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Field::UpstreamTransportFailureReason,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Field::UpstreamCluster,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Field::UpstreamAttempts,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => address(Endpoint::UpstreamRemote, AddressPart::Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => address(Endpoint::UpstreamRemote, AddressPart::Ip),
        "UPSTREAM_REMOTE_PORT" => address(Endpoint::UpstreamRemote, AddressPart::Port),
        "UPSTREAM_LOCAL_ADDRESS" => address(Endpoint::UpstreamLocal, AddressPart::Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => address(Endpoint::UpstreamLocal, AddressPart::Ip),
        "UPSTREAM_LOCAL_PORT" => address(Endpoint::UpstreamLocal, AddressPart::Port),
        "DOWNSTREAM_LOCAL_ADDRESS" => address(Endpoint::DownstreamLocal, AddressPart::Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => address(Endpoint::DownstreamLocal, AddressPart::Ip),
        "DOWNSTREAM_LOCAL_PORT" => address(Endpoint::DownstreamLocal, AddressPart::Port),
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => {
            address(Endpoint::DownstreamRemote, AddressPart::Whole)
        }
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            address(Endpoint::DownstreamRemote, AddressPart::Ip)
        }
        "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => {
            address(Endpoint::DownstreamRemote, AddressPart::Port)
        }
        "REQUESTED_SERVER_NAME" => Field::RequestedServerName,
        "DOWNSTREAM_TLS_VERSION" => Field::Tls(TlsPart::Version),
        "DOWNSTREAM_PEER_SUBJECT" => Field::Tls(TlsPart::PeerSubject),
        "DOWNSTREAM_PEER_URI_SAN" => Field::Tls(TlsPart::PeerUri),
        "DOWNSTREAM_PEER_DNS_SAN" => Field::Tls(TlsPart::PeerDns),
        "DOWNSTREAM_PEER_FINGERPRINT_256" => Field::Tls(TlsPart::PeerSha256),
        "DOWNSTREAM_LOCAL_SUBJECT" => Field::Tls(TlsPart::LocalSubject),
        "DOWNSTREAM_LOCAL_URI_SAN" => Field::Tls(TlsPart::LocalUri),
        "DOWNSTREAM_LOCAL_DNS_SAN" => Field::Tls(TlsPart::LocalDns),
        "ROUTE_NAME" => Field::RouteName,
        "CONNECTION_ID" => Field::ConnectionId,
        "GRPC_STATUS_NUMBER" => Field::GrpcStatusNumber,
        _ if NEVER.contains(&name) => Field::Nothing,
        _ => return None,
    })
}

/// What Envoy's access log knows and this gateway does not have.
const NEVER: &[&str] = &[
    "ACCESS_LOG_TYPE",
    "BYTES_RETRANSMITTED",
    "CEL",
    "CLUSTER_METADATA",
    "COMMON_DURATION",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DYNAMIC_METADATA",
    "EMIT_TIME",
    "FILTER_CHAIN_NAME",
    "LOCAL_REPLY_BODY",
    "METADATA",
    "PACKETS_RETRANSMITTED",
    "REQUEST_DURATION",
    "REQUEST_TX_DURATION",
    "RESPONSE_TRAILERS_BYTES",
    "RESPONSE_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "START_TIME_LOCAL",
    "STREAM_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "UNIQUE_ID",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_SUBJECT",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_METADATA",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_CLUSTER_NAME",
];

/// RFC 9110 5.6.2, lower-case.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The beginning of what a user wrote, for a message.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn read(format: &str) -> Result<(Vec<Piece>, WantedHeaders), FormatErrors> {
        let mut operators = Operators::new("gateway-1");
        let pieces = operators.pieces(format);
        operators.finish().map(|wanted| (pieces, wanted))
    }

    fn one(format: &str) -> Field {
        match <[Piece; 1]>::try_from(read(format).unwrap().0).unwrap() {
            [Piece::Value(field)] => field,
            [Piece::Literal(text)] => Field::Constant(text.into()),
        }
    }

    #[test]
    fn operators_become_fields() {
        assert_eq!(one("%PROTOCOL%"), Field::Protocol);
        assert_eq!(one("%HOSTNAME%"), Field::Constant("gateway-1".into()));
        assert_eq!(one("%REQ(:Method)%"), Field::Method);
        assert_eq!(one("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):20%"), {
            Field::Cut(Box::new(Field::Either(Box::new([Field::Captured(0), Field::Path]))), 20)
        });
        assert_eq!(one("%DYNAMIC_METADATA(a:b:c):3%"), Field::Cut(Box::new(Field::Nothing), 3));
        assert_eq!(one("%GRPC_STATUS(NUMBER)%"), Field::GrpcStatusNumber);
        assert_eq!(
            one("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
            Field::Address(Endpoint::DownstreamRemote, AddressPart::Ip)
        );
        assert_eq!(one("%START_TIME%"), Field::StartTime);
        assert!(matches!(one("%START_TIME(%Y/%m %s)%"), Field::StartTimeAs(_)));
        assert_eq!(one("100%%"), Field::Constant("100%".into()));
    }

    #[test]
    fn filter_state_is_what_plugins_set() {
        let (pieces, wanted) =
            read("%FILTER_STATE(wasm.A)%%FILTER_STATE(wasm.A:PLAIN):3%%FILTER_STATE(wasm.b.c:TYPED)%").unwrap();
        assert_eq!(wanted.filter_state, [(0, "A".into()), (1, "b.c".into())]);
        let state = |slot, typed| Field::State { slot, typed };
        let expected = [state(0, true), Field::Cut(Box::new(state(0, false)), 3), state(1, true)];
        assert_eq!(pieces, expected.map(Piece::Value));
        assert_eq!(one("%FILTER_STATE(envoy.string:PLAIN)%"), Field::Nothing, "nobody else sets any");
        assert_eq!(one("%FILTER_STATE(wasm.a:FIELD:b)%"), Field::Nothing);
        for wrong in ["FILTER_STATE", "FILTER_STATE()", "FILTER_STATE(wasm.a:JSON)", "FILTER_STATE(wasm.a:PLAIN:b)"] {
            assert_eq!(read(&format!("%{wrong}%")).unwrap_err().0.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn headers_are_wanted_once() {
        let (pieces, wanted) =
            read("%REQ(X-A)% %RESP(x-a)% %TRAILER(grpc-message)% %REQ(x-a?x-b)% %RESP(:STATUS)%").unwrap();
        assert_eq!(wanted.request, [(0, "x-a".into()), (3, "x-b".into())]);
        assert_eq!(wanted.response, [(1, "x-a".into())]);
        assert_eq!(wanted.trailers, [(2, "grpc-message".into())]);
        assert_eq!(pieces.len(), 9);
    }

    #[test]
    fn everything_that_is_wrong_is_said() {
        let errors = read("%FOO% %REQ% %REQ(a b)% %START_TIME(%Q)% %req(a)% %PROTOCOL").unwrap_err().0;
        assert_eq!(errors.len(), 6, "{errors:#?}");
        assert!(errors[0].starts_with("%FOO%: there is no such operator"), "{errors:#?}");
        assert!(errors[5].contains("has no end"), "{errors:#?}");
        assert!(read(&"%PROTOCOL%".repeat(MAX_VALUES + 1)).is_err());
        assert!(read(&"a".repeat(MAX_BYTES + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(format in "[%():?A-Z_a-z0-9 é]{0,60}") {
            if let Ok((pieces, _)) = read(&format) {
                prop_assert!(!pieces.is_empty());
            }
        }
    }
}
