//! Plugins that crash, never return, or take all the memory: it costs their stream and their instance, and nothing else.

use super::{get, terms::annotated};
use gateway_tests::client::RawClient;
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{probe, wasm_plugin};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Gate, Upstream};
use std::time::Duration;

const OPEN: &str = "failStrategy: FAIL_OPEN";

async fn start(upstream: &Upstream, spec: &str) -> TestGateway {
    setup(upstream, spec).start().await.unwrap()
}

fn setup(upstream: &Upstream, spec: &str) -> Setup {
    upstream.answer_with(|_| Answer::echo());
    let plugins = probe("first", "", "priority: 2") + &probe("bad", "", spec);
    Setup::new().file("all.yaml", everything_to(upstream)).file("plugins.yaml", plugins)
}

async fn post(client: &mut RawClient, script: &str) -> (u16, String) {
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\nx-probe-bad: {script}\r\ncontent-length: 5\r\n\r\nhello");
    client.send(head).await.unwrap();
    let response = client.response().await.unwrap();
    (response.status, response.text())
}

/// Every callback of a stream with a body but no trailers, and whether a request is over when it runs.
const CALLBACKS: [(&str, bool); 5] = [
    ("request_headers", false),
    ("request_body", false),
    ("response_headers", false),
    ("response_body", false),
    ("log", true),
];

#[tokio::test]
async fn a_crash_costs_one_stream_and_the_next_has_a_spare() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let reload = "failStrategy: FAIL_RELOAD";
    for (spec, failed) in [("", (503, "")), (reload, (503, "")), (OPEN, (200, "hello"))] {
        let gateway = start(&upstream, spec).await;
        let mut client = gateway.client().await.unwrap();
        let mut traps = 0.0;
        for (at, over) in CALLBACKS {
            for how in ["trap", "exit"] {
                let (status, body) = post(&mut client, &format!("{at}={how}")).await;
                let expected = if over { (200, "hello") } else { failed };
                assert_eq!((status, body.as_str()), expected, "{at}={how} {spec}");
                traps += 1.0;
                gateway.metric_becomes("gateway_plugin_traps_total", &[("plugin", "bad")], traps).await.unwrap();
                // The very next request finds an instance that was configured before it came.
                assert_eq!(get(&mut client, "/", "").await.header_values("x-trace"), ["bad", "first"], "{at}={how}");
                // There will be another spare for the next crash.
                gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 2.0).await.unwrap();
            }
        }
        let metrics = gateway.metrics().await.unwrap();
        assert_eq!(metrics.sum("gateway_plugin_failed_streams_total", &[("plugin", "bad")]), 8.0);
        assert_eq!(metrics.sum("gateway_plugin_traps_total", &[("plugin", "first")]), 0.0);
        assert_eq!(metrics.sum("gateway_plugin_failed_streams_total", &[("plugin", "first")]), 0.0);
        assert_eq!(metrics.sum("gateway_plugin_deadlines_total", &[]), 0.0);
        assert_eq!(metrics.sum("gateway_panics_total", &[]), 0.0);
        gateway.metric_becomes("probe_open_streams", &[("plugin", "default.first")], 0.0).await.unwrap();
        gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    }
}

#[tokio::test]
async fn a_callback_that_never_returns_is_stopped() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, "").await;
    let mut client = gateway.client().await.unwrap();
    for (count, (at, over)) in CALLBACKS.into_iter().enumerate() {
        let (status, body) = post(&mut client, &format!("{at}=loop")).await;
        let expected = if over { (200, "hello") } else { (503, "") };
        assert_eq!((status, body.as_str()), expected, "{at}");
        let stopped = (count + 1) as f64;
        gateway.metric_becomes("gateway_plugin_deadlines_total", &[("plugin", "bad")], stopped).await.unwrap();
        gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "plugin_cpu_time")], stopped).await.unwrap();
        assert_eq!(get(&mut client, "/", "").await.header_values("x-trace"), ["bad", "first"], "{at}");
        gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 2.0).await.unwrap();
    }
    assert_eq!(gateway.metrics().await.unwrap().sum("gateway_plugin_traps_total", &[]), 0.0);
}

#[tokio::test]
async fn a_callback_that_never_returns_holds_others_up_for_its_deadline_only() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, "").await;
    let (mut looping, mut other) = (gateway.client().await.unwrap(), gateway.client().await.unwrap());
    looping.send("GET / HTTP/1.1\r\nhost: a\r\nx-probe-bad: request_headers=loop\r\n\r\n").await.unwrap();
    let started = std::time::Instant::now();
    // The one worker there is serves both.
    assert_eq!(get(&mut other, "/", "").await.status, 200);
    assert_eq!(looping.response().await.unwrap().status, 503);
    // 50 ms of CPU time, or 1 s if the machine has none to give.
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_callback_that_takes_all_the_memory_is_stopped() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    // On a busy machine touching so much memory may take longer than a callback is usually given.
    let patient =
        setup(&upstream, OPEN).options(|options| options.limits.running.callback_cpu = Duration::from_secs(5));
    let gateway = patient.start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    for (count, at) in ["request_headers", "response_body"].into_iter().enumerate() {
        assert_eq!(post(&mut client, &format!("{at}=memory")).await, (200, "hello".to_owned()));
        let stopped = (count + 1) as f64;
        gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "plugin_memory")], stopped).await.unwrap();
        gateway.metric_becomes("gateway_plugin_traps_total", &[("plugin", "bad")], stopped).await.unwrap();
        gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 2.0).await.unwrap();
    }
    // What it took is given back with the instance.
    let held = gateway.metrics().await.unwrap().sum("gateway_plugin_memory_bytes", &[("plugin", "bad")]);
    assert!((1.0..16e6).contains(&held), "{held} bytes");
}

/// A plugin that takes another 256 KiB for every request, and crashes when it gets no more.
const LEAKY: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) i32.const 0)
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (if (i32.eq (memory.grow (i32.const 4)) (i32.const -1)) (then unreachable))
        i32.const 0))"#;

#[tokio::test]
async fn an_instance_that_has_filled_its_memory_is_replaced_before_it_crashes() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let module = tempfile::Builder::new().suffix(".wasm").tempfile().unwrap().into_temp_path();
    std::fs::write(&module, wat::parse_str(LEAKY).unwrap()).unwrap();
    let plugin = annotated(&wasm_plugin("leaky", &module, ""), &[("limits", "{memory: 4Mi}")]);
    let setup = Setup::new().workers(1).file("all.yaml", everything_to(&upstream)).file("plugin.yaml", plugin);
    let gateway = setup.start().await.unwrap();
    // A stream that stays in the first instance for as long as it takes.
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).text("late").after(&gate));
    let mut patient = gateway.client().await.unwrap();
    patient.send("GET /patient HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    upstream.begun(1).await.unwrap();
    let mut client = gateway.client().await.unwrap();
    for number in 0..60 {
        assert_eq!(get(&mut client, "/", "").await.status, 200, "{number}");
        // The one that serves and its spare, beside the one with the patient stream.
        let wanted = if number < 20 { 2.0..=3.0 } else { 3.0..=3.0 };
        let there = async || {
            let now = gateway.metrics().await?.sum("gateway_plugin_instances", &[("plugin", "leaky")]);
            Ok(wanted.contains(&now).then_some(()))
        };
        eventually("the spare", there).await.unwrap();
    }
    gate.open();
    assert_eq!(patient.response().await.unwrap().text(), "late");
    gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "leaky")], 2.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_plugin_traps_total", &[]), 0.0);
    assert!(metrics.sum("gateway_plugin_memory_bytes", &[("plugin", "leaky")]) <= 8e6);
}

#[tokio::test]
async fn streams_that_wait_in_an_instance_that_dies_end_by_policy() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    for (spec, expected) in [("", (503, "")), (OPEN, (200, "hello"))] {
        let gateway = start(&upstream, spec).await;
        let mut waiting = Vec::new();
        for at in ["request_headers", "request_body", "response_headers", "response_body"] {
            let mut client = gateway.client().await.unwrap();
            let head =
                format!("POST / HTTP/1.1\r\nhost: a\r\nx-probe-bad: {at}=hang\r\ncontent-length: 5\r\n\r\nhello");
            client.send(head).await.unwrap();
            waiting.push((at, client));
        }
        gateway.metric_becomes("probe_open_streams", &[("plugin", "default.bad")], 4.0).await.unwrap();
        // One more stream, which kills the instance that all of them are in.
        let mut client = gateway.client().await.unwrap();
        assert_eq!(post(&mut client, "request_headers=trap").await.0, expected.0);
        for (at, mut client) in waiting {
            let response = client.response().await.unwrap();
            assert_eq!((response.status, response.text().as_str()), expected, "{at} {spec}");
            assert_eq!(get(&mut client, "/", "").await.status, 200, "{at} {spec}");
        }
        gateway.metric_becomes("gateway_plugin_traps_total", &[("plugin", "bad")], 1.0).await.unwrap();
        gateway.metric_becomes("gateway_plugin_failed_streams_total", &[("plugin", "bad")], 5.0).await.unwrap();
        gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 2.0).await.unwrap();
    }
}

#[tokio::test]
async fn a_timer_that_crashes_or_never_returns_is_a_crash_like_any_other() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, "").await;
    let mut client = gateway.client().await.unwrap();
    for how in ["tick-trap", "tick-loop"] {
        assert_eq!(post(&mut client, &format!("request_headers={how}")).await, (503, String::new()));
        assert_eq!(get(&mut client, "/", "").await.status, 200);
        gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 2.0).await.unwrap();
    }
    gateway.metric_becomes("gateway_plugin_traps_total", &[], 1.0).await.unwrap();
    gateway.metric_becomes("gateway_plugin_deadlines_total", &[], 1.0).await.unwrap();
}

#[tokio::test]
async fn a_plugin_that_crashes_when_a_stream_begins_fails_every_stream() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    for (spec, status) in [("", 503), (OPEN, 200)] {
        let plugins = probe("first", "", "priority: 2") + &probe("bad", "create=trap", spec);
        let gateway = Setup::new()
            .file("all.yaml", everything_to(&upstream))
            .file("plugins.yaml", plugins)
            .start()
            .await
            .unwrap();
        let mut client = gateway.client().await.unwrap();
        for _ in 0..5 {
            let response = get(&mut client, "/", "").await;
            assert_eq!((response.status, response.header_values("x-trace")), (status, vec!["first"]), "{spec}");
        }
        assert!(gateway.problems().is_empty(), "it starts, so its configuration is not at fault");
    }
}

#[tokio::test]
async fn many_crashes_in_a_row_never_turn_protection_off() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, "").await;
    let mut client = gateway.client().await.unwrap();
    for number in 0..200 {
        assert_eq!(post(&mut client, "request_headers=trap").await, (503, String::new()), "{number}");
    }
    assert!(upstream.requests().is_empty());
    gateway.metric_becomes("gateway_plugin_failed_streams_total", &[("plugin", "bad")], 200.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    let traps = metrics.sum("gateway_plugin_traps_total", &[("plugin", "bad")]);
    let none_left = metrics.sum("gateway_limit_exceeded_total", &[("limit", "plugin_instances")]);
    assert!(traps >= 2.0, "{traps}");
    assert!(traps + none_left >= 200.0, "each of them is explained: {traps} crashed, {none_left} found no instance");
    // It recovers by itself.
    let recovered = async || {
        let response = get(&mut client, "/", "").await;
        Ok((response.status == 200 && response.header_values("x-trace") == ["bad", "first"]).then_some(()))
    };
    eventually("the plugin to be back", recovered).await.unwrap();
    gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 2.0).await.unwrap();
}

#[tokio::test]
async fn an_edit_that_would_break_the_message_fails_the_stream_and_not_the_instance() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, "").await;
    let mut client = gateway.client().await.unwrap();
    for script in [
        "request_headers=set::path,no slash",
        "request_headers=set::authority,a b",
        "request_headers=set::method,G T",
        "response_headers=set::status,99",
    ] {
        assert_eq!(post(&mut client, script).await, (503, String::new()), "{script}");
    }
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_plugin_traps_total", &[]), 0.0);
    // What frames a message cannot be written at all.
    let script = "request_headers=set:content-length,1;request_headers=set:transfer-encoding,chunked;\
                  request_headers=set:connection,x-trace;response_headers=set:content-length,1";
    assert_eq!(post(&mut client, script).await, (200, "hello".to_owned()));
    let request = upstream.requests().pop().unwrap();
    assert_eq!((&*request.body, request.header("content-length")), (&b"hello"[..], Some("5")));
    assert_eq!(request.header_values("x-trace"), ["first", "bad"]);
}
