//! A worker's coarse clock, and how long its run queue makes people wait.
//!
//! Idle and head timeouts are seconds long; asking the kernel for the time on every request to serve them
//! would be waste. The worker's sweep moves this clock once per [`TICK`]; everybody else only reads a cell.

use std::{
    cell::Cell,
    io::Write as _,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
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

/// A turn of a worker's run queue, in which everybody who is ready is polled once.
///
/// When more is asked for than the worker can do, the queue grows until everybody in it waits for longer than their
/// clients do, and all work is for nobody. So a turn has an end: whoever comes later in it is turned away, which costs
/// little, and those at the front of the next turn are served in time. That needs no look at the clock: a request knows
/// when it began.
#[derive(Debug, Clone)]
pub(crate) struct Turn(Rc<Cell<Begin>>);

/// When a turn began.
#[derive(Debug, Clone, Copy)]
struct Begin {
    wall: Instant,
    /// CPU time of the thread.
    cpu: Duration,
}

/// A turn in which requests are served.
const LONGEST_TURN: Duration = Duration::from_millis(400);
/// A turn that is so short is not worth following the next.
const SHORT_TURN: Duration = Duration::from_millis(20);
/// How old the begin of a turn may be while turns are short.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);

impl Turn {
    pub(crate) fn new() -> Self {
        Self(Rc::new(Cell::new(Begin::now())))
    }

    /// Whether the turn has lasted too long for a request that begins now.
    #[inline]
    pub(crate) fn is_too_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.0.get().wall) > LONGEST_TURN && self.is_busy()
    }

    /// Whether it was this worker's work that took the time, and not that it got no CPU: then waiting is no queue.
    #[cold]
    fn is_busy(&self) -> bool {
        cpu_time().saturating_sub(self.0.get().cpu) > LONGEST_TURN / 4
    }

    /// Goes through the queue with the others. Does not end.
    pub(crate) async fn follow(self) {
        loop {
            let begin = Begin::now();
            self.0.set(begin);
            tokio::task::yield_now().await;
            if begin.wall.elapsed() < SHORT_TURN {
                tokio::time::sleep(FOLLOW_EVERY).await;
            }
        }
    }
}

impl Begin {
    fn now() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills one struct that is ours; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_makes_a_turn_too_long() {
        let turn = Turn::new();
        let late = || turn.0.get().wall + LONGEST_TURN + Duration::from_millis(1);
        assert!(!turn.is_too_long(Instant::now()));
        assert!(!turn.is_too_long(late()), "nobody has worked");
        let began = cpu_time();
        while cpu_time() - began <= LONGEST_TURN / 4 {
            std::hint::spin_loop();
        }
        assert!(turn.is_too_long(late()));
        assert!(!turn.is_too_long(turn.0.get().wall + LONGEST_TURN));
    }
}
