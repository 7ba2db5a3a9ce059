//! A client's HTTP/2 bytes as hyper reads and writes them: frames are counted first, and a flood is turned into one that
//! h2 itself ends with GOAWAY.

use std::{
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::{
    connection::Connection,
    floods::{Flood, Frames},
    limits,
};
use crate::{net::Stream, telemetry::Limit};

/// The client's socket with the counting in front of hyper.
pub(super) struct ClientIo {
    stream: Stream,
    /// What hyper gets before anything else is read.
    inbox: BytesMut,
    frames: Frames,
    reading: Reading,
    connection: Rc<Connection>,
    lingering: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    /// A flood cannot be ended in order: reading fails.
    Broken,
    /// Nothing is read for hyper any more.
    Done,
}

/// How much is read at a time of what nobody wants.
const READ_BYTES: usize = 4 * 1024;
/// Reads at a time of it.
const DISCARDED_READS: usize = 16;

impl ClientIo {
    /// `prefix` is what was read to tell the protocol.
    pub(super) fn new(stream: Stream, prefix: &[u8], connection: Rc<Connection>) -> Self {
        let frames = Frames::new(connection.activity.ticks());
        let inbox = BytesMut::from(prefix);
        let mut io = Self { stream, inbox, frames, reading: Reading::On, connection, lingering: false };
        if let Some(pass) = io.count(prefix) {
            io.end(prefix.len().min(pass.unwrap_or(0)), pass.is_some());
        }
        io
    }

    /// Counts what was read. `None`: it may pass. Otherwise it is a flood, and says which of its bytes are whole frames, if
    /// that is known.
    fn count(&mut self, bytes: &[u8]) -> Option<Option<usize>> {
        let Connection { activity, worker, .. } = &*self.connection;
        let (pieces, answers) = activity.take_sent();
        self.frames.earn(pieces, answers);
        let (heads, within_head) = (self.frames.heads(), self.frames.is_in_head());
        match self.frames.check(bytes, activity.ticks()) {
            Ok(()) => {
                // A head may also end here that began in what was read before.
                if within_head || self.frames.is_in_head() || self.frames.heads() > heads {
                    activity.head_is(self.frames.is_in_head());
                }
                if self.frames.heads() > heads && activity.requests() >= limits::HTTP2_STREAMS {
                    // h2 refuses them.
                    worker.telemetry.counters().limit_exceeded(Limit::Http2Streams);
                }
                None
            }
            Err((flood, place)) => {
                let counters = worker.telemetry.counters();
                counters.downstream_protocol_errors.inc();
                counters.limit_exceeded(match flood {
                    Flood::Frames => Limit::Http2Frames,
                    Flood::Resets => Limit::Http2Resets,
                });
                tracing::debug!(remote = %self.connection.remote, ?flood, "a client floods its connection");
                activity.linger();
                Some(place)
            }
        }
    }

    /// What follows the first `kept` bytes of the inbox is a flood.
    fn end(&mut self, kept: usize, in_order: bool) {
        self.inbox.truncate(kept);
        if in_order {
            self.inbox.extend_from_slice(&Frames::calm());
        }
        self.reading = if in_order { Reading::Done } else { Reading::Broken };
    }

    /// Reads into hyper's buffer.
    fn poll_read_through(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBufCursor<'_>) -> Poll<io::Result<usize>> {
        // SAFETY: `ReadBuf` never de-initialises bytes.
        let mut target = ReadBuf::uninit(unsafe { buffer.as_mut() });
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut target))?;
        let read = target.filled();
        let pass = match self.count(read) {
            None => read.len(),
            Some(place) => {
                self.end(0, place.is_some());
                place.unwrap_or(0)
            }
        };
        // SAFETY: at most the bytes that were just filled.
        unsafe { buffer.advance(pass) };
        Poll::Ready(Ok(pass))
    }

    /// Reads and forgets until the client has nothing more to say; the sweep ends it if that takes too long.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..DISCARDED_READS {
            self.inbox.clear();
            self.inbox.reserve(READ_BYTES);
            match ready!(pin!(self.stream.read_buf(&mut self.inbox)).poll(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Ok(())),
                Ok(_) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Tells the sweep whether the client takes what is sent.
    fn wrote<T>(&self, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.connection.activity.wrote(wrote.is_ready());
        wrote
    }
}

impl hyper::rt::Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !this.inbox.is_empty() {
            let fits = this.inbox.len().min(buffer.remaining());
            buffer.put_slice(this.inbox.get(..fits).unwrap_or_default());
            this.inbox.advance(fits);
            if this.inbox.is_empty() {
                // Thousands of connections are quiet; none of them needs it.
                this.inbox = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        match this.reading {
            Reading::On => {
                let passed = ready!(this.poll_read_through(cx, &mut buffer))?;
                if this.reading == Reading::On || passed > 0 {
                    return Poll::Ready(Ok(()));
                }
                // Nothing has passed, which hyper would take for the end of the connection.
                self.poll_read(cx, buffer)
            }
            Reading::Broken => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            Reading::Done => Poll::Pending,
        }
    }
}

impl hyper::rt::Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.lingering {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if this.inbox.is_empty() && this.reading == Reading::On {
                return Poll::Ready(Ok(()));
            }
            // A socket that is closed with unread bytes resets the connection, and with it the answer that is on its way.
            this.lingering = true;
            this.connection.activity.linger();
        }
        this.poll_discard(cx)
    }
}
