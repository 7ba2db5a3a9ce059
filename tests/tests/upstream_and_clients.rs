//! The tools of the end-to-end tests, tested on each other.
#![allow(clippy::unwrap_used, reason = "tests")]

use gateway_tests::body::Outgoing;
use gateway_tests::client::{H2Client, RawClient};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Gate, Upstream};
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body_util::BodyExt;

#[tokio::test]
async fn requests_are_recorded_as_they_came() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    client
        .send("POST /a?b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n")
        .await
        .unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("content-length")), (200, Some("0")));

    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/a?b"));
    assert_eq!((request.version, request.connection), (Version::HTTP_11, 1));
    assert_eq!(request.header_values("x-a"), ["1", "2"]);
    assert_eq!(request.body, "abcde");
    assert_eq!(request.trailers.unwrap().get("x-sum").unwrap(), "5");
    assert!(request.complete);
}

#[tokio::test]
async fn connections_are_counted_and_reused() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let mut first = RawClient::connect(upstream.address()).await.unwrap();
    let mut second = RawClient::connect(upstream.address()).await.unwrap();
    for client in [&mut first, &mut second] {
        client.get("x", "/").await.unwrap();
        client.get("x", "/").await.unwrap();
    }
    let mut numbers: Vec<usize> = upstream.requests().iter().map(|request| request.connection).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 1, 2, 2]);

    drop(first);
    upstream.open_connections(1).await.unwrap();
    upstream.close_connections().await.unwrap();
    second.closed().await.unwrap();

    let mut third = RawClient::connect(upstream.address()).await.unwrap();
    assert_eq!(third.get("x", "/").await.unwrap().status, 200);
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn answers_are_used_in_order_and_then_the_rule() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_next(Answer::new(503).header("x-n", "1"));
    upstream.answer_next(Answer::echo());
    upstream.answer_with(|request| Answer::new(200).text(format!("you asked for {}", request.target)));
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    let response = client.get("x", "/").await.unwrap();
    assert_eq!((response.status, response.header("x-n")), (503, Some("1")));
    client.send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nping").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "ping");
    assert_eq!(client.get("x", "/third").await.unwrap().text(), "you asked for /third");
}

#[tokio::test]
async fn a_gate_holds_the_answer_but_not_the_record() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(204).after(&gate));
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(upstream.received(1).await.unwrap().len(), 1);
    gate.open();
    assert_eq!(client.response().await.unwrap().status, 204);
}

#[tokio::test]
async fn a_gate_holds_the_reading_of_a_body() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).early().read_after(&gate));
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    client.send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    assert!(upstream.requests().is_empty());
    gate.open();
    client.send("ping").await.unwrap();
    assert_eq!(upstream.received(1).await.unwrap()[0].body, "ping");
}

#[tokio::test]
async fn streamed_bodies_arrive_piece_by_piece_and_can_break() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let mut client = RawClient::connect(upstream.address()).await.unwrap();

    let (answer, body) = Answer::streamed(200);
    upstream.answer_next(answer);
    client.send("GET / HTTP/1.1\r\nhost: x\r\nte: trailers\r\n\r\n").await.unwrap();
    let head = client.head().await.unwrap();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    for piece in ["one", "two"] {
        body.send(piece).await.unwrap();
        assert_eq!(client.chunk().await.unwrap(), piece.as_bytes());
    }
    body.abort().await.unwrap();
    client.closed().await.unwrap();
}

#[tokio::test]
async fn hanging_up_closes_without_a_word() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_next(Answer::hang_up());
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    client.closed().await.unwrap();
    upstream.open_connections(0).await.unwrap();
}

#[tokio::test]
async fn an_unfinished_body_is_recorded_as_such() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    client.send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
    drop(client);
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((request.body.as_ref(), request.complete), (&b"half"[..], false));
}

#[tokio::test]
async fn http2_carries_bodies_and_trailers_both_ways() {
    let upstream = Upstream::start(Protocol::Http2).await.unwrap();
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    upstream.answer_next(Answer::new(200).body(Outgoing::chunks(["a", "b"], trailers.clone())));
    upstream.answer_next(Answer::hang_up());

    let mut client = H2Client::connect(upstream.address()).await.unwrap();
    let body = Outgoing::chunks(["x", "yz"], trailers);
    let request = Request::post("http://test.example.dev/call?q").body(body).unwrap();
    let response = client.fetch(request).await.unwrap();
    assert_eq!((response.status.as_u16(), response.body.as_ref()), (200, &b"ab"[..]));
    assert_eq!(response.trailers.unwrap().get("grpc-status").unwrap(), "0");

    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((request.version, request.target.as_str()), (Version::HTTP_2, "/call?q"));
    assert_eq!(request.header("host"), Some("test.example.dev"));
    assert_eq!(request.body, "xyz");
    assert_eq!(request.trailers.unwrap().get("grpc-status").unwrap(), "0");

    assert!(client.get("test.example.dev", "/reset").await.is_err(), "the stream is reset");
    assert_eq!(client.get("test.example.dev", "/").await.unwrap().status.as_u16(), 200, "the connection is not");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn http2_answers_stream_while_the_request_does() {
    let upstream = Upstream::start(Protocol::Either).await.unwrap();
    let (answer, sender) = Answer::streamed(200);
    upstream.answer_next(answer.early());
    let (request_body, outgoing) = Outgoing::channel();
    let mut client = H2Client::connect(upstream.address()).await.unwrap();
    let request = Request::post("http://x/").body(outgoing).unwrap();
    let mut response = client.send(request).await.unwrap();
    for piece in ["a", "b"] {
        request_body.send(piece).await.unwrap();
        sender.send(piece).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(request_body);
    assert_eq!(upstream.received(1).await.unwrap()[0].body, "ab");
    drop(response);
    sender.unread().await.unwrap();
}

#[tokio::test]
async fn either_protocol_is_told_by_its_first_bytes() {
    let upstream = Upstream::start(Protocol::Either).await.unwrap();
    let mut client = RawClient::connect(upstream.address()).await.unwrap();
    // Byte by byte, and with a method that begins like the preface of HTTP/2.
    for byte in b"PROPFIND / HTTP/1.1\r\nhost: x\r\n\r\n" {
        client.send([*byte]).await.unwrap();
    }
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(H2Client::connect(upstream.address()).await.unwrap().get("x", "/").await.unwrap().status, 200);
    let versions: Vec<Version> = upstream.received(2).await.unwrap().iter().map(|request| request.version).collect();
    assert_eq!(versions, [Version::HTTP_11, Version::HTTP_2]);
}
