//! The place that an open connection takes, and how long it may serve.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::sync::Notify;

use super::usage::Permit;
use crate::{clock::Moment, snapshot::ConnectionSettings};

/// The places of one endpoint on one worker.
#[derive(Default)]
pub(super) struct Places {
    open: Cell<u32>,
    waiting: Cell<u32>,
    freed: Notify,
}

/// A place that is taken until this is dropped.
pub(super) struct Slot {
    places: Rc<Places>,
    _permit: Permit,
}

impl Places {
    /// Open connections, and those on the way to being open.
    pub(super) fn open(&self) -> u32 {
        self.open.get()
    }

    /// Whether somebody waits; whoever comes later has to wait, too.
    pub(super) fn awaited(&self) -> bool {
        self.waiting.get() > 0
    }

    pub(super) fn take(self: &Rc<Self>, permit: Permit) -> Slot {
        self.open.set(self.open.get() + 1);
        Slot { places: Rc::clone(self), _permit: permit }
    }

    /// Waits until a connection has become free or has been closed.
    pub(super) async fn freed(&self) {
        struct Waiting<'a>(&'a Cell<u32>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get().saturating_sub(1));
            }
        }
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(&self.waiting);
        self.freed.notified().await;
    }

    /// Says that a connection has become free.
    pub(super) fn notify(&self) {
        if self.awaited() {
            self.freed.notify_one();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.places.open.set(self.places.open.get().saturating_sub(1));
        self.places.notify();
    }
}

/// How old a connection is and what it has carried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    opened: Moment,
    requests: u32,
    max_duration: Option<Duration>,
    max_requests: Option<u32>,
}

impl Life {
    pub(super) fn new(opened: Moment, settings: &ConnectionSettings) -> Self {
        Self { opened, requests: 0, max_duration: settings.max_duration, max_requests: settings.max_requests }
    }

    /// Counts a request; says whether it is the first.
    pub(super) fn begin_request(&mut self) -> bool {
        self.requests = self.requests.saturating_add(1);
        self.requests == 1
    }

    /// Whether it has carried its last request.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.max_requests.is_some_and(|most| self.requests >= most)
            || self.max_duration.is_some_and(|longest| self.opened.older_than(longest, now))
    }
}
