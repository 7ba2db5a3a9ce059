//! Which plugins there are, which version of each serves, and why.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use proxy_wasm_host::{Engine, PluginSettings, Shared, StartError};
use serde_json::{Value, json};

use super::{
    ApiError, Attached, Declaration, Digest, Limits, ModuleSource, Origin, PluginView, Spec, Staged, State, StoreError,
    VersionView,
    loader::{Loader, Source},
    order,
    settings::Settings,
    stage::host_variable,
    store::{Store, Upload},
};
use crate::{
    config::problem::{Level, Problem},
    snapshot::{Code, Plugin, PluginId},
};

/// All plugins as the admin API shows them, in chain order.
pub type Views = Arc<ArcSwap<Vec<PluginView>>>;

/// What a [`Registry`] needs to know.
pub struct RegistryOptions {
    /// Where uploads are kept; `None` keeps them in memory.
    pub data_dir: Option<PathBuf>,
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
}

/// All plugins and the versions of them that serve. Owned by the control task.
pub struct Registry {
    pub(super) namespace: String,
    pub(super) limits: Limits,
    pub(super) store: Store,
    pub(super) loader: Loader,
    shared: Shared,
    /// What serves since the last commit.
    live: HashMap<Key, Version>,
    /// Versions that could not be started, since when, and why.
    refused: HashMap<PluginId, (Instant, Failure)>,
    /// Names in the gateway's namespace that belong to resources, and where those stand.
    pub(super) declared: HashMap<String, String>,
    /// Uploads that safe mode holds back.
    held: HashSet<String>,
    files: Vec<PathBuf>,
    /// What was wrong with the store when it was opened.
    notes: Vec<String>,
    pub(super) views: Views,
}

/// How long a version that failed to start is held back before it is tried again with the next change.
const HOLD: Duration = Duration::from_secs(60);

/// A plugin and who declares it: what serves for an upload never stands in for a resource of its name.
type Key = (bool, String, String);

/// A version with its code.
#[derive(Clone)]
struct Version {
    id: PluginId,
    digest: Digest,
    bytes: u64,
    abi: String,
    code: proxy_wasm_host::Plugin,
}

/// Why a version cannot serve.
#[derive(Debug, Clone)]
struct Failure {
    /// Field of the spec it is about.
    field: &'static str,
    message: String,
}

/// Somebody who wants a plugin.
struct Candidate<'a> {
    declaration: Declaration,
    /// `None` for a resource.
    upload: Option<&'a Upload>,
    /// Why it is not even tried.
    refusal: Option<Failure>,
}

/// Every plugin as it would be: publish it, then [`Registry::commit`] it.
pub struct Resolved {
    /// What listeners run, in chain order.
    pub attached: Vec<Attached>,
    /// What is wrong with plugins.
    pub problems: Vec<Problem>,
    versions: HashMap<Key, Version>,
    /// Modules whose compiled form is worth keeping.
    digests: HashSet<Digest>,
    views: Vec<PluginView>,
}

impl Registry {
    /// Opens the store. Blocks for a moment; compiles nothing.
    ///
    /// # Errors
    /// Another gateway uses the data directory. One that cannot be written is no error: the log says so
    /// and uploads live in memory.
    pub fn new(options: RegistryOptions) -> Result<Self, StoreError> {
        let (store, notes) = Store::open(options.data_dir.as_deref())?;
        for note in &notes {
            tracing::warn!("{note}");
        }
        let held: HashSet<String> =
            if options.safe_mode { store.uploads().keys().cloned().collect() } else { HashSet::new() };
        if !held.is_empty() {
            tracing::warn!(uploads = held.len(), "safe mode: uploaded plugins do not run, whatever they protect");
        }
        Ok(Self {
            loader: Loader::new(options.engine, &options.limits),
            namespace: options.namespace,
            limits: options.limits,
            store,
            shared: options.shared,
            live: HashMap::new(),
            refused: HashMap::new(),
            declared: HashMap::new(),
            held,
            files: Vec::new(),
            // Keeping nothing on disk is a choice if no directory is given, else a problem.
            notes: if options.data_dir.is_some() { notes } else { Vec::new() },
            views: Views::default(),
        })
    }

    /// What the admin API shows; follows every commit.
    #[must_use]
    pub fn views(&self) -> Views {
        Arc::clone(&self.views)
    }

    /// Files of other people that plugins are loaded from: resolve again when one changes.
    #[must_use]
    pub fn watched_files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Works out every plugin from what resources declare and from the uploads, `staged` included.
    ///
    /// Reads and compiles modules, so it may take long; changes nothing that serves. A version that
    /// cannot be loaded or was refused leaves the one before in place, if there is one.
    pub async fn resolve(&mut self, declared: &[Declaration], staged: Option<&Staged>) -> Resolved {
        self.declared = declared
            .iter()
            .filter(|plugin| plugin.namespace == self.namespace)
            .map(|plugin| (plugin.name.clone(), plugin.place().to_owned()))
            .collect();
        self.files = declared.iter().filter_map(|plugin| plugin.file().map(Path::to_owned)).collect();
        self.refused.retain(|_, (since, _)| since.elapsed() < HOLD);

        let mut resolved = Resolved {
            attached: Vec::new(),
            problems: self.notes.iter().map(|note| upload_problem(Level::Warning, "", note.clone())).collect(),
            versions: HashMap::new(),
            digests: HashSet::new(),
            views: Vec::new(),
        };
        let uploads = staged.and_then(Staged::uploads).unwrap_or(self.store.uploads()).clone();
        let mut candidates: Vec<Candidate<'_>> = declared
            .iter()
            .map(|plugin| Candidate { declaration: plugin.clone(), upload: None, refusal: None })
            .collect();
        for (name, upload) in &uploads {
            if let Some(place) = self.declared.get(name) {
                let message = format!("the WasmPlugin of the same name ({place}) takes its place; rename or remove one of them");
                resolved.problems.push(upload_problem(Level::Warning, &format!("{}/{name}", self.namespace), message));
                continue;
            }
            candidates.push(self.candidate(name, upload));
        }
        candidates.sort_by(|one, other| order::compare(&one.declaration, &other.declaration));
        for candidate in &candidates {
            let held = candidate.upload.is_some()
                && self.held.contains(&candidate.declaration.name)
                && staged.is_none_or(|staged| staged.name != candidate.declaration.name);
            self.resolve_one(candidate, held, &mut resolved).await;
        }
        resolved
    }

    /// Takes note that a version could not be started, so that [`Registry::resolve`] leaves it out.
    pub fn refuse(&mut self, id: PluginId, error: &StartError) {
        let failure = Failure { field: start_field(error), message: error.to_string() };
        self.refused.insert(id, (Instant::now(), failure));
    }

    /// Makes what was published the state from which the next change starts.
    ///
    /// # Errors
    /// 500 if the disk failed in the very last step: the change serves, but is gone after a restart.
    pub fn commit(&mut self, resolved: Resolved, staged: Option<Staged>) -> Result<(), ApiError> {
        self.live = resolved.versions;
        self.views.store(Arc::new(resolved.views));
        let files = self.files.iter().map(PathBuf::as_path).collect();
        self.loader.retain(&resolved.digests, &files);
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
    }

    fn candidate<'a>(&self, name: &str, upload: &'a Upload) -> Candidate<'a> {
        let (settings, refusal) = match Settings::parse(&upload.settings, host_variable) {
            Ok(settings) => (settings, None),
            Err(error) => (Settings::default(), Some(Failure { field: "settings", message: error.to_string() })),
        };
        let declaration = Declaration {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            origin: Origin::Upload,
            source: ModuleSource::Stored(upload.digest.to_string()),
            sha256: None,
            root_id: settings.root_id,
            configuration: settings.configuration,
            environment: settings.environment,
            phase: settings.phase,
            priority: settings.priority,
            fail_strategy: settings.fail_strategy,
            ports: settings.ports,
            root_namespace: false,
            created: upload.created.clone(),
        };
        Candidate { declaration, upload: Some(upload), refusal }
    }

    async fn resolve_one(&mut self, candidate: &Candidate<'_>, held: bool, resolved: &mut Resolved) {
        let declaration = &candidate.declaration;
        let key = (candidate.upload.is_some(), declaration.namespace.clone(), declaration.name.clone());
        if held {
            let failure = Failure { field: "", message: "held back by safe mode; send it again or restart without --safe-mode".into() };
            resolved.views.push(view(candidate, None, Some(&failure)));
            return;
        }
        let (version, failure) = match self.wanted(candidate, &key, &mut resolved.digests).await {
            Ok(version) => (Some(version), None),
            Err(failure) => (self.live.get(&key).cloned(), Some(failure)),
        };
        if let Some(failure) = &failure {
            resolved.problems.push(problem(declaration, failure, version.as_ref()));
        }
        resolved.views.push(view(candidate, version.as_ref(), failure.as_ref()));
        let reason = || failure.map(|failure| failure.message).unwrap_or_default();
        let (id, code) = match &version {
            Some(version) => (version.id, Code::Loaded(version.code.clone())),
            None => (order::unavailable(declaration), Code::Unavailable { reason: reason() }),
        };
        let plugin = Plugin {
            id,
            namespace: declaration.namespace.clone(),
            name: declaration.name.clone(),
            digest: version.as_ref().map(|version| version.digest.with_algorithm()).unwrap_or_default(),
            phase: declaration.phase,
            priority: declaration.priority,
            fail_strategy: declaration.fail_strategy,
            code,
        };
        resolved.attached.push(Attached { plugin: Arc::new(plugin), ports: declaration.ports.clone() });
        if let Some(version) = version {
            resolved.digests.insert(version.digest);
            resolved.versions.insert(key, version);
        }
    }

    /// The version that was asked for.
    async fn wanted(
        &mut self,
        candidate: &Candidate<'_>,
        key: &Key,
        digests: &mut HashSet<Digest>,
    ) -> Result<Version, Failure> {
        if let Some(refusal) = &candidate.refusal {
            return Err(refusal.clone());
        }
        let declaration = &candidate.declaration;
        let source = match (&declaration.source, candidate.upload) {
            (ModuleSource::File(path), _) => Source::File(path.clone()),
            (ModuleSource::Unsupported(url), _) => {
                let message = format!("{url}: modules are not fetched in this version; use file:// or upload the module");
                return Err(Failure { field: "url", message });
            }
            (ModuleSource::Stored(_), Some(upload)) => Source::Stored(upload.digest, self.store.blob(&upload.digest)),
            (ModuleSource::Stored(name), None) => {
                let digest = name.parse().map_err(|why| Failure { field: "url", message: format!("{name:?}: {why}") })?;
                Source::Stored(digest, self.store.blob(&digest))
            }
        };
        let loaded = self.loader.load(&source).await;
        let loaded = loaded.map_err(|error| Failure { field: "url", message: format!("{} ({})", error.message, error.code) })?;
        digests.insert(loaded.digest);
        if let Some(expected) = declaration.sha256.as_ref().filter(|expected| **expected != loaded.digest.to_string()) {
            let message = format!("the module's sha256 is {}, not {expected} (module-digest)", loaded.digest);
            return Err(Failure { field: "sha256", message });
        }
        let id = order::version(declaration, loaded.digest, &self.limits.running);
        if let Some((_, failure)) = self.refused.get(&id) {
            return Err(failure.clone());
        }
        if let Some(version) = self.live.get(key).filter(|version| version.id == id) {
            return Ok(version.clone());
        }
        // Istio's name for it, and Istio's vm_id: none.
        let name = format!("{}.{}", declaration.namespace, declaration.name);
        let settings = PluginSettings {
            root_id: declaration.root_id.clone(),
            configuration: declaration.configuration.clone(),
            environment: declaration.environment.clone(),
            limits: self.limits.running.clone(),
            ..PluginSettings::new(name)
        };
        Ok(Version {
            id,
            digest: loaded.digest,
            bytes: loaded.bytes,
            abi: loaded.module.abi().to_string(),
            code: proxy_wasm_host::Plugin::new(loaded.module, settings, self.shared.clone()),
        })
    }
}

impl Declaration {
    /// Where it stands, for people.
    fn place(&self) -> &str {
        match &self.origin {
            Origin::Resource(place) => place,
            Origin::Upload => "upload",
        }
    }

    fn file(&self) -> Option<&Path> {
        match &self.source {
            ModuleSource::File(path) => Some(path),
            ModuleSource::Unsupported(_) | ModuleSource::Stored(_) => None,
        }
    }
}

impl From<&StartError> for ApiError {
    /// 422: the plugin's start-up code or configuration is refused.
    fn from(error: &StartError) -> Self {
        Self::new(422, error.code(), error.to_string()).at(start_field(error))
    }
}

/// What of a plugin is to blame if it does not start.
fn start_field(error: &StartError) -> &'static str {
    if error.code() == "plugin-configuration-refused" { "pluginConfig" } else { "module" }
}

fn problem(declaration: &Declaration, failure: &Failure, instead: Option<&Version>) -> Problem {
    let consequence = match instead {
        Some(version) => format!("the version before, {}, keeps serving", version.digest.with_algorithm()),
        None => format!("its requests are treated by {}", declaration.fail_strategy.as_str()),
    };
    let message = format!("plugin cannot be used: {}; {consequence}", failure.message);
    match &declaration.origin {
        Origin::Upload => upload_problem(Level::Error, &format!("{}/{}", declaration.namespace, declaration.name), message),
        Origin::Resource(place) => {
            let (file, line) = match place.rsplit_once(':').map(|(file, line)| (file, line.parse())) {
                Some((file, Ok(line))) => (file, line),
                _ => (place.as_str(), 0),
            };
            Problem {
                level: Level::Error,
                code: "GW0301",
                resource: format!("WasmPlugin {}/{}", declaration.namespace, declaration.name),
                file: file.to_owned(),
                line,
                field: format!("spec.{}", if failure.field == "module" { "url" } else { failure.field }),
                message,
            }
        }
    }
}

fn upload_problem(level: Level, name: &str, message: String) -> Problem {
    let resource = if name.is_empty() { String::new() } else { format!("Upload {name}") };
    let code = if level == Level::Error { "GW0301" } else { "GW0302" };
    Problem { level, code, resource, file: "uploads".into(), line: 0, field: String::new(), message }
}

fn view(candidate: &Candidate<'_>, version: Option<&Version>, failure: Option<&Failure>) -> PluginView {
    let declaration = &candidate.declaration;
    let (digest, bytes) = match (version, candidate.upload) {
        (Some(version), _) => (version.digest.with_algorithm(), version.bytes),
        (None, Some(upload)) => (upload.digest.with_algorithm(), upload.bytes),
        (None, None) => (String::new(), 0),
    };
    let versions = match candidate.upload {
        Some(upload) => upload
            .versions
            .iter()
            .map(|version| VersionView { digest: version.digest.with_algorithm(), time: version.time.clone() })
            .collect(),
        None => version
            .iter()
            .map(|version| VersionView { digest: version.digest.with_algorithm(), time: declaration.created.clone() })
            .collect(),
    };
    PluginView {
        name: declaration.name.clone(),
        namespace: declaration.namespace.clone(),
        source: declaration.file().map_or_else(|| "upload".to_owned(), |path| format!("file://{}", path.display())),
        digest,
        bytes,
        abi: version.map(|version| version.abi.clone()).unwrap_or_default(),
        phase: declaration.phase.as_str(),
        priority: declaration.priority,
        fail_strategy: declaration.fail_strategy.as_str(),
        settings: candidate.upload.map_or_else(|| spec(declaration), |upload| upload.settings.clone()),
        state: if version.is_some() { State::Live } else { State::Failed },
        reason: failure.map(|failure| failure.message.clone()).unwrap_or_default(),
        versions,
    }
}

/// What a resource set, in the form of WasmPlugin's spec.
fn spec(declaration: &Declaration) -> Spec {
    let mut spec = Spec::new();
    if !declaration.root_id.is_empty() {
        spec.insert("pluginName".into(), declaration.root_id.clone().into());
    }
    if let Ok(configuration) = serde_json::from_slice::<Value>(&declaration.configuration) {
        spec.insert("pluginConfig".into(), configuration);
    }
    if !declaration.environment.is_empty() {
        let names: Vec<_> = declaration.environment.iter().map(|(name, _)| json!({ "name": name })).collect();
        spec.insert("vmConfig".into(), json!({ "env": names }));
    }
    if !declaration.ports.is_empty() {
        let ports: Vec<_> = declaration.ports.iter().map(|port| json!({ "number": port })).collect();
        spec.insert("match".into(), json!([{ "ports": ports }]));
    }
    if let Some(sha256) = &declaration.sha256 {
        spec.insert("sha256".into(), sha256.clone().into());
    }
    spec
}
