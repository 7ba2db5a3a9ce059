//! One address of a cluster with its connections.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use heads::ResponseHead;
use rustls::pki_types::ServerName;

use super::{
    Attempt, Cluster, Failure, Remains, Request, RequestBody, ResponseBody, Swept, UpstreamError,
    connect::connect,
    counted::Counted,
    http1::Http1,
    http2::Http2,
    limits,
    slot::{Life, Places, Slot},
    usage::{Permit, Resource},
};
use crate::{
    clock::{Clock, Moment},
    snapshot::UpstreamProtocol,
    tls::Inside,
};

/// An address and the connections that this worker holds to it.
pub struct Endpoint<B: RequestBody> {
    address: SocketAddr,
    weight: Cell<u32>,
    /// Requests between "sent" and "response body ended".
    active: Cell<u32>,
    /// Unused HTTP/1 connections, the most recently used last.
    idle: RefCell<Vec<(Box<Http1<B>>, Moment)>>,
    /// The most recently opened last.
    http2: RefCell<Vec<Http2<B>>>,
    /// Held while an HTTP/2 connection is opened, so that a burst opens one.
    opening: tokio::sync::Mutex<()>,
    places: Rc<Places>,
    /// Unused connections that had to give way to others since the last sweep.
    surplus: Cell<u64>,
    /// Connections that were closed because the service flooded them.
    floods: Rc<Cell<u64>>,
    clock: Clock,
}

/// A response and what is worth knowing about how it was got.
pub struct Sent<B: RequestBody> {
    /// Its status and fields.
    pub head: ResponseHead,
    /// What follows them.
    pub body: ResponseBody<B>,
    /// Our side of the connection, for the access log; `None` for HTTP/2.
    pub local: Option<SocketAddr>,
    /// Whether an existing connection was used.
    pub reused: bool,
}

/// Counts a request as active for as long as it lives.
pub struct Active<B: RequestBody> {
    pub(super) endpoint: Rc<Endpoint<B>>,
    _permit: Permit,
    /// Of a connection that is not HTTP any more.
    pub(super) slot: Option<Slot>,
}

impl<B: RequestBody> Drop for Active<B> {
    fn drop(&mut self) {
        self.endpoint.active.set(self.endpoint.active.get().saturating_sub(1));
    }
}

impl<B: RequestBody> Endpoint<B> {
    pub(super) fn new(address: SocketAddr, weight: u32, clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            address,
            weight: Cell::new(weight.max(1)),
            active: Cell::new(0),
            idle: RefCell::default(),
            http2: RefCell::default(),
            opening: tokio::sync::Mutex::default(),
            places: Rc::default(),
            surplus: Cell::new(0),
            floods: Rc::default(),
            clock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that are being served.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.get()
    }

    /// Relative weight, at least 1.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.get()
    }

    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.set(weight.max(1));
    }

    /// Whether the next request would go out on a connection that has been used before.
    #[must_use]
    pub fn has_idle(&self) -> bool {
        !self.idle.borrow().is_empty() || !self.http2.borrow().is_empty()
    }

    pub(super) async fn send(
        self: &Rc<Self>,
        cluster: &Cluster<B>,
        request: &mut Request<B>,
        attempt: Attempt<'_>,
        permit: Permit,
    ) -> Result<Sent<B>, UpstreamError> {
        self.active.set(self.active.get() + 1);
        let active = Active { endpoint: Rc::clone(self), _permit: permit, slot: None };
        match attempt.protocol {
            UpstreamProtocol::Http1 => self.send_http1(active, cluster, request, attempt).await,
            UpstreamProtocol::Http2 => self.send_http2(active, cluster, request, attempt).await,
        }
    }

    async fn send_http1(
        &self,
        active: Active<B>,
        cluster: &Cluster<B>,
        request: &mut Request<B>,
        attempt: Attempt<'_>,
    ) -> Result<Sent<B>, UpstreamError> {
        loop {
            let taken = self.take_http1(cluster, attempt).await;
            let (mut connection, reused) = taken.map_err(UpstreamError::unsent)?;
            let local = connection.local;
            match connection.send(request).await {
                Ok(head) => {
                    let body = ResponseBody::http1(connection, active);
                    return Ok(Sent { head, body, local, reused });
                }
                Err(error) if reused && error.request == Remains::Unsent => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A connection for one request, and whether it has been used before.
    async fn take_http1(&self, cluster: &Cluster<B>, attempt: Attempt<'_>) -> Result<(Box<Http1<B>>, bool), Failure> {
        let kept = || if attempt.fresh { None } else { self.take_idle(attempt.server_name) };
        if !self.places.awaited()
            && let Some(connection) = kept()
        {
            return Ok((connection, true));
        }
        let _pending = cluster.take(Resource::Pending)?;
        loop {
            if let Some(slot) = self.place(cluster) {
                let stream = connect(self.address, cluster.settings(), Inside::Http1, attempt.server_name).await?;
                let life = Life::new(self.clock.now(), &cluster.settings().connections);
                return Ok((Http1::new(stream, attempt.server_name.cloned(), slot, life), false));
            }
            cluster.note_wait();
            self.places.freed().await;
            if let Some(connection) = kept() {
                return Ok((connection, true));
            }
        }
    }

    /// The unused connection that was used last, of those that are for this name.
    fn take_idle(&self, server_name: Option<&ServerName<'static>>) -> Option<Box<Http1<B>>> {
        let mut idle = self.idle.borrow_mut();
        let last = idle.iter().rposition(|(connection, _)| connection.server_name.as_ref() == server_name)?;
        Some(idle.remove(last).0)
    }

    /// A place for one more connection. One is always allowed, so that nobody waits for what other endpoints or workers
    /// hold; a connection that nobody uses gives way.
    fn place(&self, cluster: &Cluster<B>) -> Option<Slot> {
        let permit = match cluster.take(Resource::Connections) {
            Ok(permit) => permit,
            Err(_) if self.places.open() == 0 => Permit::uncounted(),
            Err(_) if self.idle.borrow().is_empty() => return None,
            Err(_) => {
                drop(self.idle.borrow_mut().remove(0));
                cluster.take(Resource::Connections).ok()?
            }
        };
        Some(self.places.take(permit))
    }

    async fn send_http2(
        &self,
        active: Active<B>,
        cluster: &Cluster<B>,
        request: &mut Request<B>,
        attempt: Attempt<'_>,
    ) -> Result<Sent<B>, UpstreamError> {
        loop {
            let shared = self.share_http2(cluster, attempt).await;
            let (connection, reused) = shared.map_err(UpstreamError::unsent)?;
            match connection.send(request, &self.places).await {
                Ok((head, body, stream)) => {
                    let body = ResponseBody::http2(body, stream, active);
                    return Ok(Sent { head, body, local: None, reused });
                }
                Err(error) if reused && error.request == Remains::Unsent => {
                    self.http2.borrow_mut().retain(|connection| !connection.is_closed());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A handle on the HTTP/2 connection, and whether it existed before.
    async fn share_http2(&self, cluster: &Cluster<B>, attempt: Attempt<'_>) -> Result<(Http2<B>, bool), Failure> {
        match self.open_connection(attempt.server_name) {
            Some(connection) => Ok((connection, true)),
            // Boxed: its state is large, and most requests find a connection.
            None => Box::pin(self.open_http2(cluster, attempt)).await,
        }
    }

    async fn open_http2(&self, cluster: &Cluster<B>, attempt: Attempt<'_>) -> Result<(Http2<B>, bool), Failure> {
        let _pending = cluster.take(Resource::Pending)?;
        let _one_at_a_time = self.opening.lock().await;
        loop {
            if let Some(connection) = self.open_connection(attempt.server_name) {
                return Ok((connection, true));
            }
            if let Some(slot) = self.place(cluster) {
                let settings = &cluster.settings().connections;
                let stream = connect(self.address, cluster.settings(), Inside::Http2, attempt.server_name).await?;
                let life = Life::new(self.clock.now(), settings);
                let server_name = attempt.server_name.cloned();
                let connection =
                    Http2::new(Counted::new(stream, &self.clock, &self.floods), server_name, slot, life, settings)
                        .await?;
                let mut kept = self.http2.borrow_mut();
                if kept.len() >= limits::MAX_HTTP2_PER_ENDPOINT {
                    kept.remove(0);
                    self.surplus.set(self.surplus.get() + 1);
                }
                kept.push(connection);
                drop(kept);
                if let Some(connection) = self.open_connection(attempt.server_name) {
                    return Ok((connection, false));
                }
            }
            cluster.note_wait();
            self.places.freed().await;
        }
    }

    /// A handle on an HTTP/2 connection for this name, if there is one that can carry one more request.
    fn open_connection(&self, server_name: Option<&ServerName<'static>>) -> Option<Http2<B>> {
        let mut kept = self.http2.borrow_mut();
        let now = self.clock.now();
        // Requests on those that are let go of finish; they are closed after the last.
        kept.retain(|connection| {
            connection.server_name() != server_name || !(connection.is_closed() || connection.is_over(now))
        });
        let all_taken = kept.len() >= limits::MAX_HTTP2_PER_ENDPOINT;
        let mut usable = kept.iter_mut().filter(|connection| connection.server_name() == server_name);
        let chosen = match usable.find(|connection| !connection.is_full()) {
            Some(free) => Some(free),
            // There is no room for another connection: the request waits in the one with the fewest.
            None if all_taken => {
                let of_name = kept.iter_mut().filter(|connection| connection.server_name() == server_name);
                of_name.min_by_key(|connection| connection.open_streams())
            }
            None => None,
        };
        chosen.map(|connection| connection.share(now))
    }

    /// Takes an HTTP/1 connection back if it can serve another request.
    pub(super) fn keep(&self, mut connection: Box<Http1<B>>) {
        let now = self.clock.now();
        if connection.is_over(now) || !connection.rest() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= limits::MAX_IDLE_PER_ENDPOINT {
            idle.remove(0);
            self.surplus.set(self.surplus.get() + 1);
        }
        idle.push((connection, now));
        self.places.notify();
    }

    /// Open connections.
    pub(super) fn connections(&self) -> usize {
        self.places.open() as usize
    }

    /// Closes connections that have been unused for longer than `idle_timeout`, that are too old, or that the peer closed.
    pub(super) fn sweep(&self, idle_timeout: Duration, swept: &mut Swept) {
        let now = self.clock.now();
        let mut unused = 0;
        let mut stays = |idle: bool| {
            unused += u64::from(idle);
            !idle
        };
        self.idle.borrow_mut().retain_mut(|(connection, since)| {
            stays(since.older_than(idle_timeout, now)) && !connection.is_over(now) && connection.is_alive()
        });
        self.http2.borrow_mut().retain_mut(|connection| {
            !connection.is_closed() && !connection.is_over(now) && stays(connection.is_idle(idle_timeout, now))
        });
        swept.open += self.connections();
        swept.unused += unused;
        swept.surplus += self.surplus.take();
        swept.floods += self.floods.take();
    }

    /// Closes every connection that is not in use.
    pub(super) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        self.http2.borrow_mut().clear();
    }
}
