//! One HTTP exchange, or one TCP connection, as a plugin sees it: plain data, owned by the HTTP layer and lent to one
//! [`Instance`](crate::Instance) at a time. Knows no sockets and makes no decisions.

use bytes::Bytes;
use heads::{HeaderList, RequestHead, ResponseHead, Scheme};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use crate::{Body, Properties};

/// Everything a plugin can see and change of one request and its response.
#[derive(Debug)]
pub struct Exchange {
    /// The request head. What [`Exchange::request_state`] says decides who may touch it.
    pub request: RequestHead,
    /// Whether the request head can still be changed, only be read, or has been moved away.
    pub request_state: HeadState,
    /// The response head, once there is one.
    pub response: Option<ResponseHead>,
    /// As [`Exchange::request_state`], for the response.
    pub response_state: HeadState,
    /// Request bytes that arrived and are not forwarded. Push a chunk, then call
    /// [`on_request_body`](crate::Instance::on_request_body).
    pub request_body: Body,
    /// Response bytes that arrived and are not forwarded.
    pub response_body: Body,
    /// Request trailers, if there are any. A plugin may create them in its last body callback.
    pub request_trailers: Option<HeaderList>,
    /// Response trailers, if there are any. A plugin may create them in its last body callback.
    pub response_trailers: Option<HeaderList>,
    /// What properties such as `source.address` answer.
    pub properties: Properties,
    /// What the plugin wants done.
    pub effects: Effects,
    /// It is a connection, with the client's bytes as the request's body and the service's as the response's.
    pub(crate) is_connection: bool,
    pub(crate) phase: Phase,
    pub(crate) end_of_stream: bool,
    /// Bytes that plugins have written into heads and trailers.
    pub(crate) edited_bytes: usize,
}

impl Exchange {
    /// An exchange that has just begun: no response, no body, nothing changed.
    pub fn new(request: RequestHead) -> Box<Self> {
        Box::new(Self {
            request,
            request_state: HeadState::Open,
            response: None,
            response_state: HeadState::Open,
            request_body: Body::new(),
            response_body: Body::new(),
            request_trailers: None,
            response_trailers: None,
            properties: Properties::default(),
            effects: Effects::default(),
            is_connection: false,
            phase: Phase::Created,
            end_of_stream: false,
            edited_bytes: 0,
        })
    }

    /// A TCP connection that has just begun. It has no heads; what the client sends goes through
    /// [`Exchange::request_body`], what the service sends through [`Exchange::response_body`].
    pub fn connection() -> Box<Self> {
        let mut exchange = Self::new(RequestHead {
            method: Method::GET,
            target: PathAndQuery::from_static("/"),
            scheme: Scheme::Http,
            headers: HeaderList::new(),
        });
        exchange.request_state = HeadState::Gone;
        exchange.is_connection = true;
        exchange
    }

    /// The callback that was entered last, which decides what a plugin may touch.
    pub fn phase(&self) -> Phase {
        self.phase
    }
}

/// What has become of a message head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadState {
    /// Not sent on yet: plugins may read and change it.
    Open,
    /// Sent on; the exchange still holds it (or a copy): plugins may only read it.
    Sent,
    /// Moved out of the exchange: plugins see no such map.
    Gone,
}

/// The callback that an exchange went through last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// None yet.
    Created,
    /// `on_request_headers`
    RequestHeaders,
    /// `on_request_body`
    RequestBody,
    /// `on_request_trailers`
    RequestTrailers,
    /// `on_response_headers`
    ResponseHeaders,
    /// `on_response_body`
    ResponseBody,
    /// `on_response_trailers`
    ResponseTrailers,
    /// `on_new_connection`
    NewConnection,
    /// `on_downstream_data`
    DownstreamData,
    /// `on_upstream_data`
    UpstreamData,
    /// `on_downstream_connection_close` or `on_upstream_connection_close`
    ConnectionClose,
    /// `on_log`: everything that is left can be read, nothing can be changed.
    Log,
}

impl Phase {
    /// The message that the callback is about.
    pub(crate) fn half(self) -> Option<Half> {
        match self {
            Self::RequestHeaders | Self::RequestBody | Self::RequestTrailers => Some(Half::Request),
            Self::ResponseHeaders | Self::ResponseBody | Self::ResponseTrailers => Some(Half::Response),
            Self::NewConnection | Self::DownstreamData => Some(Half::Request),
            Self::UpstreamData => Some(Half::Response),
            Self::Created | Self::ConnectionClose | Self::Log => None,
        }
    }
}

/// One of the two messages of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

/// Who closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Nobody knows.
    Unknown = 0,
    /// The gateway.
    Local = 1,
    /// The other side.
    Remote = 2,
}

/// What a callback wants to happen next. Look at [`Effects`] first: a local response or a reset
/// makes the action meaningless (it is [`Action::Pause`] then).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Headers: go on. Body: forward everything the buffer holds. Trailers: send them.
    Continue,
    /// Headers: stop; no body or trailers callback until resumed, the body waits under flow
    /// control. Body: keep what the buffer holds; the next chunk is pushed behind it and the next
    /// callback sees all of it. Past the body limit a request is answered 413, a response 500 (or
    /// reset if its head is gone). Trailers: hold them, and the body before them.
    Pause,
    /// Body only: as `Pause`, but at the limit stop reading instead of failing. (The ABI's body
    /// action 2, Envoy's `StopIterationAndWatermark`.)
    PauseWatermark,
    /// Body only: discard what the buffer holds and go on reading; the plugin has taken its own
    /// copy and supplies a body at the end. (Body action 3, Envoy's `StopIterationNoBuffer`.)
    PauseDiscard,
}

/// What a plugin did to an exchange, for the HTTP layer to carry out and to reset before the next
/// callback. If several things interrupt the stream, a reset goes before a local response, that before
/// the two errors.
///
/// The HTTP layer's duties after edits: `content-length` and the other framing headers describe the
/// message that arrived. Plugins may remove them but not write them. Where a body changed or may
/// still change, the length must be computed from what is really sent or dropped in favour of
/// chunks; when a head with a length has already gone out and the body no longer fits it, the stream
/// must be reset. Likewise a changed `:method` decides how the upstream's response is framed, while
/// the client's own method decides how it is sent back.
#[derive(Debug, Default)]
pub struct Effects {
    /// Answer the client with this instead of going on.
    pub local_response: Option<LocalResponse>,
    /// Reset the stream without an answer.
    pub reset: bool,
    /// The request head is not what it was (or the plugin asked for it): resolve the route again.
    pub request_head_changed: bool,
    /// The response head is not what it was.
    pub response_head_changed: bool,
    /// The request body is not what arrived.
    pub request_body_changed: bool,
    /// The response body is not what arrived.
    pub response_body_changed: bool,
    /// A plugin tried an edit that would have made a head ill-formed; it was not applied. Going on
    /// would send on what the plugin wanted replaced, so answer 503, or reset where an answer has
    /// begun. The instance is fine.
    pub invalid_edit: bool,
    /// A plugin tried to grow a body past [`Limits::body_bytes`](crate::Limits::body_bytes); the
    /// edit was not applied. Answer 413 (request) or 500 (response), or reset.
    pub body_limit_exceeded: bool,
}

impl Effects {
    /// Adds what a plugin wanted while its exchange was elsewhere. What was decided first stands.
    pub(crate) fn absorb(&mut self, later: Self) {
        if self.local_response.is_none() {
            self.local_response = later.local_response;
        }
        self.reset |= later.reset;
    }

    /// Whether something happened that ends the normal course of the stream.
    pub fn interrupts(&self) -> bool {
        self.local_response.is_some() || self.reset || self.invalid_edit || self.body_limit_exceeded
    }
}

/// A response made by a plugin.
#[derive(Clone, Debug)]
pub struct LocalResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// What `response.code_details` says afterwards; contains no spaces.
    pub details: String,
    /// Header fields, without any that frame the message. If there is a body and no
    /// `content-type`, `text/plain` is the convention.
    pub headers: HeaderList,
    /// The body; may be empty.
    pub body: Bytes,
    /// For requests with a gRPC content type: answer 200 with this `grpc-status` and the body as
    /// `grpc-message`. 0 to 16.
    pub grpc_status: Option<u8>,
}
