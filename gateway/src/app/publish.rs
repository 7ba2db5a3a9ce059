//! Publication: a snapshot becomes what every worker serves, or nothing changes.
//!
//! 1. Sockets of new listeners are bound.
//! 2. Plugin versions that are new get configured instances for every worker, off the workers.
//! 3. Every worker takes the instances over and says so. Up to here nothing has changed for any request.
//! 4. Every worker is told to serve the snapshot and says so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use proxy_wasm_host::{Instance, StartError};
use tokio::sync::oneshot;

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
    sockets: Vec<std::net::TcpListener>,
}

/// Owns every listening socket and knows what the workers have.
pub(super) struct Publisher {
    workers: Arc<Workers>,
    current: Arc<ArcSwap<Snapshot>>,
    sockets: BTreeMap<ListenerKey, Sockets>,
    /// Plugin versions that every worker has instances of.
    installed: HashSet<PluginId>,
}

impl Publisher {
    pub(super) fn new(workers: Arc<Workers>, current: Arc<ArcSwap<Snapshot>>) -> Self {
        Self { workers, current, sockets: BTreeMap::new(), installed: HashSet::new() }
    }

    /// What the workers serve.
    pub(super) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Makes `snapshot` what every worker serves.
    pub(super) async fn publish(&mut self, mut snapshot: Snapshot) -> Result<Published, PublishError> {
        snapshot.version = self.current.load().version + 1;
        let (fresh, failures) = self.bind(&mut snapshot);
        let plugins = snapshot.plugins();
        let prepared = self.prepare(&plugins).await?;
        self.install(&plugins, prepared).await?;

        let snapshot = Arc::new(snapshot);
        let mut handed: Vec<Vec<Socket>> = (0..self.workers.len()).map(|_| Vec::new()).collect();
        for (key, sockets) in &fresh {
            for (socket, worker) in sockets.sockets.iter().zip(&mut handed) {
                match socket.try_clone() {
                    Ok(listener) => worker.push(Socket { key: *key, listener }),
                    Err(error) => tracing::error!(%error, "cannot duplicate a listening socket for a worker"),
                }
            }
        }
        let committed = self
            .workers
            .ask(ACKNOWLEDGE, |index, acknowledge| Command::Commit {
                snapshot: Arc::clone(&snapshot),
                sockets: handed.get_mut(index).map(std::mem::take).unwrap_or_default(),
                acknowledge,
            })
            .await;
        self.sockets.extend(fresh);
        self.sockets.retain(|key, _| snapshot.listeners.iter().any(|listener| ListenerKey::of(listener) == *key));
        self.installed = plugins.iter().map(|plugin| plugin.id).collect();
        self.current.store(Arc::clone(&snapshot));
        // From here there is no way back: the other workers serve it. One that is stuck will when it gets unstuck.
        if let Err(worker) = committed {
            tracing::error!(worker, "a worker has not acknowledged the configuration that the others serve");
        }
        Ok(Published { failures, listeners: self.describe(&snapshot) })
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
        self.current.store(Arc::new(Snapshot { version: current.version, listeners, routes, clusters }));
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
            match net::bind(listener.bind, self.workers.len()) {
                Ok((address, sockets)) => {
                    fresh.insert(key, Sockets { address, sockets });
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
