//! The service behind the gateway that is asked: it keeps the bytes it gets, reads them without any leniency, and
//! answers as the case says. Nothing in here repairs anything: what is not plainly one request is shown as it came.

use super::arrived::{Arrived, Http1, Http2};
use crate::server::Protocol;
use anyhow::Context as _;
use socket2::SockRef;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// A request for this path is no part of a case: it asks whether a connection is still in order. Always answered.
pub const PROBE: &str = "/probe";

/// What the service does.
#[derive(Clone, Default)]
pub enum Service {
    /// Answers every request with 200 and `ok` when it has come to its end.
    #[default]
    Answers,
    /// Sends these bytes as soon as the head of a request has come; the number is its HTTP/2 stream.
    Says(Arc<dyn Fn(u32) -> Vec<u8> + Send + Sync>, End),
    /// Sends these bytes as soon as somebody connects.
    Greets(Vec<u8>, End),
}

/// What it does after it has said its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Waits for the other side.
    Open,
    /// Ends its direction of the connection.
    Close,
    /// Breaks the connection off.
    Reset,
}

/// What a connection has to do next.
pub(super) enum Say {
    Bytes(Vec<u8>),
    End(End),
}

/// The service. It stops when it is dropped.
pub struct Recorder {
    protocol: Protocol,
    address: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

struct State {
    protocol: Protocol,
    /// For [`Recorder::settle`], which takes what the accepting task has not taken yet.
    listener: TcpListener,
    service: Mutex<Service>,
    connections: Mutex<Vec<Arc<Mutex<Connection>>>>,
    /// Counts what has happened.
    events: watch::Sender<u64>,
}

struct Connection {
    /// `None` once it has ended.
    stream: Option<Arc<TcpStream>>,
    parser: Parser,
}

enum Parser {
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

impl Recorder {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start(protocol: Protocol) -> anyhow::Result<Recorder> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let accepting = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        let state = Arc::new(State {
            protocol,
            listener,
            service: Mutex::default(),
            connections: Mutex::default(),
            events: watch::Sender::new(0),
        });
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((stream, _)) = accepting.accept().await {
                    state.take_in(stream);
                }
            }
        });
        Ok(Recorder { protocol, address, state, accepting: task.abort_handle() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Says what the service does from now on.
    pub fn behave(&self, service: Service) {
        *lock(&self.state.service) = service;
    }

    /// Ends all connections, so that the next request comes on one of its own.
    pub fn hang_up(&self) {
        for connection in self.connections() {
            lock(&connection).ended();
        }
    }

    /// What has arrived since the last call, without probes. Waits until every request has come to an end, or been
    /// broken off, for at most `patience`.
    pub async fn arrived(&self, patience: Duration) -> anyhow::Result<Vec<Arrived>> {
        let until = Instant::now() + patience;
        let mut events = self.state.events.subscribe();
        loop {
            events.mark_unchanged();
            self.settle()?;
            let unfinished = self.connections().iter().any(|connection| lock(connection).is_within_a_request());
            if !unfinished || tokio::time::timeout_at(until, events.changed()).await.is_err() {
                break;
            }
        }
        let mut arrived = Vec::new();
        let mut connections = lock(&self.state.connections);
        connections.retain(|connection| {
            let mut connection = lock(connection);
            arrived.extend(connection.take());
            connection.stream.is_some()
        });
        arrived.retain(|request| request.target != PROBE);
        Ok(arrived)
    }

    /// Reads everything that other processes have sent up to now: what is in the queues of sockets, too.
    fn settle(&self) -> anyhow::Result<()> {
        loop {
            match self.state.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    self.state.take_in(TcpStream::from_std(stream)?);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("accepting a connection of the gateway"),
            }
        }
        for connection in self.connections() {
            lock(&connection).read(|stream, into| (&*SockRef::from(stream)).read(into));
        }
        Ok(())
    }

    fn connections(&self) -> Vec<Arc<Mutex<Connection>>> {
        lock(&self.state.connections).clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    fn take_in(self: &Arc<State>, stream: TcpStream) {
        // Small writes are to be seen when they are made.
        let _ = stream.set_nodelay(true);
        let (outbox, says) = mpsc::unbounded_channel();
        let service = lock(&self.service).clone();
        if let Service::Greets(bytes, end) = &service {
            // The receiver is here.
            let _ = outbox.send(Say::Bytes(bytes.clone()));
            let _ = outbox.send(Say::End(*end));
        }
        let state = Arc::clone(self);
        let current = Box::new(move || lock(&state.service).clone());
        let parser = match self.protocol {
            Protocol::Http2 => Parser::Http2(Box::new(Http2::new(outbox, current))),
            _ => Parser::Http1(Box::new(Http1::new(outbox, current))),
        };
        let stream = Arc::new(stream);
        let connection = Arc::new(Mutex::new(Connection { stream: Some(Arc::clone(&stream)), parser }));
        lock(&self.connections).push(Arc::clone(&connection));
        tokio::spawn(serve(connection, stream, says, self.events.clone()));
    }
}

impl Connection {
    /// Reads what there is.
    fn read(&mut self, mut read: impl FnMut(&TcpStream, &mut [u8]) -> std::io::Result<usize>) {
        let mut buffer = [0; 64 * 1024];
        while let Some(stream) = &self.stream {
            match read(stream, &mut buffer) {
                Ok(length @ 1..) => match &mut self.parser {
                    Parser::Http1(http1) => http1.feed(&buffer[..length]),
                    Parser::Http2(http2) => http2.feed(&buffer[..length]),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.ended(),
            }
        }
    }

    fn ended(&mut self) {
        self.stream = None;
        match &mut self.parser {
            Parser::Http1(http1) => http1.ended(),
            Parser::Http2(http2) => http2.ended(),
        }
    }

    fn is_within_a_request(&self) -> bool {
        match &self.parser {
            Parser::Http1(http1) => http1.is_within_a_request(),
            Parser::Http2(http2) => http2.is_within_a_request(),
        }
    }

    fn take(&mut self) -> Vec<Arrived> {
        match &mut self.parser {
            Parser::Http1(http1) => http1.take(),
            Parser::Http2(http2) => http2.take(),
        }
    }
}

/// Reads and writes until the connection ends.
async fn serve(
    connection: Arc<Mutex<Connection>>,
    stream: Arc<TcpStream>,
    mut says: mpsc::UnboundedReceiver<Say>,
    events: watch::Sender<u64>,
) {
    loop {
        tokio::select! {
            say = says.recv() => match say {
                Some(Say::Bytes(bytes)) => write(&stream, &bytes).await,
                Some(Say::End(End::Close)) => {
                    // It may be gone already.
                    let _ = SockRef::from(&*stream).shutdown(std::net::Shutdown::Write);
                }
                Some(Say::End(End::Reset)) => {
                    let _ = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                    lock(&connection).ended();
                }
                Some(Say::End(End::Open)) => {}
                None => return,
            },
            _ = stream.readable() => lock(&connection).read(TcpStream::try_read),
        }
        events.send_modify(|events| *events += 1);
        if lock(&connection).stream.is_none() {
            return;
        }
    }
}

/// Writes all of it, as far as the other side takes it.
async fn write(stream: &TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        if stream.writable().await.is_err() {
            return;
        }
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // It hangs up in the middle: that is up to it.
            Err(_) => return,
        }
    }
}

/// A case that panicked while it held the lock has failed anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
