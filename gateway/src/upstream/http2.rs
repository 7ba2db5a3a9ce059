//! An HTTP/2 connection: many requests at once, driven by a task of its own.

use std::{rc::Rc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::TokioTimer;
use rustls::pki_types::ServerName;

use super::{
    Failure, RequestBody, UpstreamError, limits,
    slot::{Life, Slot},
};
use crate::{
    clock::Moment,
    net::{Io, LocalExecutor, Stream},
    snapshot::Http2Keepalive,
};

/// A handle for sending; those that are shared out share the connection.
pub(super) struct Http2<B> {
    sender: http2::SendRequest<B>,
    /// The name that it was verified for, inside TLS.
    server_name: Option<Rc<ServerName<'static>>>,
    life: Life,
    used: Moment,
    reused: bool,
    streams: OpenStream,
}

/// Held as long as a stream is open.
pub(super) type OpenStream = Rc<()>;

impl<B: RequestBody> Http2<B> {
    /// Speaks the preface on a fresh socket (prior knowledge).
    pub(super) async fn new(
        stream: Stream,
        server_name: Option<ServerName<'static>>,
        slot: Slot,
        life: Life,
        keepalive: Option<Http2Keepalive>,
    ) -> Result<Self, Failure> {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
            .max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES)
            .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESETS);
        if let Some(Http2Keepalive { interval, timeout }) = keepalive {
            builder.timer(TokioTimer::new()).keep_alive_interval(interval).keep_alive_timeout(timeout);
        }
        let (sender, connection) = builder.handshake(Io(stream)).await.map_err(Failure::Protocol)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream HTTP/2 connection ended");
            }
            drop(slot);
        });
        let server_name = server_name.map(Rc::new);
        Ok(Self { sender, server_name, life, used: Moment::default(), reused: false, streams: Rc::default() })
    }

    /// A handle for one more request.
    pub(super) fn share(&mut self, now: Moment) -> Self {
        let reused = !self.life.begin_request();
        self.used = now;
        let streams = Rc::clone(&self.streams);
        let server_name = self.server_name.clone();
        Self { sender: self.sender.clone(), server_name, life: self.life, used: now, reused, streams }
    }

    /// To be held until the response has ended.
    pub(super) fn stream(&self) -> OpenStream {
        Rc::clone(&self.streams)
    }

    /// The name that it was verified for, inside TLS.
    pub(super) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_deref()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it has been given its last request.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.life.is_over(now)
    }

    /// Whether it has been unused for longer than `timeout`.
    pub(super) fn is_idle(&mut self, timeout: Duration, now: Moment) -> bool {
        if Rc::strong_count(&self.streams) > 1 {
            self.used = now;
        }
        self.used.older_than(timeout, now)
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// The request comes back if the connection had ended, or refused the stream, before anything was processed.
    pub(super) async fn send(mut self, request: Request<B>) -> Result<Response<Incoming>, UpstreamError<B>> {
        match self.sender.try_send_request(request).await {
            Ok(response) if response.headers().len() > limits::MAX_HEADERS => {
                Err(UpstreamError { request: None, failure: Failure::Malformed(limits::TOO_MANY_HEADERS) })
            }
            Ok(response) => Ok(response),
            Err(mut error) => Err(UpstreamError {
                request: error.take_message(),
                failure: Failure::from_hyper(error.into_error(), self.reused),
            }),
        }
    }
}
