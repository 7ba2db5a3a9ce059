//! Upstream: clusters as one worker sees them, their endpoints, and pools of connections.
//!
//! Everything here belongs to one worker thread (`Rc`, `Cell`); only the numbers that limits of a cluster are compared
//! with are shared (`usage`). HTTP/1 connections are
//! lent to one request at a time: the request, and then its response body, read and write the socket themselves, so no
//! task and no channel stands between the two sockets. An HTTP/2 connection carries many requests and therefore has a task of its own.
//!
//! This module knows neither routes nor plugins; it is generic over the request body it sends.

mod balance;
mod body;
mod cluster;
mod connect;
mod counted;
mod endpoint;
mod error;
mod http1;
mod http2;
pub mod limits;
mod slot;
mod usage;

use heads::HeaderList;
use http::{Method, Uri};

pub use body::{ResponseBody, Upgraded};
pub(crate) use cluster::Swept;
pub use cluster::{Attempt, Cluster};
pub use endpoint::{Endpoint, Sent};
pub(crate) use error::remote_reset;
pub use error::{Failure, Remains, UpstreamError};
pub use usage::{Permit, Resource, Usage};

/// A request on its way.
#[derive(Debug)]
pub struct Request<B> {
    /// Never CONNECT.
    pub method: Method,
    /// Path and query; for HTTP/2 scheme and authority, too.
    pub uri: Uri,
    /// Its fields.
    pub headers: HeaderList,
    /// What follows them.
    pub body: B,
}

/// What a request body has to be; by default it is empty.
pub trait RequestBody:
    crate::http1::sending::Piped<Data = bytes::Bytes, Error = BodyError> + Default + Unpin + 'static
{
    /// The protocol that the connection may be switched to by a 101 (HTTP/1 only). The head says so, too.
    fn upgrade(&self) -> Option<&'static str> {
        None
    }
}

/// Why a body ended early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
