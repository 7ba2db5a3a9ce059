//! A name server on UDP that answers what the test says.
//!
//! ```
//! # use gateway_tests::dns::NameServer;
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let server = NameServer::start().await?;
//! server.set("a.example.dev", &["127.0.0.1"], 30);
//! // … a gateway with `options.dns_server = Some(server.address())` …
//! server.fail("a.example.dev");
//! # anyhow::Ok(()) })?;
//! # anyhow::Ok(())
//! ```

use crate::within;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The server. It stops when it is dropped.
pub struct NameServer {
    address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Default)]
struct State {
    names: Mutex<HashMap<String, Answer>>,
    /// Names that were asked for, in order.
    asked: watch::Sender<Vec<String>>,
}

#[derive(Clone)]
enum Answer {
    Addresses(Vec<IpAddr>, u32),
    /// SERVFAIL.
    Failure,
}

impl NameServer {
    /// Starts a server that knows no name.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start() -> anyhow::Result<NameServer> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let state = Arc::<State>::default();
        let task = tokio::spawn(serve(socket, Arc::clone(&state))).abort_handle();
        Ok(NameServer { address, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A name has these addresses for so many seconds. What is no address is left out.
    pub fn set(&self, name: &str, addresses: &[&str], seconds: u32) {
        let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
        lock(&self.state.names).insert(name.to_owned(), Answer::Addresses(addresses, seconds));
    }

    /// Looking this name up fails.
    pub fn fail(&self, name: &str) {
        lock(&self.state.names).insert(name.to_owned(), Answer::Failure);
    }

    /// How often a name has been asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.state.asked.borrow().iter().filter(|asked| *asked == name).count()
    }

    /// Waits until a name has been asked for so many times in all.
    pub async fn asked_times(&self, name: &str, times: usize) -> anyhow::Result<()> {
        let mut asked = self.state.asked.subscribe();
        let enough = asked.wait_for(|all| all.iter().filter(|asked| *asked == name).count() >= times);
        within(&format!("question {times} for {name}"), enough).await??;
        Ok(())
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A test that panicked while it held the lock has failed anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(socket: UdpSocket, state: Arc<State>) {
    let mut buffer = [0; 1500];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        if let Some(reply) = buffer.get(..len).and_then(|question| reply(question, &state)) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

/// RFC 1035 4: the header, the question as it came, and one record per address of the wanted type.
fn reply(question: &[u8], state: &State) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let len = usize::from(*question.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + len)?).to_ascii_lowercase());
        at += len;
    }
    let kind = u16::from_be_bytes([*question.get(at)?, *question.get(at + 1)?]);
    let name = labels.join(".");
    // Every look-up asks for the IPv4 addresses first.
    if kind == 1 {
        state.asked.send_modify(|asked| asked.push(name.clone()));
    }
    let answer = lock(&state.names).get(&name).cloned();
    let (code, addresses, seconds) = match answer {
        Some(Answer::Addresses(addresses, seconds)) => (0, addresses, seconds),
        Some(Answer::Failure) => (2, Vec::new(), 0),
        None => (3, Vec::new(), 0),
    };
    let wanted: Vec<_> = addresses.into_iter().filter(|ip| kind == if ip.is_ipv4() { 1 } else { 28 }).collect();
    let mut out = question.get(..2)?.to_vec();
    // An answer, authoritative, recursion desired and available.
    out.extend([0x85, 0x80 | code, 0, 1]);
    out.extend(u16::try_from(wanted.len()).ok()?.to_be_bytes());
    out.extend([0; 4]);
    out.extend(question.get(12..at + 4)?);
    for address in wanted {
        let bytes = match address {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        // The name of the question, type, class IN, time to live.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(seconds.to_be_bytes());
        out.extend(u16::try_from(bytes.len()).ok()?.to_be_bytes());
        out.extend(bytes);
    }
    Some(out)
}
