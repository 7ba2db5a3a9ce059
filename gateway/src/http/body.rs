//! Bodies in both directions. A body is pulled: nothing is read from one side before the other side has
//! taken what came before, so a slow peer slows its counterpart and memory stays bounded.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{
    grpc_messages::GrpcMessages,
    plugins::{CallBody, FilteredBody},
    progress::{Offers, Waiting, Watched},
    record::Record,
    retry::Replay,
    trailers, upgrade,
    wire::WireBody,
};
use crate::{
    http1::sending::Piped,
    net::Pipe,
    telemetry::ResponseFlags,
    upstream::{self, BodyError},
};

/// What is sent to an upstream.
#[derive(Default)]
pub(crate) enum RequestBody {
    /// Nothing.
    #[default]
    Empty,
    /// Nothing; and the connection becomes a WebSocket if the upstream agrees.
    Upgrade,
    /// What the client sends, as it comes.
    Client(ClientBody),
    /// What plugins make of it.
    Filtered(Box<FilteredBody<ClientBody>>),
    /// Any of these, remembered so that it can be sent again.
    Replay(Replay),
    /// What a plugin sends for itself.
    Call(Box<CallBody>),
}

/// A request's body as it comes from the client's connection.
pub(crate) enum Incoming {
    /// There is none.
    Empty,
    /// Read from the connection.
    Http1(WireBody),
    /// From one stream of it.
    Http2(hyper::body::Incoming),
}

/// What the client sends, counted.
pub(crate) struct ClientBody {
    incoming: Incoming,
    seen: Rc<ClientBytes>,
    watched: Option<Watched>,
}

/// What is known of a client's body while somebody else has it.
#[derive(Default)]
pub(super) struct ClientBytes {
    /// How much has come.
    pub(super) count: Cell<u64>,
    /// Whether the client broke it off.
    pub(super) broken: Cell<bool>,
    /// Messages in it, if the request is gRPC.
    pub(super) messages: Cell<Option<GrpcMessages>>,
    /// Whether it makes progress.
    pub(super) waiting: Rc<Waiting>,
}

impl ClientBytes {
    fn read(&self, data: &[u8]) {
        self.count.set(self.count.get() + data.len() as u64);
        if let Some(mut messages) = self.messages.get() {
            messages.feed(data);
            self.messages.set(Some(messages));
        }
    }
}

impl ClientBody {
    /// `watched`: it may not take as long as it likes.
    pub(super) fn new(incoming: Incoming, seen: Rc<ClientBytes>, watched: Option<Watched>) -> Self {
        Self { incoming, seen, watched }
    }

    /// Whether the client has still time to send something.
    fn check_time(&self) -> Result<(), BodyError> {
        if self.watched.as_ref().is_some_and(Watched::is_late) {
            self.seen.broken.set(true);
            return Err("the client has sent nothing of the body for too long".into());
        }
        Ok(())
    }

    /// Somebody wanted more, and it is waited for, or something has come.
    fn watch(&self, waits: bool, cx: &Context<'_>) {
        match &self.watched {
            Some(watched) if waits => watched.wait(cx.waker()),
            Some(watched) => watched.arrived(),
            None => {}
        }
    }
}

impl Piped for ClientBody {
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, BodyError>>> {
        // Messages of gRPC are counted in the bytes.
        if self.seen.messages.get().is_some() {
            return Poll::Ready(None);
        }
        self.check_time()?;
        let Incoming::Http1(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let polled = incoming.poll_pipe(cx);
        match &polled {
            Poll::Ready(None) => return polled,
            Poll::Ready(Some(Ok(pipe))) => self.seen.count.set(self.seen.count.get() + pipe.len() as u64),
            Poll::Ready(Some(Err(_))) => self.seen.broken.set(true),
            Poll::Pending => {}
        }
        self.watch(polled.is_pending(), cx);
        polled
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.check_time()?;
        let mut polled = Pin::new(&mut self.incoming).poll_frame(cx);
        self.watch(polled.is_pending(), cx);
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    trailers::clean(trailers);
                }
                if let Some(data) = frame.data_ref() {
                    self.seen.read(data);
                }
            }
            Poll::Ready(Some(Err(_))) => self.seen.broken.set(true),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty | Self::Upgrade => Poll::Ready(None),
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Filtered(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Replay(body) => Pin::new(body).poll_frame(cx),
            Self::Call(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Upgrade => true,
            Self::Client(body) => body.is_end_stream(),
            Self::Filtered(body) => body.is_end_stream(),
            Self::Replay(body) => body.is_end_stream(),
            Self::Call(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Upgrade => SizeHint::with_exact(0),
            Self::Client(body) => body.size_hint(),
            Self::Filtered(body) => body.size_hint(),
            Self::Replay(body) => body.size_hint(),
            Self::Call(body) => body.size_hint(),
        }
    }
}

impl Piped for RequestBody {
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, BodyError>>> {
        match self {
            Self::Client(body) => body.poll_pipe(cx),
            Self::Empty | Self::Upgrade | Self::Filtered(_) | Self::Replay(_) | Self::Call(_) => Poll::Ready(None),
        }
    }
}

impl upstream::RequestBody for RequestBody {
    fn upgrade(&self) -> Option<&'static str> {
        matches!(self, Self::Upgrade).then_some(upgrade::PROTOCOL)
    }
}

/// An upstream's response as it comes.
pub(super) type UpstreamBody = upstream::ResponseBody<RequestBody>;

/// Where the bytes of a response come from.
pub(super) enum Source {
    /// Us; empty once sent.
    Local(Bytes),
    /// The upstream.
    Upstream(UpstreamBody),
    /// What plugins make of either.
    Filtered(Box<FilteredBody<Box<Source>>>),
}

impl Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Local(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Local(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Upstream(body) => {
                let mut polled = Pin::new(body).poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &mut polled
                    && let Some(trailers) = frame.trailers_mut()
                {
                    trailers::clean(trailers);
                }
                polled.map_err(Into::into)
            }
            Self::Filtered(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(bytes) => bytes.is_empty(),
            Self::Upstream(body) => body.is_end_stream(),
            Self::Filtered(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Upstream(body) => body.size_hint(),
            Self::Filtered(body) => body.size_hint(),
        }
    }
}

/// What the client gets. When it is dropped, the request is over.
pub(super) struct ResponseBody {
    source: Source,
    /// `None` after a 101: the request goes on without HTTP, and its record with it.
    record: Option<Record>,
    /// The route's timeout covers the body too.
    deadline: Option<Pin<Box<Sleep>>>,
    offers: Offers,
}

impl ResponseBody {
    pub(super) fn new(source: Source, mut record: Record, deadline: Option<Pin<Box<Sleep>>>) -> Self {
        record.complete = source.is_end_stream();
        let offers = Offers::new(record.activity(), record.complete);
        Self { source, record: Some(record), deadline, offers }
    }

    /// The body of a 101.
    pub(super) fn switched() -> Self {
        Self { source: Source::Local(Bytes::new()), record: None, deadline: None, offers: Offers::none() }
    }

    fn observe(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        let Some(record) = &mut self.record else { return };
        match polled {
            Poll::Pending => {}
            Poll::Ready(None) => record.complete = true,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.offers.sent(data.len());
                    record.received(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    record.ended_with(trailers);
                    record.grpc_status = trailers
                        .get("grpc-status")
                        .and_then(|value| value.to_str().ok()?.parse().ok())
                        .or(record.grpc_status);
                }
                record.complete = self.source.is_end_stream();
                self.offers.offer(record.complete);
            }
            Poll::Ready(Some(Err(error))) => broke_off(record, error),
        }
    }

    /// Whether the route's timeout has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            if let Some(record) = &mut self.record {
                record.flags = ResponseFlags::UPSTREAM_REQUEST_TIMEOUT;
                record.details = "response_timeout".into();
            }
            return Err("the timeout of the route has passed".into());
        }
        Ok(())
    }
}

/// The upstream has not sent all of its response.
fn broke_off(record: &mut Record, error: &BodyError) {
    tracing::debug!(%error, "response ended early");
    if record.flags.is_empty() {
        let (flag, details) = if upstream::remote_reset(&**error).is_some() {
            (ResponseFlags::UPSTREAM_REMOTE_RESET, "upstream_reset_after_response_started{remote_reset}")
        } else {
            (
                ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
                "upstream_reset_after_response_started{connection_termination}",
            )
        };
        record.flags = flag;
        record.details = details.into();
    }
}

impl Piped for ResponseBody {
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, BodyError>>> {
        self.poll_deadline(cx)?;
        let Source::Upstream(source) = &mut self.source else { return Poll::Ready(None) };
        let record = self.record.as_mut().filter(|record| !record.looks_at_bytes());
        let Some(record) = record else { return Poll::Ready(None) };
        let polled = source.poll_pipe(cx);
        match &polled {
            Poll::Ready(Some(Ok(pipe))) => {
                record.passed(pipe.len());
                record.complete = source.is_end_stream();
            }
            Poll::Ready(Some(Err(error))) => broke_off(record, error),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        this.offers.take();
        this.poll_deadline(cx)?;
        let polled = Pin::new(&mut this.source).poll_frame(cx);
        this.observe(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}
