//! I-7: a new process takes over from a running one, and no client notices.

use gateway_tests::client::{RawClient, RawResponse};
use gateway_tests::eventually;
use gateway_tests::plugins::module_bytes;
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, service, service_at, virtual_service};
use gateway_tests::server::Protocol::Http1;
use gateway_tests::upstream::{Answer, Upstream};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

const HOST: &str = "test.example.dev";
const PROGRAM: &str = env!("CARGO_BIN_EXE_gateway-command");
const SHORT: [&str; 2] = ["--minimum-drain-seconds=1", "--drain-seconds=5"];
/// Connections a second.
const RATE: u32 = 1000;

fn says(text: &str) -> String {
    virtual_service("v", &["*"], &format!("  - directResponse: {{status: 200, body: {{string: '{text}'}}}}"))
}

/// A folder with a configuration that answers everything with `one`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), GATEWAY.to_owned() + &says("one")).unwrap();
    folder
}

async fn start(folder: &TempDir, arguments: &[&str]) -> Process {
    try_start(folder, arguments).await.unwrap()
}

async fn try_start(folder: &TempDir, arguments: &[&str]) -> anyhow::Result<Process> {
    Process::start(PROGRAM, folder.path(), &[&SHORT, arguments].concat()).await
}

async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<RawResponse> {
    RawClient::connect(address).await?.get(HOST, path).await
}

async fn admin(process: &Process, method: &str, path: &str, body: &[u8]) -> RawResponse {
    let address = process.admin().unwrap();
    let mut client = RawClient::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/wasm\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send([head.as_bytes(), body].concat()).await.unwrap();
    client.response().await.unwrap()
}

/// Opens a thousand connections a second, each for one request, until it is told to stop.
struct Knocking {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Knocking {
    fn at(address: SocketAddr) -> Knocking {
        const CLIENTS: u32 = 25;
        let (stop, answered) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let client = |number| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            async move {
                let pace = Duration::from_secs(1) * CLIENTS / RATE;
                let first = tokio::time::Instant::now() + pace * number / CLIENTS;
                let mut turn = tokio::time::interval_at(first, pace);
                while !stop.load(Relaxed) {
                    turn.tick().await;
                    let response = ask(address, "/").await?;
                    anyhow::ensure!(response.status == 200, "{response:?}");
                    answered.fetch_add(1, Relaxed);
                }
                Ok(())
            }
        };
        let clients = (0..CLIENTS).map(|number| tokio::spawn(client(number))).collect();
        Knocking { stop, answered, clients }
    }

    /// Waits until so many more have been answered.
    async fn more(&self, count: usize) {
        let wanted = self.answered.load(Relaxed) + count;
        let look = async || Ok((self.answered.load(Relaxed) >= wanted || self.has_failed()).then_some(()));
        eventually("more answers", look).await.unwrap();
    }

    fn has_failed(&self) -> bool {
        self.clients.iter().any(tokio::task::JoinHandle::is_finished)
    }

    async fn end(self) -> usize {
        self.stop.store(true, Relaxed);
        for client in self.clients {
            client.await.unwrap().unwrap();
        }
        self.answered.load(Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_no_new_connection_is_refused_or_reset() {
    let folder = folder();
    let mut running = start(&folder, &["--workers=2"]).await;
    let (address, admin_address, status) =
        (running.address().unwrap(), running.admin().unwrap(), running.status().unwrap());
    let knocking = Knocking::at(address);
    let begin = Instant::now();
    // More workers, fewer, and more again: every socket there has ever been stays served.
    for workers in ["--workers=3", "--workers=1", "--workers=2"] {
        knocking.more(300).await;
        let next = start(&folder, &["--takeover", workers]).await;
        assert_eq!((next.address().unwrap(), next.admin().unwrap()), (address, admin_address));
        // Only the new one answers operators, and it is ready.
        assert_eq!(ask(status, "/healthz/ready").await.unwrap().status, 200);
        let seen: serde_json::Value =
            serde_json::from_slice(&admin(&next, "GET", "/server_info", b"").await.body).unwrap();
        assert_eq!(seen["workers"].to_string(), workers.trim_start_matches("--workers="));
        eventually("the log to say so", async || {
            Ok(next.log().contains("took over from the running gateway").then_some(()))
        })
        .await
        .unwrap();
        knocking.more(300).await;
        assert_eq!(running.ended().await.unwrap().code(), Some(0), "{}", running.log());
        running = next;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let answered = knocking.end().await;
    println!("{answered} connections in {seconds:.1} s, three takeovers, none refused or reset");
    assert!(answered >= 1800, "only {answered}");
}

#[tokio::test]
async fn i7_what_the_old_process_has_it_finishes() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::start(Http1).await.unwrap();
    let sockets = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = GATEWAY.to_owned()
        + &service("sample", &[&upstream])
        + &service_at("sockets", "HTTP", &[sockets.local_addr().unwrap()])
        + &virtual_service(
            "v",
            &["*"],
            "
  - match: [{uri: {prefix: /socket}}]
    route: [{destination: {host: sockets}}]
  - route: [{destination: {host: sample}}]",
        );
    std::fs::write(folder.path().join("all.yaml"), text).unwrap();
    let mut old = start(&folder, &[]).await;
    let address = old.address().unwrap();
    let mut idle = RawClient::connect(address).await.unwrap();
    assert_eq!(idle.get(HOST, "/").await.unwrap().status, 200);
    let (answer, body) = Answer::streamed(200);
    upstream.answer_next(answer);
    let mut streaming = RawClient::connect(address).await.unwrap();
    streaming.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    assert_eq!(streaming.head().await.unwrap().status, 200);
    let mut socket = RawClient::connect(address).await.unwrap();
    socket
        .send(format!(
            "GET /socket HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        ))
        .await
        .unwrap();
    let mut service = RawClient::over(sockets.accept().await.unwrap().0);
    service.request_head().await.unwrap();
    service.send("HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
    assert_eq!(socket.response().await.unwrap().status, 101);

    let new = start(&folder, &["--takeover"]).await;
    // A kept connection is answered by the old one, and told to come again.
    let response = idle.get(HOST, "/").await.unwrap();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    body.send("to the end").await.unwrap();
    assert_eq!(streaming.chunk().await.unwrap(), b"to the end");
    drop(body);
    assert!(streaming.chunk().await.unwrap().is_empty());
    socket.send("ping").await.unwrap();
    assert_eq!(service.read(4).await.unwrap(), b"ping");
    // WebSockets stay as long as the drain time of the old one lasts.
    assert_eq!(ask(address, "/").await.unwrap().status, 200);
    drop(socket);
    assert_eq!(old.ended().await.unwrap().code(), Some(0), "{}", old.log());
    assert_eq!(ask(address, "/").await.unwrap().status, 200);
    drop(new);
}

#[tokio::test]
async fn i7_uploads_and_the_lock_go_along() {
    let folder = folder();
    let mut old = start(&folder, &[]).await;
    let pushed = admin(&old, "PUT", "/plugins/pushed", &module_bytes("add-header")).await;
    assert_eq!(pushed.status, 201, "{}", pushed.text());
    let new = start(&folder, &["--takeover"]).await;
    let shown = admin(&new, "GET", "/plugins/pushed", b"").await;
    assert!(shown.status == 200 && shown.text().contains("\"live\""), "{}", shown.text());
    // A third process gets neither, at no time.
    for running in [true, false] {
        let Err(error) = try_start(&folder, &[]).await else { panic!("two processes with one directory") };
        assert!(format!("{error:#}").contains("--takeover"), "{error:#}");
        if running {
            assert_eq!(old.ended().await.unwrap().code(), Some(0));
        }
    }
    assert_eq!(admin(&new, "DELETE", "/plugins/pushed", b"").await.status, 204);
    // And the next one may take over from the second.
    let third = start(&folder, &["--takeover"]).await;
    assert_eq!(admin(&third, "GET", "/plugins/pushed", b"").await.status, 404);
}

#[tokio::test]
async fn i7_without_a_running_gateway_it_simply_starts() {
    let folder = folder();
    let first = start(&folder, &["--takeover"]).await;
    assert!(first.log().contains("no gateway to take over from"), "{}", first.log());
    let mut first = first;
    first.signal("KILL").unwrap();
    first.ended().await.unwrap();
    // What is left behind is no gateway either.
    assert!(folder.path().join("data/takeover.sock").exists());
    let second = start(&folder, &["--takeover"]).await;
    assert_eq!(ask(second.address().unwrap(), "/").await.unwrap().text(), "one");
    let third = start(&folder, &["--takeover"]).await;
    assert_eq!(ask(third.address().unwrap(), "/").await.unwrap().text(), "one");
}

/// Knocks as a new process does.
async fn knock(data_dir: &Path, hello: &str) -> UnixStream {
    let mut stream = UnixStream::connect(data_dir.join("takeover.sock")).await.unwrap();
    stream.write_u32(u32::try_from(hello.len()).unwrap()).await.unwrap();
    stream.write_u32(0).await.unwrap();
    stream.write_all(hello.as_bytes()).await.unwrap();
    stream
}

/// The JSON of the next message.
async fn heard(stream: &mut UnixStream) -> String {
    let mut text = vec![0; stream.read_u32().await.unwrap() as usize];
    stream.read_u32().await.unwrap();
    stream.read_exact(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn i7_a_new_process_that_fails_changes_nothing() {
    let folder = folder();
    let data = folder.path().join("data");
    let old = start(&folder, &[]).await;
    let (address, status) = (old.address().unwrap(), old.status().unwrap());
    let mut kept = RawClient::connect(address).await.unwrap();
    let goes_on = async |kept: &mut RawClient, text: &str| {
        let response = kept.get(HOST, "/").await.unwrap();
        assert_eq!((response.text().as_str(), response.header("connection")), (text, None));
        assert_eq!(ask(address, "/").await.unwrap().text(), text);
        assert_eq!(ask(status, "/healthz/ready").await.unwrap().status, 200);
    };
    goes_on(&mut kept, "one").await;

    // Another version, and something that is no gateway at all.
    let answer = heard(&mut knock(&data, r#"{"takeover":2}"#).await).await;
    assert!(answer.contains("Refused") && answer.contains("version 1"), "{answer}");
    drop(knock(&data, "GET / HTTP/1.1").await);
    goes_on(&mut kept, "one").await;

    // One that dies while it starts. Until then no change of the configuration takes effect, and afterwards it does.
    let mut dying = knock(&data, r#"{"takeover":1}"#).await;
    let offer = heard(&mut dying).await;
    assert!(offer.contains(&address.to_string()), "{offer}");
    let refused = admin(&old, "PUT", "/plugins/late", &module_bytes("add-header")).await;
    assert!(refused.status == 503 && refused.text().contains("taking-over"), "{}", refused.text());
    std::fs::write(folder.path().join("all.yaml"), GATEWAY.to_owned() + &says("two")).unwrap();
    goes_on(&mut kept, "one").await;
    drop(dying);
    let changed = async || {
        let version = old.metrics().await?.sum("gateway_config_version", &[]);
        Ok((version == 2.0).then_some(()))
    };
    eventually("every worker to take the change over", changed).await.unwrap();
    goes_on(&mut kept, "two").await;

    // One whose configuration cannot be served: it says why, and ends.
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = GATEWAY.replace("name: gateway", "name: other").replace("number: 80", "number: 81");
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("all.yaml"), GATEWAY.to_owned() + &says("three") + &other).unwrap();
    let bind = format!("--bind=81={}", taken.local_addr().unwrap());
    let directory = format!("--data-dir={}", data.display());
    let failed = Process::start(PROGRAM, elsewhere.path(), &["--takeover", &bind, &directory]).await;
    let Err(error) = failed else { panic!("started on a port that another has") };
    assert!(format!("{error:#}").contains("for port 81"), "{error:#}");
    goes_on(&mut kept, "two").await;

    // And one that comes up takes over all the same.
    let new = start(&folder, &["--takeover"]).await;
    assert_eq!(ask(new.address().unwrap(), "/").await.unwrap().text(), "two");
}
