//! What can go wrong between us and an upstream, and whether trying again is safe.

use std::io;

use super::{BodyError, Resource, limits};

/// At which point it failed; decides status, response flag and retry.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection: refused, unreachable, ... Nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No connection within the cluster's connect timeout. Nothing was sent.
    #[error("cannot connect: no answer within the connect timeout")]
    ConnectTimeout,
    /// The file descriptors that are left are kept for others. Nothing was sent.
    #[error("no file descriptor is left for a connection; check the limit of open files (ulimit -n)")]
    Descriptors,
    /// No TLS: the certificate is not what it has to be, the service does not speak it, ... Nothing was sent.
    #[error("TLS_error|{0}")]
    Tls(String),
    /// As much is going on in the cluster as its DestinationRule allows. Nothing was sent.
    #[error("the limit of the cluster is reached: {0:?}")]
    Overflow(Resource),
    #[error("connection ended before a response: {error}")]
    /// The connection ended after (part of) the request was sent and before a response head came.
    Reset {
        /// The connection had served a request before: the upstream may have closed it for being idle.
        reused: bool,
        /// How it ended.
        error: BodyError,
    },
    /// The upstream reset the stream (HTTP/2) before a response head came.
    #[error("the upstream reset the stream: {error}")]
    RemoteReset {
        /// It says that it has not looked at the request (REFUSED_STREAM, GOAWAY).
        refused: bool,
        /// What hyper says.
        error: hyper::Error,
    },
    /// What came back is not HTTP/2.
    #[error("not a valid response: {0}")]
    Protocol(hyper::Error),
    /// What came back is not HTTP/1.1, more than the limits allow, or must not be passed on.
    #[error("not a valid response: {0}")]
    Malformed(&'static str),
    /// The request body ended early: the client left or broke the message.
    #[error("the request ended early: {0}")]
    RequestBody(BodyError),
}

/// A request that got no response.
#[derive(Debug)]
pub struct UpstreamError {
    /// What happened.
    pub failure: Failure,
    /// What has become of the request.
    pub request: Remains,
}

/// What an attempt without a response leaves of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// All of it; the upstream has seen nothing.
    Unsent,
    /// All of it; the upstream may have seen it.
    Whole,
    /// Something of its body was taken, or something of an answer was put in its place.
    Spent,
}

impl UpstreamError {
    pub(super) fn unsent(failure: Failure) -> Self {
        Self { failure, request: Remains::Unsent }
    }
}

impl Failure {
    /// Whether there was no connection, so that nothing was sent.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout | Self::Tls(_))
    }

    /// Whether the head of the response is more than the limits allow.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        match self {
            Self::Protocol(error) => error.is_parse_too_large(),
            Self::Malformed(what) => [limits::TOO_MANY_HEADERS, limits::HEAD_TOO_LARGE].contains(what),
            _ => false,
        }
    }

    /// Sorts an error of a connection.
    pub(super) fn from_hyper(error: hyper::Error, reused: bool) -> Self {
        if error.is_user() {
            Self::RequestBody(error.into())
        } else if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() || is_our_verdict(&error) {
            Self::Protocol(error)
        } else if was_left_out(&error) {
            Self::RemoteReset { refused: true, error }
        } else if let Some(reason) = remote_reset(&error) {
            Self::RemoteReset { refused: reason == h2::Reason::REFUSED_STREAM, error }
        } else {
            Self::Reset { reused, error: error.into() }
        }
    }

    /// Whether the upstream has not acted on the request, or cannot be blamed if it has not: it may be sent once more
    /// where that does no harm.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Reset { reused: true, .. } | Self::RemoteReset { refused: true, .. })
    }
}

/// Why the peer reset an HTTP/2 stream, if that is what an error is about.
pub(crate) fn remote_reset(error: &(dyn std::error::Error + 'static)) -> Option<h2::Reason> {
    let error = in_http2(error)?;
    error.reason().filter(|_| error.is_remote() && error.is_reset())
}

/// Whether the peer ends the connection in order (GOAWAY) and names an earlier stream as the last that it looked at; h2
/// tells the others only.
fn was_left_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let goodbye = |error: &h2::Error| error.is_remote() && error.is_go_away();
    in_http2(error).is_some_and(|error| goodbye(error) && error.reason() == Some(h2::Reason::NO_ERROR))
}

/// Whether the peer broke the rules of HTTP/2, so that h2 ended the stream or the connection.
fn is_our_verdict(error: &(dyn std::error::Error + 'static)) -> bool {
    in_http2(error).is_some_and(|error| error.is_library() && error.reason() != Some(h2::Reason::NO_ERROR))
}

/// What h2 says, if an error is about HTTP/2.
fn in_http2<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a h2::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return Some(error);
        }
        next = error.source();
    }
    None
}
