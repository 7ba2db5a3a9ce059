//! A client's byte stream as hyper reads and writes it.
//!
//! What is read passes the guard of its protocol first. What the guard keeps back (the beginning of a head that is not
//! complete) waits here. Where it refuses, hyper gets instead what makes the connection end in the proper way: a head
//! that stands in for the refused one and is answered like every other, an error in place of the rest of a body, or
//! frames that are too many.

use std::{
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{
    connection::Connection,
    guard::{Flood, Http1, Http2, Refusal},
    limits,
};
use crate::{net::Stream, telemetry::Limit};

/// The client's socket with the guard in front of hyper.
pub(super) struct ClientIo {
    stream: Stream,
    /// What was read and has not passed to hyper yet; the first `checked` bytes may.
    inbox: BytesMut,
    checked: usize,
    gate: Gate,
    lingering: bool,
}

/// The guard, and where it reports to.
struct Gate {
    guard: Guard,
    connection: Rc<Connection>,
}

enum Guard {
    Http1(Http1),
    Http2(Http2),
    /// A body is refused, or a flood cannot be ended in order: reading fails.
    Broken,
    /// Nothing is read for hyper any more.
    Done,
}

/// What may happen to bytes that were read.
struct Passing {
    /// So many of them pass.
    pass: usize,
    /// This takes the place of the rest; otherwise the rest is kept.
    instead: Option<Vec<u8>>,
}

/// What reading has come to.
enum Progress {
    /// hyper has something, or knows that the end has come.
    Told,
    /// Everything was kept.
    Kept,
}

/// How much is read at a time behind what is kept.
const READ_BYTES: usize = 4 * 1024;
/// Reads at a time of what a client still sends that nobody wants.
const DISCARDED_READS: usize = 16;

impl ClientIo {
    /// `prefix` is what was read to tell the protocol.
    pub(super) fn new(stream: Stream, prefix: Bytes, http2: bool, connection: Rc<Connection>) -> Self {
        let guard =
            if http2 { Guard::Http2(Http2::new(connection.activity.ticks())) } else { Guard::Http1(Http1::default()) };
        let gate = Gate { guard, connection };
        let mut io = Self { stream, inbox: BytesMut::from(prefix), checked: 0, gate, lingering: false };
        io.check_inbox();
        io
    }

    fn check_inbox(&mut self) {
        let Passing { pass, instead } = self.gate.check(&self.inbox);
        self.checked = pass;
        if let Some(instead) = instead {
            self.inbox.truncate(pass);
            self.inbox.extend_from_slice(&instead);
            self.checked = self.inbox.len();
        }
    }

    /// Reads into hyper's buffer and takes out what must not pass yet.
    fn poll_read_through(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<Progress>> {
        // SAFETY: `ReadBuf` never de-initialises bytes.
        let mut target = ReadBuf::uninit(unsafe { buffer.as_mut() });
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut target))?;
        let read = target.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(Progress::Told));
        }
        let Passing { pass, instead } = self.gate.check(read);
        match instead {
            Some(instead) => {
                self.inbox.extend_from_slice(&instead);
                self.checked = self.inbox.len();
            }
            None => self.inbox.extend_from_slice(read.get(pass..).unwrap_or_default()),
        }
        // SAFETY: at most the bytes that were just filled.
        unsafe { buffer.advance(pass) };
        Poll::Ready(Ok(if pass > 0 { Progress::Told } else { Progress::Kept }))
    }

    /// Reads behind what is kept.
    fn poll_read_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Progress>> {
        self.inbox.reserve(READ_BYTES);
        let read = ready!(pin!(self.stream.read_buf(&mut self.inbox)).poll(cx))?;
        if read == 0 {
            return Poll::Ready(Ok(Progress::Told));
        }
        self.check_inbox();
        Poll::Ready(Ok(Progress::Kept))
    }

    /// Whether the client may be sending what nobody will read.
    fn is_mid_message(&self) -> bool {
        !self.inbox.is_empty()
            || match &self.gate.guard {
                Guard::Http1(http1) => http1.is_in_body(),
                Guard::Http2(_) => false,
                Guard::Broken | Guard::Done => true,
            }
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
        self.gate.connection.activity.wrote(wrote.is_ready());
        wrote
    }

    /// The connection is not HTTP any more: its socket, and what was read of it and not handed on.
    pub(super) fn into_stream(self) -> (Stream, Bytes) {
        (self.stream, self.inbox.freeze())
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
        loop {
            if this.checked > 0 {
                let fits = this.checked.min(buffer.remaining());
                buffer.put_slice(this.inbox.get(..fits).unwrap_or_default());
                this.inbox.advance(fits);
                this.checked -= fits;
                if this.inbox.is_empty() {
                    // Thousands of connections are quiet; none of them needs it.
                    this.inbox = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            let progress = match &mut this.gate.guard {
                Guard::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Guard::Done => return Poll::Pending,
                Guard::Http1(http1) if http1.is_waiting() => {
                    if this.gate.connection.verdict.are_answered(http1.messages()) {
                        http1.go_on();
                        this.gate.connection.verdict.wait(false);
                        this.check_inbox();
                        continue;
                    }
                    if this.inbox.len() >= limits::UPGRADE_READ_AHEAD_BYTES {
                        return Poll::Pending;
                    }
                    this.poll_read_more(cx)
                }
                Guard::Http1(_) if this.gate.connection.activity.is_head_late() => {
                    let instead = this.gate.refuse_head(&this.inbox, Refusal::HeadTimeout);
                    this.inbox.clear();
                    this.inbox.extend_from_slice(&instead);
                    this.checked = this.inbox.len();
                    continue;
                }
                _ if this.inbox.is_empty() => this.poll_read_through(cx, &mut buffer),
                _ => this.poll_read_more(cx),
            };
            match ready!(progress)? {
                Progress::Told => return Poll::Ready(Ok(())),
                Progress::Kept => {}
            }
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
            if !this.is_mid_message() {
                return Poll::Ready(Ok(()));
            }
            // A socket that is closed with unread bytes resets the connection, and with it the answer that is on its way.
            this.lingering = true;
            this.gate.connection.activity.linger();
        }
        this.poll_discard(cx)
    }
}

impl Gate {
    /// Shows the guard what follows the bytes that have passed.
    fn check(&mut self, bytes: &[u8]) -> Passing {
        match &mut self.guard {
            Guard::Http1(http1) => {
                let checked = http1.check(bytes);
                let (pass, activity) = (checked.pass, &self.connection.activity);
                match checked.refusal {
                    None => {
                        let waiting = http1.is_waiting();
                        if waiting {
                            self.connection.verdict.wait(true);
                        }
                        activity.head_is(pass < bytes.len() && !waiting && !http1.is_in_body());
                        Passing { pass, instead: None }
                    }
                    Some(refusal) if http1.is_in_body() => {
                        self.connection.verdict.refuse_body(refusal);
                        self.guard = Guard::Broken;
                        Passing { pass, instead: Some(Vec::new()) }
                    }
                    Some(refusal) => {
                        let instead = self.refuse_head(bytes.get(pass..).unwrap_or_default(), refusal);
                        Passing { pass, instead: Some(instead) }
                    }
                }
            }
            Guard::Http2(http2) => {
                let Connection { activity, worker, .. } = &*self.connection;
                let (pieces, answers) = activity.take_sent();
                http2.earn(pieces, answers);
                let heads = http2.heads();
                match http2.check(bytes, activity.ticks()) {
                    Ok(()) => {
                        if http2.is_in_head() || http2.heads() > heads {
                            activity.head_is(http2.is_in_head());
                        }
                        if http2.heads() > heads && activity.requests() >= limits::HTTP2_STREAMS {
                            // h2 refuses them.
                            worker.telemetry.counters().limit_exceeded(Limit::Http2Streams);
                        }
                        Passing { pass: bytes.len(), instead: None }
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
                        self.guard = if place.is_some() { Guard::Done } else { Guard::Broken };
                        let instead = place.map(|_| Http2::calm()).unwrap_or_default();
                        Passing { pass: place.unwrap_or(0), instead: Some(instead) }
                    }
                }
            }
            // Nothing is read in these states.
            Guard::Broken | Guard::Done => Passing { pass: 0, instead: Some(Vec::new()) },
        }
    }

    /// Refuses the head that is on its way, of which `kept` has come; gives what hyper gets for it.
    fn refuse_head(&mut self, kept: &[u8], refusal: Refusal) -> Vec<u8> {
        let Guard::Http1(http1) = &mut self.guard else { return Vec::new() };
        let number = http1.messages();
        let (instead, is_known) = http1.refuse(kept);
        self.connection.verdict.refuse_head(number, refusal, is_known);
        self.connection.activity.head_is(false);
        self.guard = Guard::Done;
        instead
    }
}
