//! Clients that make no progress: what they hold is given back, and they are told why if they can be.

use gateway::app::Options;
use gateway::telemetry::LogFormat;
use gateway_tests::body::Outgoing;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::http2_frames::{END_HEADERS, END_STREAM, Frames, frame, get, kind};
use gateway_tests::plugins::probe;
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol::{self, Http1, Http2};
use gateway_tests::upstream::{Answer, Gate, Upstream};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use std::time::Duration;

const HOST: &str = "test.example.dev";
const SHORT: Duration = Duration::from_secs(1);

async fn start(protocol: Protocol, limits: impl FnOnce(&mut Options)) -> (TestGateway, Upstream) {
    let upstream = Upstream::start(protocol).await.unwrap();
    let setup = Setup::new().file("all.yaml", everything_to(&upstream)).access_log(LogFormat::Json).options(limits);
    (setup.start().await.unwrap(), upstream)
}

/// Waits until a limit was hit so many times.
async fn hit(gateway: &TestGateway, limit: &str, times: f64) {
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", limit)], times).await.unwrap();
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time() {
    let (gateway, upstream) = start(Http1, |options| options.client_limits.request_head_timeout = SHORT).await;
    for (number, begin) in [
        "GET".to_owned(),
        format!("POST /path HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\nx: "),
        format!("POST /path HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\n\r"),
    ]
    .iter()
    .enumerate()
    {
        let mut client = gateway.client().await.unwrap();
        client.send(begin).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (408, "request header timeout"), "{begin:?}");
        assert_eq!(response.header("connection"), Some("close"));
        client.closed().await.unwrap();
        hit(&gateway, "request_head_time", (number + 1) as f64).await;
    }
    let lines = gateway.access_log(3).await.unwrap();
    assert!(lines.iter().all(|line| line.contains("request_header_timeout")), "{lines:#?}");
    assert!(!lines[0].contains("/path") && lines[1].contains("/path"), "{lines:#?}");

    // Without a byte of it there is nobody to answer.
    let mut client = gateway.client().await.unwrap();
    client.closed().await.unwrap();
    hit(&gateway, "request_head_time", 4.0).await;

    // It does not matter what is before it; and a connection without a request is not in a hurry.
    let mut quiet = gateway.client().await.unwrap();
    assert_eq!(quiet.get(HOST, "/").await.unwrap().status, 200);
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate));
    let mut client = gateway.client().await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\nGET / HT")).await.unwrap();
    upstream.received(2).await.unwrap();
    gate.open();
    // What comes before its turn has time from its turn on.
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(client.response().await.unwrap().status, 408);
    hit(&gateway, "request_head_time", 5.0).await;
    assert_eq!(quiet.get(HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_without_a_request() {
    let (gateway, _upstream) = start(Http1, |options| options.client_limits.idle_timeout = SHORT).await;
    let mut client = gateway.client().await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    client.closed().await.unwrap();
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "idle_time")], 1.0).await.unwrap();
    let mut client = gateway.h2_client().await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "idle_time")], 2.0).await.unwrap();
}

#[tokio::test]
async fn a_body_that_does_not_go_on() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol, |options| options.client_limits.request_body_timeout = SHORT).await;
        // These two may take as long as they like: gRPC, and a request whose answer has begun.
        let mut unhurried = gateway.h2_client().await.unwrap();
        let (answer, answer_body) = Answer::streamed(200);
        upstream.answer_next(answer.early());
        let (answered_body, body) = Outgoing::channel();
        let answered = Request::post(format!("http://{HOST}/answered")).body(body).unwrap();
        let mut answered = unhurried.send(answered).await.unwrap();
        let (grpc_body, body) = Outgoing::channel();
        let grpc = Request::post(format!("http://{HOST}/grpc")).header("content-type", "application/grpc").body(body);
        let grpc = tokio::spawn(async move { unhurried.fetch(grpc.unwrap()).await });
        grpc_body.send("begin").await.unwrap();
        gateway.metric_becomes("gateway_requests_in_flight", &[], 2.0).await.unwrap();

        let mut client = gateway.client().await.unwrap();
        client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 10\r\n\r\nbegin")).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (408, "stream timeout"), "{protocol:?}");
        client.closed().await.unwrap();
        hit(&gateway, "request_body_time", 1.0).await;

        let mut client = gateway.h2_client().await.unwrap();
        let (sender, body) = Outgoing::channel();
        let request = Request::post(format!("http://{HOST}/")).body(body).unwrap();
        let sending = tokio::spawn(async move {
            sender.send("begin").await.unwrap();
            sender
        });
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status(), 408, "{protocol:?}");
        drop(sending.await.unwrap());
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200, "only the stream has ended");
        hit(&gateway, "request_body_time", 2.0).await;
        let labels = [("response_code", "408"), ("response_flags", "SI")];
        gateway.metric_becomes("istio_requests_total", &labels, 2.0).await.unwrap();

        grpc_body.send("end").await.unwrap();
        drop(grpc_body);
        assert_eq!(grpc.await.unwrap().unwrap().status, 200, "{protocol:?}");
        answered_body.send("end").await.unwrap();
        drop(answered_body);
        answer_body.send("done").await.unwrap();
        drop(answer_body);
        assert_eq!(answered.body_mut().collect().await.unwrap().to_bytes(), "done");
        let mut requests = upstream.requests().into_iter();
        assert!(requests.any(|request| request.target == "/grpc" && request.complete), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_body_that_a_plugin_waits_for() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .file("plugin.yaml", probe("p", "", ""))
        .options(|options| options.client_limits.request_body_timeout = SHORT)
        .start()
        .await
        .unwrap();
    for (rest, status) in [("5\r\nbegin\r\n", 408), ("5\r\nbegin\r\nzz\r\n", 400)] {
        let mut client = gateway.client().await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\nx-probe-p: @=whole;@=append:!\r\n");
        client.send(format!("{head}transfer-encoding: chunked\r\n\r\n{rest}")).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, status, "{rest:?}");
        client.closed().await.unwrap();
    }
    assert!(upstream.requests().iter().all(|request| !request.complete));
}

#[tokio::test]
async fn a_client_that_does_not_read() {
    for protocol in [Http1, Http2] {
        let (gateway, upstream) = start(protocol, |options| options.client_limits.response_write_timeout = SHORT).await;
        let endless = || Outgoing::chunks(vec![vec![7; 1 << 20]; 64], HeaderMap::new());
        upstream.answer_with(move |_| Answer::new(200).body(endless()));
        let mut client = gateway.client().await.unwrap();
        client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
        client.head().await.unwrap();
        hit(&gateway, "response_write_time", 1.0).await;
        gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();

        let mut client = gateway.h2_client().await.unwrap();
        let request = Request::get(format!("http://{HOST}/")).body(Outgoing::empty()).unwrap();
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        hit(&gateway, "response_write_time", 2.0).await;
        gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
        gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_reaches_a_client_that_is_still_sending() {
    let (gateway, _upstream) = start(Http1, |_| {}).await;
    for _ in 0..10 {
        let mut client = gateway.client().await.unwrap();
        client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\nx : y\r\n\r\n")).await.unwrap();
        for _ in 0..64 {
            if client.send(vec![7; 16 * 1024]).await.is_err() {
                break;
            }
        }
        assert_eq!(client.response().await.unwrap().status, 400);
        client.closed().await.unwrap();
    }
}

/// A hundred answers for which a client makes no room, or room for a byte now and then (reliability.md C-7).
#[tokio::test]
async fn a_client_that_holds_a_hundred_answers_back_is_not_served_for_ever() {
    for drips in [false, true] {
        let (gateway, upstream) =
            start(Http1, |options| options.client_limits.response_write_timeout = SHORT * 2).await;
        upstream.answer_with(|_| Answer::new(200).text(vec![7; 64 * 1024]));
        let mut client = Frames::connect(gateway.address(80).unwrap()).await.unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE
        client.send(frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
        let streams: Vec<u32> = (1..200).step_by(2).collect();
        for stream in &streams {
            client.send(frame(kind::HEADERS, END_HEADERS | END_STREAM, *stream, &get(HOST, []))).await.unwrap();
        }
        upstream.received(100).await.unwrap();
        let dripping = async {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                for stream in &streams {
                    // The connection may be over.
                    let _ = client.send(frame(kind::WINDOW_UPDATE, 0, *stream, &[0, 0, 0, 1])).await;
                }
            }
        };
        let ended = async {
            hit(&gateway, "response_write_time", 1.0).await;
            gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
            gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
        };
        tokio::select! {
            () = dripping, if drips => {}
            () = ended => {}
        }
    }
}

/// Pieces of a head that come one by one make it complete, also where the last of them is all that is read at once.
#[tokio::test]
async fn an_http2_head_in_pieces_is_complete_with_the_last() {
    let (gateway, upstream) = start(Http1, |options| options.client_limits.request_head_timeout = SHORT * 3).await;
    let gate = Gate::shut();
    let shut = gate.clone();
    upstream.answer_with(move |_| Answer::new(200).after(&shut));
    let mut client = Frames::connect(gateway.address(80).unwrap()).await.unwrap();
    let head = get(HOST, [("x-large", "x".repeat(10_000).as_str())]);
    let (first, last) = head.split_at(5_000);
    client.send(frame(kind::HEADERS, END_STREAM, 1, first)).await.unwrap();
    gateway.metric_becomes("gateway_downstream_connections", &[], 1.0).await.unwrap();
    client.send(frame(kind::CONTINUATION, END_HEADERS, 1, last)).await.unwrap();
    upstream.begun(1).await.unwrap();
    // Somebody who came later and whose head is not complete is given up; this one is not.
    let mut other = gateway.client().await.unwrap();
    other.send("GET").await.unwrap();
    hit(&gateway, "request_head_time", 1.0).await;
    gate.open();
    client.find(|frame| frame.stream == 1 && frame.is_end_stream()).await.unwrap();
}
