//! Whether every worker moves. A worker's sweep beats twice a second; the control side counts how often it looked in
//! vain.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::MissedTickBehavior;

/// How often beats are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// A worker is stuck when it was looked at so often in vain: 1.5 s, three times its beat. Looks are counted, not time:
/// when the whole process stood still, nobody is to blame.
const PATIENCE: u32 = 6;

/// All workers.
#[derive(Debug)]
pub(super) struct Workers(Box<[Heart]>);

#[derive(Debug, Default)]
struct Heart {
    beats: AtomicU64,
    stuck: AtomicBool,
}

/// What the watch knows of one worker.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    beats: u64,
    in_vain: u32,
}

impl Workers {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Heart::default()).collect())
    }

    pub(super) fn beat(&self, worker: usize) {
        if let Some(heart) = self.0.get(worker) {
            heart.beats.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn stuck(&self) -> Vec<usize> {
        (0..).zip(&*self.0).filter(|(_, heart)| heart.stuck.load(Relaxed)).map(|(worker, _)| worker).collect()
    }

    fn look(&self, seen: &mut [Seen]) {
        for ((worker, heart), seen) in (0..).zip(&*self.0).zip(seen) {
            let beats = heart.beats.load(Relaxed);
            let moved = beats != seen.beats;
            *seen = Seen { beats, in_vain: if moved { 0 } else { seen.in_vain.saturating_add(1) } };
            let stuck = seen.in_vain >= PATIENCE;
            match (heart.stuck.swap(stuck, Relaxed), stuck) {
                (false, true) => {
                    let worker: usize = worker;
                    tracing::error!(
                        worker,
                        "a worker does not move: its connections wait, and the gateway is not ready; if it stays so, \
                         restart the gateway and report what it was doing (its stack: gdb -p PID -batch -ex 'thread \
                         apply all bt')"
                    );
                }
                (true, false) => tracing::warn!(worker, "a worker moves again"),
                _ => {}
            }
        }
    }
}

/// Looks until it is dropped.
pub(super) async fn watch(workers: &Workers) {
    let mut seen = vec![Seen::default(); workers.0.len()];
    let mut turn = tokio::time::interval(LOOK);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        workers.look(&mut seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_stuck_after_some_looks_and_until_it_moves() {
        let workers = Workers::new(2);
        let mut seen = [Seen::default(); 2];
        for look in 1..=PATIENCE {
            assert_eq!(workers.stuck(), [0; 0], "after {} looks", look - 1);
            workers.beat(0);
            workers.look(&mut seen);
        }
        assert_eq!(workers.stuck(), [1]);
        workers.beat(1);
        workers.look(&mut seen);
        assert_eq!(workers.stuck(), [0; 0]);
    }
}
