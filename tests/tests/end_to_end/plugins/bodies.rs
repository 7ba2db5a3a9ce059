//! Plugins that look at bodies and change them.

use gateway_tests::body::Outgoing;
use gateway_tests::client::{H2Client, RawResponse};
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{probe, wasm_plugin};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Received, Upstream};
use http::{HeaderMap, HeaderValue, Request};

const MIB: usize = 1 << 20;

async fn start(upstream: &Upstream) -> TestGateway {
    Setup::new()
        .file("all.yaml", everything_to(upstream))
        .file("plugin.yaml", probe("p", "", ""))
        .start()
        .await
        .unwrap()
}

/// How a client says how long its body is.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunks,
}

async fn post(gateway: &TestGateway, script: &str, framing: Framing, body: &str) -> RawResponse {
    let mut client = gateway.client().await.unwrap();
    let head = format!("POST /sample HTTP/1.1\r\nhost: test.example.dev\r\nx-probe-p: {script}\r\n");
    let message = match framing {
        Framing::Length => format!("{head}content-length: {}\r\n\r\n{body}", body.len()),
        Framing::Chunks => {
            let (one, two) = body.split_at(body.len() / 2);
            let chunk =
                |text: &str| if text.is_empty() { String::new() } else { format!("{:x}\r\n{text}\r\n", text.len()) };
            format!("{head}transfer-encoding: chunked\r\n\r\n{}{}0\r\n\r\n", chunk(one), chunk(two))
        }
    };
    client.send(message).await.unwrap();
    client.response().await.unwrap()
}

async fn post_h2(client: &mut H2Client, script: &str, body: Outgoing) -> gateway_tests::client::H2Response {
    let request = Request::post("http://test.example.dev/sample").header("x-probe-p", script).body(body).unwrap();
    client.fetch(request).await.unwrap()
}

/// Whether the length that a message declares, if it declares one, is that of its body.
fn declared(request: &Received) -> bool {
    request.header("content-length").is_none_or(|length| length == request.body.len().to_string())
}

/// What becomes of `hello world` under these actions, for both messages.
const EDITS: [(&str, &str); 6] = [
    ("@=whole;@=replace:changed", "changed"),
    ("@=whole;@=append:!!!", "hello world!!!"),
    ("@=append-at-end: and-more", "hello world and-more"),
    ("@=whole;@=prepend:oh-", "oh-hello world"),
    ("@=upper", "HELLO WORLD"),
    ("@=whole;@=replace:", ""),
];

#[tokio::test]
async fn request_bodies_are_what_the_plugin_makes_of_them() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Upstream::start(protocol).await.unwrap();
        let gateway = start(&upstream).await;
        let mut h2 = gateway.h2_client().await.unwrap();
        let mut count = 0;
        for (script, expected) in EDITS {
            let script = script.replace('@', "request_body");
            for framing in [Framing::Length, Framing::Chunks] {
                let case = format!("{protocol:?} {script} {framing:?}");
                assert_eq!(post(&gateway, &script, framing, "hello world").await.status, 200, "{case}");
                count += 1;
                let request = upstream.received(count).await.unwrap().pop().unwrap();
                assert_eq!(request.body, expected, "{case}");
                assert!(request.complete && declared(&request), "{case}: {:?}", request.headers);

                let body = match framing {
                    Framing::Length => Outgoing::full("hello world"),
                    Framing::Chunks => Outgoing::chunks(["hello ", "world"], HeaderMap::new()),
                };
                assert_eq!(post_h2(&mut h2, &script, body).await.status, 200, "{case}");
                count += 1;
                let request = upstream.received(count).await.unwrap().pop().unwrap();
                assert_eq!(request.body, expected, "HTTP/2 {case}");
                assert!(request.complete && declared(&request), "HTTP/2 {case}: {:?}", request.headers);
            }
        }
    }
}

#[tokio::test]
async fn response_bodies_are_what_the_plugin_makes_of_them() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Upstream::start(protocol).await.unwrap();
        let gateway = start(&upstream).await;
        let mut h2 = gateway.h2_client().await.unwrap();
        for (script, expected) in EDITS {
            let script = script.replace('@', "response_body");
            for framing in [Framing::Length, Framing::Chunks] {
                let case = format!("{protocol:?} {script} {framing:?}");
                let answer = || match framing {
                    Framing::Length => Answer::new(200).text("hello world"),
                    Framing::Chunks => Answer::new(200).body(Outgoing::chunks(["hello ", "world"], HeaderMap::new())),
                };
                upstream.answer_next(answer());
                let response = post(&gateway, &script, framing, "x").await;
                assert_eq!((response.status, response.text().as_str()), (200, expected), "{case}");
                upstream.answer_next(answer());
                let response = post_h2(&mut h2, &script, Outgoing::empty()).await;
                assert_eq!((response.status.as_u16(), &*response.body), (200, expected.as_bytes()), "HTTP/2 {case}");
                if let Some(length) = response.headers.get("content-length") {
                    assert_eq!(*length, expected.len().to_string(), "HTTP/2 {case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_plugin_that_waits_for_the_whole_body_costs_no_chunks() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream).await;
    upstream.answer_next(Answer::new(200).text("hello world"));
    let script = "request_body=whole;request_body=append:!;response_body=whole;response_body=append:?";
    let response = post(&gateway, script, Framing::Length, "hello world").await;
    assert_eq!((response.text().as_str(), response.header("content-length")), ("hello world?", Some("12")));
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((request.header("content-length"), request.header("transfer-encoding")), (Some("12"), None));
}

#[tokio::test]
async fn what_has_no_body_keeps_its_head() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream).await;
    let mut client = gateway.client().await.unwrap();
    let script = "request_body=append:x;response_body=append:x";
    upstream.answer_next(Answer::new(200).text("hello"));
    client.send(format!("HEAD / HTTP/1.1\r\nhost: a\r\nx-probe-p: {script}\r\n\r\n")).await.unwrap();
    let head = client.head().await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    for status in [204, 304] {
        upstream.answer_next(Answer::new(status));
        let response = super::get(&mut client, "/", &format!("x-probe-p: {script}")).await;
        assert_eq!((response.status, response.header("x-trace")), (status, Some("p")));
        assert_eq!((response.header("content-length"), response.header("transfer-encoding")), (None, None));
    }
    for request in upstream.received(3).await.unwrap() {
        assert!(request.body.is_empty());
    }
}

#[tokio::test]
async fn large_bodies_stream_through_a_plugin_that_changes_them() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::echo());
    let gateway = start(&upstream).await;
    let body = "abcdefgh".repeat(MIB);
    let script = "request_body=upper;response_body=append-at-end:end";
    let response = post(&gateway, script, Framing::Length, &body).await;
    assert_eq!(response.status, 200);
    assert!(response.text() == body.to_uppercase() + "end", "{} bytes", response.body.len());
    let mut h2 = gateway.h2_client().await.unwrap();
    let response = post_h2(&mut h2, script, Outgoing::full(body.clone())).await;
    assert!(response.body == body.to_uppercase() + "end", "{} bytes", response.body.len());
}

#[tokio::test]
async fn a_body_that_is_too_large_to_be_held_is_refused() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream).await;
    let body = "x".repeat(3 * MIB / 2);
    let response = post(&gateway, "request_body=whole", Framing::Length, &body).await;
    assert_eq!(response.status, 413);
    assert_eq!(response.header("x-trace"), Some("p"), "the plugin sees the answer");
    assert!(upstream.requests().is_empty());
    // The same for what the plugin makes itself.
    assert_eq!(post(&gateway, &format!("request_body=flood:{}", 2 * MIB), Framing::Length, "x").await.status, 413);

    upstream.answer_with(move |_| Answer::new(200).text("x".repeat(3 * MIB / 2)));
    let response = post(&gateway, "response_body=whole", Framing::Length, "x").await;
    assert_eq!((response.status, response.body.len()), (500, 0));
    let script = format!("response_body=flood:{}", 2 * MIB);
    assert_eq!(post(&gateway, &script, Framing::Length, "x").await.status, 500);
    // Every one of them can be seen by operators.
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "plugin_body_bytes")], 4.0).await.unwrap();
    // Streaming, the same size is no problem.
    assert_eq!(post(&gateway, "response_body=upper", Framing::Length, &body).await.body.len(), 3 * MIB / 2);
}

/// A module whose callback for request bodies answers with this action up to the end of the body; one that can change
/// bodies or not.
fn answering(action: u32, edits: bool) -> Vec<u8> {
    let import = r#"(import "env" "proxy_set_buffer_bytes" (func (param i32 i32 i32 i32 i32) (result i32)))"#;
    let import = if edits { import } else { "" };
    let module = format!(
        r#"(module {import}
            (memory (export "memory") 1)
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 0)
            (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
                (select (i32.const 0) (i32.const {action}) (local.get 2))))"#
    );
    wat::parse_str(module).unwrap()
}

#[tokio::test]
async fn every_action_for_a_part_of_a_body_is_understood() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    for (action, edits, expected) in [
        (0, false, Some("hello world")),
        (1, false, Some("hello world")),
        // Keep it, and slow the sender down instead of refusing the rest.
        (2, false, Some("hello world")),
        // Drop it. Only one that could put something else in its place may.
        (3, true, Some(" world")),
        (3, false, None),
    ] {
        std::fs::write(&path, answering(action, edits)).unwrap();
        let gateway = Setup::new()
            .file("all.yaml", everything_to(&upstream))
            .file("plugin.yaml", wasm_plugin("p", &path, ""))
            .start()
            .await
            .unwrap();
        let mut client = gateway.client().await.unwrap();
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nhello").await.unwrap();
        let name = "gateway_plugin_callback_duration_seconds_count";
        gateway.metric_becomes(name, &[("callback", "request_body")], 1.0).await.unwrap();
        client.send(" world").await.unwrap();
        let status = client.response().await.unwrap().status;
        let Some(expected) = expected else {
            assert_eq!(status, 503);
            continue;
        };
        assert_eq!(status, 200, "action {action}");
        let request = upstream.requests().pop().unwrap();
        assert_eq!((&*request.body, request.complete), (expected.as_bytes(), true), "action {action}");
    }
}

#[tokio::test]
async fn trailers_pass_and_can_be_changed() {
    let upstream = Upstream::start(Protocol::Http2).await.unwrap();
    let gateway = start(&upstream).await;
    let mut client = gateway.h2_client().await.unwrap();
    let trailers = |value: &'static str| -> HeaderMap {
        [(http::HeaderName::from_static("x-end"), HeaderValue::from_static(value))].into_iter().collect()
    };
    for (count, script) in [
        "",
        "request_trailers=add:x-more,1;response_trailers=add:x-more,2",
        "request_body=whole;response_body=whole",
        "request_trailers=pause;response_trailers=pause",
        "request_body=pause;response_body=pause;request_trailers=pause;response_trailers=pause",
        "request_body=whole;response_body=whole;request_trailers=pause;response_trailers=pause",
        // A body that is held can be changed up to the trailers.
        "request_body=whole;request_trailers=upper;response_body=whole;response_trailers=upper",
    ]
    .into_iter()
    .enumerate()
    {
        upstream.answer_next(Answer::new(200).body(Outgoing::chunks(["pong", "pong"], trailers("service"))));
        let response = post_h2(&mut client, script, Outgoing::chunks(["ping", "ping"], trailers("client"))).await;
        let request = upstream.received(count + 1).await.unwrap().pop().unwrap();
        let (sent, back) = if script.contains("upper") { ("PINGPING", "PONGPONG") } else { ("pingping", "pongpong") };
        assert_eq!(request.body, sent, "{script}");
        assert_eq!(response.body, back, "{script}");
        let (sent, back) = (request.trailers.unwrap(), response.trailers.unwrap());
        assert_eq!((&sent["x-end"], &back["x-end"]), (&"client".parse().unwrap(), &"service".parse().unwrap()));
        if script.contains("x-more") {
            assert_eq!((&sent["x-more"], &back["x-more"]), (&"1".parse().unwrap(), &"2".parse().unwrap()));
        }
    }
}

#[tokio::test]
async fn a_stream_that_both_sides_keep_open_is_not_held_up() {
    let upstream = Upstream::start(Protocol::Http2).await.unwrap();
    let gateway = start(&upstream).await;
    let mut client = gateway.h2_client().await.unwrap();
    let (answer, responding) = Answer::streamed(200);
    upstream.answer_next(answer.early());
    let (sending, body) = Outgoing::channel();
    let request =
        Request::post("http://test.example.dev/").header("x-probe-p", "request_body=upper;response_body=upper");
    // The server answers although nothing of the body has come, and the client sees the head although nothing of that
    // body has come.
    let mut response = client.send(request.body(body).unwrap()).await.unwrap();
    use http_body_util::BodyExt;
    for text in ["one", "two"] {
        responding.send(text).await.unwrap();
        let frame = gateway_tests::within("a message", response.body_mut().frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text.to_uppercase());
        sending.send(text).await.unwrap();
    }
    drop(sending);
    assert_eq!(upstream.received(1).await.unwrap()[0].body, "ONETWO");
    drop(responding);
    let end = gateway_tests::within("the end", response.body_mut().collect()).await.unwrap().unwrap();
    assert!(end.to_bytes().is_empty());
}

#[tokio::test]
async fn a_slow_client_slows_the_upstream_through_a_plugin() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream).await;
    let mut client = gateway.client().await.unwrap();
    let (answer, sender) = Answer::streamed(200);
    upstream.answer_next(answer);
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-probe-p: response_body=upper\r\n\r\n").await.unwrap();
    let piece = vec![b'a'; 256 << 10];
    let mut sent = 0;
    // It stops being taken long before it is all sent: buffers of sockets are all there is.
    let full = async {
        while sent < 256 * MIB {
            sender.send(piece.clone()).await?;
            sent += piece.len();
        }
        anyhow::Ok(())
    };
    assert!(tokio::time::timeout(std::time::Duration::from_secs(2), full).await.is_err(), "256 MiB were taken");
    assert!(sent < 64 * MIB, "{sent} bytes were taken");
    drop(client);
    sender.unread().await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_the_client_breaks_off_ends_everywhere() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream).await;
    let mut client = gateway.client().await.unwrap();
    // It answers early only so that the client knows when the request has come through.
    let (answer, _responding) = Answer::streamed(200);
    upstream.answer_next(answer.early());
    client
        .send("POST / HTTP/1.1\r\nhost: a\r\nx-probe-p: request_body=upper\r\ncontent-length: 100\r\n\r\nhello")
        .await
        .unwrap();
    assert_eq!(client.head().await.unwrap().status, 200);
    drop(client);
    let request = upstream.received(1).await.unwrap().remove(0);
    assert!(!request.complete);
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    gateway.metric_becomes("probe_open_streams", &[], 0.0).await.unwrap();
}
