//! Plugins that answer themselves.

use super::get;
use gateway_tests::body::Outgoing;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::probe;
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};
use http::{HeaderMap, Request};

async fn start(upstream: &Upstream) -> TestGateway {
    let plugins = ["a", "b", "c"].map(|name| probe(name, "", "")).concat();
    Setup::new().file("all.yaml", everything_to(upstream)).file("plugins.yaml", plugins).start().await.unwrap()
}

#[tokio::test]
async fn every_callback_can_answer() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::echo());
    let gateway = start(&upstream).await;
    let mut client = gateway.client().await.unwrap();
    // Whether the upstream is asked, and who sees the answer on its way back: all, if the upstream had not answered;
    // nobody else, if it had.
    for (at, asked, seen) in [
        ("request_headers", false, vec!["c", "b", "a"]),
        ("request_body", false, vec!["c", "b", "a"]),
        ("response_headers", true, vec![]),
        ("response_body", true, vec![]),
    ] {
        let before = upstream.requests().len();
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nx-probe-b: {at}=reply:429\r\ncontent-length: 5\r\n\r\nhello");
        client.send(head).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text()), (429, format!("b at {at}")));
        assert_eq!(response.header("content-type"), Some("text/plain"), "{at}");
        assert_eq!(response.header_values("x-reply"), [at]);
        assert_eq!(response.header_values("x-trace"), seen, "{at}");
        assert_eq!(response.header("server"), Some("istio-envoy"));
        assert_eq!(upstream.requests().len() - before, usize::from(asked), "{at}");
    }
    // A tick can, for a stream that is paused.
    for at in ["request_headers", "response_headers"] {
        let response = get(&mut client, "/", &format!("x-probe-b: {at}=tick-reply:403")).await;
        assert_eq!((response.status, response.text().as_str()), (403, "tick"), "{at}");
    }
    // An answer on the way back replaces another one.
    let response = get(
        &mut client,
        "/",
        "x-probe-c: request_headers=reply:401\r\nx-probe-a: response_headers=reply:402;response_headers=set:x-a,1",
    )
    .await;
    assert_eq!((response.status, response.text().as_str()), (402, "a at response_headers"));
    gateway.metric_becomes("gateway_plugin_local_responses_total", &[("plugin", "b")], 6.0).await.unwrap();
    gateway.metric_becomes("probe_open_streams", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn trailers_callbacks_can_answer_while_there_is_no_other_answer() {
    let upstream = Upstream::start(Protocol::Http2).await.unwrap();
    let gateway = start(&upstream).await;
    let mut client = gateway.h2_client().await.unwrap();
    let trailers: HeaderMap =
        [("x-end".parse::<http::HeaderName>().unwrap(), "1".parse().unwrap())].into_iter().collect();
    let request = Request::post("http://a/").header("x-probe-b", "request_body=whole;request_trailers=reply:429");
    let body = Outgoing::chunks(["hello"], trailers.clone());
    let response = client.fetch(request.body(body).unwrap()).await.unwrap();
    assert_eq!((response.status.as_u16(), &*response.body), (429, &b"b at request_trailers"[..]));

    // Here it is too late: the response has begun, and must not look like a complete one.
    upstream.answer_with(move |_| Answer::new(200).body(Outgoing::chunks(["hello", "world"], trailers.clone())));
    let request = Request::get("http://a/").header("x-probe-b", "response_trailers=reply:429");
    // (The reset may overtake the head.)
    let broken = client.fetch(request.body(Outgoing::empty()).unwrap()).await;
    assert!(broken.is_err(), "{broken:?}");
    assert_eq!(client.get("a", "/").await.unwrap().body, "helloworld", "the connection lives");
}

#[tokio::test]
async fn grpc_clients_get_an_answer_they_understand() {
    let upstream = Upstream::start(Protocol::Http2).await.unwrap();
    let gateway = start(&upstream).await;
    let mut client = gateway.h2_client().await.unwrap();
    for (script, status, message) in [
        ("request_headers=reply:403", "7", "b at request_headers"),
        ("request_headers=grpc-reply:not for you", "7", "not for you"),
        ("response_headers=reply:503", "14", "b at response_headers"),
        ("request_headers=trap", "14", ""),
    ] {
        let request = Request::post("http://a/service/Method").header("content-type", "application/grpc");
        let request = request.header("x-probe-b", script).header("te", "trailers").body(Outgoing::full("x")).unwrap();
        let response = client.fetch(request).await.unwrap();
        assert_eq!(response.status, 200, "{script}");
        assert_eq!(response.headers["content-type"], "application/grpc", "{script}");
        assert_eq!(response.headers["grpc-status"], status, "{script}");
        let told = response.headers.get("grpc-message").map_or("", |message| message.to_str().unwrap());
        assert_eq!(told, message, "{script}");
        assert!(response.body.is_empty());
    }
}

#[tokio::test]
async fn a_reset_ends_the_stream_without_an_answer() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::new(200).text("hello"));
    let gateway = start(&upstream).await;
    let mut h2 = gateway.h2_client().await.unwrap();
    for at in ["request_headers", "response_headers", "response_body"] {
        let mut client = gateway.client().await.unwrap();
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-probe-b: {at}=reset\r\n\r\n")).await.unwrap();
        client.closed().await.unwrap();
        let request = Request::get("http://a/").header("x-probe-b", format!("{at}=reset"));
        assert!(h2.send(request.body(Outgoing::empty()).unwrap()).await.is_err(), "{at}");
        assert_eq!(h2.get("a", "/").await.unwrap().body, "hello", "the connection lives");
    }
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}
