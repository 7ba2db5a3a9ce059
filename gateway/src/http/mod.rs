//! The request path, in the order in which a request meets it:
//!
//! | file | what happens |
//! |---|---|
//! | `connection` | one client connection: HTTP/1.1 or HTTP/2 |
//! | `proxy_protocol` | what a load balancer says about its client |
//! | `handshake`, `secured` | TLS: which server it is for, who the client is, which hosts it may ask for |
//! | `http1`, `wire` | one request of an HTTP/1 connection after the other; its bytes |
//! | `client_io`, `floods` | the bytes of an HTTP/2 connection; frames that are too many |
//! | `activity` | how long it has been quiet, how it is told to end |
//! | `service` | one request, from its head to the response that is written |
//! | `request` | the head is checked and normalised |
//! | `host` | which host it is for |
//! | `forwarded` | who the client is, and what upstreams are told about it |
//! | `plugins` | request callbacks of the listener's plugins, and later the response callbacks in reverse |
//! | `route` | the virtual host and route, looked for after the plugins' request callbacks, which may change the head |
//! | `forward` | endpoint, rewrite, header edits, sending |
//! | `retry` | trying again, and what is kept for it |
//! | `reply`, `redirect` | answers that need no upstream |
//! | `trailers` | what may follow a body |
//! | `body`, `progress` | bodies both ways, with back-pressure; those that make no progress |
//! | `upgrade` | a WebSocket: what is asked, and the tunnel that the connection becomes |
//! | `log_headers` | headers that the access log shows |
//! | `record` | when all is over: metrics and the access log |
//!
//! `serving` is what a worker knows: the current configuration with its private pools and plugin instances.
//! Nothing here knows Istio's resources. Nothing here is shared between threads.

mod activity;
mod body;
mod client_io;
mod connection;
mod floods;
mod forward;
mod forwarded;
mod grpc_messages;
mod handshake;
mod header_lists;
mod host;
mod http1;
mod identity;
pub mod limits;
mod log_headers;
mod other;
mod plugins;
mod progress;
mod proxy_protocol;
mod record;
mod redirect;
mod reply;
mod request;
mod retry;
mod route;
mod secured;
mod service;
mod serving;
mod trailers;
mod upgrade;
mod wire;

/// What clusters with limits use; the same for all workers.
pub(crate) use crate::upstream::Usage;
pub(crate) use activity::Connections;
pub(crate) use connection::serve;
pub use forwarded::{ForwardClientCertificate, Topology};
pub use identity::Identity;
pub use limits::Limits;
pub(crate) use plugins::{PluginSet, Prepared, SpareOrder};
pub(crate) use serving::{Config, Port, Worker};

/// For the fuzzers.
#[cfg(fuzzing)]
pub(crate) mod fuzz {
    pub(crate) use super::{
        forwarded::invariants::check as forwarded,
        request::invariants::{head, path},
    };
}

/// A cluster as this worker uses it.
pub(crate) type Cluster = crate::upstream::Cluster<body::RequestBody>;
