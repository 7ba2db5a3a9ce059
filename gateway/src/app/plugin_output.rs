//! What plugins say for themselves: log lines, metrics, and which of their quotas they hit.

use prometheus::{
    core::{Collector, Desc},
    proto::{self, MetricFamily, MetricType},
};
use proxy_wasm_host::{HISTOGRAM_BUCKETS, LogLevel, LogLine, LogSink, MetricSample, MetricValue, Quota, Shared};

use crate::{
    plugins::{FetchCounters, FetchLimit},
    telemetry::Limit,
};

/// How often limits of fetching modules were hit.
pub(super) fn fetch_limits(counters: &FetchCounters) -> Vec<(Limit, u64)> {
    let limit = |limit| match limit {
        FetchLimit::Bytes => Limit::ModuleFetchBytes,
        FetchLimit::Time => Limit::ModuleFetchTime,
        FetchLimit::Redirects => Limit::ModuleFetchRedirects,
    };
    counters.limits().map(|(which, count)| (limit(which), count)).into()
}

/// Plugins' log lines go where ours go, under the target `plugin`.
pub(super) struct PluginLog;

impl LogSink for PluginLog {
    fn log(&self, line: LogLine<'_>) {
        let LogLine { plugin, context, level, message } = line;
        // Quoted as debug output: a plugin cannot forge lines or steer a terminal.
        match level {
            LogLevel::Trace => tracing::trace!(target: "plugin", plugin, context, message = ?message),
            LogLevel::Debug => tracing::debug!(target: "plugin", plugin, context, message = ?message),
            LogLevel::Info => tracing::info!(target: "plugin", plugin, context, message = ?message),
            LogLevel::Warn => tracing::warn!(target: "plugin", plugin, context, message = ?message),
            LogLevel::Error | LogLevel::Critical => {
                tracing::error!(target: "plugin", plugin, context, message = ?message)
            }
        }
    }
}

/// Metrics that plugins define, as Istio's gateway exports them: their own name, made legal; the plugin is a label.
pub(super) struct PluginMetrics {
    shared: Shared,
    quotas: Desc,
}

impl PluginMetrics {
    pub(super) fn new(shared: Shared) -> prometheus::Result<Self> {
        let quotas = Desc::new(
            "gateway_plugin_quota_refusals_total".to_owned(),
            "Wishes of plugins that were refused because a quota was used up.".to_owned(),
            vec!["plugin".to_owned(), "quota".to_owned()],
            std::collections::HashMap::new(),
        )?;
        Ok(Self { shared, quotas })
    }

    fn defined(&self) -> Vec<MetricFamily> {
        let mut samples = self.shared.metrics();
        samples.sort_by(|a, b| (&a.name, kind(a) as i32, &a.plugin).cmp(&(&b.name, kind(b) as i32, &b.plugin)));
        let mut families: Vec<MetricFamily> = Vec::new();
        for sample in &samples {
            let name = legal_name(&sample.name);
            let kind = kind(sample);
            let known = families.iter().position(|family| family.name() == name);
            match known.and_then(|at| families.get_mut(at)) {
                // Two plugins that define one name differently: the first kind is exported.
                Some(family) if family.get_field_type() != kind => {}
                Some(family) => family.mut_metric().push(metric(sample)),
                None => {
                    let mut family = MetricFamily::default();
                    family.set_name(name);
                    family.set_help("Defined by a plugin.".to_owned());
                    family.set_field_type(kind);
                    family.mut_metric().push(metric(sample));
                    families.push(family);
                }
            }
        }
        families
    }

    fn refused(&self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.quotas.fq_name.clone());
        family.set_help(self.quotas.help.clone());
        family.set_field_type(MetricType::COUNTER);
        for sample in self.shared.quotas() {
            let mut metric = proto::Metric::default();
            metric.set_label(vec![label("plugin", &sample.plugin), label("quota", sample.quota.as_str())]);
            let mut counter = proto::Counter::default();
            counter.set_value(sample.refused as f64);
            metric.set_counter(counter);
            family.mut_metric().push(metric);
        }
        family
    }
}

impl Collector for PluginMetrics {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.quotas]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.defined();
        let refused = self.refused();
        if !refused.get_metric().is_empty() {
            families.push(refused);
        }
        families
    }
}

/// The quotas that are limits of the gateway, under its names.
pub(super) fn limits(shared: &Shared) -> Vec<(Limit, u64)> {
    let hits = shared.quotas().into_iter().filter_map(|sample| {
        let limit = match sample.quota {
            Quota::Log => Limit::PluginLogLines,
            Quota::Metrics => Limit::PluginMetrics,
            Quota::SharedData => Limit::PluginSharedData,
            Quota::Queues => Limit::PluginQueueItems,
            Quota::Calls => Limit::PluginCalls,
            Quota::Headers => Limit::PluginHeaderBytes,
            Quota::Properties => Limit::PluginPropertyBytes,
            // The request path counts these.
            Quota::Memory | Quota::Body => return None,
        };
        Some((limit, sample.refused))
    });
    hits.collect()
}

fn kind(sample: &MetricSample) -> MetricType {
    match sample.value {
        MetricValue::Counter(_) => MetricType::COUNTER,
        MetricValue::Gauge(_) => MetricType::GAUGE,
        MetricValue::Histogram(_) => MetricType::HISTOGRAM,
    }
}

fn metric(sample: &MetricSample) -> proto::Metric {
    let mut metric = proto::Metric::default();
    metric.set_label(vec![label("plugin", &sample.plugin)]);
    match &sample.value {
        MetricValue::Counter(value) => {
            let mut counter = proto::Counter::default();
            counter.set_value(*value as f64);
            metric.set_counter(counter);
        }
        MetricValue::Gauge(value) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(*value as f64);
            metric.set_gauge(gauge);
        }
        MetricValue::Histogram(value) => {
            let mut histogram = proto::Histogram::default();
            histogram.set_sample_count(value.count);
            histogram.set_sample_sum(value.sum as f64);
            let buckets = HISTOGRAM_BUCKETS.iter().zip(value.buckets).map(|(bound, count)| {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(count);
                bucket
            });
            histogram.set_bucket(buckets.collect());
            metric.set_histogram(histogram);
        }
    }
    metric
}

fn label(name: &str, value: &str) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// Prometheus' characters; everything else becomes `_`, as in Envoy.
fn legal_name(name: &str) -> String {
    let mut legal: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == ':' { c } else { '_' }).collect();
    if legal.is_empty() || legal.starts_with(|c: char| c.is_ascii_digit()) {
        legal.insert(0, '_');
    }
    legal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_legal() {
        for (name, legal) in [("a.b-c", "a_b_c"), ("1x", "_1x"), ("", "_"), ("ok_name:x", "ok_name:x"), ("ä", "_")] {
            assert_eq!(legal_name(name), legal);
        }
    }
}
