//! Plugins that call services: over HTTP and gRPC, with time-outs, limits, and services that are not there.

use super::get;
use gateway_tests::client::{RawClient, RawServer, unused_address};
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::grpc::EchoServer;
use gateway_tests::plugins::{module, wasm_plugin};
use gateway_tests::resources::{everything_to, service, service_at};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Gate, Upstream};

const CLUSTER: &str = "outbound|80||called.default.svc.cluster.local";

/// A gateway whose plugin may call `called`, at this address, as well as the service behind it.
async fn start(upstream: &Upstream, called: &str, spec: &str) -> TestGateway {
    let plugin = wasm_plugin("caller", &module("caller"), spec);
    let files = everything_to(upstream) + called + &plugin;
    Setup::new().workers(1).file("all.yaml", files).start().await.unwrap()
}

/// What the plugin heard for a call, as the service behind the gateway saw it.
async fn heard(client: &mut RawClient, upstream: &Upstream, call: &str) -> String {
    let before = upstream.requests().len();
    let response = get(client, "/p", &format!("x-call: {call}")).await;
    assert_eq!(response.status, 200, "{call}");
    let seen = upstream.received(before + 1).await.unwrap();
    seen.last().unwrap().header("x-answer").unwrap_or("nothing").to_owned()
}

#[tokio::test]
async fn http_calls_reach_services_by_every_name_they_have() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let called = Upstream::start(protocol).await.unwrap();
        called.answer_with(|request| Answer::new(201).header("x-a", "b").text(request.target.clone()));
        let gateway = start(&upstream, &service("called", &[&called]), "").await;
        let mut client = gateway.client().await.unwrap();
        for name in [
            CLUSTER,
            "called.default.svc.cluster.local",
            "called",
            "called:80",
            "http://called.default.svc.cluster.local:80",
        ] {
            let answer = heard(&mut client, &upstream, &format!("http {name} /x?y=1")).await;
            assert_eq!(answer, "201//x?y=1/0/true//p", "{protocol:?} {name}");
        }
        let seen = called.requests();
        assert_eq!(seen.len(), 5);
        assert_eq!(seen[0].header("host"), Some("called.example.com"));
        assert_eq!(seen[0].header("x-caller"), Some("yes"));
        let answer = heard(&mut client, &upstream, &format!("post {CLUSTER} /z hello")).await;
        assert_eq!(answer, "201//z/0/true//p");
        let last = called.received(6).await.unwrap().pop().unwrap();
        assert_eq!((&last.body[..], last.complete), (&b"hello"[..], true));
        assert_eq!(last.trailers.unwrap()["x-trailer"], "sent");
        let metrics = gateway.metrics().await.unwrap();
        assert_eq!(metrics.sum("gateway_plugin_calls_total", &[("plugin", "caller")]), 6.0);
        assert_eq!(metrics.sum("gateway_plugin_failed_calls_total", &[("plugin", "caller")]), 0.0);
    }
}

#[tokio::test]
async fn what_is_no_service_is_not_called() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let stranger = RawServer::start().await.unwrap();
    let gateway = start(&upstream, "", "").await;
    let mut client = gateway.client().await.unwrap();
    let address = stranger.address().unwrap();
    let admin = gateway.gateway().admin().admin;
    for name in [
        "nobody",
        CLUSTER,
        "169.254.169.254",
        "http://169.254.169.254/",
        "localhost",
        &address.to_string(),
        &format!("http://{address}"),
        &admin.to_string(),
    ] {
        assert_eq!(heard(&mut client, &upstream, &format!("http {name} /")).await, "BadArgument", "{name}");
        assert_eq!(heard(&mut client, &upstream, &format!("unary {name} Say 0802")).await, "ParseFailure", "{name}");
    }
    assert_eq!(heard(&mut client, &upstream, "incomplete upstream").await, "BadArgument");
}

#[tokio::test]
async fn services_that_fail_are_answered_as_envoy_answers() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gone = unused_address().unwrap();
    let called = Upstream::start(Protocol::Http1).await.unwrap();
    // Its own service, because nobody knows whether a call that is given up so soon reaches it.
    let silent = Upstream::start(Protocol::Http1).await.unwrap();
    let never = Gate::shut();
    silent.answer_with({
        let never = never.clone();
        move |_| Answer::new(200).after(&never)
    });
    let files = service("called", &[&called])
        + &service("silent", &[&silent])
        + &service_at("gone", "HTTP", &[gone])
        + &service_at("empty", "HTTP", &[]);
    let gateway = start(&upstream, &files, "").await;
    let mut client = gateway.client().await.unwrap();
    let reset = "503/upstream_connect_error_or_disconnect/reset_before_headers._reset_reason:_";
    let answer = heard(&mut client, &upstream, "http gone /").await;
    assert_eq!(answer, format!("{reset}remote_connection_failure/0/true//p"));
    let answer = heard(&mut client, &upstream, "http empty /").await;
    assert_eq!(answer, "503/no_healthy_upstream/0/true//p");
    called.answer_next(Answer::hang_up());
    let answer = heard(&mut client, &upstream, "http called /").await;
    assert_eq!(answer, format!("{reset}connection_termination/0/true//p"));
    let answer = heard(&mut client, &upstream, "http silent / 50").await;
    assert_eq!(answer, "504/upstream_request_timeout/0/true//p");
    // An answer that breaks off is none.
    let (answer, responding) = Answer::streamed(200);
    called.answer_next(answer);
    let breaks_off = async {
        responding.send("some").await.unwrap();
        responding.abort().await.unwrap();
    };
    let (answer, ()) = tokio::join!(heard(&mut client, &upstream, "http called /"), breaks_off);
    assert_eq!(answer, "//0/true//p");
    // So is one that is longer than the plugin may hold.
    called.answer_next(Answer::new(200).text("x".repeat((1 << 20) + 1)));
    assert_eq!(heard(&mut client, &upstream, "http called /").await, "//0/true//p");
    gateway.metric_becomes("gateway_plugin_failed_calls_total", &[("plugin", "caller")], 6.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_limit_exceeded_total", &[("limit", "plugin_body_bytes")]), 1.0);
}

#[tokio::test]
async fn an_answer_may_become_the_reply_and_a_trap_fails_only_its_stream() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let called = Upstream::start(Protocol::Http1).await.unwrap();
    called.answer_with(|_| Answer::new(200).text("ok"));
    let gateway = start(&upstream, &service("called", &[&called]), "").await;
    let mut client = gateway.client().await.unwrap();
    let reply = get(&mut client, "/", &format!("x-call: http {CLUSTER} /\r\nx-then: reply")).await;
    assert_eq!((reply.status, reply.header("x-answer")), (418, Some("200/ok/0/true//")));
    let failed = get(&mut client, "/", &format!("x-call: http {CLUSTER} /\r\nx-then: trap")).await;
    assert_eq!((failed.status, failed.text().as_str()), (503, ""));
    let answer = heard(&mut client, &upstream, &format!("http {CLUSTER} /")).await;
    assert_eq!(answer, "200/ok/0/true//p", "a fresh instance");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn calls_at_once_are_limited_for_a_stream() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let called = Upstream::start(Protocol::Http1).await.unwrap();
    called.answer_with(|_| Answer::new(200).text("ok"));
    let gateway = start(&upstream, &service("called", &[&called]), "").await;
    let mut client = gateway.client().await.unwrap();
    let answers = |refused| format!("refused/{refused}{}", " 200/ok/0/true//p".repeat(16));
    assert_eq!(heard(&mut client, &upstream, "many called / 1000").await, answers(984));
    assert_eq!(called.requests().len(), 16);
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_limit_exceeded_total", &[("limit", "plugin_calls")]), 984.0);
    // What has ended does not count.
    assert_eq!(heard(&mut client, &upstream, "many called / 16").await, answers(0));
}

#[tokio::test]
async fn the_client_may_leave_while_a_call_is_going() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let called = Upstream::start(Protocol::Http1).await.unwrap();
    let gate = Gate::shut();
    called.answer_next(Answer::new(200).text("late").after(&gate));
    let gateway = start(&upstream, &service("called", &[&called]), "").await;
    let mut client = gateway.client().await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-call: http {CLUSTER} /\r\n\r\n")).await.unwrap();
    called.begun(1).await.unwrap();
    client.reset().unwrap();
    gateway.metric_becomes("envoy_http_downstream_cx_active", &[], 0.0).await.unwrap();
    gate.open();
    // The answer comes to an instance that does not know the stream any more, and hurts nobody.
    let mut client = gateway.client().await.unwrap();
    called.answer_next(Answer::new(200).text("next"));
    assert_eq!(heard(&mut client, &upstream, &format!("http {CLUSTER} /")).await, "200/next/0/true//p");
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_plugin_traps_total", &[("plugin", "caller")]), 0.0);
}

#[tokio::test]
async fn a_plugin_may_call_while_it_is_configured() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let called = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway =
        start(&upstream, &service("called", &[&called]), &format!("pluginConfig: {{upstream: '{CLUSTER}'}}")).await;
    // The instance that serves; the spare calls when it is needed.
    let seen = called.received(1).await.unwrap();
    assert_eq!(seen[0].target, "/configured");
    drop(gateway);
}

#[tokio::test]
async fn unary_grpc_calls_have_a_message_or_a_status() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let called = EchoServer::start().await.unwrap();
    let files = service_at("called", "GRPC", &[called.address()]);
    let gateway = start(&upstream, &files, "").await;
    let mut client = gateway.client().await.unwrap();
    let say = |value: &str| format!("unary {CLUSTER} Say {value}");
    assert_eq!(heard(&mut client, &upstream, &say("0802")).await, "unary/0/0802/");
    let metadata = called.calls(1).await.unwrap();
    assert_eq!(metadata[0].get("x-meta").unwrap(), "data");
    // Number { value: -5 } is answered NOT_FOUND.
    let minus_five = "08fbffffffffffffffff01";
    assert_eq!(heard(&mut client, &upstream, &say(minus_five)).await, "unary/5//as%20told:%20%C3%BC%25");
    let nowhere = heard(&mut client, &upstream, &format!("unary {CLUSTER} Nowhere 0802")).await;
    assert!(nowhere.starts_with("unary/12//"), "{nowhere}");
    let late = heard(&mut client, &upstream, &format!("unary {CLUSTER} Wait 0802")).await;
    assert_eq!(late, "unary/14//upstream_request_timeout");
    called.abandoned(1).await.unwrap();
}

#[tokio::test]
async fn grpc_streams_report_everything_in_order() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let called = EchoServer::start().await.unwrap();
    let files = service_at("called", "GRPC", &[called.address()]) + &service_at("empty", "GRPC", &[]);
    let gateway = start(&upstream, &files, "").await;
    let mut client = gateway.client().await.unwrap();
    let answer = heard(&mut client, &upstream, &format!("stream {CLUSTER} Chat 0802 0803 0804")).await;
    assert_eq!(answer, "initial/application/grpc message/0804 message/0806 message/0808 trailing/0 close/0");
    // Two messages, then DATA_LOSS.
    let answer = heard(&mut client, &upstream, &format!("stream {CLUSTER} Count 0802120161")).await;
    assert_eq!(answer, "initial/application/grpc message/0801 message/0802 trailing/15 close/15");
    assert_eq!(heard(&mut client, &upstream, "stream empty Chat 0802").await, "initial/ trailing/ close/14");
    assert_eq!(heard(&mut client, &upstream, &format!("cancel {CLUSTER} Chat")).await, "cancelled");
}
