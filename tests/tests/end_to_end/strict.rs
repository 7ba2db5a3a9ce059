//! HTTP/1 that is not as it must be: refused, answered in its turn, logged and counted, and nothing of it reaches a
//! service, however its bytes are cut.

use gateway::telemetry::LogFormat;
use gateway_tests::certificates::Authority;
use gateway_tests::client::RawClient;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{everything_to, https_gateway, secret, service, virtual_service};
use gateway_tests::server::Protocol::{self, Http1, Http2};
use gateway_tests::tls::TlsClient;
use gateway_tests::upstream::{Answer, Gate, Upstream};

const HOST: &str = "test.example.dev";

async fn start(protocol: Protocol) -> (TestGateway, Upstream) {
    let upstream = Upstream::start(protocol).await.unwrap();
    let setup = Setup::new().file("all.yaml", everything_to(&upstream)).access_log(LogFormat::Json);
    (setup.start().await.unwrap(), upstream)
}

/// A POST with these lines and this body.
fn post(rest: &str) -> String {
    format!("POST /path HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: tester\r\n{rest}")
}

const CODEC: &str = "http1.codec_error";

/// Requests that are refused, with status, details, and whether the log can tell method and path.
fn refused() -> Vec<(String, u16, &'static str, bool)> {
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let both = "http1.content_length_and_chunked_not_allowed";
    let mut rows = vec![
        (post(&format!("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}")), 400, both, true),
        (post(&format!("transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{smuggled}")), 400, both, true),
        (post(&"x: y\r\n".repeat(99)) + "\r\n", 431, "http1.too_many_headers", true),
        (post(&format!("x: {}\r\n\r\n", "y".repeat(62_000))), 431, "http1.headers_too_large", true),
    ];
    for rest in [
        "content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "content-length: 5, 5\r\n\r\nhello",
        "content-length: +5\r\n\r\nhello",
        "content-length: 0x5\r\n\r\nhello",
        "content-length: \r\n\r\n",
        "content-length: 18446744073709551616\r\n\r\n",
        "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "content_length: 5\r\n\r\n",
        "x: y\n\r\n",
        "x: y\r\n\n",
        "x: \ry\r\n\r\n",
        "x: y\r\n z\r\n\r\n",
        "x : y\r\n\r\n",
        ": y\r\n\r\n",
        "no colon\r\n\r\n",
        "x(: y\r\n\r\n",
        "x\0: y\r\n\r\n",
        "x: y\0\r\n\r\n",
        "x: \x1b[1m\r\n\r\n",
    ] {
        rows.push((post(rest), 400, CODEC, true));
    }
    for line in [
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /caf\u{e9} HTTP/1.1",
        "GET /\x01 HTTP/1.1",
        " GET / HTTP/1.1",
        "\r\n\r\nGET / HTTP/1.1",
    ] {
        rows.push((format!("{line}\r\nhost: {HOST}\r\n\r\n"), 400, CODEC, false));
    }
    rows.push(("\x16\x03\x01\x02\0\x01\0\x01".to_owned(), 400, CODEC, false));
    rows
}

/// How the bytes of a request are cut.
fn cuts(length: usize) -> Vec<Vec<usize>> {
    let each = if length < 400 { (1..length).collect() } else { vec![1, length / 3, length - 1] };
    vec![Vec::new(), each, vec![length / 2], vec![length.saturating_sub(2)]]
}

async fn send_cut(client: &mut RawClient, bytes: &[u8], cuts: &[usize]) {
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        // It may be refused before all of it is sent.
        if client.send(&bytes[from..to]).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
        from = to;
    }
}

#[tokio::test]
async fn what_is_refused_is_answered_logged_and_counted() {
    let (gateway, upstream) = start(Http1).await;
    let (mut expected, mut sent) = (Vec::new(), 0.0);
    for (request, status, details, known) in refused() {
        for cuts in cuts(request.len()) {
            let mut client = gateway.client().await.unwrap();
            send_cut(&mut client, request.as_bytes(), &cuts).await;
            let shown = request.as_bytes()[..request.len().min(150)].escape_ascii();
            let response = client.response().await.unwrap_or_else(|error| panic!("{shown} cut at {cuts:?}: {error:#}"));
            let body = if status == 431 { "Request Header Fields Too Large" } else { "Bad Request" };
            assert_eq!((response.status, response.text().as_str()), (status, body), "{shown} cut at {cuts:?}");
            assert_eq!(response.header("connection"), Some("close"), "{shown}");
            assert_eq!(response.header("server"), Some("istio-envoy"), "{shown}");
            client.closed().await.unwrap();
            expected.push((status, details, known));
            sent += 1.0;
        }
    }
    for (line, (status, details, known)) in gateway.access_log(expected.len()).await.unwrap().iter().zip(expected) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["response_code"], &line["response_flags"]), (&status.into(), &"DPE".into()), "{line}");
        assert_eq!(line["response_code_details"], details, "{line}");
        let (method, path, agent) =
            if known { ("POST".into(), "/path".into(), "tester".into()) } else { Default::default() };
        let shown: [serde_json::Value; 3] = [method, path, agent];
        assert_eq!([&line["method"], &line["path"], &line["user_agent"]], shown.each_ref(), "{line}");
    }
    gateway.metric_becomes("istio_requests_total", &[("response_flags", "DPE")], sent).await.unwrap();
    gateway.metric_becomes("gateway_downstream_protocol_errors_total", &[], sent).await.unwrap();
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "request_headers")], 4.0).await.unwrap();
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "request_head_bytes")], 4.0).await.unwrap();
    gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
    assert_eq!((upstream.requests().len(), upstream.connections()), (0, 0));
}

#[tokio::test]
async fn inside_tls_it_is_the_same() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let authority = Authority::new("tests").unwrap();
    let server = authority.server(&[HOST]).unwrap();
    let gateway = Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &[HOST], "mode: SIMPLE, credentialName: cert"))
        .file("secret.yaml", secret("cert", &server, None))
        .file("service.yaml", service("sample", &[&upstream]))
        .file("route.yaml", virtual_service("all", &["*"], "  - route: [{destination: {host: sample}}]"))
        .options(|options| options.client_limits.request_head_timeout = std::time::Duration::from_secs(1))
        .start()
        .await
        .unwrap();
    let client = TlsClient::new(&[&authority]).unwrap();
    for (rest, status) in [
        ("\r\n", 200),
        ("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("x : y\r\n\r\n", 400),
        ("transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        ("x: ", 408),
    ] {
        let mut client = client.http1(gateway.address(443).unwrap(), HOST).await.unwrap();
        client.send(post(rest)).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, status, "{rest:?}");
    }
    assert_eq!(upstream.requests().iter().filter(|request| request.complete).count(), 1);
}

#[tokio::test]
async fn what_is_allowed_passes_however_it_is_cut() {
    let (gateway, upstream) = start(Http1).await;
    upstream.answer_with(|_| Answer::echo());
    let request = format!(
        "\r\nPOST http://{HOST}/path?a=b%20c HTTP/1.1\r\nhost: {HOST}\r\nx_y: z\r\nx-bytes: caf\u{e9}\r\n\
         Transfer-Encoding: Chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nx-trailer: y\r\n\r\n"
    );
    let mut client = gateway.client().await.unwrap();
    for at in 0..request.len() {
        let cut = if at == 0 { (1..request.len()).collect() } else { vec![at] };
        send_cut(&mut client, request.as_bytes(), &cut).await;
        assert_eq!(client.response().await.unwrap().text(), "hello", "cut at {at}");
    }
    let requests = upstream.received(request.len()).await.unwrap();
    assert!(requests.iter().all(|request| request.complete && request.body == "hello"));
    assert_eq!(requests[0].header("x_y"), Some("z"));
}

#[tokio::test]
async fn answers_stay_in_order_and_nothing_follows_a_refusal() {
    let (gateway, upstream) = start(Http1).await;
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).text("first").after(&gate));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n");
    let mut client = gateway.client().await.unwrap();
    let requests = get("/1") + "\r\n" + &get("/2") + "\r\n" + &get("/3") + "x : y\r\n\r\n" + &get("/4") + "\r\n";
    client.send(requests).await.unwrap();
    upstream.received(1).await.unwrap();
    gate.open();
    assert_eq!(client.response().await.unwrap().text(), "first");
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(client.response().await.unwrap().status, 400);
    client.closed().await.unwrap();
    let targets: Vec<_> = upstream.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/1", "/2"]);
    let last: serde_json::Value = serde_json::from_str(&gateway.access_log(3).await.unwrap()[2]).unwrap();
    assert_eq!((&last["path"], &last["response_code"]), (&"/3".into(), &400.into()));
}

#[tokio::test]
async fn a_body_that_breaks_the_rules_never_ends_at_the_service() {
    for protocol in [Http1, Http2] {
        let bad = [
            "zz\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5;\nhello\r\n0\r\n\r\n",
            "4\r\nhello\r\n0\r\n\r\n",
            "0000000000000005\r\nhello\r\n0\r\n\r\n",
            "ffffffffffffffff\r\nhello",
            "0\r\ncontent-length: 5\r\n\r\n",
            "0\r\nhost: b\r\n\r\n",
            "0\r\nx : y\r\n\r\n",
            "0\r\nx: y\n\r\n",
            "0\r\n\n",
        ];
        let (gateway, upstream) = start(protocol).await;
        for (number, bad) in bad.iter().enumerate() {
            let mut client = gateway.client().await.unwrap();
            client.send(post("transfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n")).await.unwrap();
            if protocol == Http1 {
                upstream.open_connections(1).await.unwrap();
            }
            client.send(bad).await.unwrap();
            let response = client.response().await.unwrap_or_else(|error| panic!("{protocol:?} {bad:?}: {error:#}"));
            assert_eq!((response.status, response.text().as_str()), (400, "Bad Request"), "{protocol:?} {bad:?}");
            client.closed().await.unwrap();
            if protocol == Http1 {
                upstream.open_connections(0).await.unwrap();
            }
            let labels = [("response_code", "400"), ("response_flags", "DPE")];
            gateway.metric_becomes("istio_requests_total", &labels, (number + 1) as f64).await.unwrap();
        }
        assert!(upstream.requests().iter().all(|request| !request.complete), "{protocol:?}: a broken body looks whole");
        for line in gateway.access_log(bad.len()).await.unwrap() {
            assert!(line.contains(CODEC) && line.contains("/path"), "{line}");
        }
    }
}

#[tokio::test]
async fn what_follows_a_declined_upgrade_is_the_next_request() {
    let (gateway, upstream) = start(Http1).await;
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).text("no").after(&gate));
    let upgrade = format!(
        "GET /socket HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    for (next, status) in [("GET /next HTTP/1.1\r\n", 200), ("GET /next HTTP/1.1\n", 400)] {
        let mut client = gateway.client().await.unwrap();
        client.send(format!("{upgrade}{next}host: {HOST}\r\n\r\n")).await.unwrap();
        if status == 200 {
            upstream.received(1).await.unwrap();
            gate.open();
        }
        assert_eq!(client.response().await.unwrap().status, 200);
        assert_eq!(client.response().await.unwrap().status, status);
    }
    let targets: Vec<_> = upstream.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/socket", "/next", "/socket"]);
}
