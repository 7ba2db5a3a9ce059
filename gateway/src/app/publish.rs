//! Publication: a snapshot becomes what every worker serves, or nothing changes.
//!
//! 1. Sockets of new listeners are bound.
//! 2. Plugin versions that are new get configured instances for every worker, off the workers.
//! 3. Every worker takes the instances over and says so. Up to here nothing has changed for any request.
//! 4. Every worker is told to serve the snapshot and says so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use proxy_wasm_host::{Instance, StartError};
use tokio::sync::oneshot;

use super::{callable::Callable, takeover::OfferedListener};
use crate::{
    http::Prepared,
    net, plugins,
    snapshot::{Cluster, ClusterId, Endpoint, Listener, Plugin, PluginId, Snapshot},
    worker::{self, Command, ListenerKey, Socket},
};

/// How long a worker may take to acknowledge. It has nothing slow to do, so a longer silence means it is stuck.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// The control side's way to all workers.
pub(super) struct Workers(Vec<worker::Sender>);

impl Workers {
    pub(super) fn new(handles: &[worker::Handle]) -> Self {
        Self(handles.iter().map(worker::Handle::sender).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn send(&self, worker: usize, command: Command) {
        if let Some(worker) = self.0.get(worker) {
            worker.send(command);
        }
    }

    /// Gives every worker its command and waits until all have carried it out. The error is the first worker that did not.
    async fn ask(
        &self,
        within: Duration,
        command: impl FnMut(usize, oneshot::Sender<()>) -> Command,
    ) -> Result<(), usize> {
        let mut command = command;
        let mut waiting = Vec::with_capacity(self.len());
        for index in 0..self.len() {
            let (acknowledge, acknowledged) = oneshot::channel();
            self.send(index, command(index, acknowledge));
            waiting.push(acknowledged);
        }
        let deadline = tokio::time::Instant::now() + within;
        for (index, acknowledged) in waiting.into_iter().enumerate() {
            if !matches!(tokio::time::timeout_at(deadline, acknowledged).await, Ok(Ok(()))) {
                return Err(index);
            }
        }
        Ok(())
    }

    /// Lets every worker ask its clients to leave, or not any more.
    pub(super) fn leave(&self, leave: bool) {
        for index in 0..self.len() {
            self.send(index, Command::Leave(leave));
        }
    }

    /// Lets every worker finish and end.
    pub(super) async fn end(&self, within: Duration) {
        let margin = within + Duration::from_secs(2);
        if let Err(worker) = self.ask(margin, |_, acknowledge| Command::End { within, acknowledge }).await {
            tracing::error!(worker, "a worker did not end within the drain time");
        }
    }
}

/// A listener with the address that it is really bound to, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundListener {
    /// Port in the Gateway resource.
    pub declared_port: u16,
    /// Where connections are accepted.
    pub address: SocketAddr,
    /// Host patterns that are served, the most specific first.
    pub hosts: Vec<String>,
    /// `namespace/name` of the plugins, in execution order.
    pub plugins: Vec<String>,
}

/// Why a snapshot is not served. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    /// A new plugin version does not start.
    #[error("plugin {}/{} does not start: {error}", .plugin.namespace, .plugin.name)]
    Plugin { plugin: Arc<Plugin>, error: StartError },
    /// A gateway that cannot do what it was started for should say so at once, before anybody is served.
    #[error("addresses of the first configuration cannot be bound")]
    Unbound(Vec<BindFailure>),
    /// A worker did not answer in time.
    #[error("worker {0} did not take the new configuration within {seconds} s", seconds = ACKNOWLEDGE.as_secs())]
    Worker(usize),
}

/// A socket that could not be bound.
#[derive(Debug)]
pub(super) struct BindFailure {
    pub(super) listener: Arc<Listener>,
    pub(super) error: io::Error,
}

/// What publication led to.
pub(super) struct Published {
    /// Listeners that are left out, because their address is taken or not allowed.
    pub(super) failures: Vec<BindFailure>,
    pub(super) listeners: Vec<BoundListener>,
}

/// The sockets of one listener: one per worker, on one address. They are ours; workers get duplicates, so that
/// the queue of a worker that is stuck is not lost.
struct Sockets {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

/// The sockets of a listener of the process that we take over from. It still accepts on them.
pub(super) struct Inherited {
    pub(super) key: ListenerKey,
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<TcpListener>,
}

impl Inherited {
    /// Whether these are the sockets of a listener: those that were bound for the same, or just where it wants to be.
    fn is_for(&self, listener: &Listener) -> bool {
        self.key == ListenerKey::of(listener) || self.address == listener.bind
    }

    /// More handles of them, because a snapshot that cannot be published is tried again without its broken plugins.
    fn sockets(&self) -> io::Result<Sockets> {
        let sockets = self.sockets.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        Ok(Sockets { address: self.address, sockets })
    }
}

/// Sockets that workers get, by worker.
struct Handed(Vec<Vec<Socket>>);

impl Handed {
    fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Vec::new()).collect())
    }

    /// Deals sockets of a listener out, of which it has `before` already. A process that we took over from may have had
    /// more workers, so that some of ours get several.
    fn add(&mut self, key: ListenerKey, before: usize, sockets: &[TcpListener]) {
        let workers = self.0.len().max(1);
        for (number, socket) in (before..).zip(sockets) {
            let Some(worker) = self.0.get_mut(number % workers) else { continue };
            match socket.try_clone() {
                Ok(listener) => worker.push(Socket { key, listener }),
                Err(error) => tracing::error!(%error, "cannot duplicate a listening socket for a worker"),
            }
        }
    }
}

/// Owns every listening socket and knows what the workers have.
pub(super) struct Publisher {
    workers: Arc<Workers>,
    current: Arc<ArcSwap<Snapshot>>,
    /// Whom plugins may call.
    callable: Arc<Callable>,
    sockets: BTreeMap<ListenerKey, Sockets>,
    /// What the process before us listens on, until the first snapshot is published.
    inherited: Vec<Inherited>,
    /// Which of that this process listens on, too.
    taken: Vec<ListenerKey>,
    /// Plugin versions that every worker has instances of.
    installed: HashSet<PluginId>,
}

impl Publisher {
    pub(super) fn new(
        workers: Arc<Workers>,
        current: Arc<ArcSwap<Snapshot>>,
        callable: Arc<Callable>,
        inherited: Vec<Inherited>,
    ) -> Self {
        let (sockets, taken, installed) = (BTreeMap::new(), Vec::new(), HashSet::new());
        Self { workers, current, callable, sockets, inherited, taken, installed }
    }

    /// What the workers serve.
    pub(super) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Makes `snapshot` what every worker serves.
    pub(super) async fn publish(&mut self, mut snapshot: Snapshot) -> Result<Published, PublishError> {
        snapshot.version = self.current.load().version + 1;
        let (fresh, failures) = self.bind(&mut snapshot);
        if snapshot.version == 1 && !failures.is_empty() {
            return Err(PublishError::Unbound(failures));
        }
        let plugins = snapshot.plugins();
        // Instances may call services as soon as they start.
        self.callable.serve(Arc::clone(&snapshot.call_names));
        if let Err(error) = self.instantiate(&plugins).await {
            self.callable.serve(Arc::clone(&self.current.load().call_names));
            return Err(error);
        }

        let snapshot = Arc::new(snapshot);
        let mut handed = Handed::new(self.workers.len());
        for (key, fresh) in &fresh {
            handed.add(*key, 0, &fresh.sockets);
        }
        let committed = self.commit(&snapshot, handed).await;
        self.sockets.extend(fresh);
        let used = |inherited: &Inherited| self.sockets.values().any(|own| own.address == inherited.address);
        self.taken.extend(self.inherited.drain(..).filter(used).map(|inherited| inherited.key));
        self.sockets.retain(|key, _| snapshot.listeners.iter().any(|listener| ListenerKey::of(listener) == *key));
        self.installed = plugins.iter().map(|plugin| plugin.id).collect();
        self.current.store(Arc::clone(&snapshot));
        // From here there is no way back: the other workers serve it. One that is stuck will when it gets unstuck.
        if let Err(worker) = committed {
            tracing::error!(worker, "a worker has not acknowledged the configuration that the others serve");
        }
        Ok(Published { failures, listeners: self.describe(&snapshot) })
    }

    /// Has every worker serve a snapshot, with these sockets for listeners that are new to it.
    async fn commit(&self, snapshot: &Arc<Snapshot>, mut handed: Handed) -> Result<(), usize> {
        let command = |index: usize, acknowledge| Command::Commit {
            snapshot: Arc::clone(snapshot),
            sockets: handed.0.get_mut(index).map(std::mem::take).unwrap_or_default(),
            acknowledge,
        };
        self.workers.ask(ACKNOWLEDGE, command).await
    }

    /// The listeners of the process before us that we have taken over.
    pub(super) fn taken(&mut self) -> Vec<ListenerKey> {
        std::mem::take(&mut self.taken)
    }

    /// Every listener that is bound, with its sockets, for a process that takes over.
    pub(super) fn offer(&self) -> Vec<(OfferedListener, &[TcpListener])> {
        let mut offered = Vec::with_capacity(self.sockets.len());
        for (key, Sockets { address, sockets }) in &self.sockets {
            offered
                .push((OfferedListener { key: *key, address: *address, sockets: sockets.len() }, sockets.as_slice()));
        }
        offered
    }

    /// Another process accepts on the sockets of these listeners: the workers stop doing so, and whatever is in the
    /// queues is left to it. Those that it does not want stay.
    pub(super) async fn release(&mut self, listeners: Vec<ListenerKey>) {
        let listeners: Arc<[ListenerKey]> = listeners.into();
        let command = |_, acknowledge| Command::Release { listeners: Arc::clone(&listeners), acknowledge };
        if let Err(worker) = self.workers.ask(ACKNOWLEDGE, command).await {
            tracing::error!(worker, "a worker has not said that it stopped accepting");
        }
        self.sockets.retain(|key, _| !listeners.contains(key));
    }

    /// The process that we took over from accepts nothing any more. If it had fewer workers, ours that have no socket get
    /// one each now; before, a connection in their queues would have been lost with us.
    pub(super) async fn widen(&mut self) {
        let mut handed = Handed::new(self.workers.len());
        for (key, Sockets { address, sockets }) in &mut self.sockets {
            let missing = self.workers.len().saturating_sub(sockets.len());
            match net::join(*address, missing) {
                Ok(more) => {
                    handed.add(*key, sockets.len(), &more);
                    sockets.extend(more);
                }
                Err(error) => tracing::warn!(%error, %address, "some workers accept nothing; restart to change that"),
            }
        }
        if handed.0.iter().all(Vec::is_empty) {
            return;
        }
        if let Err(worker) = self.commit(&self.current(), handed).await {
            tracing::error!(worker, "a worker has not taken its sockets");
        }
    }

    /// Exchanges endpoints of clusters of the current snapshot, without anything else. Says whether any changed.
    pub(super) async fn exchange_endpoints(
        &self,
        wanted: Vec<(ClusterId, Arc<[Endpoint]>)>,
    ) -> Result<bool, PublishError> {
        let current = self.current.load();
        let mut clusters = current.clusters.clone();
        let mut changed = Vec::new();
        for (id, endpoints) in wanted {
            let Some(cluster) = clusters.get_mut(id as usize).filter(|cluster| cluster.endpoints != endpoints) else {
                continue;
            };
            *cluster = Arc::new(Cluster { endpoints, ..Cluster::clone(cluster) });
            changed.push((id, Arc::clone(cluster)));
        }
        if changed.is_empty() {
            return Ok(false);
        }
        let (listeners, routes) = (current.listeners.clone(), current.routes.clone());
        let (version, call_names) = (current.version, Arc::clone(&current.call_names));
        self.current.store(Arc::new(Snapshot { version, listeners, routes, clusters, call_names }));
        let taken = self
            .workers
            .ask(ACKNOWLEDGE, |_, acknowledge| Command::Endpoints { clusters: changed.clone(), acknowledge });
        taken.await.map(|()| true).map_err(PublishError::Worker)
    }

    /// Binds listeners that are new. Those that cannot be bound are taken out of the snapshot.
    fn bind(&self, snapshot: &mut Snapshot) -> (BTreeMap<ListenerKey, Sockets>, Vec<BindFailure>) {
        let mut fresh = BTreeMap::new();
        let mut failures = Vec::new();
        snapshot.listeners.retain(|listener| {
            let key = ListenerKey::of(listener);
            if self.sockets.contains_key(&key) {
                return true;
            }
            let bound = match self.inherited.iter().find(|inherited| inherited.is_for(listener)) {
                Some(inherited) => inherited.sockets(),
                None => {
                    net::bind(listener.bind, self.workers.len()).map(|(address, sockets)| Sockets { address, sockets })
                }
            };
            match bound {
                Ok(sockets) => {
                    fresh.insert(key, sockets);
                    true
                }
                Err(error) => {
                    failures.push(BindFailure { listener: Arc::clone(listener), error });
                    false
                }
            }
        });
        (fresh, failures)
    }

    /// Makes instances of new plugin versions and hands them to the workers.
    async fn instantiate(&self, plugins: &[Arc<Plugin>]) -> Result<(), PublishError> {
        let prepared = self.prepare(plugins).await?;
        self.install(plugins, prepared).await
    }

    /// Instances of new plugin versions: for every worker one that serves and one to replace it.
    async fn prepare(&self, plugins: &[Arc<Plugin>]) -> Result<HashMap<PluginId, Vec<Instance>>, PublishError> {
        let mut prepared = HashMap::new();
        for plugin in plugins.iter().filter(|plugin| !self.installed.contains(&plugin.id)) {
            let instances = plugins::prepare(plugin, 2 * self.workers.len())
                .await
                .map_err(|error| PublishError::Plugin { plugin: Arc::clone(plugin), error })?;
            prepared.insert(plugin.id, instances);
        }
        Ok(prepared)
    }

    async fn install(
        &self,
        plugins: &[Arc<Plugin>],
        mut prepared: HashMap<PluginId, Vec<Instance>>,
    ) -> Result<(), PublishError> {
        if prepared.is_empty() {
            return Ok(());
        }
        let new: Vec<_> = plugins.iter().filter(|plugin| prepared.contains_key(&plugin.id)).cloned().collect();
        let taken = self
            .workers
            .ask(ACKNOWLEDGE, |_, acknowledge| Command::Prepare {
                plugins: new.clone(),
                prepared: prepared
                    .iter_mut()
                    .map(|(id, instances)| {
                        let rest = instances.split_off(instances.len().min(2));
                        Prepared { id: *id, instances: std::mem::replace(instances, rest) }
                    })
                    .collect(),
                acknowledge,
            })
            .await;
        taken.map_err(|worker| {
            for index in 0..self.workers.len() {
                self.workers.send(index, Command::Forget);
            }
            PublishError::Worker(worker)
        })
    }

    fn describe(&self, snapshot: &Snapshot) -> Vec<BoundListener> {
        snapshot
            .listeners
            .iter()
            .filter_map(|listener| {
                let bound = self.sockets.get(&ListenerKey::of(listener))?;
                Some(BoundListener {
                    declared_port: listener.declared_port,
                    address: bound.address,
                    hosts: listener.virtual_hosts().map(|host| host.name.to_string()).collect(),
                    plugins: listener
                        .plugins
                        .iter()
                        .map(|plugin| format!("{}/{}", plugin.namespace, plugin.name))
                        .collect(),
                })
            })
            .collect()
    }
}
