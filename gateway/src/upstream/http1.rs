//! An HTTP/1.1 connection to an upstream, driven by whoever uses it: a request, then the response's body. No task and no
//! channel stands between the two sockets.
//!
//! The head of a request stays where it is until there is an answer. So a request that was written to a
//! connection which the upstream was just closing can be sent again, without a copy of every request; and the answer's
//! head takes the place of the request's in the same list of fields.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use heads::{HeaderList, ResponseHead, header};
use http::{Method, StatusCode};
use http_body::Frame;
use rustls::pki_types::ServerName;

use super::{
    BodyError, Failure, Remains, Request, RequestBody, UpstreamError, limits,
    slot::{Life, Slot},
};
use crate::{
    clock::Moment,
    http1::{
        Malformed,
        body::{Cut, Decoder, Framing, Piece},
        outbox::Outbox,
        response::{Head, Reader},
        sending::{self, Sending, Sent},
    },
    net::{Pipe, Stream, reading},
};

/// A connection. It lives in a box, because it is moved between pool, request and body.
pub(super) struct Http1<B> {
    stream: Stream,
    /// What was read and not taken yet.
    inbox: BytesMut,
    outbox: Outbox,
    /// The request's body, as far as it is not in the outbox.
    sending: Option<Sending<B>>,
    /// The response's body.
    receiving: Decoder,
    reader: Reader,
    /// Whether the connection may carry another request after this one.
    keep: bool,
    /// Whether the answer was the 101 that had been asked for: the bytes are not HTTP any more.
    upgraded: bool,
    pub(super) local: Option<SocketAddr>,
    /// The name that it was verified for, inside TLS.
    pub(super) server_name: Option<ServerName<'static>>,
    life: Life,
    /// Free again when the connection is gone.
    slot: Slot,
}

/// What a request asks for that decides how its answer is read.
#[derive(Clone, Copy)]
struct Asked {
    head: bool,
    /// The protocol that the connection may be switched to.
    upgrade: Option<&'static str>,
}

impl<B: RequestBody> Http1<B> {
    /// Wraps a fresh socket.
    pub(super) fn new(stream: Stream, server_name: Option<ServerName<'static>>, slot: Slot, life: Life) -> Box<Self> {
        let local = stream.tcp().local_addr().ok();
        Box::new(Self {
            stream,
            inbox: BytesMut::new(),
            outbox: Outbox::default(),
            sending: None,
            receiving: Decoder::new(Framing::Length(0)),
            reader: Reader::default(),
            keep: true,
            upgraded: false,
            local,
            server_name,
            life,
            slot,
        })
    }

    /// Sends a request and waits for the head of the response. Its body is read with [`Self::poll_body`].
    ///
    /// # Errors
    /// The request is still whole if nothing of it has left, or if it has no body and the connection ended without an
    /// answer.
    pub(super) async fn send(&mut self, request: &mut Request<B>) -> Result<ResponseHead, UpstreamError> {
        let reused = !self.life.begin_request();
        if reused && !self.is_alive() {
            let failure = Failure::Reset { reused, error: "it was closed".into() };
            return Err(UpstreamError::unsent(failure));
        }
        let asked = Asked { head: request.method == Method::HEAD, upgrade: request.body.upgrade() };
        self.begin(request);
        let is_empty = self.sending.is_none();
        match poll_fn(|cx| self.poll_exchange(&mut request.headers, asked, reused, cx)).await {
            Ok(status) => Ok(ResponseHead { status, headers: std::mem::take(&mut request.headers) }),
            Err(failure) => {
                // Once something else has come, the list may hold the head of an answer.
                let is_whole = is_empty && matches!(failure, Failure::Reset { .. });
                Err(UpstreamError { failure, request: if is_whole { Remains::Whole } else { Remains::Spent } })
            }
        }
    }

    /// Puts the head into the outbox, and takes the body, if there is something in it.
    fn begin(&mut self, request: &mut Request<B>) {
        let out = &mut self.outbox;
        out.put(request.method.as_str().as_bytes());
        out.put(b" ");
        out.put(request.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
        out.put(b" HTTP/1.1\r\n");
        let mut length = None;
        for (name, value) in &request.headers {
            match name.as_str() {
                // Said below, so that it is said once.
                "content-length" => length = Some(value.to_str().ok().and_then(|length| length.parse().ok())),
                "transfer-encoding" => {}
                _ => out.put_field(name, value),
            }
        }
        if request.body.is_end_stream() {
            if length.is_some() {
                out.put_length(0);
            }
            out.put(b"\r\n");
            return;
        }
        let announced = sending::announced(&request.headers);
        let body = std::mem::take(&mut request.body);
        let framing = match length.flatten().or_else(|| body.size_hint().exact()) {
            Some(length) => {
                out.put_length(length);
                sending::Framing::Length(length)
            }
            None => {
                out.put_chunked();
                sending::Framing::Chunked
            }
        };
        out.put(b"\r\n");
        self.sending = Some(Sending::new(body, framing, announced, self.stream.plain().is_some()));
    }

    /// Sends, and reads up to the head of the final response, which takes the place of the request's in `headers`.
    fn poll_exchange(
        &mut self,
        headers: &mut HeaderList,
        asked: Asked,
        reused: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StatusCode, Failure>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            match error {
                // There may be an answer all the same, of one that did not want all of it.
                Unsent::Socket => self.give_up_sending(),
                Unsent::Body(error) => return Poll::Ready(Err(Failure::RequestBody(error))),
            }
        }
        let head = loop {
            if !self.inbox.is_empty() {
                let before = self.inbox.len();
                let taken = self.reader.take(&mut self.inbox, headers);
                let Some(head) = taken.map_err(|Malformed(what)| Failure::Malformed(what))? else {
                    if before >= limits::HEAD_BYTES {
                        return Poll::Ready(Err(Failure::Malformed(limits::HEAD_TOO_LARGE)));
                    }
                    ready!(self.poll_read_head(reused, cx))?;
                    continue;
                };
                if before - self.inbox.len() > limits::HEAD_BYTES {
                    return Poll::Ready(Err(Failure::Malformed(limits::HEAD_TOO_LARGE)));
                }
                break head;
            }
            ready!(self.poll_read_head(reused, cx))?;
        };
        Poll::Ready(self.accept(head, headers, asked).map(|()| head.status).map_err(Failure::Malformed))
    }

    fn poll_read_head(&mut self, reused: bool, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(match ready!(self.poll_read(usize::MAX, cx)) {
            Ok(0) => Err(Failure::Reset { reused, error: "it was closed".into() }),
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::Reset { reused, error: error.into() }),
        })
    }

    /// Decides what follows a head.
    fn accept(&mut self, head: Head, headers: &HeaderList, asked: Asked) -> Result<(), &'static str> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let Some(upgrade) = asked.upgrade else { return Err("it switches protocols, and nobody asked for that") };
            let switched = headers.get(&header::UPGRADE);
            if !switched.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(upgrade.as_bytes())) {
                return Err("it switches to another protocol than was asked for");
            }
            self.upgraded = true;
            self.keep = false;
            return Ok(());
        }
        let bodiless = asked.head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let framing = if bodiless { Framing::Length(0) } else { head.framing };
        self.receiving = Decoder::new(framing);
        self.keep &= head.keep_alive && framing != Framing::Close;
        Ok(())
    }

    /// Writes what there is of the request.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            let mut waits = false;
            if let Some(sending) = &mut self.sending {
                match sending.poll(&mut self.outbox, cx) {
                    Poll::Ready(Ok(Sent::All)) => self.sending = None,
                    Poll::Ready(Ok(Sent::Full)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Unsent::Body(error))),
                    Poll::Pending => waits = true,
                }
            }
            ready!(self.outbox.poll_flush(&mut self.stream, cx)).map_err(|_| Unsent::Socket)?;
            if self.sending.is_none() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    fn give_up_sending(&mut self) {
        self.sending = None;
        self.outbox = Outbox::default();
        self.keep = false;
    }

    /// Reads at most so much behind what is there; 0 is the end of the connection.
    fn poll_read(&mut self, size: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        reading::poll_read(&mut self.stream, &mut self.inbox, size, cx)
    }

    /// The next piece of the response's body. What is left of the request is sent meanwhile.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if (self.sending.is_some() || !self.outbox.is_empty())
            && let Poll::Ready(Err(error)) = self.poll_send(cx)
        {
            self.give_up_sending();
            if let Unsent::Body(error) = error {
                return Poll::Ready(Some(Err(error)));
            }
        }
        loop {
            match self.receiving.next(&mut self.inbox)? {
                Piece::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Piece::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Piece::End => return Poll::Ready(None),
                Piece::Missing => {}
            }
            if ready!(self.poll_read(self.receiving.read_size(), cx))? == 0 {
                let cut = self.receiving.close().err();
                return Poll::Ready(cut.map(|Cut| Err("the connection ended in the middle of a body".into())));
            }
        }
    }

    /// The next of the response's body in a pipe. `None`: [`Self::poll_body`] has it.
    pub(super) fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, BodyError>>> {
        let (Some(socket), Some(left @ 1..)) = (self.stream.plain(), self.receiving.left()) else {
            return Poll::Ready(None);
        };
        if !self.inbox.is_empty() || self.sending.is_some() || !self.outbox.is_empty() {
            return Poll::Ready(None);
        }
        let Some(mut pipe) = Pipe::take() else { return Poll::Ready(None) };
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let Some(filled) = ready!(pipe.poll_fill(socket, most, cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(match filled {
            Ok(0) => Err("the connection ended in the middle of a body".into()),
            Ok(moved) => {
                self.receiving.skip(moved);
                Ok(pipe)
            }
            Err(error) => Err(error.into()),
        }))
    }

    /// Whether nothing is left of the response's body.
    pub(super) fn is_end_of_body(&self) -> bool {
        self.receiving.is_ended()
    }

    /// Bytes that are left of it, where that was announced.
    pub(super) fn body_left(&self) -> Option<u64> {
        self.receiving.left()
    }

    /// Whether the last response was the 101 that had been asked for.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded
    }

    /// The socket after such a 101, and what was read of it behind the 101.
    pub(super) fn into_stream(self) -> Option<(Stream, Bytes, Slot)> {
        self.upgraded.then(|| (self.stream, self.inbox.freeze(), self.slot))
    }

    /// Whether the next request can be sent now. A connection whose request is still on its way, on which more has come
    /// than was asked for, or which the upstream wants closed, is not. One that is holds no memory to read into.
    pub(super) fn rest(&mut self) -> bool {
        let is_free = self.keep
            && self.receiving.is_ended()
            && self.inbox.is_empty()
            && self.sending.is_none()
            && self.outbox.is_empty();
        if is_free {
            self.inbox = BytesMut::new();
        }
        is_free
    }

    /// Whether it has carried its last request.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.life.is_over(now)
    }

    /// Whether an idle connection is still usable: the peer has neither closed it nor said anything unasked. No task
    /// waits for that; whoever takes it waits with its own waker.
    pub(super) fn is_alive(&mut self) -> bool {
        self.poll_read(1, &mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// Why a request is not sent to its end.
enum Unsent {
    /// The connection takes no more.
    Socket,
    Body(BodyError),
}
