//! What is to be written: heads and small pieces are gathered in one buffer and go out in one piece; large ones are
//! written from where they are, together with what stands before and behind them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue};
use tokio::{io::AsyncWrite, net::TcpStream};

use crate::net::{Pipe, Stream};

/// Bytes that wait to be written to one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Written first, from `from` on.
    gathered: Vec<u8>,
    from: usize,
    /// Then this,
    data: Bytes,
    /// this,
    behind: &'static [u8],
    /// and what is in here.
    pipe: Option<Pipe>,
    /// Whether something was written that the stream may still hold, as TLS does.
    flush: bool,
}

/// Copying so many bytes costs less than a second buffer costs the kernel.
const COPY: usize = 16 * 1024;
/// What is gathered before it has to be written.
const FULL: usize = 16 * 1024;
/// A buffer of so many bytes is kept by a connection that is quiet.
const SMALL: usize = 1024;
/// A buffer of so many bytes is kept for the next message.
const KEEP: usize = 32 * 1024;

/// What an outbox is written to.
pub(crate) trait Sink: AsyncWrite + Unpin {
    /// The socket, if the bytes that are written are the bytes of the socket.
    fn socket(&self) -> Option<&TcpStream>;
}

impl Sink for Stream {
    fn socket(&self) -> Option<&TcpStream> {
        self.plain()
    }
}

impl Outbox {
    /// Whether everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.from == self.gathered.len() && self.data.is_empty() && self.behind.is_empty() && self.pipe.is_none()
    }

    /// Whether more should be put in before it is written.
    pub(crate) fn has_room(&self) -> bool {
        self.data.is_empty() && self.behind.is_empty() && self.pipe.is_none() && self.gathered.len() < FULL
    }

    /// Gathers bytes. Only while there [is room](Self::has_room).
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
    }

    /// Gathers a header field.
    pub(crate) fn put_field(&mut self, name: &HeaderName, value: &HeaderValue) {
        let out = &mut self.gathered;
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        out.reserve(name.len() + value.len() + 4);
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }

    /// Gathers the field that announces the length of a body.
    pub(crate) fn put_length(&mut self, length: u64) {
        self.put(b"content-length: ");
        self.put(itoa::Buffer::new().format(length).as_bytes());
        self.put(b"\r\n");
    }

    /// Gathers the field that announces chunks.
    pub(crate) fn put_chunked(&mut self) {
        self.put(b"transfer-encoding: chunked\r\n");
    }

    /// Puts data in, and what comes behind it. Only while there [is room](Self::has_room).
    pub(crate) fn put_data(&mut self, data: Bytes, behind: &'static [u8]) {
        if data.len() <= COPY {
            self.gathered.reserve(data.len() + behind.len());
            self.gathered.extend_from_slice(&data);
            self.gathered.extend_from_slice(behind);
        } else {
            self.data = data;
            self.behind = behind;
        }
    }

    /// Puts in what is in a pipe. Only while there [is room](Self::has_room), and if the outbox is that of a
    /// [socket](Sink::socket).
    pub(crate) fn put_pipe(&mut self, pipe: Pipe) {
        self.pipe = Some(pipe);
    }

    /// Writes everything.
    pub(crate) fn poll_flush<S: Sink>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let gathered = self.gathered.get(self.from..).unwrap_or_default();
            if let Some(pipe) = &mut self.pipe
                && gathered.is_empty()
            {
                let socket = stream.socket().ok_or(io::ErrorKind::Unsupported)?;
                ready!(pipe.poll_drain(socket, cx))?;
                self.pipe = None;
                continue;
            }
            let wrote = if self.data.is_empty() && self.behind.is_empty() {
                ready!(Pin::new(&mut *stream).poll_write(cx, gathered))?
            } else {
                let slices = [IoSlice::new(gathered), IoSlice::new(&self.data), IoSlice::new(self.behind)];
                let empty = usize::from(gathered.is_empty());
                ready!(Pin::new(&mut *stream).poll_write_vectored(cx, slices.get(empty..).unwrap_or_default()))?
            };
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(wrote);
            self.flush = true;
        }
        if self.flush {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut bytes: usize) {
        let here = bytes.min(self.gathered.len() - self.from);
        self.from += here;
        bytes -= here;
        let here = bytes.min(self.data.len());
        self.data.advance(here);
        bytes -= here;
        self.behind = self.behind.get(bytes..).unwrap_or_default();
        if self.data.is_empty() {
            // Dropped, so that the buffer it is part of can be used again.
            self.data = Bytes::new();
        }
        if self.from == self.gathered.len() {
            self.from = 0;
            self.gathered.clear();
            self.gathered.shrink_to(KEEP);
        }
    }

    /// Gives the buffer back, if nothing is in it and it is large.
    pub(crate) fn release(&mut self) {
        if self.is_empty() && self.gathered.capacity() > SMALL {
            self.gathered = Vec::new();
        }
    }
}
