//! What the process as a whole can still take, and what it stops doing before the kernel stops it.
//!
//! | file | what it watches |
//! |---|---|
//! | `memory` | memory against the limit of the cgroup, or of the operator |
//! | `stage` | what is shed at which part of that limit |
//! | `descriptors` | file descriptors, of which some are kept for whoever looks after the gateway |
//! | `workers` | whether every worker moves |
//! | `heap` | memory that the allocator holds for nobody |
//!
//! One picture for all workers. The control side looks ([`Overload::watch`]) and publishes one number, the [`Stage`],
//! which a request reads once; a connection takes a place when it is accepted. What was shed is counted by whoever
//! sheds it. Knows nothing of ours.

pub(crate) mod descriptors;
mod heap;
mod memory;
mod stage;
mod workers;

use std::{
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use prometheus::{IntGauge, Opts};

pub use descriptors::raise_limit as raise_open_files;
pub use memory::{MemoryLimit, MemoryLimitError};
pub use stage::Stage;

use memory::Memory;
use workers::Workers;

/// Connections of clients for every worker, if nothing else is said.
pub const MAX_CONNECTIONS_PER_WORKER: usize = 50_000;
/// How often memory is looked at while there is plenty, and while it goes to its end.
const CALM: Duration = Duration::from_millis(100);
const ALERT: Duration = Duration::from_millis(10);
/// The part of the limit, in percent, from which on it is looked at more often.
const ALERT_FROM: u64 = 60;
/// How often unused memory is given back while something is shed.
const SHRINK_EVERY: Duration = Duration::from_secs(1);

/// What may be decided at start.
#[derive(Debug, Clone, Default)]
pub struct OverloadOptions {
    /// The limit of memory and how it is measured.
    pub memory: MemoryLimit,
    /// Connections from clients at the same time; `None`: two thirds of the file descriptors that are not kept back (the
    /// others are for services), and no more than [`MAX_CONNECTIONS_PER_WORKER`].
    pub max_connections: Option<usize>,
}

/// The picture.
#[derive(Debug)]
pub struct Overload {
    stage: Apart<AtomicU8>,
    connections: Apart<AtomicUsize>,
    max_connections: usize,
    memory_limit: AtomicU64,
    memory_used: AtomicU64,
    workers: Workers,
}

/// On a cache line of its own: what every request reads must not lie beside what every connection writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Memory is at its end.
    Memory,
    /// The descriptors that are left are kept for others.
    Descriptors,
    /// There are as many connections as may be.
    Connections,
}

/// A client's connection, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Overload>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.0.fetch_sub(1, Relaxed);
    }
}

impl Overload {
    /// A picture of this process and so many workers. From here on some descriptors are kept back.
    #[must_use]
    pub fn new(workers: usize, options: &OverloadOptions) -> Arc<Self> {
        let free = descriptors::keep_reserve();
        let default = (free / 3).saturating_mul(2).min(workers.saturating_mul(MAX_CONNECTIONS_PER_WORKER));
        Arc::new(Self {
            stage: Apart::default(),
            connections: Apart::default(),
            max_connections: options.max_connections.unwrap_or(default).max(1),
            memory_limit: AtomicU64::new(0),
            memory_used: AtomicU64::new(0),
            workers: Workers::new(workers),
        })
    }

    /// What is shed right now.
    #[inline]
    #[must_use]
    pub fn stage(&self) -> Stage {
        Stage::from_number(self.stage.0.load(Relaxed))
    }

    /// Takes a place for a connection that was just accepted.
    pub(crate) fn admit(self: &Arc<Self>, socket: &impl AsRawFd) -> Result<Place, Refused> {
        if self.stage() >= Stage::RefuseConnections {
            return Err(Refused::Memory);
        }
        if descriptors::is_reserved(socket) {
            return Err(Refused::Descriptors);
        }
        let place = Place(Arc::clone(self));
        match self.connections.0.fetch_add(1, Relaxed) {
            open if open < self.max_connections => Ok(place),
            // Dropping the place takes it back.
            _ => Err(Refused::Connections),
        }
    }

    /// A worker says that it moves.
    pub(crate) fn beat(&self, worker: usize) {
        self.workers.beat(worker);
    }

    /// The workers that do not move.
    #[must_use]
    pub fn stuck_workers(&self) -> Vec<usize> {
        self.workers.stuck()
    }

    /// Memory in use and its limit, in bytes, if there is one.
    #[must_use]
    pub fn memory(&self) -> Option<(u64, u64)> {
        match self.memory_limit.load(Relaxed) {
            0 => None,
            limit => Some((self.memory_used.load(Relaxed), limit)),
        }
    }

    /// Looks until it is dropped. Runs on the control side.
    pub async fn watch(self: Arc<Self>, limit: MemoryLimit) {
        let Some(memory) = Memory::find(&limit) else {
            tracing::info!("memory has no limit: nothing is shed for it; --memory-limit sets one");
            return workers::watch(&self.workers).await;
        };
        tracing::info!(limit = memory.limit(), of = memory.source(), "memory is watched");
        tokio::join!(self.watch_memory(memory), workers::watch(&self.workers));
    }

    async fn watch_memory(&self, mut memory: Memory) {
        let mut stage = Stage::Normal;
        let mut before = None;
        let mut shrunk = Instant::now();
        let mut unreadable = false;
        loop {
            let pause = match memory.read() {
                Ok(used) => {
                    unreadable = false;
                    let limit = memory.limit();
                    self.memory_used.store(used, Relaxed);
                    self.memory_limit.store(limit, Relaxed);
                    // If it goes on like this, so much will be in use when it is looked at again.
                    let growth = used.saturating_sub(before.replace(used).unwrap_or(used));
                    let percent = used.saturating_add(growth).saturating_mul(100) / limit.max(1);
                    let next = stage.next(percent);
                    if next != stage {
                        next.announce(stage, used, limit);
                        stage = next;
                        self.stage.0.store(stage as u8, Relaxed);
                    }
                    if stage > Stage::Normal && shrunk.elapsed() >= SHRINK_EVERY {
                        // Takes its time, in which memory has to be looked at.
                        drop(tokio::task::spawn_blocking(heap::shrink));
                        shrunk = Instant::now();
                    }
                    if percent < ALERT_FROM { CALM } else { ALERT }
                }
                Err(error) => {
                    // The stage stays what it is: it was right a moment ago.
                    if !std::mem::replace(&mut unreadable, true) {
                        tracing::error!(%error, of = memory.source(), "cannot read how much memory is in use");
                    }
                    CALM
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The picture as metrics.
    pub(crate) fn collector(self: &Arc<Self>) -> prometheus::Result<Collector> {
        Ok(Collector {
            overload: Arc::clone(self),
            gauges: GAUGES
                .iter()
                .map(|(name, help)| IntGauge::with_opts(Opts::new(*name, *help)))
                .collect::<prometheus::Result<_>>()?,
        })
    }

    /// In the order of [`GAUGES`].
    fn numbers(&self) -> [u64; GAUGES.len()] {
        [
            self.stage.0.load(Relaxed).into(),
            self.memory_used.load(Relaxed),
            self.memory_limit.load(Relaxed),
            self.workers.stuck().len() as u64,
            self.max_connections as u64,
        ]
    }
}

const GAUGES: [(&str, &str); 5] = [
    ("gateway_overload_stage", "What is shed: 0 nothing, 1 keep-alive, 2 requests, 3 connections as well."),
    ("gateway_memory_used_bytes", "Memory that counts against the limit; 0 if there is none."),
    ("gateway_memory_limit_bytes", "Limit of memory; 0 if there is none."),
    ("gateway_stuck_workers", "Workers that do not move."),
    ("gateway_downstream_connections_limit", "Connections from clients that may be open at the same time."),
];

/// Shows the picture to whoever scrapes.
pub(crate) struct Collector {
    overload: Arc<Overload>,
    gauges: Vec<IntGauge>,
}

impl prometheus::core::Collector for Collector {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.gauges.iter().flat_map(|gauge| gauge.desc()).collect()
    }

    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        for (gauge, number) in self.gauges.iter().zip(self.overload.numbers()) {
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        self.gauges.iter().flat_map(|gauge| gauge.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn connections_are_counted_until_they_end() {
        let options = OverloadOptions { max_connections: Some(2), ..OverloadOptions::default() };
        let overload = Overload::new(1, &options);
        let socket = std::io::pipe().unwrap().0;
        let first = overload.admit(&socket).unwrap();
        let _second = overload.admit(&socket).unwrap();
        assert_eq!(overload.admit(&socket).unwrap_err(), Refused::Connections);
        drop(first);
        let _third = overload.admit(&socket).unwrap();
        assert_eq!(overload.admit(&socket).unwrap_err(), Refused::Connections);
        overload.stage.0.store(Stage::RefuseConnections as u8, Relaxed);
        assert_eq!(overload.admit(&socket).unwrap_err(), Refused::Memory);
    }
}
