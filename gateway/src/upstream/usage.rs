//! How much is going on in a cluster, over all workers: what DestinationRule's limits are compared with.
//!
//! Only clusters with a limit are counted; they cost an atomic addition per request, the others nothing. The numbers
//! belong to the name of the cluster, so they outlive configurations.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use super::Failure;
use crate::snapshot::{Cluster, Thresholds};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests that are being served.
    Requests,
    /// Requests that are being sent again.
    Retries,
}

/// The numbers of one cluster.
#[derive(Debug, Default)]
struct Counts([AtomicU32; 4]);

/// The numbers of all clusters that have limits. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Usage(Arc<Mutex<HashMap<Arc<str>, Weak<Counts>>>>);

impl Usage {
    /// What a cluster may use. Takes a lock: ask when a configuration is taken over.
    pub(super) fn of(&self, cluster: &Cluster) -> Allowance {
        if cluster.thresholds == Thresholds::default() {
            return Allowance::default();
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = known.get(&cluster.name).and_then(Weak::upgrade).unwrap_or_else(|| {
            known.retain(|_, counts| counts.strong_count() > 0);
            let counts = Arc::<Counts>::default();
            known.insert(Arc::clone(&cluster.name), Arc::downgrade(&counts));
            counts
        });
        Allowance { counts: Some(counts), thresholds: cluster.thresholds }
    }
}

/// What one cluster may use.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// `None`: there is no limit.
    counts: Option<Arc<Counts>>,
    thresholds: Thresholds,
}

/// A part of an allowance that is in use until this is dropped.
#[derive(Debug)]
pub struct Permit(Option<(Arc<Counts>, Resource)>);

impl Allowance {
    /// Takes one of a resource.
    ///
    /// # Errors
    /// As many as allowed are in use.
    pub(super) fn take(&self, resource: Resource) -> Result<Permit, Failure> {
        let limit = match resource {
            Resource::Connections => self.thresholds.connections,
            Resource::Pending => self.thresholds.pending,
            Resource::Requests => self.thresholds.requests,
            Resource::Retries => self.thresholds.retries,
        };
        let (Some(counts), Some(limit)) = (&self.counts, limit) else { return Ok(Permit(None)) };
        let permit = Permit(Some((Arc::clone(counts), resource)));
        match counts.of(resource).fetch_add(1, Relaxed) {
            before if before < limit => Ok(permit),
            // Dropping the permit takes it back.
            _ => Err(Failure::Overflow(resource)),
        }
    }
}

impl Counts {
    fn of(&self, resource: Resource) -> &AtomicU32 {
        let [connections, pending, requests, retries] = &self.0;
        match resource {
            Resource::Connections => connections,
            Resource::Pending => pending,
            Resource::Requests => requests,
            Resource::Retries => retries,
        }
    }
}

impl Permit {
    /// One that is not counted.
    pub(super) fn uncounted() -> Self {
        Self(None)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((counts, resource)) = &self.0 {
            counts.of(*resource).fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn limits_hold_over_all_workers_and_configurations() {
        let usage = Usage::default();
        let mut cluster = Cluster { name: "a".into(), ..Cluster::default() };
        assert!(usage.of(&cluster).take(Resource::Requests).is_ok(), "no limit");
        assert!(usage.0.lock().unwrap().is_empty(), "and nothing to count");

        cluster.thresholds.requests = Some(2);
        let (one, two) = (usage.of(&cluster), usage.of(&cluster));
        let held = [one.take(Resource::Requests).unwrap(), two.take(Resource::Requests).unwrap()];
        assert!(matches!(two.take(Resource::Requests), Err(Failure::Overflow(Resource::Requests))));
        assert!(one.take(Resource::Retries).is_ok(), "has no limit");
        drop((one, two));
        cluster.thresholds.requests = Some(3);
        let renewed = usage.of(&cluster);
        let third = renewed.take(Resource::Requests).unwrap();
        assert!(renewed.take(Resource::Requests).is_err());
        drop(held);
        assert!(renewed.take(Resource::Requests).is_ok());
        drop((third, renewed));

        let other = Cluster { name: "b".into(), ..cluster };
        let _kept = usage.of(&other);
        assert_eq!(usage.0.lock().unwrap().len(), 1, "clusters that are gone are forgotten");
    }
}
