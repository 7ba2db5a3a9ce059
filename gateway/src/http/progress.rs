//! Who is waited for: bodies that make no progress are ended by the worker's sweep, not by timers of their own.
//!
//! A request body is late when somebody wants more of it and the client sends nothing; a response over HTTP/2 when its
//! next piece is ready and the client makes no room. As long as the upstream is waited for, nothing here counts.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use slab::Slab;

use super::activity::Activity;
use crate::clock::{Clock, Moment};

/// Request bodies of a worker that may become late.
#[derive(Default)]
pub(crate) struct Bodies(RefCell<Slab<Rc<Waiting>>>);

/// Whether the client is waited for, and since when.
#[derive(Default)]
pub(super) struct Waiting {
    since: Cell<Option<Moment>>,
    reader: RefCell<Option<Waker>>,
    late: Cell<bool>,
    /// The response has begun: the body may take as long as it likes.
    excused: Cell<bool>,
}

/// Keeps a body in the list as long as it is read.
pub(super) struct Watched {
    bodies: Rc<Bodies>,
    key: usize,
    waiting: Rc<Waiting>,
    clock: Clock,
}

impl Bodies {
    /// Watches one more body, of which `waiting` is what others see.
    pub(super) fn watch(self: &Rc<Self>, waiting: Rc<Waiting>, clock: Clock) -> Watched {
        let key = self.0.borrow_mut().insert(Rc::clone(&waiting));
        Watched { bodies: Rc::clone(self), key, waiting, clock }
    }

    /// Finds the bodies that have become late, and lets their readers know. Returns how many.
    pub(crate) fn sweep(&self, now: Moment, limit: Duration) -> usize {
        let mut late = 0;
        for (_, waiting) in self.0.borrow().iter() {
            let overdue = waiting.since.get().is_some_and(|since| since.older_than(limit, now));
            if overdue && !waiting.excused.get() && !waiting.late.replace(true) {
                late += 1;
                if let Some(reader) = waiting.reader.take() {
                    reader.wake();
                }
            }
        }
        late
    }
}

impl Waiting {
    /// Whether the client has sent nothing for too long.
    pub(super) fn is_late(&self) -> bool {
        self.late.get()
    }

    /// It does not matter any more how long it takes.
    pub(super) fn excuse(&self) {
        self.excused.set(true);
    }
}

impl Watched {
    /// Somebody wants more than the client has sent.
    pub(super) fn wait(&self, reader: &Waker) {
        if self.waiting.since.get().is_none() {
            self.waiting.since.set(Some(self.clock.now()));
        }
        let mut known = self.waiting.reader.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(reader)) {
            *known = Some(reader.clone());
        }
    }

    /// Something has come.
    pub(super) fn arrived(&self) {
        self.waiting.since.set(None);
    }

    /// Whether the client has sent nothing for too long.
    pub(super) fn is_late(&self) -> bool {
        self.waiting.is_late()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.bodies.0.borrow_mut().try_remove(self.key);
    }
}

/// A response over HTTP/2, for which the client has to make room piece by piece. Without a connection it costs nothing:
/// over HTTP/1 the socket shows whether the client reads.
pub(super) struct Offers {
    activity: Option<Rc<Activity>>,
    open: bool,
}

impl Offers {
    pub(super) fn new(activity: &Rc<Activity>, ended: bool) -> Self {
        let mut offers = Self { activity: activity.is_multiplexed().then(|| Rc::clone(activity)), open: false };
        offers.offer(ended);
        offers
    }

    /// Nothing that a client would make room for.
    pub(super) fn none() -> Self {
        Self { activity: None, open: false }
    }

    /// Something was handed over, and the rest is up to the client unless that was all.
    pub(super) fn offer(&mut self, ended: bool) {
        if let Some(activity) = self.activity.as_ref().filter(|_| !ended && !self.open) {
            activity.offer();
            self.open = true;
        }
    }

    /// The client has made room.
    pub(super) fn take(&mut self) {
        if let Some(activity) = self.activity.as_ref().filter(|_| self.open) {
            activity.take();
            self.open = false;
        }
    }

    /// A piece was handed over.
    pub(super) fn sent(&self, bytes: usize) {
        if let Some(activity) = &self.activity {
            activity.sent(bytes);
        }
    }
}

impl Drop for Offers {
    fn drop(&mut self) {
        self.take();
    }
}

/// A response over HTTP/2 as hyper sends it: each piece is an offer of its own until it has left, because h2 keeps what the
/// client makes no room for, also when the response has come to its end for everybody else.
pub(super) struct Offering<B> {
    body: B,
    activity: Rc<Activity>,
}

/// A piece of a response that is on its way.
pub(super) struct Offered {
    bytes: Bytes,
    /// Bytes that have left since that last counted as progress.
    left: usize,
    activity: Rc<Activity>,
}

/// Less is no progress: a client that makes room byte by byte makes none.
const PROGRESS: usize = 1024;

impl<B> Offering<B> {
    pub(super) fn new(body: B, activity: &Rc<Activity>) -> Self {
        Self { body, activity: Rc::clone(activity) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Offering<B> {
    type Data = Offered;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Offered>, B::Error>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let offered = |bytes| {
            self.activity.offer();
            Offered { bytes, left: 0, activity: Rc::clone(&self.activity) }
        };
        Poll::Ready(polled.map(|frame| frame.map(|frame| frame.map_data(offered))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Buf for Offered {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.left += bytes;
        if self.left >= PROGRESS {
            self.left = 0;
            self.activity.progress();
        }
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.activity.take();
    }
}
