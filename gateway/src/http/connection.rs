//! One client connection: which protocol it speaks, and how it is served until it ends.

use std::{cell::Cell, io, net::SocketAddr, pin::pin, rc::Rc};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response};
use hyper::{server::conn::http2, service::service_fn};
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{
    Port, Worker,
    activity::{Activity, with_orders},
    body::Incoming,
    client_io::ClientIo,
    handshake::{self, Shaken},
    http1, limits, other,
    progress::Offering,
    proxy_protocol::{self, Refused, Said},
    request::Arrived,
    secured::{self, Secured},
    service::{self, Aborted},
    upgrade::Switch,
};
use crate::{
    http1::request::Refusal,
    net::{LocalExecutor, Stream},
    overload::Stage,
    telemetry::Limit,
};

/// First bytes of HTTP/2 with prior knowledge (RFC 9113 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client connection, for its requests to look at.
pub(super) struct Connection {
    /// Address of the client.
    pub(super) remote: SocketAddr,
    /// Address it connected to.
    pub(super) local: SocketAddr,
    /// The listener; what is configured there may change between requests.
    pub(super) port: Rc<Port>,
    pub(super) worker: Rc<Worker>,
    /// The client's address as `x-forwarded-for` and `x-envoy-external-address` want it.
    pub(super) forwarded_for: HeaderValue,
    /// Unique in this process.
    pub(super) id: u64,
    pub(super) activity: Rc<Activity>,
    /// What the connection becomes when HTTP has ended on it, if it does not end.
    pub(super) switch: Cell<Option<Box<Switch>>>,
    /// Whether an HTTP/1 connection is to end with the next answer, or now if there is no request.
    pub(super) draining: Cell<bool>,
    /// Why the body of the HTTP/1 request that is being served broke off, if that was for what is in it.
    pub(super) refused_body: Cell<Option<Refusal>>,
    /// Inside TLS: for whom, and who the client is.
    pub(super) secured: Option<Secured>,
}

impl Connection {
    /// Whether new requests are refused for want of memory.
    pub(super) fn sheds_requests(&self) -> bool {
        self.worker.overload.stage() >= Stage::RefuseRequests
    }
}

/// A connection that has told which protocol it speaks.
struct Opened {
    stream: Stream,
    /// The client, and where it connected to.
    remote: SocketAddr,
    local: SocketAddr,
    /// What was read to tell.
    prefix: Bytes,
    spoken: Spoken,
    secured: Option<Secured>,
}

/// What a connection carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    /// The listener or server does not want to know.
    Other,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(stream: TcpStream, remote: SocketAddr, port: Rc<Port>, worker: Rc<Worker>) {
    let Ok(local) = stream.local_addr() else { return };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let counters = worker.telemetry.counters();
    counters.downstream_connections.inc();
    counters.downstream_connections_total.inc();
    let activity = Activity::new(worker.clock.clone());
    let entry = worker.connections.enter(&activity, &port);
    let peers = (remote, local);
    let opened = with_orders(&activity, false, pin!(open(stream, peers, &port, &activity, &worker)), |_| {}).await;
    if let Some(Some(Opened { stream, remote, local, prefix, spoken, secured })) = opened {
        let connection = Rc::new(Connection {
            remote,
            local,
            port,
            forwarded_for: worker.identity.forwarded_for(remote.ip()),
            id: worker.connections.next_id(worker.index),
            activity: Rc::clone(&activity),
            worker: Rc::clone(&worker),
            switch: Cell::default(),
            draining: Cell::default(),
            refused_body: Cell::default(),
            secured,
        });
        match spoken {
            Spoken::Http1 => serve_http1(stream, prefix, connection).await,
            Spoken::Http2 => {
                activity.set_multiplexed(true);
                let io = ClientIo::new(stream, &prefix, Rc::clone(&connection));
                serve_http2(io, connection).await;
            }
            Spoken::Other => {
                activity.head_is(false);
                activity.begin();
                // Told to drain, it goes on until the drain time is over.
                with_orders(&activity, false, pin!(other::serve(stream, &connection)), |_| {}).await;
            }
        }
    }
    drop(entry);
    counters.downstream_connections.dec();
}

/// Finds out what is spoken, inside TLS where the listener wants that. `None`: the client is gone, or turned away.
async fn open(
    mut tcp: TcpStream,
    peers: (SocketAddr, SocketAddr),
    port: &Port,
    activity: &Activity,
    worker: &Worker,
) -> Option<Opened> {
    let (remote, local) = introduce(&mut tcp, peers, worker).await?;
    let serving = port.serving();
    if serving.listener.tls.is_none() {
        let mut stream = Stream::Plain(tcp);
        let (prefix, spoken) = match &serving.listener.tcp {
            Some(_) => (Bytes::new(), Spoken::Other),
            None => sniff(&mut stream).await.ok()?,
        };
        return Some(Opened { stream, remote, local, prefix, spoken, secured: None });
    }
    activity.begin_handshake();
    // In a box, so that connections without TLS do not carry its room.
    let Shaken { mut stream, secured, http2 } = Box::pin(handshake::accept(tcp, port, worker)).await?;
    activity.end_handshake();
    let (prefix, spoken) = match http2 {
        _ if secured::tcp_route(Some(&secured), &port.serving()).is_some() => (Bytes::new(), Spoken::Other),
        Some(true) => (Bytes::new(), Spoken::Http2),
        Some(false) => (Bytes::new(), Spoken::Http1),
        None => sniff(&mut stream).await.ok()?,
    };
    Some(Opened { stream, remote, local, prefix, spoken, secured: Some(secured) })
}

/// The client and where it connected to: as the socket says, or as a load balancer in between says where that is wanted.
/// `None`: the connection is not served.
async fn introduce(
    stream: &mut TcpStream,
    (remote, local): (SocketAddr, SocketAddr),
    worker: &Worker,
) -> Option<(SocketAddr, SocketAddr)> {
    // An IPv4 client of a listener on `::` is an IPv4 client.
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let as_connected = Some((canonical(remote), canonical(local)));
    if !worker.identity.topology.proxy_protocol {
        return as_connected;
    }
    match proxy_protocol::read(stream).await {
        Ok(Said::Nothing) => as_connected,
        Ok(Said::Addresses { client, destination }) => Some((canonical(client), canonical(destination))),
        Err(refused) => {
            let counters = worker.telemetry.counters();
            match &refused {
                Refused::Malformed(_) => counters.downstream_protocol_errors.inc(),
                Refused::TooLarge => counters.limit_exceeded(Limit::ProxyHeaderBytes),
                Refused::Io(_) => {}
            }
            tracing::debug!(peer = %remote, %refused, "a connection is not served");
            None
        }
    }
}

/// Reads just enough to tell HTTP/2 from HTTP/1. Returns what was read.
async fn sniff(stream: &mut Stream) -> io::Result<(Bytes, Spoken)> {
    let mut read = BytesMut::new();
    loop {
        if read.len() >= HTTP2_PREFACE.len() || !HTTP2_PREFACE.starts_with(&read) {
            let http2 = read.starts_with(HTTP2_PREFACE);
            return Ok((read.freeze(), if http2 { Spoken::Http2 } else { Spoken::Http1 }));
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn serve_http1(stream: Stream, prefix: Bytes, connection: Rc<Connection>) {
    let activity = &connection.activity;
    let served = http1::serve(stream, prefix, Rc::clone(&connection));
    let ended = with_orders(activity, true, pin!(served), |_| connection.draining.set(true)).await;
    let Some(Some((stream, read_ahead))) = ended else { return };
    if let Some(switch) = connection.switch.take() {
        let tunnel = Box::pin(switch.run(stream, read_ahead, &connection.worker.limits));
        // Told to drain, it goes on until the drain time is over.
        with_orders(activity, false, pin!(tunnel), |_| {}).await;
    }
}

async fn serve_http2(io: ClientIo, connection: Rc<Connection>) {
    let activity = Rc::clone(&connection.activity);
    let serving = Rc::clone(&connection);
    let http2 = http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(limits::HTTP2_STREAMS)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
        .max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES)
        .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(limits::HTTP2_ERROR_RESETS)
        .serve_connection(
            io,
            service_fn(move |request: Request<hyper::body::Incoming>| {
                let (parts, body) = request.into_parts();
                let connection = Rc::clone(&serving);
                // In a box: on its way into a task and out of it a future is moved six times.
                Box::pin(async move {
                    let activity = Rc::clone(&connection.activity);
                    let worker = Rc::clone(&connection.worker);
                    let mut headers = worker.header_lists.take();
                    headers.append_map(parts.headers);
                    let arrived = Arrived { method: parts.method, uri: parts.uri, version: parts.version, headers };
                    let (mut head, body) = service::serve(connection, arrived, Incoming::Http2(body), None).await?;
                    let mut response = Response::new(Offering::new(body, &activity));
                    *response.status_mut() = head.status;
                    *response.headers_mut() = head.headers.take_map();
                    worker.header_lists.put(head.headers);
                    Ok::<_, Aborted>(response)
                })
            }),
        );
    let counters = connection.worker.telemetry.counters();
    let ended = with_orders(&activity, true, pin!(http2), http2::Connection::graceful_shutdown).await;
    // A flood has been counted.
    if ended.as_ref().is_some_and(is_calmed) && !activity.is_lingering() {
        counters.limit_exceeded(Limit::Http2StreamErrors);
    }
    log_end(ended);
}

/// Whether h2 has ended a connection because of how often the client made it reset streams.
fn is_calmed(ended: &hyper::Result<()>) -> bool {
    let error = ended.as_ref().err().and_then(std::error::Error::source);
    let error = error.and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_some_and(|error| error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

fn log_end(ended: Option<hyper::Result<()>>) {
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "client connection ended");
    }
}

/// hyper wants a `std::error::Error` from the service.
const _: fn() = || {
    fn is_error<E: std::error::Error + Send + Sync>() {}
    is_error::<Aborted>();
};
