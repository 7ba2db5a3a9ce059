//! Every plugin as it would be: what is declared and uploaded, in chain order, each with code to run or the
//! reason why there is none.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use proxy_wasm_host::PluginSettings;

use super::{
    Attached, Contents, Declaration, Digest, ModuleSource, Origin, PluginView, Remote, Staged,
    fetch::Availability,
    loader::{Loaded, Source},
    order,
    problem::{hidden_upload, store_note, unusable},
    registry::Registry,
    settings::{Settings, host_variable},
    time::rfc3339,
    upload::Upload,
};
use crate::{
    config::problem::{Level, Problem},
    snapshot::{Code, Plugin, PluginId},
};

/// A plugin and who declares it: what serves for an upload never stands in for a resource of its name.
pub(super) type Key = (&'static str, String, String);

/// A version with its code.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) id: PluginId,
    /// When it was first made, RFC 3339.
    pub(super) since: String,
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    /// What the module declares.
    pub(super) contents: Arc<Contents>,
    pub(super) code: proxy_wasm_host::Plugin,
}

/// Why a version cannot serve.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Field of the spec it is about.
    pub(super) field: &'static str,
    pub(super) message: String,
    pub(super) cause: Cause,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The module or its settings are no good.
    Refused,
    /// The module has not come yet.
    Fetching,
    /// The module could not be fetched; that is tried again.
    NotFetched,
    /// This version did not start; that is tried again.
    HeldBack(PluginId),
}

/// Somebody who wants a plugin.
pub(super) struct Candidate<'a> {
    pub(super) declaration: Declaration,
    /// `None` for a resource.
    pub(super) upload: Option<&'a Upload>,
    /// Why it is not even tried.
    pub(super) refusal: Option<Failure>,
}

/// Every plugin as it would be: publish it, then [`Registry::commit`] it.
pub struct Resolved {
    /// What listeners run, in chain order.
    pub attached: Vec<Attached>,
    /// What is wrong with plugins.
    pub problems: Vec<Problem>,
    pub(super) versions: HashMap<Key, Version>,
    /// Versions that would serve if they started.
    pub(super) held_back: HashSet<PluginId>,
    /// Modules whose compiled form is worth keeping.
    pub(super) digests: HashSet<Digest>,
    pub(super) views: Vec<PluginView>,
}

impl Resolved {
    /// Has every plugin show the warnings among `problems` that are about it.
    pub fn warn(&mut self, problems: &[Problem]) {
        for view in &mut self.views {
            let about = |problem: &&Problem| problem.level == Level::Warning && problem.resource == view.resource;
            let text = |problem: &Problem| match problem.field.as_str() {
                "" => problem.message.clone(),
                field => format!("{field}: {}", problem.message),
            };
            view.warnings = problems.iter().filter(about).map(text).collect();
        }
    }
}

impl Registry {
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
        self.forget_old_refusals();
        self.fetcher.retain(declared.iter().map(Declaration::key));

        let mut resolved = Resolved {
            attached: Vec::new(),
            problems: self.notes.iter().map(|note| store_note(note)).collect(),
            versions: HashMap::new(),
            held_back: HashSet::new(),
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
                resolved.problems.push(hidden_upload(&self.namespace, name, place));
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

    /// An upload as one that wants a plugin.
    pub(super) fn candidate<'a>(&self, name: &str, upload: &'a Upload) -> Candidate<'a> {
        let (settings, refusal) = match Settings::parse(&upload.current.settings, host_variable) {
            Ok(settings) => (settings, None),
            Err(error) => (Settings::default(), Some(Failure::new("settings", error.to_string()))),
        };
        let declaration = Declaration::of_upload(&self.namespace, name, upload, settings);
        Candidate { declaration, upload: Some(upload), refusal }
    }

    async fn resolve_one(&mut self, candidate: &Candidate<'_>, held: bool, resolved: &mut Resolved) {
        let declaration = &candidate.declaration;
        let key = candidate.key();
        if candidate.upload.is_some_and(|upload| upload.disabled) {
            resolved.views.push(PluginView::new(candidate, None, None));
            return;
        }
        if held {
            let message = "held back by safe mode; send it again or restart without --safe-mode";
            let failure = Failure::new("", message);
            resolved.views.push(PluginView::new(candidate, None, Some(&failure)));
            return;
        }
        let (plugin, version, failure) = self.serving(candidate, key, resolved).await;
        let mut view = PluginView::new(candidate, version.as_ref(), failure.as_ref());
        let mut overrides = Vec::with_capacity(declaration.terms.overrides.len());
        for (index, other) in declaration.terms.overrides.iter().enumerate() {
            let variant = Candidate {
                declaration: Declaration { configuration: other.configuration.clone(), ..declaration.clone() },
                upload: candidate.upload,
                refusal: candidate.refusal.clone(),
            };
            let mut key = candidate.key();
            // No name of a resource has such an end.
            key.2 = format!("{}/{index}", key.2);
            let (plugin, version, failure) = self.serving(&variant, key, resolved).await;
            view.add_versions(version.as_ref(), failure.as_ref());
            overrides.push((other.scope.clone(), plugin));
        }
        resolved.views.push(view);
        let (ports, scope) = (declaration.ports.clone(), declaration.terms.scope.clone());
        let origin = declaration.origin.clone();
        resolved.attached.push(Attached { plugin, origin, ports, scope, overrides });
    }

    /// What serves for a candidate: the version that it asks for, or else the one before or none, and why.
    async fn serving(
        &mut self,
        candidate: &Candidate<'_>,
        key: Key,
        resolved: &mut Resolved,
    ) -> (Arc<Plugin>, Option<Version>, Option<Failure>) {
        let declaration = &candidate.declaration;
        let (version, failure) = match self.wanted(candidate, &key, &mut resolved.digests).await {
            Ok(version) => (Some(version), None),
            Err(failure) => match self.live.get(&key).cloned() {
                Some(before) => (Some(before), Some(failure)),
                None => (self.stand_in(candidate, &key, &failure).await, Some(failure)),
            },
        };
        if let Some(failure) = &failure {
            resolved.problems.push(unusable(declaration, failure, version.as_ref()));
            if let Cause::HeldBack(id) = failure.cause {
                resolved.held_back.insert(id);
            }
        }
        let (id, code) = match &version {
            Some(version) => (version.id, Code::Loaded(version.code.clone())),
            None => {
                let reason = failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
                (order::unavailable(declaration), Code::Unavailable { reason })
            }
        };
        let plugin = Plugin {
            id,
            namespace: declaration.namespace.clone(),
            name: declaration.name.clone(),
            digest: version.as_ref().map(|version| version.digest.with_algorithm()).unwrap_or_default(),
            phase: declaration.phase,
            priority: declaration.priority,
            network: declaration.network,
            fail_strategy: declaration.fail_strategy,
            code,
        };
        if let Some(version) = &version {
            resolved.digests.insert(version.digest);
            resolved.versions.insert(key, version.clone());
        }
        (Arc::new(plugin), version, failure)
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
            (ModuleSource::Stored(_), Some(upload)) => {
                Source::Stored(upload.current.digest, self.store.blob(&upload.current.digest))
            }
            (ModuleSource::Stored(name), None) => {
                let digest = name.parse().map_err(|why| Failure::new("url", format!("{name:?}: {why}")))?;
                Source::Stored(digest, self.store.blob(&digest))
            }
            (ModuleSource::Remote(remote), _) => self.fetched_source(key, remote)?,
        };
        let loaded = match self.loader.load(&source).await {
            // Somebody removed or damaged what was fetched.
            Err(error) if error.code == "module-lost" && matches!(source, Source::Fetched(..)) => {
                self.fetcher.lost(key);
                return Err(Failure { cause: Cause::Fetching, ..Failure::new("url", error.message) });
            }
            loaded => loaded.map_err(|error| Failure::new("url", format!("{} ({})", error.message, error.code)))?,
        };
        digests.insert(loaded.digest);
        // What is fetched was compared then, as what the digest is of depends on the kind of URL.
        let expected = declaration.sha256.as_ref().filter(|_| !matches!(source, Source::Fetched(..)));
        if let Some(expected) = expected.filter(|expected| **expected != loaded.digest.to_string()) {
            let message = format!("the module's sha256 is {}, not {expected} (module-digest)", loaded.digest);
            return Err(Failure::new("sha256", message));
        }
        let version = self.version(declaration, key, loaded);
        match self.refusal(version.id) {
            Some(failure) => Err(failure.clone()),
            None => Ok(version),
        }
    }

    /// Where a module is that has been fetched.
    fn fetched_source(&mut self, key: &Key, remote: &Remote) -> Result<Source, Failure> {
        match self.fetcher.want(key, remote) {
            Availability::Here(digest, blob) => Ok(Source::Fetched(digest, blob)),
            Availability::Fetching => {
                let message = format!("{} is being fetched", remote.shown());
                Err(Failure { cause: Cause::Fetching, ..Failure::new("url", message) })
            }
            Availability::Failed(error) => {
                Err(Failure { cause: Cause::NotFetched, ..Failure::new(error.field, error.to_string()) })
            }
        }
    }

    /// After a restart, what was fetched from the same place before, if that place does not answer now.
    async fn stand_in(&mut self, candidate: &Candidate<'_>, key: &Key, failure: &Failure) -> Option<Version> {
        let ModuleSource::Remote(remote) = &candidate.declaration.source else { return None };
        if failure.cause != Cause::NotFetched {
            return None;
        }
        let (digest, blob) = self.fetcher.kept(remote)?;
        let loaded = self.loader.load(&Source::Fetched(digest, blob)).await.ok()?;
        let version = self.version(&candidate.declaration, key, loaded);
        self.refusal(version.id).is_none().then_some(version)
    }

    /// The version that `declaration` makes of a module; the one that serves, if it is that.
    pub(super) fn version(&self, declaration: &Declaration, key: &Key, loaded: Loaded) -> Version {
        let limits = declaration.terms.budgets.apply(self.limits.running.clone());
        let id = order::version(declaration, loaded.digest, &limits);
        if let Some(version) = self.live.get(key).filter(|version| version.id == id) {
            return version.clone();
        }
        let settings = declaration.start_settings(&self.limits.running);
        Version {
            id,
            since: rfc3339(SystemTime::now()),
            digest: loaded.digest,
            bytes: loaded.bytes,
            contents: loaded.contents,
            code: proxy_wasm_host::Plugin::new(loaded.module, settings, self.shared.clone()),
        }
    }
}

impl Failure {
    /// The module or its settings are no good.
    pub(super) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { field, message: message.into(), cause: Cause::Refused }
    }
}

impl Candidate<'_> {
    pub(super) fn key(&self) -> Key {
        self.declaration.key()
    }
}

impl Declaration {
    /// What an upload with these settings declares.
    pub(super) fn of_upload(namespace: &str, name: &str, upload: &Upload, settings: Settings) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            origin: Origin::Upload,
            source: ModuleSource::Stored(upload.current.digest.to_string()),
            sha256: None,
            root_id: settings.root_id,
            configuration: settings.configuration,
            environment: settings.environment,
            phase: settings.phase,
            priority: settings.priority,
            network: settings.network,
            fail_strategy: settings.fail_strategy,
            ports: settings.ports,
            root_namespace: false,
            created: upload.created.clone(),
            terms: settings.terms,
        }
    }

    /// What instances are made with.
    pub(super) fn start_settings(&self, limits: &proxy_wasm_host::Limits) -> PluginSettings {
        PluginSettings {
            root_id: self.root_id.clone(),
            configuration: self.configuration.clone(),
            environment: self.environment.clone(),
            limits: self.terms.budgets.apply(limits.clone()),
            isolation: self.terms.isolation,
            allowed_capabilities: self.terms.allowed_capabilities.clone(),
            // Istio's name for it, and Istio's vm_id: none.
            ..PluginSettings::new(format!("{}.{}", self.namespace, self.name))
        }
    }

    /// What it is known by.
    pub(super) fn key(&self) -> Key {
        let kind = match &self.origin {
            Origin::Resource { kind, .. } => kind,
            Origin::Upload => "upload",
        };
        (kind, self.namespace.clone(), self.name.clone())
    }

    /// Where it stands, for people.
    pub(super) fn place(&self) -> &str {
        match &self.origin {
            Origin::Resource { place, .. } => place,
            Origin::Upload => "upload",
        }
    }

    /// The file of somebody else that it is loaded from.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.source {
            ModuleSource::File(path) => Some(path),
            ModuleSource::Stored(_) | ModuleSource::Remote(_) => None,
        }
    }

    /// The URL of its module, or `upload`.
    pub(super) fn url(&self) -> String {
        match &self.source {
            ModuleSource::File(path) => format!("file://{}", path.display()),
            ModuleSource::Remote(remote) => remote.url.clone(),
            ModuleSource::Stored(_) => "upload".to_owned(),
        }
    }
}
