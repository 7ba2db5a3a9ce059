//! HTTP over one accepted connection.

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What a server speaks on its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only, without TLS and without an upgrade (RFC 9113 section 3.3).
    Http2,
    /// Whichever of the two the client begins with.
    Either,
}

/// Answers every request of a connection with `service`, until the connection ends.
///
/// # Errors
/// The client broke the protocol or the service failed.
pub async fn serve<S, V>(mut stream: S, protocol: Protocol, service: V) -> Result<(), Box<dyn Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: HttpService<Incoming> + Send,
    V::Future: Send + 'static,
    V::Error: Into<Box<dyn Error + Send + Sync>>,
    V::ResBody: Body + Send + 'static,
    <V::ResBody as Body>::Data: Send,
    <V::ResBody as Body>::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut start = Vec::new();
    let http2 = match protocol {
        Protocol::Http1 => false,
        Protocol::Http2 => true,
        Protocol::Either => {
            // The preface of HTTP/2 begins with a method that HTTP/1.1 does not have.
            let preface = b"PRI ";
            while start.len() < preface.len() && preface.starts_with(&start) {
                if stream.read_buf(&mut start).await? == 0 {
                    return Ok(());
                }
            }
            start.starts_with(preface)
        }
    };
    let io = Io { stream, start: Bytes::from(start) };
    if http2 {
        http2::Builder::new(Tasks).serve_connection(io, service).await?;
    } else {
        // More than the gateway lets through, with what it adds.
        http1::Builder::new().max_headers(200).serve_connection(io, service).await?;
    }
    Ok(())
}

/// A tokio stream as hyper wants it, with the bytes that have been read of it already.
pub struct Io<S> {
    stream: S,
    start: Bytes,
}

impl<S> Io<S> {
    /// A stream of which nothing has been read.
    pub fn new(stream: S) -> Io<S> {
        Io { stream, start: Bytes::new() }
    }
}

impl<S: AsyncRead + Unpin> hyper::rt::Read for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.start.is_empty() {
            let len = self.start.len().min(into.remaining());
            into.put_slice(&self.start.split_to(len));
            return Poll::Ready(Ok(()));
        }
        // One copy more than a proxy could afford, and no unsafe code.
        let mut space = [0; 16 * 1024];
        let len = space.len().min(into.remaining());
        let mut buffer = ReadBuf::new(&mut space);
        let mut limited = buffer.take(len);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut limited))?;
        into.put_slice(limited.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for Io<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Runs the streams of HTTP/2 connections on tokio.
#[derive(Clone, Copy)]
pub struct Tasks;

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        tokio::spawn(task);
    }
}
