//! Limits towards clients. Defaults that are safe at the edge of the internet; h2's own are not
//! (reliability.md 1.3), so every one is set.

use std::{borrow::Cow, time::Duration};

use crate::overload::Stage;

pub use crate::http1::limits::{MAX_CHUNK_EXTENSION_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, MAX_TRAILER_BYTES};

/// Bytes behind an HTTP/1 request which are read while its answer is not there.
pub const READ_AHEAD_BYTES: usize = 16 * 1024;
/// What is left of a request's body when its answer has gone is read, up to so much, if the client has sent it already;
/// otherwise the connection is closed.
pub const DISCARDED_BODY_BYTES: usize = 64 * 1024;
/// From the first byte of a head, or from the start of the connection, to its end: 408, or the connection is closed if
/// nothing has come.
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
/// A request body of which nothing comes although somebody waits for it, before the answer has begun: 408. Not for gRPC.
pub const REQUEST_BODY_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// A client that takes nothing of what there is to send (HTTP/1: on its connection; HTTP/2: on none of its streams, too):
/// the connection is closed.
pub const RESPONSE_WRITE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// After the last answer to a client that is still sending: its connection is half-closed for so long, so that the
/// answer reaches it before the reset does.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
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
/// HTTP/2 frames that do nothing for a request (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, CONTINUATION, empty DATA, unknown
/// ones) and came at once: more is a flood, the connection is closed.
pub const HTTP2_CONTROL_FRAMES: u32 = 2_000;
/// What [`HTTP2_CONTROL_FRAMES`] fills up by in half a second.
pub const HTTP2_FRAMES_PER_TICK: u32 = 50;
/// The same with every stream the client opens.
pub const HTTP2_FRAMES_PER_STREAM: u32 = 10;
/// The same with every piece of a response body: clients answer it with WINDOW_UPDATE and PING.
pub const HTTP2_FRAMES_PER_PIECE: u32 = 40;
/// HTTP/2 streams that the client reset at once, whatever had become of them: more is an attack (CVE-2023-44487), the
/// connection is closed.
pub const HTTP2_RESETS: u32 = 200;
/// What [`HTTP2_RESETS`] fills up by in half a second; every complete answer adds one.
pub const HTTP2_RESETS_PER_TICK: u32 = 50;
/// Body bytes that all plugins of a worker may hold back together; a stream that would exceed it is answered 503. What
/// one plugin may do to one stream is in [`proxy_wasm_host::Limits`].
pub const PLUGIN_WORKER_BYTES: usize = 64 * 1024 * 1024;
/// While memory is running out: what a connection without a request has left, and from the next stage on also one whose
/// client does not read or send.
pub const OVERLOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The same when it is at its end.
pub const LAST_OVERLOAD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long clients may take, and what they may speak. Configured per process; the defaults are the constants above.
#[derive(Debug, Clone)]
pub struct Limits {
    /// [`REQUEST_HEAD_TIMEOUT`]
    pub request_head_timeout: Duration,
    /// [`IDLE_TIMEOUT`]
    pub idle_timeout: Duration,
    /// [`REQUEST_BODY_TIMEOUT`]
    pub request_body_timeout: Duration,
    /// [`RESPONSE_WRITE_TIMEOUT`]
    pub response_write_timeout: Duration,
    /// [`UPGRADE_HALF_CLOSED_TIMEOUT`]
    pub upgrade_half_closed_timeout: Duration,
    /// Whether HTTP/1.0 is served; otherwise it is answered 426, as by Istio's gateway.
    pub http10: bool,
}

impl Limits {
    /// What holds while so much is shed: who holds memory and makes no progress is waited for less long.
    pub(crate) fn under(&self, stage: Stage) -> Cow<'_, Self> {
        if stage < Stage::EndKeepAlive {
            return Cow::Borrowed(self);
        }
        let patience = if stage < Stage::RefuseConnections { OVERLOAD_TIMEOUT } else { LAST_OVERLOAD_TIMEOUT };
        let mut hurried = self.clone();
        hurried.idle_timeout = hurried.idle_timeout.min(patience);
        if stage >= Stage::RefuseRequests {
            hurried.request_head_timeout = hurried.request_head_timeout.min(patience);
            hurried.request_body_timeout = hurried.request_body_timeout.min(patience);
            hurried.response_write_timeout = hurried.response_write_timeout.min(patience);
        }
        Cow::Owned(hurried)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_head_timeout: REQUEST_HEAD_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            request_body_timeout: REQUEST_BODY_TIMEOUT,
            response_write_timeout: RESPONSE_WRITE_TIMEOUT,
            upgrade_half_closed_timeout: UPGRADE_HALF_CLOSED_TIMEOUT,
            http10: false,
        }
    }
}
