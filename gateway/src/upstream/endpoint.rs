//! One address of a cluster with its connections.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use http::{Request, Response};

use super::{Failure, RequestBody, ResponseBody, UpstreamError, connect::connect, http1::Http1, http2::Http2, limits};
use crate::{
    clock::{Clock, Moment},
    snapshot::UpstreamProtocol,
};

/// An address and the connections that this worker holds to it.
pub struct Endpoint<B: RequestBody> {
    address: SocketAddr,
    weight: Cell<u32>,
    /// Requests between "sent" and "response body ended".
    active: Cell<u32>,
    /// Unused HTTP/1 connections, the most recently used last.
    idle: RefCell<Vec<(Http1<B>, Moment)>>,
    http2: RefCell<Option<Http2<B>>>,
    /// Held while an HTTP/2 connection is opened, so that a burst opens one.
    opening: tokio::sync::Mutex<()>,
    clock: Clock,
}

/// A response and what is worth knowing about how it was got.
pub struct Sent<B: RequestBody> {
    /// The response.
    pub response: Response<ResponseBody<B>>,
    /// Our side of the connection, for the access log; `None` for HTTP/2.
    pub local: Option<SocketAddr>,
    /// Whether an existing connection was used.
    pub reused: bool,
}

/// Counts a request as active for as long as it lives.
pub struct Active<B: RequestBody>(pub(super) Rc<Endpoint<B>>);

impl<B: RequestBody> Drop for Active<B> {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
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
        !self.idle.borrow().is_empty() || self.http2.borrow().is_some()
    }

    /// Sends a request and waits for the head of the response. A kept connection that turns out to be
    /// closed before anything was sent is passed over silently; with `fresh` none is tried.
    ///
    /// # Errors
    /// See [`Failure`]; the request comes back if none of it left.
    pub async fn send(
        self: &Rc<Self>,
        request: Request<B>,
        protocol: UpstreamProtocol,
        connect_timeout: Duration,
        fresh: bool,
    ) -> Result<Sent<B>, UpstreamError<B>> {
        self.active.set(self.active.get() + 1);
        let active = Active(Rc::clone(self));
        match protocol {
            UpstreamProtocol::Http1 => self.send_http1(active, request, connect_timeout, fresh).await,
            UpstreamProtocol::Http2 => self.send_http2(active, request, connect_timeout).await,
        }
    }

    async fn send_http1(
        self: &Rc<Self>,
        active: Active<B>,
        mut request: Request<B>,
        connect_timeout: Duration,
        fresh: bool,
    ) -> Result<Sent<B>, UpstreamError<B>> {
        loop {
            let kept = if fresh { None } else { self.idle.borrow_mut().pop() };
            let (mut connection, reused) = match kept {
                Some((connection, _)) => (connection, true),
                None => match self.open_http1(connect_timeout).await {
                    Ok(connection) => (connection, false),
                    Err(failure) => return Err(UpstreamError { failure, request: Some(request) }),
                },
            };
            let local = connection.local;
            match connection.send(request).await {
                Ok(response) => {
                    let response = response.map(|body| ResponseBody::http1(body, connection, active));
                    return Ok(Sent { response, local, reused });
                }
                Err(UpstreamError { request: Some(unsent), .. }) if reused => request = unsent,
                Err(error) => return Err(error),
            }
        }
    }

    async fn open_http1(&self, connect_timeout: Duration) -> Result<Http1<B>, Failure> {
        Http1::new(connect(self.address, connect_timeout).await?).await
    }

    async fn send_http2(
        self: &Rc<Self>,
        active: Active<B>,
        mut request: Request<B>,
        connect_timeout: Duration,
    ) -> Result<Sent<B>, UpstreamError<B>> {
        loop {
            let (connection, reused) = match self.share_http2(connect_timeout).await {
                Ok(found) => found,
                Err(failure) => return Err(UpstreamError { failure, request: Some(request) }),
            };
            match connection.send(request).await {
                Ok(response) => {
                    let response = response.map(|body| ResponseBody::http2(body, active));
                    return Ok(Sent { response, local: None, reused });
                }
                Err(UpstreamError { request: Some(unsent), .. }) if reused => {
                    self.http2.borrow_mut().take_if(|connection| connection.is_closed());
                    request = unsent;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A handle on the HTTP/2 connection, and whether it existed before.
    async fn share_http2(&self, connect_timeout: Duration) -> Result<(Http2<B>, bool), Failure> {
        if let Some(connection) = self.open_connection() {
            return Ok((connection, true));
        }
        let _one_at_a_time = self.opening.lock().await;
        if let Some(connection) = self.open_connection() {
            return Ok((connection, true));
        }
        let mut connection = Http2::new(connect(self.address, connect_timeout).await?).await?;
        let handle = connection.share();
        *self.http2.borrow_mut() = Some(connection);
        Ok((handle, false))
    }

    fn open_connection(&self) -> Option<Http2<B>> {
        self.http2.borrow_mut().as_mut().filter(|connection| !connection.is_closed()).map(Http2::share)
    }

    /// Takes an HTTP/1 connection back if it can serve another request.
    pub(super) fn keep(&self, mut connection: Http1<B>) {
        if !connection.settle() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= limits::MAX_IDLE_PER_ENDPOINT {
            idle.remove(0);
        }
        idle.push((connection, self.clock.now()));
    }

    /// Open connections, as far as they can be told apart: a request in flight on HTTP/1 has one of its own.
    pub(super) fn connections(&self) -> usize {
        let http2 = self.http2.borrow().is_some();
        if http2 { 1 } else { self.idle.borrow().len() + self.active.get() as usize }
    }

    /// Closes connections that have been unused for longer than `idle_timeout`, or that the peer closed.
    pub(super) fn sweep(&self, idle_timeout: Duration) {
        let now = self.clock.now();
        self.idle
            .borrow_mut()
            .retain_mut(|(connection, since)| !since.older_than(idle_timeout, now) && connection.is_alive());
        self.http2.borrow_mut().take_if(|connection| connection.is_closed());
    }

    /// Closes every connection that is not in use.
    pub(super) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        self.http2.borrow_mut().take();
    }
}
