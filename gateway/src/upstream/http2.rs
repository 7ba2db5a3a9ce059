//! An HTTP/2 connection: many requests at once, driven by a task of its own.

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};

use super::{Failure, RequestBody, UpstreamError, limits};
use crate::net::{Io, LocalExecutor, Stream};

/// A handle for sending; clones share the connection.
pub(super) struct Http2<B> {
    sender: http2::SendRequest<B>,
    reused: bool,
}

impl<B: RequestBody> Http2<B> {
    /// Speaks the preface on a fresh socket (prior knowledge).
    pub(super) async fn new(stream: Stream) -> Result<Self, Failure> {
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
            .max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES)
            .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESETS)
            .handshake(Io(stream))
            .await
            .map_err(Failure::Protocol)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream HTTP/2 connection ended");
            }
        });
        Ok(Self { sender, reused: false })
    }

    /// A handle for one more request.
    pub(super) fn share(&mut self) -> Self {
        let reused = std::mem::replace(&mut self.reused, true);
        Self { sender: self.sender.clone(), reused }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
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
