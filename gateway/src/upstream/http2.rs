//! An HTTP/2 connection: many requests at once, driven by a task of its own.

use std::{cell::Cell, future::poll_fn, pin::pin, rc::Rc, time::Duration};

use heads::{HeaderList, ResponseHead};
use http::Version;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::TokioTimer;
use rustls::pki_types::ServerName;

use super::{
    Failure, Remains, Request, RequestBody, UpstreamError,
    counted::Counted,
    limits,
    slot::{Life, Places, Slot},
};
use crate::{
    clock::Moment,
    net::LocalExecutor,
    snapshot::{ConnectionSettings, Http2Keepalive},
};

/// A handle for sending; those that are shared out share the connection.
pub(super) struct Http2<B> {
    sender: http2::SendRequest<B>,
    /// The name that it was verified for, inside TLS.
    server_name: Option<Rc<ServerName<'static>>>,
    life: Life,
    used: Moment,
    reused: bool,
    /// As many streams as the service allows at once, and as the settings do.
    most: Rc<Cell<usize>>,
    /// One more than there are open streams.
    streams: Rc<()>,
}

/// Held as long as a stream is open.
pub(super) struct OpenStream {
    _stream: Rc<()>,
    places: Rc<Places>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        // Whoever waits for a connection may use this one now.
        self.places.notify();
    }
}

impl<B: RequestBody> Http2<B> {
    /// Speaks the preface on a fresh socket (prior knowledge).
    pub(super) async fn new(
        stream: Counted,
        server_name: Option<ServerName<'static>>,
        slot: Slot,
        life: Life,
        settings: &ConnectionSettings,
    ) -> Result<Self, Failure> {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
            .max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES)
            .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESETS);
        if let Some(Http2Keepalive { interval, timeout }) = settings.http2_keepalive {
            builder.timer(TokioTimer::new()).keep_alive_interval(interval).keep_alive_timeout(timeout);
        }
        let (sender, connection) = builder.handshake(stream).await.map_err(Failure::Protocol)?;
        let limit = settings.max_streams.map_or(usize::MAX, |limit| limit as usize);
        let most = Rc::new(Cell::new(connection.current_max_send_streams().min(limit)));
        let known = Rc::clone(&most);
        tokio::task::spawn_local(async move {
            let mut connection = pin!(connection);
            let ended = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                // The service says it when the connection begins, and may say it again.
                known.set(connection.current_max_send_streams().min(limit));
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "upstream HTTP/2 connection ended");
            }
            drop(slot);
        });
        let server_name = server_name.map(Rc::new);
        let (used, streams) = (Moment::default(), Rc::default());
        Ok(Self { sender, server_name, life, used, reused: false, most, streams })
    }

    /// A handle for one more request.
    pub(super) fn share(&mut self, now: Moment) -> Self {
        let reused = !self.life.begin_request();
        self.used = now;
        let streams = Rc::clone(&self.streams);
        let server_name = self.server_name.clone();
        let most = Rc::clone(&self.most);
        Self { sender: self.sender.clone(), server_name, life: self.life, used: now, reused, most, streams }
    }

    /// Open streams, of a connection that is kept.
    pub(super) fn open_streams(&self) -> usize {
        Rc::strong_count(&self.streams) - 1
    }

    /// Whether one more stream would have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.open_streams() >= self.most.get()
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
        if self.open_streams() > 0 {
            self.used = now;
        }
        self.used.older_than(timeout, now)
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// The request is still whole if the connection had ended, or refused the stream, before anything was processed.
    pub(super) async fn send(
        mut self,
        request: &mut Request<B>,
        places: &Rc<Places>,
    ) -> Result<(ResponseHead, Incoming, OpenStream), UpstreamError> {
        let stream = OpenStream { _stream: self.streams, places: Rc::clone(places) };
        match self.sender.try_send_request(whole(request)).await {
            Ok(response) if response.headers().len() > limits::MAX_HEADERS => {
                let failure = Failure::Malformed(limits::TOO_MANY_HEADERS);
                Err(UpstreamError { failure, request: Remains::Spent })
            }
            Ok(response) => {
                let (parts, body) = response.into_parts();
                Ok((ResponseHead { status: parts.status, headers: parts.headers.into() }, body, stream))
            }
            Err(mut error) => {
                let remains = match error.take_message() {
                    Some(unsent) => {
                        give_back(unsent, request);
                        Remains::Unsent
                    }
                    None => Remains::Spent,
                };
                let failure = Failure::from_hyper(error.into_error(), self.reused);
                Err(UpstreamError { failure, request: remains })
            }
        }
    }
}

/// A request as hyper wants it, which takes what is in ours.
fn whole<B: RequestBody>(request: &mut Request<B>) -> http::Request<B> {
    let mut whole = http::Request::new(std::mem::take(&mut request.body));
    *whole.method_mut() = std::mem::take(&mut request.method);
    *whole.uri_mut() = std::mem::take(&mut request.uri);
    *whole.version_mut() = Version::HTTP_2;
    *whole.headers_mut() = std::mem::take(&mut request.headers).into();
    whole
}

/// And back.
fn give_back<B>(whole: http::Request<B>, request: &mut Request<B>) {
    let (parts, body) = whole.into_parts();
    *request = Request { method: parts.method, uri: parts.uri, headers: HeaderList::from(parts.headers), body };
}
