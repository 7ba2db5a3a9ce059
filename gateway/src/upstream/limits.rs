//! Limits towards upstreams, which are as untrusted as clients. h2's own defaults are unsafe
//! for a proxy (reliability.md 1.3), so every one is set.

use crate::http1::response;

/// Unused connections kept per endpoint and worker; the oldest is closed when one more comes back.
pub const MAX_IDLE_PER_ENDPOINT: usize = 256;
/// HTTP/2 connections kept per endpoint and worker. There are more than one when the service allows fewer requests at
/// once than there are, and for TLS with the names of many hosts, of which each has its own; the oldest gives way.
pub const MAX_HTTP2_PER_ENDPOINT: usize = 16;
/// Bytes of a response head over HTTP/1.
pub const HEAD_BYTES: usize = 64 * 1024;
/// Headers of a response.
pub const MAX_HEADERS: usize = 100;
/// What is said of a response with more.
pub(super) const TOO_MANY_HEADERS: &str = response::TOO_MANY_FIELDS.0;
/// What is said of a response whose head has more than [`HEAD_BYTES`].
pub(super) const HEAD_TOO_LARGE: &str = "its head has more than 64 KiB";
/// Receive window of one HTTP/2 stream in bytes.
pub const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
/// Receive window of an HTTP/2 connection in bytes.
pub const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Size of a decoded HTTP/2 header list in bytes.
pub const HTTP2_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// Bytes of one HTTP/2 stream that may wait for the peer's window.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// HTTP/2 frames of a service that do nothing for an answer (PING, SETTINGS, WINDOW_UPDATE, CONTINUATION, empty DATA, unknown
/// ones) and came at once: more is a flood, the connection is closed.
pub const HTTP2_CONTROL_FRAMES: u32 = 2_000;
/// What [`HTTP2_CONTROL_FRAMES`] fills up by in half a second.
pub const HTTP2_FRAMES_PER_TICK: u32 = 50;
/// What every head and piece of a body, either way, allows besides: services answer those that they get with WINDOW_UPDATE
/// and PING.
pub const HTTP2_FRAMES_PER_PIECE: u32 = 4;
/// Of that, what may be left over.
pub const HTTP2_EARNED_FRAMES: u32 = 100_000;
/// HTTP/2 streams that the peer reset and that still wait to be noticed.
pub const HTTP2_PENDING_RESETS: usize = 20;
