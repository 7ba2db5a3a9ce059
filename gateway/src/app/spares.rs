//! Replaces crashed plugin instances: start-up code runs here, not on a worker.
//!
//! The rate is limited per plugin version, so that a plugin which crashes with every request cannot keep the
//! control side busy. Until its spare comes, the plugin's streams fail by its failStrategy.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::publish::Workers;
use crate::{http::SpareOrder, plugins::HeldBack, snapshot::PluginId, worker::Command};

/// Replacements that a version may have at once before the rate counts.
const BURST: u32 = 100;
/// One more every so often.
const PAUSE: Duration = Duration::from_millis(50);
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
pub(super) async fn serve(mut orders: mpsc::UnboundedReceiver<SpareOrder>, workers: Arc<Workers>, held_back: HeldBack) {
    let mut rate = Rate::default();
    while let Some(SpareOrder { worker, id, plugin }) = orders.recv().await {
        let wait = rate.next(id);
        let (workers, held_back) = (Arc::clone(&workers), held_back.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let name = plugin.settings().name.clone();
            let started = tokio::task::spawn_blocking(move || plugin.instantiate()).await;
            let instance = match started {
                Ok(Ok(instance)) => {
                    held_back.forget(id);
                    Some(Box::new(instance))
                }
                Ok(Err(error)) => {
                    let wait = held_back.add(id, &name, error.to_string());
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
}
