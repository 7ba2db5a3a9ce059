//! The control task: every change of configuration goes through here, one after the other.
//!
//! A change is a file event or an upload. Each is worked out completely (resources, plugins, snapshot) and
//! then published; what cannot be published leaves everything as it was.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use anyhow::bail;
use arc_swap::ArcSwap;
use proxy_wasm_host::StartFailure;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
};

use super::{
    handover::Handover,
    names::Names,
    publish::{BindFailure, BoundListener, PublishError, Publisher},
    unbound::Unbound,
};
use crate::{
    admin::Readiness,
    config::{
        Changed, Options, Store, Surroundings, compile,
        problem::{BEYOND_LIMIT, Level, Problem},
        source::{FileSource, SourceFile, Watch},
    },
    plugins::{ApiError, Attached, Command, Declaration, ModuleSource, Outcome, Registry, Staged},
    snapshot::{Cluster, ClusterId, Snapshot},
    telemetry::{Limit, Telemetry},
    worker::ListenerKey,
};

/// How far the configuration has come.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Times that the files were read.
    pub read: u64,
    /// Version of the snapshot that every worker serves.
    pub version: u64,
    /// Times that endpoints were exchanged in it, because DNS had news or EndpointSlices changed.
    pub endpoints: u64,
    /// The listeners of that snapshot.
    pub listeners: Vec<BoundListener>,
}

pub(super) struct Control {
    source: FileSource,
    watch: Watch,
    store: Store,
    surroundings: Surroundings,
    options: Options,
    registry: Registry,
    publisher: Publisher,
    /// Where endpoints are that are known by name.
    names: Names,
    /// The clusters with such endpoints, as they were compiled, by their place in the snapshot.
    named: Vec<(ClusterId, Arc<Cluster>)>,
    telemetry: Telemetry,
    problems: Arc<ArcSwap<Vec<Problem>>>,
    progress: watch::Sender<Progress>,
    readiness: watch::Sender<Readiness>,
    /// What the files looked like when they were last taken over.
    seen: Option<Fingerprint>,
    /// The plugins of the configuration that is served.
    attached: Vec<Attached>,
    /// What is wrong besides the resources and what compiling them finds: plugins, addresses.
    other_problems: Vec<Problem>,
    /// Listeners of the configuration that could not be bound.
    unbound: Unbound,
    /// How another process takes over; `None`: there is no data directory to meet in.
    handover: Option<Handover>,
}

/// Numbers that change when files change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    /// Those with resources.
    files: u64,
    /// Those that resources name: modules and certificates.
    named: u64,
}

/// Where others see what the control task does.
pub(super) struct Outlets {
    pub(super) telemetry: Telemetry,
    pub(super) problems: Arc<ArcSwap<Vec<Problem>>>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) readiness: watch::Sender<Readiness>,
}

/// Why a change did not take place.
enum Refused {
    /// The upload that was staged is at fault.
    Upload(ApiError),
    /// A worker is stuck; the change may be tried again.
    Worker(PublishError),
    /// The first configuration has listeners that cannot be bound.
    Unbound(Vec<BindFailure>),
}

impl Control {
    pub(super) fn new(
        source: FileSource,
        options: Options,
        registry: Registry,
        publisher: Publisher,
        names: Names,
        outlets: Outlets,
    ) -> anyhow::Result<Self> {
        let Outlets { telemetry, problems, progress, readiness } = outlets;
        // Watching starts before the first reading, so that no change falls between them.
        let watch = source.watch()?;
        let store = Store::new(options.clone());
        Ok(Self {
            source,
            watch,
            store,
            surroundings: Surroundings::default(),
            options,
            registry,
            publisher,
            names,
            named: Vec::new(),
            telemetry,
            problems,
            progress,
            readiness,
            seen: None,
            attached: Vec::new(),
            other_problems: Vec::new(),
            unbound: Unbound::default(),
            handover: None,
        })
    }

    /// The first configuration. An address that cannot be bound is an error here: a gateway that cannot do what
    /// it was started for should say so at once.
    pub(super) async fn first(&mut self) -> anyhow::Result<()> {
        let files = self.read();
        self.seen = Some(self.fingerprint(&files));
        self.store.update(files);
        self.fetch_modules().await;
        match self.apply(None).await {
            Ok(_) => Ok(()),
            Err(Refused::Unbound(failures)) => {
                bail!("{}", failures.iter().map(explain).collect::<Vec<_>>().join("\n"))
            }
            Err(Refused::Worker(error)) => bail!(error),
            Err(Refused::Upload(error)) => bail!("{}", error.message),
        }
    }

    /// Nobody is answered before the modules that have to be fetched are there, or known not to be.
    async fn fetch_modules(&mut self) {
        let (declarations, _) = compile::declarations(self.store.resources(), &self.options);
        let remote = |plugin: &&Declaration| matches!(plugin.source, ModuleSource::Remote(_));
        let names = declarations.iter().filter(remote).map(|plugin| format!("{}/{}", plugin.namespace, plugin.name));
        let names = names.collect::<Vec<_>>().join(", ");
        if !names.is_empty() {
            self.readiness.send_replace(Readiness::Starting(format!("modules are being fetched for {names}")));
            self.registry.fetch_first(&declarations).await;
        }
    }

    /// The listeners of the process before us that serve here now.
    pub(super) fn taken(&mut self) -> Vec<ListenerKey> {
        self.publisher.taken()
    }

    /// The process before us goes on: we accept nothing any more.
    pub(super) async fn give_back(&mut self) {
        let all = self.publisher.offer().iter().map(|(listener, _)| listener.key).collect();
        self.publisher.release(all).await;
    }

    /// The process before us has ended its part: this one is complete, and may be taken over from in turn.
    pub(super) async fn settle(&mut self, handover: Option<Handover>) {
        self.handover = handover;
        self.publisher.widen().await;
    }

    /// Serves changes until the process ends, or another has taken over (`true`).
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> bool {
        let mut watched = true;
        loop {
            self.watch.also(self.watched_files().cloned().collect());
            tokio::select! {
                changed = self.watch.changed(), if watched => {
                    watched = changed;
                    if changed {
                        self.files_changed().await;
                    } else {
                        tracing::error!("files are not watched any more; changes take effect after a restart only");
                    }
                }
                () = self.names.changed() => self.names_changed().await,
                () = self.registry.changed() => self.publish_files().await,
                () = self.unbound.due() => self.bind_again().await,
                stream = knocked(self.handover.as_ref()) => {
                    if self.hand_over(stream, &mut commands).await {
                        return true;
                    }
                }
                command = commands.recv() => {
                    let Some(Command { change, reply }) = command else { return false };
                    let outcome = self.change(change).await;
                    // Whoever asked may have gone away; the change stands.
                    drop(reply.send(outcome));
                }
            }
        }
    }

    /// Lets another process take over. `false`: it did not come to that, and everything is as it was.
    async fn hand_over(&mut self, stream: UnixStream, commands: &mut mpsc::Receiver<Command>) -> bool {
        let Some(handover) = &self.handover else { return false };
        let offered = {
            let mut offering = pin!(handover.offer(stream, &self.publisher));
            loop {
                tokio::select! {
                    offered = &mut offering => break offered,
                    // The new process has read what there is; what comes now it would not know.
                    Some(Command { reply, .. }) = commands.recv() => {
                        let message = "a new gateway process is taking over; try again in a moment";
                        drop(reply.send(Err(ApiError::new(503, "taking-over", message))));
                    }
                }
            }
        };
        match offered {
            Ok(successor) => {
                let (pid, listeners) = (successor.pid, successor.serving.listeners.len());
                handover.close();
                self.publisher.release(successor.serving.listeners.clone()).await;
                successor.released().await;
                tracing::info!(pid, listeners, "a new process serves now; this one finishes what it has");
                true
            }
            Err(error) => {
                tracing::warn!(error = %format_args!("{error:#}"), "no takeover took place; this process goes on");
                false
            }
        }
    }

    /// Tries once more to bind what could not be bound.
    async fn bind_again(&mut self) {
        if self.unbound.is_any_free() {
            tracing::info!("an address that could not be bound is free now");
            self.publish_files().await;
        }
    }

    fn read(&self) -> Vec<SourceFile> {
        self.progress.send_modify(|progress| progress.read += 1);
        self.source.read()
    }

    async fn files_changed(&mut self) {
        let files = self.read();
        let seen = self.fingerprint(&files);
        let before = self.seen.replace(seen);
        if before == Some(seen) {
            return;
        }
        let only_endpoints = self.store.update(files) == Changed::Endpoints;
        if only_endpoints && self.unbound.is_empty() && before.is_some_and(|before| before.named == seen.named) {
            return self.slices_changed().await;
        }
        self.publish_files().await;
    }

    /// Publishes what the files say.
    async fn publish_files(&mut self) {
        match self.apply(None).await {
            Ok(failures) => {
                for failure in &failures {
                    tracing::error!("{}", explain(failure));
                }
            }
            Err(Refused::Worker(error)) => {
                // Not taken over: the next event, or the slow comparison, tries again.
                self.seen = None;
                tracing::error!(%error, "the configuration was not changed");
            }
            Err(Refused::Upload(error)) => tracing::error!(error = %error.message, "the configuration was not changed"),
            Err(Refused::Unbound(failures)) => {
                for failure in &failures {
                    tracing::error!("{}", explain(failure));
                }
            }
        }
    }

    /// Files that resources name: modules and certificates.
    fn watched_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.registry.watched_files().iter().chain(self.surroundings.watched_files())
    }

    /// EndpointSlices have changed and nothing else: the clusters are the same but for their endpoints.
    async fn slices_changed(&mut self) {
        let (mut snapshot, compiled) =
            compile::compile(self.store.resources(), &self.options, &self.attached, &self.surroundings);
        self.named = self.resolve(&mut snapshot).await;
        let endpoints = (0..).zip(&snapshot.clusters).map(|(id, cluster)| (id, Arc::clone(&cluster.endpoints)));
        let exchanged = self.publisher.exchange_endpoints(endpoints.collect()).await;
        let problems = self.store.problems().iter().chain(&self.other_problems).chain(&compiled);
        self.report(problems.cloned().collect());
        match exchanged {
            Ok(changed) => self.progress.send_modify(|progress| progress.endpoints += u64::from(changed)),
            Err(error) => {
                // The next event, or the slow comparison, tries again.
                self.seen = None;
                tracing::error!(%error, "a worker has not acknowledged endpoints that the others use");
            }
        }
    }

    fn fingerprint(&self, files: &[SourceFile]) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        for file in files {
            file.path.hash(&mut hasher);
            match &file.contents {
                Ok(contents) => contents.hash(&mut hasher),
                Err(error) => error.to_string().hash(&mut hasher),
            }
        }
        let mut named = DefaultHasher::new();
        for path in self.watched_files() {
            state(path).hash(&mut named);
        }
        Fingerprint { files: hasher.finish(), named: named.finish() }
    }

    /// An upload or a deletion.
    async fn change(&mut self, change: crate::plugins::Change) -> Result<Outcome, ApiError> {
        let staged = self.registry.stage(change).await?;
        let outcome = staged.outcome();
        if outcome == Outcome::Unchanged {
            return self.finish_unchanged(staged);
        }
        match self.apply(Some(staged)).await {
            Ok(_) => Ok(outcome),
            Err(Refused::Upload(error)) => Err(error),
            Err(Refused::Worker(error)) => Err(ApiError::new(503, "worker-timeout", error.to_string())),
            Err(Refused::Unbound(failures)) => {
                let message = failures.iter().map(explain).collect::<Vec<_>>().join("\n");
                Err(ApiError::new(503, "starting", message))
            }
        }
    }

    fn finish_unchanged(&mut self, staged: Staged) -> Result<Outcome, ApiError> {
        self.registry.discard(staged);
        Ok(Outcome::Unchanged)
    }

    /// Works everything out and publishes it. A plugin that does not start is left out, or stays what it was, and the
    /// rest is published; only the upload that is being made fails as a whole.
    async fn apply(&mut self, mut staged: Option<Staged>) -> Result<Vec<BindFailure>, Refused> {
        self.surroundings.refresh(self.store.resources(), &self.options);
        loop {
            let (declarations, declared) = compile::declarations(self.store.resources(), &self.options);
            let mut resolved = self.registry.resolve(&declarations, staged.as_ref()).await;
            let (mut snapshot, compiled) =
                compile::compile(self.store.resources(), &self.options, &resolved.attached, &self.surroundings);
            let named = self.resolve(&mut snapshot).await;
            match self.publisher.publish(snapshot).await {
                Ok(published) => {
                    self.named = named;
                    self.names.retain(self.named.iter().map(|(_, cluster)| cluster));
                    self.unbound.set(&published.failures);
                    self.other_problems = declared;
                    self.other_problems.append(&mut resolved.problems);
                    self.other_problems.extend(published.failures.iter().map(problem));
                    let problems = self.store.problems().iter().chain(&self.other_problems).chain(&compiled);
                    let problems: Vec<Problem> = problems.cloned().collect();
                    resolved.warn(&problems);
                    self.report(problems);
                    self.attached = std::mem::take(&mut resolved.attached);
                    let kept = self.registry.commit(resolved, staged.take());
                    self.progress.send_modify(|progress| {
                        progress.version += 1;
                        progress.listeners = published.listeners;
                    });
                    self.telemetry.set_config_version(self.progress.borrow().version);
                    self.telemetry.set_served(&self.publisher.current());
                    return kept.map(|()| published.failures).map_err(Refused::Upload);
                }
                Err(PublishError::Plugin { plugin, error }) => {
                    if matches!(error.failure, StartFailure::Deadline(_)) {
                        self.telemetry.limit_exceeded(Limit::PluginStartTime);
                    }
                    if let Some(staged) = staged.take_if(|staged| staged.concerns(&plugin)) {
                        self.registry.discard(staged);
                        return Err(Refused::Upload(ApiError::from(&error)));
                    }
                    let wait = self.registry.refuse(&plugin, &error);
                    tracing::error!(
                        %error, plugin = %format_args!("{}/{}", plugin.namespace, plugin.name), seconds = wait.as_secs(),
                        "plugin does not start and is held back"
                    );
                }
                Err(PublishError::Unbound(failures)) => return Err(Refused::Unbound(failures)),
                Err(error @ PublishError::Worker(_)) => {
                    if let Some(staged) = staged.take() {
                        self.registry.discard(staged);
                    }
                    return Err(Refused::Worker(error));
                }
            }
        }
    }

    /// Gives clusters the addresses of their named endpoints, as far as they are known. Returns them as they were.
    async fn resolve(&mut self, snapshot: &mut Snapshot) -> Vec<(ClusterId, Arc<Cluster>)> {
        let ids = 0..ClusterId::MAX;
        let of_names = |(_, cluster): &(_, &Arc<Cluster>)| !cluster.names.is_empty();
        let named: Vec<_> =
            ids.zip(&snapshot.clusters).filter(of_names).map(|(id, cluster)| (id, Arc::clone(cluster))).collect();
        self.names.follow(named.iter().map(|(_, cluster)| cluster)).await;
        for (id, cluster) in &named {
            if let Some(place) = snapshot.clusters.get_mut(*id as usize) {
                let endpoints = self.names.endpoints(cluster);
                *place = Arc::new(Cluster { endpoints, ..Cluster::clone(cluster) });
            }
        }
        named
    }

    /// DNS has news: endpoints are exchanged, the rest of the configuration stays.
    async fn names_changed(&mut self) {
        let endpoints = self.named.iter().map(|(id, cluster)| (*id, self.names.endpoints(cluster)));
        match self.publisher.exchange_endpoints(endpoints.collect()).await {
            Ok(false) => {}
            Ok(true) => self.progress.send_modify(|progress| progress.endpoints += 1),
            Err(error) => tracing::error!(%error, "a worker has not acknowledged endpoints that the others use"),
        }
    }

    /// Shows what is wrong, and logs what was not wrong before.
    fn report(&self, mut problems: Vec<Problem>) {
        problems.sort_by(|a, b| (&a.file, a.line, &a.field).cmp(&(&b.file, b.line, &b.field)));
        problems.dedup();
        let known = self.problems.load();
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            match problem.level {
                Level::Error => tracing::error!("{problem}"),
                Level::Warning => tracing::warn!("{problem}"),
                Level::Info => tracing::info!("{problem}"),
            }
        }
        for _ in problems.iter().filter(|problem| problem.code == BEYOND_LIMIT && !known.contains(problem)) {
            self.telemetry.limit_exceeded(Limit::Configuration);
        }
        let count = |level| problems.iter().filter(|problem| problem.level == level).count();
        self.telemetry.set_config_problems(count(Level::Error), count(Level::Warning), count(Level::Info));
        self.problems.store(Arc::new(problems));
    }
}

async fn knocked(handover: Option<&Handover>) -> UnixStream {
    match handover {
        Some(handover) => handover.knocked().await,
        None => std::future::pending().await,
    }
}

/// Size, time and inode number of a file: cheap, and enough to look at it again.
fn state(path: &Path) -> Option<(u64, Option<std::time::SystemTime>, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok(), metadata.ino()))
}

fn explain(failure: &BindFailure) -> String {
    let BindFailure { listener, error } = failure;
    let advice = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process has it (`ss -ltnp` shows which); stop it, or choose another address with --bind"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need rights; use --privileged-ports offset, which binds port + 8000"
        }
        _ => "check the address, or choose another with --bind",
    };
    format!(
        "cannot listen on {} for port {} of {}: {error}; {advice}",
        listener.bind,
        listener.declared_port,
        listener.gateways.join(", "),
    )
}

fn problem(failure: &BindFailure) -> Problem {
    Problem {
        level: Level::Error,
        code: "GW0108",
        resource: failure.listener.gateways.first().map(|name| format!("Gateway {name}")).unwrap_or_default(),
        file: String::new(),
        line: 0,
        field: "spec.servers".to_owned(),
        message: explain(failure),
    }
}
