//! Answers that the gateway gives itself: statuses, bodies and flags as Istio's gateway
//! (istio.md section 2, items 9, 22, 29, 35; contract.md section 1).

use std::borrow::Cow;

use bytes::Bytes;
use heads::{HeaderList, header};
use http::{HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{http1::request::Refusal, telemetry::ResponseFlags};

/// Details of an answer that sheds load.
pub(super) const OVERLOAD: &str = "overload";
/// Details of an answer to a request that has waited too long.
pub(super) const QUEUE: &str = "overload_worker_queue";

/// An answer without an upstream. Always boxed: it travels in `Result`s beside things that are much smaller.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// Headers besides those that every response gets.
    pub(super) headers: HeaderList,
    pub(super) flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`
    pub(super) details: Cow<'static, str>,
    /// gRPC status to use instead of the one that follows from `status`.
    pub(super) grpc_status: Option<u8>,
    /// Whether the connection ends with this answer (HTTP/1).
    pub(super) close: bool,
}

impl Reply {
    pub(super) fn new(status: StatusCode, details: &'static str, flags: ResponseFlags) -> Box<Self> {
        Box::new(Self {
            status,
            body: Bytes::new(),
            headers: HeaderList::new(),
            flags,
            details: Cow::Borrowed(details),
            grpc_status: None,
            close: false,
        })
    }

    pub(super) fn with_body(mut self: Box<Self>, body: impl Into<Bytes>) -> Box<Self> {
        self.body = body.into();
        self
    }

    /// A request that breaks the protocol: answered, then the connection ends.
    pub(super) fn bad_request(details: &'static str) -> Box<Self> {
        Self::new(StatusCode::BAD_REQUEST, details, ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
            .with_body("Bad Request")
            .closing()
    }

    /// A request whose head is refused.
    pub(super) fn refused(refusal: Refusal) -> Box<Self> {
        match refusal {
            Refusal::Malformed(_) => Self::bad_request("http1.codec_error"),
            Refusal::LengthAndChunked => Self::bad_request("http1.content_length_and_chunked_not_allowed"),
            Refusal::Overload => Self::overloaded(),
            Refusal::HeadTooLarge => Self::too_large("http1.headers_too_large"),
            Refusal::TooManyHeaders => Self::too_large("http1.too_many_headers"),
            Refusal::HeadTimeout => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "request_header_timeout", ResponseFlags::NONE)
                    .with_body("request header timeout")
                    .closing()
            }
        }
    }

    /// A request whose body makes no progress.
    pub(super) fn body_timeout() -> Box<Self> {
        Self::new(StatusCode::REQUEST_TIMEOUT, "stream_idle_timeout", ResponseFlags::STREAM_IDLE_TIMEOUT)
            .with_body("stream timeout")
            .closing()
    }

    /// A request with too many or too large headers.
    pub(super) fn too_large(details: &'static str) -> Box<Self> {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, details, ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
            .with_body("Request Header Fields Too Large")
            .closing()
    }

    /// A request that is shed because memory runs out, in Envoy's words.
    pub(super) fn overloaded() -> Box<Self> {
        Self::unavailable(OVERLOAD, ResponseFlags::OVERLOAD, "envoy overloaded").closing()
    }

    /// A request that is shed because its worker has more to do than it can. The connection stays: a new one costs more.
    pub(super) fn waited_too_long() -> Box<Self> {
        Self::unavailable(QUEUE, ResponseFlags::OVERLOAD, "envoy overloaded")
    }

    pub(super) fn closing(mut self: Box<Self>) -> Box<Self> {
        self.close = true;
        self
    }

    pub(super) fn not_found() -> Box<Self> {
        Self::new(StatusCode::NOT_FOUND, "route_not_found", ResponseFlags::NO_ROUTE)
    }

    pub(super) fn unavailable(details: &'static str, flags: ResponseFlags, body: &'static str) -> Box<Self> {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, details, flags).with_body(body)
    }

    /// The head and body as sent. gRPC clients understand only status 200 with `grpc-status`.
    pub(super) fn into_parts(self, grpc: bool) -> (StatusCode, HeaderList, Bytes) {
        let Self { status, body, mut headers, grpc_status: given, .. } = self;
        if grpc {
            let code = given.unwrap_or_else(|| grpc_status(status));
            headers.insert(&header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
            if !body.is_empty()
                && let Ok(message) = HeaderValue::try_from(
                    utf8_percent_encode(&String::from_utf8_lossy(&body), GRPC_MESSAGE).to_string(),
                )
            {
                headers.insert("grpc-message", message);
            }
            return (StatusCode::OK, headers, Bytes::new());
        }
        if !body.is_empty() && !headers.contains_key(&header::CONTENT_TYPE) {
            headers.insert(&header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        (status, headers, body)
    }
}

/// Characters that `grpc-message` percent-encodes (gRPC over HTTP/2).
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// gRPC status for an HTTP status (gRPC's HTTP mapping, as Envoy).
fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Whether a request is gRPC: `application/grpc` or `application/grpc+…`.
pub(super) fn is_grpc(headers: &HeaderList) -> bool {
    headers.get(&header::CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_clients_get_a_grpc_status() {
        let (status, headers, body) =
            Reply::unavailable("x", ResponseFlags::NO_HEALTHY_UPSTREAM, "no healthy upstream 100%").into_parts(true);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["grpc-status"], "14");
        assert_eq!(headers["grpc-message"], "no healthy upstream 100%25");
        assert!(body.is_empty());
    }

    #[test]
    fn plain_clients_get_text() {
        let (status, headers, body) =
            Reply::unavailable("x", ResponseFlags::NO_HEALTHY_UPSTREAM, "no").into_parts(false);
        assert_eq!((status, body.as_ref()), (StatusCode::SERVICE_UNAVAILABLE, b"no".as_slice()));
        assert_eq!(headers[&header::CONTENT_TYPE], "text/plain");
        let (_, headers, _) = Reply::not_found().into_parts(false);
        assert!(headers.is_empty());
    }

    #[test]
    fn grpc_is_told_by_content_type() {
        let is = |value: &'static str| {
            let mut headers = HeaderList::new();
            headers.insert(&header::CONTENT_TYPE, HeaderValue::from_static(value));
            is_grpc(&headers)
        };
        assert!(is("application/grpc") && is("application/grpc+proto"));
        assert!(!is("application/grpc-web") && !is("text/plain"));
    }
}
