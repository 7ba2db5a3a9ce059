//! What a scraper sees of several workers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};

use prometheus::{
    core::{Collector, Desc},
    proto,
};

use super::*;
use crate::snapshot::{Cluster, FailStrategy};

fn cluster(host: &str, name: &str) -> Cluster {
    Cluster {
        name: format!("outbound|80||{host}").into(),
        host: host.into(),
        port: 80,
        service_name: name.into(),
        service_namespace: "shop".into(),
        ..Cluster::default()
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
    Telemetry::new(&TelemetryOptions { identity, build_tag: "1.2.3".into(), ..TelemetryOptions::default() }).unwrap()
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
    assert_eq!((bucket("0.5"), bucket("1"), bucket("5"), bucket("3600000"), bucket("+Inf")), (0.0, 0.0, 1.0, 1.0, 2.0));
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
    plugin.instance_started(1 << 20);
    plugin.instance_started(1 << 19);
    plugin.instance_started(5);
    plugin.memory_changed(1 << 20, 1 << 19);
    plugin.instance_ended(5);
    for micros in [10, 20, 30, 4000] {
        plugin.callback(Callback::RequestHeaders, micros * 1_000);
    }
    plugin.callback(Callback::Tick, 5_000_000_000);
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
    old.instance_started(100);
    new.stream();
    new.instance_started(11);
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
    assert!(Rc::ptr_eq(&worker.destination(Some(&one)), &worker.destination(Some(&one))));
    let handle = worker.destination(Some(&one));
    assert!(Rc::ptr_eq(&handle, &worker.destination(Some(&two))));
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
    // 46 codes: more than a worker keeps, fewer than the process keeps, so no series ends.
    const THREADS: usize = 3;
    const ROUNDS: u16 = 4;
    const PER_ROUND: usize = 4000;
    let telemetry = telemetry();
    let running = AtomicUsize::new(THREADS);
    let count = |samples: &BTreeMap<String, f64>| -> f64 {
        samples.iter().filter(|(series, _)| series.starts_with("istio_requests_total{")).map(|(_, count)| count).sum()
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (telemetry, running) = (telemetry.clone(), &running);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let worker = telemetry.worker();
                    let destination = worker.destination(Some(&cluster("a.example", "a")));
                    for request in 0..PER_ROUND {
                        let spread = if request % 4 == 0 { (request / 4 * (thread + 1)) as u16 % 16 } else { 0 };
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

/// Lines of several workers arrive whole, none is lost, and ending a worker hands over what it still had.
#[test]
fn every_request_of_every_worker_is_logged_once() {
    const THREADS: usize = 3;
    const LINES: usize = 700;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let telemetry = Telemetry::new(&TelemetryOptions {
        access_log: Some(AccessLogOptions {
            format: LogFormat::Json,
            sink: LogSink::at(&path),
            ..AccessLogOptions::default()
        }),
        ..TelemetryOptions::default()
    })
    .unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let telemetry = telemetry.clone();
            scope.spawn(move || {
                let worker = telemetry.worker();
                for number in 0..LINES {
                    let path = format!("/{thread}/{number}\n");
                    let headers = Captured::default();
                    worker.access_log().unwrap().log(&Entry { path: path.as_bytes(), ..logged(&headers) });
                }
            });
        }
    });
    assert!(telemetry.drain_access_log(Duration::from_secs(30)));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut paths: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].as_str().unwrap().to_owned())
        .collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), THREADS * LINES);
    let samples = scrape(&telemetry);
    assert_eq!(samples["gateway_access_log_lines_total"], (THREADS * LINES) as f64);
    assert_eq!(samples["gateway_access_log_dropped_total"], 0.0);
}

#[test]
fn without_an_access_log_there_is_none() {
    let telemetry = telemetry();
    assert!(telemetry.worker().access_log().is_none());
    assert!(telemetry.drain_access_log(Duration::ZERO));
}

fn logged(headers: &Captured) -> Entry<'_> {
    Entry {
        start: std::time::SystemTime::UNIX_EPOCH,
        duration: Duration::ZERO,
        method: "GET",
        path: b"/",
        protocol: "HTTP/2",
        code: 200,
        flags: ResponseFlags::NONE,
        code_details: "via_upstream",
        connection_termination_details: "",
        upstream_transport_failure_reason: "",
        bytes_received: 0,
        bytes_sent: 0,
        upstream_service_time: None,
        request_head_bytes: 0,
        response_head_bytes: 0,
        upstream_attempts: 0,
        headers,
        grpc_status: None,
        connection_id: 0,
        authority: None,
        upstream_host: None,
        upstream_cluster: "",
        upstream_local_address: None,
        downstream_local_address: None,
        downstream_remote_address: None,
        requested_server_name: None,
        tls: None,
        route_name: "",
    }
}
