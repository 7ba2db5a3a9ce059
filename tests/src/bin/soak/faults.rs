//! A share of every fault, at a low rate: clients, services and plugins that do what they must not. Each says what has to
//! come of it.

use crate::traffic::{World, again, socket, status};
use anyhow::ensure;
use gateway_tests::body::Outgoing;
use gateway_tests::client::{H2Client, RawClient};
use gateway_tests::scene::HOST;
use http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

type Shared = Arc<World>;

pub(crate) fn start(world: &Shared) -> Vec<JoinHandle<()>> {
    vec![
        again(world, "fault: heads that are none", 100, malformed),
        again(world, "fault: clients that reset", 100, resets),
        again(world, "fault: clients that leave a response", 200, leaves),
        again(world, "fault: slow clients", 500, slow),
        again(world, "fault: HTTP/2 streams that are reset", 200, reset_streams),
        again(world, "fault: no HTTP/2", 500, no_http2),
        again(world, "fault: no TLS", 500, no_tls),
        again(world, "fault: WebSockets that break", 500, broken_socket),
        again(world, "fault: services that fail", 100, services),
        again(world, "fault: services that stop in the middle", 200, truncated),
        again(world, "fault: services that are too slow for their client", 300, impatient),
        again(world, "fault: plugins that crash", 500, crash),
        again(world, "fault: plugins that do not return", 10_000, endless),
    ]
}

/// One after the other.
fn turn() -> usize {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    TURN.fetch_add(1, Relaxed)
}

async fn malformed(world: Shared) -> anyhow::Result<()> {
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(120));
    let heads = [
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nhost: a\r\n\r\n", 426),
        ("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n", 404),
        (long.as_str(), 431),
        (many.as_str(), 431),
    ];
    let (head, expected) = heads[turn() % heads.len()];
    let mut client = RawClient::connect(world.plain).await?;
    client.send(head).await?;
    let status = client.response().await?.status;
    let start: String = head.chars().take(60).collect();
    ensure!(status == expected, "{status} for {start:?}");
    Ok(())
}

async fn resets(world: Shared) -> anyhow::Result<()> {
    let parts = [
        "GET / HT".to_owned(),
        format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n"),
        format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 100000\r\n\r\n0123456789"),
        String::new(),
    ];
    let mut client = RawClient::connect(world.plain).await?;
    let number = turn();
    client.send(&parts[number % parts.len()]).await?;
    if number % 8 >= 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.reset()
}

async fn leaves(world: Shared) -> anyhow::Result<()> {
    let mut client = RawClient::connect(world.plain).await?;
    client.send("GET /endless HTTP/1.1\r\nhost: faulty.example.dev\r\n\r\n").await?;
    let status = client.head().await?.status;
    ensure!(status == 200, "{status}");
    client.chunk().await?;
    if turn().is_multiple_of(2) { client.reset() } else { Ok(()) }
}

/// A head that comes byte by byte, and is answered all the same.
async fn slow(world: Shared) -> anyhow::Result<()> {
    let mut client = RawClient::connect(world.plain).await?;
    for byte in format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").bytes() {
        client.send([byte]).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = client.response().await?.status;
    ensure!(status == 200, "{status}");
    Ok(())
}

async fn reset_streams(world: Shared) -> anyhow::Result<()> {
    let mut client = H2Client::connect(world.plain).await?;
    for _ in 0..5 {
        let request = Request::get("http://faulty.example.dev/endless").body(Outgoing::empty())?;
        // The stream ends with the response.
        drop(client.send(request).await?);
        let upload = Request::post(format!("http://{HOST}/")).body(Outgoing::full(vec![0; 100_000]))?;
        drop(tokio::time::timeout(Duration::from_millis(1), client.send(upload)).await);
    }
    // The connection goes on.
    let status = client.get(HOST, "/").await?.status;
    ensure!(status == 200, "{status}");
    Ok(())
}

async fn no_http2(world: Shared) -> anyhow::Result<()> {
    let mut client = RawClient::connect(world.plain).await?;
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    // A frame of a type and a length that cannot be here.
    client.send([0xff, 0xff, 0xff, 0x01, 0, 0, 0, 0, 0]).await?;
    // SETTINGS and GOAWAY, and then the end.
    let mut frames = 0;
    while client.read(1).await.is_ok() {
        frames += 1;
        ensure!(frames < 1000, "it goes on");
    }
    Ok(())
}

async fn no_tls(world: Shared) -> anyhow::Result<()> {
    let mut client = RawClient::connect(world.secure).await?;
    let hellos =
        [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0\0\0\0"];
    client.send(hellos[turn() % hellos.len()]).await?;
    // Half a hello waits for the rest; it does not get it.
    drop(client);
    Ok(())
}

async fn broken_socket(world: Shared) -> anyhow::Result<()> {
    let mut socket = socket(TcpStream::connect(world.plain).await?).await?;
    // A frame that is announced and does not come.
    socket.get_mut().write_all(&[0x82, 0xfe, 0xff, 0xff, 1, 2, 3, 4, 5]).await?;
    if turn().is_multiple_of(2) {
        socket2::SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

async fn services(world: Shared) -> anyhow::Result<()> {
    let paths = [("/hang-up", 503), ("/reset", 503), ("/garbage", 502), ("/slow", 200)];
    let (path, expected) = paths[turn() % paths.len()];
    let status = status(&world, "faulty.example.dev", path, "x: y").await?;
    ensure!(status == expected, "{status} for {path}");
    Ok(())
}

async fn truncated(world: Shared) -> anyhow::Result<()> {
    let mut client = RawClient::connect(world.plain).await?;
    client.send("GET /truncated HTTP/1.1\r\nhost: faulty.example.dev\r\n\r\n").await?;
    // What broke off at once has perhaps not even a head.
    if let Ok(head) = client.head().await {
        ensure!(head.status == 200, "{}", head.status);
    }
    ensure!(client.read(100).await.is_err(), "a whole body of a part");
    Ok(())
}

async fn impatient(world: Shared) -> anyhow::Result<()> {
    let mut client = RawClient::connect(world.plain).await?;
    client.send("GET /slow HTTP/1.1\r\nhost: faulty.example.dev\r\n\r\n").await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    if turn().is_multiple_of(2) { client.reset() } else { Ok(()) }
}

/// The plugin is left out of the request in which it crashes.
async fn crash(world: Shared) -> anyhow::Result<()> {
    let places = ["request_headers", "response_headers", "log"];
    let header = format!("x-probe-p: {}=trap", places[turn() % places.len()]);
    let status = status(&world, HOST, "/", &header).await?;
    ensure!(status == 200, "{status} for {header}");
    Ok(())
}

async fn endless(world: Shared) -> anyhow::Result<()> {
    let status = status(&world, HOST, "/", "x-probe-p: request_headers=loop").await?;
    ensure!(status == 200, "{status}");
    Ok(())
}
