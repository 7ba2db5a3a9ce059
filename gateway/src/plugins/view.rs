//! What the admin API shows of a plugin.

use std::{borrow::Cow, cmp::Reverse, sync::Arc};

use proxy_wasm_host::{FreshWay, Isolation};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Contents, Declaration, HeldBack, Spec,
    resolve::{Candidate, Cause, Failure, Version},
    time::rfc3339,
    upload::{self, Upload},
};
use crate::snapshot::PluginId;

/// One plugin as `GET /plugins/{name}` shows it, without what changes from request to request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginView {
    /// Name of the resource or upload.
    pub name: String,
    /// Namespace of the resource; uploads live in the gateway's.
    pub namespace: String,
    /// `upload`, or the URL of the module.
    pub source: String,
    /// `sha256:…` of the module that serves; of the one that should if none does; empty if that cannot be read.
    pub digest: String,
    /// Size of that module; 0 if it is unknown.
    pub bytes: u64,
    /// ABI version that the module declares; empty if there is none that serves.
    pub abi: String,
    /// What that module declares. Only shown where one plugin is shown in detail.
    #[serde(skip)]
    pub module: Option<Arc<Contents>>,
    /// Place in the chain.
    pub phase: &'static str,
    /// Order within the phase; `null` is last.
    pub priority: Option<i32>,
    /// What happens to requests when the plugin cannot do its work.
    pub fail_strategy: &'static str,
    /// How every request gets an instance of its own, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// Everything that was set, in the form of WasmPlugin's spec. Values of environment variables are
    /// shown only where they stand in the upload itself.
    pub settings: Spec,
    /// Whether it serves.
    pub state: State,
    /// Why it does not serve, or why an older version does. Empty if all is well.
    pub reason: String,
    /// What about it was probably not meant.
    pub warnings: Vec<String>,
    /// When what did not start is tried again, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<String>,
    /// Its versions that serve, and those that would if they started.
    #[serde(skip)]
    versions_to_start: Vec<PluginId>,
    /// What problems name it by.
    #[serde(skip)]
    pub(super) resource: String,
    /// Versions of this upload that are kept, the newest first. For resources the current one.
    pub versions: Vec<VersionView>,
}

/// Whether a plugin serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its instances run on all workers.
    Live,
    /// Its module is on the way; until then requests are treated by its failStrategy.
    Fetching,
    /// It does not run; requests are treated by its failStrategy (or pass by it in safe mode).
    Failed,
    /// Somebody took it out of the chain.
    Disabled,
    /// New instances, to replace crashed ones or for an override, do not start. Requests that find none are treated by its
    /// failStrategy; it is tried again.
    #[serde(rename = "held-back")]
    HeldBack,
}

/// A version that a plugin has or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionView {
    /// `sha256:…` of its module.
    pub digest: String,
    /// Since when there is this version, RFC 3339.
    pub time: String,
    /// What to call it; only uploads have numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Whether it is the one in use.
    pub current: bool,
}

impl PluginView {
    /// What is shown of a plugin that runs `version`, or none; `failure` says why not the one that is wanted.
    pub(super) fn new(candidate: &Candidate<'_>, version: Option<&Version>, failure: Option<&Failure>) -> Self {
        let declaration = &candidate.declaration;
        let (digest, bytes) = match (version, candidate.upload) {
            (Some(version), _) => (version.digest.with_algorithm(), version.bytes),
            (None, Some(upload)) => (upload.current.digest.with_algorithm(), upload.current.bytes),
            (None, None) => (String::new(), 0),
        };
        let mut view = Self {
            name: declaration.name.clone(),
            namespace: declaration.namespace.clone(),
            source: declaration.url(),
            digest,
            bytes,
            abi: version.and_then(|version| version.contents.abi.clone()).unwrap_or_default(),
            module: version.map(|version| Arc::clone(&version.contents)),
            phase: declaration.phase.as_str(),
            priority: declaration.priority,
            fail_strategy: declaration.fail_strategy.as_str(),
            isolation: None,
            settings: candidate.upload.map_or_else(|| spec(declaration), |upload| upload.current.settings.clone()),
            state: match (version, failure) {
                (Some(_), _) => State::Live,
                (None, Some(Failure { cause: Cause::Fetching, .. })) => State::Fetching,
                (None, _) if candidate.upload.is_some_and(|upload| upload.disabled) => State::Disabled,
                (None, _) => State::Failed,
            },
            reason: failure.map(|failure| failure.message.clone()).unwrap_or_default(),
            warnings: Vec::new(),
            retry_at: None,
            versions_to_start: Vec::new(),
            resource: declaration.resource(),
            versions: match candidate.upload {
                Some(upload) => versions(upload),
                None => version.into_iter().map(VersionView::of_resource).collect(),
            },
        };
        view.add_versions(version, failure);
        view
    }

    /// Takes note of a version that serves, and of one that does not start.
    pub(super) fn add_versions(&mut self, version: Option<&Version>, failure: Option<&Failure>) {
        self.versions_to_start.extend(version.map(|version| version.id));
        if let Some(Failure { cause: Cause::HeldBack(id), .. }) = failure {
            self.versions_to_start.push(*id);
        }
    }

    /// Takes note of how the version that serves makes instances, which is known once it has made some.
    pub(super) fn add_isolation<'a>(&mut self, mut live: impl Iterator<Item = &'a Version>) {
        // Its own comes before those of overrides.
        let serves = self.versions_to_start.first();
        self.isolation = live.find(|version| Some(&version.id) == serves).and_then(|version| isolation(&version.code));
    }

    /// The same with what is known now of starts that failed.
    #[must_use]
    pub fn now(&self, held_back: &HeldBack) -> Cow<'_, Self> {
        let Some(hold) = held_back.first_of(&self.versions_to_start) else { return Cow::Borrowed(self) };
        let again = rfc3339(hold.again);
        let mut view = self.clone();
        if view.reason.is_empty() {
            // Its module and settings are what is wanted, and instances of before may still serve.
            view.state = State::HeldBack;
            view.reason = hold.reason;
        }
        view.reason = format!("{}; tried again at {again}", view.reason);
        view.retry_at = Some(again);
        Cow::Owned(view)
    }
}

fn versions(upload: &Upload) -> Vec<VersionView> {
    let mut versions: Vec<_> = upload.versions().collect();
    versions.sort_by_key(|version| Reverse(version.number));
    let view = |version: &Arc<upload::Version>| VersionView {
        digest: version.digest.with_algorithm(),
        time: version.time.clone(),
        number: Some(version.number),
        current: version.number == upload.current.number,
    };
    versions.into_iter().map(view).collect()
}

impl VersionView {
    fn of_resource(version: &Version) -> Self {
        Self { digest: version.digest.with_algorithm(), time: version.since.clone(), number: None, current: true }
    }
}

/// How every request of a version gets an instance of its own, for people; `None`: all of a worker share one.
fn isolation(code: &proxy_wasm_host::Plugin) -> Option<String> {
    match (code.settings().isolation, code.fresh_way()) {
        (Isolation::Worker, _) => None,
        (Isolation::Request, FreshWay::Copied(bytes)) => Some(format!("request: a copy of {bytes} configured bytes")),
        (Isolation::Request, FreshWay::Configured(why)) => Some(format!("request: configured anew, because {why}")),
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
    declaration.terms.write(&mut spec);
    if let Some(sha256) = &declaration.sha256 {
        spec.insert("sha256".into(), sha256.clone().into());
    }
    spec
}
