//! The bytes of a client's HTTP/1 connection, shared by the loop that serves it (`http1`) and the body of the request
//! that is being served, which whoever wants it reads straight from the socket.
//!
//! Reading and writing are borrowed apart: while an answer is written, the upstream it comes from may ask for more of
//! the request.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::{connection::Connection, limits};
use crate::{
    http1::{
        Malformed,
        body::{Decoder, Framing, Piece},
        limits::{EXTENSIONS_TOO_LARGE, TRAILERS_TOO_LARGE},
        outbox::Outbox,
        request::Refusal,
        sending::Piped,
    },
    net::{Pipe, Stream, reading},
    telemetry::Limit,
    upstream::BodyError,
};

/// The socket and what was read from it.
pub(super) struct Wire {
    pub(super) stream: RefCell<Stream>,
    pub(super) incoming: RefCell<Incoming>,
}

/// What was read and not taken yet, and the body that it belongs to.
pub(super) struct Incoming {
    pub(super) inbox: BytesMut,
    body: Decoder,
    /// Requests that were taken: the body of an earlier one gets nothing any more.
    number: u64,
    /// Who waits for more of the body.
    reader: Option<Waker>,
    /// What the client waits for before it sends the body: `100 Continue`.
    interim: Outbox,
    expects_continue: bool,
}

/// The body of a request, read from its connection.
pub(crate) struct WireBody {
    wire: Rc<Wire>,
    connection: Rc<Connection>,
    number: u64,
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl Wire {
    /// `prefix` is what was read to tell the protocol.
    pub(super) fn new(stream: Stream, prefix: &[u8]) -> Rc<Self> {
        let incoming = Incoming {
            inbox: BytesMut::from(prefix),
            body: Decoder::new(Framing::Length(0)),
            number: 0,
            reader: None,
            interim: Outbox::default(),
            expects_continue: false,
        };
        Rc::new(Self { stream: RefCell::new(stream), incoming: RefCell::new(incoming) })
    }

    /// The connection is not HTTP any more: its socket, and what was read of it and not taken.
    pub(super) fn into_stream(self) -> (Stream, Bytes) {
        (self.stream.into_inner(), self.incoming.into_inner().inbox.freeze())
    }

    /// Whether the client is gone, as far as can be told: only so much of what it sends is read ahead. Where somebody waits
    /// for more of the body, it is they who learn of the end.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let incoming = &mut *self.incoming.borrow_mut();
        match &incoming.reader {
            // They have asked in this very turn, or will not ask again.
            Some(reader) if reader.will_wake(cx.waker()) => incoming.reader = None,
            Some(_) => return Poll::Pending,
            None => {}
        }
        while let room @ 1.. = limits::READ_AHEAD_BYTES.saturating_sub(incoming.inbox.len()) {
            match ready!(incoming.poll_read(&mut self.stream.borrow_mut(), room, cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

impl Incoming {
    /// Reads at most so much behind what is there; 0 is the end of the connection.
    pub(super) fn poll_read(
        &mut self,
        stream: &mut Stream,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        reading::poll_read(stream, &mut self.inbox, most, cx)
    }

    /// A head was taken; this is how the body behind it ends.
    pub(super) fn begin(&mut self, framing: Framing, expects_continue: bool) {
        self.body = Decoder::new(framing);
        self.number += 1;
        self.expects_continue = expects_continue && !self.body.is_ended();
    }

    /// Whether the request has come to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.body.is_ended()
    }

    /// The answer has gone. What is left of the request is forgotten, if it is there already; whoever had its body gets
    /// no more of it. Gives whether the next head is what comes next.
    pub(super) fn finish(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> bool {
        self.number += 1;
        self.reader = None;
        let mut discarded = 0;
        while !self.body.is_ended() && discarded < limits::DISCARDED_BODY_BYTES && self.interim.is_empty() {
            match self.body.next(&mut self.inbox) {
                Ok(Piece::Data(data)) => discarded += data.len(),
                Ok(Piece::Trailers(_) | Piece::End) => {}
                Ok(Piece::Missing) => match self.poll_read(stream, self.body.read_size(), cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) | Poll::Pending => break,
                },
                Err(_) => break,
            }
        }
        self.body.is_ended()
    }
}

impl WireBody {
    /// The body of the request that was taken last.
    pub(super) fn new(wire: &Rc<Wire>, connection: &Rc<Connection>) -> Self {
        let number = wire.incoming.borrow().number;
        Self { wire: Rc::clone(wire), connection: Rc::clone(connection), number }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let incoming = &mut *self.wire.incoming.borrow_mut();
        if incoming.number != self.number {
            return Poll::Ready(Some(Err("the request has been answered".into())));
        }
        incoming.reader = None;
        let mut stream = self.wire.stream.borrow_mut();
        if std::mem::take(&mut incoming.expects_continue) {
            incoming.interim.put(CONTINUE);
        }
        if !incoming.interim.is_empty() {
            ready!(incoming.interim.poll_flush(&mut *stream, cx))?;
        }
        loop {
            match incoming.body.next(&mut incoming.inbox) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::Missing) => {}
                Err(Malformed(why)) => {
                    let counters = self.connection.worker.telemetry.counters();
                    match why {
                        EXTENSIONS_TOO_LARGE => counters.limit_exceeded(Limit::ChunkExtensionBytes),
                        TRAILERS_TOO_LARGE => counters.limit_exceeded(Limit::RequestTrailerBytes),
                        _ => {}
                    }
                    self.connection.refused_body.set(Some(Refusal::Malformed(why)));
                    return Poll::Ready(Some(Err(why.into())));
                }
            }
            let most = incoming.body.read_size();
            match incoming.poll_read(&mut stream, most, cx)? {
                Poll::Ready(0) => return Poll::Ready(Some(Err("the client has broken off the request".into()))),
                Poll::Ready(_) => {}
                Poll::Pending => {
                    incoming.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Piped for WireBody {
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, BodyError>>> {
        let incoming = &mut *self.wire.incoming.borrow_mut();
        let stream = self.wire.stream.borrow();
        let (Some(socket), Some(left @ 1..)) = (stream.plain(), incoming.body.left()) else { return Poll::Ready(None) };
        let is_next = incoming.number == self.number && incoming.inbox.is_empty();
        if !is_next || incoming.expects_continue || !incoming.interim.is_empty() {
            return Poll::Ready(None);
        }
        let Some(mut pipe) = Pipe::take() else { return Poll::Ready(None) };
        incoming.reader = None;
        match pipe.poll_fill(socket, usize::try_from(left).unwrap_or(usize::MAX), cx)? {
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(0)) => Poll::Ready(Some(Err("the client has broken off the request".into()))),
            Poll::Ready(Some(moved)) => {
                incoming.body.skip(moved);
                Poll::Ready(Some(Ok(pipe)))
            }
            Poll::Pending => {
                incoming.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for WireBody {
    fn drop(&mut self) {
        let mut incoming = self.wire.incoming.borrow_mut();
        if incoming.number == self.number {
            incoming.reader = None;
        }
    }
}

impl Body for WireBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        let incoming = self.wire.incoming.borrow();
        incoming.number == self.number && incoming.body.is_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let incoming = self.wire.incoming.borrow();
        match incoming.body.left().filter(|_| incoming.number == self.number) {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::new(),
        }
    }
}
