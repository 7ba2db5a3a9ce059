//! What every client connection of a worker is doing, and what it is told to do.
//!
//! A worker's sweep looks at its connections twice a second ([`Connections::sweep`]); requests only set
//! cells. A connection that has to end is told through its own task, so nothing waits on a channel.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Poll, Waker},
};

use slab::Slab;

use super::{Port, limits};
use crate::clock::{Clock, Moment};

/// What a connection is doing, and what it is told to do.
pub(super) struct Activity {
    clock: Clock,
    phase: Cell<Phase>,
    since: Cell<Moment>,
    requests: Cell<u32>,
    multiplexed: Cell<bool>,
    order: Cell<Order>,
    task: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// TLS is being agreed on; `handshake` limits the time.
    Handshake,
    /// Waiting for the rest of a head (or for the first one).
    Head,
    /// At least one request is being served.
    Busy,
    /// Waiting for the next request.
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    None,
    /// Finish what is in flight, then close.
    Drain,
    /// Close now.
    Close,
}

impl Activity {
    pub(super) fn new(clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Head),
            since: Cell::new(clock.now()),
            requests: Cell::new(0),
            multiplexed: Cell::new(false),
            order: Cell::new(Order::None),
            task: RefCell::default(),
            clock,
        })
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.clock.now());
    }

    /// The client is to speak TLS first.
    pub(super) fn begin_handshake(&self) {
        self.enter(Phase::Handshake);
    }

    /// It does; its first request may come.
    pub(super) fn end_handshake(&self) {
        self.enter(Phase::Head);
    }

    /// Whether requests can overlap: HTTP/2.
    pub(super) fn set_multiplexed(&self, multiplexed: bool) {
        self.multiplexed.set(multiplexed);
    }

    /// Bytes arrived.
    pub(super) fn read(&self) {
        // Between two HTTP/2 streams there are frames that are no request; only HTTP/1 bytes start a head.
        if self.phase.get() == Phase::Idle && !self.multiplexed.get() {
            self.enter(Phase::Head);
        }
    }

    /// A head is complete.
    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.phase.set(Phase::Busy);
    }

    /// A response is over, one way or another.
    pub(super) fn end(&self) {
        self.requests.set(self.requests.get().saturating_sub(1));
        if self.requests.get() == 0 {
            self.enter(Phase::Idle);
        }
    }

    /// Tells an HTTP/2 client to open no more streams here.
    pub(super) fn say_goodbye(&self) {
        self.give(Order::Drain);
    }

    /// Whether the connection is to drain, and may: hyper would close an HTTP/1 connection under a head that it has not
    /// got all of.
    fn takes_goodbye(&self) -> bool {
        self.order.get() == Order::Drain && (self.multiplexed.get() || self.phase.get() != Phase::Head)
    }

    fn give(&self, order: Order) {
        self.order.set(order);
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}

/// All connections of a worker.
#[derive(Default)]
pub(crate) struct Connections {
    open: RefCell<Slab<Open>>,
    accepted: Cell<usize>,
    next_id: Cell<u64>,
    leaving: Cell<bool>,
    draining: Cell<bool>,
    /// Told when the last connection has ended.
    empty: tokio::sync::Notify,
}

/// A connection and the listener it came through.
struct Open {
    activity: Rc<Activity>,
    port: Rc<Port>,
}

impl Connections {
    /// Number of connections that were accepted and have not ended.
    pub(crate) fn len(&self) -> usize {
        self.accepted.get()
    }

    /// A connection was accepted; it counts until what is returned is dropped.
    pub(crate) fn accept(self: &Rc<Self>) -> Accepted {
        self.accepted.set(self.accepted.get() + 1);
        Accepted(Rc::clone(self))
    }

    /// Closes connections that have been quiet for too long. Returns how many, by reason: incomplete heads, idle ones.
    pub(crate) fn sweep(&self, now: Moment) -> (usize, usize) {
        let (mut heads, mut idle) = (0, 0);
        for (_, Open { activity, .. }) in self.open.borrow().iter() {
            let since = activity.since.get();
            // Told to end, and still nothing to finish.
            let silent = activity.order.get() == Order::Drain;
            match activity.phase.get() {
                Phase::Head | Phase::Handshake if silent && since.older_than(limits::DRAIN_HEAD_TIMEOUT, now) => {}
                Phase::Head if since.older_than(limits::REQUEST_HEAD_TIMEOUT, now) => heads += 1,
                Phase::Idle if since.older_than(limits::IDLE_TIMEOUT, now) => idle += 1,
                _ => continue,
            }
            activity.give(Order::Close);
        }
        (heads, idle)
    }

    /// Asks clients to leave, or not any more. Nothing is closed and new connections are served: an HTTP/1
    /// connection ends with its next answer, an HTTP/2 connection is told GOAWAY now, or with its first answer if it
    /// is new. What clients have on the way is answered.
    pub(crate) fn leave(&self, leave: bool) {
        self.leaving.set(leave);
        let open = self.open.borrow();
        for (_, Open { activity, .. }) in open.iter().filter(|(_, open)| leave && open.activity.multiplexed.get()) {
            activity.give(Order::Drain);
        }
    }

    /// Whether clients are asked to leave.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Lets every connection finish what it is doing and closes idle ones; new ones are told the same.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for (_, Open { activity, .. }) in self.open.borrow().iter() {
            activity.give(Order::Drain);
        }
    }

    /// The same for the connections of a listener that is not served any more.
    pub(crate) fn drain_port(&self, port: &Rc<Port>) {
        port.retire();
        for (_, open) in self.open.borrow().iter().filter(|(_, open)| Rc::ptr_eq(&open.port, port)) {
            open.activity.give(Order::Drain);
        }
    }

    /// Closes everything.
    pub(crate) fn close(&self) {
        for (_, Open { activity, .. }) in self.open.borrow().iter() {
            activity.give(Order::Close);
        }
    }

    /// Waits until no connection is left.
    pub(crate) async fn ended(&self) {
        while self.accepted.get() > 0 {
            self.empty.notified().await;
        }
    }

    pub(super) fn enter(self: &Rc<Self>, activity: &Rc<Activity>, port: &Rc<Port>) -> Entry {
        if self.draining.get() || port.is_retired() {
            activity.order.set(Order::Drain);
        }
        let open = Open { activity: Rc::clone(activity), port: Rc::clone(port) };
        Entry { key: self.open.borrow_mut().insert(open), connections: Rc::clone(self) }
    }

    /// A number that no other connection of this process has.
    pub(super) fn next_id(&self, worker: usize) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        // Workers count on their own; the upper bits tell them apart.
        ((worker as u64) << 48) | id
    }
}

/// Counts a connection, from the moment at which it is accepted: its task may begin later.
pub(crate) struct Accepted(Rc<Connections>);

impl Drop for Accepted {
    fn drop(&mut self) {
        let left = self.0.accepted.get().saturating_sub(1);
        self.0.accepted.set(left);
        if left == 0 {
            self.0.empty.notify_one();
        }
    }
}

/// Keeps a connection in the list while it is open.
pub(super) struct Entry {
    connections: Rc<Connections>,
    key: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().try_remove(self.key);
    }
}

/// Runs a connection and carries out what it is told meanwhile. `None`: it was told to close.
pub(super) async fn with_orders<F: Future>(
    activity: &Activity,
    drains: bool,
    mut connection: Pin<&mut F>,
    graceful: impl Fn(Pin<&mut F>),
) -> Option<F::Output> {
    poll_fn(|cx| {
        let known = activity.task.borrow().as_ref().is_some_and(|task| task.will_wake(cx.waker()));
        if !known {
            *activity.task.borrow_mut() = Some(cx.waker().clone());
        }
        if activity.order.get() == Order::Close {
            return Poll::Ready(None);
        }
        loop {
            if drains && activity.takes_goodbye() {
                activity.order.set(Order::None);
                graceful(connection.as_mut());
            }
            let polled = connection.as_mut().poll(cx).map(Some);
            // A head that was waited for may have been served in this very turn.
            if polled.is_ready() || !drains || !activity.takes_goodbye() {
                return polled;
            }
        }
    })
    .await
}
