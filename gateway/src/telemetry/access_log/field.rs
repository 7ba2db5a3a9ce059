//! What can be logged of a request: a [`Field`] knows where its value is in an [`Entry`], a [`Value`] how it is written.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use super::{
    Entry, TlsEntry, escape,
    timestamp::{Clock, TimeFormat},
};
use crate::telemetry::ResponseFlags;

/// A value of a line; most are one of Envoy's command operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    /// What is the same for every request (`%HOSTNAME%`, `%ENVIRONMENT(X)%`).
    Constant(Box<str>),
    /// What this gateway never has (`%DYNAMIC_METADATA(…)%`).
    Nothing,
    StartTime,
    StartTimeAs(TimeFormat),
    Method,
    /// As the client sent it.
    Path,
    Authority,
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseFlagsLong,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    RequestHeadBytes,
    ResponseHeadBytes,
    WireBytesReceived,
    WireBytesSent,
    Duration,
    /// Until the upstream's response began.
    ResponseDuration,
    /// The same, as the header that carries it.
    UpstreamServiceTime,
    UpstreamCluster,
    UpstreamAttempts,
    Address(Endpoint, AddressPart),
    RequestedServerName,
    Tls(TlsPart),
    RouteName,
    ConnectionId,
    /// By name (`NotFound`) or number.
    GrpcStatus,
    GrpcStatusNumber,
    /// A header or trailer, by its slot in [`super::Captured`].
    Captured(usize),
    /// What a plugin has set, by its slot; as Envoy's type for it, or as it is.
    State {
        slot: usize,
        typed: bool,
    },
    /// The second if the first is missing.
    Either(Box<[Field; 2]>),
    /// At most so many bytes.
    Cut(Box<Field>, usize),
}

/// What is shown of the client's TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsPart {
    Version,
    PeerSubject,
    PeerUri,
    PeerDns,
    PeerSha256,
    LocalSubject,
    LocalUri,
    LocalDns,
}

/// One of the ends of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// The client.
    DownstreamRemote,
    /// Where the client connected to.
    DownstreamLocal,
    /// The endpoint of the service.
    UpstreamRemote,
    /// Our side of that.
    UpstreamLocal,
}

/// What is shown of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressPart {
    Whole,
    Ip,
    Port,
}

/// The value of a field.
pub(super) enum Value<'a> {
    Missing,
    /// One word; a space in it is escaped, because in text lines spaces separate columns.
    Word(&'a [u8]),
    /// Words; stands between quotes in text lines.
    Words(&'a [u8]),
    /// Bytes as Envoy's type for them: an object in JSON, its text elsewhere, of which so much is shown.
    Typed(&'a [u8], usize),
    Number(u64),
    /// A number that comes from a header, hence a string in JSON.
    Digits(u64),
    Address(SocketAddr),
    Ip(IpAddr),
    Time(SystemTime),
    TimeAs(SystemTime, &'a TimeFormat),
    Flags(ResponseFlags),
    FlagNames(ResponseFlags),
}

impl Field {
    /// Inlined, because it is asked for every field of every line.
    #[inline(always)]
    pub(super) fn of<'a>(&'a self, entry: &Entry<'a>) -> Value<'a> {
        match self {
            Self::Constant(text) => Value::words(Some(text.as_bytes())),
            Self::Nothing => Value::Missing,
            Self::StartTime => Value::Time(entry.start),
            Self::StartTimeAs(format) => Value::TimeAs(entry.start, format),
            Self::Method => Value::word(entry.method.as_bytes()),
            Self::Path => Value::word(entry.path),
            Self::Authority => Value::words(entry.authority),
            Self::Protocol => Value::word(entry.protocol.as_bytes()),
            Self::ResponseCode => Value::Number(entry.code.into()),
            Self::ResponseFlags => Value::Flags(entry.flags),
            Self::ResponseFlagsLong => Value::FlagNames(entry.flags),
            Self::ResponseCodeDetails => Value::word(entry.code_details.as_bytes()),
            Self::ConnectionTerminationDetails => Value::word(entry.connection_termination_details.as_bytes()),
            Self::UpstreamTransportFailureReason => {
                Value::words(Some(entry.upstream_transport_failure_reason.as_bytes()))
            }
            Self::BytesReceived => Value::Number(entry.bytes_received),
            Self::BytesSent => Value::Number(entry.bytes_sent),
            Self::RequestHeadBytes => Value::Number(entry.request_head_bytes),
            Self::ResponseHeadBytes => Value::Number(entry.response_head_bytes),
            Self::WireBytesReceived => Value::Number(entry.request_head_bytes + entry.bytes_received),
            Self::WireBytesSent => Value::Number(entry.response_head_bytes + entry.bytes_sent),
            Self::Duration => Value::Number(millis(entry.duration)),
            Self::ResponseDuration => entry.upstream_service_time.map_or(Value::Missing, Value::Number),
            Self::UpstreamServiceTime => entry.upstream_service_time.map_or(Value::Missing, Value::Digits),
            Self::UpstreamCluster => Value::word(entry.upstream_cluster.as_bytes()),
            Self::UpstreamAttempts => Value::Number(entry.upstream_attempts.into()),
            Self::Address(endpoint, part) => endpoint.of(entry).map_or(Value::Missing, |address| part.of(address)),
            Self::RequestedServerName => entry.requested_server_name.map_or(Value::Missing, Value::word),
            Self::Tls(part) => entry.tls.map_or(Value::Missing, |tls| Value::words(Some(part.of(tls).as_bytes()))),
            Self::RouteName => Value::word(entry.route_name.as_bytes()),
            Self::ConnectionId => Value::Number(entry.connection_id),
            Self::GrpcStatus => entry.grpc_status.map_or(Value::Missing, |status| match grpc_name(status) {
                Some(name) => Value::Word(name.as_bytes()),
                None => Value::Number(status.into()),
            }),
            Self::GrpcStatusNumber => entry.grpc_status.map_or(Value::Missing, |status| Value::Number(status.into())),
            Self::Captured(slot) => Value::words(entry.headers.get(*slot)),
            Self::State { .. } | Self::Either(_) | Self::Cut(..) => self.of_others(entry),
        }
    }

    /// The value of a field that is made of others, or is seldom asked for.
    fn of_others<'a>(&'a self, entry: &Entry<'a>) -> Value<'a> {
        match self {
            // An empty one is there.
            Self::State { slot, typed } => match entry.headers.get(*slot) {
                Some(bytes) if *typed => Value::Typed(bytes, usize::MAX),
                Some(bytes) => Value::Words(bytes),
                None => Value::Missing,
            },
            Self::Either(fields) => match fields[0].of(entry) {
                Value::Missing => fields[1].of(entry),
                value => value,
            },
            Self::Cut(field, length) => match field.of(entry) {
                Value::Word(text) => Value::Word(text.get(..*length).unwrap_or(text)),
                Value::Words(text) => Value::Words(text.get(..*length).unwrap_or(text)),
                Value::Typed(bytes, _) => Value::Typed(bytes, *length),
                value => value,
            },
            _ => Value::Missing,
        }
    }
}

impl TlsPart {
    fn of(self, tls: TlsEntry<'_>) -> &str {
        match self {
            Self::Version => tls.version,
            Self::PeerSubject => tls.peer_subject,
            Self::PeerUri => tls.peer_uri,
            Self::PeerDns => tls.peer_dns,
            Self::PeerSha256 => tls.peer_sha256,
            Self::LocalSubject => tls.local_subject,
            Self::LocalUri => tls.local_uri,
            Self::LocalDns => tls.local_dns,
        }
    }
}

impl Endpoint {
    fn of(self, entry: &Entry<'_>) -> Option<SocketAddr> {
        match self {
            Self::DownstreamRemote => entry.downstream_remote_address,
            Self::DownstreamLocal => entry.downstream_local_address,
            Self::UpstreamRemote => entry.upstream_host,
            Self::UpstreamLocal => entry.upstream_local_address,
        }
    }
}

impl AddressPart {
    fn of<'a>(self, address: SocketAddr) -> Value<'a> {
        match self {
            Self::Whole => Value::Address(address),
            Self::Ip => Value::Ip(address.ip()),
            Self::Port => Value::Number(address.port().into()),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Names of gRPC's statuses as Envoy's `%GRPC_STATUS%` shows them.
fn grpc_name(status: u16) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(usize::from(status)).copied()
}

impl<'a> Value<'a> {
    fn word(text: &'a [u8]) -> Self {
        if text.is_empty() { Self::Missing } else { Self::Word(text) }
    }

    fn words(text: Option<&'a [u8]>) -> Self {
        text.filter(|text| !text.is_empty()).map_or(Self::Missing, Self::Words)
    }

    /// Appends it to a text line; what is missing is `-`.
    #[inline(always)]
    pub(super) fn write_text(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::Missing => out.push(b'-'),
            Self::Word(word) => escape::text(word, false, out),
            Self::Words(words) => escape::text(words, true, out),
            Self::Typed(bytes, length) => {
                let begin = out.len();
                escape::typed(bytes, out);
                out.truncate(begin.saturating_add(*length));
            }
            Self::Number(number) | Self::Digits(number) => push_number(*number, out),
            Self::Address(address) => push_address(address, out),
            Self::Ip(ip) => push_ip(ip, out),
            Self::Time(time) => clock.write(*time, out),
            Self::TimeAs(time, format) => format.write(*time, out),
            Self::Flags(flags) if flags.is_empty() => out.push(b'-'),
            Self::Flags(flags) => push_list(flags.codes(), out),
            Self::FlagNames(flags) => push_list(flags.names(), out),
        }
    }

    /// Appends it as a JSON value; what is missing is `null`.
    #[inline(always)]
    pub(super) fn write_json(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::Missing => out.extend_from_slice(b"null"),
            Self::Number(number) => push_number(*number, out),
            Self::Typed(bytes, _) => escape::typed(bytes, out),
            _ => {
                out.push(b'"');
                self.write_json_part(clock, out);
                out.push(b'"');
            }
        }
    }

    /// Appends it to a JSON string.
    #[inline(always)]
    pub(super) fn write_json_part(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::Word(text) | Self::Words(text) => escape::json_part(text, out),
            Self::Typed(..) => {
                let mut text = Vec::new();
                self.write_text(clock, &mut text);
                text.iter().for_each(|byte| match byte {
                    b'"' => out.extend_from_slice(b"\\\""),
                    byte => out.push(*byte),
                });
            }
            // Users wrote what is around the numbers.
            Self::TimeAs(time, format) => {
                let mut text = Vec::new();
                format.write(*time, &mut text);
                escape::json_part(&text, out);
            }
            // None of the others can hold anything that would have to be escaped.
            _ => self.write_text(clock, out),
        }
    }
}

/// What of a value can be compared with the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing of it.
    Nothing,
    Missing,
    /// What stands there is the value itself.
    Word,
    Words,
    Number(u64),
    Digits(u64),
    Address(SocketAddr),
    Flags(ResponseFlags),
}

/// Longer text is not compared.
const COMPARED: usize = 256;

impl Shown {
    /// Of a value that was written as so many bytes, without quotes.
    #[inline(always)]
    pub(super) fn of(value: &Value<'_>, written: usize) -> Self {
        // What is escaped is longer than it was, and so short a text is not cut.
        let is_itself = |text: &[u8]| text.len() <= COMPARED && written == text.len();
        match value {
            Value::Missing => Self::Missing,
            Value::Word(text) if is_itself(text) => Self::Word,
            Value::Words(text) if is_itself(text) => Self::Words,
            Value::Number(number) => Self::Number(*number),
            Value::Digits(number) => Self::Digits(*number),
            Value::Address(address) => Self::Address(*address),
            Value::Flags(flags) => Self::Flags(*flags),
            _ => Self::Nothing,
        }
    }

    /// Whether it is this value; `written` is what stands there, without quotes.
    #[inline(always)]
    pub(super) fn is<'w>(&self, value: &Value<'_>, written: impl FnOnce() -> Option<&'w [u8]>) -> bool {
        match (self, value) {
            (Self::Missing, Value::Missing) => true,
            (Self::Word, Value::Word(text)) | (Self::Words, Value::Words(text)) => written() == Some(text),
            (Self::Number(number), Value::Number(other)) | (Self::Digits(number), Value::Digits(other)) => {
                number == other
            }
            (Self::Address(address), Value::Address(other)) => address == other,
            (Self::Flags(flags), Value::Flags(other)) => flags == other,
            _ => false,
        }
    }
}

fn push_number(number: u64, out: &mut Vec<u8>) {
    match usize::try_from(number).ok().and_then(|number| OCTETS.get(number)) {
        Some(text) => text.push(out),
        None => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
    }
}

fn push_address(address: &SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(address) => {
            push_ipv4(*address.ip(), b':', out);
            push_number(address.port().into(), out);
        }
        // Writing to a vector does not fail.
        SocketAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

fn push_ip(ip: &IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            push_ipv4(*ip, b':', out);
            out.pop();
        }
        // Writing to a vector does not fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

/// Four of these per line: the standard formatter takes several times as long.
fn push_ipv4(ip: Ipv4Addr, then: u8, out: &mut Vec<u8>) {
    let mut text = [0; 16];
    let mut end = 0;
    for octet in ip.octets() {
        if let (Some(octet), Some(place)) = (OCTETS.get(usize::from(octet)), text.get_mut(end..end + 4)) {
            place.copy_from_slice(&octet.digits);
            end += usize::from(octet.len) + 1;
        }
    }
    if let Some(dot) = text.get_mut(end - 1) {
        *dot = then;
    }
    let end = out.len() + end;
    out.extend_from_slice(&text);
    out.truncate(end);
}

/// A number of at most three digits.
#[derive(Clone, Copy)]
struct Octet {
    /// From the left, then dots.
    digits: [u8; 4],
    len: u8,
}

impl Octet {
    const fn of(number: u8) -> Self {
        let [hundreds, tens, ones] = [b'0' + number / 100, b'0' + number / 10 % 10, b'0' + number % 10];
        match number {
            100.. => Self { digits: [hundreds, tens, ones, b'.'], len: 3 },
            10.. => Self { digits: [tens, ones, b'.', b'.'], len: 2 },
            _ => Self { digits: [ones, b'.', b'.', b'.'], len: 1 },
        }
    }

    fn push(self, out: &mut Vec<u8>) {
        let end = out.len() + usize::from(self.len);
        out.extend_from_slice(&self.digits);
        out.truncate(end);
    }
}

/// 0 to 255: what addresses consist of, and many other numbers of a line.
static OCTETS: [Octet; 256] = {
    let mut octets = [Octet::of(0); 256];
    let mut number = 0;
    while number < 256 {
        octets[number] = Octet::of(number as u8);
        number += 1;
    }
    octets
};

fn push_list(items: impl Iterator<Item = &'static str>, out: &mut Vec<u8>) {
    let begin = out.len();
    for item in items {
        if out.len() > begin {
            out.push(b',');
        }
        out.extend_from_slice(item.as_bytes());
    }
    if out.len() == begin {
        out.push(b'-');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_standard_formatter() {
        for octet in 0..=255 {
            let address = SocketAddr::from(([octet, 255 - octet, 0, octet / 3], 0x0101 * u16::from(octet)));
            let mut out = Vec::new();
            push_address(&address, &mut out);
            assert_eq!(out, address.to_string().as_bytes());
        }
    }
}
