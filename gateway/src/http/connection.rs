//! One client connection: which protocol it speaks, when it has been quiet for too long, how it ends.
//!
//! A worker's sweep looks at its connections twice a second ([`Connections::sweep`]); requests only set
//! cells. A connection that has to end is told through its own task, so nothing waits on a channel.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderValue;
use hyper::{
    rt::ReadBufCursor,
    server::conn::{http1, http2},
    service::service_fn,
};
use slab::Slab;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::TcpStream,
};

use super::{
    Port, Worker, limits,
    service::{self, Aborted},
};
use crate::{
    clock::{Clock, Moment},
    net::{self, LocalExecutor},
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
}

/// What a connection is doing, and what it is told to do.
pub(super) struct Activity {
    clock: Clock,
    phase: Cell<Phase>,
    since: Cell<Moment>,
    requests: Cell<u32>,
    multiplexed: Cell<bool>,
    order: Cell<Order>,
    task: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for the rest of a head (or for the first one).
    Head,
    /// At least one request is being served.
    Busy,
    /// Waiting for the next request.
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    None,
    /// Finish what is in flight, then close.
    Drain,
    /// Close now.
    Close,
}

impl Activity {
    fn new(clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Head),
            since: Cell::new(clock.now()),
            requests: Cell::new(0),
            multiplexed: Cell::new(false),
            order: Cell::new(Order::None),
            task: RefCell::default(),
            clock,
        })
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.clock.now());
    }

    /// Bytes arrived.
    fn read(&self) {
        // Between two HTTP/2 streams there are frames that are no request; only HTTP/1 bytes start a head.
        if self.phase.get() == Phase::Idle && !self.multiplexed.get() {
            self.enter(Phase::Head);
        }
    }

    /// A head is complete.
    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.phase.set(Phase::Busy);
    }

    /// A response is over, one way or another.
    pub(super) fn end(&self) {
        self.requests.set(self.requests.get().saturating_sub(1));
        if self.requests.get() == 0 {
            self.enter(Phase::Idle);
        }
    }

    fn give(&self, order: Order) {
        self.order.set(order);
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}

/// All connections of a worker.
#[derive(Default)]
pub(crate) struct Connections {
    open: RefCell<Slab<Open>>,
    next_id: Cell<u64>,
    draining: Cell<bool>,
    /// Told when the last connection has ended.
    empty: tokio::sync::Notify,
}

/// A connection and the listener it came through.
struct Open {
    activity: Rc<Activity>,
    port: Rc<Port>,
}

impl Connections {
    /// Number of open connections.
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Closes connections that have been quiet for too long. Returns how many, by reason: incomplete heads, idle ones.
    pub(crate) fn sweep(&self, now: Moment) -> (usize, usize) {
        let (mut heads, mut idle) = (0, 0);
        for (_, Open { activity, .. }) in self.open.borrow().iter() {
            let since = activity.since.get();
            // Told to end, and still nothing to finish.
            let silent = activity.order.get() == Order::Drain;
            match activity.phase.get() {
                Phase::Head if silent && since.older_than(limits::DRAIN_HEAD_TIMEOUT, now) => {}
                Phase::Head if since.older_than(limits::REQUEST_HEAD_TIMEOUT, now) => heads += 1,
                Phase::Idle if since.older_than(limits::IDLE_TIMEOUT, now) => idle += 1,
                _ => continue,
            }
            activity.give(Order::Close);
        }
        (heads, idle)
    }

    /// Lets every connection finish what it is doing; new ones are told the same.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for (_, Open { activity, .. }) in self.open.borrow().iter() {
            activity.give(Order::Drain);
        }
    }

    /// The same for the connections of a listener that is not served any more.
    pub(crate) fn drain_port(&self, port: &Rc<Port>) {
        port.retire();
        for (_, open) in self.open.borrow().iter().filter(|(_, open)| Rc::ptr_eq(&open.port, port)) {
            open.activity.give(Order::Drain);
        }
    }

    /// Closes everything.
    pub(crate) fn close(&self) {
        for (_, Open { activity, .. }) in self.open.borrow().iter() {
            activity.give(Order::Close);
        }
    }

    /// Waits until no connection is left.
    pub(crate) async fn ended(&self) {
        while !self.open.borrow().is_empty() {
            self.empty.notified().await;
        }
    }

    fn enter(self: &Rc<Self>, activity: &Rc<Activity>, port: &Rc<Port>) -> Entry {
        if self.draining.get() || port.is_retired() {
            activity.order.set(Order::Drain);
        }
        let open = Open { activity: Rc::clone(activity), port: Rc::clone(port) };
        Entry { key: self.open.borrow_mut().insert(open), connections: Rc::clone(self) }
    }

    fn next_id(&self, worker: usize) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        // Workers count on their own; the upper bits tell them apart.
        ((worker as u64) << 48) | id
    }
}

/// Keeps a connection in the list while it is open.
struct Entry {
    connections: Rc<Connections>,
    key: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = self.connections.open.borrow_mut();
        open.try_remove(self.key);
        if open.is_empty() {
            self.connections.empty.notify_one();
        }
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve(mut stream: TcpStream, remote: SocketAddr, port: Rc<Port>, worker: Rc<Worker>) {
    let Ok(local) = stream.local_addr() else { return };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let counters = worker.telemetry.counters();
    counters.downstream_connections.inc();
    counters.downstream_connections_total.inc();
    let activity = Activity::new(worker.clock.clone());
    let entry = worker.connections.enter(&activity, &port);
    let connection = Rc::new(Connection {
        remote,
        local,
        port,
        forwarded_for: worker.identity.forwarded_for(remote.ip()),
        id: worker.connections.next_id(worker.index),
        activity: Rc::clone(&activity),
        worker: Rc::clone(&worker),
    });
    let ended = with_orders(&activity, false, pin!(sniff(&mut stream)), |_| {}).await;
    if let Some(Ok((prefix, http2))) = ended {
        activity.multiplexed.set(http2);
        let io = ClientIo { stream, prefix, activity: Rc::clone(&activity) };
        if http2 { serve_http2(io, connection).await } else { serve_http1(io, connection).await }
    }
    drop(entry);
    counters.downstream_connections.dec();
}

/// Reads just enough to tell HTTP/2 from HTTP/1. Returns what was read.
async fn sniff(stream: &mut TcpStream) -> io::Result<(Bytes, bool)> {
    let mut read = BytesMut::new();
    loop {
        if read.len() >= HTTP2_PREFACE.len() || !HTTP2_PREFACE.starts_with(&read) {
            let http2 = read.starts_with(HTTP2_PREFACE);
            return Ok((read.freeze(), http2));
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn serve_http1(io: ClientIo, connection: Rc<Connection>) {
    let activity = Rc::clone(&connection.activity);
    let http1 = http1::Builder::new()
        .max_buf_size(limits::HTTP1_BUFFER_BYTES)
        // hyper's default for the number of headers is `limits::MAX_HEADERS`; saying so would make it allocate for
        // every request.
        .max_header_size(limits::MAX_HEAD_BYTES)
        .half_close(false)
        .auto_date_header(true)
        .header_read_timeout(None) // the sweep does it, without a timer per request
        .serve_connection(io, service_fn(move |request| service::serve(Rc::clone(&connection), request)));
    let ended = with_orders(&activity, true, pin!(http1), http1::Connection::graceful_shutdown).await;
    log_end(ended);
}

async fn serve_http2(io: ClientIo, connection: Rc<Connection>) {
    let activity = Rc::clone(&connection.activity);
    let http2 = http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(limits::HTTP2_STREAMS)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
        .max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES)
        .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(limits::HTTP2_ERROR_RESETS)
        .serve_connection(io, service_fn(move |request| service::serve(Rc::clone(&connection), request)));
    let ended = with_orders(&activity, true, pin!(http2), http2::Connection::graceful_shutdown).await;
    log_end(ended);
}

fn log_end(ended: Option<hyper::Result<()>>) {
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "client connection ended");
    }
}

/// Runs a connection and carries out what it is told meanwhile. `None`: it was told to close.
async fn with_orders<F: Future>(
    activity: &Activity,
    drains: bool,
    mut connection: Pin<&mut F>,
    graceful: impl Fn(Pin<&mut F>),
) -> Option<F::Output> {
    poll_fn(|cx| {
        let known = activity.task.borrow().as_ref().is_some_and(|task| task.will_wake(cx.waker()));
        if !known {
            *activity.task.borrow_mut() = Some(cx.waker().clone());
        }
        match activity.order.get() {
            Order::None => {}
            Order::Close => return Poll::Ready(None),
            Order::Drain if drains => {
                activity.order.set(Order::None);
                graceful(connection.as_mut());
            }
            // Nothing has been read yet; the protocol's own way of ending comes later.
            Order::Drain => {}
        }
        connection.as_mut().poll(cx).map(Some)
    })
    .await
}

/// The client's socket, with the bytes that were read to tell the protocol.
struct ClientIo {
    stream: TcpStream,
    prefix: Bytes,
    activity: Rc<Activity>,
}

impl hyper::rt::Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let fits = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix[..fits]);
            self.prefix.advance(fits);
            return Poll::Ready(Ok(()));
        }
        match net::poll_read(Pin::new(&mut self.stream), cx, buffer) {
            Poll::Ready(Ok(read)) => {
                if read > 0 {
                    self.activity.read();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl hyper::rt::Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// hyper wants a `std::error::Error` from the service.
const _: fn() = || {
    fn is_error<E: std::error::Error + Send + Sync>() {}
    is_error::<Aborted>();
};
