//! The access log: one line per request, formatted on the worker, written elsewhere.
//!
//! A worker appends lines to a buffer of its own and hands the buffer over when it is full or when it has
//! time ([`AccessLog::flush`]). The queue to the writing thread is bounded: when the file or pipe does not take
//! what comes, lines are dropped and counted, and no request waits. Whatever clients send, one request is
//! one line, and a JSON line is valid JSON.

mod captured;
mod escape;
mod field;
mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
mod operators;
mod timestamp;
mod writer;

use std::{
    cell::RefCell,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use captured::{Captured, Span, WantedHeaders};
use format::{Layout, Memory};
pub(super) use writer::Writer;
use writer::{Batch, Queue};

use super::ResponseFlags;

/// A worker's buffer is handed over when it holds this much.
const BATCH_BYTES: usize = 64 * 1024;
/// The writing thread is woken for this much: that costs as much as some lines do. More would not stay in a processor's
/// cache from one use of a buffer to the next.
const WAKE_BYTES: usize = 256 * 1024;

/// What is logged, how and where to.
#[derive(Debug, Clone)]
pub struct AccessLogOptions {
    /// The shape of a line.
    pub format: LogFormat,
    /// Where lines go.
    pub sink: LogSink,
    /// How many bytes of lines may wait to be written. Default 4 MiB, about 15 000 lines; 0 still lets one buffer
    /// of one worker wait (64 KiB).
    pub queue_bytes: usize,
}

/// The shape of a line of the access log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Istio's default text format (istio.md 5.2).
    #[default]
    Text,
    /// Istio's default JSON fields, sorted by name. What is missing is `null`.
    Json,
    /// Text with Envoy's command operators. What is missing is `-`.
    CustomText(String),
    /// JSON with Envoy's command operators in its strings. A string that is one operator keeps the operator's type.
    CustomJson(serde_json::Map<String, serde_json::Value>),
}

impl LogFormat {
    /// Whether lines can be written in this format.
    ///
    /// # Errors
    /// Everything in it that is not understood.
    pub fn check(&self) -> Result<(), FormatErrors> {
        Layout::of(self, "").map(drop)
    }
}

/// What is wrong with a format, one message for each place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatErrors(pub Vec<String>);

impl fmt::Display for FormatErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for FormatErrors {}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogSink {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file, which is created if it does not exist.
    File(PathBuf),
}

impl LogSink {
    /// The sink that Istio's `accessLogFile` names. `/dev/stdout` and `/dev/stderr` are not opened as files: that
    /// fails where they are sockets (systemd).
    #[must_use]
    pub fn at(path: &Path) -> Self {
        match path.to_str() {
            Some("/dev/stdout") => Self::Stdout,
            Some("/dev/stderr") => Self::Stderr,
            _ => Self::File(path.to_owned()),
        }
    }
}

impl fmt::Display for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("on standard output"),
            Self::Stderr => f.write_str("on standard error"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Default for AccessLogOptions {
    fn default() -> Self {
        Self { format: LogFormat::default(), sink: LogSink::default(), queue_bytes: 4 * 1024 * 1024 }
    }
}

/// The access log as one worker sees it.
#[derive(Debug)]
pub struct AccessLog {
    queue: Arc<Queue>,
    layout: Layout,
    pending: RefCell<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    batch: Batch,
    memory: Memory,
}

/// One request for the log. Empty text means that there is nothing to say and is shown as `-` (JSON: `null`).
/// Nothing in here is trusted; a value over 16 KiB is cut and ends with `...`.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// When the first byte of the request arrived.
    pub start: SystemTime,
    /// From then until the last byte of the response was sent.
    pub duration: Duration,
    /// Method.
    pub method: &'a str,
    /// Path and query as the client sent them (`x-envoy-original-path` if there is one, else `:path`).
    pub path: &'a [u8],
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// Status sent to the client; 0 if none was.
    pub code: u16,
    /// Why.
    pub flags: ResponseFlags,
    /// Where the response came from, `via_upstream`.
    pub code_details: &'a str,
    /// Why the connection was closed.
    pub connection_termination_details: &'a str,
    /// Why the upstream could not be reached.
    pub upstream_transport_failure_reason: &'a str,
    /// Bytes of the request's head.
    pub request_head_bytes: u64,
    /// Bytes of the response's head.
    pub response_head_bytes: u64,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// Bytes of the response's body.
    pub bytes_sent: u64,
    /// Milliseconds until the upstream answered (`x-envoy-upstream-service-time`).
    pub upstream_service_time: Option<u64>,
    /// How often the request was sent to an upstream.
    pub upstream_attempts: u32,
    /// Headers and trailers that the format wants ([`AccessLog::wanted`]).
    pub headers: &'a Captured,
    /// gRPC status of the response.
    pub grpc_status: Option<u16>,
    /// Host or `:authority`.
    pub authority: Option<&'a [u8]>,
    /// The endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// Name of the cluster.
    pub upstream_cluster: &'a str,
    /// Our address on the connection to the endpoint.
    pub upstream_local_address: Option<SocketAddr>,
    /// The address the client connected to.
    pub downstream_local_address: Option<SocketAddr>,
    /// The client.
    pub downstream_remote_address: Option<SocketAddr>,
    /// Number of the client's connection.
    pub connection_id: u64,
    /// SNI.
    pub requested_server_name: Option<&'a [u8]>,
    /// What the client's TLS connection is; `None` in clear text.
    pub tls: Option<TlsEntry<'a>>,
    /// Name of the route.
    pub route_name: &'a str,
}

/// A TLS connection for the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlsEntry<'a> {
    /// `TLSv1.3`
    pub version: &'a str,
    /// Subject of the client's certificate.
    pub peer_subject: &'a str,
    /// First URI that the client's certificate is for.
    pub peer_uri: &'a str,
    /// First DNS name that the client's certificate is for.
    pub peer_dns: &'a str,
    /// SHA-256 of the client's certificate, hexadecimal.
    pub peer_sha256: &'a str,
    /// Subject of our certificate.
    pub local_subject: &'a str,
    /// First URI that our certificate is for.
    pub local_uri: &'a str,
    /// First DNS name that our certificate is for.
    pub local_dns: &'a str,
}

impl AccessLog {
    pub(super) fn new(writer: &Writer) -> Self {
        Self { queue: writer.queue(), layout: writer.layout().clone(), pending: RefCell::default() }
    }

    /// The headers and trailers that the format shows.
    #[must_use]
    pub fn wanted(&self) -> &WantedHeaders {
        self.layout.wanted()
    }

    /// Logs one request. Never waits for the file.
    pub fn log(&self, entry: &Entry<'_>) {
        let pending = &mut *self.pending.borrow_mut();
        self.layout.write(entry, &mut pending.memory, &mut pending.batch.bytes);
        pending.batch.lines += 1;
        if pending.batch.bytes.len() >= BATCH_BYTES {
            self.queue.push(&mut pending.batch, WAKE_BYTES);
        }
    }

    /// Hands what was logged to the writing thread. A worker calls this when it is idle, at least once a second,
    /// and when it ends (dropping does it too).
    pub fn flush(&self) {
        let pending = &mut *self.pending.borrow_mut();
        if pending.batch.lines > 0 {
            self.queue.push(&mut pending.batch, 0);
        } else {
            self.queue.wake();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}
