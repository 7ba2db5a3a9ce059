//! WebSockets through the gateway, and what is no WebSocket.

use futures_util::{SinkExt, StreamExt};
use gateway::telemetry::LogFormat;
use gateway_tests::certificates::Authority;
use gateway_tests::client::{RawClient, RawServer};
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::probe;
use gateway_tests::resources::{GATEWAY, everything_to, https_gateway, secret, service_at, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::tls::TlsClient;
use gateway_tests::upstream::{Answer, Upstream};
use gateway_tests::{eventually, within};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

const HOST: &str = "test.example.dev";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n\
                      sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn handshake(path: &str, upgrade: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: keep-alive, Upgrade\r\nupgrade: {upgrade}\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
}

fn to(server: &RawServer, protocol: &str) -> String {
    GATEWAY.to_owned()
        + &service_at("sample", protocol, &[server.address().unwrap()])
        + &virtual_service(
            "everything",
            &["*"],
            "
  - match: [{uri: {prefix: /redirect}}]
    redirect: {uri: /there}
  - match: [{uri: {prefix: /limited}}]
    timeout: 1s
    route: [{destination: {host: sample}}]
  - match: [{uri: {prefix: /}}]
    route: [{destination: {host: sample}}]",
        )
}

async fn start() -> (TestGateway, RawServer) {
    let server = RawServer::start().await.unwrap();
    let gateway = Setup::new().access_log(LogFormat::Json).file("all.yaml", to(&server, "HTTP")).start().await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    (gateway, server)
}

/// A WebSocket that is open on both sides.
async fn open(gateway: &TestGateway, server: &RawServer) -> (RawClient, RawClient) {
    let mut client = gateway.client().await.unwrap();
    client.send(handshake("/chat", "websocket")).await.unwrap();
    let service = server.answer(SWITCH).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 101);
    (client, service)
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

fn entry(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap()
}

#[tokio::test]
async fn a_websocket_library_talks_to_another() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let resources = GATEWAY.to_owned()
        + &service_at("sample", "HTTP", &[listener.local_addr().unwrap()])
        + &virtual_service("everything", &["*"], "  - route: [{destination: {host: sample}}]");
    let gateway = Setup::new().file("all.yaml", resources).start().await.unwrap();
    let service = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let stream = tokio::net::TcpStream::connect(gateway.address(80).unwrap()).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(format!("ws://{HOST}/chat"), stream).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["server"], "istio-envoy");
    let large = vec![7; 3 << 20];
    for message in [Message::text("hello"), Message::binary(large), Message::text("bye")] {
        socket.send(message.clone()).await.unwrap();
        let echo = within("an echo", socket.next()).await.unwrap().unwrap().unwrap();
        assert!(echo == message);
    }
    socket.close(None).await.unwrap();
    while within("the end of a WebSocket", socket.next()).await.unwrap().is_some() {}
    drop(socket);
    service.await.unwrap();
    gateway.metric_becomes("istio_requests_total", &[("response_code", "101")], 1.0).await.unwrap();
}

#[tokio::test]
async fn a_handshake_passes_as_one() {
    let (gateway, server) = start().await;
    let mut client = gateway.client().await.unwrap();
    client.send(handshake("/chat?a=b", "WebSocket")).await.unwrap();
    let mut service = server.accept().await.unwrap();
    let (line, headers) = service.request_head().await.unwrap();
    assert_eq!(line, "GET /chat?a=b HTTP/1.1");
    assert_eq!((value(&headers, "upgrade"), value(&headers, "connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!(value(&headers, "sec-websocket-version"), Some("13"));
    assert!(value(&headers, "content-length").is_none() && value(&headers, "transfer-encoding").is_none());
    // What comes with the 101 is not lost, and a length that a 101 must not have does no harm.
    service.send(SWITCH.replace("sec-websocket-accept", "content-length: 5\r\nx") + "first").await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("upgrade")), (101, Some("websocket")));
    assert_eq!((response.header("connection"), response.header("content-length")), (Some("upgrade"), None));
    assert_eq!(client.read(5).await.unwrap(), b"first");
    client.send("second").await.unwrap();
    assert_eq!(service.read(6).await.unwrap(), b"second");
    client.finish_sending().await.unwrap();
    service.closed().await.unwrap();
    // The other direction is still open.
    service.send("third").await.unwrap();
    assert_eq!(client.read(5).await.unwrap(), b"third");
    drop(service);
    client.closed().await.unwrap();
    let entry = entry(&gateway.access_log(1).await.unwrap()[0]);
    assert_eq!((&entry["response_code"], &entry["response_code_details"]), (&101.into(), &"via_upstream".into()));
    assert_eq!((&entry["bytes_received"], &entry["bytes_sent"]), (&6.into(), &10.into()), "{entry}");
    assert_eq!(entry["response_flags"], "-");
}

#[tokio::test]
async fn the_end_of_the_service_is_passed_on() {
    let (gateway, server) = start().await;
    let (mut client, mut service) = open(&gateway, &server).await;
    service.finish_sending().await.unwrap();
    client.closed().await.unwrap();
    client.send("more").await.unwrap();
    assert_eq!(service.read(4).await.unwrap(), b"more");
    drop(client);
    service.closed().await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn nothing_passes_before_the_101() {
    let (gateway, server) = start().await;
    let mut client = gateway.client().await.unwrap();
    client.send(handshake("/chat", "websocket") + "GET /admin HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut service = server.accept().await.unwrap();
    service.request_head().await.unwrap();
    service.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), service.read(1)).await;
    assert!(early.is_err(), "bytes have passed before the 101: {early:?}");
    service.send("upgrade: websocket\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 101);
    // They belong to the WebSocket now, whatever they look like.
    assert_eq!(service.request_head().await.unwrap().0, "GET /admin HTTP/1.1");
    drop(client);
    service.closed().await.unwrap();
    drop(service);
    assert_eq!(gateway.access_log(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_service_that_refuses_answers_an_ordinary_request() {
    let (gateway, server) = start().await;
    for (refusal, status) in [("403 Forbidden", 403), ("200 OK", 200), ("426 Upgrade Required", 426)] {
        let mut client = gateway.client().await.unwrap();
        let next =
            format!("GET /next/../admin HTTP/1.1\r\nhost: {HOST}\r\nconnection: x-secret\r\nx-secret: 1\r\n\r\n");
        client.send(handshake("/chat", "websocket") + &next).await.unwrap();
        let mut service = server.answer(format!("HTTP/1.1 {refusal}\r\ncontent-length: 2\r\n\r\nno")).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (status, "no"));
        assert_eq!(response.header("upgrade"), None);
        // What came behind the handshake is the next request, under all the rules.
        let (line, headers) = service.request_head().await.unwrap();
        assert_eq!(line, "GET /admin HTTP/1.1");
        assert_eq!(value(&headers, "x-secret"), None);
        service.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_an_error() {
    let (gateway, server) = start().await;
    for (request, answer) in [
        (format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), SWITCH.to_owned()),
        // Without `connection: upgrade` nothing is asked.
        (format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nupgrade: websocket\r\n\r\n"), SWITCH.to_owned()),
        (handshake("/", "websocket"), SWITCH.replace("WebSocket", "h2c")),
        (handshake("/", "websocket"), SWITCH.replace("upgrade: WebSocket", "x: y")),
        (handshake("/", "h2c"), SWITCH.to_owned()),
    ] {
        let mut client = gateway.client().await.unwrap();
        client.send(&request).await.unwrap();
        let _service = server.answer(answer).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.header("upgrade")), (502, None), "{request:?}");
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_an_ordinary_request() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    upstream.answer_with(|_| Answer::echo());
    let mut client = gateway.client().await.unwrap();
    let mut sent = 0;
    for (head, body) in [
        ("POST / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5", "hello"),
        ("GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5", "hello"),
        ("GET / HTTP/1.1\r\nupgrade: websocket", ""),
        ("GET / HTTP/1.1\r\nconnection: upgrade", ""),
        ("GET / HTTP/1.1\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk", ""),
    ] {
        client.send(format!("{head}\r\nhost: {HOST}\r\n\r\n{body}")).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, body), "{head}");
        sent += 1;
        let request = upstream.received(sent).await.unwrap().remove(sent - 1);
        for name in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(request.header(name), None, "{head}");
        }
    }
}

#[tokio::test]
async fn other_routes_answer_as_ever() {
    let (gateway, _server) = start().await;
    let mut client = gateway.client().await.unwrap();
    client.send(handshake("/redirect", "websocket")).await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("location")), (301, Some("http://test.example.dev/there")));
    // The connection goes on.
    client.send(handshake("/redirect", "websocket")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 301);
    gateway.remove("all.yaml").await.unwrap();
    gateway.write("gateway.yaml", GATEWAY).await.unwrap();
    let mut client = gateway.client().await.unwrap();
    client.send(handshake("/chat", "websocket")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 404);
}

#[tokio::test]
async fn a_service_for_http2_gets_websockets_over_http1() {
    let server = RawServer::start().await.unwrap();
    let gateway = Setup::new().file("all.yaml", to(&server, "HTTP2")).start().await.unwrap();
    let (mut client, mut service) = open(&gateway, &server).await;
    client.send("ping").await.unwrap();
    assert_eq!(service.read(4).await.unwrap(), b"ping");
}

#[tokio::test]
async fn a_side_that_does_not_read_stops_the_other() {
    let (gateway, server) = start().await;
    let (mut client, mut service) = open(&gateway, &server).await;
    const ALL: usize = 64 << 20;
    let mut sent = 0;
    let piece = vec![7; 64 * 1024];
    // The kernel's buffers on four sockets hold some MiB.
    while sent < ALL {
        match tokio::time::timeout(Duration::from_millis(300), client.send_some(&piece)).await {
            Ok(written) => sent += written.unwrap(),
            Err(_) => break,
        }
    }
    assert!(sent < 32 << 20, "{sent} bytes have left before any was read");
    let received = service.read(sent).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
    // And on it goes, the other way too.
    client.send("end").await.unwrap();
    assert_eq!(service.read(3).await.unwrap(), b"end");
    service.send("end").await.unwrap();
    assert_eq!(client.read(3).await.unwrap(), b"end");
}

#[tokio::test]
async fn the_timeout_of_the_route_ends_with_the_handshake() {
    let (gateway, server) = start().await;
    let mut client = gateway.client().await.unwrap();
    client.send(handshake("/limited", "websocket")).await.unwrap();
    let mut service = server.answer(SWITCH).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 101);
    // Time that has to pass, not a way to wait for something.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    client.send("still here").await.unwrap();
    assert_eq!(service.read(10).await.unwrap(), b"still here");
    let mut client = gateway.client().await.unwrap();
    client.send(handshake("/limited", "websocket")).await.unwrap();
    let _silent = server.accept().await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 504);
}

#[tokio::test]
async fn open_websockets_survive_every_change() {
    let (gateway, server) = start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(open(&gateway, &server).await);
    }
    gateway.write("all.yaml", &to(&server, "HTTP2")).await.unwrap();
    gateway.remove("all.yaml").await.unwrap();
    for (client, service) in &mut sockets {
        client.send("ping").await.unwrap();
        assert_eq!(service.read(4).await.unwrap(), b"ping");
        service.send("pong").await.unwrap();
        assert_eq!(client.read(4).await.unwrap(), b"pong");
    }
    // At the end of the gateway they end, too.
    drop(sockets);
    let lines = gateway.shutdown().await.unwrap();
    assert_eq!(lines.len(), 20);
}

#[tokio::test]
async fn the_end_of_the_drain_time_ends_websockets() {
    let server = RawServer::start().await.unwrap();
    let gateway = Setup::new()
        .access_log(LogFormat::Json)
        .options(|options| options.drain.longest = Duration::from_secs(1))
        .file("all.yaml", to(&server, "HTTP"))
        .start()
        .await
        .unwrap();
    let (mut client, mut service) = open(&gateway, &server).await;
    let ending = tokio::spawn(gateway.shutdown());
    // While the gateway drains it stays.
    client.send("ping").await.unwrap();
    assert_eq!(service.read(4).await.unwrap(), b"ping");
    client.closed().await.unwrap();
    service.closed().await.unwrap();
    let lines = ending.await.unwrap().unwrap();
    assert_eq!((lines.len(), &entry(&lines[0])["bytes_received"]), (1, &4.into()));
}

#[tokio::test]
async fn a_side_that_breaks_ends_the_other() {
    let (gateway, server) = start().await;
    let (client, mut service) = open(&gateway, &server).await;
    client.reset().unwrap();
    service.closed().await.unwrap();
    assert_eq!(entry(&gateway.access_log(1).await.unwrap()[0])["response_flags"], "DC");
    let (mut client, service) = open(&gateway, &server).await;
    service.reset().unwrap();
    client.closed().await.unwrap();
    assert_eq!(entry(&gateway.access_log(2).await.unwrap()[1])["response_flags"], "UC");
    eventually("the worker to forget both", async || {
        let open = gateway.metrics().await?.sum("gateway_downstream_connections", &[]);
        Ok((open == 0.0).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_websocket_inside_tls() {
    let authority = Authority::new("tests").unwrap();
    let issued = authority.server(&[HOST]).unwrap();
    let server = RawServer::start().await.unwrap();
    let gateway = Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &[HOST], "mode: SIMPLE, credentialName: cert"))
        .file("secret.yaml", secret("cert", &issued, None))
        .file("service.yaml", service_at("sample", "HTTP", &[server.address().unwrap()]))
        .file("route.yaml", virtual_service("all", &["*"], "  - route: [{destination: {host: sample}}]"))
        .start()
        .await
        .unwrap();
    let tls = TlsClient::new(&[&authority]).unwrap();
    let mut client = tls.http1(gateway.address(443).unwrap(), HOST).await.unwrap();
    client.send(handshake("/chat", "websocket")).await.unwrap();
    let mut service = server.answer(SWITCH.to_owned() + "first").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 101);
    assert_eq!(client.read(5).await.unwrap(), b"first");
    // More than TLS takes at once, both ways.
    let large: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
    let (sent, received) = tokio::join!(client.send(&large), service.read(large.len()));
    sent.unwrap();
    assert!(received.unwrap() == large);
    let (sent, received) = tokio::join!(service.send(&large), client.read(large.len()));
    sent.unwrap();
    assert!(received.unwrap() == large);
    service.finish_sending().await.unwrap();
    client.closed().await.unwrap();
    client.finish_sending().await.unwrap();
    service.closed().await.unwrap();
    gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
    // A handshake that is refused leaves the connection in order.
    let mut client = tls.connect(gateway.address(443).unwrap(), HOST, &["http/1.1"]).await.unwrap();
    client.write_all(handshake("/chat", "tls/1.3").as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // Without TLS's own goodbye this would be an error.
    within("the end of a refused connection", client.read_to_end(&mut all)).await.unwrap().unwrap();
    assert!(all.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&all));
}

#[tokio::test]
async fn plugins_see_the_handshake_and_nothing_after_it() {
    let server = RawServer::start().await.unwrap();
    let script = "request_headers=add:x-plugin,1;response_headers=add:x-plugin,2;request_body=trap;response_body=trap";
    let gateway = Setup::new()
        .file("all.yaml", to(&server, "HTTP"))
        .file("plugins.yaml", probe("a", script, ""))
        .start()
        .await
        .unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let mut client = gateway.client().await.unwrap();
    client.send(handshake("/chat", "websocket")).await.unwrap();
    let mut service = server.accept().await.unwrap();
    let (_, headers) = service.request_head().await.unwrap();
    assert_eq!((value(&headers, "upgrade"), value(&headers, "x-plugin")), (Some("websocket"), Some("1")));
    service.send(SWITCH).await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("x-plugin")), (101, Some("2")));
    client.send("ping").await.unwrap();
    assert_eq!(service.read(4).await.unwrap(), b"ping");
    drop(client);
    service.closed().await.unwrap();
}

#[tokio::test]
async fn plugins_may_prevent_a_websocket() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .file("plugins.yaml", probe("a", "", ""))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    let asking =
        |script: &str| handshake("/", "websocket").replace("\r\n\r\n", &format!("\r\nx-probe-a: {script}\r\n\r\n"));
    client.send(asking("request_headers=remove:upgrade")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((request.header("upgrade"), request.header("connection")), (None, None));
    client.send(asking("request_headers=reply:418")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 418);
}

#[tokio::test]
async fn websockets_may_be_quiet() {
    let server = RawServer::start().await.unwrap();
    let short = Duration::from_millis(500);
    let gateway = Setup::new()
        .options(|options| {
            options.client_limits.request_head_timeout = short;
            options.client_limits.idle_timeout = short;
            options.client_limits.request_body_timeout = short;
            options.client_limits.response_write_timeout = short;
        })
        .file("all.yaml", to(&server, "HTTP"))
        .start()
        .await
        .unwrap();
    let (mut client, mut service) = open(&gateway, &server).await;
    // Time that has to pass: longer than every limit and what the sweep adds to it.
    tokio::time::sleep(3 * short + Duration::from_millis(500)).await;
    client.send("ping").await.unwrap();
    assert_eq!(service.read(4).await.unwrap(), b"ping");
    service.send("pong").await.unwrap();
    assert_eq!(client.read(4).await.unwrap(), b"pong");
}

#[tokio::test]
async fn a_side_that_is_left_alone_ends_some_time() {
    let server = RawServer::start().await.unwrap();
    let gateway = Setup::new()
        .access_log(LogFormat::Json)
        .options(|options| options.client_limits.upgrade_half_closed_timeout = Duration::from_millis(300))
        .file("all.yaml", to(&server, "HTTP"))
        .start()
        .await
        .unwrap();
    let (mut client, mut service) = open(&gateway, &server).await;
    client.finish_sending().await.unwrap();
    service.closed().await.unwrap();
    // The service does not end its side; the gateway does.
    client.closed().await.unwrap();
    let entry = entry(&gateway.access_log(1).await.unwrap()[0]);
    assert_eq!((&entry["response_flags"], &entry["response_code"]), (&"SI".into(), &101.into()));
    let limit = [("limit", "upgrade_half_closed_time")];
    gateway.metric_becomes("gateway_limit_exceeded_total", &limit, 1.0).await.unwrap();
}
