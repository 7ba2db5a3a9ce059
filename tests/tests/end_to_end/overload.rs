//! When the gateway itself is at its limits: what it sheds, what it reports, and that it comes back.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gateway::overload::MemoryLimit;
use gateway::telemetry::LogFormat;
use gateway_tests::body::Outgoing;
use gateway_tests::client::{H2Client, RawClient};
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::interference::interfere;
use gateway_tests::plugins::probe;
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol::Http1;
use gateway_tests::upstream::{Answer, Gate, Upstream};
use gateway_tests::{eventually, within};
use http::Request;
use tokio::net::TcpStream;

const HOST: &str = "test.example.dev";

/// Writes what a cgroup with a limit of 100,000 bytes says when it uses so many percent of it.
fn use_memory(cgroup: &Path, percent: u32) {
    let write = |name: &str, text: String| fs::write(cgroup.join(name), text).unwrap();
    if !cgroup.join("memory.max").exists() {
        write("memory.max", "100000\n".to_owned());
        write("memory.stat", "anon 1\ninactive_file 500\n".to_owned());
    }
    write("memory.current", format!("{}\n", percent * 1000 + 500));
}

async fn at_stage(gateway: &TestGateway, stage: u8) {
    gateway.metric_becomes("gateway_overload_stage", &[], f64::from(stage)).await.unwrap();
}

async fn shed(gateway: &TestGateway, limit: &str) -> f64 {
    gateway.metrics().await.unwrap().sum("gateway_limit_exceeded_total", &[("limit", limit)])
}

#[tokio::test]
async fn memory_that_runs_out_is_answered_in_stages() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let cgroup = tempfile::tempdir().unwrap();
    use_memory(cgroup.path(), 50);
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .access_log(LogFormat::CustomText("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%".to_owned()))
        .options(|options| options.overload.memory = MemoryLimit::Folder(cgroup.path().to_owned()))
        .start()
        .await
        .unwrap();
    let mut idle = gateway.client().await.unwrap();
    let mut kept = gateway.client().await.unwrap();
    let mut multiplexed = gateway.h2_client().await.unwrap();
    for client in [&mut idle, &mut kept] {
        assert_eq!(client.get(HOST, "/").await.unwrap().header("connection"), None);
    }
    assert_eq!(multiplexed.get(HOST, "/").await.unwrap().status, 200);
    let info = gateway.admin_json("/server_info").await.unwrap();
    assert_eq!((&info["overload"], &info["memory"]["limitBytes"]), (&"normal".into(), &100_000.into()), "{info}");

    // A stage begins, and everything is still answered; but clients are asked to go.
    use_memory(cgroup.path(), 81);
    at_stage(&gateway, 1).await;
    let response = kept.get(HOST, "/").await.unwrap();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    kept.closed().await.unwrap();
    assert_eq!(multiplexed.get(HOST, "/").await.unwrap().status, 200);
    eventually("GOAWAY", async || Ok(multiplexed.get(HOST, "/").await.is_err().then_some(()))).await.unwrap();
    // Without a request a connection holds memory for nothing.
    idle.closed().await.unwrap();
    assert!(shed(&gateway, "memory_keep_alive").await >= 2.0);
    assert_eq!(shed(&gateway, "idle_time").await, 1.0);

    // A request that is being served is served to its end; new ones are not.
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate).text("late"));
    let mut served = gateway.client().await.unwrap();
    served.send(format!("GET /waits HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    eventually("the request at the upstream", async || {
        Ok(upstream.requests().iter().any(|request| request.target == "/waits").then_some(()))
    })
    .await
    .unwrap();
    let mut begun = gateway.client().await.unwrap();
    begun.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n")).await.unwrap();
    use_memory(cgroup.path(), 86);
    at_stage(&gateway, 2).await;
    let arrived = upstream.requests().len();
    // Nor are heads kept that are not complete.
    begun.send("x-more: of it\r\n").await.unwrap();
    assert_eq!(begun.response().await.unwrap().text(), "envoy overloaded");
    begun.closed().await.unwrap();
    let response = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (503, "envoy overloaded"));
    assert_eq!(response.header("connection"), Some("close"));
    let grpc = Request::post(format!("http://{HOST}/a.B/C")).header("content-type", "application/grpc");
    let response = gateway.h2_client().await.unwrap().fetch(grpc.body(Outgoing::empty()).unwrap()).await.unwrap();
    assert_eq!((response.status.as_u16(), &response.headers["grpc-status"]), (200, &"14".parse().unwrap()));
    assert_eq!(upstream.requests().len(), arrived);
    assert_eq!(shed(&gateway, "memory_requests").await, 3.0);

    use_memory(cgroup.path(), 91);
    at_stage(&gateway, 3).await;
    gateway.client().await.unwrap().closed().await.unwrap();
    assert_eq!(shed(&gateway, "memory_connections").await, 1.0);
    // Who looks after the gateway is answered, and it does not ask others to take its clients: they have enough.
    assert_eq!(gateway.admin("/healthz/ready").await.unwrap().status, 200);
    assert_eq!(gateway.admin_json("/server_info").await.unwrap()["overload"], "refuse-connections");
    gate.open();
    let late = served.response().await.unwrap();
    assert_eq!((late.status, late.text().as_str()), (200, "late"));

    // Just below where it began it goes on; further below it ends.
    use_memory(cgroup.path(), 78);
    at_stage(&gateway, 1).await;
    use_memory(cgroup.path(), 76);
    at_stage(&gateway, 0).await;
    let mut client = gateway.client().await.unwrap();
    for _ in 0..2 {
        let response = client.get(HOST, "/").await.unwrap();
        assert_eq!((response.status, response.header("connection")), (200, None));
    }
    let lines = gateway.shutdown().await.unwrap();
    assert_eq!(lines.iter().filter(|line| *line == "503 OM overload").count(), 2, "{lines:#?}");
}

#[tokio::test]
async fn clients_are_served_up_to_a_number_of_connections() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new()
        .workers(2)
        .file("all.yaml", everything_to(&upstream))
        .options(|options| options.overload.max_connections = Some(3))
        .start()
        .await
        .unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.client().await.unwrap();
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
        open.push(client);
    }
    for refused in 1..=2 {
        gateway.client().await.unwrap().closed().await.unwrap();
        gateway
            .metric_becomes("gateway_limit_exceeded_total", &[("limit", "downstream_connections")], f64::from(refused))
            .await
            .unwrap();
    }
    // Those that are open do not notice, and one that ends makes room.
    assert_eq!(open[0].get(HOST, "/").await.unwrap().status, 200);
    open.pop();
    eventually("room for a client", async || {
        let mut client = gateway.client().await?;
        Ok(client.get(HOST, "/").await.is_ok_and(|response| response.status == 200).then_some(()))
    })
    .await
    .unwrap();
}

/// A connection whose first request will be refused, and the words by which the log names it.
async fn about_to_be_refused(gateway: &TestGateway) -> (RawClient, String) {
    let stream = TcpStream::connect(gateway.address(80).unwrap()).await.unwrap();
    let name = stream.local_addr().unwrap().to_string();
    (RawClient::over(stream), name)
}

const REFUSED: &str = "GET / HTTP/1.1\r\nhost: a\r\nbad name: x\r\n\r\n";

#[tokio::test]
async fn a_worker_that_does_not_move_is_reported_until_it_does() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new().workers(2).file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let status = gateway.gateway().admin().status;
    let ready = async || RawClient::connect(status).await?.get(&status.to_string(), "/healthz/ready").await;
    assert_eq!(ready().await.unwrap().status, 200);

    let (mut client, name) = about_to_be_refused(&gateway).await;
    let (release, released) = mpsc::channel::<()>();
    let (stopped, has_stopped) = tokio::sync::oneshot::channel();
    interfere(name, move || {
        let _ = stopped.send(Instant::now());
        let _ = released.recv();
    });
    client.send(REFUSED).await.unwrap();
    let since = within("the worker to stop", has_stopped).await.unwrap().unwrap();
    let missing = eventually("not to be ready", async || {
        let response = ready().await?;
        Ok((response.status == 503).then(|| response.text()))
    });
    let missing = missing.await.unwrap();
    let after = since.elapsed();
    assert!(after < Duration::from_secs(2), "only after {after:?}");
    assert!(missing.contains("do not move"), "{missing}");
    assert_eq!(gateway.metrics().await.unwrap().sum("gateway_stuck_workers", &[]), 1.0);
    let info = gateway.admin_json("/server_info").await.unwrap();
    assert_eq!(info["stuckWorkers"].as_array().unwrap().len(), 1, "{info}");
    assert_eq!(gateway.admin("/ready").await.unwrap().status, 503);
    // The other worker serves whoever it gets; the kernel deals clients out.
    eventually("an answer of the other worker", async || {
        let mut client = gateway.client().await?;
        let answer = tokio::time::timeout(Duration::from_millis(200), client.get(HOST, "/")).await;
        Ok(answer.is_ok_and(|answer| answer.is_ok_and(|response| response.status == 200)).then_some(()))
    })
    .await
    .unwrap();

    release.send(()).unwrap();
    assert_eq!(client.response().await.unwrap().status, 400);
    eventually("to be ready again", async || Ok((ready().await?.status == 200).then_some(()))).await.unwrap();
    gateway.metric_becomes("gateway_stuck_workers", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn a_panic_costs_one_connection_or_one_stream() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .file("plugin.yaml", probe("panicking", "", "failStrategy: FAIL_OPEN"))
        .start()
        .await
        .unwrap();
    let mut bystander = gateway.client().await.unwrap();
    assert_eq!(bystander.get(HOST, "/").await.unwrap().status, 200);

    let (mut client, name) = about_to_be_refused(&gateway).await;
    interfere(name, || panic!("an error in the middle of a request"));
    client.send(REFUSED).await.unwrap();
    client.closed().await.unwrap();
    gateway.metric_becomes("gateway_panics_total", &[], 1.0).await.unwrap();
    assert_eq!(bystander.get(HOST, "/").await.unwrap().status, 200);

    // Over HTTP/2 it is the stream: the others on its connection go on.
    let mut client = H2Client::connect(gateway.address(80).unwrap()).await.unwrap();
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate).text("late"));
    let request = || Request::get(format!("http://{HOST}/waits"));
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { other.fetch(request().body(Outgoing::empty()).unwrap()).await });
    eventually("the request at the upstream", async || {
        Ok(upstream.requests().iter().any(|request| request.target == "/waits").then_some(()))
    })
    .await
    .unwrap();
    interfere("panicking", || panic!("an error where a crashed plugin is buried"));
    let crash = request().header("x-probe-panicking", "request_headers=trap").body(Outgoing::empty()).unwrap();
    assert!(client.fetch(crash).await.is_err());
    gateway.metric_becomes("gateway_panics_total", &[], 2.0).await.unwrap();
    gate.open();
    assert_eq!(waiting.await.unwrap().unwrap().body, "late");
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    assert_eq!(bystander.get(HOST, "/").await.unwrap().status, 200);
    // Nothing of what panicked is left behind.
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    assert_eq!(gateway.admin("/healthz/ready").await.unwrap().status, 200);
}
