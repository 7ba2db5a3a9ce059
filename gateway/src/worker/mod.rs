//! A worker: one thread with its own runtime, sockets, pools, plugin instances and counters.
//!
//! Workers share nothing on the request path. Each follows the commands of the control side, one after the
//! other, and acknowledges those that somebody waits for.

mod accept;
mod command;
mod panics;

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    io,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc,
};

pub(crate) use command::{Command, ListenerKey, Socket};

use crate::{
    clock,
    http::{Config, Identity, Limits, PluginSet, Port, SpareOrder, Usage, Worker},
    overload::Overload,
    snapshot::{self, Snapshot},
    telemetry::{Limit, Telemetry},
};

/// What a worker needs to know at start.
pub(crate) struct Settings {
    pub(crate) index: usize,
    pub(crate) identity: Arc<Identity>,
    pub(crate) telemetry: Telemetry,
    pub(crate) spare_orders: mpsc::UnboundedSender<SpareOrder>,
    /// Shared by all workers.
    pub(crate) usage: Usage,
    pub(crate) client_limits: Limits,
    /// What the process can still take.
    pub(crate) overload: Arc<Overload>,
}

/// The control side's end of a worker.
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Handle {
    /// Starts a worker. It serves nothing until it is told to.
    pub(crate) fn start(settings: Settings) -> io::Result<Self> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let thread = thread::Builder::new().name(format!("worker-{}", settings.index)).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "a worker cannot start its runtime"),
            };
            runtime.block_on(run(settings, inbox));
        })?;
        Ok(Self { commands, thread: Some(thread) })
    }

    /// A way to give commands.
    pub(crate) fn sender(&self) -> Sender {
        Sender(self.commands.clone())
    }

    /// Waits until the worker has ended.
    pub(crate) fn join(mut self) {
        let Some(thread) = self.thread.take() else { return };
        if thread.join().is_err() {
            tracing::error!("a worker ended with a panic");
        }
    }
}

/// Gives commands to a worker.
#[derive(Clone)]
pub(crate) struct Sender(mpsc::UnboundedSender<Command>);

impl Sender {
    /// A command that cannot be delivered (the worker has ended) is dropped, and with it its
    /// acknowledgement, which is how whoever waits for it learns.
    pub(crate) fn send(&self, command: Command) {
        if self.0.send(command).is_err() {
            tracing::debug!("a command for a worker that has ended");
        }
    }
}

/// What a worker serves.
#[derive(Default)]
struct Served {
    config: Option<Rc<Config>>,
    ports: HashMap<ListenerKey, accept::Listening>,
}

async fn run(settings: Settings, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let telemetry = settings.telemetry.worker();
    let _panics = panics::count(&telemetry);
    let plugins = PluginSet::new(settings.index, settings.spare_orders, Rc::clone(&telemetry));
    let (identity, limits) = (settings.identity, settings.client_limits);
    let worker = Worker::new(settings.index, identity, telemetry, plugins, settings.usage, limits, settings.overload);
    let served = Rc::new(RefCell::new(Served::default()));
    let sweep = tokio::task::spawn_local(sweep(Rc::clone(&worker), Rc::clone(&served)));
    let turns = tokio::task::spawn_local(worker.turn.clone().follow());
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Prepare { plugins, prepared, acknowledge } => {
                worker.plugins.install(&plugins, prepared);
                // Whoever does not wait any more has given up on this configuration.
                let _ = acknowledge.send(());
            }
            Command::Commit { snapshot, sockets, acknowledge } => {
                commit(&worker, &mut served.borrow_mut(), &snapshot, sockets);
                let _ = acknowledge.send(());
            }
            Command::Endpoints { clusters, acknowledge } => {
                if let Some(config) = &served.borrow().config {
                    clusters.iter().for_each(|(id, cluster)| config.set_endpoints(*id, cluster));
                }
                let _ = acknowledge.send(());
            }
            Command::Forget => {
                if let Some(config) = &served.borrow().config {
                    worker.plugins.retain(&config.snapshot.plugins());
                }
            }
            Command::Spare { id, instance } => worker.plugins.add_spare(id, instance.map(|instance| *instance)),
            Command::Release { listeners, acknowledge } => {
                let mut served = served.borrow_mut();
                for released in listeners.iter().filter_map(|key| served.ports.remove(key)) {
                    released.release();
                }
                let _ = acknowledge.send(());
            }
            Command::Leave(leave) => worker.connections.leave(leave),
            Command::End { within, acknowledge } => {
                let ports = std::mem::take(&mut served.borrow_mut().ports);
                let closing: Vec<_> = ports.into_values().flat_map(accept::Listening::close).collect();
                let ended = async {
                    for socket in closing {
                        // An error would be a panic of its task; the socket is closed then, too.
                        let _ = socket.await;
                    }
                    worker.connections.drain();
                    worker.connections.ended().await;
                };
                if tokio::time::timeout(within, ended).await.is_err() {
                    tracing::warn!(
                        connections = worker.connections.len(),
                        "requests were still being served at the end of the drain time; they are cut off"
                    );
                    worker.connections.close();
                    // Their tasks need a turn to notice.
                    let _ = tokio::time::timeout(Duration::from_secs(1), worker.connections.ended()).await;
                }
                let _ = acknowledge.send(());
                break;
            }
        }
    }
    sweep.abort();
    turns.abort();
}

/// Serves a new snapshot. Connections stay open; requests in flight finish on what they began with.
fn commit(worker: &Rc<Worker>, served: &mut Served, snapshot: &Arc<Snapshot>, sockets: Vec<Socket>) {
    let config = Config::new(Arc::clone(snapshot), served.config.as_deref(), worker);
    worker.plugins.serve(&config);
    let mut fresh: HashMap<ListenerKey, Vec<std::net::TcpListener>> = HashMap::new();
    for Socket { key, listener } in sockets {
        fresh.entry(key).or_default().push(listener);
    }
    let mut wanted = HashSet::new();
    for listener in &snapshot.listeners {
        let key = ListenerKey::of(listener);
        wanted.insert(key);
        if let Some(listening) = served.ports.get(&key) {
            listening.port.serve(Arc::clone(listener), Rc::clone(&config), worker);
            continue;
        }
        let Some(sockets) = fresh.remove(&key) else { continue };
        match open(worker, listener, &config, sockets) {
            Ok(listening) => {
                served.ports.insert(key, listening);
            }
            Err(error) => tracing::error!(%error, address = %key.bind, "a worker cannot use its socket"),
        }
    }
    for (_, gone) in served.ports.extract_if(|key, _| !wanted.contains(key)) {
        // Dropping it accepts what its queue still holds, then closes it.
        worker.connections.drain_port(&gone.port);
    }
    worker.plugins.retain(&snapshot.plugins());
    served.config = Some(config);
}

fn open(
    worker: &Rc<Worker>,
    listener: &Arc<snapshot::Listener>,
    config: &Rc<Config>,
    sockets: Vec<std::net::TcpListener>,
) -> io::Result<accept::Listening> {
    let sockets = sockets.into_iter().map(tokio::net::TcpListener::from_std).collect::<io::Result<Vec<_>>>()?;
    let port = Port::new(Arc::clone(listener), Rc::clone(config), worker);
    Ok(accept::Listening::start(sockets, port, worker))
}

/// Says that the worker moves, moves the coarse clock and closes what has been quiet for too long.
async fn sweep(worker: Rc<Worker>, served: Rc<RefCell<Served>>) {
    let mut turn = tokio::time::interval(clock::TICK);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        worker.overload.beat(worker.index);
        worker.clock.advance();
        let now = worker.clock.now();
        let limits = worker.limits.under(worker.overload.stage());
        let swept = worker.connections.sweep(now, &limits);
        let bodies = worker.bodies.sweep(now, limits.request_body_timeout);
        let upstream = served.borrow().config.as_ref().map(|config| config.sweep()).unwrap_or_default();
        let counters = worker.telemetry.counters();
        counters.upstream_connections.set(upstream.open as u64);
        counters.tasks.set(tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64);
        for (times, limit) in [
            (swept.heads as u64, Limit::RequestHeadTime),
            (swept.idle as u64, Limit::IdleTime),
            (bodies as u64, Limit::RequestBodyTime),
            (swept.unread as u64, Limit::ResponseWriteTime),
            (swept.silent as u64, Limit::DrainHeadTime),
            (upstream.waits, Limit::UpstreamConnections),
            (upstream.unused, Limit::UpstreamIdleTime),
            (upstream.surplus, Limit::UpstreamIdleConnections),
            (upstream.floods, Limit::UpstreamHttp2Frames),
        ] {
            counters.limit_exceeded_times(limit, times);
        }
        if let Some(log) = worker.telemetry.access_log() {
            log.flush();
        }
    }
}
