//! The end of the process, and clients that are asked to leave: nothing that was accepted is lost.

use gateway::app::DrainTimes;
use gateway::telemetry::LogFormat;
use gateway_tests::body::Outgoing;
use gateway_tests::client::{H2Client, RawClient, unused_address};
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, everything_to, virtual_service};
use gateway_tests::server::Protocol::Http1;
use gateway_tests::upstream::{Answer, Gate, Upstream};
use http::Request;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const HOST: &str = "test.example.dev";

/// Waits until an answer on a new connection says that the connection ends.
async fn asked_to_leave(address: SocketAddr) {
    eventually("clients to be asked to leave", async || {
        let response = RawClient::connect(address).await?.get(HOST, "/").await?;
        assert_eq!(response.status, 200);
        Ok((response.header("connection") == Some("close")).then_some(()))
    })
    .await
    .unwrap();
}

async fn status_of(address: SocketAddr, path: &str) -> u16 {
    RawClient::connect(address).await.unwrap().get(&address.to_string(), path).await.unwrap().status
}

async fn post(gateway: &TestGateway, path: &str) -> (u16, String) {
    let admin = gateway.gateway().admin().admin;
    let mut client = RawClient::connect(admin).await.unwrap();
    client.send(format!("POST {path} HTTP/1.1\r\nhost: {admin}\r\ncontent-length: 0\r\n\r\n")).await.unwrap();
    let response = client.response().await.unwrap();
    (response.status, response.text())
}

#[tokio::test]
async fn until_the_last_request_has_ended_everything_is_served() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let setup = Setup::new().workers(2).file("all.yaml", everything_to(&upstream)).access_log(LogFormat::Text);
    let gateway = setup.start().await.unwrap();
    let address = gateway.address(80).unwrap();
    let (agent, status) = (gateway.gateway().admin().agent, gateway.gateway().admin().status);
    let mut idle = gateway.client().await.unwrap();
    assert_eq!(idle.get(HOST, "/").await.unwrap().header("connection"), None);
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate).text("late"));
    let mut waiting = gateway.client().await.unwrap();
    waiting.send(format!("GET /waiting HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    upstream.received(2).await.unwrap();
    let (answer, body) = Answer::streamed(200);
    upstream.answer_next(answer);
    let mut streaming = gateway.h2_client().await.unwrap();
    let request = Request::get(format!("http://{HOST}/streaming")).body(Outgoing::empty()).unwrap();
    let response = streaming.send(request).await.unwrap();

    let ending = tokio::spawn(gateway.shutdown());
    asked_to_leave(address).await;
    for address in [agent, status] {
        assert_eq!(status_of(address, "/healthz/ready").await, 503);
    }
    // A kept connection is not closed under a request that may be on its way.
    assert_eq!(idle.get(HOST, "/").await.unwrap().header("connection"), Some("close"));
    idle.closed().await.unwrap();
    // GOAWAY: requests that came before it are answered, more are not sent.
    eventually("GOAWAY", async || {
        Ok(match streaming.get(HOST, "/").await {
            Ok(response) => {
                assert_eq!(response.status, 200);
                None
            }
            Err(_) => Some(()),
        })
    })
    .await
    .unwrap();
    // New HTTP/2 connections get an answer, and then GOAWAY.
    let mut late_client = H2Client::connect(address).await.unwrap();
    assert_eq!(late_client.get(HOST, "/").await.unwrap().status, 200);
    eventually("GOAWAY", async || Ok(late_client.get(HOST, "/").await.is_err().then_some(()))).await.unwrap();

    gate.open();
    let late = waiting.response().await.unwrap();
    assert_eq!((late.text().as_str(), late.header("connection")), ("late", Some("close")));
    body.send("to the ").await.unwrap();
    body.send("end").await.unwrap();
    drop(body);
    let streamed = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(streamed, "to the end");
    let lines = ending.await.unwrap().unwrap();
    assert_eq!(lines.len(), upstream.requests().len(), "every request is in the log: {lines:#?}");
    assert!(RawClient::connect(address).await.is_err());
    upstream.open_connections(0).await.unwrap();
}

#[tokio::test]
async fn the_end_does_not_wait_for_those_who_never_finish() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let times = DrainTimes { shortest: Duration::ZERO, longest: Duration::from_millis(200) };
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .access_log(LogFormat::Text)
        .options(|options| options.drain = times)
        .start()
        .await
        .unwrap();
    let never = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&never));
    let mut client = gateway.client().await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    upstream.received(1).await.unwrap();
    let lines = gateway.shutdown().await.unwrap();
    assert!(client.response().await.is_err());
    assert_eq!(lines.len(), 1, "{lines:#?}");
    upstream.open_connections(0).await.unwrap();
}

#[tokio::test]
async fn the_end_does_not_wait_for_connections_without_a_request() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let times = DrainTimes { shortest: Duration::ZERO, longest: Duration::from_secs(60) };
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .options(|options| options.drain = times)
        .start()
        .await
        .unwrap();
    let mut silent = gateway.client().await.unwrap();
    let mut idle = gateway.client().await.unwrap();
    assert_eq!(idle.get(HOST, "/").await.unwrap().status, 200);
    gateway.metric_becomes("gateway_downstream_connections", &[], 2.0).await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    let begin = Instant::now();
    gateway.shutdown().await.unwrap();
    silent.closed().await.unwrap();
    idle.closed().await.unwrap();
    // Well below the 10 s after which the silent one is closed anyway.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn operators_ask_clients_to_leave_and_to_come_again() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new().workers(2).file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let (address, status) = (gateway.address(80).unwrap(), gateway.gateway().admin().status);
    for path in ["/healthcheck/fail", "/drain_listeners?graceful"] {
        assert_eq!(post(&gateway, path).await, (200, "OK\n".to_owned()), "{path}");
        assert_eq!(status_of(status, "/healthz/ready").await, 503);
        assert_eq!(gateway.admin_json("/server_info").await.unwrap()["state"], "DRAINING");
        asked_to_leave(address).await;
        assert_eq!(post(&gateway, "/healthcheck/ok").await.0, 200);
        assert_eq!(status_of(status, "/healthz/ready").await, 200);
        let mut client = gateway.client().await.unwrap();
        eventually("connections to be kept again", async || {
            let response = client.get(HOST, "/").await?;
            if response.header("connection").is_some() {
                client = gateway.client().await?;
            }
            Ok(response.header("connection").is_none().then_some(()))
        })
        .await
        .unwrap();
    }
    assert_eq!(post(&gateway, "/drain_listeners").await.0, 400, "closing at once would lose requests");
    assert_eq!(gateway.admin("/healthcheck/fail").await.unwrap().status, 405);
}

/// Asks again and again, each time on a new connection, until connections are refused. Says how many were answered.
async fn knock(address: SocketAddr, since: Instant) -> Result<usize, String> {
    let mut answered = 0;
    loop {
        let Ok(mut client) = RawClient::connect(address).await else { return Ok(answered) };
        match client.get(HOST, "/").await {
            Ok(response) if response.status == 200 => answered += 1,
            Ok(response) => return Err(format!("{response:?}")),
            Err(error) => return Err(format!("after {:?} and {answered} answers: {error:#}", since.elapsed())),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_process_that_ends_answers_whoever_comes() {
    let home = tempfile::tempdir().unwrap();
    let answer = "  - directResponse: {status: 200, body: {string: 'here'}}";
    let text = GATEWAY.to_owned() + &virtual_service("v", &[HOST], answer);
    std::fs::write(home.path().join("all.yaml"), text).unwrap();
    // Whoever gets the port when the gateway has let go of it must not be asked in its place.
    let bind = format!("--bind=80={}", unused_address().unwrap());
    let arguments = ["--minimum-drain-seconds=1", "--drain-seconds=5", &bind];
    let program = env!("CARGO_BIN_EXE_gateway-command");
    let mut process = Process::start(program, home.path(), &arguments).await.unwrap();
    let (address, status) = (process.address().unwrap(), process.status().unwrap());
    let mut idle = RawClient::connect(address).await.unwrap();
    assert_eq!(idle.get(HOST, "/").await.unwrap().text(), "here");
    let begin = Instant::now();
    let clients: Vec<_> = (0..4).map(|_| tokio::spawn(knock(address, begin))).collect();
    process.signal("TERM").unwrap();
    asked_to_leave(address).await;
    assert_eq!(status_of(status, "/healthz/ready").await, 503);
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap().unwrap_or_else(|error| panic!("{error}; it said:\n{}", process.log()));
    }
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(answered > 100, "only {answered}");
    idle.closed().await.unwrap();
    assert_eq!(process.ended().await.unwrap().code(), Some(0), "{}", process.log());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("all.yaml"), GATEWAY).unwrap();
    let arguments = ["--minimum-drain-seconds=1000", "--drain-seconds=2000"];
    let program = env!("CARGO_BIN_EXE_gateway-command");
    let mut process = Process::start(program, home.path(), &arguments).await.unwrap();
    process.signal("TERM").unwrap();
    let said = async || Ok(process.log().contains("asking clients to leave").then_some(()));
    eventually("the first signal to be taken", said).await.unwrap();
    process.signal("TERM").unwrap();
    assert_eq!(process.ended().await.unwrap().code(), Some(0));
}
