//! Which requests are sent again, how often, and that the upstream gets the whole of them each time.

use gateway_tests::client::{RawResponse, RawServer, unused_address};
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, service, service_at, virtual_service};
use gateway_tests::server::Protocol::{self, Http1, Http2};
use gateway_tests::upstream::{Answer, Gate, Upstream};

const HOST: &str = "test.example.dev";

/// A gateway whose only route has this policy; empty: none.
async fn with_policy(services: &str, retries: &str) -> TestGateway {
    let retries = if retries.is_empty() { String::new() } else { format!("    retries: {retries}\n") };
    let route = format!("  - route: [{{destination: {{host: sample}}}}]\n{retries}");
    let resources = GATEWAY.to_owned() + services + &virtual_service("everything", &["*"], &route);
    Setup::new().file("all.yaml", resources).start().await.unwrap()
}

async fn start(protocol: Protocol, retries: &str) -> (TestGateway, Upstream) {
    let upstream = Upstream::start(protocol).await.unwrap();
    (with_policy(&service("sample", &[&upstream]), retries).await, upstream)
}

async fn post(gateway: &TestGateway, headers: &str, body: &[u8]) -> RawResponse {
    let mut client = gateway.client().await.unwrap();
    let head = format!("POST /x HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n");
    client.send([head.as_bytes(), body].concat()).await.unwrap();
    client.response().await.unwrap()
}

async fn retries(gateway: &TestGateway) -> f64 {
    gateway.metrics().await.unwrap().sum("gateway_upstream_retries_total", &[])
}

#[tokio::test]
async fn a_503_is_passed_on_by_default() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol, "").await;
        upstream.answer_with(|_| Answer::new(503));
        assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 503);
        assert_eq!(upstream.requests().len(), 1);
        gateway.metric_becomes("istio_requests_total", &[("response_flags", "-")], 1.0).await.unwrap();
    }
}

#[tokio::test]
async fn the_whole_body_is_sent_each_time() {
    for protocol in [Http1, Http2] {
        for (framing, chunked) in [("content-length: 5000\r\n", false), ("transfer-encoding: chunked\r\n", true)] {
            let (gateway, upstream) = start(protocol, "{attempts: 2, retryOn: 5xx, backoff: 1ms}").await;
            upstream.answer_next(Answer::new(503));
            upstream.answer_next(Answer::new(500));
            upstream.answer_next(Answer::echo());
            let body: Vec<u8> = (0..5000_u32).map(|at| (at % 251) as u8).collect();
            let wire = if chunked {
                let (one, two) = body.split_at(1234);
                let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
                [chunk(one), chunk(two), b"0\r\n\r\n".to_vec()].concat()
            } else {
                body.clone()
            };
            let response = post(&gateway, framing, &wire).await;
            assert_eq!((response.status, &response.body), (200, &body));
            let requests = upstream.received(3).await.unwrap();
            assert_eq!(requests.len(), 3);
            for (at, request) in requests.iter().enumerate() {
                assert!(request.complete && request.body == body, "attempt {at} over {protocol:?}");
                assert_eq!(request.header("x-envoy-attempt-count"), Some((at + 1).to_string().as_str()));
            }
            assert_eq!(retries(&gateway).await, 2.0);
        }
    }
}

#[tokio::test]
async fn attempts_are_used_up() {
    let (gateway, upstream) = start(Http1, "{attempts: 2, retryOn: '503', backoff: 1ms}").await;
    upstream.answer_with(|_| Answer::new(503).text("still not"));
    let response = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
    // The last answer is the client's.
    assert_eq!((response.status, response.text().as_str()), (503, "still not"));
    assert_eq!(upstream.requests().len(), 3);
    gateway.metric_becomes("istio_requests_total", &[("response_flags", "URX")], 1.0).await.unwrap();
}

#[tokio::test]
async fn an_empty_policy_means_no_retries() {
    let gateway = with_policy(&service_at("sample", "HTTP", &[unused_address().unwrap()]), "{}").await;
    let response = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
    assert_eq!(response.status, 503);
    assert_eq!(
        response.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
    );
    gateway.metric_becomes("istio_requests_total", &[("response_flags", "UF")], 1.0).await.unwrap();
    assert_eq!(retries(&gateway).await, 0.0);
}

#[tokio::test]
async fn a_long_body_is_sent_once() {
    let (gateway, upstream) = start(Http1, "{attempts: 2, retryOn: 5xx, backoff: 1ms}").await;
    upstream.answer_with(|_| Answer::new(503));
    let body = vec![b'x'; 64 * 1024 + 1];
    let response = post(&gateway, &format!("content-length: {}\r\n", body.len()), &body).await;
    assert_eq!(response.status, 503);
    assert_eq!(upstream.requests().len(), 1);
    let limit = [("limit", "retry_buffer_bytes")];
    gateway.metric_becomes("gateway_limit_exceeded_total", &limit, 1.0).await.unwrap();
    // Exactly as much as is kept is kept.
    let response = post(&gateway, &format!("content-length: {}\r\n", body.len() - 1), &body[1..]).await;
    assert_eq!(response.status, 503);
    assert_eq!(upstream.requests().len(), 4);
    assert!(upstream.requests().iter().all(|request| request.complete && request.body.len() >= 64 * 1024));
}

#[tokio::test]
async fn a_request_that_was_reset_is_sent_again_only_if_the_policy_says_so() {
    for (policy, expected, attempts) in [("", 503, 1), ("{attempts: 1, retryOn: reset, backoff: 1ms}", 200, 2)] {
        let (gateway, upstream) = start(Http1, policy).await;
        upstream.answer_next(Answer::hang_up());
        let response = post(&gateway, "content-length: 5\r\n", b"hello").await;
        assert_eq!(response.status, expected, "{policy}");
        let requests = upstream.received(attempts).await.unwrap();
        assert_eq!(requests.len(), attempts);
        assert!(requests.iter().all(|request| &*request.body == b"hello"));
    }
}

#[tokio::test]
async fn what_is_sent_again_is_the_request_and_nothing_of_an_answer() {
    let server = RawServer::start().await.unwrap();
    let services = service_at("sample", "HTTP", &[server.address().unwrap()]);
    let gateway = with_policy(&services, "{attempts: 1, retryOn: 5xx}").await;
    let mut client = gateway.client().await.unwrap();
    client.send(format!("GET /path HTTP/1.1\r\nhost: {HOST}\r\nx-mine: 1\r\n\r\n")).await.unwrap();
    // Its head is taken before it turns out that it must not be.
    let unasked = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\nx-theirs: 1\r\n\r\n";
    drop(server.answer(unasked).await.unwrap());
    let mut again = server.accept().await.unwrap();
    let (line, headers) = again.request_head().await.unwrap();
    let has = |name: &str| headers.iter().any(|(known, _)| known == name);
    assert!(line.starts_with("GET /path ") && has("host") && has("x-mine") && !has("x-theirs"), "{line} {headers:?}");
    again.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long() {
    let (gateway, upstream) = start(Http1, "{attempts: 1, perTryTimeout: 100ms, retryOn: 5xx, backoff: 1ms}").await;
    let never = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&never));
    let response = post(&gateway, "content-length: 5\r\n", b"hello").await;
    assert_eq!(response.status, 200);
    assert_eq!(upstream.received(2).await.unwrap().len(), 2);

    upstream.answer_next(Answer::new(200).after(&never));
    upstream.answer_next(Answer::new(200).after(&never));
    let response = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (504, "upstream request timeout"));
    gateway.metric_becomes("istio_requests_total", &[("response_flags", "UT,URX")], 1.0).await.unwrap();
}

#[tokio::test]
async fn an_attempt_is_timed_from_the_end_of_the_request() {
    let (gateway, upstream) = start(Http1, "{attempts: 1, perTryTimeout: 200ms, retryOn: 5xx}").await;
    let mut client = gateway.client().await.unwrap();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\n\r\nab")).await.unwrap();
    // A client that takes its time is not the upstream's fault. Twice the limit, on purpose.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    client.send("cd").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    let requests = upstream.received(1).await.unwrap();
    assert_eq!((requests.len(), &*requests[0].body), (1, b"abcd".as_slice()));
}

#[tokio::test]
async fn an_endpoint_that_was_tried_is_avoided() {
    let (bad, good) = (Upstream::start(Http1).await.unwrap(), Upstream::start(Http1).await.unwrap());
    bad.answer_with(|_| Answer::new(503));
    let policy = "{attempts: 2, retryOn: gateway-error, backoff: 1ms}";
    let gateway = with_policy(&service("sample", &[&bad, &good]), policy).await;
    let mut client = gateway.client().await.unwrap();
    let mut answered = 0;
    for _ in 0..40 {
        answered += usize::from(client.get(HOST, "/").await.unwrap().status == 200);
    }
    assert!(answered >= 37, "{answered} of 40");
    assert!(!bad.requests().is_empty(), "the bad one was never chosen first");
    assert_eq!(good.requests().len(), answered);
}

#[tokio::test]
async fn grpc_that_is_unavailable_is_tried_again_by_default() {
    let (gateway, upstream) = start(Http2, "").await;
    let unavailable = || Answer::new(200).header("content-type", "application/grpc").header("grpc-status", "14");
    upstream.answer_next(unavailable());
    upstream.answer_next(Answer::new(200).header("content-type", "application/grpc").header("grpc-status", "0"));
    let headers = "content-type: application/grpc\r\nte: trailers\r\ncontent-length: 5\r\n";
    let response = post(&gateway, headers, b"\0\0\0\0\0").await;
    assert_eq!(response.header("grpc-status"), Some("0"));
    let requests = upstream.received(2).await.unwrap();
    assert!(requests.len() == 2 && requests.iter().all(|request| &*request.body == b"\0\0\0\0\0"));

    // Not gRPC: the same header means nothing.
    upstream.answer_next(unavailable());
    assert_eq!(post(&gateway, "content-length: 0\r\n", b"").await.header("grpc-status"), Some("14"));
    assert_eq!(upstream.received(3).await.unwrap().len(), 3);
}
