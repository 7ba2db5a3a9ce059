//! The TLS handshake of a client: its hello chooses the server, the server's settings do the rest.
//!
//! A handshake takes as long as ten requests do. So a worker does one (our share of the key exchange, our signature), then
//! looks after everybody else who is ready, and only then does the next: a storm of them waits in a queue of its own.
//!
//! Who asks for a name that nobody serves, or for a server without a usable certificate, gets a TCP reset, as from
//! Istio's gateway: no alert says what is there.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use rustls::{
    HandshakeKind, PeerIncompatible, ServerConfig,
    server::{Accepted, Acceptor},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
};
use tokio_rustls::{StartHandshake, TlsStream};

use super::{Port, Worker, secured::Secured};
use crate::{
    net::Stream,
    telemetry::Limit,
    tls::{ALPN_HTTP2, Peer, limits},
};

/// Bytes of a hello that are read at once.
const READ: usize = 2048;
/// The alert `protocol_version` as a record. Clients before TLS 1.2 do not say which signatures they understand; rustls
/// notices that first and would call it a failure of the handshake.
const TOO_OLD: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];

/// A client that is through.
pub(super) struct Shaken {
    pub(super) stream: Stream,
    pub(super) secured: Secured,
    /// Whether HTTP/2 was agreed on; `None` if nothing was.
    pub(super) http2: Option<bool>,
}

/// Where the handshakes of a worker wait for each other.
pub(super) struct Queue(Semaphore);

impl Default for Queue {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

/// Why a client is turned away.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no server has the name that the client asks for")]
    Name,
    #[error("the server has no usable certificate")]
    Server,
    #[error("the hello is larger than {} bytes", limits::CLIENT_HELLO_BYTES)]
    HelloTooLarge,
    #[error("the session is resumed, but the client's certificate has expired since")]
    Expired,
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Does the handshake. `None`: the client was turned away, which has been counted.
pub(super) async fn accept(tcp: TcpStream, port: &Port, worker: &Worker) -> Option<Shaken> {
    let counters = worker.telemetry.counters();
    let refused = match tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, shake(tcp, port, &worker.handshakes)).await {
        Ok(Ok((shaken, resumed))) => {
            counters.tls_handshakes.inc();
            if resumed {
                counters.tls_resumptions.inc();
            }
            return Some(shaken);
        }
        Ok(Err(refused)) => refused,
        Err(_) => {
            counters.limit_exceeded(Limit::TlsHandshakeTime);
            Refused::Io(io::ErrorKind::TimedOut.into())
        }
    };
    counters.tls_handshake_failures.inc();
    match refused {
        Refused::Name | Refused::Server => counters.tls_unserved.inc(),
        Refused::HelloTooLarge => counters.limit_exceeded(Limit::TlsHelloBytes),
        _ => {}
    }
    tracing::debug!(error = %refused, "a TLS handshake failed");
    None
}

async fn shake(mut tcp: TcpStream, port: &Port, queue: &Queue) -> Result<(Shaken, bool), Refused> {
    let accepted = match hello(&mut tcp).await {
        Err(refused @ Refused::HelloTooLarge) => return Err(reset(&tcp, refused)),
        other => other?,
    };
    // Nobody closes the queue.
    let turn = queue.0.acquire().await.ok();
    // What is configured now, not when the connection was opened.
    let serving = port.serving();
    let (config, secured) = {
        let hello = accepted.client_hello();
        let servers = serving.listener.tls.as_ref();
        let Some((place, server)) = servers.and_then(|servers| servers.select(hello.server_name())) else {
            return Err(reset(&tcp, Refused::Name));
        };
        let Some(tls) = &server.tls else { return Err(reset(&tcp, Refused::Server)) };
        let config = Arc::clone(if server.tcp.is_some() { tls.foreign() } else { tls.config(&hello) });
        (config, Secured::begin(&serving, place, server, tls, &hello))
    };
    let (stream, peer) = finish(accepted, tcp, config, turn).await?;
    let session = stream.get_ref().1;
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let http2 = session.alpn_protocol().map(|protocol| protocol == ALPN_HTTP2);
    let secured = secured.finish(session.protocol_version(), peer);
    Ok((Shaken { stream: Stream::Tls(Box::new(stream)), secured, http2 }, resumed))
}

/// Reads the client's hello, however it is cut into pieces, and not much more.
async fn hello(tcp: &mut TcpStream) -> Result<Accepted, Refused> {
    let mut acceptor = Acceptor::default();
    let mut room = limits::CLIENT_HELLO_BYTES;
    let mut buffer = [0; READ];
    loop {
        let read = tcp.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        room = room.checked_sub(read).ok_or(Refused::HelloTooLarge)?;
        let mut bytes = buffer.get(..read).unwrap_or_default();
        while !bytes.is_empty() {
            if acceptor.read_tls(&mut bytes)? == 0 {
                return Err(Refused::HelloTooLarge);
            }
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut text = Vec::new();
                if error == rustls::Error::PeerIncompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired) {
                    text.extend(TOO_OLD);
                } else {
                    alert.write_all(&mut text)?;
                }
                tcp.write_all(&text).await?;
                return Err(error.into());
            }
        }
    }
}

async fn finish(
    accepted: Accepted,
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    turn: Option<SemaphorePermit<'_>>,
) -> Result<(TlsStream<TcpStream>, Option<Peer>), Refused> {
    let start = StartHandshake::from_parts(accepted, tcp);
    // This is what takes time.
    let shaking = start.into_stream_with(config, |session| session.set_buffer_limit(Some(limits::SEND_BUFFER_BYTES)));
    let mut shaking = pin!(shaking);
    let sent = poll_fn(|cx| Poll::Ready(shaking.as_mut().poll(cx))).await;
    // Comes back when everybody who was ready has had a turn.
    tokio::task::yield_now().await;
    drop(turn);
    let shaken = match sent {
        Poll::Ready(shaken) => shaken,
        Poll::Pending => shaking.await,
    };
    let stream = TlsStream::Server(shaken?);
    let (tcp, session) = stream.get_ref();
    let peer = Peer::new(session.peer_certificates());
    // A resumed session does not look at the certificate again.
    if peer.as_ref().is_some_and(|peer| !peer.certificate.is_valid_at(SystemTime::now())) {
        return Err(reset(tcp, Refused::Expired));
    }
    Ok((stream, peer))
}

/// Makes the kernel answer with a reset when the socket is closed.
fn reset(tcp: &TcpStream, refused: Refused) -> Refused {
    // Should it fail, the connection ends with a FIN instead.
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    refused
}
