//! Outbound HTTP and gRPC calls. They are noted, and made by the HTTP layer after the callback.
//!
//! Statuses are those that SDKs expect: an unknown service or an incomplete request is `BAD_ARGUMENT` (HTTP) or
//! `PARSE_FAILURE` (gRPC), a limit `INTERNAL_FAILURE`, a number that stands for no call `NOT_FOUND`.

use std::time::Duration;

use bytes::Bytes;
use heads::HeaderList;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, uri::Authority};

use crate::abi::Status;
use crate::calls::{InFlight, Kind};
use crate::fields::{self, FieldsMut};
use crate::guest::{Call, HostResult, Span, put_u32, slice, view};
use crate::outbound::{GrpcCall, HttpCall, Outbound};
use crate::pairs;
use crate::shared::Quota;
use crate::state::State;
use crate::{RequestHead, Scheme, log};

/// What a plugin says of a HTTP call.
pub(super) struct HttpParts {
    pub(super) upstream: Span,
    pub(super) headers: Span,
    pub(super) body: Span,
    pub(super) trailers: Span,
    /// Milliseconds; 0: as long as the gateway allows.
    pub(super) timeout: u32,
}

/// What a plugin says of a gRPC call.
pub(super) struct GrpcParts {
    pub(super) upstream: Span,
    pub(super) service: Span,
    pub(super) method: Span,
    pub(super) metadata: Span,
    /// Message and milliseconds of a unary call.
    pub(super) unary: Option<(Span, u32)>,
}

pub(super) fn http(call: &mut Call<'_>, parts: &HttpParts, out: u32) -> HostResult {
    let (memory, state) = view(call)?;
    put_u32(memory, out, 0)?;
    let (headers, body) = (slice(memory, parts.headers)?, slice(memory, parts.body)?);
    let (upstream, trailers) = (slice(memory, parts.upstream)?, slice(memory, parts.trailers)?);
    let Some(upstream) = known(state, upstream) else {
        state.note(&unknown(upstream));
        return Err(Status::BadArgument.into());
    };
    let head = request_head(headers, state.limits().header_fields).map_err(|problem| {
        state.note(&format!("a call to {upstream} was not made: {problem}"));
        Status::BadArgument
    })?;
    let trailers = fields_of(trailers, state.limits().header_fields).unwrap_or_default();
    if body.len() > state.limits().body_bytes {
        state.refuse(Quota::Body);
        return Err(Status::InternalFailure.into());
    }
    let body = Bytes::copy_from_slice(body);
    let token = begin(state, Kind::Http)?;
    let timeout = milliseconds(parts.timeout);
    state.calls.wanted.push(Outbound::Http(HttpCall { token, upstream, head, body, trailers, timeout }));
    Ok(put_u32(memory, out, token)?)
}

pub(super) fn grpc(call: &mut Call<'_>, parts: &GrpcParts, out: u32) -> HostResult {
    let (memory, state) = view(call)?;
    put_u32(memory, out, 0)?;
    let (target, metadata) = (slice(memory, parts.upstream)?, slice(memory, parts.metadata)?);
    let (service, method) = (slice(memory, parts.service)?, slice(memory, parts.method)?);
    let message = parts.unary.map(|(message, _)| slice(memory, message)).transpose()?;
    let Some((upstream, authority, mut more)) = grpc_target(state, target) else {
        state.note(&unknown(target));
        return Err(Status::ParseFailure.into());
    };
    let path = [b"/", service, b"/", method].concat();
    let path = PathAndQuery::try_from(&path[..]).ok().filter(|path| path.query().is_none() && !method.is_empty());
    let metadata = fields_of(metadata, state.limits().header_fields);
    let (Some(path), Some(metadata)) = (path, metadata) else {
        state.note(&format!("a gRPC call to {upstream} was not made: service, method or metadata are not valid"));
        return Err(Status::InternalFailure.into());
    };
    if message.is_some_and(|message| message.len() > state.limits().body_bytes) {
        state.refuse(Quota::Body);
        return Err(Status::InternalFailure.into());
    }
    // Added, not put in its place (Envoy's `HeaderMapImpl::copyFrom`).
    more.extend(metadata);
    let kind = if message.is_some() { Kind::GrpcUnary } else { Kind::GrpcStream };
    let token = begin(state, kind)?;
    state.calls.wanted.push(Outbound::Grpc(GrpcCall {
        token,
        upstream,
        authority,
        path,
        metadata: more,
        message: message.map(Bytes::copy_from_slice),
        timeout: parts.unary.and_then(|(_, timeout)| milliseconds(timeout)),
    }));
    Ok(put_u32(memory, out, token)?)
}

/// A message of a gRPC stream. On a unary call, or after the end: `BAD_ARGUMENT`, and so if too much waits to be sent.
pub(super) fn send(call: &mut Call<'_>, token: u32, message: Span, end_of_stream: u32) -> HostResult {
    let (memory, state) = view(call)?;
    let message = slice(memory, message)?;
    match state.calls.kind(token) {
        None => return Err(Status::NotFound.into()),
        Some(Kind::GrpcStream) => {}
        Some(Kind::Http | Kind::GrpcUnary) => return Err(Status::BadArgument.into()),
    }
    let limit = state.limits().body_bytes;
    let Some(message) = state.calls.queue(token, Bytes::copy_from_slice(message), limit) else {
        state.refuse(Quota::Calls);
        return Err(Status::BadArgument.into());
    };
    state.calls.wanted.push(Outbound::Message { token, message: Some(message) });
    if end_of_stream != 0 {
        end_sending(state, token);
    }
    Ok(())
}

/// The plugin hears no more of a gRPC call.
pub(super) fn cancel(call: &mut Call<'_>, token: u32) -> HostResult {
    let state = call.data_mut();
    match state.calls.kind(token) {
        Some(Kind::GrpcUnary | Kind::GrpcStream) => {
            state.calls.end(token);
            state.calls.wanted.push(Outbound::Cancel { token });
            Ok(())
        }
        Some(Kind::Http) | None => Err(Status::NotFound.into()),
    }
}

/// Ends what the plugin sends on a stream; gives a unary call up.
pub(super) fn close(call: &mut Call<'_>, token: u32) -> HostResult {
    match call.data().calls.kind(token) {
        Some(Kind::GrpcStream) => {
            end_sending(call.data_mut(), token);
            Ok(())
        }
        _ => cancel(call, token),
    }
}

fn end_sending(state: &mut State, token: u32) {
    if state.calls.end_sending(token) {
        state.calls.wanted.push(Outbound::Message { token, message: None });
    }
}

/// The number of a new call, if the stream and the plugin may have one more.
fn begin(state: &mut State, kind: Kind) -> Result<u32, Status> {
    let (per_stream, in_flight) = (state.limits().calls_per_stream, state.limits().calls_in_flight);
    // What the root context calls belongs to no stream.
    let context = state.effective;
    let full = context.is_some() && state.calls.of(context) >= per_stream;
    let counted = if full { None } else { InFlight::begin(state.plugin.scope.calls(), in_flight) };
    let Some(counted) = counted else {
        state.refuse(Quota::Calls);
        return Err(Status::InternalFailure);
    };
    Ok(state.calls.begin(kind, context, counted))
}

fn known(state: &State, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    state.plugin.shared.knows_upstream(name).then(|| name.to_owned())
}

fn unknown(name: &[u8]) -> String {
    format!(
        "the plugin called `{}`, which is no service here: name it as a cluster (outbound|80||HOST), or by its host and port, and declare it with a Service or ServiceEntry",
        log::text(name, 200)
    )
}

fn milliseconds(timeout: u32) -> Option<Duration> {
    (timeout > 0).then(|| Duration::from_millis(timeout.into()))
}

/// The head of a request: `:method`, `:path` and `:authority` have to be there.
fn request_head(map: &[u8], max: usize) -> Result<RequestHead, String> {
    let pairs = || pairs::decode(map).map_err(|malformed| malformed.to_string());
    let names: Vec<&[u8]> = pairs()?.map(|(name, _)| name).collect();
    let has = |name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name.as_bytes()));
    for (name, there) in
        [(":method", has(":method")), (":path", has(":path")), (":authority", has(":authority") || has("host"))]
    {
        if !there {
            return Err(format!("its headers have no {name}"));
        }
    }
    let mut head = RequestHead {
        method: Method::GET,
        target: PathAndQuery::from_static("/"),
        scheme: Scheme::Http,
        headers: HeaderList::new(),
    };
    FieldsMut::Request(&mut head).set(pairs()?, max).map_err(|error| format!("of its headers, {error}"))?;
    Ok(head)
}

/// Trailers or metadata. `None`: not valid.
fn fields_of(map: &[u8], max: usize) -> Option<HeaderList> {
    let mut headers = HeaderList::new();
    FieldsMut::Trailers(&mut headers).set(pairs::decode(map).ok()?, max).ok()?;
    // Whoever makes the call sets these.
    for name in [header::TE, header::CONTENT_TYPE, header::HOST, HeaderName::from_static("grpc-timeout")] {
        headers.remove(name);
    }
    Some(headers)
}

/// The service that a gRPC call is for: the name of a cluster, or Envoy's `GrpcService` in protobuf, with the
/// authority and the metadata that it asks for.
fn grpc_target(state: &State, target: &[u8]) -> Option<(String, Option<HeaderValue>, HeaderList)> {
    if let Some(name) = known(state, target) {
        return Some((name, None, HeaderList::new()));
    }
    let mut found = (None, None, HeaderList::new());
    for field in proto::fields(target) {
        match field? {
            // envoy_grpc { cluster_name = 1, authority = 2 }
            (1, value) => {
                for field in proto::fields(value) {
                    match field? {
                        (1, name) => found.0 = known(state, name),
                        (2, authority) if !authority.is_empty() => {
                            Authority::try_from(authority).ok()?;
                            found.1 = Some(HeaderValue::from_bytes(authority).ok()?);
                        }
                        _ => {}
                    }
                }
            }
            // initial_metadata { key = 1, value = 2 }
            (5, value) => {
                let (mut key, mut text) = (&[][..], &[][..]);
                for field in proto::fields(value) {
                    match field? {
                        (1, bytes) => key = bytes,
                        (2, bytes) => text = bytes,
                        _ => {}
                    }
                }
                let name = HeaderName::from_bytes(key).ok()?;
                if !fields::is_framing(&name) && found.2.len() < state.limits().header_fields {
                    found.2.append(name, HeaderValue::from_bytes(text).ok()?);
                }
            }
            _ => {}
        }
    }
    Some((found.0?, found.1, found.2))
}

/// As much of protobuf's wire format as the ABI needs: the fields that have a length.
pub(super) mod proto {
    /// Number and bytes of every field with a length, in order; others are skipped. `None` ends a broken message.
    pub(crate) fn fields(mut message: &[u8]) -> impl Iterator<Item = Option<(u64, &[u8])>> {
        std::iter::from_fn(move || {
            loop {
                if message.is_empty() {
                    return None;
                }
                match next(&mut message) {
                    Some(None) => {}
                    Some(Some(field)) => return Some(Some(field)),
                    None => {
                        message = &[];
                        return Some(None);
                    }
                }
            }
        })
    }

    fn next<'a>(message: &mut &'a [u8]) -> Option<Option<(u64, &'a [u8])>> {
        let key = varint(message)?;
        let length = match key & 7 {
            0 => {
                varint(message)?;
                return Some(None);
            }
            1 => 8,
            2 => usize::try_from(varint(message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(length)?;
        *message = rest;
        Some((key & 7 == 2).then_some((key >> 3, value)))
    }

    fn varint(message: &mut &[u8]) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = message.split_first()?;
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn fields_with_a_length_are_found_and_others_skipped() {
            let message = b"\x08\x96\x01\x12\x03abc\x1d\x01\x02\x03\x04\x21\x01\x02\x03\x04\x05\x06\x07\x08\x2a\0";
            let found: Vec<_> = fields(message).collect();
            assert_eq!(found, [Some((2, &b"abc"[..])), Some((5, &b""[..]))]);
            for broken in [&b"\x12\x05abc"[..], b"\x08", b"\x0f", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"] {
                assert_eq!(fields(broken).last(), Some(None), "{broken:?}");
            }
        }
    }
}
