//! Which plugins there are, which version of each serves, and why.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use proxy_wasm_host::{Engine, Shared, StartError};

use super::{
    ApiError, Declaration, Digest, FetchCounters, HeldBack, Limits, ModuleSource, PluginView, Resolved, Sources,
    Staged, StoreError,
    fetch::Fetcher,
    loader::Loader,
    resolve::{Cause, Failure, Key, Version},
    store::Store,
};
use crate::snapshot::{Plugin, PluginId};

/// All plugins as the admin API shows them, in chain order.
pub type Views = Arc<ArcSwap<Vec<PluginView>>>;

/// What a [`Registry`] needs to know.
pub struct RegistryOptions {
    /// Where uploads are kept; `None` keeps them in memory.
    pub data_dir: Option<PathBuf>,
    /// The lock of that directory, if the process that we take over from has it.
    pub lock: Option<File>,
    /// The gateway's namespace, in which uploads live.
    pub namespace: String,
    /// Start without the uploads that the data directory holds. They are listed and can be deleted or
    /// sent again.
    pub safe_mode: bool,
    /// Compiles modules.
    pub engine: Engine,
    /// What instances share.
    pub shared: Shared,
    /// How much plugins may take up.
    pub limits: Limits,
    /// Which versions do not start.
    pub held_back: HeldBack,
    /// Whom modules are fetched from.
    pub sources: Sources,
}

/// All plugins and the versions of them that serve. Owned by the control task.
pub struct Registry {
    pub(super) namespace: String,
    pub(super) limits: Limits,
    pub(super) store: Store,
    pub(super) loader: Loader,
    pub(super) fetcher: Fetcher,
    pub(super) shared: Shared,
    /// What serves since the last commit.
    pub(super) live: HashMap<Key, Version>,
    /// Versions that could not be started, and why, for as long as they are held back.
    refused: HashMap<PluginId, Failure>,
    held_back: HeldBack,
    /// Names in the gateway's namespace that belong to resources, and where those stand.
    pub(super) declared: HashMap<String, String>,
    /// Uploads that safe mode holds back.
    pub(super) held: HashSet<String>,
    pub(super) files: Vec<PathBuf>,
    /// Modules whose compiled form is kept between changes.
    kept: HashSet<Digest>,
    /// What was wrong with the store when it was opened.
    pub(super) notes: Vec<String>,
    pub(super) views: Views,
}

impl Registry {
    /// Opens the store. Blocks for a moment; compiles nothing.
    ///
    /// # Errors
    /// Another gateway uses the data directory. One that cannot be written is no error: the log says so
    /// and uploads live in memory.
    pub fn new(options: RegistryOptions) -> Result<Self, StoreError> {
        let (store, notes) = Store::open(options.data_dir.as_deref(), options.lock)?;
        for note in &notes {
            tracing::warn!("{note}");
        }
        let held: HashSet<String> =
            if options.safe_mode { store.uploads().keys().cloned().collect() } else { HashSet::new() };
        if !held.is_empty() {
            tracing::warn!(uploads = held.len(), "safe mode: uploaded plugins do not run, whatever they protect");
        }
        Ok(Self {
            loader: Loader::new(options.engine, &options.limits, store.folder()),
            fetcher: Fetcher::new(store.folder(), &options.limits, options.sources),
            namespace: options.namespace,
            limits: options.limits,
            store,
            shared: options.shared,
            live: HashMap::new(),
            refused: HashMap::new(),
            held_back: options.held_back,
            declared: HashMap::new(),
            held,
            files: Vec::new(),
            kept: HashSet::new(),
            // Keeping nothing on disk is a choice if no directory is given, else a problem.
            notes: if options.data_dir.is_some() { notes } else { Vec::new() },
            views: Views::default(),
        })
    }

    /// The lock of the data directory, if there is one: whoever has it may change what is in there.
    #[must_use]
    pub fn lock(&self) -> Option<&File> {
        self.store.lock()
    }

    /// What the admin API shows; follows every commit.
    #[must_use]
    pub fn views(&self) -> Views {
        Arc::clone(&self.views)
    }

    /// What fetching modules has come to.
    #[must_use]
    pub fn fetch_counters(&self) -> FetchCounters {
        self.fetcher.counters()
    }

    /// Starts to fetch whatever `declared` needs and waits until each has been fetched, or a first try has failed; no
    /// longer than [`Limits::first_fetches`].
    pub async fn fetch_first(&mut self, declared: &[Declaration]) {
        for declaration in declared {
            if let ModuleSource::Remote(remote) = &declaration.source {
                self.fetcher.want(&declaration.key(), remote);
            }
        }
        let settled = async {
            while self.fetcher.is_busy() {
                self.fetcher.changed().await;
            }
        };
        if tokio::time::timeout(self.limits.first_fetches, settled).await.is_err() {
            tracing::error!("modules of plugins are still being fetched; starting without them, by their failStrategy");
        }
    }

    /// Returns when a module has come, or could not be fetched, or when it is time to try again what did not start:
    /// resolve again then.
    pub async fn changed(&mut self) {
        let due = self.refused.keys().map(|id| self.held_back.due(*id)).min();
        let due = async {
            match due {
                Some(Some(due)) => tokio::time::sleep_until(due).await,
                Some(None) => {}
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.fetcher.changed() => {}
            () = due => {}
        }
    }

    /// Files of other people that plugins are loaded from: resolve again when one changes.
    #[must_use]
    pub fn watched_files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Takes note that a version could not be started, so that [`Registry::resolve`] leaves it out. Returns for how long.
    pub fn refuse(&mut self, plugin: &Plugin, error: &StartError) -> Duration {
        let name = format!("{}.{}", plugin.namespace, plugin.name);
        let wait = self.held_back.add(plugin.id, &name, error.to_string());
        let cause = Cause::HeldBack(plugin.id);
        self.refused.insert(plugin.id, Failure { cause, ..Failure::new(start_field(error), error.to_string()) });
        wait
    }

    /// Makes what was published the state from which the next change starts.
    ///
    /// # Errors
    /// 500 if the disk failed in the very last step: the change serves, but is gone after a restart.
    pub fn commit(&mut self, mut resolved: Resolved, staged: Option<Staged>) -> Result<(), ApiError> {
        let served: HashSet<PluginId> = self.live.values().map(|version| version.id).collect();
        self.live = resolved.versions;
        let live: HashSet<PluginId> = self.live.values().map(|version| version.id).collect();
        self.refused.retain(|id, _| resolved.held_back.contains(id));
        // What serves for the first time has just been started.
        self.held_back
            .retain(|id| if live.contains(&id) { served.contains(&id) } else { self.refused.contains_key(&id) });
        // Found out when its instances were made.
        for view in &mut resolved.views {
            view.add_isolation(self.live.values());
        }
        self.views.store(Arc::new(resolved.views));
        self.kept = resolved.digests;
        self.forget_unused();
        let Some(staged) = staged else { return Ok(()) };
        self.held.remove(&staged.name);
        let Some(prepared) = staged.prepared else { return Ok(()) };
        self.store.commit(prepared).map_err(|error| {
            let message = format!("the change is in effect, but will be gone after a restart: {error}; check the data directory and send it again");
            ApiError::new(500, "not-kept", message)
        })
    }

    /// Undoes [`Registry::stage`].
    pub fn discard(&mut self, staged: Staged) {
        if let Some(prepared) = staged.prepared {
            self.store.discard(prepared);
        }
        self.forget_unused();
    }

    /// Why a version is held back.
    pub(super) fn refusal(&self, id: PluginId) -> Option<&Failure> {
        self.refused.get(&id)
    }

    /// It was tried again and does start.
    pub(super) fn forget_refusal(&mut self, id: PluginId) {
        if self.refused.remove(&id).is_some() {
            self.held_back.forget(id);
        }
    }

    /// Those whose time has come are tried again.
    pub(super) fn forget_old_refusals(&mut self) {
        self.refused.retain(|id, _| self.held_back.due(*id).is_some());
    }

    /// Frees what was compiled for a change that did not come about, or is not used any more.
    pub(super) fn forget_unused(&mut self) {
        let files = self.files.iter().map(PathBuf::as_path).collect();
        self.loader.retain(&self.kept, &files);
        self.fetcher.sweep();
    }
}

impl From<&StartError> for ApiError {
    /// 422: the plugin's start-up code or configuration is refused. 503: there is no room for more instances.
    fn from(error: &StartError) -> Self {
        let status = if error.code() == "plugin-instances-exhausted" { 503 } else { 422 };
        let field = match start_field(error) {
            "url" => "module",
            field => field,
        };
        Self::new(status, error.code(), error.to_string()).at(field)
    }
}

/// The field of WasmPlugin's spec that is to blame if a plugin does not start.
fn start_field(error: &StartError) -> &'static str {
    if error.code() == "plugin-configuration-refused" { "pluginConfig" } else { "url" }
}
