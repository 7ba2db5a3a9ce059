//! Counting and logging: Istio's metrics, what plugins cost, the access log, the gateway's own log.
//!
//! [`Telemetry`] is the process-wide side; each worker asks it once for a [`WorkerTelemetry`], which lives on that
//! worker's thread and hands out [`Destination`]s and [`PluginStats`]. Only the worker writes what they count, with
//! plain loads and stores; whoever scrapes adds up what all workers have. A request costs no lock, no look-up by
//! name and no allocation. Access-log lines are formatted on the worker and written by a thread of their own.
//!
//! This module knows of the snapshot a cluster's names, a plugin's fail strategy, and how much there is of everything;
//! it knows neither HTTP types nor who calls it.

mod access_log;
mod cells;
mod destination;
mod directory;
mod exposition;
mod flags;
mod histogram;
mod log_filter;
mod log_writer;
mod plugin;
mod process;
mod streams;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

/// For the fuzzer.
#[cfg(fuzzing)]
pub(crate) use access_log::invariants::check as fuzz;
pub use access_log::{
    AccessLog, AccessLogOptions, Captured, Entry, FormatErrors, LogFormat, LogSink, Span, TlsEntry, WantedHeaders,
};
pub use cells::{Counter, Gauge};
pub use destination::{Destination, Observation, RequestProtocol};
pub use flags::ResponseFlags;
pub use log_filter::{LogFilter, LogFilterError};
pub use log_writer::{LastLines, LostLines, log_writer};
pub use plugin::{Callback, PluginStats, PluginSummary};
pub use streams::TcpConnection;
pub use worker::{Limit, WorkerCounters, WorkerTelemetry};

use destination::{DestinationSeries, ServiceLabels};
use directory::{Directory, Shared, lock};
use plugin::{PluginCells, PluginLabels};

use crate::snapshot::Snapshot;

/// Everything that is counted and logged in this process. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Telemetry {
    process: Arc<Process>,
    registry: prometheus::Registry,
}

/// What telemetry needs to know at start.
#[derive(Debug, Clone, Default)]
pub struct TelemetryOptions {
    /// Who counts: the `source_*` labels.
    pub identity: SourceIdentity,
    /// The label `tag` of `istio_build`. Empty: the version of this crate.
    pub build_tag: String,
    /// What `%HOSTNAME%` shows in the access log.
    pub hostname: String,
    /// Where and how requests are logged; `None`: not at all, Istio's default.
    pub access_log: Option<AccessLogOptions>,
}

/// The gateway as a source of requests. An empty field becomes `unknown` (revision: `latest`), as in Istio.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceIdentity {
    /// `source_workload`: name of the Deployment.
    pub workload: String,
    /// `source_workload_namespace`.
    pub namespace: String,
    /// `source_canonical_service`: the label `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else
    /// `app`, else the workload.
    pub canonical_service: String,
    /// `source_canonical_revision`: the label `service.istio.io/canonical-revision`, else
    /// `app.kubernetes.io/version`, else `version`.
    pub canonical_revision: String,
    /// `source_app`: the label `app`.
    pub app: String,
    /// `source_version`: the label `version`.
    pub version: String,
    /// `source_cluster`: the mesh's name of the Kubernetes cluster.
    pub cluster: String,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The access log's file.
    #[error("cannot open the access log {sink}: {source}; check that its folder exists and can be written to")]
    AccessLog {
        /// The path as it was given.
        sink: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The format of the access log.
    #[error("cannot use the format of the access log: {0}")]
    AccessLogFormat(#[from] FormatErrors),
    /// The thread that writes the access log.
    #[error("cannot start the thread that writes the access log: {0}")]
    Thread(std::io::Error),
    /// Two sources export metrics of one name in different ways.
    #[error("cannot export metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What all workers have in common.
#[derive(Debug)]
struct Process {
    identity: SourceIdentity,
    build_tag: String,
    started: Instant,
    workers: Shared<WorkerCounters>,
    destinations: Directory<ServiceLabels, DestinationSeries>,
    plugins: Directory<PluginLabels, Shared<PluginCells>>,
    /// Limits that are hit outside of workers; any thread writes.
    limits: [AtomicU64; worker::LIMITS],
    limit_sources: Mutex<Vec<LimitSource>>,
    config: ConfigGauges,
    access_log: Option<access_log::Writer>,
}

/// Somebody else who counts limits.
struct LimitSource(Box<dyn Fn() -> Vec<(Limit, u64)> + Send + Sync>);

impl std::fmt::Debug for LimitSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LimitSource")
    }
}

/// What the control side last said about the configuration.
#[derive(Debug, Default)]
struct ConfigGauges {
    version: AtomicU64,
    errors: AtomicU64,
    warnings: AtomicU64,
    infos: AtomicU64,
    listeners: AtomicU64,
    clusters: AtomicU64,
    /// When the first certificate expires, in seconds since 1970; 0 if there is none.
    first_expiry: AtomicU64,
}

impl Telemetry {
    /// Sets everything up; opens the access log and starts its thread if there is one.
    pub fn new(options: &TelemetryOptions) -> Result<Self, TelemetryError> {
        let access_log = options.access_log.as_ref();
        let access_log = access_log.map(|log| access_log::Writer::open(log, &options.hostname)).transpose()?;
        let build_tag = match options.build_tag.as_str() {
            "" => env!("CARGO_PKG_VERSION"),
            tag => tag,
        };
        let process = Arc::new(Process {
            identity: options.identity.clone(),
            build_tag: build_tag.to_owned(),
            started: Instant::now(),
            workers: Shared::default(),
            destinations: Directory::default(),
            plugins: Directory::default(),
            limits: std::array::from_fn(|_| AtomicU64::default()),
            limit_sources: Mutex::default(),
            config: ConfigGauges::default(),
            access_log,
        });
        let registry = prometheus::Registry::new();
        registry.register(Box::new(exposition::Sums::new(Arc::clone(&process))?))?;
        Ok(Self { process, registry })
    }

    /// The part of a new worker. Call it on the worker's thread, once.
    #[must_use]
    pub fn worker(&self) -> Rc<WorkerTelemetry> {
        Rc::new(WorkerTelemetry::new(&self.process))
    }

    /// Exports what `collector` has together with everything else. Its metrics must be counters, gauges, histograms
    /// or summaries with valid names; a family that cannot be encoded is left out.
    pub fn add_collector(&self, collector: Box<dyn prometheus::core::Collector>) -> Result<(), TelemetryError> {
        Ok(self.registry.register(collector)?)
    }

    /// All metrics in Prometheus' text format 0.0.4 ([`prometheus::TEXT_FORMAT`]).
    #[must_use]
    pub fn render_prometheus(&self) -> Vec<u8> {
        exposition::render(&self.registry.gather())
    }

    /// One plugin in a few numbers. All zero if no worker has run it within the last hour.
    #[must_use]
    pub fn plugin_summary(&self, namespace: &str, name: &str) -> PluginSummary {
        let total = PluginCells::default();
        for (labels, series) in self.process.plugins.entries(Instant::now()) {
            if *labels.namespace == *namespace && *labels.name == *name {
                series.add_to(&total);
            }
        }
        total.summary()
    }

    /// Requests and TCP connections that are being served by all workers.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let destinations = self.process.destinations.entries(Instant::now());
        let tcp: u64 = destinations.iter().map(|(_, series)| series.streams.total().tcp_open()).sum();
        self.process.workers.total().requests_in_flight.get() + tcp
    }

    /// Limits that others count: `hits` is asked when somebody scrapes, for how often each was hit since the start.
    pub fn add_limits(&self, hits: impl Fn() -> Vec<(Limit, u64)> + Send + Sync + 'static) {
        lock(&self.process.limit_sources).push(LimitSource(Box::new(hits)));
    }

    /// A limit was hit outside of a worker (admin API, control side).
    pub fn limit_exceeded(&self, limit: Limit) {
        if let Some(count) = self.process.limits.get(limit as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// The version of the configuration that all workers acknowledged.
    pub fn set_config_version(&self, version: u64) {
        self.process.config.version.store(version, Relaxed);
    }

    /// What all workers serve.
    pub fn set_served(&self, snapshot: &Snapshot) {
        let config = &self.process.config;
        config.listeners.store(snapshot.listeners.len() as u64, Relaxed);
        config.clusters.store(snapshot.clusters.len() as u64, Relaxed);
        let expiry = snapshot.certificates().map(|shown| shown.certificate.not_after).min();
        let seconds =
            expiry.and_then(|expiry| expiry.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs());
        config.first_expiry.store(seconds, Relaxed);
    }

    /// How many problems the configuration has now, by level.
    pub fn set_config_problems(&self, errors: usize, warnings: usize, infos: usize) {
        self.process.config.errors.store(errors as u64, Relaxed);
        self.process.config.warnings.store(warnings as u64, Relaxed);
        self.process.config.infos.store(infos as u64, Relaxed);
    }

    /// Opens the access log's file anew, after somebody renamed it (log rotation).
    pub fn reopen_access_log(&self) {
        if let Some(writer) = &self.process.access_log {
            writer.reopen();
        }
    }

    /// Waits until everything that workers handed over ([`AccessLog::flush`]) is written, at most for `limit`.
    /// Says whether it is. Call it last; blocks the calling thread.
    pub fn drain_access_log(&self, limit: Duration) -> bool {
        self.process.access_log.as_ref().is_none_or(|writer| writer.drain(limit))
    }
}
