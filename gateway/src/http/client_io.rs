//! A client's byte stream as hyper reads and writes it.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::rt::ReadBufCursor;
use tokio::io::AsyncWrite;

use super::activity::Activity;
use crate::net::{self, Stream};

/// The client's socket, with the bytes that were read to tell the protocol.
pub(super) struct ClientIo {
    stream: Stream,
    prefix: Bytes,
    activity: Rc<Activity>,
}

impl ClientIo {
    pub(super) fn new(stream: Stream, prefix: Bytes, activity: Rc<Activity>) -> Self {
        Self { stream, prefix, activity }
    }

    /// The connection is not HTTP any more: its socket, and what was read of it and not handed on.
    pub(super) fn into_stream(self) -> (Stream, Bytes) {
        (self.stream, self.prefix)
    }
}

impl hyper::rt::Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let fits = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix[..fits]);
            self.prefix.advance(fits);
            return Poll::Ready(Ok(()));
        }
        match net::poll_read(Pin::new(&mut self.stream), cx, buffer) {
            Poll::Ready(Ok(read)) => {
                if read > 0 {
                    self.activity.read();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl hyper::rt::Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
