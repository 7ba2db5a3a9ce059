//! Limits towards clients. Defaults that are safe at the edge of the internet; hyper's and h2's own are not
//! (reliability.md 1.3), so every one is set.

use std::time::Duration;

/// Headers of one request, both protocols: 431.
pub const MAX_HEADERS: usize = 100;
/// Bytes of a request head: 431.
pub const MAX_HEAD_BYTES: usize = 60 * 1024;
/// Buffer of an HTTP/1 connection; a head must fit, bodies are read in pieces of at most this size.
pub const HTTP1_BUFFER_BYTES: usize = 64 * 1024;
/// From the first byte of a head, or from the start of the connection, to its end: the connection is closed.
pub const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a connection on which nothing has come when the gateway or its listener ends: long enough for a first
/// request that is on its way.
pub const DRAIN_HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection without a request: closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Bytes of a PROXY protocol header. Only its addresses are kept; the rest is skipped.
pub const PROXY_HEADER_BYTES: usize = 4096;
/// Silence on an upgraded connection (WebSocket) of which one side has ended: it is closed.
pub const UPGRADE_HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests at once on an HTTP/2 connection: more are refused.
pub const HTTP2_STREAMS: u32 = 100;
/// Receive window of one HTTP/2 stream in bytes.
pub const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
/// Receive window of an HTTP/2 connection in bytes.
pub const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Decoded size of an HTTP/2 header list; above [`MAX_HEAD_BYTES`], so that it is us who answer 431.
pub const HTTP2_HEADER_LIST_BYTES: u32 = 128 * 1024;
/// Bytes of one HTTP/2 stream that may wait for the client's window.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// HTTP/2 streams that the client reset before we looked at them: more is an attack, the connection is closed.
pub const HTTP2_PENDING_RESETS: usize = 20;
/// HTTP/2 streams that we had to reset for the client's errors: more is an attack, the connection is closed.
pub const HTTP2_ERROR_RESETS: usize = 1024;
/// Bytes of a request body that are kept so that it can be sent again, where the route's policy may want that; a longer
/// one is not sent again.
pub const RETRY_BUFFER_BYTES: usize = 64 * 1024;
/// Body bytes that all plugins of a worker may hold back together; a stream that would exceed it is answered 503. What
/// one plugin may do to one stream is in [`proxy_wasm_host::Limits`].
pub const PLUGIN_WORKER_BYTES: usize = 64 * 1024 * 1024;
/// Connections of one worker, if the limit of open files allows as many.
pub const MAX_CONNECTIONS_PER_WORKER: usize = 50_000;
