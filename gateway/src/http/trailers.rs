//! Trailers: fields behind a body. Who gets them may merge them with the headers, so what headers alone may say is
//! dropped: framing, routing, authentication, and what only we say (RFC 9110 6.5.1).
//!
//! Over HTTP/1 only the fields are sent that the head's `Trailer` names, and to clients only if they sent
//! `te: trailers`; others are dropped there, as RFC 9110 6.5 allows.

use heads::{HeaderList, header};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Names the trailers of gRPC in a head, for clients over HTTP/1: gRPC servers over HTTP/2 do not announce them.
pub(super) fn announce_grpc(headers: &mut HeaderList) {
    if !headers.contains_key(&header::TRAILER) {
        headers
            .insert(&header::TRAILER, HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin"));
    }
}

/// Drops what must not stand in trailers. Almost always that is nothing, and costs a look at each name.
pub(super) fn clean(trailers: &mut HeaderMap) {
    if trailers.keys().any(is_forbidden) {
        let forbidden: Vec<HeaderName> = trailers.keys().filter(|name| is_forbidden(name)).cloned().collect();
        for name in forbidden {
            trailers.remove(name);
        }
    }
}

fn is_forbidden(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "content-length"
            | "upgrade"
            | "te"
            | "trailer"
            | "host"
            | "expect"
            | "max-forwards"
            | "authorization"
            | "proxy-authorization"
            | "cookie"
            | "set-cookie"
            | "content-encoding"
            | "content-range"
            | "content-type"
            | "cache-control"
            | "forwarded"
            | "x-request-id"
    ) || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with("x-envoy-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_cannot_say_what_headers_say() {
        let mut trailers = HeaderMap::new();
        for name in ["content-length", "Transfer-Encoding", "host", "authorization", "x-forwarded-for", "grpc-status"] {
            trailers.extend([(name.parse::<HeaderName>().ok(), HeaderValue::from_static("1"))]);
        }
        trailers.append("x-checksum", HeaderValue::from_static("a"));
        trailers.append("host", HeaderValue::from_static("b"));
        clean(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-status", "x-checksum"]);
    }
}
