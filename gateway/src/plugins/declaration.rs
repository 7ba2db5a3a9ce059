//! A plugin as somebody declared it: by a WasmPlugin resource or by an upload.

use std::path::PathBuf;

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
    /// `sha256` of the resource: lower-case hex digest that the module must have.
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
    /// A WasmPlugin resource; where it stands, for messages: `file.yaml:12`.
    Resource(String),
    /// The admin API.
    Upload,
}

/// Where a module's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleSource {
    /// A file on this machine (`file://`), resolved against the YAML file it was named in.
    File(PathBuf),
    /// A URL that this version cannot fetch (`oci://`, `https://`, …): the plugin is treated as one whose
    /// module could not be fetched, so that its `failStrategy` decides and nothing is left unprotected.
    Unsupported(String),
    /// In the content-addressed store of uploads; lower-case hex sha256.
    Stored(String),
}
