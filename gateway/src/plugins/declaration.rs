//! A plugin as somebody declared it: by a resource or by an upload.

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::Terms;
use crate::snapshot::{FailStrategy, Phase};

/// Everything that decides which code runs, how it is configured, where in the chain and for which traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Namespace of the resource; uploads live in the gateway's.
    pub namespace: String,
    /// Name of the resource or upload.
    pub name: String,
    /// Who declared it.
    pub origin: Origin,
    /// Where the module is.
    pub source: ModuleSource,
    /// `sha256` of the resource: lower-case hex digest that the module must have, or, from a registry, the image's
    /// manifest.
    pub sha256: Option<String>,
    /// `pluginName`, proxy-wasm's root id.
    pub root_id: String,
    /// `pluginConfig` as compact JSON; empty if there is none.
    pub configuration: Bytes,
    /// `vmConfig.env`, already resolved.
    pub environment: Vec<(String, String)>,
    /// Place in the chain.
    pub phase: Phase,
    /// Order within the phase; higher is earlier, `None` is last.
    pub priority: Option<i32>,
    /// Whether it is for TCP connections (`type: NETWORK`).
    pub network: bool,
    /// What happens when it cannot do its work.
    pub fail_strategy: FailStrategy,
    /// Bound ports it is limited to (`match[].ports`); empty: every port.
    pub ports: Vec<u16>,
    /// Whether it comes from the root namespace (those run after the gateway's own of the same priority).
    pub root_namespace: bool,
    /// Sort key for ties: `metadata.creationTimestamp`, or file order. Smaller is older and runs first.
    pub created: String,
    /// What WasmPlugin's spec has no field for.
    pub terms: Terms,
}

/// Who declared a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A resource.
    Resource {
        /// `WasmPlugin` or `TrafficExtension`.
        kind: &'static str,
        /// Where it stands, for messages: `file.yaml:12`.
        place: String,
    },
    /// The admin API.
    Upload,
}

/// Where a module's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleSource {
    /// A file on this machine (`file://`), resolved against the YAML file it was named in.
    File(PathBuf),
    /// Elsewhere: it has to be fetched. Until it is, or if it cannot be, the plugin's `failStrategy` decides.
    Remote(Remote),
    /// In the content-addressed store of uploads; lower-case hex sha256.
    Stored(String),
}

/// A module that has to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// `http://`, `https://` or `oci://`; without a scheme it is an image in a registry.
    pub url: String,
    /// What it must be: the module's digest for `http(s)://`, that of the image's manifest for `oci://`.
    pub sha256: Option<String>,
    /// `None`: what was fetched before is good. Else it is fetched again whenever this number is another: it changes
    /// with the resource.
    pub revision: Option<u64>,
    /// Who asks a registry for it; `None`: anybody.
    pub secret: Option<PullSecret>,
}

impl Remote {
    /// The URL for logs and messages: without its query, in which there may be a signature.
    pub(super) fn shown(&self) -> &str {
        self.url.split_once('?').map_or(&self.url, |(place, _)| place)
    }
}

/// The Secret of `imagePullSecret`.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// `namespace/name`.
    pub name: String,
    /// Its entry `.dockerconfigjson`, or what is wrong with it.
    pub docker_config: Result<Arc<str>, String>,
}

impl fmt::Debug for PullSecret {
    /// Only the name: this ends in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PullSecret").field(&self.name).finish()
    }
}
