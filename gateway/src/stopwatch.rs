//! The time that very short things take, from the processor's own counter where that is a clock.
//!
//! A callback of a plugin takes some hundred nanoseconds, and asking the system's clock thirty of them. On x86-64 the
//! time stamp counter takes ten, and runs at a constant rate, in step on all processors, wherever the kernel itself keeps
//! time by it: Linux says so as its clock source. Anywhere else the system's clock is asked.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// A reading; only the time between two of them means something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading(u64);

/// How long the counter is compared with the clock, once: a reading of both is off by less than 100 ns, which makes
/// durations wrong by less than one part in ten thousand.
const COMPARED: Duration = Duration::from_millis(2);

/// Nanoseconds per tick of the counter, in units of 2^-32.
#[derive(Debug, Clone, Copy)]
struct Rate(u64);

impl Reading {
    pub(crate) fn now() -> Self {
        Self(if rate().is_some() { counter() } else { system() })
    }

    /// Nanoseconds since an earlier one; 0 if it is not earlier.
    pub(crate) fn nanos_since(self, earlier: Self) -> u64 {
        let passed = self.0.saturating_sub(earlier.0);
        match rate() {
            Some(rate) => rate.nanos(passed),
            None => passed,
        }
    }
}

impl Rate {
    fn nanos(self, ticks: u64) -> u64 {
        // Saturates after 580 years.
        u64::try_from((u128::from(ticks) * u128::from(self.0)) >> 32).unwrap_or(u64::MAX)
    }
}

/// The rate of the counter; `None`: it is no clock.
fn rate() -> Option<Rate> {
    static RATE: OnceLock<Option<Rate>> = OnceLock::new();
    *RATE.get_or_init(|| is_a_clock().then(compare).flatten())
}

/// Waits a moment and sees how far both have come.
fn compare() -> Option<Rate> {
    let (ticks, time) = (counter(), Instant::now());
    std::thread::sleep(COMPARED);
    let (ticks, time) = (counter().checked_sub(ticks)?, time.elapsed());
    let rate = (time.as_nanos() << 32).checked_div(u128::from(ticks))?;
    u64::try_from(rate).ok().map(Rate)
}

fn is_a_clock() -> bool {
    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    cfg!(target_arch = "x86_64") && std::fs::read_to_string(SOURCE).is_ok_and(|source| source.trim() == "tsc")
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it has no effect. Linux lets programs use it unless they
    // have asked it not to (PR_SET_TSC).
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    system()
}

/// Nanoseconds since the first call.
fn system() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_as_fast_as_the_systems_clock() {
        let outer = Instant::now();
        let begin = Reading::now();
        let inner = Instant::now();
        while inner.elapsed() < Duration::from_millis(20) {}
        let least = inner.elapsed();
        let measured = Duration::from_nanos(Reading::now().nanos_since(begin));
        let most = outer.elapsed();
        assert!(measured * 1001 / 1000 >= least && measured <= most * 1001 / 1000, "{least:?} {measured:?} {most:?}");
        assert_eq!(begin.nanos_since(Reading::now()), 0);
    }

    #[test]
    fn long_times_are_long() {
        // 3 GHz.
        let rate = Rate((1_u64 << 32) / 3);
        let year = 365 * 86_400 * 1_000_000_000_u64;
        assert!(rate.nanos(year * 3).abs_diff(year) < year / 1_000_000);
    }
}
