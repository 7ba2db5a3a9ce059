//! What plugins ask of other services, and what comes back: plain data. The HTTP layer makes the calls and brings
//! the answers to the instance that asked.

use bytes::Bytes;
use heads::{HeaderList, RequestHead, ResponseHead};
use http::HeaderValue;
use http::uri::PathAndQuery;
use std::time::Duration;

pub use crate::calls::Message;
use crate::fields::Fields;

/// Whom plugins may call. Asked inside a host call, so it must answer at once.
pub trait Upstreams: Send + Sync {
    /// Whether there is a service that a plugin names so. What is not known is not called, whatever address it has.
    fn knows(&self, name: &str) -> bool;
}

/// Nobody: every call is refused.
impl Upstreams for () {
    fn knows(&self, _name: &str) -> bool {
        false
    }
}

/// Something a plugin wants of a service, in the order in which it asked.
#[derive(Debug)]
pub enum Outbound {
    /// Send this request; bring the answer with [`on_http_call_response`](crate::Instance::on_http_call_response).
    Http(HttpCall),
    /// Begin this gRPC call.
    Grpc(GrpcCall),
    /// The next message of a gRPC stream.
    Message {
        /// Of the stream.
        token: u32,
        /// What to send; `None`: nothing more.
        message: Option<Message>,
    },
    /// Give a call up. The plugin wants to hear no more of it.
    Cancel {
        /// Of the call.
        token: u32,
    },
}

/// One HTTP request of a plugin.
#[derive(Debug)]
pub struct HttpCall {
    /// Names the call; unique in its instance.
    pub token: u32,
    /// One of those that [`Upstreams`] knows.
    pub upstream: String,
    /// Complete, without fields that frame the message.
    pub head: RequestHead,
    /// At most [`Limits::body_bytes`](crate::Limits::body_bytes).
    pub body: Bytes,
    /// May be empty.
    pub trailers: HeaderList,
    /// How long until the whole answer has to be there. `None`: as long as the HTTP layer allows.
    pub timeout: Option<Duration>,
}

/// One gRPC call of a plugin.
#[derive(Debug)]
pub struct GrpcCall {
    /// Names the call; unique in its instance.
    pub token: u32,
    /// One of those that [`Upstreams`] knows.
    pub upstream: String,
    /// What to name as authority, if not the service.
    pub authority: Option<HeaderValue>,
    /// `/service/method`
    pub path: PathAndQuery,
    /// Without fields that frame the message and those that gRPC sets itself.
    pub metadata: HeaderList,
    /// The one message of a unary call. `None`: a stream, whose messages follow.
    pub message: Option<Bytes>,
    /// How long a unary call may take.
    pub timeout: Option<Duration>,
}

/// Metadata of the answer to a [`GrpcCall`].
#[derive(Debug)]
pub enum GrpcMetadata {
    /// A head, with its `:status`: initial metadata, or the trailing metadata of an answer that is nothing but a head.
    Head(ResponseHead),
    /// Trailers, or nothing where there is no answer.
    Trailers(HeaderList),
}

impl GrpcMetadata {
    /// Without pseudo-headers.
    pub fn headers(&self) -> &HeaderList {
        match self {
            Self::Head(head) => &head.headers,
            Self::Trailers(trailers) => trailers,
        }
    }

    pub(crate) fn fields(&self) -> Fields<'_> {
        match self {
            Self::Head(head) => Fields::Response(head),
            Self::Trailers(trailers) => Fields::Trailers(trailers),
        }
    }
}

impl Default for GrpcMetadata {
    fn default() -> Self {
        Self::Trailers(HeaderList::new())
    }
}

/// The whole answer to a [`HttpCall`].
#[derive(Debug)]
pub struct CallResponse {
    /// Status and fields.
    pub head: ResponseHead,
    /// The body, however it was framed.
    pub body: Bytes,
    /// Trailers, if there were any.
    pub trailers: HeaderList,
}
