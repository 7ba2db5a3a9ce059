//! Properties: paths of segments joined by NUL, such as `source\0address`.
//!
//! What Envoy serves and Istio adds (proxy-wasm attributes), in the old top-level form and the newer
//! `xds.` form. Texts and bytes are written as they are, numbers, times and durations as 8 bytes
//! little-endian, truth values as one byte, maps as pairs. What is unknown is `NOT_FOUND`; a whole
//! message such as `request` cannot be written and is `SERIALIZATION_FAILURE`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use http::header;
use smallvec::SmallVec;

use crate::Metadata;
use crate::abi::Status;
use crate::exchange::{Exchange, HeadState};
use crate::fields::Fields;
use crate::guest::{Call, HostResult, Out, Span, give, slice, view};
use crate::host::system::unix_nanoseconds;
use crate::pairs::{self, Pair};
use crate::properties::{Full, Node, Properties, TlsFacts};
use crate::shared::Quota;
use crate::state::State;

/// A value in the form the ABI writes it. Most are short.
pub(crate) type Value = SmallVec<[u8; 128]>;

/// What a path leads to.
pub(crate) enum Found {
    Value(Value),
    Absent,
    /// Something that has parts but cannot be written as a whole.
    Message,
}

/// Longest path that is looked at.
const MAX_PATH: usize = 4096;

pub(super) fn get(call: &mut Call<'_>, path: Span, out: Out) -> HostResult {
    let (memory, state) = view(call)?;
    let path = slice(memory, path)?;
    match look_up(state, path) {
        Found::Value(value) => give(call, out, &value),
        Found::Absent => Err(Status::NotFound.into()),
        Found::Message => Err(Status::SerializationFailure.into()),
    }
}

/// Stores a value that later callbacks, other plugins and the access log can read under the same path.
/// What the host knows itself cannot be overridden: it is found first. No stream: `NOT_FOUND`. No
/// room: `INTERNAL_FAILURE`.
pub(super) fn set(call: &mut Call<'_>, path: Span, value: Span) -> HostResult {
    let (memory, state) = view(call)?;
    let (path, value) = (slice(memory, path)?, slice(memory, value)?);
    let limit = state.limits().property_bytes;
    let exchange = state.exchange_mut().ok_or(Status::NotFound)?;
    exchange.properties.stored.set(path, value, limit).map_err(|Full| {
        state.refuse(Quota::Properties);
        Status::InternalFailure.into()
    })
}

/// What a path leads to, for the effective stream.
pub(crate) fn look_up(state: &State, path: &[u8]) -> Found {
    if path.len() > MAX_PATH {
        return Found::Absent;
    }
    if path.is_empty() {
        return Found::Message;
    }
    // The C++ SDK ends each segment with NUL, the last one, too.
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    let segments: SmallVec<[&[u8]; 6]> = path.split(|byte| *byte == 0).collect();
    let found = of_plugin(state, &segments);
    let Found::Absent = found else { return found };
    let Some(exchange) = state.exchange() else { return Found::Absent };
    match of_exchange(exchange, &segments) {
        Found::Absent => {}
        found => return found,
    }
    let stored = match segments[..] {
        [b"filter_state", key] => key.strip_prefix(b"wasm."),
        _ => Some(path),
    };
    optional(stored.and_then(|path| exchange.properties.stored(path)))
}

/// Properties that exist without a stream.
fn of_plugin(state: &State, path: &[&[u8]]) -> Found {
    let settings = &state.plugin.settings;
    match path {
        [b"plugin_name"] => text(&settings.name),
        [b"plugin_root_id"] => text(&settings.root_id),
        [b"plugin_vm_id"] => text(&settings.vm_id),
        _ => Found::Absent,
    }
}

fn of_exchange(exchange: &Exchange, path: &[&[u8]]) -> Found {
    let facts = &exchange.properties;
    match path {
        [b"request", rest @ ..] => request(exchange, rest),
        [b"response", rest @ ..] => response(exchange, rest),
        [b"source", rest @ ..] => address(facts.source, rest),
        [b"destination", rest @ ..] => address(facts.destination, rest),
        [b"upstream", rest @ ..] => upstream(facts, rest),
        [b"connection", rest @ ..] => connection(facts, rest),
        [b"connection_id"] => facts.connection_id.map_or(Found::Absent, number),
        // Metadata of filters and state of others: there is none, and messages without content have no bytes.
        [b"metadata"] => text(""),
        [b"metadata", b"filter_metadata"] => Found::Value(blob(std::iter::empty)),
        [b"filter_state" | b"upstream_filter_state"] => Found::Message,
        [b"xds", b"filter_chain_name"] => text(""),
        [b"xds", rest @ ..] => xds(facts, rest),
        [
            b"node"
            | b"cluster_name"
            | b"cluster_metadata"
            | b"route_name"
            | b"route_metadata"
            | b"listener_direction"
            | b"listener_metadata",
            ..,
        ] => xds(facts, path),
        _ => Found::Absent,
    }
}

fn request(exchange: &Exchange, path: &[&[u8]]) -> Found {
    let facts = &exchange.properties;
    let head = &exchange.request;
    let fields = Fields::Request(head);
    let present = exchange.request_state != HeadState::Gone;
    match path {
        [] => Found::Message,
        [b"time"] => facts.started.map_or(Found::Absent, |time| number(unix_nanoseconds(time))),
        [b"id"] => optional(facts.request_id.as_deref()),
        [b"protocol"] => optional(facts.protocol.map(str::as_bytes)),
        [b"duration"] => facts.duration.map_or(Found::Absent, duration),
        [b"size"] => number(facts.request_bytes),
        [b"total_size"] if present => number(facts.request_bytes.saturating_add(size(fields))),
        [b"headers_bytes"] if present => number(size(fields)),
        [b"path"] if present => text(head.target.as_str()),
        [b"url_path"] if present => text(head.target.path()),
        [b"query"] if present => text(head.target.query().unwrap_or_default()),
        [b"host"] if present => optional(fields.get(b":authority")),
        [b"scheme"] if present => text(head.scheme.as_str()),
        [b"method"] if present => text(head.method.as_str()),
        [b"referer"] if present => optional(fields.get(header::REFERER.as_str().as_bytes())),
        [b"useragent"] if present => optional(fields.get(header::USER_AGENT.as_str().as_bytes())),
        [b"headers", rest @ ..] if present => map(Some(fields), rest),
        _ => Found::Absent,
    }
}

fn response(exchange: &Exchange, path: &[&[u8]]) -> Found {
    let facts = &exchange.properties;
    let head = exchange.response.as_ref();
    let fields = head.filter(|_| exchange.response_state != HeadState::Gone).map(Fields::Response);
    match path {
        [] => Found::Message,
        [b"code"] => head.map_or(Found::Absent, |head| number(u64::from(head.status.as_u16()))),
        [b"code_details"] => optional_text(facts.response_code_details.as_deref()),
        [b"flags"] => number(facts.response_flags),
        [b"grpc_status"] => facts.grpc_status.map_or(Found::Absent, |status| number(u64::from(status))),
        [b"size"] => number(facts.response_bytes),
        [b"backend_latency"] => facts.backend_latency.map_or(Found::Absent, duration),
        [b"total_size"] => number(facts.response_bytes.saturating_add(fields.map_or(0, size))),
        [b"headers_bytes"] => number(fields.map_or(0, size)),
        [b"headers", rest @ ..] => map(fields, rest),
        [b"trailers", rest @ ..] => map(exchange.response_trailers.as_ref().map(Fields::Trailers), rest),
        _ => Found::Absent,
    }
}

fn address(address: Option<SocketAddr>, path: &[&[u8]]) -> Found {
    match (path, address) {
        ([], _) => Found::Message,
        ([b"address"], Some(address)) => display(address),
        ([b"port"], Some(address)) => number(u64::from(address.port())),
        _ => Found::Absent,
    }
}

fn upstream(facts: &Properties, path: &[&[u8]]) -> Found {
    match path {
        [b"local_address"] => facts.upstream_local.map_or(Found::Absent, display),
        [b"request_attempt_count"] if facts.upstream_attempts > 0 => number(facts.upstream_attempts.into()),
        [b"transport_failure_reason"] if facts.upstream.is_some() => {
            text(facts.upstream_failure.as_deref().unwrap_or_default())
        }
        // Nobody says where endpoints are.
        [b"locality"] if facts.upstream.is_some() => text(""),
        _ => address(facts.upstream, path),
    }
}

fn connection(facts: &Properties, path: &[&[u8]]) -> Found {
    let tls = facts.tls.as_deref();
    let known = |value: fn(&TlsFacts) -> &str| optional_text(tls.map(value).filter(|value| !value.is_empty()));
    match path {
        [] => Found::Message,
        [b"id"] => facts.connection_id.map_or(Found::Absent, number),
        [b"mtls"] => truth(tls.is_some_and(|tls| tls.mutual)),
        [b"tls_version"] => known(|tls| tls.version),
        [b"requested_server_name"] => text(tls.map_or("", |tls| &tls.server_name)),
        [b"subject_peer_certificate"] => known(|tls| &tls.subject_peer),
        [b"subject_local_certificate"] => known(|tls| &tls.subject_local),
        [b"uri_san_peer_certificate"] => known(|tls| &tls.uri_san_peer),
        [b"uri_san_local_certificate"] => known(|tls| &tls.uri_san_local),
        [b"dns_san_peer_certificate"] => known(|tls| &tls.dns_san_peer),
        [b"dns_san_local_certificate"] => known(|tls| &tls.dns_san_local),
        [b"sha256_peer_certificate_digest"] => known(|tls| &tls.sha256_peer),
        _ => Found::Absent,
    }
}

/// Configuration facts, without the `xds` in front.
fn xds(facts: &Properties, path: &[&[u8]]) -> Found {
    match path {
        [] => Found::Message,
        [b"route_name"] => optional_text(facts.route_name.as_deref()),
        [b"cluster_name"] => optional_text(facts.cluster_name.as_deref()),
        [b"virtual_host_name"] => optional_text(facts.virtual_host_name.as_deref()),
        [b"listener_direction"] => number(facts.listener_direction as u64),
        [b"route_metadata", rest @ ..] => metadata(facts.route_metadata.as_deref(), rest),
        [b"cluster_metadata", rest @ ..] if facts.cluster_name.is_some() => {
            metadata(facts.cluster_metadata.as_deref(), rest)
        }
        // Istio says nothing about either.
        [b"listener_metadata" | b"virtual_host_metadata", rest @ ..] => metadata(None, rest),
        [b"node", rest @ ..] => facts.node.as_deref().map_or(Found::Absent, |facts| node(facts, rest)),
        _ => Found::Absent,
    }
}

/// Metadata that is not there is empty.
fn metadata(metadata: Option<&Metadata>, path: &[&[u8]]) -> Found {
    match path {
        [] => Found::Value(metadata.map(Metadata::message).unwrap_or_default()),
        [b"filter_metadata"] if metadata.is_none() => Found::Value(blob(std::iter::empty)),
        [b"filter_metadata", rest @ ..] => {
            metadata.and_then(|metadata| metadata.encoded(rest)).map_or(Found::Absent, Found::Value)
        }
        [b"typed_filter_metadata"] => Found::Value(blob(std::iter::empty)),
        _ => Found::Absent,
    }
}

fn node(node: &Node, path: &[&[u8]]) -> Found {
    match path {
        [] => Found::Message,
        [b"id"] => text(&node.id),
        [b"cluster"] => text(&node.cluster),
        [b"metadata"] => Found::Value(blob(|| entries(&node.metadata))),
        [b"metadata", b"LABELS"] => Found::Value(blob(|| entries(&node.labels))),
        [b"metadata", b"LABELS", key] => optional(entry(&node.labels, key)),
        [b"metadata", key] => optional(entry(&node.metadata, key)),
        _ => Found::Absent,
    }
}

fn entries(list: &[(String, String)]) -> impl Iterator<Item = Pair<'_>> {
    list.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()))
}

fn entry<'a>(list: &'a [(String, String)], key: &[u8]) -> Option<&'a [u8]> {
    entries(list).find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// A header map, or one of its values.
fn map(fields: Option<Fields<'_>>, path: &[&[u8]]) -> Found {
    match (fields, path) {
        (Some(fields), []) => Found::Value(blob(|| fields.iter())),
        (Some(fields), [name]) => optional(fields.get(name)),
        _ => Found::Absent,
    }
}

fn size(fields: Fields<'_>) -> u64 {
    fields.iter().fold(0, |sum, (name, value)| sum + (name.len() + value.len()) as u64)
}

/// A map in the form the ABI writes it.
pub(crate) fn blob<'a, I: Iterator<Item = Pair<'a>>>(entries: impl Fn() -> I) -> Value {
    let mut value: Value = SmallVec::from_elem(0, pairs::encoded_len(entries()));
    pairs::encode(entries, &mut value);
    value
}

fn optional(bytes: Option<&[u8]>) -> Found {
    bytes.map_or(Found::Absent, |bytes| Found::Value(SmallVec::from_slice(bytes)))
}

fn optional_text(value: Option<&str>) -> Found {
    optional(value.map(str::as_bytes))
}

fn text(value: &str) -> Found {
    optional_text(Some(value))
}

fn number(value: u64) -> Found {
    Found::Value(SmallVec::from_slice(&value.to_le_bytes()))
}

fn duration(value: Duration) -> Found {
    number(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX))
}

fn truth(value: bool) -> Found {
    Found::Value(SmallVec::from_slice(&[u8::from(value)]))
}

fn display(address: SocketAddr) -> Found {
    struct Buffer(Value);

    impl std::fmt::Write for Buffer {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }

    let mut buffer = Buffer(Value::new());
    // Writing into memory does not fail.
    let _ = write!(buffer, "{address}");
    Found::Value(buffer.0)
}
