//! Plugin versions that did not start and are held back: why, and until when.
//!
//! A start that fails is tried again, but less and less often, since start-up code may run for seconds. That goes for a
//! version that is to serve for the first time ([`Registry`](super::Registry)) and for instances that are to replace
//! crashed ones (the caller of [`prepare`](super::prepare)). Whoever shows plugins asks here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus::{IntGaugeVec, Opts};
use tokio::time::Instant;

use crate::snapshot::PluginId;

/// Wait before the next try after a start that failed; twice as long after each that follows.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// But no longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Every version that is held back. Clones are the same list.
#[derive(Clone)]
pub struct HeldBack {
    holds: Arc<Mutex<HashMap<PluginId, Hold>>>,
    /// Failed starts in a row, by plugin.
    starts: IntGaugeVec,
}

/// A version that is held back.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Why it did not start.
    pub reason: String,
    /// When it is tried again.
    pub again: SystemTime,
    due: Instant,
    failures: u32,
    plugin: String,
}

impl HeldBack {
    /// None yet.
    ///
    /// # Errors
    /// The metric has a wrong name.
    pub fn new() -> prometheus::Result<Self> {
        let help = "Starts in a row that failed, of a plugin that is held back because it does not start.";
        let starts = IntGaugeVec::new(Opts::new("gateway_plugin_held_back", help), &["namespace", "plugin"])?;
        Ok(Self { holds: Arc::default(), starts })
    }

    /// The metric.
    #[must_use]
    pub fn collector(&self) -> IntGaugeVec {
        self.starts.clone()
    }

    /// A start of `plugin`, `namespace.name` as instances are called, has failed: how long the version is held back now.
    pub fn add(&self, id: PluginId, plugin: &str, reason: String) -> Duration {
        let mut holds = self.lock();
        let failures = holds.get(&id).map_or(0, |hold| hold.failures).saturating_add(1);
        let wait = FIRST_WAIT.saturating_mul(2u32.saturating_pow(failures - 1)).min(LONGEST_WAIT);
        let (again, due) = (SystemTime::now() + wait, Instant::now() + wait);
        let hold = Hold { reason, again, due, failures, plugin: plugin.to_owned() };
        self.starts.with_label_values(&hold.labels()).set(failures.into());
        holds.insert(id, hold);
        wait
    }

    /// The version does start.
    pub fn forget(&self, id: PluginId) {
        self.retain(|other| other != id);
    }

    /// Forgets versions that are not wanted any more.
    pub(super) fn retain(&self, wanted: impl Fn(PluginId) -> bool) {
        let mut holds = self.lock();
        for (_, hold) in holds.extract_if(|id, _| !wanted(*id)) {
            // It is there, and if not, that is what is wanted.
            let _ = self.starts.remove_label_values(&hold.labels());
        }
        for hold in holds.values() {
            self.starts.with_label_values(&hold.labels()).set(hold.failures.into());
        }
    }

    /// What keeps the first of these versions back that is.
    #[must_use]
    pub fn first_of(&self, ids: &[PluginId]) -> Option<Hold> {
        let holds = self.lock();
        ids.iter().find_map(|id| holds.get(id)).cloned()
    }

    /// When a version may be tried again; `None`: now.
    pub(super) fn due(&self, id: PluginId) -> Option<Instant> {
        self.lock().get(&id).map(|hold| hold.due).filter(|due| *due > Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PluginId, Hold>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// Namespace, which has no dot, and name.
    fn labels(&self) -> [&str; 2] {
        self.plugin.split_once('.').unwrap_or(("", &self.plugin)).into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_failure_in_a_row_doubles_the_wait() {
        let held = HeldBack::new().unwrap();
        let (one, other) = (PluginId(1), PluginId(2));
        let fail = |id| held.add(id, "default.name", "why".to_owned()).as_secs();
        let waits: Vec<u64> = (0..8).map(|_| fail(one)).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(fail(other), 1);
        assert!(held.due(one).is_some());
        tokio::time::advance(LONGEST_WAIT).await;
        assert!(held.due(one).is_none(), "it may be tried again");
        assert_eq!(fail(one), 60, "but what was before is not forgotten");
        held.forget(one);
        assert!(held.first_of(&[one]).is_none());
        assert_eq!(held.first_of(&[one, other]).unwrap().reason, "why");
        assert_eq!(fail(one), 1);
    }

    #[test]
    fn the_metric_shows_what_is_held_back_and_nothing_else() {
        let held = HeldBack::new().unwrap();
        let shown = || {
            let families = prometheus::core::Collector::collect(&held.collector());
            let metrics = families.iter().flat_map(|family| family.get_metric());
            metrics.map(|metric| metric.get_gauge().get_value()).collect::<Vec<_>>()
        };
        held.add(PluginId(1), "default.a", String::new());
        held.add(PluginId(1), "default.a", String::new());
        held.add(PluginId(2), "default.a", String::new());
        held.forget(PluginId(2));
        assert_eq!(shown(), [2.0], "another version of the plugin is");
        held.retain(|_| false);
        assert!(shown().is_empty());
    }
}
