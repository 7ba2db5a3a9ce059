//! Response bodies. An HTTP/1 body drives the connection it comes from and hands it back when it has ended.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{BodyError, RequestBody, endpoint::Active, http1::Http1, http2::OpenStream};
use crate::{
    http1::sending::Piped,
    net::{Pipe, Stream},
};

/// The body of an upstream's response.
pub struct ResponseBody<B: RequestBody> {
    source: Source<B>,
    active: Active<B>,
}

enum Source<B> {
    /// The connection, until the body has ended.
    Http1(Option<Box<Http1<B>>>),
    /// The stream tells the connection that it is in use.
    Http2(Incoming, #[allow(dead_code, reason = "held")] OpenStream),
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
    pub(super) fn http1(connection: Box<Http1<B>>, active: Active<B>) -> Self {
        // After a 101 there is no next request.
        let ended = connection.is_end_of_body() && !connection.is_upgraded();
        let mut body = Self { source: Source::Http1(Some(connection)), active };
        if ended {
            body.release();
        }
        body
    }

    pub(super) fn http2(incoming: Incoming, stream: OpenStream, active: Active<B>) -> Self {
        Self { source: Source::Http2(incoming, stream), active }
    }

    /// The connection, if the response was the 101 that had been asked for.
    #[must_use]
    pub fn upgraded(mut self) -> Option<Upgraded<B>> {
        let Source::Http1(connection) = self.source else { return None };
        let (stream, read_ahead, slot) = connection?.into_stream()?;
        self.active.slot = Some(slot);
        Some(Upgraded { stream, read_ahead, active: self.active })
    }

    /// The message is complete: the connection can serve another request.
    fn release(&mut self) {
        if let Source::Http1(connection) = &mut self.source
            && let Some(connection) = connection.take()
        {
            self.active.endpoint.keep(connection);
        }
    }
}

impl<B: RequestBody> Piped for ResponseBody<B> {
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, BodyError>>> {
        let Source::Http1(Some(connection)) = &mut self.source else { return Poll::Ready(None) };
        let polled = connection.poll_pipe(cx);
        match &polled {
            // Broken in the middle: the connection goes with the body.
            Poll::Ready(Some(Err(_))) => self.source = Source::Http1(None),
            Poll::Ready(Some(Ok(_))) if connection.is_end_of_body() => self.release(),
            _ => {}
        }
        polled
    }
}

impl<B: RequestBody> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let connection = match &mut this.source {
            Source::Http2(incoming, _) => return Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Source::Http1(None) => return Poll::Ready(None),
            Source::Http1(Some(connection)) => connection,
        };
        let polled = connection.poll_body(cx);
        match &polled {
            // Broken in the middle: the connection goes with the body.
            Poll::Ready(Some(Err(_))) => this.source = Source::Http1(None),
            Poll::Ready(_) if connection.is_end_of_body() => this.release(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Http1(connection) => connection.as_ref().is_none_or(|connection| connection.is_end_of_body()),
            Source::Http2(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Http1(None) => SizeHint::with_exact(0),
            Source::Http1(Some(connection)) => connection.body_left().map_or_else(SizeHint::new, SizeHint::with_exact),
            Source::Http2(incoming, _) => incoming.size_hint(),
        }
    }
}
