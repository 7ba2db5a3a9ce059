//! Sending a request again: what is kept for it, when it is done, how long to wait.
//!
//! A request whose connection failed comes back whole. After (part of) it was sent only a copy can be sent again:
//! of the head, and of as much of the body as has been read. Copies are kept where the route's policy can want
//! them, and nowhere else.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use heads::HeaderList;
use http::{HeaderMap, Method};
use http_body::{Body, Frame, SizeHint};
use smallvec::SmallVec;

use super::{body::RequestBody, limits};
use crate::{
    snapshot::{RetryOn, RetryPolicy},
    upstream::{BodyError, Failure, Request},
};

/// Drawings of an endpoint to find one that has not been tried (Envoy's `host_selection_retry_max_attempts`).
const SELECTIONS: usize = 5;
/// The longest pause is this many times the base (Istio's default policy).
const LONGEST_PAUSE: u32 = 10;

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This is the outcome.
    No,
    /// The policy wants another attempt.
    Again,
    /// It would, but the attempts are used up.
    Exhausted,
}

/// The attempts at one request.
pub(super) struct Attempts<'a> {
    policy: &'a RetryPolicy,
    grpc: bool,
    http2: bool,
    /// How often the request has been sent again.
    pub(super) retries: u32,
    tried: SmallVec<[SocketAddr; 4]>,
    replay: Option<Rc<Recording>>,
}

impl<'a> Attempts<'a> {
    /// `grpc`: what kind of request; `http2`: what the upstream speaks.
    pub(super) fn new(policy: &'a RetryPolicy, grpc: bool, http2: bool) -> Self {
        Self { policy, grpc, http2, retries: 0, tried: SmallVec::new(), replay: None }
    }

    fn left(&self) -> bool {
        self.retries < self.policy.attempts
    }

    /// An endpoint for the next attempt, if it can be one that was not tried yet.
    pub(super) fn pick<T>(&mut self, pick: impl Fn() -> Option<T>, address: impl Fn(&T) -> SocketAddr) -> Option<T> {
        let mut picked = pick()?;
        if self.policy.avoid_previous && !self.tried.is_empty() {
            for _ in 1..SELECTIONS {
                if !self.tried.contains(&address(&picked)) {
                    break;
                }
                picked = pick()?;
            }
        }
        let chosen = address(&picked);
        if !self.tried.contains(&chosen) {
            self.tried.push(chosen);
        }
        Some(picked)
    }

    /// Makes the body one that can be sent again, where this request may have to be.
    pub(super) fn record(&mut self, request: &mut Request<RequestBody>) {
        let wanted = self.policy.after_sending(self.grpc, self.http2) || self.policy.per_try_timeout.is_some();
        if !wanted || request.body.is_end_stream() {
            return;
        }
        let recording = Recording::new(std::mem::replace(&mut request.body, RequestBody::Empty));
        request.body = RequestBody::Replay(Replay::of(&recording));
        self.replay = Some(recording);
    }

    /// A second copy for the case that the attempt that begins now fails. `reused`: it may go out on a connection
    /// that the upstream is closing at this very moment.
    pub(super) fn copy(&self, request: &Request<RequestBody>, reused: bool) -> Option<Request<RequestBody>> {
        let wanted = (self.left() && self.policy.after_sending(self.grpc, self.http2))
            || (reused && is_idempotent(&request.method) && request.body.is_end_stream());
        if !wanted {
            return None;
        }
        let body = match (&self.replay, &request.body) {
            (Some(recording), _) => RequestBody::Replay(Replay::of(recording)),
            (None, RequestBody::Upgrade) => RequestBody::Upgrade,
            (None, _) => RequestBody::Empty,
        };
        Some(Request {
            method: request.method.clone(),
            uri: request.uri.clone(),
            headers: request.headers.clone(),
            body,
        })
    }

    /// Whether all of the body that a copy needs is still there.
    pub(super) fn can_replay(&self) -> bool {
        self.replay.as_ref().is_none_or(|recording| !recording.overflown.get())
    }

    /// Whether a failure is to be tried again.
    pub(super) fn after_failure(&self, failure: &Failure) -> Verdict {
        let on = |reasons| self.policy.on.intersects(reasons);
        let always = on(RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR | RetryOn::RESET);
        let wanted = match failure {
            // Envoy, too, leaves a cluster alone that is at its limits.
            Failure::RequestBody(_) | Failure::Overflow(_) | Failure::Descriptors => false,
            failure if failure.is_connect() => always || on(RetryOn::CONNECT_FAILURE | RetryOn::RESET_BEFORE_REQUEST),
            Failure::RemoteReset { refused: true, .. } => always || on(RetryOn::REFUSED_STREAM),
            _ => always,
        };
        self.decide(wanted)
    }

    /// The same after an attempt took too long (Envoy treats that as a reset).
    pub(super) fn after_timeout(&self) -> Verdict {
        self.decide(self.policy.on.intersects(RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR | RetryOn::RESET))
    }

    /// The same for the head of a response.
    pub(super) fn after_response(&self, status: u16, headers: &HeaderList) -> Verdict {
        let rate_limited = || headers.contains_key("x-envoy-ratelimited");
        let grpc_status = || {
            let status = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
            Some(RetryOn::of_grpc_status(status))
        };
        let wanted = if self.policy.on.intersects(RetryOn::RATE_LIMITED) && rate_limited() {
            true
        } else {
            (self.policy.wants_status(status) && !rate_limited())
                || (self.grpc && grpc_status().is_some_and(|reason| self.policy.on.intersects(reason)))
        };
        self.decide(wanted)
    }

    fn decide(&self, wanted: bool) -> Verdict {
        match wanted && self.policy.attempts > 0 {
            false => Verdict::No,
            true if self.left() => Verdict::Again,
            true => Verdict::Exhausted,
        }
    }

    /// Whether a request that went out on a kept connection, which then turned out to be closed, may be sent once more.
    pub(super) fn is_stale(&self, failure: &Failure, method: &Method) -> bool {
        let refused = matches!(failure, Failure::RemoteReset { refused: true, .. });
        failure.is_stale() && (refused || is_idempotent(method)) && self.can_replay()
    }

    /// Counts an attempt more, and waits before it if that is wanted: randomised, longer each time.
    pub(super) async fn begin_next(&mut self, pause: bool) {
        let base = self.policy.backoff;
        let longest = base.saturating_mul(LONGEST_PAUSE);
        let most = base.saturating_mul(1_u32.checked_shl(self.retries).unwrap_or(u32::MAX)).min(longest);
        self.retries += 1;
        if pause {
            tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
        }
    }

    /// The limit of one attempt.
    pub(super) fn per_try_timeout(&self) -> Option<Duration> {
        self.policy.per_try_timeout
    }

    /// Waits until the request has been sent: only then its attempt's time begins.
    pub(super) async fn request_sent(&self) {
        let Some(recording) = &self.replay else { return };
        std::future::poll_fn(|cx| {
            if recording.ended.get() {
                return Poll::Ready(());
            }
            *recording.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Methods that do no harm when they are carried out twice (RFC 9110 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// A request body that is read once, and remembered up to a limit.
pub(super) struct Recording {
    source: RefCell<RequestBody>,
    bytes: RefCell<BytesMut>,
    trailers: RefCell<Option<HeaderMap>>,
    /// More has been read than is kept: it cannot be sent again.
    overflown: Cell<bool>,
    /// All of it has been read.
    ended: Cell<bool>,
    /// Which copy may read on; those before it belong to attempts that have been given up.
    turn: Cell<u32>,
    waiting: RefCell<Option<Waker>>,
}

impl Recording {
    fn new(source: RequestBody) -> Rc<Self> {
        Rc::new(Self {
            source: RefCell::new(source),
            bytes: RefCell::default(),
            trailers: RefCell::default(),
            overflown: Cell::new(false),
            ended: Cell::new(false),
            turn: Cell::new(0),
            waiting: RefCell::default(),
        })
    }

    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut *self.source.borrow_mut()).poll_frame(cx);
        match &polled {
            Poll::Pending | Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    *self.trailers.borrow_mut() = Some(trailers.clone());
                }
                if self.source.borrow().is_end_stream() {
                    self.end();
                }
            }
        }
        polled
    }

    fn keep(&self, data: &Bytes) {
        let mut bytes = self.bytes.borrow_mut();
        if self.overflown.get() || bytes.len() + data.len() > limits::RETRY_BUFFER_BYTES {
            self.overflown.set(true);
            *bytes = BytesMut::new();
        } else {
            // Copied, so that what is kept is as much as it says and not the buffers that the pieces came in.
            bytes.extend_from_slice(data);
        }
    }

    fn end(&self) {
        self.ended.set(true);
        if let Some(waiting) = self.waiting.borrow_mut().take() {
            waiting.wake();
        }
    }
}

/// One reading of a [`Recording`] from its beginning.
pub(crate) struct Replay {
    recording: Rc<Recording>,
    at: usize,
    /// `None` until it is first read, which makes it the one that may.
    turn: Option<u32>,
    trailers_given: bool,
}

impl Replay {
    fn of(recording: &Rc<Recording>) -> Self {
        Self { recording: Rc::clone(recording), at: 0, turn: None, trailers_given: false }
    }
}

impl Body for Replay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let recording = &*this.recording;
        let turn = *this.turn.get_or_insert_with(|| {
            recording.turn.set(recording.turn.get() + 1);
            recording.turn.get()
        });
        if turn != recording.turn.get() {
            return Poll::Ready(Some(Err("this attempt has been given up".into())));
        }
        let kept = recording.bytes.borrow();
        if let Some(rest) = kept.get(this.at..).filter(|rest| !rest.is_empty()) {
            let data = Bytes::copy_from_slice(rest);
            this.at += data.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        drop(kept);
        if recording.ended.get() {
            let trailers = recording.trailers.borrow().clone().filter(|_| !this.trailers_given);
            this.trailers_given = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = recording.poll_source(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            match frame.data_ref() {
                Some(data) => this.at += data.len(),
                None => this.trailers_given = true,
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let recording = &*self.recording;
        recording.ended.get()
            && self.at >= recording.bytes.borrow().len()
            && (self.trailers_given || recording.trailers.borrow().is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.recording.bytes.borrow().len().saturating_sub(self.at) as u64;
        let source = self.recording.source.borrow().size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(source.lower() + rest);
        if let Some(upper) = source.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
