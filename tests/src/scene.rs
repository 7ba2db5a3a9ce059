//! A gateway process with everything in front of it and behind it, and changes of its configuration that nobody must
//! notice. What the tests of configuration and the soak have in common.
//!
//! | host | what is behind it |
//! |---|---|
//! | `plain.example.dev` | the services `a` and `b` in changing shares, HTTP/1.1 |
//! | `h2.example.dev` | a service that speaks HTTP/2 |
//! | `test.example.dev` | gRPC ([`EchoServer`]) |
//! | `socket.example.dev` | a WebSocket echo |
//! | `faulty.example.dev` | a service that does what the path says, and all of it is wrong |
//! | `direct.example.dev` | the gateway's own answer |
//! | `changing.example.dev` | another route with each change |
//!
//! All of them are served on port 80 and, inside TLS, on port 443. The plugins are `add-header` and the probe, twice: as
//! `p`, which is left out where it crashes, and as `q`.

use crate::certificates::Authority;
use crate::grpc::EchoServer;
use crate::plugins::{module, probe, wasm_plugin};
use crate::process::Process;
use crate::resources::{GATEWAY, https_gateway, secret, service_at, virtual_service};
use crate::server::{Protocol, serve};
use crate::tls::TlsClient;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The host most requests are for.
pub const HOST: &str = "plain.example.dev";

/// What changes, one after the other.
pub const KINDS: [&str; 5] = ["routes", "weights", "endpoints", "plugins", "certificates"];

const WITH_SERVICES: [&str; 4] = ["services.yaml", "a.yaml", "plain.yaml", "fixed.yaml"];

/// The folder and the services. They end when it is dropped.
pub struct Scene {
    folder: PathBuf,
    authority: Authority,
    services: Services,
    home: TempDir,
}

struct Services {
    a: [SocketAddr; 2],
    b: SocketAddr,
    h2: SocketAddr,
    sockets: SocketAddr,
    faulty: SocketAddr,
    grpc: EchoServer,
    _tasks: JoinSet<()>,
}

impl Scene {
    /// Starts the services and writes the first configuration.
    pub async fn new() -> anyhow::Result<Scene> {
        let home = tempfile::tempdir()?;
        let folder = home.path().join("config");
        fs::create_dir(&folder)?;
        let services = Services::start().await?;
        let scene = Scene { folder, authority: Authority::new("tests")?, services, home };
        let Services { b, h2, sockets, faulty, grpc, .. } = &scene.services;
        let gateways = GATEWAY.to_owned() + &https_gateway("secure", &["*"], "mode: SIMPLE, credentialName: cert");
        scene.write("gateways.yaml", &gateways)?;
        scene.write(
            "services.yaml",
            &(service_at("b", "HTTP", &[*b])
                + &service_at("h2", "HTTP2", &[*h2])
                + &service_at("sockets", "HTTP", &[*sockets])
                + &service_at("faulty", "HTTP", &[*faulty])
                + &service_at("grpc", "GRPC", &[grpc.address()])),
        )?;
        let fixed =
            [("h2", "h2"), ("socket", "sockets"), ("faulty", "faulty"), ("test", "grpc")].map(|(host, service)| {
                let http = format!("  - route: [{{destination: {{host: {service}}}}}]");
                route(host, &[&format!("{host}.example.dev")], &http)
            });
        let direct = "  - directResponse: {status: 200, body: {string: direct}}";
        scene.write("fixed.yaml", &(fixed.concat() + &route("direct", &["direct.example.dev"], direct)))?;
        for round in 0..KINDS.len() {
            scene.change(round)?;
        }
        Ok(scene)
    }

    /// Runs the gateway `program` on it.
    pub async fn start(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        let data = format!("--data-dir={}", self.home.path().join("data").display());
        Process::start(program, &self.folder, &[&["--bind=443=127.0.0.1:0", &data], arguments].concat()).await
    }

    /// The folder with the configuration.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A client that trusts the gateway's certificates, all of them.
    pub fn tls(&self) -> anyhow::Result<TlsClient> {
        TlsClient::new(&[&self.authority])
    }

    /// Makes the next change; `KINDS[round % 5]` says of what.
    pub fn change(&self, round: usize) -> anyhow::Result<()> {
        let services = &self.services;
        let turn = round / KINDS.len();
        match round % KINDS.len() {
            0 => {
                let http = format!("  - directResponse: {{status: 200, body: {{string: '{round}'}}}}");
                let one = route(&format!("changing-{}", turn % 3), &["changing.example.dev"], &http);
                self.write("changing.yaml", &one)
            }
            1 => {
                let share = 10 + 10 * (turn % 9);
                let http = format!(
                    "  - headers: {{response: {{set: {{x-round: '{turn}'}}}}}}\n    route:\n\
                     \x20   - {{destination: {{host: a}}, weight: {share}}}\n\
                     \x20   - {{destination: {{host: b}}, weight: {}}}",
                    100 - share
                );
                self.write("plain.yaml", &route("plain", &[HOST], &http))
            }
            2 => {
                let endpoints = match turn % 3 {
                    0 => &services.a[..],
                    1 => &services.a[..1],
                    _ => &services.a[1..],
                };
                self.write("a.yaml", &service_at("a", "HTTP", endpoints))
            }
            3 => {
                let config = format!("pluginConfig: {{response: {{set: {{x-plugin: '{turn}'}}}}}}");
                let plugins = wasm_plugin("add-header", &module("add-header"), &config)
                    + &probe("p", "", "failStrategy: FAIL_OPEN")
                    + &probe("q", "", "");
                self.write("plugins.yaml", &plugins)
            }
            _ => self.write("certificate.yaml", &secret("cert", &self.authority.server(&["*.example.dev"])?, None)),
        }
    }

    /// Takes everything that has a service out of the configuration: no upstream connection has a reason any more.
    pub fn withdraw(&self) -> anyhow::Result<()> {
        for name in WITH_SERVICES {
            fs::rename(self.folder.join(name), self.folder.join(format!(".{name}")))?;
        }
        Ok(())
    }

    /// Puts it back.
    pub fn restore(&self) -> anyhow::Result<()> {
        for name in WITH_SERVICES {
            fs::rename(self.folder.join(format!(".{name}")), self.folder.join(name))?;
        }
        Ok(())
    }

    /// Writes a file with what it has already, as somebody does who applies everything again.
    pub fn push_again(&self, name: &str) -> anyhow::Result<()> {
        self.write(name, &fs::read_to_string(self.folder.join(name))?)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let mut fresh = tempfile::NamedTempFile::with_prefix_in(".new-", &self.folder)?;
        std::io::Write::write_all(&mut fresh, text.as_bytes())?;
        fresh.persist(self.folder.join(name))?;
        Ok(())
    }
}

/// A VirtualService of both Gateways.
fn route(name: &str, hosts: &[&str], http: &str) -> String {
    virtual_service(name, hosts, http).replace("gateways: [gateway]", "gateways: [gateway, secure]")
}

impl Services {
    async fn start() -> anyhow::Result<Services> {
        let mut tasks = JoinSet::new();
        let mut echo = async |name: &'static str| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            tasks.spawn(accept(listener, move |stream| async move {
                let service = service_fn(move |request| answer(name, request));
                // Clients that break off are what the soak is about.
                let _ = serve(stream, Protocol::Either, service).await;
            }));
            anyhow::Ok(address)
        };
        let (a, b, h2) = ([echo("a").await?, echo("a").await?], echo("b").await?, echo("h2").await?);
        let (sockets, faulty) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let (sockets_at, faulty_at) = (sockets.local_addr()?, faulty.local_addr()?);
        tasks.spawn(accept(sockets, echo_messages));
        tasks.spawn(accept(faulty, async |stream| drop(misbehave(stream).await)));
        let grpc = EchoServer::start().await?;
        Ok(Services { a, b, h2, sockets: sockets_at, faulty: faulty_at, grpc, _tasks: tasks })
    }
}

async fn accept<F: Future<Output = ()> + Send + 'static>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        connections.spawn(serve(stream));
        while connections.try_join_next().is_some() {}
    }
}

/// Gives the body back, or 128 bytes if there is none.
async fn answer(name: &'static str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let body = if body.is_empty() { Bytes::from_static(&[b'x'; 128]) } else { body };
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert("x-service", http::HeaderValue::from_static(name));
    Ok(response)
}

async fn echo_messages(stream: TcpStream) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// A service that goes wrong in the way that the path of the request names.
async fn misbehave(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    match head.split(' ').nth(1).unwrap_or_default() {
        "/reset" => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        "/garbage" => stream.write_all(b"\0\0 this is not HTTP \0\0\r\n\r\n").await?,
        "/truncated" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ntoo little").await?,
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlate").await?;
        }
        "/endless" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            // Bounded all the same.
            for _ in 0..200 {
                stream.write_all(b"400\r\n").await?;
                stream.write_all(&[b'x'; 0x400]).await?;
                stream.write_all(b"\r\n").await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        }
        // `/hang-up` and whatever else.
        _ => {}
    }
    Ok(())
}
