//! Metrics that plugins define: counters, gauges and histograms per plugin, shared by all workers.
//!
//! A value is an atomic; recording takes no lock, because an instance keeps what it has defined.
//! There are no labels in the ABI. Plugins write them into the name by convention; taking them apart
//! again is the exporter's business.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;
use super::quota::Refusals;
use crate::abi::MetricType;
use crate::{Quota, QuotaSample};

/// Upper bounds of the histogram buckets (Envoy's defaults). Above the last is only the total.
pub const HISTOGRAM_BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// The present value of one metric.
#[derive(Clone, Debug)]
pub struct MetricSample {
    /// The plugin that defined it ([`PluginSettings::name`](crate::PluginSettings::name)).
    pub plugin: Arc<str>,
    /// The name as the plugin gave it: any text, not only what an exporter allows.
    pub name: Arc<str>,
    /// Its kind and value.
    pub value: MetricValue,
}

/// Kind and value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricValue {
    /// Only grows.
    Counter(u64),
    /// Any value.
    Gauge(u64),
    /// A distribution.
    Histogram(HistogramSample),
}

/// A distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    /// Number of values not above each of [`HISTOGRAM_BUCKETS`] (cumulative).
    pub buckets: [u64; HISTOGRAM_BUCKETS.len()],
    /// Sum of all values.
    pub sum: u64,
    /// Number of all values.
    pub count: u64,
}

/// The metrics, refusal counts and calls of one plugin.
pub(crate) struct PluginScope {
    plugin: Arc<str>,
    metrics: Mutex<Metrics>,
    refusals: Refusals,
    calls: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Metrics {
    names: HashMap<(MetricType, Arc<str>), usize>,
    list: Vec<Arc<Metric>>,
}

/// One metric.
pub(crate) struct Metric {
    name: Arc<str>,
    cell: Cell,
}

enum Cell {
    Counter(AtomicU64),
    Gauge(AtomicU64),
    Histogram(Box<Histogram>),
}

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; HISTOGRAM_BUCKETS.len()],
    sum: AtomicU64,
    count: AtomicU64,
}

/// A number for a metric, and whether it is one that will be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Defined {
    pub(crate) id: u32,
    pub(crate) exported: bool,
}

/// Why a metric was not changed or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    Unknown,
    WrongKind,
}

/// The metrics one instance has used, so that recording needs no look-up.
#[derive(Default)]
pub(crate) struct MetricIds(Vec<Option<Arc<Metric>>>);

/// Numbers from here on stand for metrics beyond the plugin's limit: they take values and keep none.
const OVERFLOW: u32 = u32::MAX - 3;

impl PluginScope {
    pub(super) fn new(plugin: &str) -> Self {
        Self { plugin: plugin.into(), metrics: Mutex::default(), refusals: Refusals::default(), calls: Arc::default() }
    }

    pub(crate) fn refuse(&self, quota: Quota) {
        self.refusals.count(quota);
    }

    /// How many outbound calls are in flight.
    pub(crate) fn calls(&self) -> &Arc<AtomicUsize> {
        &self.calls
    }

    pub(super) fn refusals(&self) -> Vec<QuotaSample> {
        self.refusals.samples(&self.plugin).collect()
    }

    /// The number of a metric, which is made if there is none. Numbers are as in Envoy: counters
    /// 4, 8, …, gauges 5, 9, …, histograms 6, 10, ….
    pub(crate) fn define(&self, kind: MetricType, name: &str, max: usize, max_name: usize) -> Defined {
        let overflow = Defined { id: OVERFLOW + kind as u32, exported: false };
        if name.len() > max_name {
            self.refuse(Quota::Metrics);
            return overflow;
        }
        let mut metrics = lock(&self.metrics);
        let name: Arc<str> = name.into();
        if let Some(index) = metrics.names.get(&(kind, name.clone())) {
            return Defined { id: number(*index, kind), exported: true };
        }
        if metrics.list.len() >= max {
            self.refuse(Quota::Metrics);
            return overflow;
        }
        let index = metrics.list.len();
        let cell = match kind {
            MetricType::Counter => Cell::Counter(AtomicU64::new(0)),
            MetricType::Gauge => Cell::Gauge(AtomicU64::new(0)),
            MetricType::Histogram => Cell::Histogram(Box::default()),
        };
        metrics.list.push(Arc::new(Metric { name: name.clone(), cell }));
        metrics.names.insert((kind, name), index);
        Defined { id: number(index, kind), exported: true }
    }

    pub(super) fn samples(&self) -> Vec<MetricSample> {
        let mut list = lock(&self.metrics).list.clone();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list.iter()
            .map(|metric| MetricSample {
                plugin: self.plugin.clone(),
                name: metric.name.clone(),
                value: metric.value(),
            })
            .collect()
    }

    fn metric(&self, id: u32) -> Option<Arc<Metric>> {
        let index = usize::try_from(id / 4).ok()?.checked_sub(1)?;
        lock(&self.metrics).list.get(index).filter(|metric| metric.kind() as u32 == id % 4).cloned()
    }
}

fn number(index: usize, kind: MetricType) -> u32 {
    // The limit on metrics keeps the index far below 2^30.
    u32::try_from(index + 1).unwrap_or(OVERFLOW / 4) * 4 + kind as u32
}

impl MetricIds {
    /// Adds `value` to a counter, sets a gauge, or records a value of a distribution.
    pub(crate) fn record(&mut self, scope: &PluginScope, id: u32, value: u64) -> Result<(), RecordError> {
        if id >= OVERFLOW {
            return Ok(());
        }
        match &self.get(scope, id)?.cell {
            Cell::Counter(cell) => add(cell, value),
            Cell::Gauge(cell) => cell.store(value, Ordering::Relaxed),
            Cell::Histogram(histogram) => histogram.record(value),
        }
        Ok(())
    }

    /// Adds to a counter (not below 0) or a gauge.
    pub(crate) fn increment(&mut self, scope: &PluginScope, id: u32, delta: i64) -> Result<(), RecordError> {
        if id >= OVERFLOW {
            return Ok(());
        }
        match &self.get(scope, id)?.cell {
            Cell::Counter(cell) if delta >= 0 => add(cell, delta.unsigned_abs()),
            Cell::Gauge(cell) => {
                cell.fetch_add(delta.cast_unsigned(), Ordering::Relaxed);
            }
            Cell::Counter(_) | Cell::Histogram(_) => return Err(RecordError::WrongKind),
        }
        Ok(())
    }

    /// The value of a counter or gauge.
    pub(crate) fn read(&mut self, scope: &PluginScope, id: u32) -> Result<u64, RecordError> {
        if id >= OVERFLOW {
            return Ok(0);
        }
        match &self.get(scope, id)?.cell {
            Cell::Counter(cell) | Cell::Gauge(cell) => Ok(cell.load(Ordering::Relaxed)),
            Cell::Histogram(_) => Err(RecordError::WrongKind),
        }
    }

    fn get(&mut self, scope: &PluginScope, id: u32) -> Result<&Metric, RecordError> {
        let index = id as usize;
        if !matches!(self.0.get(index), Some(Some(_))) {
            let metric = scope.metric(id).ok_or(RecordError::Unknown)?;
            if self.0.len() <= index {
                self.0.resize(index + 1, None);
            }
            if let Some(place) = self.0.get_mut(index) {
                *place = Some(metric);
            }
        }
        self.0.get(index).and_then(Option::as_deref).ok_or(RecordError::Unknown)
    }
}

fn add(cell: &AtomicU64, value: u64) {
    cell.fetch_add(value, Ordering::Relaxed);
}

impl Metric {
    fn kind(&self) -> MetricType {
        match self.cell {
            Cell::Counter(_) => MetricType::Counter,
            Cell::Gauge(_) => MetricType::Gauge,
            Cell::Histogram(_) => MetricType::Histogram,
        }
    }

    fn value(&self) -> MetricValue {
        match &self.cell {
            Cell::Counter(cell) => MetricValue::Counter(cell.load(Ordering::Relaxed)),
            Cell::Gauge(cell) => MetricValue::Gauge(cell.load(Ordering::Relaxed)),
            Cell::Histogram(histogram) => MetricValue::Histogram(histogram.sample()),
        }
    }
}

impl Histogram {
    fn record(&self, value: u64) {
        // Bucket bounds are exact in f64; values above 2^53 lie beyond all of them.
        #[allow(clippy::cast_precision_loss, reason = "see above")]
        let place = HISTOGRAM_BUCKETS.iter().position(|bound| value as f64 <= *bound);
        if let Some(bucket) = place.and_then(|place| self.buckets.get(place)) {
            add(bucket, 1);
        }
        add(&self.sum, value);
        add(&self.count, 1);
    }

    fn sample(&self) -> HistogramSample {
        let mut total = 0;
        let buckets = self.buckets.each_ref().map(|bucket| {
            total += bucket.load(Ordering::Relaxed);
            total
        });
        HistogramSample { buckets, sum: self.sum.load(Ordering::Relaxed), count: self.count.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn numbers_tell_the_kind_and_are_stable() {
        let scope = PluginScope::new("p");
        let ids = [MetricType::Counter, MetricType::Gauge, MetricType::Histogram]
            .map(|kind| scope.define(kind, "m", 9, 99).id);
        assert_eq!(ids, [4, 9, 14]);
        assert_eq!(scope.define(MetricType::Gauge, "m", 9, 99), Defined { id: 9, exported: true });
    }

    #[test]
    fn kinds_behave_as_in_envoy() {
        let scope = PluginScope::new("p");
        let mut ids = MetricIds::default();
        let counter = scope.define(MetricType::Counter, "c", 9, 99).id;
        let gauge = scope.define(MetricType::Gauge, "g", 9, 99).id;
        let histogram = scope.define(MetricType::Histogram, "h", 9, 99).id;
        ids.record(&scope, counter, 5).unwrap();
        ids.increment(&scope, counter, 2).unwrap();
        assert_eq!(ids.increment(&scope, counter, -1), Err(RecordError::WrongKind));
        ids.record(&scope, gauge, 5).unwrap();
        ids.increment(&scope, gauge, -2).unwrap();
        for value in [1, 7, 5_000_000] {
            ids.record(&scope, histogram, value).unwrap();
        }
        assert_eq!(ids.increment(&scope, histogram, 1), Err(RecordError::WrongKind));
        assert_eq!(ids.read(&scope, histogram), Err(RecordError::WrongKind));
        assert_eq!((ids.read(&scope, counter), ids.read(&scope, gauge)), (Ok(7), Ok(3)));
        for unknown in [0, 1, 3, 5, 7, 400, OVERFLOW - 1] {
            assert_eq!(ids.record(&scope, unknown, 1), Err(RecordError::Unknown), "{unknown}");
        }

        let samples = scope.samples();
        assert_eq!(samples[0].value, MetricValue::Counter(7));
        assert_eq!(samples[1].value, MetricValue::Gauge(3));
        let MetricValue::Histogram(sample) = &samples[2].value else { panic!("{samples:?}") };
        assert_eq!((sample.count, sample.sum), (3, 5_000_008));
        assert_eq!(sample.buckets[..5], [0, 1, 1, 2, 2]);
        assert_eq!(sample.buckets[18], 2);
    }

    #[test]
    fn metrics_beyond_the_limit_work_but_are_not_kept() {
        let scope = PluginScope::new("p");
        let mut ids = MetricIds::default();
        scope.define(MetricType::Counter, "1", 1, 4);
        let overflow = scope.define(MetricType::Gauge, "2", 1, 4);
        assert!(!overflow.exported);
        assert!(!scope.define(MetricType::Counter, "too long", 9, 4).exported);
        assert_eq!(ids.record(&scope, overflow.id, 3), Ok(()));
        assert_eq!(ids.read(&scope, overflow.id), Ok(0));
        assert_eq!(scope.samples().len(), 1);
        let refusals = scope.refusals();
        assert_eq!((refusals.len(), refusals[0].quota, refusals[0].refused), (1, Quota::Metrics, 2));
    }

    #[test]
    fn an_instance_can_use_a_number_that_another_one_defined() {
        let scope = PluginScope::new("p");
        let id = scope.define(MetricType::Counter, "c", 9, 99).id;
        let (mut one, mut two) = (MetricIds::default(), MetricIds::default());
        one.increment(&scope, id, 1).unwrap();
        two.increment(&scope, id, 1).unwrap();
        assert_eq!(two.read(&scope, id), Ok(2));
    }
}
