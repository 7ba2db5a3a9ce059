//! A body that passes through plugins while it streams.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use proxy_wasm_host::Half;
use tokio::time::Sleep;

use super::{
    filters::{Filters, Paused},
    passage::Interrupted,
};
use crate::upstream::BodyError;

/// `S` after the plugins have seen and perhaps changed it.
pub(crate) struct FilteredBody<S> {
    source: S,
    filters: Rc<Filters>,
    half: Half,
    /// Frames that have passed all plugins.
    ready: VecDeque<Frame<Bytes>>,
    state: State,
    /// Runs while nothing but a paused plugin can move the body.
    pause: Option<Pin<Box<Sleep>>>,
    /// Plugins do not change the length.
    keeps_length: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More may come from the source.
    Flowing,
    /// The source has ended; plugins may still hold something.
    Draining,
    /// Trailers are on their way through the stages from this one on.
    Trailers(usize),
    /// As `Trailers`, and that stage pauses.
    TrailersPaused(usize),
    /// Everything is in `ready`.
    Done,
}

impl<S: Body<Data = Bytes, Error = BodyError> + Unpin> FilteredBody<S> {
    pub(in crate::http) fn new(source: S, filters: Rc<Filters>, half: Half) -> Self {
        let keeps_length = !filters.edits_body(half);
        Self { source, filters, half, ready: VecDeque::new(), state: State::Flowing, pause: None, keeps_length }
    }

    /// Waits until plugins have let something through. Returns the length of the body if all of it is
    /// there: then the head can say so.
    ///
    /// A body that does not say how long it is, and of which nobody holds anything, is not waited for: its sender may
    /// want to see an answer to the head first.
    pub(in crate::http) async fn look_ahead(&mut self) -> Result<Option<u64>, Interrupted> {
        let comes_at_once = self.source.size_hint().exact().is_some();
        poll_fn(|cx| {
            while self.ready.is_empty() && self.state != State::Done {
                match self.step(cx) {
                    Poll::Pending if comes_at_once || self.filters.holds(self.half) => return Poll::Pending,
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(Stopped::Plugin(interrupted))) => return Poll::Ready(Err(interrupted)),
                    Poll::Ready(Err(Stopped::Source(_))) => return Poll::Ready(Err(Interrupted::Reset)),
                }
            }
            let has_trailers = self.ready.iter().any(Frame::is_trailers);
            Poll::Ready(Ok((self.state == State::Done && !has_trailers).then(|| self.ready_bytes())))
        })
        .await
    }

    fn ready_bytes(&self) -> u64 {
        self.ready.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum()
    }

    /// One step of progress, which need not produce a frame.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        match self.state {
            State::Done => Poll::Ready(Ok(())),
            State::Flowing | State::Draining => {
                let draining = self.state == State::Draining;
                match self.filters.poll_paused(self.half, cx)? {
                    Paused::LetGo(passed) => {
                        self.pause = None;
                        self.emit(passed);
                        Poll::Ready(Ok(()))
                    }
                    Paused::Stage(stage, full) if full || draining => self.poll_pause(stage, cx),
                    Paused::Nobody if draining => {
                        self.finish();
                        Poll::Ready(Ok(()))
                    }
                    Paused::Stage(..) | Paused::Nobody => self.read(cx),
                }
            }
            State::Trailers(stage) => {
                let mut held = Vec::new();
                let paused = self.filters.pass_trailers(self.half, stage, &mut held)?;
                self.ready.extend(held.into_iter().filter(|piece| !piece.is_empty()).map(Frame::data));
                match paused {
                    Some(stage) => self.state = State::TrailersPaused(stage),
                    None => self.finish(),
                }
                Poll::Ready(Ok(()))
            }
            State::TrailersPaused(stage) => match self.filters.poll_trailers_stage(self.half, stage, cx) {
                Poll::Ready(resumed) => {
                    self.pause = None;
                    self.emit(resumed?.map(|piece| (piece, false)));
                    self.state = State::Trailers(stage + 1);
                    Poll::Ready(Ok(()))
                }
                Poll::Pending => self.poll_pause(stage, cx),
            },
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        let frame = match std::task::ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            None => {
                self.state = State::Draining;
                let passed = self.filters.pass(self.half, Bytes::new(), true)?;
                self.emit(passed);
                return Poll::Ready(Ok(()));
            }
            Some(frame) => frame.map_err(Stopped::Source)?,
        };
        match frame.into_data() {
            Ok(data) => {
                let end = self.source.is_end_stream();
                if end {
                    self.state = State::Draining;
                }
                let passed = self.filters.pass(self.half, data, end)?;
                self.emit(passed);
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.filters.set_trailers(self.half, trailers.into());
                    self.state = State::Trailers(0);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What has passed the last stage.
    fn emit(&mut self, passed: Option<(Bytes, bool)>) {
        let Some((piece, end)) = passed else { return };
        if !piece.is_empty() {
            self.ready.push_back(Frame::data(piece));
        }
        if end {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.state = State::Done;
        // The client's, or some that a plugin added in its last callback.
        if let Some(trailers) = self.filters.take_trailers(self.half).filter(|trailers| !trailers.is_empty()) {
            self.ready.push_back(Frame::trailers(trailers.into()));
        }
    }

    /// Only a plugin can move the body now; it must not take for ever.
    fn poll_pause(&mut self, stage: usize, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        let (filters, half) = (&self.filters, self.half);
        let pause =
            self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(filters.longest_stage_pause(half, stage))));
        std::task::ready!(pause.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(self.filters.stage_timed_out(self.half, stage).map_err(Stopped::Plugin))
    }
}

/// Why a body ended early.
enum Stopped {
    /// A plugin decided so.
    Plugin(Interrupted),
    /// It broke off.
    Source(BodyError),
}

impl From<Interrupted> for Stopped {
    fn from(interrupted: Interrupted) -> Self {
        Self::Plugin(interrupted)
    }
}

impl<S: Body<Data = Bytes, Error = BodyError> + Unpin> Body for FilteredBody<S> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.state == State::Done {
                return Poll::Ready(None);
            }
            match std::task::ready!(self.step(cx)) {
                Ok(()) => {}
                Err(Stopped::Source(error)) => return Poll::Ready(Some(Err(error))),
                Err(Stopped::Plugin(interrupted)) => {
                    // Whoever waits for the upstream finds it there; if a response has begun, it breaks off.
                    self.filters.interrupt(interrupted);
                    self.state = State::Done;
                    return Poll::Ready(Some(Err("a plugin ended the stream".into())));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Done && self.ready.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.state == State::Done {
            SizeHint::with_exact(self.ready_bytes())
        } else if self.keeps_length {
            self.source.size_hint()
        } else {
            SizeHint::default()
        }
    }
}
