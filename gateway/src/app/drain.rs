//! Whether traffic should come here, and how the gateway makes it go away.
//!
//! As Istio's gateways: first clients are only asked to leave. Readiness fails, so that load balancers choose others;
//! listeners go on accepting, for load balancers that have not noticed; every answer ends its connection. Nothing is
//! refused and nothing is cut off. Only when that has had its time, listeners and idle connections are closed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::publish::Workers;
use crate::{admin::Readiness, telemetry::Telemetry};

/// The part of the drain time in which nothing new is accepted any more: what arrived last is finished in it.
const LAST_CALL: Duration = Duration::from_secs(2);
/// How often the requests in flight are counted while they finish.
const COUNT_EVERY: Duration = Duration::from_millis(50);

/// How long an orderly end takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainTimes {
    /// At least so long everything is served as ever, also new connections: load balancers need time to notice that
    /// the gateway is not ready any more. Then the gateway ends as soon as no request is in flight.
    pub shortest: Duration,
    /// What is still in flight after this is cut off.
    pub longest: Duration,
}

impl Default for DrainTimes {
    /// 5 s, Istio's `terminationDrainDuration`; and 25 s, which ends before Kubernetes' grace period of 30 s does.
    fn default() -> Self {
        Self { shortest: Duration::from_secs(5), longest: Duration::from_secs(25) }
    }
}

/// Asks clients to leave. Cloning shares it.
#[derive(Clone)]
pub(super) struct Drain {
    readiness: watch::Sender<Readiness>,
    workers: Arc<Workers>,
}

impl Drain {
    pub(super) fn new(readiness: watch::Sender<Readiness>, workers: Arc<Workers>) -> Self {
        Self { readiness, workers }
    }

    /// The first configuration serves.
    pub(super) fn ready(&self) {
        self.readiness.send_replace(Readiness::Ready);
    }

    /// An operator wants clients to leave, or to come again. `false`: the gateway is starting or ending, nothing
    /// was changed.
    pub(super) fn ask(&self, leave: bool) -> bool {
        let mut possible = true;
        let changed = self.readiness.send_if_modified(|readiness| {
            let wanted = if leave { Readiness::Draining } else { Readiness::Ready };
            possible = matches!(readiness, Readiness::Ready | Readiness::Draining);
            let change = possible && *readiness != wanted;
            if change {
                *readiness = wanted;
            }
            change
        });
        if changed {
            self.workers.leave(leave);
        }
        possible
    }

    /// The process is about to end; returns when listeners may be closed, with the time that is left then.
    pub(super) async fn end(&self, times: DrainTimes, telemetry: &Telemetry) -> Duration {
        let begin = Instant::now();
        self.readiness.send_replace(Readiness::Ending);
        self.workers.leave(true);
        let close = times.longest.saturating_sub(LAST_CALL.min(times.longest / 2));
        loop {
            let elapsed = begin.elapsed();
            if elapsed >= close || (elapsed >= times.shortest && telemetry.in_flight() == 0) {
                return times.longest.saturating_sub(elapsed);
            }
            tokio::time::sleep(COUNT_EVERY.min(close - elapsed)).await;
        }
    }
}
