//! A service behind the gateway: it records what arrives and answers as the test says.
//!
//! ```
//! # use gateway_tests::{server::Protocol, upstream::{Answer, Upstream}};
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let upstream = Upstream::start(Protocol::Http1).await?;
//! upstream.answer_next(Answer::new(503).header("retry-after", "1"));
//! // … a request through the gateway to upstream.address() …
//! # let mut client = gateway_tests::client::RawClient::connect(upstream.address()).await?;
//! # assert_eq!(client.get("test.example.dev", "/sample").await?.status, 503);
//! let request = upstream.received(1).await?.remove(0);
//! assert_eq!(request.target, "/sample");
//! # anyhow::Ok(()) })?;
//! # anyhow::Ok(())
//! ```

use crate::body::{BodySender, Outgoing};
use crate::server::{self, Protocol};
use crate::within;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A request as the upstream received it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Which connection it came on; the first one accepted is 1.
    pub connection: usize,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// The method.
    pub method: Method,
    /// The target as it was sent: path and query, or the whole URI in absolute form.
    pub target: String,
    /// The headers, with `host` also for HTTP/2, where it is `:authority`.
    pub headers: HeaderMap,
    /// The body, as far as it came.
    pub body: Bytes,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
    /// Whether the body came to its end; false if the sender broke it off.
    pub complete: bool,
    /// What the handshake of its connection told, if there was one.
    pub tls: Option<Handshake>,
}

/// What a client told in a TLS handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The server name it asked for.
    pub server_name: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// Whether it showed a certificate.
    pub certificate: bool,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl Received {
    /// The first value of a header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Every value of a header that is text, in order.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    }
}

/// Something that stays shut until the test opens it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Gate {
        Gate(Arc::new(watch::Sender::new(false)))
    }
}

impl Gate {
    /// A shut gate.
    pub fn shut() -> Gate {
        Gate::default()
    }

    /// Opens it, for everybody who waits and who comes later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn passed(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// How a request is answered. Built by chaining.
pub struct Answer {
    response: Response<Outgoing>,
    echo: bool,
    hang_up: bool,
    early: bool,
    read_after: Option<Gate>,
    after: Option<Gate>,
}

impl Answer {
    /// An answer without a body. A status that does not exist becomes 500.
    pub fn new(status: u16) -> Answer {
        let mut response = Response::new(Outgoing::empty());
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        Answer { response, echo: false, hang_up: false, early: false, read_after: None, after: None }
    }

    /// A 200 with the request's body.
    pub fn echo() -> Answer {
        Answer { echo: true, ..Answer::new(200) }
    }

    /// No answer: the connection is closed without a word (HTTP/2: the stream is reset).
    pub fn hang_up() -> Answer {
        Answer { hang_up: true, ..Answer::new(500) }
    }

    /// An answer whose body the test sends through the [`BodySender`].
    pub fn streamed(status: u16) -> (Answer, BodySender) {
        let (sender, body) = Outgoing::channel();
        (Answer::new(status).body(body), sender)
    }

    /// Adds a header. Ignored if it is not a legal one.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Answer {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_ref())) {
            self.response.headers_mut().append(name, value);
        }
        self
    }

    /// A body with a `content-length`.
    pub fn text(self, text: impl Into<Bytes>) -> Answer {
        self.body(Outgoing::full(text))
    }

    /// Any body.
    pub fn body(mut self, body: Outgoing) -> Answer {
        *self.response.body_mut() = body;
        self
    }

    /// Begins to read the request's body only when the gate opens, as a server that is busy does.
    pub fn read_after(mut self, gate: &Gate) -> Answer {
        self.read_after = Some(gate.clone());
        self
    }

    /// Answers only when the gate opens. The request is read and recorded before.
    pub fn after(mut self, gate: &Gate) -> Answer {
        self.after = Some(gate.clone());
        self
    }

    /// Answers before the request's body has come; it is recorded when it has. (On HTTP/1.1 hyper reports the end of a
    /// chunked body only with the next request then; one with a length is recorded at once.)
    pub fn early(mut self) -> Answer {
        self.early = true;
        self
    }
}

/// The server. It stops, with all its connections, when it is dropped.
pub struct Upstream {
    address: SocketAddr,
    protocol: Protocol,
    state: Arc<State>,
    accepting: AbortHandle,
    /// Changes when all connections are to be closed.
    closing: watch::Sender<()>,
}

type Fallback = Box<dyn Fn(&Received) -> Answer + Send + Sync>;

struct State {
    received: watch::Sender<Vec<Received>>,
    /// Connections accepted so far, and how many of them are open.
    connections: watch::Sender<(usize, usize)>,
    /// Requests whose head has come.
    begun: watch::Sender<usize>,
    next: Mutex<VecDeque<Answer>>,
    otherwise: Mutex<Arc<Fallback>>,
}

impl Upstream {
    /// Starts a server on a free port of 127.0.0.1. It answers every request with an empty 200.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(protocol: Protocol) -> anyhow::Result<Upstream> {
        Upstream::start_with(protocol, None).await
    }

    /// The same behind TLS. Connections whose handshake fails are closed and leave nothing behind.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start_tls(protocol: Protocol, config: rustls::ServerConfig) -> anyhow::Result<Upstream> {
        Upstream::start_with(protocol, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(protocol: Protocol, tls: Option<TlsAcceptor>) -> anyhow::Result<Upstream> {
        Upstream::serve(TcpListener::bind("127.0.0.1:0").await?, protocol, tls)
    }

    /// The same on a socket of the test's.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn on(listener: TcpListener, protocol: Protocol) -> anyhow::Result<Upstream> {
        Upstream::serve(listener, protocol, None)
    }

    fn serve(listener: TcpListener, protocol: Protocol, tls: Option<TlsAcceptor>) -> anyhow::Result<Upstream> {
        let address = listener.local_addr()?;
        let otherwise: Fallback = Box::new(|_| Answer::new(200));
        let state = Arc::new(State {
            received: watch::Sender::new(Vec::new()),
            connections: watch::Sender::new((0, 0)),
            begun: watch::Sender::new(0),
            next: Mutex::default(),
            otherwise: Mutex::new(Arc::new(otherwise)),
        });
        let closing = watch::Sender::new(());
        let accept = accept(listener, protocol, tls, Arc::clone(&state), closing.subscribe());
        Ok(Upstream { address, protocol, state, accepting: tokio::spawn(accept).abort_handle(), closing })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Says how the next request is answered that has no answer yet. Called again, the one after it.
    pub fn answer_next(&self, answer: Answer) {
        lock(&self.state.next).push_back(answer);
    }

    /// Says how requests are answered that [`answer_next`](Upstream::answer_next) says nothing about.
    pub fn answer_with(&self, answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *lock(&self.state.otherwise) = Arc::new(Box::new(answer));
    }

    /// The requests that have been received so far, in the order in which their bodies ended.
    pub fn requests(&self) -> Vec<Received> {
        self.state.received.borrow().clone()
    }

    /// Waits until `count` requests have been received in all, and gives them.
    pub async fn received(&self, count: usize) -> anyhow::Result<Vec<Received>> {
        let mut received = self.state.received.subscribe();
        let enough = received.wait_for(|requests| requests.len() >= count);
        Ok(within(&format!("request {count} at the upstream"), enough).await??.clone())
    }

    /// Waits until the heads of `count` requests have come in all, whatever becomes of their bodies.
    pub async fn begun(&self, count: usize) -> anyhow::Result<()> {
        let mut begun = self.state.begun.subscribe();
        within(&format!("the head of request {count} at the upstream"), begun.wait_for(|begun| *begun >= count))
            .await??;
        Ok(())
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.borrow().0
    }

    /// Waits until exactly `count` connections are open.
    pub async fn open_connections(&self, count: usize) -> anyhow::Result<()> {
        let mut connections = self.state.connections.subscribe();
        let reached = connections.wait_for(|(_, open)| *open == count);
        within(&format!("{count} open connections at the upstream"), reached).await??;
        Ok(())
    }

    /// Closes all connections there are, whatever happens on them, and waits until they are closed.
    pub async fn close_connections(&self) -> anyhow::Result<()> {
        self.closing.send_replace(());
        self.open_connections(0).await
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A test that panicked while it held the lock has failed anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    protocol: Protocol,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    closing: watch::Receiver<()>,
) {
    // Dropped, and with it all connections, when this task is aborted.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Small writes are to be seen when they are made.
        let _ = stream.set_nodelay(true);
        let opened = Opened::new(Arc::clone(&state));
        let (state, mut closing, tls) = (Arc::clone(&state), closing.clone(), tls.clone());
        closing.mark_unchanged();
        connections.spawn(async move {
            let number = opened.number;
            let serving = async {
                let Some(tls) = tls else {
                    let service = service_fn(move |request| answer(Arc::clone(&state), number, None, request));
                    return server::serve(stream, protocol, service).await;
                };
                let stream = tls.accept(stream).await?;
                let session = stream.get_ref().1;
                let handshake = Handshake {
                    server_name: session.server_name().map(str::to_owned),
                    alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
                    certificate: session.peer_certificates().is_some(),
                    resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
                };
                let service =
                    service_fn(move |request| answer(Arc::clone(&state), number, Some(handshake.clone()), request));
                server::serve(stream, protocol, service).await
            };
            tokio::select! {
                // Clients that break off and answers that hang up are what tests are about.
                _ = serving => {}
                _ = closing.changed() => {}
            }
            drop(opened);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Counts a connection while it is open.
struct Opened {
    state: Arc<State>,
    number: usize,
}

impl Opened {
    fn new(state: Arc<State>) -> Opened {
        let mut number = 0;
        state.connections.send_modify(|(accepted, open)| {
            *accepted += 1;
            *open += 1;
            number = *accepted;
        });
        Opened { state, number }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.state.connections.send_modify(|(_, open)| *open -= 1);
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[error("the test wants this connection to be closed")]
struct HangUp;

async fn answer(
    state: Arc<State>,
    connection: usize,
    tls: Option<Handshake>,
    request: Request<Incoming>,
) -> Result<Response<Outgoing>, HangUp> {
    let (head, body) = request.into_parts();
    let mut headers = head.headers;
    if let (Some(authority), false) = (head.uri.authority(), headers.contains_key(http::header::HOST)) {
        headers.extend(HeaderValue::from_str(authority.as_str()).map(|value| (http::header::HOST, value)));
    }
    let absolute = head.version == Version::HTTP_11 && head.uri.scheme().is_some();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let received = Received {
        connection,
        version: head.version,
        method: head.method,
        target: if absolute { head.uri.to_string() } else { path.to_owned() },
        headers,
        body: Bytes::new(),
        trailers: None,
        complete: false,
        tls,
    };

    state.begun.send_modify(|begun| *begun += 1);
    let is_head = received.method == Method::HEAD;
    let scripted = lock(&state.next).pop_front();
    let read_after = scripted.as_ref().and_then(|answer| answer.read_after.clone());
    let reading = record(Arc::clone(&state), received, body, read_after);
    let (answer, received) = match scripted {
        Some(answer) if answer.early => {
            tokio::spawn(reading);
            (answer, None)
        }
        Some(answer) => (answer, Some(reading.await)),
        None => {
            let received = reading.await;
            let otherwise = Arc::clone(&*lock(&state.otherwise));
            (otherwise(&received), Some(received))
        }
    };

    if let Some(gate) = &answer.after {
        gate.passed().await;
    }
    if answer.hang_up {
        return Err(HangUp);
    }
    let mut response = answer.response;
    if let (true, Some(received)) = (answer.echo, received) {
        *response.body_mut() = Outgoing::full(received.body);
    }
    if is_head {
        // hyper's HTTP/2 would send the body all the same.
        let length = response.body().size_hint().exact().map(HeaderValue::from);
        response.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length)));
        *response.body_mut() = Outgoing::empty();
    }
    Ok(response)
}

/// Reads a body to its end and records the request.
async fn record(state: Arc<State>, mut request: Received, mut body: Incoming, after: Option<Gate>) -> Received {
    if let Some(gate) = after {
        gate.passed().await;
    }
    let mut bytes = BytesMut::new();
    request.complete = loop {
        // hyper 1.12 does not wake a reader for the end of a body whose response has already ended.
        if body.is_end_stream() {
            break true;
        }
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => request.trailers = frame.into_trailers().ok(),
            },
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    request.body = bytes.freeze();
    state.received.send_modify(|requests| requests.push(request.clone()));
    request
}
