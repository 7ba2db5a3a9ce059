//! What one worker knows while it serves: the current configuration and its private part of it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use smallvec::SmallVec;

use super::{
    Cluster, Connections, Identity, Limits, handshake,
    header_lists::HeaderLists,
    log_headers::LogHeaders,
    plugins::{Link, PluginSet},
    progress::Bodies,
};
use crate::{
    clock::{Clock, Turn},
    overload::Overload,
    snapshot::{self, Action, ClusterId, Listener, RouteId, Snapshot},
    telemetry::{Destination, WorkerTelemetry},
    upstream::{Swept, Usage},
};

/// One worker.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) clock: Clock,
    pub(crate) turn: Turn,
    pub(crate) identity: Arc<Identity>,
    pub(crate) telemetry: Rc<WorkerTelemetry>,
    pub(crate) connections: Rc<Connections>,
    pub(crate) plugins: PluginSet,
    /// What clusters with limits use, over all workers.
    usage: Usage,
    pub(crate) bodies: Rc<Bodies>,
    pub(crate) limits: Limits,
    pub(super) header_lists: HeaderLists,
    pub(super) handshakes: handshake::Queue,
    /// What the process can still take.
    pub(crate) overload: Arc<Overload>,
    /// What requests without a destination are counted for.
    pub(super) nowhere: Rc<Destination>,
    /// What the access log shows of headers; `None`: there is no access log.
    pub(super) log_headers: Option<LogHeaders>,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        identity: Arc<Identity>,
        telemetry: Rc<WorkerTelemetry>,
        plugins: PluginSet,
        usage: Usage,
        limits: Limits,
        overload: Arc<Overload>,
    ) -> Rc<Self> {
        let nowhere = telemetry.destination(None);
        let log_headers = telemetry.access_log().map(LogHeaders::new);
        Rc::new(Self {
            index,
            clock: Clock::default(),
            turn: Turn::new(),
            identity,
            telemetry,
            connections: Rc::default(),
            plugins,
            usage,
            bodies: Rc::default(),
            limits,
            header_lists: HeaderLists::default(),
            handshakes: handshake::Queue::default(),
            overload,
            nowhere,
            log_headers,
        })
    }
}

/// A configuration as one worker uses it.
pub(crate) struct Config {
    pub(crate) snapshot: Arc<Snapshot>,
    clusters: Vec<(Rc<Cluster>, Rc<Destination>)>,
    /// Filled when a route is first used, so that a configuration with many routes is quick to take over.
    routes: RefCell<Vec<Option<Rc<PinnedRoute>>>>,
}

/// A route with everything a request needs, whatever happens to the configuration meanwhile.
pub(super) struct PinnedRoute {
    pub(super) route: Arc<snapshot::Route>,
    /// In the order of [`snapshot::Forward::destinations`]; `None`: no such cluster.
    pub(super) destinations: Vec<Option<(Rc<Cluster>, Rc<Destination>)>>,
}

impl Config {
    /// Takes over a snapshot. Clusters that stay keep their connections.
    pub(crate) fn new(snapshot: Arc<Snapshot>, previous: Option<&Self>, worker: &Worker) -> Rc<Self> {
        let known: HashMap<&str, &(Rc<Cluster>, Rc<Destination>)> = previous
            .map(|config| config.clusters.iter().map(|entry| (&*entry.0.settings().name, entry)).collect())
            .unwrap_or_default();
        let clusters = snapshot
            .clusters
            .iter()
            .map(|settings| match known.get(&*settings.name) {
                Some((cluster, destination)) if cluster.settings() == settings => {
                    // Endpoints may have changed since, on their own path.
                    cluster.set_endpoints(&settings.endpoints);
                    (Rc::clone(cluster), Rc::clone(destination))
                }
                Some((cluster, _)) => (
                    Rc::new(cluster.renew(Arc::clone(settings), &worker.usage)),
                    worker.telemetry.destination(Some(settings)),
                ),
                None => (
                    Rc::new(Cluster::new(Arc::clone(settings), &worker.usage, worker.clock.clone())),
                    worker.telemetry.destination(Some(settings)),
                ),
            })
            .collect();
        let routes = RefCell::new(vec![None; snapshot.routes.len()]);
        Rc::new(Self { snapshot, clusters, routes })
    }

    /// The route with its clusters; only the first request of a route pays for putting it together.
    pub(super) fn route(&self, id: RouteId) -> Option<Rc<PinnedRoute>> {
        if let Some(Some(pinned)) = self.routes.borrow().get(id as usize) {
            return Some(Rc::clone(pinned));
        }
        let route = Arc::clone(self.snapshot.route(id)?);
        let destinations = match &route.action {
            Action::Forward(forward) => forward
                .destinations
                .iter()
                .map(|destination| {
                    let (cluster, counted) = self.clusters.get(destination.cluster? as usize)?;
                    Some((Rc::clone(cluster), Rc::clone(counted)))
                })
                .collect(),
            Action::Redirect(_) | Action::Direct(_) => Vec::new(),
        };
        let pinned = Rc::new(PinnedRoute { route, destinations });
        if let Some(slot) = self.routes.borrow_mut().get_mut(id as usize) {
            *slot = Some(Rc::clone(&pinned));
        }
        Some(pinned)
    }

    /// Exchanges the endpoints of a cluster, for requests from now on.
    pub(crate) fn set_endpoints(&self, id: ClusterId, wanted: &snapshot::Cluster) {
        if let Some((cluster, _)) = self.clusters.get(id as usize)
            && cluster.settings().name == wanted.name
        {
            cluster.set_endpoints(&wanted.endpoints);
        }
    }

    /// A cluster with its counters.
    pub(super) fn cluster(&self, id: ClusterId) -> Option<&(Rc<Cluster>, Rc<Destination>)> {
        self.clusters.get(id as usize)
    }

    /// Closes upstream connections that are too old or that the upstream closed.
    pub(crate) fn sweep(&self) -> Swept {
        let mut swept = Swept::default();
        self.clusters.iter().for_each(|(cluster, _)| cluster.sweep(&mut swept));
        swept
    }
}

/// What a listener serves right now.
pub(super) struct Serving {
    pub(super) listener: Arc<Listener>,
    pub(super) config: Rc<Config>,
    /// What requests pass.
    pub(super) plugins: Vec<Link>,
    /// What connections without HTTP pass.
    pub(super) network_plugins: Vec<Link>,
}

/// A listening port: what it serves is exchanged under its open connections.
pub(crate) struct Port {
    current: RefCell<Rc<Serving>>,
    /// Whether it is gone from the configuration.
    retired: Cell<bool>,
}

impl Port {
    pub(crate) fn new(listener: Arc<Listener>, config: Rc<Config>, worker: &Worker) -> Rc<Self> {
        Rc::new(Self { current: RefCell::new(Serving::new(listener, config, worker)), retired: Cell::new(false) })
    }

    /// Requests that begin from now on see the new configuration; those in flight finish with theirs.
    pub(crate) fn serve(&self, listener: Arc<Listener>, config: Rc<Config>, worker: &Worker) {
        *self.current.borrow_mut() = Serving::new(listener, config, worker);
    }

    pub(super) fn serving(&self) -> Rc<Serving> {
        Rc::clone(&self.current.borrow())
    }

    /// Connections that are still in its queue are to end after their first request.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }
}

impl Serving {
    fn new(listener: Arc<Listener>, config: Rc<Config>, worker: &Worker) -> Rc<Self> {
        let links = |network: bool| {
            let chain = listener.plugins.iter().filter(|plugin| plugin.network == network);
            chain.map(|plugin| worker.plugins.link(plugin)).collect()
        };
        let (plugins, network_plugins) = (links(false), links(true));
        Rc::new(Self { listener, config, plugins, network_plugins })
    }

    /// The plugins that a request passes. With a listener where that depends on the request, `route` finds its route.
    pub(super) fn chain<'a>(
        &'a self,
        authority: &str,
        chosen: &'a mut SmallVec<[Link; 4]>,
        route: impl FnOnce() -> Option<RouteId>,
    ) -> &'a [Link] {
        let Some(scoped) = &self.listener.scoped else { return &self.plugins };
        let Some(chain) = scoped.find(authority) else { return &[] };
        let route = if chain.by_route() { route() } else { None };
        chosen.extend(chain.plugins(route).into_iter().filter_map(|plugin| self.plugins.get(plugin).cloned()));
        chosen
    }
}
