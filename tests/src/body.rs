//! Bodies that tests send: fixed, in given pieces, or piece by piece while the test looks on.

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// A body to send, of a request or of a response.
pub struct Outgoing(Source);

enum Source {
    /// All of it, with a known length.
    Full(Option<Bytes>),
    /// In these pieces, without a known length.
    Frames(VecDeque<Frame<Bytes>>),
    /// Whatever the [`BodySender`] says.
    Channel(mpsc::Receiver<Step>),
}

enum Step {
    Frame(Frame<Bytes>),
    Abort,
}

/// The body ends in the middle: the connection or the stream is to be reset.
#[derive(Debug, thiserror::Error)]
#[error("the test aborted this body")]
pub struct Aborted;

impl Outgoing {
    /// No body.
    pub fn empty() -> Outgoing {
        Outgoing(Source::Full(None))
    }

    /// A body with a `content-length`.
    pub fn full(bytes: impl Into<Bytes>) -> Outgoing {
        let bytes = bytes.into();
        Outgoing(Source::Full((!bytes.is_empty()).then_some(bytes)))
    }

    /// A body without a known length, in these chunks, with trailers unless they are empty.
    pub fn chunks<B: Into<Bytes>>(chunks: impl IntoIterator<Item = B>, trailers: HeaderMap) -> Outgoing {
        let mut frames: VecDeque<_> = chunks.into_iter().map(|chunk| Frame::data(chunk.into())).collect();
        if !trailers.is_empty() {
            frames.push_back(Frame::trailers(trailers));
        }
        Outgoing(Source::Frames(frames))
    }

    /// A body without a known length that the test sends through the other half. It ends when that is dropped.
    pub fn channel() -> (BodySender, Outgoing) {
        // One piece at a time: a sender that could send has a reader that keeps up.
        let (sender, receiver) = mpsc::channel(1);
        (BodySender(sender), Outgoing(Source::Channel(receiver)))
    }
}

/// Sends a body piece by piece.
pub struct BodySender(mpsc::Sender<Step>);

impl BodySender {
    /// Sends a chunk; waits while the one before has not been taken.
    ///
    /// # Errors
    /// Nobody reads this body any more.
    pub async fn send(&self, chunk: impl Into<Bytes>) -> anyhow::Result<()> {
        self.step(Step::Frame(Frame::data(chunk.into()))).await
    }

    /// Ends the body with trailers.
    pub async fn end_with(self, trailers: HeaderMap) -> anyhow::Result<()> {
        self.step(Step::Frame(Frame::trailers(trailers))).await
    }

    /// Breaks the body off, as a server that crashes does.
    pub async fn abort(self) -> anyhow::Result<()> {
        self.step(Step::Abort).await
    }

    /// Waits until the body has no reader any more.
    pub async fn unread(&self) -> anyhow::Result<()> {
        crate::within("a body to be given up", self.0.closed()).await
    }

    async fn step(&self, step: Step) -> anyhow::Result<()> {
        let sent = crate::within("a body to be read", self.0.send(step)).await?;
        sent.map_err(|_| anyhow::anyhow!("nobody reads this body any more"))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match &mut self.0 {
            Source::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Frames(frames) => Poll::Ready(frames.pop_front().map(Ok)),
            Source::Channel(receiver) => receiver.poll_recv(cx).map(|step| match step? {
                Step::Frame(frame) => Some(Ok(frame)),
                Step::Abort => Some(Err(Aborted)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Source::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            _ => SizeHint::default(),
        }
    }
}
