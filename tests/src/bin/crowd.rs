//! Many clients of one address, in a process of their own: so that their sockets and their work are not those of a test
//! or of a gateway. Says at the end, in one line of JSON, what became of them.
//!
//! ```text
//! crowd storm ADDRESS CLIENTS MILLIS       connect within so many milliseconds, send one request each, stay until
//!                                          standard input ends
//! crowd closed ADDRESS CLIENTS SECONDS     every client sends its next request when the last is answered
//! crowd hold ADDRESS CLIENTS MILLIS        the same, with a head of 50 KiB that never ends
//! crowd open ADDRESS RATE SECONDS          so many requests a second, whatever becomes of those before; each client
//!                                          waits a second at most, then it goes and another comes
//! ```
//!
//! Requests are `GET /`, with the headers that stand at the end as `NAME=VALUE`.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gateway_tests::client::RawClient;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::task::{JoinSet, LocalSet, spawn_local};

/// How long a client of an open crowd waits.
const PATIENCE: Duration = Duration::from_secs(1);

struct Crowd {
    address: SocketAddr,
    request: String,
    answered: Cell<u64>,
    /// Answered, but not with 200.
    shed: Cell<u64>,
    /// The connection was closed or could not be made.
    closed: Cell<u64>,
    /// Nothing came in time.
    late: Cell<u64>,
    /// Connections without a request.
    free: RefCell<Vec<RawClient>>,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [how, address, number, time, rest @ ..] = &words[..] else { anyhow::bail!("see the top of crowd.rs") };
    let headers =
        rest.iter().filter_map(|word| word.split_once('=')).map(|(name, value)| format!("{name}: {value}\r\n"));
    let crowd = Rc::new(Crowd {
        address: address.parse()?,
        request: format!("GET / HTTP/1.1\r\nhost: test.example.dev\r\n{}\r\n", headers.collect::<String>()),
        answered: Cell::default(),
        shed: Cell::default(),
        closed: Cell::default(),
        late: Cell::default(),
        free: RefCell::default(),
    });
    let (number, time): (u64, u64) = (number.parse()?, time.parse()?);
    gateway::overload::raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match how.as_str() {
            "storm" | "hold" => crowd.storm(number, Duration::from_millis(time), how == "hold").await,
            "closed" => crowd.closed(number, Duration::from_secs(time)).await,
            "open" => crowd.open(number, Duration::from_secs(time)).await,
            _ => anyhow::bail!("{how} is no crowd"),
        }
    })?;
    Ok(())
}

fn add(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Crowd {
    fn report(&self, elapsed: Duration) {
        let outcome = json!({
            "answered": self.answered.get(), "shed": self.shed.get(), "closed": self.closed.get(),
            "late": self.late.get(), "millis": elapsed.as_millis() as u64,
        });
        println!("{outcome}");
    }

    /// Sends what the other side has to keep. Counts as answered when it has been taken.
    async fn hold(&self, client: &mut RawClient) -> Option<()> {
        let head = format!("GET / HTTP/1.1\r\nhost: test.example.dev\r\nx-long: {}", "x".repeat(50 << 10));
        let taken = client.send(head).await.ok();
        add(if taken.is_some() { &self.answered } else { &self.closed });
        taken
    }

    /// One request; `None`: the connection is over.
    async fn ask(&self, client: &mut RawClient) -> Option<()> {
        let answer = async {
            client.send(&self.request).await?;
            client.response().await
        };
        let Ok(response) = answer.await else {
            add(&self.closed);
            return None;
        };
        add(if response.status == 200 { &self.answered } else { &self.shed });
        (response.header("connection") != Some("close")).then_some(())
    }

    async fn connect(&self) -> Option<RawClient> {
        let client = RawClient::connect(self.address).await.ok();
        if client.is_none() {
            add(&self.closed);
        }
        client
    }

    async fn storm(self: &Rc<Self>, clients: u64, within: Duration, hold: bool) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let crowd = Rc::clone(self);
            let at = begin + within.mul_f64(number as f64 / clients as f64);
            tasks.spawn_local(async move {
                tokio::time::sleep_until(at.into()).await;
                let mut client = crowd.connect().await?;
                if hold {
                    return crowd.hold(&mut client).await.map(|()| client);
                }
                crowd.ask(&mut client).await.map(|()| client)
            });
        }
        let mut stay = Vec::new();
        while let Some(client) = tasks.join_next().await {
            stay.extend(client.context("a client")?);
        }
        self.report(begin.elapsed());
        // Whoever started us says when to go.
        let _ = tokio::io::stdin().read(&mut [0]).await;
        drop(stay);
        Ok(())
    }

    async fn closed(self: &Rc<Self>, clients: u64, time: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        let end = begin + time;
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let crowd = Rc::clone(self);
            tasks.spawn_local(async move {
                while Instant::now() < end {
                    let Some(mut client) = crowd.connect().await else { continue };
                    while Instant::now() < end && crowd.ask(&mut client).await.is_some() {}
                }
            });
        }
        while let Some(client) = tasks.join_next().await {
            client.context("a client")?;
        }
        self.report(begin.elapsed());
        Ok(())
    }

    async fn open(self: &Rc<Self>, rate: u64, time: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut sent = 0;
        let waiting = Rc::new(Cell::new(0_u64));
        while begin.elapsed() < time {
            let due = (begin.elapsed().as_secs_f64() * rate as f64) as u64;
            while sent < due {
                sent += 1;
                let (crowd, waiting) = (Rc::clone(self), Rc::clone(&waiting));
                waiting.set(waiting.get() + 1);
                spawn_local(async move {
                    if tokio::time::timeout(PATIENCE, crowd.once()).await.is_err() {
                        add(&crowd.late);
                    }
                    waiting.set(waiting.get() - 1);
                });
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let elapsed = begin.elapsed();
        while waiting.get() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.report(elapsed);
        Ok(())
    }

    /// A request on a connection that is free, or on a new one.
    async fn once(&self) {
        let free = self.free.borrow_mut().pop();
        let client = match free {
            Some(client) => Some(client),
            None => self.connect().await,
        };
        let Some(mut client) = client else { return };
        if self.ask(&mut client).await.is_some() {
            self.free.borrow_mut().push(client);
        }
    }
}
