//! What the admin API shows of a plugin.

use serde::Serialize;

use super::Spec;

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
    /// Place in the chain.
    pub phase: &'static str,
    /// Order within the phase; `null` is last.
    pub priority: Option<i32>,
    /// What happens to requests when the plugin cannot do its work.
    pub fail_strategy: &'static str,
    /// Everything that was set, in the form of WasmPlugin's spec. Values of environment variables are
    /// shown only where they stand in the upload itself.
    pub settings: Spec,
    /// Whether it serves.
    pub state: State,
    /// Why it does not serve, or why an older version does. Empty if all is well.
    pub reason: String,
    /// Modules this upload had, the newest first. For resources the current one.
    pub versions: Vec<VersionView>,
}

/// Whether a plugin serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its instances run on all workers.
    Live,
    /// It does not run; requests are treated by its failStrategy (or pass by it in safe mode).
    Failed,
}

/// A module a plugin has or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionView {
    /// `sha256:…`
    pub digest: String,
    /// Since when, RFC 3339.
    pub time: String,
}
