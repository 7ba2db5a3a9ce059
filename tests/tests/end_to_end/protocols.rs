//! HTTP/1.1 and HTTP/2 on both sides: bodies of every kind, trailers, connections that are used again.

use bytes::Bytes;
use gateway_tests::body::Outgoing;
use gateway_tests::client::RawServer;
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, everything_to, service_at, virtual_service};
use gateway_tests::server::Protocol::{self, Http1, Http2};
use gateway_tests::upstream::{Answer, Gate, Upstream};
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use http_body_util::BodyExt;
use std::cell::Cell;

const HOST: &str = "test.example.dev";

async fn start(protocol: Protocol) -> (TestGateway, Upstream) {
    let upstream = Upstream::start(protocol).await.unwrap();
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    (gateway, upstream)
}

/// A gateway in front of a server for which the test does everything.
async fn in_front_of(server: &RawServer) -> TestGateway {
    let resources = GATEWAY.to_owned()
        + &service_at("sample", "HTTP", &[server.address().unwrap()])
        + &virtual_service("everything", &["*"], "  - route: [{destination: {host: sample}}]");
    Setup::new().file("all.yaml", resources).start().await.unwrap()
}

fn post(body: Outgoing) -> Request<Outgoing> {
    Request::post(format!("http://{HOST}/")).body(body).unwrap()
}

/// Bytes in which a piece that is lost, doubled or out of place shows.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn every_protocol_meets_every_other() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        upstream.answer_with(|request| Answer::echo().header("x-method", request.method.as_str()));
        let version = if protocol == Http1 { Version::HTTP_11 } else { Version::HTTP_2 };

        let mut client = gateway.client().await.unwrap();
        client.send(format!("POST /a?b=c HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\n\r\nhello")).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.version.as_str(), response.status, response.text().as_str()), ("HTTP/1.1", 200, "hello"));
        client
            .send(format!(
                "PUT /a HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
            ))
            .await
            .unwrap();
        assert_eq!(client.response().await.unwrap().text(), "hello");

        let mut client = gateway.h2_client().await.unwrap();
        assert_eq!(client.fetch(post(Outgoing::full("hello"))).await.unwrap().body, "hello");
        let chunks = Outgoing::chunks(["he", "llo"], HeaderMap::new());
        let response = client.fetch(post(chunks)).await.unwrap();
        assert_eq!(response.body, "hello");
        assert_eq!(response.headers["x-method"], "POST");
        assert_eq!(client.get(HOST, "/").await.unwrap().body, "");

        let requests = upstream.received(5).await.unwrap();
        for request in &requests {
            assert_eq!((request.version, request.header("host"), request.complete), (version, Some(HOST), true));
        }
        assert_eq!((requests[0].target.as_str(), requests[0].header("content-length")), ("/a?b=c", Some("5")));
        assert_eq!(requests[1].header("content-length"), None);
        assert_eq!((requests[4].method.clone(), requests[4].body.len()), (Method::GET, 0));
        assert_eq!(requests[4].header("transfer-encoding"), None);
        assert_eq!(upstream.connections(), 1, "one connection serves them all");
        gateway.metric_becomes("gateway_upstream_connections_reused_total", &[], 4.0).await.unwrap();
    }
}

#[tokio::test]
async fn a_get_may_have_a_body() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        upstream.answer_with(|_| Answer::echo());
        let mut client = gateway.client().await.unwrap();
        for body in ["content-length: 5\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
            client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{body}")).await.unwrap();
            assert_eq!(client.response().await.unwrap().text(), "hello", "{body}");
        }
        let request = Request::get(format!("http://{HOST}/")).body(Outgoing::chunks(["hello"], HeaderMap::new()));
        let response = gateway.h2_client().await.unwrap().fetch(request.unwrap()).await.unwrap();
        assert_eq!(response.body, "hello");
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let body = pattern(8 << 20);
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        upstream.answer_with(|_| Answer::echo());
        let mut h2 = gateway.h2_client().await.unwrap();
        let response = h2.fetch(post(Outgoing::full(body.clone()))).await.unwrap();
        assert!(response.body == body, "{} of {} bytes", response.body.len(), body.len());
        let chunks: Vec<_> = body.chunks(100_000).map(Bytes::copy_from_slice).collect();
        let response = h2.fetch(post(Outgoing::chunks(chunks, HeaderMap::new()))).await.unwrap();
        assert!(response.body == body, "{} of {} bytes", response.body.len(), body.len());

        let mut client = gateway.client().await.unwrap();
        client
            .send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", body.len()))
            .await
            .unwrap();
        client.send(&body).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!(response.header_values("content-length"), [body.len().to_string()]);
        assert!(response.body == body, "{} of {} bytes", response.body.len(), body.len());
        assert!(upstream.requests().iter().all(|request| request.body == body && request.complete));
    }
}

#[tokio::test]
async fn pieces_pass_while_the_rest_is_still_to_come() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let (answer, response_body) = Answer::streamed(200);
        upstream.answer_next(answer.early());
        let (request_body, body) = Outgoing::channel();
        let mut client = gateway.h2_client().await.unwrap();
        let mut response = client.send(post(body)).await.unwrap();
        assert_eq!(response.status(), 200, "the answer has come before the request was complete");
        for piece in ["one", "two"] {
            response_body.send(piece).await.unwrap();
            let frame = gateway_tests::within("a piece", response.body_mut().frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
        request_body.send("up").await.unwrap();
        request_body.send("load").await.unwrap();
        drop(request_body);
        let request = upstream.received(1).await.unwrap().remove(0);
        assert_eq!((&request.body[..], request.complete), (&b"upload"[..], true));
        response_body.send("three").await.unwrap();
        drop(response_body);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "three");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_service() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 1024;
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let (answer, body) = Answer::streamed(200);
        upstream.answer_next(answer);
        let mut client = gateway.client().await.unwrap();
        client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
        client.head().await.unwrap();
        let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = std::sync::Arc::clone(&sent);
        let sending = tokio::spawn(async move {
            for _ in 0..CHUNKS {
                body.send(vec![7; CHUNK]).await?;
                counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        // It has come to a stop when it stays where it is for a hundred looks.
        let (last, looks) = (Cell::new(0), Cell::new(0));
        let stopped = eventually("the service to stop sending", async || {
            let now = sent.load(std::sync::atomic::Ordering::Relaxed);
            looks.set(if last.replace(now) == now && now > 0 { looks.get() + 1 } else { 0 });
            Ok((looks.get() == 100).then_some(now))
        });
        let stopped = stopped.await.unwrap();
        // The buffers of the kernel hold some MiB on each of the two connections; the gateway less than one.
        assert!(stopped * CHUNK < 24 << 20, "{protocol:?}: {stopped} chunks have left before any was read");
        let mut read = 0;
        while read < CHUNK * CHUNKS {
            read += client.chunk().await.unwrap().len();
        }
        assert!(client.chunk().await.unwrap().is_empty());
        sending.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_service_that_does_not_read_stops_the_client() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let gate = Gate::shut();
        upstream.answer_next(Answer::new(200).read_after(&gate));
        let (sender, body) = Outgoing::channel();
        let mut client = gateway.h2_client().await.unwrap();
        let response = tokio::spawn(async move { client.fetch(post(body)).await });
        let sent = Cell::new(0);
        let (last, looks) = (Cell::new(0), Cell::new(0));
        let sending = async {
            // The body ends when its sender goes with this block.
            let sender = sender;
            while sent.get() < 1024 {
                sender.send(vec![7; 64 * 1024]).await.unwrap();
                sent.set(sent.get() + 1);
            }
        };
        let stopped = eventually("the client to be stopped", async || {
            looks.set(if last.replace(sent.get()) == sent.get() && sent.get() > 0 { looks.get() + 1 } else { 0 });
            Ok((looks.get() == 100).then_some(()))
        });
        tokio::pin!(sending);
        tokio::select! {
            () = &mut sending => panic!("{protocol:?}: all 64 MiB have left before any was read"),
            stopped = stopped => stopped.unwrap(),
        }
        assert!(sent.get() * 64 < 24 << 10, "{protocol:?}: {} chunks have left before any was read", sent.get());
        gate.open();
        sending.await;
        assert_eq!(response.await.unwrap().unwrap().status, 200);
        assert_eq!(upstream.received(1).await.unwrap()[0].body.len(), 64 << 20);
    }
}

fn trailers(name: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static("at the end"))])
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let body = || Outgoing::chunks(["body"], trailers("x-response-trailer"));
        upstream.answer_with(move |_| Answer::new(200).header("trailer", "x-response-trailer").body(body()));
        let request = Request::post(format!("http://{HOST}/"))
            .header("te", "trailers")
            .header("trailer", "x-request-trailer")
            .body(Outgoing::chunks(["body"], trailers("x-request-trailer")))
            .unwrap();
        let response = gateway.h2_client().await.unwrap().fetch(request).await.unwrap();
        assert_eq!((&response.body[..], response.trailers), (&b"body"[..], Some(trailers("x-response-trailer"))));
        let request = upstream.received(1).await.unwrap().remove(0);
        assert_eq!((&request.body[..], request.trailers), (&b"body"[..], Some(trailers("x-request-trailer"))));

        let mut client = gateway.client().await.unwrap();
        client
            .send(format!(
                "POST / HTTP/1.1\r\nhost: {HOST}\r\nte: trailers\r\ntrailer: x-request-trailer\r\n\
                 transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-request-trailer: at the end\r\n\r\n"
            ))
            .await
            .unwrap();
        let response = client.response().await.unwrap();
        assert_eq!(response.trailers, [("x-response-trailer".to_owned(), "at the end".to_owned())]);
        let request = upstream.received(2).await.unwrap().remove(1);
        assert_eq!((&request.body[..], request.trailers), (&b"body"[..], Some(trailers("x-request-trailer"))));
    }
}

#[tokio::test]
async fn the_status_of_grpc_is_in_its_trailers() {
    let (gateway, upstream) = start(Http2).await;
    let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("5"))]);
    upstream.answer_next(
        Answer::new(200).header("content-type", "application/grpc").body(Outgoing::chunks(["\0\0\0\0\0"], status)),
    );
    let request = Request::post(format!("http://{HOST}/service/Method"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Outgoing::full("\0\0\0\0\0"))
        .unwrap();
    let response = gateway.h2_client().await.unwrap().fetch(request).await.unwrap();
    assert_eq!(response.trailers.unwrap()["grpc-status"], "5");
    assert_eq!(upstream.received(1).await.unwrap()[0].header("te"), Some("trailers"));
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", "5"), ("response_code", "200")];
    gateway.metric_becomes("istio_requests_total", &labels, 1.0).await.unwrap();
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        upstream.answer_with(|request| match request.target.as_str() {
            "/204" => Answer::new(204),
            "/304" => Answer::new(304).header("etag", "\"1\""),
            "/empty" => Answer::new(200),
            _ => Answer::new(200).text("hello"),
        });
        let mut client = gateway.client().await.unwrap();
        client.send(format!("HEAD /head HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
        let head = client.head().await.unwrap();
        assert_eq!((head.status, head.header_values("content-length")), (200, vec!["5"]), "{protocol:?}");
        for (path, status, length) in [("/204", 204, None), ("/304", 304, None), ("/empty", 200, Some("0"))] {
            let response = client.get(HOST, path).await.unwrap();
            assert_eq!((response.status, response.body.len()), (status, 0), "{protocol:?} {path}");
            assert_eq!(response.header("content-length"), length, "{protocol:?} {path}");
            assert_eq!(response.header("transfer-encoding"), None, "{protocol:?} {path}");
        }
        assert_eq!(client.get(HOST, "/").await.unwrap().text(), "hello");
        assert_eq!(upstream.connections(), 1);

        let mut client = gateway.h2_client().await.unwrap();
        let head = Request::head(format!("http://{HOST}/head")).body(Outgoing::empty()).unwrap();
        let response = client.fetch(head).await.unwrap();
        assert_eq!((response.headers.get("content-length").unwrap(), response.body.len()), (&HeaderValue::from(5), 0));
        assert_eq!(client.get(HOST, "/304").await.unwrap().status, 304);
        // Each of them is a complete answer.
        gateway.metric_becomes("istio_requests_total", &[("response_flags", "-")], 7.0).await.unwrap();
    }
}

#[tokio::test]
async fn a_post_without_a_body_stays_one() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(&server).await;
    let mut client = gateway.client().await.unwrap();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n")).await.unwrap();
    let mut service = server.accept().await.unwrap();
    let (line, headers) = service.request_head().await.unwrap();
    assert_eq!(line, "POST / HTTP/1.1");
    let framing: Vec<_> =
        headers.iter().filter(|(name, _)| name == "content-length" || name == "transfer-encoding").collect();
    assert_eq!(framing, [&("content-length".to_owned(), "0".to_owned())]);
    service.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "ok");
}

#[tokio::test]
async fn connections_are_used_again_on_both_sides() {
    let (gateway, upstream) = start(Http1).await;
    let mut client = gateway.client().await.unwrap();
    for _ in 0..10 {
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    }
    // Another client shares them.
    assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
    assert!(upstream.requests().iter().all(|request| request.connection == 1));
    gateway.metric_becomes("gateway_downstream_connections_total", &[], 2.0).await.unwrap();

    // Two requests at once need two.
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate));
    client.send(format!("GET /held HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    upstream.received(12).await.unwrap();
    assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
    gate.open();
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn both_sides_may_ask_for_an_end() {
    let (gateway, upstream) = start(Http1).await;
    upstream.answer_next(Answer::new(200).header("connection", "close").text("last"));
    let mut client = gateway.client().await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().text(), "last");
    upstream.open_connections(0).await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")).await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    client.closed().await.unwrap();
    let requests = upstream.received(2).await.unwrap();
    assert_eq!((requests[1].connection, requests[1].header("connection")), (2, None));
    // The service's connection has nothing to do with it.
    upstream.open_connections(1).await.unwrap();
}

#[tokio::test]
async fn requests_may_come_before_their_turn() {
    let (gateway, upstream) = start(Http1).await;
    upstream.answer_with(|request| Answer::new(200).text(request.target.clone()));
    let mut client = gateway.client().await.unwrap();
    let requests: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).collect();
    client.send(requests).await.unwrap();
    for n in 0..20 {
        assert_eq!(client.response().await.unwrap().text(), format!("/{n}"));
    }
}

#[tokio::test]
async fn requests_of_one_http2_connection_do_not_wait_for_each_other() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let gate = Gate::shut();
        upstream.answer_next(Answer::new(201).after(&gate));
        let mut client = gateway.h2_client().await.unwrap();
        let mut slow = client.clone();
        let slow = tokio::spawn(async move { slow.get(HOST, "/slow").await });
        upstream.received(1).await.unwrap();
        for _ in 0..10 {
            assert_eq!(client.get(HOST, "/quick").await.unwrap().status, 200);
        }
        gate.open();
        assert_eq!(slow.await.unwrap().unwrap().status, 201);
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let (gateway, upstream) = start(Http1).await;
    upstream.answer_with(|_| Answer::echo());
    let mut client = gateway.client().await.unwrap();
    client
        .send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"))
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().status, 100);
    client.send("hello").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "hello");
    assert_eq!(upstream.received(1).await.unwrap()[0].header("expect"), None);
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_framed_anew() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(&server).await;
    let mut client = gateway.client().await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    drop(server.answer("HTTP/1.1 200 OK\r\n\r\nuntil the end").await.unwrap());
    let response = client.response().await.unwrap();
    assert_eq!((response.text().as_str(), response.header("transfer-encoding")), ("until the end", Some("chunked")));
    // Interim answers are not for the client's request.
    client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    let answer = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let _service = server.answer(answer).await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
}

#[tokio::test]
async fn http10_where_it_is_wanted() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .options(|options| options.client_limits.http10 = true)
        .start()
        .await
        .unwrap();
    upstream.answer_with(|_| Answer::new(200).body(Outgoing::chunks(["in ", "pieces"], HeaderMap::new())));
    let head = |more: &str| format!("GET /old HTTP/1.0\r\nhost: test.example.dev\r\n{more}\r\n");

    // Chunks mean nothing to such a client: the end of the connection is the end of the body.
    let mut client = gateway.client().await.unwrap();
    client.send(head("connection: upgrade\r\nupgrade: websocket\r\n")).await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "in pieces"));
    assert_eq!(response.header("transfer-encoding"), None);
    client.closed().await.unwrap();
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((request.version, request.header("upgrade")), (Version::HTTP_11, None));

    // With a length the connection can be kept, if the client asks for it.
    upstream.answer_with(|_| Answer::new(200).text("whole"));
    let mut client = gateway.client().await.unwrap();
    for _ in 0..2 {
        client.send(head("connection: keep-alive\r\n")).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "whole"));
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
    client.send("GET /old HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 400, "a host is needed all the same");
}
