//! `WasmPlugin` (extensions.istio.io): a WebAssembly plugin and where it runs.

use serde::Deserialize;

use super::{LabelSelector, Opaque, TargetRef};

/// `spec` of a WasmPlugin. `C` is whatever represents free-form configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WasmPlugin<C> {
    /// Gateways it runs on; unset: all of the namespace.
    pub selector: Option<LabelSelector>,
    /// Superseded by `targetRefs`.
    pub target_ref: Option<TargetRef>,
    /// Kubernetes Gateway API objects it attaches to.
    pub target_refs: Vec<TargetRef>,
    /// Where the module is.
    pub url: String,
    /// Lower-case hex digest of the module.
    pub sha256: String,
    /// IfNotPresent or Always.
    pub image_pull_policy: Option<String>,
    /// Secret for the registry.
    pub image_pull_secret: String,
    /// Not implemented by Istio either.
    pub verification_key: Option<Opaque>,
    /// Handed to the plugin as JSON.
    pub plugin_config: Option<C>,
    /// proxy-wasm's root id.
    pub plugin_name: String,
    /// AUTHN, AUTHZ, STATS or UNSPECIFIED_PHASE.
    pub phase: Option<String>,
    /// Higher runs earlier in its phase.
    pub priority: Option<i64>,
    /// FAIL_CLOSE, FAIL_OPEN or FAIL_RELOAD.
    pub fail_strategy: Option<String>,
    /// Environment of the module.
    pub vm_config: VmConfig,
    /// Traffic it is limited to.
    #[serde(rename = "match")]
    pub matches: Vec<PluginMatch>,
    /// HTTP or NETWORK.
    #[serde(rename = "type")]
    pub plugin_type: Option<String>,
}

/// `vmConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VmConfig {
    /// Environment variables.
    pub env: Vec<EnvVar>,
}

/// An environment variable.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvVar {
    /// 1-256 characters.
    pub name: String,
    /// INLINE (default) or HOST.
    pub value_from: Option<String>,
    /// With INLINE.
    pub value: String,
}

/// Traffic by direction and port.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PluginMatch {
    /// CLIENT, SERVER or CLIENT_AND_SERVER; a gateway is a client.
    pub mode: Option<String>,
    /// Bound ports; empty: any.
    pub ports: Vec<PortNumber>,
}

/// A port by number.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortNumber {
    /// 1-65535.
    pub number: u32,
}
