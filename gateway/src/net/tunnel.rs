//! Two connections that have become one: bytes are copied both ways until both sides have ended.
//!
//! Knows nothing of what the bytes mean; WebSockets use it, and so can everything else that is not HTTP. There is no
//! task and no buffer per direction: what one side sends is read onto the stack and written to the other side at once.
//! Only what that side does not take is kept, and nothing more is read before it has gone. So an idle tunnel costs its
//! two sockets, and a slow one at most [`PIECE`] for each direction.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::Stream;

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// One end of a tunnel.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) stream: Stream,
    /// Bytes of it that were read before the tunnel began.
    pub(crate) read_ahead: Bytes,
}

/// How a tunnel ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Both sides have said that they are done.
    Closed,
    /// The client's connection broke.
    Client(io::Error),
    /// The upstream's connection broke.
    Upstream(io::Error),
    /// One side is done and the other was silent for too long.
    HalfClosed,
}

/// A client and an upstream that talk to each other.
#[derive(Debug)]
pub(crate) struct Tunnel {
    client: Stream,
    upstream: Stream,
    up: Flow,
    down: Flow,
}

impl Tunnel {
    pub(crate) fn new(client: End, upstream: End) -> Self {
        Self {
            up: Flow::new(client.read_ahead),
            down: Flow::new(upstream.read_ahead),
            client: client.stream,
            upstream: upstream.stream,
        }
    }

    /// Bytes that the client has sent so far.
    pub(crate) fn received(&self) -> u64 {
        self.up.bytes
    }

    /// Bytes that the upstream has sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.down.bytes
    }

    /// Copies until both sides have ended or one is broken. The end of one side is passed on, and the other may go on
    /// sending; but then it may not be silent for longer than `half_closed`.
    pub(crate) async fn run(&mut self, half_closed: Duration) -> Ended {
        // Exists only while one side is done; belongs to the number of bytes that had been copied when it was set.
        let mut silence: Option<(u64, Pin<Box<Sleep>>)> = None;
        poll_fn(|cx| {
            let up = match self.up.poll(&mut self.client, &mut self.upstream, cx) {
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(Ended::Client(error)),
                Poll::Ready(Err(Broken::Target(error))) => return Poll::Ready(Ended::Upstream(error)),
                other => other.is_ready(),
            };
            let down = match self.down.poll(&mut self.upstream, &mut self.client, cx) {
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(Ended::Upstream(error)),
                Poll::Ready(Err(Broken::Target(error))) => return Poll::Ready(Ended::Client(error)),
                other => other.is_ready(),
            };
            if up && down {
                return Poll::Ready(Ended::Closed);
            }
            if !up && !down {
                return Poll::Pending;
            }
            let bytes = self.up.bytes + self.down.bytes;
            let (seen, timer) = silence.get_or_insert_with(|| (bytes, Box::pin(tokio::time::sleep(half_closed))));
            if *seen != bytes {
                *seen = bytes;
                timer.as_mut().reset(Instant::now() + half_closed);
            }
            timer.as_mut().poll(cx).map(|()| Ended::HalfClosed)
        })
        .await
    }
}

/// Which side of a direction is broken.
enum Broken {
    Source(io::Error),
    Target(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The source has ended; the target is to be told.
    Ending,
    Ended,
}

/// One direction.
#[derive(Debug)]
struct Flow {
    /// Read from the source and not yet taken by the target.
    waiting: Bytes,
    phase: Phase,
    /// Whether the target may hold back what was written to it (TLS does).
    unflushed: bool,
    /// Read from the source so far.
    bytes: u64,
}

impl Flow {
    fn new(read_ahead: Bytes) -> Self {
        Self { bytes: read_ahead.len() as u64, waiting: read_ahead, phase: Phase::Open, unflushed: false }
    }

    /// Copies what can be copied now. Ready: the source has ended, and the target knows it.
    fn poll(&mut self, source: &mut Stream, target: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut target = Pin::new(target);
        loop {
            while !self.waiting.is_empty() {
                let written = ready!(target.as_mut().poll_write(cx, &self.waiting)).map_err(Broken::Target)?;
                if written == 0 {
                    return Poll::Ready(Err(Broken::Target(io::ErrorKind::WriteZero.into())));
                }
                self.waiting.advance(written);
                self.unflushed = true;
            }
            // It may be part of a large buffer.
            self.waiting = Bytes::new();
            if self.phase == Phase::Ending {
                match ready!(target.as_mut().poll_shutdown(cx)) {
                    // The target has closed its side meanwhile; it will tell by itself whether that was in order.
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                    other => other.map_err(Broken::Target)?,
                }
                self.phase = Phase::Ended;
            }
            if self.phase == Phase::Ended {
                return Poll::Ready(Ok(()));
            }
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *source).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => self.phase = Phase::Ending,
                Poll::Ready(Ok(())) => {
                    let piece = read.filled();
                    self.bytes += piece.len() as u64;
                    let written = match target.as_mut().poll_write(cx, piece) {
                        Poll::Ready(Ok(written)) => written,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Target(error))),
                        Poll::Pending => 0,
                    };
                    self.unflushed |= written > 0;
                    self.waiting = Bytes::copy_from_slice(piece.get(written..).unwrap_or_default());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Source(error))),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(target.as_mut().poll_flush(cx)).map_err(Broken::Target)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
