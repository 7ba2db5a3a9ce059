//! Replaces crashed plugin instances: start-up code runs here, not on a worker.
//!
//! The rate is limited per plugin version, so that a plugin which crashes with every request cannot keep the
//! control side busy. Until its spare comes, the plugin's streams fail by its failStrategy.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::publish::Workers;
use crate::{http::SpareOrder, snapshot::PluginId, worker::Command};

/// Replacements that a version may have at once before the rate counts.
const BURST: u32 = 100;
/// One more every so often.
const PAUSE: Duration = Duration::from_millis(50);
/// Wait before the next try after a start that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

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

/// Serves orders until no worker is left.
pub(super) async fn serve(mut orders: mpsc::UnboundedReceiver<SpareOrder>, workers: Arc<Workers>) {
    let mut rate = Rate::default();
    while let Some(SpareOrder { worker, id, plugin }) = orders.recv().await {
        let wait = rate.next(id);
        let workers = Arc::clone(&workers);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let started = tokio::task::spawn_blocking(move || plugin.instantiate()).await;
            let instance = match started {
                Ok(Ok(instance)) => Some(Box::new(instance)),
                Ok(Err(error)) => {
                    tracing::error!(%error, "a crashed plugin cannot be started again; the next request tries once more");
                    tokio::time::sleep(AFTER_FAILURE).await;
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
}
