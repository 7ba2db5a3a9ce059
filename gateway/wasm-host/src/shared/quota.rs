//! What plugins are limited in, by name, and how often each plugin met a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A limit of [`Limits`](crate::Limits) at which a plugin is refused something and goes on. (Time
/// limits end the callback instead and are counted as traps.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quota {
    /// `memory_bytes`: `memory.grow` failed inside the plugin.
    Memory,
    /// `log_lines_per_second` or `log_bytes_per_second`: a line was dropped.
    Log,
    /// `metrics` or `metric_name_bytes`: the metric is not exported.
    Metrics,
    /// `shared_data_keys` or `shared_data_bytes`: not stored.
    SharedData,
    /// `queues`, `queue_items` or `queue_bytes`: not queued.
    Queues,
    /// `body_bytes`: the edit was not made.
    Body,
    /// `header_fields` or `header_edit_bytes`: the edit was not made.
    Headers,
    /// `property_bytes`: not stored.
    Properties,
    /// `calls_per_stream` or `calls_in_flight`: not called; or too much waits in a gRPC stream: not sent.
    Calls,
}

impl Quota {
    const ALL: [Self; 9] = [
        Self::Memory,
        Self::Log,
        Self::Metrics,
        Self::SharedData,
        Self::Queues,
        Self::Body,
        Self::Headers,
        Self::Properties,
        Self::Calls,
    ];

    /// A stable name for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::SharedData => "shared-data",
            Self::Queues => "queues",
            Self::Body => "body",
            Self::Headers => "headers",
            Self::Properties => "properties",
            Self::Calls => "calls",
        }
    }
}

/// How often a plugin was refused something.
#[derive(Clone, Debug)]
pub struct QuotaSample {
    /// [`PluginSettings::name`](crate::PluginSettings::name)
    pub plugin: Arc<str>,
    /// What it was refused.
    pub quota: Quota,
    /// How often, since the plugin was first loaded.
    pub refused: u64,
}

#[derive(Debug, Default)]
pub(super) struct Refusals([AtomicU64; Quota::ALL.len()]);

impl Refusals {
    pub(super) fn count(&self, quota: Quota) {
        if let Some(counter) = self.0.get(quota as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn samples(&self, plugin: &Arc<str>) -> impl Iterator<Item = QuotaSample> {
        Quota::ALL.into_iter().zip(&self.0).filter_map(|(quota, counter)| {
            let refused = counter.load(Ordering::Relaxed);
            (refused > 0).then(|| QuotaSample { plugin: plugin.clone(), quota, refused })
        })
    }
}
