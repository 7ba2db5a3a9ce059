//! Metrics as Prometheus reads them: names, labels, and the sums over all workers.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use prometheus::{
    TextEncoder,
    core::{Collector, Desc},
    proto,
};

use super::{
    Process, WorkerCounters,
    destination::{Child, ChildKey, ServiceLabels},
    histogram::{ISTIO_BOUNDS, IstioHistogram, LogHistogram},
    plugin::{Callback, PluginCells, PluginLabels},
    worker::Sample,
};

const REQUESTS: &str = "istio_requests_total";
const DURATION: &str = "istio_request_duration_milliseconds";
const REQUEST_BYTES: &str = "istio_request_bytes";
const RESPONSE_BYTES: &str = "istio_response_bytes";
const BUILD: &str = "istio_build";
const PLUGIN_STREAMS: &str = "gateway_plugin_streams_total";
const PLUGIN_CALLBACKS: &str = "gateway_plugin_callback_duration_seconds";
const PLUGIN_TRAPS: &str = "gateway_plugin_traps_total";
const PLUGIN_DEADLINES: &str = "gateway_plugin_deadlines_total";
const PLUGIN_LOCAL_RESPONSES: &str = "gateway_plugin_local_responses_total";
const PLUGIN_FAILED: &str = "gateway_plugin_failed_streams_total";
const PLUGIN_MEMORY: &str = "gateway_plugin_memory_bytes";
const PLUGIN_INSTANCES: &str = "gateway_plugin_instances";
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
    (BUILD, "Version of this program."),
    (PLUGIN_STREAMS, "Streams that entered a plugin."),
    (PLUGIN_CALLBACKS, "Time in a callback of a plugin, calls into the gateway included."),
    (PLUGIN_TRAPS, "Crashes of a plugin."),
    (PLUGIN_DEADLINES, "Callbacks of a plugin that were stopped because they took too long."),
    (PLUGIN_LOCAL_RESPONSES, "Requests that a plugin answered itself."),
    (PLUGIN_FAILED, "Streams that had to do without a plugin, by what the plugin's fail strategy made of them."),
    (PLUGIN_MEMORY, "Memory of a plugin's instances."),
    (PLUGIN_INSTANCES, "Instances of a plugin, spares included."),
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
        families.gauge(CONFIG_VERSION, &[], process.config.version.load(Relaxed));
        let config = &process.config;
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
        for ((limit, hits), elsewhere) in workers.limits().zip(&process.limits) {
            families.counter(LIMITS, &[("limit", limit.as_str())], hits + elsewhere.load(Relaxed));
        }

        for (service, series) in process.destinations.entries(now) {
            for (key, child) in series.totals() {
                families.requests(process, &service, key, &child);
            }
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
    HELP.iter().chain(WorkerCounters::NAMES).copied()
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

    fn histogram(&mut self, name: &'static str, labels: &Labels<'_>, histogram: proto::Histogram) {
        let mut metric = proto::Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.family(name, proto::MetricType::HISTOGRAM).push(metric);
    }

    /// Istio's metrics of one way in which requests to one service ended.
    fn requests(&mut self, process: &Process, service: &ServiceLabels, key: ChildKey, child: &Child) {
        let source = &process.identity;
        let [protocol, code, grpc_status, flags] = key.labels();
        // Istio's order (istio.md 5.1). What only a mesh peer could tell is unknown at the edge.
        let labels = [
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
            ("request_protocol", &protocol),
            ("response_code", &code),
            ("grpc_response_status", &grpc_status),
            ("response_flags", &flags),
            ("connection_security_policy", "unknown"),
        ];
        self.counter(REQUESTS, &labels, child.duration.count());
        self.histogram(DURATION, &labels, istio_histogram(&child.duration, 1000.0));
        self.histogram(REQUEST_BYTES, &labels, istio_histogram(&child.request_bytes, 1.0));
        self.histogram(RESPONSE_BYTES, &labels, istio_histogram(&child.response_bytes, 1.0));
    }

    fn plugin(&mut self, plugin: &PluginLabels, cells: &PluginCells) {
        let labels = [("namespace", &*plugin.namespace), ("plugin", &*plugin.name), ("digest", &*plugin.digest)];
        let [namespace, name, digest] = labels;
        for (metric, counter) in [
            (PLUGIN_STREAMS, &cells.streams),
            (PLUGIN_TRAPS, &cells.traps),
            (PLUGIN_DEADLINES, &cells.deadlines),
            (PLUGIN_LOCAL_RESPONSES, &cells.local_responses),
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
            // A plugin has two or three of the ten; the others would be noise.
            if histogram.count() > 0 {
                let labels = [namespace, name, digest, ("callback", callback.as_str())];
                self.histogram(PLUGIN_CALLBACKS, &labels, log_histogram(histogram));
            }
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread,
        time::Duration,
    };

    use super::*;
    use crate::{
        snapshot::{Cluster, FailStrategy, UpstreamProtocol},
        telemetry::{Limit, Observation, RequestProtocol, ResponseFlags, SourceIdentity, Telemetry, TelemetryOptions},
    };

    fn cluster(host: &str, name: &str) -> Cluster {
        Cluster {
            name: format!("outbound|80||{host}").into(),
            host: host.into(),
            port: 80,
            service_name: name.into(),
            service_namespace: "shop".into(),
            protocol: UpstreamProtocol::Http1,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            endpoints: [].into(),
        }
    }

    fn ended(code: u16) -> Observation {
        Observation {
            protocol: RequestProtocol::Http,
            code,
            flags: ResponseFlags::NONE,
            grpc_status: None,
            duration: Duration::from_micros(1500),
            request_bytes: 70,
            response_bytes: 300,
        }
    }

    fn telemetry() -> Telemetry {
        let identity = SourceIdentity {
            workload: "istio-ingressgateway".into(),
            namespace: "istio-system".into(),
            canonical_service: "istio-ingressgateway".into(),
            app: "istio-ingressgateway".into(),
            ..SourceIdentity::default()
        };
        Telemetry::new(&TelemetryOptions { identity, build_tag: "1.2.3".into(), access_log: None }).unwrap()
    }

    /// What a scraper sees: value by series. Refuses what Prometheus would refuse.
    fn scrape(telemetry: &Telemetry) -> BTreeMap<String, f64> {
        let text = String::from_utf8(telemetry.render_prometheus()).unwrap();
        let mut types: BTreeMap<&str, &str> = BTreeMap::new();
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(types.insert(name, kind).is_none(), "{name} twice");
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
                assert!(
                    types.contains_key(name) || family.is_some_and(|family| types.get(family) == Some(&"histogram")),
                    "{line}"
                );
                assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} twice");
            }
        }
        samples
    }

    #[test]
    fn requests_have_istios_labels_in_istios_order() {
        let telemetry = telemetry();
        let worker = telemetry.worker();
        let reviews = cluster("reviews.shop.svc.cluster.local", "reviews");
        let destination = worker.destination(Some(&reviews));
        destination.observe(&ended(200));
        destination.observe(&Observation { duration: Duration::from_secs(7200), ..ended(200) });
        worker.destination(None).observe(&Observation { flags: ResponseFlags::NO_ROUTE, ..ended(404) });

        let samples = scrape(&telemetry);
        let before = "reporter=\"source\",source_workload=\"istio-ingressgateway\",\
            source_canonical_service=\"istio-ingressgateway\",source_canonical_revision=\"latest\",\
            source_workload_namespace=\"istio-system\",source_principal=\"unknown\",\
            source_app=\"istio-ingressgateway\",source_version=\"unknown\",source_cluster=\"unknown\",\
            destination_workload=\"unknown\",destination_workload_namespace=\"unknown\",\
            destination_principal=\"unknown\",destination_app=\"unknown\",destination_version=\"unknown\"";
        let ok = format!(
            "{before},destination_service=\"reviews.shop.svc.cluster.local\",\
             destination_canonical_service=\"unknown\",destination_canonical_revision=\"latest\",\
             destination_service_name=\"reviews\",destination_service_namespace=\"shop\",\
             destination_cluster=\"unknown\",request_protocol=\"http\",response_code=\"200\",\
             grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"unknown\""
        );
        let not_found = format!(
            "{before},destination_service=\"unknown\",destination_canonical_service=\"unknown\",\
             destination_canonical_revision=\"latest\",destination_service_name=\"unknown\",\
             destination_service_namespace=\"unknown\",destination_cluster=\"unknown\",\
             request_protocol=\"http\",response_code=\"404\",grpc_response_status=\"\",response_flags=\"NR\",\
             connection_security_policy=\"unknown\""
        );
        assert_eq!(samples[&format!("istio_requests_total{{{ok}}}")], 2.0);
        assert_eq!(samples[&format!("istio_requests_total{{{not_found}}}")], 1.0);
        let bucket = |le: &str| samples[&format!("istio_request_duration_milliseconds_bucket{{{ok},le=\"{le}\"}}")];
        assert_eq!(
            (bucket("0.5"), bucket("1"), bucket("5"), bucket("3600000"), bucket("+Inf")),
            (0.0, 0.0, 1.0, 1.0, 2.0)
        );
        assert_eq!(samples[&format!("istio_request_duration_milliseconds_sum{{{ok}}}")], 7_200_001.5);
        assert_eq!(samples[&format!("istio_request_bytes_sum{{{ok}}}")], 140.0);
        assert_eq!(samples[&format!("istio_response_bytes_count{{{ok}}}")], 2.0);
        assert_eq!(samples["istio_build{component=\"proxy\",tag=\"1.2.3\"}"], 1.0);
    }

    #[test]
    fn plugins_and_the_process() {
        let telemetry = telemetry();
        let worker = telemetry.worker();
        let digest = "sha256:0123456789abcdef0123456789abcdef";
        let plugin = worker.plugin("default", "add-header", digest);
        plugin.stream();
        plugin.trap();
        plugin.deadline();
        plugin.local_response();
        plugin.failed_stream(FailStrategy::Open);
        plugin.memory(1 << 20);
        plugin.instances(2);
        for micros in [10, 20, 30, 4000] {
            plugin.callback(Callback::RequestHeaders, Duration::from_micros(micros));
        }
        plugin.callback(Callback::Tick, Duration::from_secs(5));
        worker.counters().downstream_connections.inc();
        worker.counters().upstream_retries.add(3);
        worker.counters().limit_exceeded(Limit::RequestHeadTime);
        telemetry.limit_exceeded(Limit::RequestHeadTime);
        telemetry.set_config_version(7);
        telemetry.set_config_problems(2, 1, 0);

        let samples = scrape(&telemetry);
        let labels = "namespace=\"default\",plugin=\"add-header\",digest=\"0123456789ab\"";
        for (series, value) in [
            (format!("gateway_plugin_streams_total{{{labels}}}"), 1.0),
            (format!("gateway_plugin_traps_total{{{labels}}}"), 1.0),
            (format!("gateway_plugin_deadlines_total{{{labels}}}"), 1.0),
            (format!("gateway_plugin_local_responses_total{{{labels}}}"), 1.0),
            (format!("gateway_plugin_failed_streams_total{{{labels},fail_strategy=\"FAIL_OPEN\"}}"), 1.0),
            (format!("gateway_plugin_failed_streams_total{{{labels},fail_strategy=\"FAIL_CLOSE\"}}"), 0.0),
            (format!("gateway_plugin_memory_bytes{{{labels}}}"), 1_048_576.0),
            (format!("gateway_plugin_instances{{{labels}}}"), 2.0),
            ("gateway_downstream_connections".to_owned(), 1.0),
            ("gateway_upstream_retries_total".to_owned(), 3.0),
            ("gateway_limit_exceeded_total{limit=\"request_head_time\"}".to_owned(), 2.0),
            ("gateway_limit_exceeded_total{limit=\"plugin_memory\"}".to_owned(), 0.0),
            ("gateway_config_version".to_owned(), 7.0),
            ("gateway_config_problems{level=\"error\"}".to_owned(), 2.0),
            ("gateway_workers".to_owned(), 1.0),
        ] {
            assert_eq!(samples.get(&series), Some(&value), "{series}");
        }
        let callback = format!("{labels},callback=\"request_headers\"");
        let bucket =
            |le: &str| samples[&format!("gateway_plugin_callback_duration_seconds_bucket{{{callback},le=\"{le}\"}}")];
        assert_eq!(
            (bucket("0.000004096"), bucket("0.000016384"), bucket("0.000065536"), bucket("+Inf")),
            (0.0, 1.0, 3.0, 4.0)
        );
        let sum = samples[&format!("gateway_plugin_callback_duration_seconds_sum{{{callback}}}")];
        assert!((sum - 0.00406).abs() < 1e-9);
        assert!(!samples.keys().any(|series| series.contains("response_body")));

        let summary = telemetry.plugin_summary("default", "add-header");
        assert_eq!((summary.streams, summary.traps, summary.deadlines, summary.memory_bytes), (1, 1, 1, 1 << 20));
        assert!((17.5..=22.5).contains(&summary.p50_micros), "{summary:?}");
        assert!((3500.0..=4500.0).contains(&summary.p99_micros), "ticks do not count: {summary:?}");
        assert_eq!(telemetry.plugin_summary("default", "other").streams, 0);
    }

    #[test]
    fn versions_of_a_plugin_add_up_and_leave_their_counts_but_not_their_memory() {
        let telemetry = telemetry();
        let worker = telemetry.worker();
        let (old, new) = (worker.plugin("default", "auth", "sha256:aa"), worker.plugin("default", "auth", "sha256:bb"));
        old.stream();
        old.memory(100);
        new.stream();
        new.memory(11);
        assert_eq!(telemetry.plugin_summary("default", "auth").memory_bytes, 111);
        drop(old);
        let summary = telemetry.plugin_summary("default", "auth");
        assert_eq!((summary.streams, summary.memory_bytes), (2, 11));
        assert_eq!(
            scrape(&telemetry)["gateway_plugin_memory_bytes{namespace=\"default\",plugin=\"auth\",digest=\"aa\"}"],
            0.0
        );
    }

    #[test]
    fn a_worker_that_ends_leaves_its_counts_but_not_its_connections() {
        let telemetry = telemetry();
        let (first, second) = (telemetry.worker(), telemetry.worker());
        for worker in [&first, &second] {
            worker.counters().downstream_connections.inc();
            worker.counters().downstream_connections_total.inc();
        }
        drop(first);
        let samples = scrape(&telemetry);
        assert_eq!(samples["gateway_workers"], 1.0);
        assert_eq!(samples["gateway_downstream_connections"], 1.0);
        assert_eq!(samples["gateway_downstream_connections_total"], 2.0);
    }

    #[test]
    fn askers_of_one_service_share_a_handle() {
        let telemetry = telemetry();
        let worker = telemetry.worker();
        let (one, two) = (cluster("a.example", "a"), cluster("a.example", "a"));
        assert!(std::rc::Rc::ptr_eq(&worker.destination(Some(&one)), &worker.destination(Some(&one))));
        let handle = worker.destination(Some(&one));
        assert!(std::rc::Rc::ptr_eq(&handle, &worker.destination(Some(&two))));
    }

    #[test]
    fn names_from_configuration_cannot_break_the_text() {
        let telemetry = telemetry();
        let worker = telemetry.worker();
        let odd = worker.destination(Some(&cluster("a\"} 1\n# TYPE x counter\\", "")));
        odd.observe(&ended(200));
        let samples = scrape(&telemetry);
        let series = samples.keys().find(|series| series.starts_with("istio_requests_total")).unwrap();
        assert!(series.contains(r#"destination_service="a\"} 1\n# TYPE x counter\\","#), "{series}");
        assert!(series.contains("destination_service_name=\"unknown\""));
    }

    /// Somebody else's metrics: some are fine, some would stop or break the encoder.
    struct Odd(Vec<Desc>);

    impl Collector for Odd {
        fn desc(&self) -> Vec<&Desc> {
            self.0.iter().collect()
        }

        fn collect(&self) -> Vec<proto::MetricFamily> {
            let family = |name: &str, kind| {
                let mut family = proto::MetricFamily::default();
                family.set_name(name.to_owned());
                family.set_field_type(kind);
                family.set_metric(vec![proto::Metric::default()]);
                family
            };
            vec![
                family("", proto::MetricType::COUNTER),
                family("plugin_defined", proto::MetricType::COUNTER),
                family("plugin_untyped", proto::MetricType::UNTYPED),
            ]
        }
    }

    #[test]
    fn other_collectors_are_exported_and_cannot_spoil_the_rest() {
        let telemetry = telemetry();
        let description = Desc::new("plugin_defined".into(), "help".into(), vec![], HashMap::new()).unwrap();
        telemetry.add_collector(Box::new(Odd(vec![description.clone()]))).unwrap();
        assert!(telemetry.add_collector(Box::new(Odd(vec![description]))).is_err());
        let samples = scrape(&telemetry);
        assert_eq!(samples["plugin_defined"], 0.0);
        assert!(samples.contains_key("gateway_workers") && !samples.contains_key("plugin_untyped"));
    }

    /// Workers count, evict and come and go on their own threads while somebody scrapes all the time.
    #[test]
    fn sums_are_exact_and_never_go_backwards_while_workers_run() {
        // 90 codes: more than a worker keeps, fewer than the process keeps, so no series ends.
        const THREADS: usize = 3;
        const ROUNDS: u16 = 6;
        const PER_ROUND: usize = 4000;
        let telemetry = telemetry();
        let running = AtomicUsize::new(THREADS);
        let count = |samples: &BTreeMap<String, f64>| -> f64 {
            samples
                .iter()
                .filter(|(series, _)| series.starts_with("istio_requests_total{"))
                .map(|(_, count)| count)
                .sum()
        };
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (telemetry, running) = (telemetry.clone(), &running);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let worker = telemetry.worker();
                        let destination = worker.destination(Some(&cluster("a.example", "a")));
                        for request in 0..PER_ROUND {
                            let spread = if request % 4 == 0 { (request / 4 * (thread + 1)) as u16 % 40 } else { 0 };
                            destination.observe(&ended(200 + spread + 10 * round));
                        }
                    }
                    running.fetch_sub(1, SeqCst);
                });
            }
            let mut before: BTreeMap<String, f64> = BTreeMap::new();
            let mut last = 0.0;
            loop {
                let over = running.load(SeqCst) == 0;
                let samples = scrape(&telemetry);
                for (series, value) in &before {
                    if series.starts_with("istio_") {
                        assert!(samples.get(series).is_some_and(|now| now >= value), "{series} went backwards");
                    }
                }
                assert!(count(&samples) >= last);
                last = count(&samples);
                before = samples;
                if over {
                    break;
                }
            }
        });
        assert_eq!(count(&scrape(&telemetry)), (THREADS * usize::from(ROUNDS) * PER_ROUND) as f64);
    }
}
