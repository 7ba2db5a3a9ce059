//! The time a plugin may take, checked from inside its own code.
//!
//! Compiled plugins look at the engine's epoch at function entries and loop back-edges; when it has
//! advanced they call back. Entering a callback therefore costs no clock call: the first epoch
//! change within a callback takes the base line, later ones compare with it. The cut comes between 0
//! and 2 ticks ([`TICK`]) after the budget is used up, never before.
//!
//! CPU time of the thread decides, because wall time would punish a plugin for a busy machine; a
//! generous wall limit covers a thread that is not scheduled at all. Host functions do not
//! check epochs: their work is bounded by other limits. Bulk memory operations would not, so they are
//! done in pieces (`bulk`).

use std::time::{Duration, Instant};

use thiserror::Error;

/// How often the epoch advances. The cut comes up to two ticks late, and a piece of a bulk operation later (a millisecond):
/// well below 20 ms.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// Time for one entry into the plugin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

/// Why a plugin was cut.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Cut {
    #[error("used more than {0:?} of CPU time")]
    Cpu(Duration),
    #[error("did not finish within {0:?}")]
    Wall(Duration),
}

#[derive(Debug)]
pub(crate) struct Deadline {
    budget: Budget,
    base: Option<Reading>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    cpu: Duration,
    wall: Instant,
}

impl Deadline {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, base: None }
    }

    /// Begins a new measurement with the same budget.
    pub(crate) fn restart(&mut self) {
        self.base = None;
    }

    /// Begins a new measurement with another budget.
    pub(crate) fn set_budget(&mut self, budget: Budget) {
        *self = Self::new(budget);
    }

    /// The epoch has advanced while the plugin runs.
    pub(crate) fn tick(&mut self) -> Result<(), Cut> {
        self.check(Reading { cpu: thread_cpu_time(), wall: Instant::now() })
    }

    fn check(&mut self, now: Reading) -> Result<(), Cut> {
        let Some(base) = self.base else {
            self.base = Some(now);
            return Ok(());
        };
        if now.cpu.saturating_sub(base.cpu) >= self.budget.cpu {
            return Err(Cut::Cpu(self.budget.cpu));
        }
        if now.wall.saturating_duration_since(base.wall) >= self.budget.wall {
            return Err(Cut::Wall(self.budget.wall));
        }
        Ok(())
    }
}

/// CPU time that the calling thread has used.
fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing; the call has no other effect.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    // Both fields are never negative, and the nanoseconds always below 10^9, also after a failure.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_counts_from_the_first_tick() {
        let start = Instant::now();
        let at = |cpu, wall| Reading { cpu: Duration::from_millis(cpu), wall: start + Duration::from_millis(wall) };
        let budget = Budget { cpu: Duration::from_millis(50), wall: Duration::from_millis(1000) };
        let mut deadline = Deadline::new(budget);
        assert_eq!(deadline.check(at(7_000, 0)), Ok(()), "base line, whatever the thread did before");
        assert_eq!(deadline.check(at(7_049, 900)), Ok(()));
        assert_eq!(deadline.check(at(7_050, 900)), Err(Cut::Cpu(budget.cpu)));
        assert_eq!(deadline.check(at(7_001, 1_000)), Err(Cut::Wall(budget.wall)));
        deadline.restart();
        assert_eq!(deadline.check(at(9_000, 5_000)), Ok(()), "a new base line");
    }

    #[test]
    fn cpu_time_advances_with_work() {
        let before = thread_cpu_time();
        let mut sum = 0u64;
        while thread_cpu_time() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(thread_cpu_time() > before);
    }
}
