//! Response bodies. An HTTP/1 body drives the connection it comes from and hands it back when it has ended.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{RequestBody, endpoint::Active, http1::Http1, http2::OpenStream};
use crate::net::Stream;

/// The body of an upstream's response.
pub struct ResponseBody<B: RequestBody> {
    incoming: Incoming,
    /// HTTP/1 only: the connection, until the body has ended.
    connection: Option<Box<Http1<B>>>,
    /// HTTP/2 only: tells the connection that it is in use.
    _stream: Option<OpenStream>,
    active: Active<B>,
}

/// A connection that is not HTTP any more.
pub struct Upgraded<B: RequestBody> {
    /// Its bytes from here on.
    pub stream: Stream,
    /// What came of them together with the 101.
    pub read_ahead: Bytes,
    /// Counts the connection as a request of its endpoint.
    pub active: Active<B>,
}

impl<B: RequestBody> ResponseBody<B> {
    pub(super) fn http1(incoming: Incoming, connection: Box<Http1<B>>, active: Active<B>) -> Self {
        let mut body = Self { incoming, connection: Some(connection), _stream: None, active };
        // After a 101 there is no next request.
        if body.incoming.is_end_stream() && !body.is_upgraded() {
            body.release();
        }
        body
    }

    pub(super) fn http2(incoming: Incoming, stream: OpenStream, active: Active<B>) -> Self {
        Self { incoming, connection: None, _stream: Some(stream), active }
    }

    fn is_upgraded(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_upgraded())
    }

    /// The connection, if the response was the 101 that had been asked for.
    #[must_use]
    pub fn upgraded(mut self) -> Option<Upgraded<B>> {
        let (stream, read_ahead, slot) = self.connection?.into_stream()?;
        self.active.slot = Some(slot);
        Some(Upgraded { stream, read_ahead, active: self.active })
    }

    /// The message is complete: the connection can serve another request.
    fn release(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.active.endpoint.keep(connection);
        }
    }
}

impl<B: RequestBody> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let mut polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if polled.is_pending()
            && let Some(connection) = &mut this.connection
        {
            // Asking came first: only now does the connection know that somebody wants the next piece.
            connection.drive(cx);
            polled = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        match &polled {
            Poll::Ready(None) => this.release(),
            Poll::Ready(Some(Ok(_))) if this.incoming.is_end_stream() => this.release(),
            // Broken in the middle: the connection goes with the body.
            Poll::Ready(Some(Err(_))) => this.connection = None,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
