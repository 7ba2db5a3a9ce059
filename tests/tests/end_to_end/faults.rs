//! Services that are not there, leave, or talk nonsense; clients that leave. What the other side sees of it.

use gateway_tests::body::Outgoing;
use gateway_tests::client::{RawResponse, RawServer, unused_address};
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, everything_to, service, service_at, virtual_service};
use gateway_tests::server::Protocol::{self, Http1, Http2};
use gateway_tests::upstream::{Answer, Gate, Upstream};
use http::Request;
use http_body_util::BodyExt;
use std::net::SocketAddr;

const HOST: &str = "test.example.dev";

async fn start(protocol: Protocol) -> (TestGateway, Upstream) {
    let upstream = Upstream::start(protocol).await.unwrap();
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    (gateway, upstream)
}

/// A gateway in front of whatever listens there.
async fn in_front_of(address: SocketAddr, protocol: &str) -> TestGateway {
    let resources = GATEWAY.to_owned()
        + &service_at("sample", protocol, &[address])
        + &virtual_service("everything", &["*"], "  - route: [{destination: {host: sample}}]");
    Setup::new().file("all.yaml", resources).start().await.unwrap()
}

/// The request has ended with this code and these flags, and with it everything that was counted for it.
async fn over(gateway: &TestGateway, code: &str, flags: &str, count: f64) {
    let labels = [("response_code", code), ("response_flags", flags)];
    gateway.metric_becomes("istio_requests_total", &labels, count).await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")
}

#[tokio::test]
async fn a_service_that_refuses_connections() {
    for protocol in ["HTTP", "HTTP2"] {
        let gateway = in_front_of(unused_address().unwrap(), protocol).await;
        let response = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
        assert_eq!(response.status, 503);
        assert_eq!(
            response.text(),
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
             remote connection failure"
        );
        over(&gateway, "503", "UF,URX", 1.0).await;
        assert_eq!(gateway.metrics().await.unwrap().sum("gateway_upstream_connect_failures_total", &[]), 3.0);
        assert_eq!(gateway.metrics().await.unwrap().sum("gateway_upstream_retries_total", &[]), 2.0);
    }
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_refuses() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let resources = GATEWAY.to_owned()
        + &service_at("sample", "HTTP", &[unused_address().unwrap(), upstream.address()])
        + &virtual_service("everything", &["*"], "  - route: [{destination: {host: sample}}]");
    let gateway = Setup::new().file("all.yaml", resources).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    let mut answered = 0;
    for _ in 0..50 {
        answered += usize::from(client.get(HOST, "/").await.unwrap().status == 200);
    }
    // An endpoint that was tried is avoided: all three attempts hit the dead one in one of 512 requests.
    assert!(answered >= 45, "{answered} of 50");
    assert_eq!(upstream.requests().len(), answered);
}

#[tokio::test]
async fn services_without_endpoints_and_services_that_nobody_knows() {
    let resources = GATEWAY.to_owned()
        + "
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default}
spec: {ports: [{name: http, port: 80}]}
---
" + &virtual_service(
        "routes",
        &["*"],
        "
  - {match: [{uri: {prefix: /empty}}], route: [{destination: {host: empty}}]}
  - {match: [{uri: {prefix: /unknown}}], route: [{destination: {host: unknown}}]}",
    );
    let gateway = Setup::new().file("all.yaml", resources).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    let empty = client.get(HOST, "/empty").await.unwrap();
    assert_eq!((empty.status, empty.text().as_str()), (503, "no healthy upstream"));
    over(&gateway, "503", "UH", 1.0).await;
    let unknown = client.get(HOST, "/unknown").await.unwrap();
    assert_eq!((unknown.status, unknown.text().as_str()), (503, ""));
    over(&gateway, "503", "NC", 1.0).await;
    let codes: Vec<_> = gateway.problems().iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["GW0106", "IST0101"]);
}

#[tokio::test]
async fn a_service_that_hangs_up_instead_of_answering() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        upstream.answer_next(Answer::hang_up());
        let mut client = gateway.client().await.unwrap();
        let response = client.get(HOST, "/").await.unwrap();
        assert_eq!(response.status, 503, "{protocol:?}");
        assert!(
            response.text().starts_with("upstream connect error or disconnect/reset before headers. reset reason:")
        );
        assert_eq!(upstream.requests().len(), 1, "{protocol:?}: what a service has seen is not sent again");
        over(&gateway, "503", if protocol == Http1 { "UC" } else { "UR" }, 1.0).await;
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_service_has_closed_goes_unnoticed() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let mut client = gateway.client().await.unwrap();
        for round in 1..=20 {
            assert_eq!(client.get(HOST, "/").await.unwrap().status, 200, "{protocol:?} {round}");
            upstream.close_connections().await.unwrap();
            client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi")).await.unwrap();
            assert_eq!(client.response().await.unwrap().status, 200, "{protocol:?} {round}");
            upstream.close_connections().await.unwrap();
        }
        assert_eq!(upstream.requests().len(), 40);
        assert!(upstream.requests().iter().all(|request| request.complete));
    }
}

#[tokio::test]
async fn a_service_that_closes_while_a_request_is_on_its_way() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(server.address().unwrap(), "HTTP").await;
    let mut client = gateway.client().await.unwrap();
    client.send(get("/first")).await.unwrap();
    let mut service = server.answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);

    // A GET on a kept connection is repeated on a fresh one: the service may have closed it for being idle.
    client.send(get("/second")).await.unwrap();
    assert_eq!(service.request_head().await.unwrap().0, "GET /second HTTP/1.1");
    drop(service);
    let mut service = server.accept().await.unwrap();
    let (line, headers) = service.request_head().await.unwrap();
    assert_eq!(line, "GET /second HTTP/1.1");
    assert!(headers.contains(&("x-envoy-attempt-count".to_owned(), "2".to_owned())), "{headers:?}");
    service.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);

    // A POST may have done something.
    client.send(format!("POST /third HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi")).await.unwrap();
    assert_eq!(service.request_head().await.unwrap().0, "POST /third HTTP/1.1");
    assert_eq!(service.read(2).await.unwrap(), b"hi");
    drop(service);
    assert_eq!(client.response().await.unwrap().status, 503);
    over(&gateway, "503", "UC", 1.0).await;

    // On a fresh connection there is no such excuse.
    client.send(get("/fourth")).await.unwrap();
    let mut service = server.accept().await.unwrap();
    assert_eq!(service.request_head().await.unwrap().0, "GET /fourth HTTP/1.1");
    drop(service);
    assert_eq!(client.response().await.unwrap().status, 503);
    over(&gateway, "503", "UC", 2.0).await;
}

/// Sends a GET, has the service answer these bytes and close, and reads what the client gets.
async fn answer(gateway: &TestGateway, server: &RawServer, bytes: impl AsRef<[u8]>) -> anyhow::Result<RawResponse> {
    let mut client = gateway.client().await?;
    client.send(get("/")).await?;
    drop(server.answer(bytes).await?);
    client.response().await
}

#[tokio::test]
async fn a_service_that_talks_nonsense() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(server.address().unwrap(), "HTTP").await;
    let nonsense = [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(),
        "HTTP/1.1 9999 What\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", (0..101).map(|n| format!("x-{n}: v\r\n")).collect::<String>()),
        format!("HTTP/1.1 200 OK\r\nx-large: {}\r\n\r\n", "v".repeat(66_000)),
        format!("HTTP/1.1 200 OK\r\nx-large: {}\r\n\r\n", "v".repeat(200_000)),
    ];
    for (at, bytes) in nonsense.iter().enumerate() {
        let response = answer(&gateway, &server, bytes).await.unwrap();
        let shown = &bytes[..bytes.len().min(60)];
        assert_eq!(response.status, 502, "{shown:?}");
        assert_eq!(
            response.text(),
            "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
            "{shown:?}"
        );
        over(&gateway, "502", "UPE", (at + 1) as f64).await;
    }
    let counted = [("limit", "response_head_bytes")];
    gateway.metric_becomes("gateway_limit_exceeded_total", &counted, 3.0).await.unwrap();
}

#[tokio::test]
async fn an_answer_with_two_framings_has_one_when_it_leaves() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(server.address().unwrap(), "HTTP").await;
    for bytes in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
    ] {
        let response = answer(&gateway, &server, bytes).await.unwrap();
        // Refusing such an answer is right, too; passing it on as it is would not be.
        if response.status != 502 {
            assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{bytes:?}");
            let length = response.header("content-length");
            assert!(length.is_none() || length == Some("5"), "{bytes:?}: {length:?}");
        }
    }
}

#[tokio::test]
async fn a_service_that_dies_in_the_middle_of_a_body() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(server.address().unwrap(), "HTTP").await;
    for head in ["content-length: 100\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let broken = answer(&gateway, &server, format!("HTTP/1.1 200 OK\r\n{head}")).await;
        assert!(broken.is_err(), "a body that is not complete looks complete: {broken:?}");
    }
    over(&gateway, "200", "UC", 2.0).await;

    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let (answer, body) = Answer::streamed(200);
        upstream.answer_next(answer);
        let mut client = gateway.h2_client().await.unwrap();
        let request = Request::get(format!("http://{HOST}/")).body(Outgoing::empty()).unwrap();
        let mut response = client.send(request).await.unwrap();
        body.send("part").await.unwrap();
        assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "part");
        body.abort().await.unwrap();
        let end = gateway_tests::within("the end", response.body_mut().frame()).await.unwrap();
        assert!(matches!(end, Some(Err(_))), "{protocol:?}: {end:?}");
        // The client's other streams go on.
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
        over(&gateway, "200", if protocol == Http1 { "UC" } else { "UR" }, 1.0).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let never = Gate::shut();
        upstream.answer_next(Answer::new(200).after(&never));
        let mut client = gateway.client().await.unwrap();
        client.send(get("/")).await.unwrap();
        upstream.received(1).await.unwrap();
        drop(client);
        over(&gateway, "0", "DC", 1.0).await;
        if protocol == Http1 {
            upstream.open_connections(0).await.unwrap();
        }
        gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_a_download() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let (answer, body) = Answer::streamed(200);
        upstream.answer_next(answer);
        let mut client = gateway.client().await.unwrap();
        client.send(get("/")).await.unwrap();
        client.head().await.unwrap();
        body.send("part").await.unwrap();
        client.chunk().await.unwrap();
        drop(client);
        body.unread().await.unwrap();
        over(&gateway, "200", "DC", 1.0).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_an_upload() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let mut client = gateway.client().await.unwrap();
        client
            .send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n"))
            .await
            .unwrap();
        upstream.begun(1).await.unwrap();
        drop(client);
        let request = upstream.received(1).await.unwrap().remove(0);
        assert!(!request.complete, "{protocol:?}: an upload that was broken off looks complete");
        over(&gateway, "0", "DC", 1.0).await;
    }
}

#[tokio::test]
async fn a_client_that_resets_its_stream() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let (answer, body) = Answer::streamed(200);
        upstream.answer_next(answer);
        let mut client = gateway.h2_client().await.unwrap();
        let request = Request::get(format!("http://{HOST}/")).body(Outgoing::empty()).unwrap();
        let response = client.send(request).await.unwrap();
        drop(response);
        body.unread().await.unwrap();
        over(&gateway, "200", "DC", 1.0).await;
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_request() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        upstream.answer_next(Answer::new(413).early().text("too much"));
        let mut client = gateway.client().await.unwrap();
        client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1000000\r\n\r\nbegin")).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (413, "too much"));
        over(&gateway, "413", "-", 1.0).await;
        // Whatever becomes of that connection, others are served.
        assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn what_a_service_sends_unasked_is_nobodys_answer() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(server.address().unwrap(), "HTTP").await;
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let mut client = gateway.client().await.unwrap();
    for with_the_answer in [true, false] {
        client.send(get("/first")).await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned();
        let mut service = server.answer(answer + if with_the_answer { evil } else { "" }).await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), "ok");
        if !with_the_answer {
            service.send(evil).await.unwrap();
        }
        client.send(get("/second")).await.unwrap();
        let second =
            server.answer("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\ngood").await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), "good");
        // The connection that said too much is not used any more.
        service.closed().await.unwrap();
        drop(second);
    }
}

#[tokio::test]
async fn connections_to_services_are_counted_while_they_are_open() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
        gateway.metric_becomes("gateway_upstream_connections", &[], 1.0).await.unwrap();
        upstream.close_connections().await.unwrap();
        gateway.metric_becomes("gateway_upstream_connections", &[], 0.0).await.unwrap();
        gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
    }
}

#[tokio::test]
async fn an_upload_that_nobody_wants_is_answered_all_the_same() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let nothing = "  - {match: [{uri: {exact: /wanted}}], route: [{destination: {host: sample}}]}";
    let resources = GATEWAY.to_owned() + &service("sample", &[&upstream]) + &virtual_service("v", &["*"], nothing);
    let gateway = Setup::new().file("all.yaml", resources).start().await.unwrap();
    let body = vec![7; 4 << 20];
    for _ in 0..10 {
        let mut client = gateway.client().await.unwrap();
        let head = format!("POST /unwanted HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", body.len());
        client.send(head).await.unwrap();
        // The gateway may close the connection before it has read everything.
        let _ = client.send(&body).await;
        assert_eq!(client.response().await.unwrap().status, 404);
    }
    let mut client = gateway.h2_client().await.unwrap();
    for _ in 0..10 {
        let request = Request::post(format!("http://{HOST}/unwanted")).body(Outgoing::full(body.clone())).unwrap();
        assert_eq!(client.fetch(request).await.unwrap().status, 404);
    }
    assert_eq!(client.get(HOST, "/wanted").await.unwrap().status, 200);
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}
