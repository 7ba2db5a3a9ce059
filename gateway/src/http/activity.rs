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

use super::{
    Port,
    limits::{self, Limits},
};
use crate::clock::{Clock, Moment};

/// What a connection is doing, and what it is told to do.
pub(super) struct Activity {
    clock: Clock,
    /// Since when a head is incomplete, or the first one is waited for.
    head: Cell<Option<Moment>>,
    /// Whether some of that head has come.
    head_begun: Cell<bool>,
    /// Whether it should be complete by now.
    head_late: Cell<bool>,
    /// TLS is being agreed on; `handshake` limits the time.
    handshake: Cell<bool>,
    requests: Cell<u32>,
    /// Since when there has been no request, if there is none.
    quiet: Cell<Moment>,
    multiplexed: Cell<bool>,
    /// Since when the socket has taken nothing, although there is something.
    blocked: Cell<Option<Moment>>,
    /// Since when only the client's end of the connection is waited for.
    lingering: Cell<Option<Moment>>,
    sending: Sending,
    order: Cell<Order>,
    task: RefCell<Option<Waker>>,
}

/// Responses over HTTP/2, where a client can take nothing while its socket does.
#[derive(Default)]
struct Sending {
    /// Responses whose next piece waits for the client to make room.
    waiting: Cell<u32>,
    /// When the client last made room on any stream.
    progress: Cell<Moment>,
    /// Pieces and whole answers since somebody asked.
    pieces: Cell<u32>,
    answers: Cell<u32>,
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
        let now = clock.now();
        Rc::new(Self {
            head: Cell::new(Some(now)),
            head_begun: Cell::new(false),
            head_late: Cell::new(false),
            handshake: Cell::new(false),
            requests: Cell::new(0),
            quiet: Cell::new(now),
            multiplexed: Cell::new(false),
            blocked: Cell::new(None),
            lingering: Cell::new(None),
            sending: Sending::default(),
            order: Cell::new(Order::None),
            task: RefCell::default(),
            clock,
        })
    }

    /// The client is to speak TLS first.
    pub(super) fn begin_handshake(&self) {
        self.handshake.set(true);
    }

    /// It does; its first request may come.
    pub(super) fn end_handshake(&self) {
        self.handshake.set(false);
        self.head.set(Some(self.clock.now()));
    }

    /// Whether requests can overlap: HTTP/2.
    pub(super) fn set_multiplexed(&self, multiplexed: bool) {
        self.multiplexed.set(multiplexed);
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.multiplexed.get()
    }

    /// The worker's time in ticks.
    pub(super) fn ticks(&self) -> u64 {
        self.clock.now().ticks()
    }

    /// Bytes arrived, and now there is the beginning of a head, or there is none.
    pub(super) fn head_is(&self, incomplete: bool) {
        if !incomplete {
            self.head.set(None);
            self.head_late.set(false);
        } else if self.head.get().is_none() {
            self.head.set(Some(self.clock.now()));
        }
        self.head_begun.set(incomplete);
    }

    /// Whether the head that has begun should be complete by now.
    pub(super) fn is_head_late(&self) -> bool {
        self.head_late.get()
    }

    /// A request has arrived.
    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// Its response is over, one way or another; `answered`: all of it was sent.
    pub(super) fn end(&self, answered: bool) {
        self.requests.set(self.requests.get().saturating_sub(1));
        if self.requests.get() == 0 {
            self.quiet.set(self.clock.now());
        }
        if answered {
            self.sending.answers.set(self.sending.answers.get().saturating_add(1));
        }
    }

    /// Requests that are being served.
    pub(super) fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// There was something to write, and the socket took some of it or nothing.
    pub(super) fn wrote(&self, some: bool) {
        if some {
            self.blocked.set(None);
        } else if self.blocked.get().is_none() {
            self.blocked.set(Some(self.clock.now()));
        }
    }

    /// Whether only the client's end of the connection is waited for.
    pub(super) fn is_lingering(&self) -> bool {
        self.lingering.get().is_some()
    }

    /// Nothing more is sent; the client has a moment to see that.
    pub(super) fn linger(&self) {
        self.lingering.set(Some(self.clock.now()));
    }

    /// A response has its next piece ready: it is up to the client now to make room.
    pub(super) fn offer(&self) {
        let sending = &self.sending;
        if sending.waiting.replace(sending.waiting.get() + 1) == 0 {
            sending.progress.set(self.clock.now());
        }
    }

    /// The client has made room for it, or the response is gone.
    pub(super) fn take(&self) {
        self.sending.waiting.set(self.sending.waiting.get().saturating_sub(1));
        self.sending.progress.set(self.clock.now());
    }

    /// The client has made room for a good part of it.
    pub(super) fn progress(&self) {
        self.sending.progress.set(self.clock.now());
    }

    /// A piece of so many bytes was sent.
    pub(super) fn sent(&self, bytes: usize) {
        let pieces = u32::try_from(bytes / PIECE).unwrap_or(u32::MAX).saturating_add(1);
        self.sending.pieces.set(self.sending.pieces.get().saturating_add(pieces));
    }

    /// Pieces and whole answers that were sent since the last call.
    pub(super) fn take_sent(&self) -> (u32, u32) {
        (self.sending.pieces.take(), self.sending.answers.take())
    }

    /// Tells an HTTP/2 client to open no more streams here.
    pub(super) fn say_goodbye(&self) {
        self.give(Order::Drain);
    }

    /// Whether the connection is to drain, and may: an HTTP/1 connection is not closed under a head that it has not
    /// got all of.
    fn takes_goodbye(&self) -> bool {
        self.order.get() == Order::Drain && (self.multiplexed.get() || self.head.get().is_none())
    }

    fn give(&self, order: Order) {
        self.order.set(order);
        self.wake();
    }

    /// Lets the connection look at what has changed.
    pub(super) fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// Ends what has taken too long.
    fn sweep(&self, now: Moment, limits: &Limits, swept: &mut Swept) {
        let late = |since: Option<Moment>, limit| since.is_some_and(|since| since.older_than(limit, now));
        let head = self.head.get();
        if late(head, limits.request_head_timeout) && !self.handshake.get() {
            swept.heads += 1;
            if self.head_begun.get() && !self.multiplexed.get() {
                // It is answered.
                self.head.set(None);
                self.head_late.set(true);
                return self.wake();
            }
        } else if head.is_none() && self.requests.get() == 0 && self.quiet.get().older_than(limits.idle_timeout, now) {
            swept.idle += 1;
        } else if late(self.blocked.get(), limits.response_write_timeout)
            || (self.sending.waiting.get() > 0
                && self.sending.progress.get().older_than(limits.response_write_timeout, now))
        {
            swept.unread += 1;
        } else {
            // Told to end, and still nothing to finish.
            let silent = self.order.get() == Order::Drain && !self.head_begun.get();
            let silent = silent && late(head, limits::DRAIN_HEAD_TIMEOUT);
            if !silent && !late(self.lingering.get(), limits::LINGER_TIMEOUT) {
                return;
            }
            swept.silent += usize::from(silent);
        }
        self.give(Order::Close);
    }
}

/// Size of an HTTP/2 DATA frame.
const PIECE: usize = 16 * 1024;

/// How many connections a sweep has ended, and why.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Their head was not complete in time.
    pub(crate) heads: usize,
    /// There was no request for too long.
    pub(crate) idle: usize,
    /// The client did not read.
    pub(crate) unread: usize,
    /// They were told to end, and nothing came.
    pub(crate) silent: usize,
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

    /// Ends connections on which something has taken too long.
    pub(crate) fn sweep(&self, now: Moment, limits: &Limits) -> Swept {
        let mut swept = Swept::default();
        for (_, Open { activity, .. }) in self.open.borrow().iter() {
            activity.sweep(now, limits, &mut swept);
        }
        swept
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
