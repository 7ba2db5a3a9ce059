//! What differs between HTTP/1.1 and HTTP/2 and must not show: cookies, bodies that are not there, trailers, expectations.

use gateway_tests::body::Outgoing;
use gateway_tests::client::RawServer;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, everything_to, service_at, virtual_service};
use gateway_tests::server::Protocol::{self, Http1, Http2};
use gateway_tests::upstream::{Answer, Upstream};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;

const HOST: &str = "test.example.dev";

async fn start(protocol: Protocol) -> (TestGateway, Upstream) {
    let upstream = Upstream::start(protocol).await.unwrap();
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    (gateway, upstream)
}

async fn in_front_of(server: &RawServer) -> TestGateway {
    let resources = GATEWAY.to_owned()
        + &service_at("sample", "HTTP", &[server.address().unwrap()])
        + &virtual_service(
            "some",
            &["*"],
            "
  - match: [{headers: {cookie: {exact: 'a=1; b=2; c=3'}}}]
    directResponse: {status: 299}
  - match: [{uri: {prefix: /direct}}]
    directResponse: {status: 403}
  - route: [{destination: {host: sample}}]",
        );
    Setup::new().file("all.yaml", resources).start().await.unwrap()
}

#[tokio::test]
async fn a_cookie_in_crumbs_is_one_header() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let request = Request::get(format!("http://{HOST}/"))
            .header("cookie", "a=1")
            .header("x-between", "1")
            .header("cookie", "b=2; c=3")
            .header("cookie", "d=4")
            .body(Outgoing::empty())
            .unwrap();
        assert_eq!(gateway.h2_client().await.unwrap().fetch(request).await.unwrap().status, 200);
        let request = upstream.received(1).await.unwrap().remove(0);
        assert_eq!(request.header_values("cookie"), ["a=1; b=2; c=3; d=4"], "{protocol:?}");
    }
    // Before routes are looked for.
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(&server).await;
    let request = Request::get(format!("http://{HOST}/")).header("cookie", "a=1").header("cookie", "b=2; c=3");
    let response = gateway.h2_client().await.unwrap().fetch(request.body(Outgoing::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status.as_u16(), 299);
}

#[tokio::test]
async fn lengths_of_bodies_that_are_not_there() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(&server).await;
    let mut h1 = gateway.client().await.unwrap();
    let mut h2 = gateway.h2_client().await.unwrap();
    let mut service = None;
    for (method, status, forwarded) in
        [("HEAD", "200 OK", Some("5")), ("GET", "304 Not Modified", Some("5")), ("GET", "204 No Content", None)]
    {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n");
        h1.send(format!("{method} / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
        let mut connection = match service.take() {
            None => server.accept().await.unwrap(),
            Some(connection) => connection,
        };
        connection.request_head().await.unwrap();
        connection.send(&answer).await.unwrap();
        let head = h1.head().await.unwrap();
        assert_eq!(head.status.to_string(), status[..3]);
        // An upstream must not say it with a 204 (RFC 9110 8.6), and we do not.
        assert!(head.header("content-length").is_none() || head.header("content-length") == forwarded, "{head:?}");
        assert!(status != "204 No Content" || head.header("content-length").is_none(), "{head:?}");

        let request = Request::builder().method(method).uri(format!("http://{HOST}/")).body(Outgoing::empty());
        let response = tokio::spawn({
            let mut h2 = h2.clone();
            async move { h2.fetch(request.unwrap()).await }
        });
        connection.request_head().await.unwrap();
        connection.send(&answer).await.unwrap();
        let response = response.await.unwrap().unwrap();
        assert_eq!((response.status.as_str(), response.body.len()), (&status[..3], 0));
        let length = response.headers.get("content-length").map(|length| length.to_str().unwrap());
        assert_eq!(length, forwarded, "{status}");
        service = Some(connection);
    }
    // Both connections go on.
    let direct = h2.get(HOST, "/direct").await.unwrap();
    assert_eq!((direct.status.as_u16(), h1.get(HOST, "/direct").await.unwrap().status), (403, 403));
}

#[tokio::test]
async fn a_long_body_passes_whole_and_one_that_breaks_off_does_not_look_complete() {
    const LENGTH: usize = 3_000_000;
    let body: Vec<u8> = (0..LENGTH).map(|n| (n / 251) as u8).collect();
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(&server).await;
    let mut client = gateway.client().await.unwrap();
    let ask = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.send(&ask).await.unwrap();
    let mut connection = server.accept().await.unwrap();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
    for _ in 0..2 {
        connection.request_head().await.unwrap();
        connection.send(&answer).await.unwrap();
        let mut response = client.head().await.unwrap();
        // The client reads while the service writes, and what follows on the connection is the next answer.
        let (sent, read) = tokio::join!(connection.send(&body), client.body(&mut response));
        sent.and(read).unwrap();
        assert!(response.body == body);
        client.send(&ask).await.unwrap();
    }
    connection.request_head().await.unwrap();
    connection.send(&answer).await.unwrap();
    let mut response = client.head().await.unwrap();
    let broken = async {
        connection.send(&body[..LENGTH - 500_000]).await.unwrap();
        drop(connection);
    };
    let ((), read) = tokio::join!(broken, client.body(&mut response));
    let error = read.unwrap_err().to_string();
    assert_eq!(error, "the connection ended 500000 bytes too early");
    gateway.metric_becomes("envoy_http_downstream_cx_active", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn a_length_that_is_not_kept_resets_the_stream() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let mut client = gateway.h2_client().await.unwrap();
        for body in ["abc", "abcdefgh"] {
            let request = Request::post(format!("http://{HOST}/"))
                .header("content-length", "5")
                .body(Outgoing::chunks([body], HeaderMap::new()))
                .unwrap();
            assert!(client.fetch(request).await.is_err(), "{protocol:?} {body}");
        }
        // The other streams of the connection do not suffer.
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
        assert!(upstream.requests().iter().filter(|request| request.complete).all(|request| request.body.is_empty()));
    }
}

#[tokio::test]
async fn trailers_are_no_second_head() {
    let forbidden = ["x-forwarded-for", "x-envoy-internal", "authorization", "content-type", "x-request-id", "x-good"];
    let trailers = || {
        forbidden.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("evil"))).collect::<HeaderMap>()
    };
    let (gateway, upstream) = start(Http2).await;
    upstream.answer_next(Answer::new(200).body(Outgoing::chunks(["body"], trailers())));
    let request = Request::post(format!("http://{HOST}/")).body(Outgoing::chunks(["body"], trailers())).unwrap();
    let response = gateway.h2_client().await.unwrap().fetch(request).await.unwrap();
    let names = |trailers: Option<HeaderMap>| -> Vec<String> {
        trailers.unwrap().keys().map(|name| name.as_str().to_owned()).collect()
    };
    assert_eq!(names(response.trailers), ["x-good"]);
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!(names(request.trailers.clone()), ["x-good"]);
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn one_who_asks_first_may_be_refused() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(&server).await;
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 38\r\nexpect: 100-Continue\r\n\r\n")
    };
    // By us: no 100, and what the client sends all the same is a body and not a request.
    let mut client = gateway.client().await.unwrap();
    client.send(head("/direct")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 403);
    // The connection may have ended; then nothing comes.
    let _ = client.send("GET /direct HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert!(client.response().await.is_err());
    // By the service, before it has read the body.
    let mut client = gateway.client().await.unwrap();
    client.send(head("/")).await.unwrap();
    let mut service = server.answer("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let mut response = client.response().await.unwrap();
    if response.status == 100 {
        response = client.response().await.unwrap();
    }
    assert_eq!(response.status, 401);
    let _ = client.send("GET /admin HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    // No request comes of it: the service sees at most a body, and the end.
    drop(client);
    let rest = gateway_tests::within("the end of the connection", async {
        let mut rest = Vec::new();
        while let Ok(byte) = service.read(1).await {
            rest.extend(byte);
        }
        rest
    });
    assert!(rest.await.unwrap().len() <= 38);
    // What nobody knows cannot be kept.
    let mut client = gateway.client().await.unwrap();
    client
        .send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1\r\nexpect: more\r\n\r\nx"))
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().status, 417);
}

#[tokio::test]
async fn headers_of_one_connection_end_with_it() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol).await;
        let mut client = gateway.client().await.unwrap();
        client
            .send(format!(
                "GET http://{HOST}/a HTTP/1.1\r\nhost: other.example\r\nconnection: x-secret, Host, authorization\r\n\
                 connection: te, keep-alive\r\nx-secret: 1\r\nauthorization: mine\r\nkeep-alive: 5\r\n\
                 te: trailers, gzip\r\nproxy-connection: close\r\n\r\n"
            ))
            .await
            .unwrap();
        assert_eq!(client.response().await.unwrap().status, 200);
        let request = upstream.received(1).await.unwrap().remove(0);
        assert_eq!((request.target.as_str(), request.header("host")), ("/a", Some(HOST)));
        assert_eq!((request.header("authorization"), request.header("te")), (Some("mine"), Some("trailers")));
        for name in ["x-secret", "connection", "keep-alive", "proxy-connection"] {
            assert_eq!(request.header(name), None, "{protocol:?} {name}");
        }
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_never_looks_whole() {
    let server = RawServer::start().await.unwrap();
    let gateway = in_front_of(&server).await;
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ] {
        let mut h1 = gateway.client().await.unwrap();
        h1.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
        drop(server.answer(answer).await.unwrap());
        assert!(h1.response().await.is_err(), "{answer:?}");
        let mut h2 = gateway.h2_client().await.unwrap();
        let request = Request::get(format!("http://{HOST}/")).body(Outgoing::empty()).unwrap();
        let response = tokio::spawn(async move { h2.send(request).await });
        drop(server.answer(answer).await.unwrap());
        // The reset may overtake the head.
        if let Ok(response) = response.await.unwrap() {
            assert!(response.into_body().collect().await.is_err(), "{answer:?}");
        }
    }
}
