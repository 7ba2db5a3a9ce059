//! Replaces crashed plugin instances: start-up code runs here, not on a worker.
//!
//! The rate is limited per plugin version, so that a plugin which crashes with every request cannot keep the
//! control side busy. Until its spare comes, the plugin's streams fail by its failStrategy.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::publish::Workers;
use crate::{http::SpareOrder, snapshot::PluginId, worker::Command};

/// Replacements that a version may have at once before the rate counts.
const BURST: u32 = 100;
/// One more every so often.
const PAUSE: Duration = Duration::from_millis(50);
/// Wait before the next try after a start that failed; twice as long after each that follows.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// But no longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// When the bucket of a version will be full again.
#[derive(Default)]
struct Rate(HashMap<PluginId, Instant>);

impl Rate {
    /// How long the next replacement of a version has to wait.
    fn next(&mut self, id: PluginId) -> Duration {
        let now = Instant::now();
        self.0.retain(|_, full| *full > now);
        let full = self.0.entry(id).or_insert(now);
        *full = (*full).max(now) + PAUSE;
        full.saturating_duration_since(now + PAUSE * BURST)
    }
}

/// How often in a row versions have failed to start.
#[derive(Clone, Default)]
struct Failures(Arc<Mutex<HashMap<PluginId, u32>>>);

impl Failures {
    /// A start has failed: how long the version is held back.
    fn add(&self, id: PluginId) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far = failures.entry(id).or_default();
        let wait = AFTER_FAILURE.saturating_mul(2u32.saturating_pow(*so_far)).min(LONGEST_WAIT);
        *so_far = so_far.saturating_add(1);
        wait
    }

    /// The version does start.
    fn forget(&self, id: PluginId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// Serves orders until no worker is left.
pub(super) async fn serve(mut orders: mpsc::UnboundedReceiver<SpareOrder>, workers: Arc<Workers>) {
    let mut rate = Rate::default();
    let failures = Failures::default();
    while let Some(SpareOrder { worker, id, plugin }) = orders.recv().await {
        let wait = rate.next(id);
        let (workers, failures) = (Arc::clone(&workers), failures.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let name = plugin.settings().name.clone();
            let started = tokio::task::spawn_blocking(move || plugin.instantiate()).await;
            let instance = match started {
                Ok(Ok(instance)) => {
                    failures.forget(id);
                    Some(Box::new(instance))
                }
                Ok(Err(error)) => {
                    let wait = failures.add(id);
                    tracing::error!(
                        plugin = name, %error, seconds = wait.as_secs(),
                        "a crashed plugin cannot be started again and is held back; its requests fail by the failStrategy"
                    );
                    tokio::time::sleep(wait).await;
                    None
                }
                Err(_) => None,
            };
            workers.send(worker, Command::Spare { id, instance });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_then_the_rate_counts() {
        let mut rate = Rate::default();
        for _ in 0..BURST {
            assert_eq!(rate.next(PluginId(1)), Duration::ZERO);
        }
        assert_eq!(rate.next(PluginId(1)), PAUSE);
        assert_eq!(rate.next(PluginId(1)), PAUSE * 2);
        assert_eq!(rate.next(PluginId(2)), Duration::ZERO);
        tokio::time::advance(PAUSE * 4).await;
        assert_eq!(rate.next(PluginId(1)), Duration::ZERO);
    }
    #[test]
    fn every_failure_in_a_row_doubles_the_wait() {
        let failures = Failures::default();
        let waits: Vec<u64> = (0..8).map(|_| failures.add(PluginId(1)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(failures.add(PluginId(2)), AFTER_FAILURE);
        failures.forget(PluginId(1));
        assert_eq!(failures.add(PluginId(1)), AFTER_FAILURE);
    }
}
