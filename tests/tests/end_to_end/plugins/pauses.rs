//! Plugins that hold a stream up and let it go, or do not.

use super::get;
use gateway_tests::body::Outgoing;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::probe;
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Gate, Upstream};
use gateway_tests::within;
use http::Request;
use std::time::Duration;

async fn start(upstream: &Upstream) -> TestGateway {
    let plugins = probe("a", "", "priority: 2") + &probe("b", "", "priority: 1");
    Setup::new().file("all.yaml", everything_to(upstream)).file("plugins.yaml", plugins).start().await.unwrap()
}

/// Every callback in which a stream can be paused.
const EVERYWHERE: [&str; 4] = ["request_headers", "request_body", "response_headers", "response_body"];

#[tokio::test]
async fn a_stream_goes_on_where_it_was_paused() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Upstream::start(protocol).await.unwrap();
        upstream.answer_with(|_| Answer::echo());
        let gateway = start(&upstream).await;
        let mut client = gateway.client().await.unwrap();
        let mut h2 = gateway.h2_client().await.unwrap();
        let everywhere = |action: &str| EVERYWHERE.map(|at| format!("{at}={action};")).concat();
        let scripts = EVERYWHERE.map(|at| format!("{at}=pause")).into_iter().chain([everywhere("pause")]);
        for script in scripts {
            // One of the plugins, and both at the same time.
            for headers in [
                format!("x-probe-a: {script}"),
                format!("x-probe-b: {script}"),
                format!("x-probe-a: {script}\r\nx-probe-b: {script}"),
            ] {
                let post = format!("POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\ncontent-length: 5\r\n\r\nhello");
                client.send(post).await.unwrap();
                let response = client.response().await.unwrap();
                assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{protocol:?} {headers}");
            }
            let request = Request::post("http://a/").header("x-probe-a", &script).header("x-probe-b", &script);
            let body = Outgoing::chunks(["hel", "lo"], http::HeaderMap::new());
            let response = h2.fetch(request.body(body).unwrap()).await.unwrap();
            assert_eq!((response.status.as_u16(), &*response.body), (200, &b"hello"[..]), "{protocol:?} {script}");
        }
        gateway.metric_becomes("probe_open_streams", &[], 0.0).await.unwrap();
    }
}

#[tokio::test]
async fn many_streams_wait_at_the_same_time() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|request| Answer::new(200).text(request.target.clone()));
    let gateway = start(&upstream).await;
    let mut requests = tokio::task::JoinSet::new();
    let client = gateway.h2_client().await.unwrap();
    for number in 0..50 {
        let mut client = client.clone();
        requests.spawn(async move {
            let script = ["request_headers=pause", "response_headers=pause;response_body=pause"][number % 2];
            let request = Request::get(format!("http://a/{number}")).header("x-probe-a", script);
            let response = client.fetch(request.body(Outgoing::empty()).unwrap()).await.unwrap();
            assert_eq!((response.status.as_u16(), &*response.body), (200, format!("/{number}").as_bytes()));
        });
    }
    while let Some(request) = requests.join_next().await {
        request.unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_a_paused_request_body_disturbs_nothing() {
    let upstream = Upstream::start(Protocol::Http2).await.unwrap();
    let gateway = start(&upstream).await;
    let mut client = gateway.h2_client().await.unwrap();
    let (answer, responding) = Answer::streamed(200);
    upstream.answer_next(answer.early());
    // The request's body waits in `a`, while both halves of the exchange pass `b`.
    let request = Request::post("http://a/").header("x-probe-a", "request_body=pause;response_body=pause");
    let (sending, body) = Outgoing::channel();
    let response = client.send(request.body(body).unwrap()).await.unwrap();
    sending.send("ping").await.unwrap();
    responding.send("pong").await.unwrap();
    drop(sending);
    drop(responding);
    use http_body_util::BodyExt;
    let body = within("the response", response.into_body().collect()).await.unwrap().unwrap();
    assert_eq!(body.to_bytes(), "pong");
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((&*request.body, request.complete), (&b"ping"[..], true));
}

#[tokio::test]
async fn a_client_that_leaves_while_its_stream_is_paused_leaves_nothing_behind() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::echo());
    let gateway = start(&upstream).await;
    for at in EVERYWHERE {
        let mut client = gateway.client().await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nx-probe-b: {at}=hang\r\ncontent-length: 5\r\n\r\nhello");
        client.send(head).await.unwrap();
        gateway.metric_becomes("gateway_requests_in_flight", &[], 1.0).await.unwrap();
        gateway.metric_becomes("probe_open_streams", &[("plugin", "default.b")], 1.0).await.unwrap();
        drop(client);
        gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
        gateway.metric_becomes("probe_open_streams", &[], 0.0).await.unwrap();

        let mut client = gateway.h2_client().await.unwrap();
        let request = Request::post("http://a/").header("x-probe-b", format!("{at}=hang"));
        let sent = tokio::spawn(async move { client.send(request.body(Outgoing::full("hello")).unwrap()).await });
        gateway.metric_becomes("probe_open_streams", &[("plugin", "default.b")], 1.0).await.unwrap();
        sent.abort();
        let _ = sent.await;
        gateway.metric_becomes("probe_open_streams", &[], 0.0).await.unwrap();
    }
    gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_while_its_trailers_are_held_leaves_nothing_behind() {
    let upstream = Upstream::start(Protocol::Http2).await.unwrap();
    let gateway = start(&upstream).await;
    let trailers = || -> http::HeaderMap {
        [(http::HeaderName::from_static("x-end"), http::HeaderValue::from_static("1"))].into_iter().collect()
    };
    for script in ["request_trailers=hang", "response_trailers=hang", "response_body=whole;response_trailers=hang"] {
        upstream.answer_next(Answer::new(200).body(Outgoing::chunks(["hello"], trailers())));
        let mut client = gateway.h2_client().await.unwrap();
        let request = Request::post("http://a/").header("x-probe-b", script);
        let body = Outgoing::chunks(["hello"], trailers());
        let sent = tokio::spawn(async move { client.fetch(request.body(body).unwrap()).await });
        let callback = script.rsplit(';').next().unwrap().trim_end_matches("=hang");
        let labels = [("callback", callback), ("plugin", "b")];
        let before = |name: &str| name == "response_trailers" && script.contains("whole");
        let calls = if before(callback) { 2.0 } else { 1.0 };
        gateway.metric_becomes("gateway_plugin_callback_duration_seconds_count", &labels, calls).await.unwrap();
        sent.abort();
        let _ = sent.await;
        gateway.metric_becomes("probe_open_streams", &[], 0.0).await.unwrap();
        gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    }
    // Each of them was logged by both plugins.
    gateway.metric_becomes("probe_logged_streams", &[("plugin", "default.a")], 3.0).await.unwrap();
    gateway.metric_becomes("probe_logged_streams", &[("plugin", "default.b")], 3.0).await.unwrap();
}

#[tokio::test]
async fn what_was_held_for_clients_that_left_is_given_back() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream).await;
    let body = vec![b'x'; 1 << 20];
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\nx-probe-b: request_body=whole\r\ncontent-length: {}\r\n\r\n",
        body.len() + 1
    );
    // More than a worker may hold for all of its streams together, one after the other.
    for count in 1..=70 {
        let mut client = gateway.client().await.unwrap();
        client.send(&head).await.unwrap();
        client.send(&body).await.unwrap();
        gateway.metric_becomes("probe_open_streams", &[("plugin", "default.b")], 1.0).await.unwrap();
        drop(client);
        gateway.metric_becomes("probe_logged_streams", &[("plugin", "default.b")], f64::from(count)).await.unwrap();
    }
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_limit_exceeded_total", &[("limit", "plugin_worker_bytes")]), 0.0);
    assert_eq!(metrics.sum("probe_open_streams", &[]), 0.0);
    // The memory of the instances has not grown with them.
    assert!(metrics.sum("gateway_plugin_memory_bytes", &[]) < 32e6);
    let mut client = gateway.client().await.unwrap();
    client.send([head.as_bytes(), &body, b"x"].concat()).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn a_pause_ends_some_time_by_fail_strategy() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::echo());
    for (spec, status) in [("failStrategy: FAIL_CLOSE", 503), ("failStrategy: FAIL_OPEN", 200)] {
        let gateway = Setup::new()
            .file("all.yaml", everything_to(&upstream))
            .file("plugins.yaml", probe("a", "", "priority: 2") + &probe("b", "", spec))
            .options(|options| options.limits.running.pause = Duration::from_millis(100))
            .start()
            .await
            .unwrap();
        let mut client = gateway.client().await.unwrap();
        for (count, at) in EVERYWHERE.into_iter().enumerate() {
            let post = format!("POST / HTTP/1.1\r\nhost: a\r\nx-probe-b: {at}=hang\r\ncontent-length: 5\r\n\r\nhello");
            client.send(post).await.unwrap();
            let response = client.response().await.unwrap();
            let body = if status == 200 { "hello" } else { "" };
            assert_eq!((response.status, response.text().as_str()), (status, body), "{at} {spec}");
            let counted = (count + 1) as f64;
            gateway
                .metric_becomes("gateway_limit_exceeded_total", &[("limit", "plugin_pause_time")], counted)
                .await
                .unwrap();
        }
        gateway.metric_becomes("gateway_plugin_failed_streams_total", &[("plugin", "b")], 4.0).await.unwrap();
        gateway.metric_becomes("gateway_plugin_failed_streams_total", &[("plugin", "a")], 0.0).await.unwrap();
        // The instance is as good as before.
        assert_eq!(get(&mut client, "/", "").await.status, 200);
        assert_eq!(gateway.metrics().await.unwrap().sum("gateway_plugin_traps_total", &[]), 0.0);
    }
}

#[tokio::test]
async fn a_stream_that_is_paused_when_its_plugin_is_replaced_goes_on() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate).text("hello"));
    let gateway = start(&upstream).await;
    let mut client = gateway.client().await.unwrap();
    client
        .send("GET / HTTP/1.1\r\nhost: a\r\nx-probe-b: response_body=upper;response_headers=pause\r\n\r\n")
        .await
        .unwrap();
    upstream.received(1).await.unwrap();
    gateway.write("plugins.yaml", &probe("c", "", "")).await.unwrap();
    gate.open();
    let response = client.response().await.unwrap();
    assert_eq!((response.text().as_str(), response.header_values("x-trace")), ("HELLO", vec!["b", "a"]));
    assert_eq!(get(&mut client, "/", "").await.header_values("x-trace"), ["c"]);
    // What is not used any more goes.
    gateway.metric_becomes("gateway_plugin_instances", &[], 2.0).await.unwrap();
}
