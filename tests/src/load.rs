//! Steady load on connections that are kept: how fast the answers come, and everything that is not as it should be.

use crate::body::Outgoing;
use crate::client::{H2Client, RawClient};
use crate::tls::TlsClient;
use anyhow::{Context as _, ensure};
use http::Request;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

/// A client that keeps its connection, in one of the ways in which clients come.
pub enum Client {
    /// HTTP/1.1.
    Http1(RawClient),
    /// HTTP/1.1 inside TLS.
    Tls(Box<RawClient<TlsStream<TcpStream>>>),
    /// HTTP/2, with or without TLS.
    Http2(H2Client),
}

impl Client {
    /// One of the four ways, in turn: without TLS to `plain`, inside TLS to `secure` under the name `host`.
    pub async fn connect(
        number: usize,
        plain: SocketAddr,
        secure: SocketAddr,
        tls: &TlsClient,
        host: &str,
    ) -> anyhow::Result<Client> {
        Ok(match number % 4 {
            0 => Client::Http1(RawClient::connect(plain).await?),
            1 => Client::Tls(Box::new(tls.http1(secure, host).await?)),
            2 => Client::Http2(H2Client::connect(plain).await?),
            _ => Client::Http2(tls.http2(secure, host).await?),
        })
    }

    /// Sends a request and reads the answer, which must be a 200. The connection must not end with it.
    ///
    /// # Errors
    /// It was anything else.
    pub async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<()> {
        let (status, ends) = match self {
            Client::Http1(client) => {
                let response = client.get(host, path).await?;
                (response.status, response.header("connection").is_some())
            }
            Client::Tls(client) => {
                let response = client.get(host, path).await?;
                (response.status, response.header("connection").is_some())
            }
            Client::Http2(client) => {
                let request = Request::get(format!("http://{host}{path}")).body(Outgoing::empty())?;
                (client.fetch(request).await?.status.as_u16(), false)
            }
        };
        ensure!(status == 200, "status {status}");
        ensure!(!ends, "the connection ends");
        Ok(())
    }
}

/// Load that is running.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    begin: Instant,
    clients: Vec<JoinHandle<(Vec<Duration>, Option<String>)>>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Requests that were answered as they should be.
    pub answered: usize,
    /// How many of them in a second.
    pub rate: f64,
    /// From sending to the whole answer: the middle.
    pub p50: Duration,
    /// And what 99 of 100 stay below.
    pub p99: Duration,
    /// What went wrong. Each is a connection that was given up.
    pub errors: Vec<String>,
}

impl Load {
    /// Each of these clients sends its part of `rate` requests a second, for this host and path. A client that waits for
    /// an answer catches up afterwards.
    pub fn start(clients: Vec<Client>, rate: u32, host: &'static str, path: &'static str) -> Load {
        let (stop, sent) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let count = u32::try_from(clients.len()).unwrap_or(u32::MAX).max(1);
        let pace = Duration::from_secs(1) * count / rate.max(1);
        let run = |(number, mut client): (u32, Client)| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let first = tokio::time::Instant::now() + pace * number / count;
                let mut turn = tokio::time::interval_at(first, pace);
                while !stop.load(Relaxed) {
                    turn.tick().await;
                    let begin = Instant::now();
                    if let Err(error) = client.get(host, path).await {
                        return (latencies, Some(format!("{error:#}")));
                    }
                    latencies.push(begin.elapsed());
                    sent.fetch_add(1, Relaxed);
                }
                (latencies, None)
            })
        };
        let clients = (0..).zip(clients).map(run).collect();
        Load { stop, sent, begin: Instant::now(), clients }
    }

    /// Requests that have been answered so far.
    pub fn answered(&self) -> usize {
        self.sent.load(Relaxed)
    }

    /// Ends it and says what came of it.
    ///
    /// # Errors
    /// A client panicked.
    pub async fn end(self) -> anyhow::Result<Outcome> {
        self.stop.store(true, Relaxed);
        let seconds = self.begin.elapsed().as_secs_f64();
        let (mut latencies, mut errors) = (Vec::new(), Vec::new());
        for client in self.clients {
            let (some, error) = client.await.context("a client")?;
            latencies.extend(some);
            errors.extend(error);
        }
        latencies.sort_unstable();
        let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
        let answered = latencies.len();
        Ok(Outcome { answered, rate: answered as f64 / seconds, p50: at(50), p99: at(99), errors })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { answered, rate, p50, p99, errors } = self;
        let (p50, p99) = (p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3);
        write!(
            f,
            "{answered} requests, {rate:.0} a second, p50 {p50:.2} ms, p99 {p99:.2} ms, {} errors",
            errors.len()
        )?;
        for error in errors.iter().take(5) {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}
