//! What the instances of all workers share: shared data and queues by `vm_id`, metrics and refusal
//! counts by plugin, and the place where log lines go.
//!
//! Spaces live as long as a [`Plugin`](crate::Plugin) that uses them: a new version of a plugin that
//! is made before the old one is dropped finds its metrics and data again; when the last version is
//! gone, so are they. Locks are held for a look-up or a copy, never while plugin code runs.

mod data;
mod inbox;
mod metrics;
mod queues;
mod quota;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub(crate) use data::{SetError, SharedData};
pub(crate) use inbox::Inbox;
pub use metrics::{HISTOGRAM_BUCKETS, HistogramSample, MetricSample, MetricValue};
pub(crate) use metrics::{MetricIds, PluginScope, RecordError};
pub(crate) use queues::{EnqueueError, Queue, Queues};
pub use quota::{Quota, QuotaSample};

use crate::Upstreams;
use crate::log::{LogLine, LogSink};

/// Process-wide state of all plugins. One per process; cloning is cheap.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    log: Arc<dyn LogSink>,
    upstreams: Arc<dyn Upstreams>,
    data: Spaces<SharedData>,
    scopes: Spaces<PluginScope>,
    queues: Queues,
}

impl Shared {
    /// Empty state; log lines of plugins go to `log`, and they may call `upstreams`.
    pub fn new(log: Arc<dyn LogSink>, upstreams: Arc<dyn Upstreams>) -> Self {
        let (data, scopes, queues) = (Spaces::default(), Spaces::default(), Queues::default());
        Self(Arc::new(Inner { log, upstreams, data, scopes, queues }))
    }

    /// The present values of all plugins' own metrics, ordered by plugin and name. For export.
    pub fn metrics(&self) -> Vec<MetricSample> {
        self.0.scopes.all().iter().flat_map(|scope| scope.samples()).collect()
    }

    /// How often which plugin was refused something at a limit, zeros left out. For export.
    pub fn quotas(&self) -> Vec<QuotaSample> {
        self.0.scopes.all().iter().flat_map(|scope| scope.refusals()).collect()
    }

    pub(crate) fn knows_upstream(&self, name: &str) -> bool {
        self.0.upstreams.knows(name)
    }

    pub(crate) fn log(&self, line: LogLine<'_>) {
        self.0.log.log(line);
    }

    /// The shared data of a `vm_id`.
    pub(crate) fn data(&self, vm_id: &str) -> Arc<SharedData> {
        self.0.data.get(vm_id, SharedData::new)
    }

    /// The metrics of a plugin.
    pub(crate) fn scope(&self, plugin: &str) -> Arc<PluginScope> {
        self.0.scopes.get(plugin, PluginScope::new)
    }

    pub(crate) fn queues(&self) -> &Queues {
        &self.0.queues
    }
}

/// Things by name that live as long as somebody uses them.
struct Spaces<T>(Mutex<HashMap<String, Weak<T>>>);

impl<T> Default for Spaces<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Spaces<T> {
    fn get(&self, name: &str, make: impl FnOnce(&str) -> T) -> Arc<T> {
        let mut spaces = lock(&self.0);
        if let Some(space) = spaces.get(name).and_then(Weak::upgrade) {
            return space;
        }
        spaces.retain(|_, space| space.strong_count() > 0);
        let space = Arc::new(make(name));
        spaces.insert(name.to_owned(), Arc::downgrade(&space));
        space
    }

    /// Everything that is in use, ordered by name.
    fn all(&self) -> Vec<Arc<T>> {
        let mut all: Vec<_> =
            lock(&self.0).iter().filter_map(|(name, space)| Some((name.clone(), space.upgrade()?))).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.into_iter().map(|(_, space)| space).collect()
    }
}

/// Locks; a panic of another holder does not matter, because no lock here guards a half-done change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes entries of things that no longer exist.
fn sweep<K: Hash + Eq, T>(map: &mut HashMap<K, Weak<T>>) {
    map.retain(|_, thing| thing.strong_count() > 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl LogSink for Nowhere {
        fn log(&self, _line: LogLine<'_>) {}
    }

    #[test]
    fn a_space_lives_as_long_as_a_plugin_uses_it() {
        let shared = Shared::new(Arc::new(Nowhere), Arc::new(()));
        let old = shared.data("vm");
        let new = shared.data("vm");
        assert!(Arc::ptr_eq(&old, &new));
        assert!(!Arc::ptr_eq(&old, &shared.data("other")));
        assert!(new.set(b"key", b"value", 0, 1, 100).is_ok());
        drop(old);
        assert!(shared.data("vm").get(b"key").is_some());
        drop(new);
        assert!(shared.data("vm").get(b"key").is_none());
    }
}
