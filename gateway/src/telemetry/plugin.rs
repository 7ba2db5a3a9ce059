//! What plugins cost and how they fail, measured by the gateway and not by the plugin.

use std::sync::Arc;

use super::{
    cells::{Cells, Counter, Gauge},
    directory::Shared,
    histogram::LogHistogram,
};
use crate::snapshot::FailStrategy;

/// Handle of one worker to count what one version of one plugin does.
#[derive(Debug)]
pub struct PluginStats {
    series: Arc<Shared<PluginCells>>,
    cells: Arc<PluginCells>,
}

macro_rules! callbacks {
    ($($name:ident $label:literal $meaning:literal;)*) => {
        /// A callback of a plugin; the label `callback`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Callback {
            $(#[doc = concat!($meaning, ": `", $label, "`.")] $name,)*
        }

        impl Callback {
            /// Every callback, in the order in which a stream meets them.
            pub(super) const ALL: &[Self] = &[$(Self::$name),*];

            /// Value of the label `callback`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }
        }
    };
}

callbacks! {
    RequestHeaders "request_headers" "The head of a request, with the creation of the stream's context";
    RequestBody "request_body" "A part of a request's body";
    RequestTrailers "request_trailers" "Trailers of a request";
    ResponseHeaders "response_headers" "The head of a response";
    ResponseBody "response_body" "A part of a response's body";
    ResponseTrailers "response_trailers" "Trailers of a response";
    NewConnection "new_connection" "A TCP connection begins";
    DownstreamData "downstream_data" "Bytes of the client of a TCP connection";
    UpstreamData "upstream_data" "Bytes of the service of a TCP connection";
    Log "log" "A stream is over and is logged; connections are when they close";
    Close "close" "The end of a stream: done and delete";
    Tick "tick" "The plugin's timer";
    CallResponse "call_response" "The answer to a call that the plugin made";
    QueueReady "queue_ready" "News in a shared queue";
}

/// How many callbacks there are.
const CALLBACKS: usize = Callback::ALL.len();

/// The numbers of one plugin version on one worker.
#[derive(Debug, Default)]
pub(super) struct PluginCells {
    pub(super) streams: Counter,
    pub(super) traps: Counter,
    pub(super) deadlines: Counter,
    pub(super) start_failures: Counter,
    pub(super) local_responses: Counter,
    pub(super) calls: Counter,
    pub(super) failed_calls: Counter,
    /// By [`FailStrategy`]: close, open, reload.
    pub(super) failed: [Counter; 3],
    pub(super) memory: Gauge,
    pub(super) instances: Gauge,
    /// By [`Callback`].
    pub(super) callbacks: [LogHistogram; CALLBACKS],
}

/// Name of a plugin version, as labels say it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PluginLabels {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    /// The first 12 digits of the module's hash.
    pub(super) digest: Box<str>,
}

/// A plugin in a few numbers, summed over workers and over the versions that are still known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PluginSummary {
    /// Streams that entered the plugin.
    pub streams: u64,
    /// Crashes.
    pub traps: u64,
    /// Callbacks that were stopped because they took too long.
    pub deadlines: u64,
    /// Memory of its instances now, in bytes.
    pub memory_bytes: u64,
    /// Half of all callbacks of streams (not ticks) took at most this many microseconds; at most 12.5 % off between
    /// 0.26 µs and 1.07 s, and never outside that range. 0 if there were none.
    pub p50_micros: f64,
    /// Likewise for 99 of 100 callbacks.
    pub p99_micros: f64,
}

impl PluginStats {
    pub(super) fn new(series: Arc<Shared<PluginCells>>) -> Self {
        Self { cells: series.join(), series }
    }

    /// A stream enters the plugin.
    pub fn stream(&self) {
        self.cells.streams.inc();
    }

    /// A callback ended after so many nanoseconds, however it ended.
    pub fn callback(&self, which: Callback, nanos: u64) {
        if let Some(histogram) = self.cells.callbacks.get(which as usize) {
            histogram.observe(nanos);
        }
    }

    /// The plugin crashed (any trap but a deadline).
    pub fn trap(&self) {
        self.cells.traps.inc();
    }

    /// A callback was stopped because it took too long.
    pub fn deadline(&self) {
        self.cells.deadlines.inc();
    }

    /// A new instance could not be started.
    pub fn start_failed(&self) {
        self.cells.start_failures.inc();
    }

    /// The plugin answered a request itself.
    pub fn local_response(&self) {
        self.cells.local_responses.inc();
    }

    /// The plugin calls a service.
    pub fn call(&self) {
        self.cells.calls.inc();
    }

    /// Such a call failed: no answer, an error of the server, a gRPC status that is not OK.
    pub fn failed_call(&self) {
        self.cells.failed_calls.inc();
    }

    /// A stream had to do without the plugin, and `strategy` decided what that meant for it.
    pub fn failed_stream(&self, strategy: FailStrategy) {
        if let Some(counter) = self.cells.failed.get(strategy as usize) {
            counter.inc();
        }
    }

    /// There is one more instance of this version on this worker, spare or not, with so much memory.
    pub fn instance_started(&self, bytes: usize) {
        self.cells.instances.inc();
        self.cells.memory.add(bytes as u64);
    }

    /// An instance with so much memory is gone.
    pub fn instance_ended(&self, bytes: usize) {
        self.cells.instances.dec();
        self.cells.memory.sub(bytes as u64);
    }

    /// An instance that had so much memory has so much now.
    pub fn memory_changed(&self, before: usize, now: usize) {
        self.cells.memory.add(now as u64);
        self.cells.memory.sub(before as u64);
    }
}

impl Drop for PluginStats {
    fn drop(&mut self) {
        self.series.leave(&self.cells);
    }
}

impl PluginCells {
    /// The values of `fail_strategy` with their counters.
    pub(super) fn failures(&self) -> impl Iterator<Item = (FailStrategy, &Counter)> {
        [FailStrategy::Close, FailStrategy::Open, FailStrategy::Reload].into_iter().zip(&self.failed)
    }

    /// In a few numbers.
    pub(super) fn summary(&self) -> PluginSummary {
        let callbacks = LogHistogram::default();
        for (callback, histogram) in Callback::ALL.iter().zip(&self.callbacks) {
            if !matches!(callback, Callback::Tick | Callback::QueueReady) {
                callbacks.absorb(histogram);
            }
        }
        let micros = |quantile| callbacks.quantile(quantile).map_or(0.0, |nanos| nanos as f64 / 1000.0);
        PluginSummary {
            streams: self.streams.get(),
            traps: self.traps.get(),
            deadlines: self.deadlines.get(),
            memory_bytes: self.memory.get(),
            p50_micros: micros(0.5),
            p99_micros: micros(0.99),
        }
    }
}

impl Cells for PluginCells {
    fn absorb(&self, other: &Self) {
        self.streams.absorb(&other.streams);
        self.traps.absorb(&other.traps);
        self.deadlines.absorb(&other.deadlines);
        self.start_failures.absorb(&other.start_failures);
        self.local_responses.absorb(&other.local_responses);
        self.calls.absorb(&other.calls);
        self.failed_calls.absorb(&other.failed_calls);
        self.failed.absorb(&other.failed);
        self.memory.absorb(&other.memory);
        self.instances.absorb(&other.instances);
        for (mine, theirs) in self.callbacks.iter().zip(&other.callbacks) {
            mine.absorb(theirs);
        }
    }

    fn settle(&self) {
        self.memory.settle();
        self.instances.settle();
    }
}

impl PluginLabels {
    pub(super) fn new(namespace: &str, name: &str, digest: &str) -> Self {
        let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
        let short = digits.get(..12).unwrap_or(digits);
        Self { namespace: namespace.into(), name: name.into(), digest: short.into() }
    }
}
