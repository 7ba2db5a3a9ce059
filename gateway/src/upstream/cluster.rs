//! A cluster on one worker: picks endpoints, keeps their connections across configurations.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use rustls::pki_types::ServerName;

use super::{
    Endpoint, Failure, Request, RequestBody, Sent, UpstreamError, Usage,
    balance::Endpoints,
    connect::connect,
    usage::{Allowance, Permit, Resource},
};
use crate::{
    clock::Clock,
    net::Stream,
    snapshot::{self, UpstreamProtocol},
    tls::Inside,
};

/// A cluster's settings with its endpoints.
pub struct Cluster<B: RequestBody> {
    settings: Arc<snapshot::Cluster>,
    endpoints: RefCell<Endpoints<B>>,
    /// What the endpoints were last set to.
    live: RefCell<Arc<[snapshot::Endpoint]>>,
    allowance: Allowance,
    /// Times that a request had to wait since the last sweep, because there were as many connections as allowed.
    waits: Cell<u64>,
    clock: Clock,
}

/// How one attempt is made.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// What is spoken.
    pub protocol: UpstreamProtocol,
    /// The name to ask for in a TLS handshake ([`snapshot::Transport::server_name`]). Connections are used again for
    /// requests with the same name only: they were verified for it.
    pub server_name: Option<&'a ServerName<'static>>,
    /// Whether a connection that has been used before will not do.
    pub fresh: bool,
}

impl<B: RequestBody> Cluster<B> {
    pub(crate) fn new(settings: Arc<snapshot::Cluster>, usage: &Usage, clock: Clock) -> Self {
        let cluster = Self {
            endpoints: RefCell::new(Endpoints::new(Vec::new())),
            live: RefCell::default(),
            allowance: usage.of(&settings),
            settings,
            waits: Cell::new(0),
            clock,
        };
        cluster.set_endpoints(&cluster.settings.endpoints);
        cluster
    }

    /// The same cluster with new settings. Endpoints that stay keep their connections, unless those are protected in
    /// another way now.
    pub(crate) fn renew(&self, settings: Arc<snapshot::Cluster>, usage: &Usage) -> Self {
        if settings.transport != self.settings.transport {
            self.endpoints.borrow().iter().for_each(|endpoint| endpoint.close_idle());
            return Self::new(settings, usage, self.clock.clone());
        }
        let cluster = Self {
            endpoints: RefCell::new(Endpoints::new(self.endpoints.borrow().iter().cloned().collect())),
            live: RefCell::new(Arc::clone(&self.live.borrow())),
            allowance: usage.of(&settings),
            settings,
            waits: Cell::new(self.waits.take()),
            clock: self.clock.clone(),
        };
        cluster.set_endpoints(&cluster.settings.endpoints);
        cluster
    }

    /// What was configured.
    #[must_use]
    pub fn settings(&self) -> &Arc<snapshot::Cluster> {
        &self.settings
    }

    /// Replaces the endpoints. Requests in flight finish where they are; an address that stays keeps its
    /// connections; unused connections of one that goes are closed.
    pub(crate) fn set_endpoints(&self, wanted: &Arc<[snapshot::Endpoint]>) {
        if *self.live.borrow() == *wanted {
            return;
        }
        *self.live.borrow_mut() = Arc::clone(wanted);
        let mut current = self.endpoints.borrow_mut();
        let mut list: Vec<Rc<Endpoint<B>>> = Vec::with_capacity(wanted.len());
        for endpoint in wanted.iter() {
            match current.iter().find(|known| known.address() == endpoint.address) {
                Some(known) => {
                    known.set_weight(endpoint.weight);
                    list.push(Rc::clone(known));
                }
                None => list.push(Endpoint::new(endpoint.address, endpoint.weight, self.clock.clone())),
            }
        }
        for gone in current.iter().filter(|old| list.iter().all(|endpoint| !Rc::ptr_eq(old, endpoint))) {
            gone.close_idle();
        }
        *current = Endpoints::new(list);
    }

    /// Chooses an endpoint as the settings say. `None` if there is no endpoint.
    #[must_use]
    pub fn pick(&self) -> Option<Rc<Endpoint<B>>> {
        self.endpoints.borrow().pick(self.settings.balance).cloned()
    }

    /// Sends a request to one of the endpoints and waits for the head of the response. A kept connection that turns
    /// out to be closed before anything was sent is passed over silently.
    ///
    /// # Errors
    /// See [`Failure`]; the error says whether the request is still whole.
    pub async fn send(
        &self,
        endpoint: &Rc<Endpoint<B>>,
        request: &mut Request<B>,
        attempt: Attempt<'_>,
    ) -> Result<Sent<B>, UpstreamError> {
        let permit = self.take(Resource::Requests).map_err(UpstreamError::unsent)?;
        endpoint.send(self, request, attempt, permit).await
    }

    /// Opens a connection that its user keeps for itself; it counts as one of the cluster's as long as the permit lives.
    ///
    /// # Errors
    /// See [`Failure`]: there is no connection.
    pub async fn open(&self, endpoint: &Endpoint<B>) -> Result<(Stream, Permit), Failure> {
        let permit = self.take(Resource::Connections)?;
        // There is no request that says which host is meant; the service's own name is as good.
        let server_name = self.settings.transport.server_name(&self.settings.host).map_err(Failure::Tls)?;
        let stream = connect(endpoint.address(), &self.settings, Inside::Other, server_name.as_ref()).await?;
        Ok((stream, permit))
    }

    /// Takes a part of what the cluster may use over all workers: a retry, say, for as long as it takes.
    ///
    /// # Errors
    /// [`Failure::Overflow`]: as many as allowed are in use.
    pub fn take(&self, resource: Resource) -> Result<Permit, Failure> {
        self.allowance.take(resource)
    }

    /// A request has to wait for a connection.
    pub(super) fn note_wait(&self) {
        self.waits.set(self.waits.get() + 1);
    }

    /// Closes connections that are too old or that the peer closed.
    pub(crate) fn sweep(&self, swept: &mut Swept) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.sweep(self.settings.connections.idle_timeout, swept);
        }
        swept.waits += self.waits.take();
    }
}

/// What a sweep has found since the one before.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Connections that are open.
    pub(crate) open: usize,
    /// Times that a request had to wait because there were as many connections as allowed.
    pub(crate) waits: u64,
    /// Connections that were closed because nobody used them for too long.
    pub(crate) unused: u64,
    /// Connections that were closed because there were too many that nobody used.
    pub(crate) surplus: u64,
    /// Connections that were closed because the service flooded them with frames.
    pub(crate) floods: u64,
}
