//! How many passwords are computed per second: hashing is slow on purpose, and a gateway must not be kept busy with
//! guesses. Per instance, so per worker.

use std::cell::Cell;
use std::time::Duration;

/// A bucket that is refilled evenly and holds one second's worth.
pub(crate) struct Budget {
    per_second: u32,
    /// What is left, and when that was so.
    left: Cell<(f64, Duration)>,
}

impl Budget {
    pub(crate) fn new(per_second: u32) -> Budget {
        Budget { per_second, left: Cell::new((f64::from(per_second), Duration::ZERO)) }
    }

    /// Takes one; false if there is none left at this time.
    pub(crate) fn take(&self, now: Duration) -> bool {
        let (left, then) = self.left.get();
        let most = f64::from(self.per_second);
        // A clock that goes back refills nothing.
        let left = (left + now.saturating_sub(then).as_secs_f64() * most).min(most);
        let enough = left >= 1.0;
        self.left.set((if enough { left - 1.0 } else { left }, now));
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_and_a_part_of_it_a_part() {
        let budget = Budget::new(4);
        let at = |milliseconds: u64| Duration::from_millis(1_000_000 + milliseconds);
        assert!((0..4).all(|_| budget.take(at(0))));
        assert!(!budget.take(at(0)) && !budget.take(at(200)));
        assert!(budget.take(at(300)) && !budget.take(at(300)));
        assert!(!budget.take(at(0)), "back in time");
        assert_eq!((0..10).filter(|_| budget.take(at(60_000))).count(), 4, "no more than a second's worth");
    }
}
