//! Traffic as it should be: every protocol, with and without TLS, on new connections and on kept ones.

use crate::tally::Tally;
use anyhow::{Context as _, ensure};
use futures_util::{SinkExt, StreamExt};
use gateway_tests::body::Outgoing;
use gateway_tests::client::{H2Client, RawClient};
use gateway_tests::grpc::{EchoClient, Number};
use gateway_tests::load::Client;
use gateway_tests::process::Process;
use gateway_tests::scene::{HOST, Scene};
use gateway_tests::tls::TlsClient;
use gateway_tests::within;
use http::Request;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// What every client needs to know.
pub(crate) struct World {
    pub(crate) plain: SocketAddr,
    pub(crate) secure: SocketAddr,
    pub(crate) tls: TlsClient,
    pub(crate) tally: Tally,
    pub(crate) stop: AtomicBool,
}

type Shared = Arc<World>;

impl World {
    pub(crate) fn new(scene: &Scene, process: &Process) -> anyhow::Result<World> {
        let (plain, secure) = (process.address()?, process.address_of(443)?);
        Ok(World { plain, secure, tls: scene.tls()?, tally: Tally::default(), stop: AtomicBool::new(false) })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

/// Does something again and again until the soak is over, at most once in `pace` milliseconds.
pub(crate) fn again<F>(
    world: &Shared,
    kind: &'static str,
    pace: u64,
    act: impl Fn(Shared) -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let world = Arc::clone(world);
    tokio::spawn(async move {
        let mut turn = tokio::time::interval(Duration::from_millis(pace));
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !world.is_over() {
            turn.tick().await;
            world.tally.count(kind, act(Arc::clone(&world)).await);
        }
    })
}

pub(crate) fn start(world: &Shared) -> Vec<JoinHandle<()>> {
    let mut tasks: Vec<_> = (0..12).map(|number| tokio::spawn(kept(Arc::clone(world), number))).collect();
    tasks.extend((0..20).map(|number| tokio::spawn(messages(Arc::clone(world), number % 2 == 0))));
    tasks.extend([
        again(world, "new connections, HTTP/1.1", 20, new_connection),
        again(world, "new connections, TLS", 50, new_tls),
        again(world, "new connections, HTTP/2", 50, new_http2),
        again(world, "uploads of 64 KiB, HTTP/1.1", 20, |world| upload(world, 64 << 10)),
        again(world, "uploads of 1 MiB, HTTP/2 in TLS", 500, upload_http2),
        again(world, "gRPC calls", 50, grpc),
        again(world, "WebSockets that come and go", 200, short_socket),
        again(world, "answers of a plugin", 50, plugin_reply),
        again(world, "answers of the gateway", 50, direct),
        again(world, "not found", 50, not_found),
    ]);
    tasks
}

/// Requests on one connection, a hundred a second.
async fn kept(world: Shared, number: usize) {
    let kind = ["kept, HTTP/1.1", "kept, HTTP/1.1 in TLS", "kept, HTTP/2", "kept, HTTP/2 in TLS"][number % 4];
    let mut turn = tokio::time::interval(Duration::from_millis(10));
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !world.is_over() {
        let connected = Client::connect(number, world.plain, world.secure, &world.tls, HOST).await;
        let mut client = match connected {
            Ok(client) => client,
            Err(error) => {
                world.tally.count(kind, Err(error.context("connecting")));
                turn.tick().await;
                continue;
            }
        };
        while !world.is_over() {
            turn.tick().await;
            let outcome = client.get(HOST, if number < 4 { "/" } else { "/sample?a=b" }).await;
            let ended = outcome.is_err();
            world.tally.count(kind, outcome);
            if ended {
                break;
            }
        }
    }
}

async fn new_connection(world: Shared) -> anyhow::Result<()> {
    let response = RawClient::connect(world.plain).await?.get(HOST, "/").await?;
    ensure!(response.status == 200 && response.body.len() == 128, "{} {}", response.status, response.body.len());
    Ok(())
}

async fn new_tls(world: Shared) -> anyhow::Result<()> {
    let response = world.tls.http1(world.secure, HOST).await?.get(HOST, "/").await?;
    ensure!(response.status == 200, "{}", response.status);
    Ok(())
}

async fn new_http2(world: Shared) -> anyhow::Result<()> {
    let response = H2Client::connect(world.plain).await?.get("h2.example.dev", "/").await?;
    ensure!(response.status == 200, "{}", response.status);
    Ok(())
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

async fn upload(world: Shared, length: usize) -> anyhow::Result<()> {
    let mut client = RawClient::connect(world.plain).await?;
    let body = bytes(length);
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\n\r\n")).await?;
    client.send(&body).await?;
    let response = client.response().await?;
    ensure!(response.status == 200 && response.body == body, "{}, or another body", response.status);
    Ok(())
}

async fn upload_http2(world: Shared) -> anyhow::Result<()> {
    let mut client = world.tls.http2(world.secure, HOST).await?;
    let body = bytes(1 << 20);
    let request = Request::post(format!("https://{HOST}/")).body(Outgoing::full(body.clone()))?;
    let response = client.fetch(request).await?;
    ensure!(response.status == 200 && response.body == body, "{}, or another body", response.status);
    Ok(())
}

async fn grpc(world: Shared) -> anyhow::Result<()> {
    let mut client = EchoClient::connect(world.plain).await?;
    let said = client.unary("Say", tonic::Request::new(Number::new(7))).await?.into_inner();
    let mut counted = client.count(Number::new(10)).await?.into_inner();
    let mut numbers = 0;
    while let Some(number) = counted.message().await? {
        numbers += number.value;
    }
    let sum = client.sum(tokio_stream::iter((1..=10).map(Number::new))).await?.into_inner();
    ensure!((said.value, numbers, sum.value) == (7, 55, 55), "{said:?} {numbers} {sum:?}");
    Ok(())
}

/// A WebSocket through the gateway.
pub(crate) async fn socket<S>(stream: S) -> anyhow::Result<WebSocketStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Ok(within("a WebSocket", client_async("ws://socket.example.dev/", stream)).await??.0)
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> anyhow::Result<()> {
    let message = Message::binary(bytes(200));
    socket.send(message.clone()).await?;
    let back = within("an echo", socket.next()).await?.context("the WebSocket ended")??;
    ensure!(back == message, "another message");
    Ok(())
}

async fn short_socket(world: Shared) -> anyhow::Result<()> {
    let mut socket = socket(TcpStream::connect(world.plain).await?).await?;
    echo(&mut socket).await?;
    socket.close(None).await?;
    while let Some(Ok(_)) = within("the end of a WebSocket", socket.next()).await? {}
    Ok(())
}

/// A WebSocket that stays open for the whole soak, with a message ten times a second.
async fn messages(world: Shared, plain: bool) {
    let kind = "messages over WebSockets that stay open";
    let outcome = async {
        if plain {
            return talk(&world, kind, socket(TcpStream::connect(world.plain).await?).await?).await;
        }
        let stream = world.tls.connect(world.secure, "socket.example.dev", &["http/1.1"]).await?;
        talk(&world, kind, Box::pin(socket(stream)).await?).await
    };
    if let Err(error) = Box::pin(outcome).await {
        world.tally.count(kind, Err(error));
    }
}

async fn talk<S>(world: &World, kind: &'static str, mut socket: WebSocketStream<S>) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while !world.is_over() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        echo(&mut socket).await?;
        world.tally.count(kind, Ok(()));
    }
    Ok(())
}

/// The status of a request with this header.
pub(crate) async fn status(world: &World, host: &str, path: &str, header: &str) -> anyhow::Result<u16> {
    let mut client = RawClient::connect(world.plain).await?;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{header}\r\n\r\n")).await?;
    Ok(client.response().await?.status)
}

async fn plugin_reply(world: Shared) -> anyhow::Result<()> {
    let status = status(&world, HOST, "/", "x-probe-q: request_headers=reply:418").await?;
    ensure!(status == 418, "{status}");
    Ok(())
}

async fn direct(world: Shared) -> anyhow::Result<()> {
    let status = status(&world, "direct.example.dev", "/", "x: y").await?;
    ensure!(status == 200, "{status}");
    Ok(())
}

async fn not_found(world: Shared) -> anyhow::Result<()> {
    let status = status(&world, "nobody.example.dev", "/", "x: y").await?;
    ensure!(status == 404, "{status}");
    Ok(())
}
