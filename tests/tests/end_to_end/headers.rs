//! What happens to heads on their way: what is refused, what is removed, what is added.

use gateway_tests::body::Outgoing;
use gateway_tests::client::{RawClient, RawResponse};
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Received, Upstream};

const HOST: &str = "test.example.dev";

async fn start() -> (TestGateway, Upstream) {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    (gateway, upstream)
}

/// Sends these bytes over a connection of their own and reads one answer.
async fn send(gateway: &TestGateway, bytes: impl AsRef<[u8]>) -> (RawResponse, RawClient) {
    let mut client = gateway.client().await.unwrap();
    client.send(bytes).await.unwrap();
    (client.response().await.unwrap(), client)
}

/// Sends a `GET /` with these headers and gives what the service received.
async fn forwarded(gateway: &TestGateway, upstream: &Upstream, headers: &str) -> Received {
    let before = upstream.requests().len();
    let (response, _) = send(gateway, format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n")).await;
    assert_eq!(response.status, 200, "{headers}");
    upstream.received(before + 1).await.unwrap().remove(before)
}

#[tokio::test]
async fn requests_that_break_the_rules_never_reach_a_service() {
    let (gateway, upstream) = start().await;
    for (request, status, body, closes) in [
        ("GET / HTTP/1.0\r\nhost: test.example.dev\r\n\r\n", 426, "Upgrade Required", true),
        ("GET / HTTP/1.1\r\n\r\n", 400, "Bad Request", true),
        ("GET / HTTP/1.1\r\nhost:\r\n\r\n", 400, "Bad Request", true),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "Bad Request", true),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400, "Bad Request", true),
        ("GET / HTTP/1.1\r\nhost: a@b\r\n\r\n", 400, "Bad Request", true),
        ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400, "Bad Request", true),
        ("GET / HTTP/1.1\r\nhost: a:port\r\n\r\n", 400, "Bad Request", true),
        ("FOO / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "Bad Request", true),
        ("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n", 405, "", false),
        ("CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n", 404, "", false),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 404, "", false),
        ("GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n", 400, "Bad Request", true),
        ("GET /a%00b?q HTTP/1.1\r\nhost: a\r\n\r\n", 400, "Bad Request", true),
        ("GET /a?q=%00 HTTP/1.1\r\nhost: a\r\n\r\n", 400, "Bad Request", true),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: tls/1.3\r\n\r\n", 403, "", true),
    ] {
        let (response, mut client) = send(&gateway, request).await;
        assert_eq!((response.status, response.text().as_str()), (status, body), "{request:?}");
        assert_eq!(response.header("server"), Some("istio-envoy"), "{request:?}");
        assert_eq!(response.header("x-envoy-upstream-service-time"), None, "{request:?}");
        if closes {
            assert_eq!(response.header("connection"), Some("close"), "{request:?}");
            client.closed().await.unwrap();
        }
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(upstream.connections(), 0);
    let broken = [("response_flags", "DPE")];
    gateway.metric_becomes("istio_requests_total", &broken, 13.0).await.unwrap();
}

#[tokio::test]
async fn requests_with_a_body_can_be_refused_too() {
    let (gateway, upstream) = start().await;
    let (response, mut client) = send(&gateway, "FOO / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
    assert_eq!((response.status, response.header("connection")), (400, Some("close")));
    client.closed().await.unwrap();
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn heads_are_limited() {
    let (gateway, upstream) = start().await;
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: v\r\n")).collect::<String>();
    // With the host it is 100.
    assert_eq!(forwarded(&gateway, &upstream, &many(99)).await.header("x-98"), Some("v"));
    let (response, mut client) = send(&gateway, format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", many(100))).await;
    assert_eq!(response.status, 431);
    client.closed().await.unwrap();
    let large = format!("x-large: {}\r\n", "v".repeat(50 * 1024));
    assert_eq!(forwarded(&gateway, &upstream, &large).await.header("x-large").unwrap().len(), 50 * 1024);
    let (response, mut client) =
        send(&gateway, format!("GET / HTTP/1.1\r\nhost: a\r\nx-large: {}\r\n\r\n", "v".repeat(61 * 1024))).await;
    assert_eq!(response.status, 431);
    client.closed().await.unwrap();

    let mut h2 = gateway.h2_client().await.unwrap();
    let request = |headers: usize, bytes: usize| {
        let mut request = http::Request::get(format!("http://{HOST}/"));
        for n in 0..headers {
            request = request.header(format!("x-{n}"), "v".repeat(bytes));
        }
        request.body(Outgoing::empty()).unwrap()
    };
    assert_eq!(h2.fetch(request(99, 10)).await.unwrap().status, 200);
    for (headers, bytes) in [(101, 1), (40, 2048)] {
        let response = h2.fetch(request(headers, bytes)).await.unwrap();
        assert_eq!((response.status.as_u16(), &response.body[..]), (431, &b"Request Header Fields Too Large"[..]));
    }
    // The connection has survived it.
    assert_eq!(h2.get(HOST, "/").await.unwrap().status, 200);
    assert_eq!(upstream.requests().len(), 4);
}

#[tokio::test]
async fn http2_requests_are_checked_like_the_others() {
    let (gateway, upstream) = start().await;
    let mut client = gateway.h2_client().await.unwrap();
    for (method, path, status) in
        [("TRACE", "/", 405), ("FOO", "/", 400), ("GET", "/%00", 400), ("GET", "/a/../b", 200)]
    {
        let request = http::Request::builder().method(method).uri(format!("http://{HOST}{path}"));
        let response = client.fetch(request.body(Outgoing::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status.as_u16(), status, "{method} {path}");
        assert!(!response.headers.contains_key("connection"), "{method} {path}");
    }
    let conflict = http::Request::get(format!("http://{HOST}/")).header("host", "other.example");
    assert_eq!(client.fetch(conflict.body(Outgoing::empty()).unwrap()).await.unwrap().status, 400);
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!(request.target, "/b");
}

#[tokio::test]
async fn paths_arrive_in_one_normal_form() {
    let (gateway, upstream) = start().await;
    let mut client = gateway.client().await.unwrap();
    for (at, (sent, received)) in [
        ("/a/./b/../c?x=/../y", "/a/c?x=/../y"),
        ("/a/../../x", "/x"),
        ("/%41%2d%7e", "/A-~"),
        ("/a%2fb//c", "/a%2fb//c"),
        ("/a\\b", "/a/b"),
        ("/%2e%2e/etc", "/etc"),
        ("/%C3%A4?%01", "/%C3%A4?%01"),
        ("http://test.example.dev/absolute?q", "/absolute?q"),
        ("http://test.example.dev", "/"),
        ("http://test.example.dev?q=a/../b", "/?q=a/../b"),
        ("/?", "/?"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(client.get(HOST, sent).await.unwrap().status, 200, "{sent}");
        assert_eq!(upstream.received(at + 1).await.unwrap()[at].target, received, "{sent}");
    }
}

#[tokio::test]
async fn an_absolute_target_overrides_the_host() {
    let (gateway, upstream) = start().await;
    send(&gateway, "GET http://real.example:81/x HTTP/1.1\r\nhost: other.example\r\n\r\n").await;
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((request.target.as_str(), request.header_values("host")), ("/x", vec!["real.example:81"]));
}

#[tokio::test]
async fn what_clients_must_not_say_is_replaced() {
    let (gateway, upstream) = start().await;
    let request = forwarded(
        &gateway,
        &upstream,
        "x-forwarded-for: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2, 3.3.3.3\r\nx-forwarded-proto: https\r\n\
         x-request-id: chosen-by-client\r\nx-envoy-internal: true\r\nx-envoy-external-address: 9.9.9.9\r\n\
         x-envoy-original-path: /evil\r\nx-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-attempt-count: 9\r\n\
         x-forwarded-client-cert: By=evil\r\nx-forwarded-host: passes.example\r\nreferer: http://user:pw@a/\r\n\
         x_underscore: passes\r\n",
    )
    .await;
    assert_eq!(request.header_values("x-forwarded-for"), ["1.1.1.1,2.2.2.2, 3.3.3.3,127.0.0.1"]);
    assert_eq!(request.header_values("x-forwarded-proto"), ["http"]);
    assert_eq!(request.header_values("x-envoy-external-address"), ["127.0.0.1"]);
    assert_eq!(request.header_values("x-envoy-attempt-count"), ["1"]);
    let id = request.header("x-request-id").unwrap();
    assert!(id.len() == 36 && id != "chosen-by-client", "{id}");
    for gone in [
        "x-envoy-internal",
        "x-envoy-original-path",
        "x-envoy-upstream-rq-timeout-ms",
        "x-forwarded-client-cert",
        "referer",
    ] {
        assert_eq!(request.header(gone), None, "{gone}");
    }
    assert_eq!(request.header("x-forwarded-host"), Some("passes.example"));
    assert_eq!(request.header("x_underscore"), Some("passes"));
    let next = forwarded(&gateway, &upstream, "referer: http://plain.example/\r\n").await;
    assert_ne!(next.header("x-request-id"), Some(id));
    assert_eq!(next.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(next.header("referer"), Some("http://plain.example/"));
}

#[tokio::test]
async fn what_belongs_to_one_connection_stays_on_it() {
    let (gateway, upstream) = start().await;
    upstream.answer_next(
        Answer::new(200)
            .header("connection", "x-mine, keep-alive")
            .header("x-mine", "1")
            .header("keep-alive", "timeout=5")
            .header("proxy-connection", "keep-alive")
            .header("x-kept", "1")
            .header("server", "mine")
            .text("body"),
    );
    let mut client = gateway.client().await.unwrap();
    client
        .send(format!(
            "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: x-nominated, keep-alive, host, authorization, x-forwarded-for\r\n\
             x-nominated: 1\r\nkeep-alive: 300\r\nproxy-connection: keep-alive\r\nte: gzip\r\nauthorization: Basic eA==\r\n\
             upgrade: h2c\r\nhttp2-settings: AAA\r\nx-kept: 1\r\n\r\n"
        ))
        .await
        .unwrap();
    let response = client.response().await.unwrap();
    let request = upstream.received(1).await.unwrap().remove(0);
    for gone in ["x-nominated", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings", "connection"] {
        assert_eq!(request.header(gone), None, "{gone}");
    }
    for (kept, value) in
        [("x-kept", "1"), ("authorization", "Basic eA=="), ("x-forwarded-for", "127.0.0.1"), ("host", HOST)]
    {
        assert_eq!(request.header_values(kept), [value], "{kept}");
    }
    assert_eq!((response.status, response.text().as_str()), (200, "body"));
    for gone in ["x-mine", "keep-alive", "proxy-connection", "connection"] {
        assert_eq!(response.header(gone), None, "{gone}");
    }
    assert_eq!(response.header_values("server"), ["istio-envoy"]);
    assert_eq!((response.header("x-kept"), response.header_values("content-length")), (Some("1"), vec!["4"]));
    assert!(response.header("x-envoy-upstream-service-time").unwrap().parse::<u64>().is_ok());
    assert_eq!(response.header_values("date").len(), 1);
    // It was no reason to end the client's connection either.
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn h2c_upgrades_are_served_as_http1() {
    let (gateway, upstream) = start().await;
    let headers = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    let request = forwarded(&gateway, &upstream, headers).await;
    assert_eq!((request.header("upgrade"), request.header("connection")), (None, None));
}

#[tokio::test]
async fn the_loopback_interface_is_known_by_the_pods_address() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .options(|options| options.identity.instance_ip = Some("192.0.2.2".parse().unwrap()))
        .start()
        .await
        .unwrap();
    let request = forwarded(&gateway, &upstream, "x-forwarded-for: 1.1.1.1\r\n").await;
    assert_eq!(request.header("x-forwarded-for"), Some("1.1.1.1,192.0.2.2"));
}
