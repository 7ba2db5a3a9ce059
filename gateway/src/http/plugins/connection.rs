//! A TCP connection whose bytes pass through plugins, both ways.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use proxy_wasm_host::{Half, Peer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf},
    time::Sleep,
};

use super::{body::FilteredBody, filters::Filters};
use crate::{
    net::{End, Ended, Stream},
    tcp::Relay,
    upstream::BodyError,
};

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// A client and a service that talk to each other through plugins.
pub(in crate::http) struct FilteredTunnel {
    filters: Rc<Filters>,
    /// What the client sends, on its way to the service.
    up: Direction,
    down: Direction,
    started: Instant,
    /// Exists only while one side is done; belongs to the number of bytes that had been copied when it was set.
    silence: Option<(u64, Pin<Box<Sleep>>)>,
    by: Peer,
}

struct Direction {
    source: FilteredBody<Reading>,
    target: WriteHalf<Stream>,
    /// Passed by the plugins and not yet taken by the target.
    waiting: Bytes,
    state: State,
    /// Read from the source so far, shared with the end of it that the plugins' body owns.
    bytes: Rc<std::cell::Cell<u64>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended; the target is to be told.
    Ending,
    Ended,
}

/// What one side sends, as a body.
struct Reading {
    stream: ReadHalf<Stream>,
    read_ahead: Bytes,
    ended: bool,
    bytes: Rc<std::cell::Cell<u64>>,
}

impl FilteredTunnel {
    pub(in crate::http) fn new(filters: Rc<Filters>, client: End, upstream: End) -> Self {
        let (from_client, to_client) = tokio::io::split(client.stream);
        let (from_upstream, to_upstream) = tokio::io::split(upstream.stream);
        let up = Direction::new(&filters, Half::Request, (from_client, client.read_ahead), to_upstream);
        let down = Direction::new(&filters, Half::Response, (from_upstream, upstream.read_ahead), to_client);
        Self { filters, up, down, started: Instant::now(), silence: None, by: Peer::Local }
    }

    fn poll(&mut self, half_closed: Duration, cx: &mut Context<'_>) -> Poll<Ended> {
        let up = match self.up.poll(cx) {
            Poll::Ready(Err(Broken::Source(error))) => {
                self.by = Peer::Remote;
                return Poll::Ready(Ended::Client(error));
            }
            Poll::Ready(Err(Broken::Target(error))) => return Poll::Ready(Ended::Upstream(error)),
            Poll::Ready(Err(Broken::Plugin)) => return Poll::Ready(Ended::Filtered),
            other => other.is_ready(),
        };
        if up && self.down.state != State::Ended {
            self.by = Peer::Remote;
        }
        let down = match self.down.poll(cx) {
            Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(Ended::Upstream(error)),
            Poll::Ready(Err(Broken::Target(error))) => {
                self.by = Peer::Remote;
                return Poll::Ready(Ended::Client(error));
            }
            Poll::Ready(Err(Broken::Plugin)) => return Poll::Ready(Ended::Filtered),
            other => other.is_ready(),
        };
        if up && down {
            return Poll::Ready(Ended::Closed);
        }
        if !up && !down {
            return Poll::Pending;
        }
        let bytes = self.received() + self.sent();
        let (seen, timer) = self.silence.get_or_insert_with(|| (bytes, Box::pin(tokio::time::sleep(half_closed))));
        if *seen != bytes {
            *seen = bytes;
            timer.as_mut().reset(tokio::time::Instant::now() + half_closed);
        }
        timer.as_mut().poll(cx).map(|()| Ended::HalfClosed)
    }
}

impl Relay for FilteredTunnel {
    fn received(&self) -> u64 {
        self.up.bytes.get()
    }

    fn sent(&self) -> u64 {
        self.down.bytes.get()
    }

    async fn run(&mut self, half_closed: Duration) -> Ended {
        poll_fn(|cx| self.poll(half_closed, cx)).await
    }
}

impl Drop for FilteredTunnel {
    fn drop(&mut self) {
        let service_done = self.down.state != State::Open;
        let bytes = (self.received(), self.sent());
        self.filters.disconnect(self.by, service_done, self.started.elapsed(), bytes);
    }
}

/// Why a direction is broken.
enum Broken {
    Source(io::Error),
    Target(io::Error),
    /// A plugin closed the connection, or failed.
    Plugin,
}

impl Direction {
    fn new(
        filters: &Rc<Filters>,
        half: Half,
        (stream, read_ahead): (ReadHalf<Stream>, Bytes),
        target: WriteHalf<Stream>,
    ) -> Self {
        let bytes = Rc::default();
        let reading = Reading { stream, read_ahead, ended: false, bytes: Rc::clone(&bytes) };
        let source = FilteredBody::new(reading, Rc::clone(filters), half);
        Self { source, target, waiting: Bytes::new(), state: State::Open, bytes }
    }

    /// Moves what can be moved now. Ready: the source has ended, and the target knows it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut target = Pin::new(&mut self.target);
        loop {
            while !self.waiting.is_empty() {
                let written =
                    std::task::ready!(target.as_mut().poll_write(cx, &self.waiting)).map_err(Broken::Target)?;
                if written == 0 {
                    return Poll::Ready(Err(Broken::Target(io::ErrorKind::WriteZero.into())));
                }
                self.waiting.advance(written);
            }
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    match std::task::ready!(target.as_mut().poll_shutdown(cx)) {
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                        other => other.map_err(Broken::Target)?,
                    }
                    self.state = State::Ended;
                    continue;
                }
                State::Open => {}
            }
            match Pin::new(&mut self.source).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.waiting = frame.into_data().unwrap_or_default(),
                Poll::Ready(None) => self.state = State::Ending,
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(match error.downcast::<io::Error>() {
                        Ok(error) => Broken::Source(*error),
                        Err(_) => Broken::Plugin,
                    }));
                }
                Poll::Pending => {
                    // TLS may hold back what was written.
                    std::task::ready!(target.as_mut().poll_flush(cx)).map_err(Broken::Target)?;
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Body for Reading {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let piece = if !this.read_ahead.is_empty() {
            std::mem::take(&mut this.read_ahead)
        } else if this.ended {
            return Poll::Ready(None);
        } else {
            let mut space = [std::mem::MaybeUninit::uninit(); PIECE];
            let mut read = ReadBuf::uninit(&mut space);
            std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            Bytes::copy_from_slice(read.filled())
        };
        if piece.is_empty() {
            this.ended = true;
            return Poll::Ready(None);
        }
        this.bytes.set(this.bytes.get() + piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}
