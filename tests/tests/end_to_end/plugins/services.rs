//! What plugins share and are told beside streams, with a plugin on the SDK (tests/plugins/observer), and trailers in all
//! combinations of protocols.

use super::get;
use gateway_tests::body::Outgoing;
use gateway_tests::client::RawClient;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{module, wasm_plugin};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};
use http::{HeaderMap, HeaderName, HeaderValue, Request};

fn observer(name: &str, configuration: &str) -> String {
    wasm_plugin(name, &module("observer"), &format!("pluginConfig: {{{configuration}}}"))
}

async fn start(upstream: &Upstream, workers: usize, plugins: &str) -> TestGateway {
    let setup = Setup::new().workers(workers).file("all.yaml", everything_to(upstream)).file("plugins.yaml", plugins);
    setup.start().await.unwrap()
}

/// Connections until every worker has at least one: each worker has a socket of its own, and the kernel chooses.
async fn clients(gateway: &TestGateway) -> Vec<RawClient> {
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(gateway.client().await.unwrap());
    }
    clients
}

#[tokio::test]
async fn a_shared_value_loses_no_change_whoever_makes_it() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    // Two plugins in two workers: the first one answers; both have the same (empty) `vm_id`.
    let gateway = start(&upstream, 2, &observer("a", "")).await;
    let mut adding = tokio::task::JoinSet::new();
    for mut client in clients(&gateway).await {
        adding.spawn(async move {
            for _ in 0..50 {
                assert_eq!(get(&mut client, "/add/n", "").await.status, 200);
            }
        });
    }
    while let Some(added) = adding.join_next().await {
        added.unwrap();
    }
    let mut client = gateway.client().await.unwrap();
    assert_eq!(get(&mut client, "/add/n", "").await.text(), (16 * 50 + 1).to_string());
    // Another plugin goes on where the first one was.
    gateway
        .write("plugins.yaml", &(observer("a", "") + &observer("b", "").replace("spec:", "spec:\n  priority: 9")))
        .await
        .unwrap();
    assert_eq!(get(&mut client, "/add/n", "").await.text(), (16 * 50 + 2).to_string());
}

#[tokio::test]
async fn a_queue_keeps_the_order_across_workers_and_tells_one_instance_of_each_item() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, 2, &observer("a", "")).await;
    let mut clients = clients(&gateway).await;
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(get(client, &format!("/push/{number}"), "").await.status, 200);
    }
    gateway.metric_becomes("observer_told_total", &[("plugin", "default.a")], 16.0).await.unwrap();
    for (number, client) in clients.iter_mut().rev().enumerate() {
        assert_eq!(get(client, "/pop", "").await.text(), number.to_string());
    }
    assert_eq!(get(&mut clients[0], "/pop", "").await.text(), "nothing");
    let calls = gateway.metrics().await.unwrap();
    let labels = [("callback", "queue_ready"), ("plugin", "a")];
    assert_eq!(calls.sum("gateway_plugin_callback_duration_seconds_count", &labels), 16.0);
}

#[tokio::test]
async fn ticks_change_their_period_and_stop_on_every_worker() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    // The second one ticks long enough to see that the first has stopped.
    let plugins = observer("a", "firstTick: 10, laterTicks: 20, ticks: 4")
        + &observer("b", "firstTick: 30, laterTicks: 10, ticks: 30");
    let gateway = start(&upstream, 2, &plugins).await;
    gateway.metric_becomes("observer_ticks_total", &[("plugin", "default.b")], 60.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("observer_ticks_total", &[("plugin", "default.a")]), 8.0);
    let calls = metrics.sum("gateway_plugin_callback_duration_seconds_count", &[("callback", "tick"), ("plugin", "a")]);
    assert_eq!(calls, 8.0);
}

#[tokio::test]
async fn both_messages_can_be_read_when_the_stream_is_over() {
    let upstream = Upstream::start(Protocol::Http2).await.unwrap();
    let gateway = start(&upstream, 1, &observer("a", "")).await;
    let mut h2 = gateway.h2_client().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    upstream.answer_next(Answer::new(207).header("x-from", "there").text("body"));
    let request = Request::post("http://a/seen").header("x-who", "me").body(Outgoing::full("body")).unwrap();
    assert_eq!(h2.fetch(request).await.unwrap().status, 207);
    gateway.metric_becomes("observer_told_total", &[], 1.0).await.unwrap();
    assert_eq!(get(&mut client, "/pop", "").await.text(), "/seen me added 207 there added");
    // The gateway's own answer, too.
    drop(upstream);
    assert_eq!(get(&mut client, "/seen", "x-who: you").await.status, 503);
    gateway.metric_becomes("observer_told_total", &[], 2.0).await.unwrap();
    let line = get(&mut client, "/pop", "").await.text();
    assert!(line.starts_with("/seen you - 503 -"), "{line}");
}

/// What heads announce, because HTTP/1 carries no other trailers.
const NAMES: &str = "x-end, x-other, x-secret";

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let field =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    pairs.iter().map(field).collect()
}

#[tokio::test]
async fn trailers_are_added_and_changed_in_every_combination_of_protocols() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Upstream::start(protocol).await.unwrap();
        let gateway = start(&upstream, 1, &observer("a", "")).await;
        let answer = |trailers: &[(&'static str, &'static str)]| {
            Answer::new(200).header("trailer", NAMES).body(Outgoing::chunks(["po", "ng"], fields(trailers)))
        };
        let mut h2 = gateway.h2_client().await.unwrap();
        let mut h1 = gateway.client().await.unwrap();
        let given = [("x-end", "given"), ("x-secret", "s"), ("x-other", "o")];
        let mut count = 0;
        for (sent, expected) in [(&given[..], vec!["given", "changed"]), (&[], vec!["added"])] {
            // HTTP/2.
            upstream.answer_next(answer(sent));
            let request = Request::post("http://a/")
                .header("te", "trailers")
                .header("trailer", NAMES)
                .body(Outgoing::chunks(["pi", "ng"], fields(sent)));
            let response = h2.fetch(request.unwrap()).await.unwrap();
            let case = format!("HTTP/2 to {protocol:?}, {sent:?}");
            assert_eq!(response.body, "pong", "{case}");
            let trailers = response.trailers.unwrap();
            assert_eq!(trailers.get_all("x-end").iter().collect::<Vec<_>>(), expected, "{case}");
            assert_eq!(
                (trailers.get("x-secret"), trailers.contains_key("x-other")),
                (None, !sent.is_empty()),
                "{case}"
            );

            // HTTP/1.1.
            upstream.answer_next(answer(sent));
            let lines: String = sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!(
                "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntrailer: {NAMES}\r\ntransfer-encoding: chunked\r\n\r\n"
            );
            h1.send(format!("{head}4\r\nping\r\n0\r\n{lines}\r\n")).await.unwrap();
            let response = h1.response().await.unwrap();
            let case = format!("HTTP/1.1 to {protocol:?}, {sent:?}");
            assert_eq!(response.text(), "pong", "{case}");
            let seen: Vec<_> =
                response.trailers.iter().filter(|(name, _)| name == "x-end").map(|(_, value)| value).collect();
            assert_eq!(seen, expected, "{case}");
            count += 2;
            for request in upstream.received(count).await.unwrap().split_off(count - 2) {
                assert_eq!((&request.body[..], request.complete), (&b"ping"[..], true), "{case}");
                let trailers = request.trailers.unwrap_or_default();
                assert_eq!(trailers.get_all("x-end").iter().collect::<Vec<_>>(), expected, "{case} at the upstream");
                assert_eq!(
                    (trailers.get("x-secret"), trailers.contains_key("x-other")),
                    (None, !sent.is_empty()),
                    "{case}"
                );
            }
        }
    }
}
