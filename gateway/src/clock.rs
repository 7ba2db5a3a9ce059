//! A worker's coarse clock.
//!
//! Idle and head timeouts are seconds long; asking the kernel for the time on every request to serve them
//! would be waste. The worker's sweep moves this clock once per [`TICK`]; everybody else only reads a cell.

use std::{cell::Cell, rc::Rc, time::Duration};

/// How often the sweep runs; every coarse timeout is late by at most this much.
pub(crate) const TICK: Duration = Duration::from_millis(500);

/// Cheap to clone and to read; belongs to one worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Rc<Cell<u64>>);

/// A moment on a [`Clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(u64);

impl Clock {
    pub(crate) fn now(&self) -> Moment {
        Moment(self.0.get())
    }

    /// Called by the sweep only.
    pub(crate) fn advance(&self) {
        self.0.set(self.0.get() + 1);
    }
}

impl Moment {
    /// Ticks since the clock was made.
    pub(crate) fn ticks(self) -> u64 {
        self.0
    }

    /// Whether `limit` has passed between this moment and `now`. Never early: a moment may lie anywhere in its tick.
    pub(crate) fn older_than(self, limit: Duration, now: Moment) -> bool {
        let ticks = limit.as_millis().div_ceil(TICK.as_millis()) as u64;
        now.0.saturating_sub(self.0) > ticks
    }
}
