//! Metrics as Prometheus reads them: names, labels, and the sums over all workers.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use prometheus::{
    TextEncoder,
    core::{Collector, Desc},
    proto,
};

use super::{
    Process, WorkerCounters,
    destination::{Child, ChildKey, ServiceLabels},
    directory::lock,
    histogram::{ISTIO_BOUNDS, IstioHistogram, LogHistogram},
    plugin::{Callback, PluginCells, PluginLabels},
    process::{self, ProcessNumber},
    streams::StreamCells,
    worker::Sample,
};

const REQUESTS: &str = "istio_requests_total";
const DURATION: &str = "istio_request_duration_milliseconds";
const REQUEST_BYTES: &str = "istio_request_bytes";
const RESPONSE_BYTES: &str = "istio_response_bytes";
const REQUEST_MESSAGES: &str = "istio_request_messages_total";
const RESPONSE_MESSAGES: &str = "istio_response_messages_total";
const TCP_OPENED: &str = "istio_tcp_connections_opened_total";
const TCP_CLOSED: &str = "istio_tcp_connections_closed_total";
const TCP_SENT: &str = "istio_tcp_sent_bytes_total";
const TCP_RECEIVED: &str = "istio_tcp_received_bytes_total";
const BUILD: &str = "istio_build";
const PLUGIN_STREAMS: &str = "gateway_plugin_streams_total";
const PLUGIN_CALLBACKS: &str = "gateway_plugin_callback_duration_seconds";
const PLUGIN_TRAPS: &str = "gateway_plugin_traps_total";
const PLUGIN_DEADLINES: &str = "gateway_plugin_deadlines_total";
const PLUGIN_START_FAILURES: &str = "gateway_plugin_start_failures_total";
const PLUGIN_LOCAL_RESPONSES: &str = "gateway_plugin_local_responses_total";
const PLUGIN_CALLS: &str = "gateway_plugin_calls_total";
const PLUGIN_FAILED_CALLS: &str = "gateway_plugin_failed_calls_total";
const PLUGIN_FAILED: &str = "gateway_plugin_failed_streams_total";
const PLUGIN_MEMORY: &str = "gateway_plugin_memory_bytes";
const PLUGIN_INSTANCES: &str = "gateway_plugin_instances";
const UPTIME: &str = "envoy_server_uptime";
const CONCURRENCY: &str = "envoy_server_concurrency";
const EXPIRY: &str = "envoy_server_days_until_first_cert_expiring";
const LISTENERS: &str = "envoy_listener_manager_total_listeners_active";
const CLUSTERS: &str = "envoy_cluster_manager_active_clusters";
const LIMITS: &str = "gateway_limit_exceeded_total";
const CONFIG_VERSION: &str = "gateway_config_version";
const CONFIG_PROBLEMS: &str = "gateway_config_problems";
const WORKERS: &str = "gateway_workers";
const LOG_LINES: &str = "gateway_access_log_lines_total";
const LOG_DROPPED: &str = "gateway_access_log_dropped_total";

/// Everything that is not in [`WorkerCounters::NAMES`].
const HELP: &[(&str, &str)] = &[
    (REQUESTS, "Requests that were answered."),
    (DURATION, "Time from the first byte of a request to the last of its response."),
    (REQUEST_BYTES, "Size of requests, heads included."),
    (RESPONSE_BYTES, "Size of responses, heads included."),
    (REQUEST_MESSAGES, "gRPC messages that clients sent."),
    (RESPONSE_MESSAGES, "gRPC messages that services sent."),
    (TCP_OPENED, "TCP connections that were opened."),
    (TCP_CLOSED, "TCP connections that were closed."),
    (TCP_SENT, "Bytes that went to clients over TCP connections."),
    (TCP_RECEIVED, "Bytes that came from clients over TCP connections."),
    (BUILD, "Version of this program."),
    (PLUGIN_STREAMS, "Streams that entered a plugin."),
    (PLUGIN_CALLBACKS, "Time in a callback of a plugin, calls into the gateway included."),
    (PLUGIN_TRAPS, "Crashes of a plugin."),
    (PLUGIN_START_FAILURES, "Instances of a plugin that could not be started."),
    (PLUGIN_DEADLINES, "Callbacks of a plugin that were stopped because they took too long."),
    (PLUGIN_LOCAL_RESPONSES, "Requests that a plugin answered itself."),
    (PLUGIN_CALLS, "Calls of a plugin to services."),
    (PLUGIN_FAILED_CALLS, "Calls of a plugin without an answer, or with an error of the server or of gRPC."),
    (PLUGIN_FAILED, "Streams that had to do without a plugin, by what the plugin's fail strategy made of them."),
    (PLUGIN_MEMORY, "Memory of a plugin's instances."),
    (PLUGIN_INSTANCES, "Instances of a plugin, spares included."),
    (UPTIME, "Seconds since the process started."),
    (CONCURRENCY, "Worker threads, under Envoy's name."),
    (EXPIRY, "Whole days until the first certificate that clients are shown expires."),
    (LISTENERS, "Listeners that are served."),
    (CLUSTERS, "Clusters that requests can be sent to."),
    (LIMITS, "How often a limit was hit."),
    (CONFIG_VERSION, "Version of the configuration that all workers use."),
    (CONFIG_PROBLEMS, "Problems of the current configuration."),
    (WORKERS, "Worker threads that serve requests."),
    (LOG_LINES, "Lines of the access log that were handed to its file."),
    (LOG_DROPPED, "Lines of the access log that were lost because its file did not take them."),
];

/// The collector of everything that this module counts.
pub(super) struct Sums {
    process: Arc<Process>,
    descriptions: Vec<Desc>,
}

impl Sums {
    /// Fails if a name is not one that Prometheus accepts.
    pub(super) fn new(process: Arc<Process>) -> prometheus::Result<Self> {
        let descriptions = names()
            .map(|(name, help)| Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new()))
            .collect::<prometheus::Result<_>>()?;
        Ok(Self { process, descriptions })
    }
}

impl Collector for Sums {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let now = Instant::now();
        let process = &*self.process;
        let mut families = Families::default();

        families.gauge(BUILD, &[("component", "proxy"), ("tag", &process.build_tag)], 1);
        families.gauge(WORKERS, &[], process.workers.holders() as u64);
        families.gauge(CONCURRENCY, &[], process.workers.holders() as u64);
        families.gauge(UPTIME, &[], process.started.elapsed().as_secs());
        for number in process::numbers() {
            families.process(&number);
        }
        families.gauge(CONFIG_VERSION, &[], process.config.version.load(Relaxed));
        let config = &process.config;
        families.gauge(LISTENERS, &[], config.listeners.load(Relaxed));
        families.gauge(CLUSTERS, &[], config.clusters.load(Relaxed));
        if let expiry @ 1.. = config.first_expiry.load(Relaxed) {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            families.gauge(EXPIRY, &[], expiry.saturating_sub(since_epoch) / 86_400);
        }
        for (level, count) in [("error", &config.errors), ("warning", &config.warnings), ("info", &config.infos)] {
            families.gauge(CONFIG_PROBLEMS, &[("level", level)], count.load(Relaxed));
        }
        if let Some(log) = &process.access_log {
            families.counter(LOG_LINES, &[], log.written());
            families.counter(LOG_DROPPED, &[], log.dropped());
        }

        let workers = process.workers.total();
        for ((name, _), sample) in WorkerCounters::NAMES.iter().zip(workers.samples()) {
            match sample {
                Sample::Counter(count) => families.counter(name, &[], count),
                Sample::Gauge(value) => families.gauge(name, &[], value),
            }
        }
        let mut others: Vec<_> = lock(&process.limit_sources).iter().flat_map(|source| (source.0)()).collect();
        others.extend(process.access_log.as_ref().map(|log| (super::Limit::AccessLogBytes, log.dropped())));
        for ((limit, hits), elsewhere) in workers.limits().zip(&process.limits) {
            let others: u64 = others.iter().filter(|(other, _)| *other == limit).map(|(_, hits)| hits).sum();
            families.counter(LIMITS, &[("limit", limit.as_str())], hits + elsewhere.load(Relaxed) + others);
        }

        for (service, series) in process.destinations.entries(now) {
            for (key, child) in series.totals() {
                families.requests(process, &service, key, &child);
            }
            families.streams(process, &service, &series.streams.total());
        }
        for (labels, series) in process.plugins.entries(now) {
            families.plugin(&labels, &series.total());
        }
        families.0.into_values().collect()
    }
}

/// Text format. A family that cannot be encoded (somebody else's collector) is left out; the rest is delivered.
pub(super) fn render(families: &[proto::MetricFamily]) -> Vec<u8> {
    let encoder = TextEncoder::new();
    let mut text = String::new();
    for family in families {
        // The encoder panics on this one type.
        if family.get_field_type() == proto::MetricType::UNTYPED {
            tracing::warn!(metric = family.name(), "metric left out: untyped metrics cannot be exported");
            continue;
        }
        let before = text.len();
        if let Err(error) = encoder.encode_utf8(std::slice::from_ref(family), &mut text) {
            text.truncate(before);
            tracing::warn!(metric = family.name(), %error, "metric left out");
        }
    }
    text.into_bytes()
}

fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    HELP.iter().chain(process::HELP).chain(WorkerCounters::NAMES).copied()
}

type Labels<'a> = [(&'a str, &'a str)];

/// Metric families by name while they are filled.
#[derive(Default)]
struct Families(HashMap<&'static str, proto::MetricFamily>);

impl Families {
    fn family(&mut self, name: &'static str, kind: proto::MetricType) -> &mut Vec<proto::Metric> {
        let family = self.0.entry(name).or_insert_with(|| {
            let mut family = proto::MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_field_type(kind);
            let help = names().find(|(known, _)| *known == name).map_or("", |(_, help)| help);
            family.set_help(help.to_owned());
            family
        });
        family.mut_metric()
    }

    fn counter(&mut self, name: &'static str, labels: &Labels<'_>, value: u64) {
        let mut counter = proto::Counter::default();
        counter.set_value(value as f64);
        let mut metric = proto::Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.family(name, proto::MetricType::COUNTER).push(metric);
    }

    fn gauge(&mut self, name: &'static str, labels: &Labels<'_>, value: u64) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value as f64);
        let mut metric = proto::Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.family(name, proto::MetricType::GAUGE).push(metric);
    }

    fn process(&mut self, number: &ProcessNumber) {
        let mut metric = proto::Metric::default();
        let kind = if number.is_counter {
            let mut counter = proto::Counter::default();
            counter.set_value(number.value);
            metric.set_counter(counter);
            proto::MetricType::COUNTER
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(number.value);
            metric.set_gauge(gauge);
            proto::MetricType::GAUGE
        };
        self.family(number.name, kind).push(metric);
    }

    fn histogram(&mut self, name: &'static str, labels: &Labels<'_>, histogram: proto::Histogram) {
        let mut metric = proto::Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.family(name, proto::MetricType::HISTOGRAM).push(metric);
    }

    /// Istio's metrics of one way in which requests to one service ended.
    fn requests(&mut self, process: &Process, service: &ServiceLabels, key: ChildKey, child: &Child) {
        let [protocol, code, grpc_status, flags] = key.labels();
        let mut labels = ends(process, service).to_vec();
        labels.extend([
            ("request_protocol", &*protocol),
            ("response_code", &code),
            ("grpc_response_status", &grpc_status),
            ("response_flags", &flags),
            ("connection_security_policy", "unknown"),
        ]);
        self.counter(REQUESTS, &labels, child.duration.count());
        self.histogram(DURATION, &labels, istio_histogram(&child.duration, 1000.0));
        self.histogram(REQUEST_BYTES, &labels, istio_histogram(&child.request_bytes, 1.0));
        self.histogram(RESPONSE_BYTES, &labels, istio_histogram(&child.response_bytes, 1.0));
    }

    /// Istio's metrics of what goes on with one service; those of what never went on are left out.
    fn streams(&mut self, process: &Process, service: &ServiceLabels, cells: &StreamCells) {
        let labels = ends(process, service);
        let messages = [(REQUEST_MESSAGES, &cells.request_messages), (RESPONSE_MESSAGES, &cells.response_messages)];
        if messages.iter().any(|(_, counter)| counter.get() > 0) {
            for (name, counter) in messages {
                self.counter(name, &labels, counter.get());
            }
        }
        for (flags, cells) in cells.tcp() {
            let flags = flags.to_string();
            let mut labels = labels.to_vec();
            labels.extend([
                ("request_protocol", "tcp"),
                ("response_flags", &*flags),
                ("connection_security_policy", "unknown"),
            ]);
            self.counter(TCP_OPENED, &labels, cells.opened.get());
            self.counter(TCP_CLOSED, &labels, cells.closed.get());
            self.counter(TCP_SENT, &labels, cells.sent.get());
            self.counter(TCP_RECEIVED, &labels, cells.received.get());
        }
    }

    fn plugin(&mut self, plugin: &PluginLabels, cells: &PluginCells) {
        let labels = [("namespace", &*plugin.namespace), ("plugin", &*plugin.name), ("digest", &*plugin.digest)];
        let [namespace, name, digest] = labels;
        for (metric, counter) in [
            (PLUGIN_STREAMS, &cells.streams),
            (PLUGIN_TRAPS, &cells.traps),
            (PLUGIN_DEADLINES, &cells.deadlines),
            (PLUGIN_START_FAILURES, &cells.start_failures),
            (PLUGIN_LOCAL_RESPONSES, &cells.local_responses),
            (PLUGIN_CALLS, &cells.calls),
            (PLUGIN_FAILED_CALLS, &cells.failed_calls),
        ] {
            self.counter(metric, &labels, counter.get());
        }
        for (strategy, counter) in cells.failures() {
            let labels = [namespace, name, digest, ("fail_strategy", strategy.as_str())];
            self.counter(PLUGIN_FAILED, &labels, counter.get());
        }
        self.gauge(PLUGIN_MEMORY, &labels, cells.memory.get());
        self.gauge(PLUGIN_INSTANCES, &labels, cells.instances.get());
        for (callback, histogram) in Callback::ALL.iter().zip(&cells.callbacks) {
            // A plugin has two or three of them; the others would be noise.
            if histogram.count() > 0 {
                let labels = [namespace, name, digest, ("callback", callback.as_str())];
                self.histogram(PLUGIN_CALLBACKS, &labels, log_histogram(histogram));
            }
        }
    }
}

/// The labels about both ends, in Istio's order (istio.md 5.1). What only a mesh peer could tell is unknown at the edge.
fn ends<'a>(process: &'a Process, service: &'a ServiceLabels) -> [(&'a str, &'a str); 20] {
    let source = &process.identity;
    [
        ("reporter", "source"),
        ("source_workload", or_unknown(&source.workload)),
        ("source_canonical_service", or_unknown(&source.canonical_service)),
        ("source_canonical_revision", if_empty(&source.canonical_revision, "latest")),
        ("source_workload_namespace", or_unknown(&source.namespace)),
        ("source_principal", "unknown"),
        ("source_app", or_unknown(&source.app)),
        ("source_version", or_unknown(&source.version)),
        ("source_cluster", or_unknown(&source.cluster)),
        ("destination_workload", "unknown"),
        ("destination_workload_namespace", "unknown"),
        ("destination_principal", "unknown"),
        ("destination_app", "unknown"),
        ("destination_version", "unknown"),
        ("destination_service", or_unknown(&service.host)),
        ("destination_canonical_service", "unknown"),
        ("destination_canonical_revision", "latest"),
        ("destination_service_name", or_unknown(&service.name)),
        ("destination_service_namespace", or_unknown(&service.namespace)),
        ("destination_cluster", "unknown"),
    ]
}

fn if_empty<'a>(value: &'a str, instead: &'a str) -> &'a str {
    if value.is_empty() { instead } else { value }
}

fn or_unknown(value: &str) -> &str {
    if_empty(value, "unknown")
}

fn pairs(labels: &Labels<'_>) -> Vec<proto::LabelPair> {
    labels
        .iter()
        .map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}

fn istio_histogram(histogram: &IstioHistogram, unit: f64) -> proto::Histogram {
    let mut below = 0;
    let cumulative = ISTIO_BOUNDS.iter().zip(histogram.counts()).map(|(bound, count)| {
        below += count;
        (*bound, below)
    });
    buckets(cumulative, histogram.count(), histogram.sum() as f64 / unit)
}

fn log_histogram(histogram: &LogHistogram) -> proto::Histogram {
    buckets(histogram.cumulative().into_iter(), histogram.count(), histogram.sum() as f64 / 1e9)
}

fn buckets(cumulative: impl Iterator<Item = (f64, u64)>, count: u64, sum: f64) -> proto::Histogram {
    let buckets = cumulative
        .map(|(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        })
        .collect();
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    histogram
}
