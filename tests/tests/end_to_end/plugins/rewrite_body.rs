//! The plugin `rewrite-body` in a gateway.

use gateway_tests::body::Outgoing;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{example, module, wasm_plugin};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};
use http::{HeaderMap, Request};

async fn start(upstream: &Upstream, plugin: &str) -> TestGateway {
    let setup = Setup::new().file("all.yaml", everything_to(upstream)).file("plugin.yaml", plugin);
    let gateway = setup.start().await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    gateway
}

/// A plugin with these rules for responses, and further settings of theirs.
fn rules(rules: &str, more: &str) -> String {
    let spec = format!("pluginConfig: {{response: {{rules: [{rules}]{more}}}}}");
    wasm_plugin("rewrite-body", &module("rewrite-body"), &spec)
}

fn html(body: impl Into<String>) -> Answer {
    Answer::new(200).header("content-type", "text/html").text(body.into())
}

#[tokio::test]
async fn the_example_rewrites_what_it_says_in_both_protocols() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Upstream::start(protocol).await.unwrap();
        let gateway = start(&upstream, &example("rewrite-body")).await;
        let page = "<a href=\"http://shop.internal:8080/item/7\">7</a> build 1234";
        let expected = "<a href=\"https://shop.example.dev/item/7\">7</a> build *";
        let answers = || {
            let pieces = [&page[..20], &page[20..]].map(str::to_owned);
            [
                html(page).header("etag", "\"7\""),
                Answer::new(200)
                    .header("content-type", "text/html")
                    .header("etag", "\"7\"")
                    .body(Outgoing::chunks(pieces, HeaderMap::new())),
            ]
        };
        let mut client = gateway.client().await.unwrap();
        for answer in answers() {
            upstream.answer_next(answer);
            client.send("GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n").await.unwrap();
            let response = client.response().await.unwrap();
            assert_eq!(response.text(), expected);
            assert_eq!(
                response.header("content-length"),
                Some(expected.len().to_string().as_str()),
                "it was all there"
            );
            assert_eq!(response.header("etag"), Some("W/\"7\""));
        }
        let mut client = gateway.h2_client().await.unwrap();
        for answer in answers() {
            upstream.answer_next(answer);
            let response = client.get("a", "/").await.unwrap();
            assert_eq!(response.body, expected);
            assert_eq!(response.headers["content-length"], expected.len().to_string());
        }
        for request in upstream.received(4).await.unwrap() {
            assert_eq!(request.header("accept-encoding"), None);
        }
        gateway.metric_becomes("rewrite_body_rewritten_total", &[], 4.0).await.unwrap();
    }
}

#[tokio::test]
async fn trailers_stay_and_bodies_of_others_stream() {
    let upstream = Upstream::start(Protocol::Http2).await.unwrap();
    let gateway = start(&upstream, &rules("{literal: one, replace: three}", "")).await;
    let mut client = gateway.h2_client().await.unwrap();
    let trailers: HeaderMap = [("x-end".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    let answer = Answer::new(200).header("content-type", "text/plain");
    upstream.answer_next(answer.body(Outgoing::chunks(["o", "ne on", "e"], trailers)));
    let response = client.get("a", "/").await.unwrap();
    assert_eq!(response.body, "three three");
    assert_eq!(response.trailers.unwrap()["x-end"], "1");

    // Nothing is waited for that is not rewritten.
    let (answer, sender) = Answer::streamed(200);
    upstream.answer_next(answer.header("content-type", "text/event-stream"));
    let request = Request::get("http://a/").body(Outgoing::empty()).unwrap();
    let mut response = client.send(request).await.unwrap();
    use http_body_util::BodyExt;
    for _ in 0..3 {
        sender.send("data: one\n\n").await.unwrap();
        let frame = gateway_tests::within("an event", response.body_mut().frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "data: one\n\n");
    }
}

#[tokio::test]
async fn what_is_too_large_passes_or_fails_and_what_grows_is_bounded() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let long = "one ".repeat(100_000);
    for (more, status) in [("", 200), (", tooLarge: fail", 502)] {
        let gateway = start(&upstream, &rules("{literal: one, replace: three}", more)).await;
        let mut client = gateway.client().await.unwrap();
        let pieces = long.as_bytes().chunks(30_000).map(|piece| String::from_utf8(piece.to_vec()).unwrap());
        let chunked = Outgoing::chunks(pieces, HeaderMap::new());
        for answer in [html(long.clone()), Answer::new(200).header("content-type", "text/html").body(chunked)] {
            upstream.answer_next(answer);
            let response = client.get("a", "/").await.unwrap();
            assert_eq!(response.status, status);
            assert!(status != 200 || response.text() == long);
        }
        gateway.metric_becomes("rewrite_body_too_large_total", &[], 2.0).await.unwrap();
    }
    let grows = format!("{{literal: o, replace: {}}}", "x".repeat(1000));
    let gateway = start(&upstream, &rules(&grows, "")).await;
    upstream.answer_next(html("o".repeat(10_000)));
    let response = gateway.client().await.unwrap().get("a", "/").await.unwrap();
    assert_eq!((response.status, response.body.len()), (200, 10_000));
}

/// Bodies as long as are rewritten, made for the pattern to work as hard as it can.
#[tokio::test]
async fn the_longest_body_is_rewritten_in_time() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let patterns = "{regex: '(a|b)+c', replace: x}, {regex: '[a-z]+@[a-z]+[.]dev', replace: y},
        {literal: z, replace: z}, {regex: '[0-9]', replace: x}, {regex: '<([a-z]+)>', replace: '[$1]'}";
    let gateway = start(&upstream, &rules(patterns, "")).await;
    let mut client = gateway.client().await.unwrap();
    let filler = "-".repeat(20);
    for piece in ["ab", "aaaa aaa", "a@b.", "The quick brown fox jumps. ", "z", "1-----", &format!("<body>{filler}")] {
        let body = piece.repeat((256 << 10) / piece.len());
        upstream.answer_next(html(body.clone()));
        let response = client.get("a", "/").await.unwrap();
        assert_eq!((response.status, response.body.len()), (200, body.len()), "{piece}");
    }
    assert_eq!(gateway.metrics().await.unwrap().sum("gateway_plugin_deadlines_total", &[]), 0.0);
}
