//! A worker's coarse clock.
//!
//! Idle and head timeouts are seconds long; asking the kernel for the time on every request to serve them
//! would be waste. The worker's sweep moves this clock once per [`TICK`]; everybody else only reads a cell.

use std::{
    cell::Cell,
    io::Write as _,
    rc::Rc,
    time::{Duration, SystemTime},
};

/// How often the sweep runs; every coarse timeout is late by at most this much.
pub(crate) const TICK: Duration = Duration::from_millis(500);

/// Cheap to clone and to read; belongs to one worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Rc<Hands>);

#[derive(Debug)]
struct Hands {
    ticks: Cell<u64>,
    /// The time of day as HTTP writes it (RFC 9110 5.6.7).
    date: Cell<[u8; 29]>,
}

/// A moment on a [`Clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(u64);

impl Clock {
    pub(crate) fn now(&self) -> Moment {
        Moment(self.0.ticks.get())
    }

    /// The time of day for the header `date`, at most a second old.
    pub(crate) fn date(&self) -> [u8; 29] {
        self.0.date.get()
    }

    /// Called by the sweep only.
    pub(crate) fn advance(&self) {
        self.0.ticks.set(self.0.ticks.get() + 1);
        self.0.date.set(date());
    }
}

impl Default for Hands {
    fn default() -> Self {
        Self { ticks: Cell::default(), date: Cell::new(date()) }
    }
}

fn date() -> [u8; 29] {
    let mut text = [0; 29];
    // A date has exactly so many bytes.
    let _ = write!(text.as_mut_slice(), "{}", httpdate::HttpDate::from(SystemTime::now()));
    text
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
