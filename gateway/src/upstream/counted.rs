//! A service's HTTP/2 bytes as hyper reads and writes them. Frames that serve no answer are counted, as those of clients
//! are: a service that floods a connection with them loses it, and other connections go on.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, ReadBuf};

use super::limits;
use crate::{
    clock::Clock,
    net::{
        Io, Stream,
        frames::{Account, Header, Walk, kind},
    },
};

/// A connection to a service, with the counting in front of hyper.
pub(super) struct Counted {
    io: Io<Stream>,
    received: Walk,
    sent: Walk,
    account: Account,
    /// What was earned besides by what goes to and fro; it can be much when many small pieces are on their way.
    earned: u32,
    clock: Clock,
    floods: Rc<Cell<u64>>,
}

/// What a client's side of a connection begins with.
const PREFACE: u64 = 24;

impl Counted {
    /// Nothing has been sent yet. `floods` counts.
    pub(super) fn new(stream: Stream, clock: &Clock, floods: &Rc<Cell<u64>>) -> Self {
        Self {
            io: Io(stream),
            received: Walk::new(0),
            sent: Walk::new(PREFACE),
            account: Account::new(limits::HTTP2_CONTROL_FRAMES, clock.now().ticks()),
            earned: 0,
            clock: clock.clone(),
            floods: Rc::clone(floods),
        }
    }

    /// Looks at what has come.
    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Self { received, account, earned, clock, floods, .. } = self;
        let now = clock.now().ticks();
        let looked = received.over(bytes, |header: Header, _| {
            if is_work(header) {
                *earned = (*earned + limits::HTTP2_FRAMES_PER_PIECE).min(limits::HTTP2_EARNED_FRAMES);
            } else if *earned > 0 {
                *earned -= 1;
            } else if !account.pay(now, limits::HTTP2_FRAMES_PER_TICK) {
                return Err(io::Error::other("the service floods its connection with frames"));
            }
            Ok(())
        });
        if looked.is_err() {
            floods.set(floods.get() + 1);
        }
        looked
    }

    /// Looks at what was sent.
    fn earn(&mut self, bytes: &[u8]) {
        let Self { sent, earned, .. } = self;
        let Ok(()) = sent.over(bytes, |header: Header, _| {
            if is_work(header) {
                *earned = (*earned + limits::HTTP2_FRAMES_PER_PIECE).min(limits::HTTP2_EARNED_FRAMES);
            }
            Ok::<(), Infallible>(())
        });
    }
}

/// Whether it brings a message on.
fn is_work(header: Header) -> bool {
    header.kind == kind::HEADERS || header.kind == kind::DATA && !header.is_empty_data()
}

impl Read for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: `ReadBuf` never de-initialises bytes.
        let mut target = ReadBuf::uninit(unsafe { buffer.as_mut() });
        ready!(Pin::new(&mut self.io.0).poll_read(cx, &mut target))?;
        self.count(target.filled())?;
        let read = target.filled().len();
        // SAFETY: these bytes were just filled.
        unsafe { buffer.advance(read) };
        Poll::Ready(Ok(()))
    }
}

impl Write for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.earn(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bytes))?;
        let mut left = written;
        for piece in bytes {
            let here = left.min(piece.len());
            self.earn(piece.get(..here).unwrap_or_default());
            left -= here;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
