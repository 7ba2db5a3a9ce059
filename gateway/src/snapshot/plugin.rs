//! Plugins as listeners refer to them.

use std::fmt;

/// Identifies one version of one plugin: it changes whenever the module or anything that a running
/// instance was configured with changes, and never otherwise. Workers keep instances by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginId(pub u64);

/// A plugin version in the chain of a listener.
pub struct Plugin {
    /// The version.
    pub id: PluginId,
    /// Namespace of the WasmPlugin or upload.
    pub namespace: String,
    /// Name of the WasmPlugin or upload.
    pub name: String,
    /// Content hash of the module, `sha256:…`; empty if it could not be read.
    pub digest: String,
    /// Where in the chain it runs.
    pub phase: Phase,
    /// Order within the phase: higher runs earlier; unset sorts last (Istio's measured behaviour).
    pub priority: Option<i32>,
    /// Whether it is one for TCP connections (`type: NETWORK`) and not for requests.
    pub network: bool,
    /// What happens to requests when the plugin cannot do its work.
    pub fail_strategy: FailStrategy,
    /// The module, ready to be instantiated, or why there is none.
    pub code: Code,
}

/// What there is to run.
pub enum Code {
    /// Compiled, checked and configured.
    Loaded(proxy_wasm_host::Plugin),
    /// It could not be loaded or started and no older version stands in: requests are answered by
    /// [`FailStrategy`], as Istio does for a module that cannot be fetched (403, `RBAC: access denied`).
    Unavailable {
        /// For operators: what went wrong.
        reason: String,
    },
}

/// What happens to a request whose plugin is unavailable, trapped or ran out of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailStrategy {
    /// The request fails.
    #[default]
    Close,
    /// The plugin is left out of that request.
    Open,
    /// Istio's FAIL_RELOAD: as `Close`, and the instance is replaced. That is done here whatever the strategy is, at once
    /// where Istio waits a second, so it equals `Close`, also for a module that cannot be fetched.
    Reload,
}

/// WasmPlugin's phases in the order in which they run (Istio's `PluginPhase`; unspecified runs last).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    /// Before authentication.
    Authn,
    /// Before authorization.
    Authz,
    /// Before statistics.
    Stats,
    /// Everything else.
    #[default]
    Unspecified,
}

impl FailStrategy {
    /// The name users write.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "FAIL_CLOSE",
            Self::Open => "FAIL_OPEN",
            Self::Reload => "FAIL_RELOAD",
        }
    }
}

impl Phase {
    /// The name users write.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authn => "AUTHN",
            Self::Authz => "AUTHZ",
            Self::Stats => "STATS",
            Self::Unspecified => "UNSPECIFIED_PHASE",
        }
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("id", &self.id)
            .field("name", &format_args!("{}/{}", self.namespace, self.name))
            .field("digest", &self.digest)
            .field("loaded", &matches!(self.code, Code::Loaded(_)))
            .finish_non_exhaustive()
    }
}
