//! Wires the house together: control side, workers, admin. Tests start whole gateways with it.
//!
//! Two sides. The **control side** is a small runtime of its own: it reads configuration, compiles plugins
//! and answers operators. The **workers** serve. Between them there are only commands one way and
//! acknowledgements the other (`publish`).

mod callable;
mod control;
mod drain;
mod handover;
mod names;
mod plugin_output;
mod publish;
mod spares;
mod takeover;
mod unbound;

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use control::Progress;
pub use drain::DrainTimes;
pub use publish::BoundListener;

use crate::{
    admin::{self, Addresses, AdminState, Readiness},
    config::{self, problem::Problem, source::FileSource},
    http::{Identity, Limits as ClientLimits, Usage},
    overload::{Overload, OverloadOptions},
    plugins::{self, HeldBack, Registry, RegistryOptions},
    telemetry::{Limit, LogFilter, LostLines, Telemetry, TelemetryOptions},
    worker,
};
use callable::Callable;
use control::{Control, Outlets};
use drain::Drain;
use handover::Handover;
use names::Names;
use plugin_output::{PluginLog, PluginMetrics};
use publish::{Publisher, Workers};

/// How long the access log may take to write its last lines when the process ends.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Everything that is decided when the process starts.
#[derive(Debug)]
pub struct Options {
    /// Files and folders with resources; folders are searched and watched.
    pub files: Vec<PathBuf>,
    /// Who this gateway is and how ports are bound.
    pub config: config::Options,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Where operators, probes and scrapers are answered.
    pub addresses: Addresses,
    /// File with the token that changes through the admin API need. Without one, anybody on this machine may change
    /// something if the admin address is on the loopback interface, and nobody if it is not.
    pub admin_token_file: Option<PathBuf>,
    /// Where uploads live; `None`: in memory.
    pub data_dir: Option<PathBuf>,
    /// Take over from the gateway that runs on that directory, if there is one.
    pub takeover: bool,
    /// Start without uploads.
    pub safe_mode: bool,
    /// How long an orderly end takes.
    pub drain: DrainTimes,
    /// Metrics and the access log.
    pub telemetry: TelemetryOptions,
    /// What of the process's log is written, for operators to change; `None` if the log is somebody else's.
    pub log_filter: Option<LogFilter>,
    /// How many lines of it were lost.
    pub lost_log_lines: Option<LostLines>,
    /// Host name and address for headers.
    pub identity: Identity,
    /// Which name server is asked for the names of endpoints; `None`: those of the system (`/etc/resolv.conf`).
    pub dns_server: Option<SocketAddr>,
    /// Budgets of plugins and limits of uploads.
    pub limits: plugins::Limits,
    /// Servers of modules, as `host` or `host:port`, that are spoken to without TLS and may be on this machine; with
    /// `https://` in front they may only be on this machine.
    pub insecure_registries: Vec<String>,
    /// Authorities (PEM) for servers of modules, besides those of the system.
    pub plugin_source_ca: Option<PathBuf>,
    /// How long clients may take.
    pub client_limits: ClientLimits,
    /// When load is shed.
    pub overload: OverloadOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            config: config::Options::default(),
            workers: 1,
            addresses: Addresses::default(),
            admin_token_file: None,
            data_dir: None,
            takeover: false,
            safe_mode: false,
            drain: DrainTimes::default(),
            telemetry: TelemetryOptions::default(),
            log_filter: None,
            lost_log_lines: None,
            identity: Identity::default(),
            dns_server: None,
            limits: plugins::Limits::default(),
            insecure_registries: Vec::new(),
            plugin_source_ca: None,
            client_limits: ClientLimits::default(),
            overload: OverloadOptions::default(),
        }
    }
}

/// The control side's runtime. It ends without waiting, so that it may be dropped anywhere.
struct ControlRuntime(Option<tokio::runtime::Runtime>);

impl ControlRuntime {
    fn start() -> std::io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("control").enable_all().build().map(|runtime| Self(Some(runtime)))
    }

    /// Runs a task there and waits for it.
    async fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> anyhow::Result<T> {
        let runtime = self.0.as_ref().context("the control runtime has ended")?;
        runtime.spawn(task).await.context("a control task ended unexpectedly")
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
        self.0.as_ref().map(|runtime| runtime.spawn(task))
    }
}

impl Drop for ControlRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Why a gateway is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Somebody asked for it through the admin API.
    Asked,
    /// Another process serves in its place.
    TakenOver,
}

/// A running gateway. Dropping it without [`Gateway::shutdown`] ends it abruptly.
pub struct Gateway {
    /// The control task; it owns the listening sockets.
    control: Option<JoinHandle<()>>,
    workers: Arc<Workers>,
    threads: Vec<worker::Handle>,
    admin: Option<admin::Serving>,
    drain: Drain,
    progress: watch::Receiver<Progress>,
    problems: Arc<ArcSwap<Vec<Problem>>>,
    stop: watch::Receiver<Option<Stop>>,
    telemetry: Telemetry,
    /// Looks after memory and workers.
    watch: Option<JoinHandle<()>>,
    drain_times: DrainTimes,
    /// Dropped last: everything else may still use it while it ends.
    control_runtime: ControlRuntime,
}

/// Starts a gateway and returns when its first configuration serves on every worker, and, if it takes over from another
/// process, when that accepts nothing any more.
///
/// # Errors
/// No configuration could be read at all, an address is taken, or the data directory is in use. Problems of
/// single resources are no errors: they are reported and the rest serves. A process that was to be taken over from goes on.
pub async fn start(options: Options) -> anyhow::Result<Gateway> {
    let started = Instant::now();
    let control_runtime = ControlRuntime::start().context("cannot start the control runtime")?;
    let source = FileSource::new(options.files)?;
    let takeover::Inheritance { lock, door, admin: passed, listeners: inherited, predecessor } =
        match options.data_dir.clone().filter(|_| options.takeover) {
            Some(data_dir) => control_runtime.run(async move { takeover::ask(&data_dir).await }).await??,
            None => takeover::Inheritance::default(),
        };
    let bound = admin::bind(&options.addresses, passed)?;
    let admin_handle = bound.handle().context("cannot duplicate the sockets of the admin API")?;
    let telemetry = Telemetry::new(&options.telemetry)?;
    let changes = admin::Changes::new(options.admin_token_file, options.addresses.admin.ip(), &telemetry)
        .context("--admin-token-file")?;
    let engine = proxy_wasm_host::Engine::new(&proxy_wasm_host::EngineOptions::default())
        .context("cannot start the WebAssembly engine")?;
    let callable = Arc::<Callable>::default();
    let shared = proxy_wasm_host::Shared::new(Arc::new(PluginLog), Arc::clone(&callable) as _);
    telemetry.add_collector(Box::new(PluginMetrics::new(shared.clone())?))?;
    let workers = options.workers.max(1);
    let overload = Overload::new(workers, &options.overload);
    telemetry.add_collector(Box::new(overload.collector()?))?;
    if let Some(lost) = options.lost_log_lines {
        telemetry.add_limits(move || vec![(Limit::LogLines, lost.count())]);
    }
    let quotas = shared.clone();
    telemetry.add_limits(move || plugin_output::limits(&quotas));
    let held_back = HeldBack::new()?;
    telemetry.add_collector(Box::new(held_back.collector()))?;
    let sources = plugins::Sources::new(options.insecure_registries, options.plugin_source_ca.as_deref())
        .map_err(|why| anyhow::anyhow!("--plugin-source-ca: {why}"))?;
    let registry = Registry::new(RegistryOptions {
        data_dir: options.data_dir.clone(),
        lock,
        namespace: options.config.namespace.clone(),
        safe_mode: options.safe_mode,
        engine,
        shared,
        limits: options.limits.clone(),
        held_back: held_back.clone(),
        sources,
    })?;
    let fetches = registry.fetch_counters();
    telemetry.add_collector(Box::new(fetches.collector()))?;
    telemetry.add_limits(move || plugin_output::fetch_limits(&fetches));
    let lock = registry.lock().map(File::try_clone).transpose().context("cannot duplicate the lock")?;

    let identity = Arc::new(options.identity);
    let usage = Usage::default();
    let (spare_orders, spare_inbox) = mpsc::unbounded_channel();
    let threads = (0..workers)
        .map(|index| {
            worker::Handle::start(worker::Settings {
                index,
                identity: Arc::clone(&identity),
                telemetry: telemetry.clone(),
                spare_orders: spare_orders.clone(),
                usage: usage.clone(),
                client_limits: options.client_limits.clone(),
                overload: Arc::clone(&overload),
            })
        })
        .collect::<Result<Vec<_>, _>>()
        .context("cannot start a worker thread")?;
    let workers = Arc::new(Workers::new(&threads));
    let watch = control_runtime.spawn(Arc::clone(&overload).watch(options.overload.memory));
    control_runtime.spawn(spares::serve(spare_inbox, Arc::clone(&workers), held_back.clone()));

    let snapshot = Arc::new(ArcSwap::from_pointee(crate::snapshot::Snapshot::default()));
    let problems = Arc::new(ArcSwap::from_pointee(Vec::new()));
    let (readiness, ready) = watch::channel(Readiness::Starting("no configuration has been published yet".to_owned()));
    let (progress, published) = watch::channel(Progress::default());
    let (commands, command_inbox) = mpsc::channel(16);
    let (quit, stop) = watch::channel(None);
    let drain = Drain::new(readiness.clone(), Arc::clone(&workers));
    let state = AdminState {
        readiness: ready,
        snapshot: Arc::clone(&snapshot),
        problems: Arc::clone(&problems),
        plugins: registry.views(),
        held_back,
        commands,
        telemetry: telemetry.clone(),
        shutdown: {
            let quit = quit.clone();
            Box::new(move || {
                quit.send_replace(Some(Stop::Asked));
            })
        },
        drain: {
            let drain = drain.clone();
            Box::new(move |leave| drain.ask(leave))
        },
        log_filter: options.log_filter,
        namespace: options.config.namespace.clone(),
        workers: threads.len(),
        overload,
        limits: options.limits,
        changes,
        started,
    };
    // Probes of a process that is taken over from must not find one that is still starting.
    let (admin, later) = match predecessor {
        None => (Some(serve_admin(&control_runtime, bound, state).await?), None),
        Some(_) => (None, Some((bound, state))),
    };

    let dns_server = options.dns_server;
    let names_telemetry = telemetry.clone();
    let names = control_runtime.run(async move { Names::new(dns_server, &names_telemetry) }).await??;
    let publisher = Publisher::new(Arc::clone(&workers), snapshot, callable, inherited);
    let outlets = Outlets { telemetry: telemetry.clone(), problems: Arc::clone(&problems), progress, readiness };
    let mut control = Control::new(source, options.config, registry, publisher, names, outlets)?;
    // On the control runtime, so that a test may call us on a runtime of its own.
    let mut control = control_runtime.run(async move { control.first().await.map(|()| control) }).await??;
    drain.ready();
    let admin = match later {
        Some((bound, state)) => Some(serve_admin(&control_runtime, bound, state).await?),
        None => admin,
    };
    let mut gateway = Gateway {
        control: None,
        workers,
        threads,
        admin,
        drain,
        progress: published,
        problems,
        stop,
        telemetry,
        watch,
        drain_times: options.drain,
        control_runtime,
    };
    if let Some(predecessor) = predecessor {
        let taken = control.taken();
        if let Err(error) = gateway.control_runtime.run(predecessor.relieve(taken)).await? {
            control.give_back().await;
            gateway.shutdown().await;
            return Err(error);
        }
    }
    let control = async move {
        let handover = match (options.data_dir, lock) {
            (Some(data_dir), Some(lock)) => Handover::open(&data_dir, lock, admin_handle, door).map_or_else(
                |error| {
                    tracing::warn!(%error, "no other process can take over from this one");
                    None
                },
                Some,
            ),
            _ => None,
        };
        control.settle(handover).await;
        if control.run(command_inbox).await {
            quit.send_replace(Some(Stop::TakenOver));
        }
    };
    gateway.control = gateway.control_runtime.spawn(control);
    Ok(gateway)
}

async fn serve_admin(
    runtime: &ControlRuntime,
    bound: admin::Bound,
    state: AdminState,
) -> anyhow::Result<admin::Serving> {
    runtime.run(async move { bound.serve(state) }).await?.context("cannot serve the admin API")
}

impl Gateway {
    /// Opens the access log's file anew, after somebody renamed it (log rotation).
    pub fn reopen_access_log(&self) {
        self.telemetry.reopen_access_log();
    }

    /// The listeners that serve now, with their real addresses.
    #[must_use]
    pub fn listeners(&self) -> Vec<BoundListener> {
        self.progress.borrow().listeners.clone()
    }

    /// The address of the listener with this declared port.
    #[must_use]
    pub fn address(&self, declared_port: u16) -> Option<SocketAddr> {
        self.listeners().iter().find(|listener| listener.declared_port == declared_port).map(|found| found.address)
    }

    /// Where operators are answered, with the ports that the kernel chose.
    #[must_use]
    pub fn admin(&self) -> Addresses {
        self.admin.as_ref().map(admin::Serving::addresses).unwrap_or_default()
    }

    /// What is wrong with the configuration.
    #[must_use]
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.problems.load_full()
    }

    /// Follows publications: every change that has been acknowledged by all workers, and every one that was
    /// read and changed nothing.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits until there is a reason to end: call [`Gateway::shutdown`] then.
    pub async fn stopped(&self) -> Stop {
        let mut stop = self.stop.clone();
        let stopped = stop.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
        match stopped {
            Some(stop) => stop,
            // Nobody is left who could ask.
            None => std::future::pending().await,
        }
    }

    /// Ends in order: not ready any more, clients asked to leave, then nothing new accepted; what is in flight finishes
    /// within the drain time.
    pub async fn shutdown(mut self) {
        let left = self.drain.end(self.drain_times, &self.telemetry).await;
        // With it go its handles of the listening sockets: what is in their queues the workers still accept, and then
        // nothing answers on these ports any more, so that clients turn elsewhere at once.
        if let Some(control) = self.control.take() {
            control.abort();
            let _ = control.await;
        }
        // Workers that have ended are not stuck.
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
        self.workers.end(left).await;
        self.admin.take();
        let threads = std::mem::take(&mut self.threads);
        let telemetry = self.telemetry.clone();
        // Both block, for moments: the threads have nothing left to do, and their last lines are on the way to the log.
        let ended = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(worker::Handle::join);
            if !telemetry.drain_access_log(LAST_LINES) {
                tracing::warn!("the last lines of the access log could not be written in time");
            }
        });
        let _ = ended.await;
    }
}
