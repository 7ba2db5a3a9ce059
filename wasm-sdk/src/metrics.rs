//! Metrics of a plugin's own, beside those that the gateway keeps about every plugin.
//!
//! They appear under their names in the gateway's metrics, with the plugin as a label, summed over all workers. Make
//! them once, in [`configure`](crate::Plugin::configure), and keep them in the plugin. Counting never fails: what the
//! host does not take is not counted, because no stream should end for that.

use crate::HostError;
use crate::host::{Status, services};

/// The kinds of the specification, with its numbers (`proxy_metric_type_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter = 0,
    Gauge = 1,
    Histogram = 2,
}

fn define(kind: Kind, name: &str) -> Result<u32, HostError> {
    services::define_metric(kind, name).map_err(|status| HostError::new(format!("defining metric `{name}`"), status))
}

fn read(id: u32) -> Result<u64, HostError> {
    services::read_metric(id).map_err(|status| HostError::new("reading a metric", status))
}

/// Nobody can do anything about it.
fn ignore(_: Result<(), Status>) {}

/// A number that only grows. Its name ends with `_total` by convention.
#[derive(Clone, Debug)]
pub struct Counter(u32);

impl Counter {
    /// The counter of this name, made if there is none. Names are those of Prometheus: letters, digits and `_`.
    pub fn new(name: &str) -> Result<Counter, HostError> {
        define(Kind::Counter, name).map(Counter)
    }

    /// Adds to it.
    pub fn add(&self, by: u64) {
        ignore(services::increment_metric(self.0, i64::try_from(by).unwrap_or(i64::MAX)));
    }

    /// What it has reached, over all workers.
    pub fn value(&self) -> Result<u64, HostError> {
        read(self.0)
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge(u32);

impl Gauge {
    /// As [`Counter::new`].
    pub fn new(name: &str) -> Result<Gauge, HostError> {
        define(Kind::Gauge, name).map(Gauge)
    }

    /// Changes it by so much, up or down.
    pub fn add(&self, by: i64) {
        ignore(services::increment_metric(self.0, by));
    }

    /// Sets it, for all workers.
    pub fn set(&self, value: u64) {
        ignore(services::record_metric(self.0, value));
    }

    /// Its present value, over all workers.
    pub fn value(&self) -> Result<u64, HostError> {
        read(self.0)
    }
}

/// How often which values occur.
#[derive(Clone, Debug)]
pub struct Histogram(u32);

impl Histogram {
    /// As [`Counter::new`].
    pub fn new(name: &str) -> Result<Histogram, HostError> {
        define(Kind::Histogram, name).map(Histogram)
    }

    /// Adds an observation, in whatever unit the name says.
    pub fn observe(&self, value: u64) {
        ignore(services::record_metric(self.0, value));
    }
}
