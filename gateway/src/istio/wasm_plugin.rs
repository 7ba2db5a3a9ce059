//! `WasmPlugin` (extensions.istio.io): a WebAssembly plugin and where it runs; and its successor `TrafficExtension`,
//! which has the same fields in another place.

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

/// `spec` of a TrafficExtension: where it runs. What runs stands below `wasm`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "C: Deserialize<'de> + Default"))]
pub struct TrafficExtension<C> {
    /// Gateways it runs on; unset: all of the namespace.
    pub selector: Option<LabelSelector>,
    /// Kubernetes Gateway API objects it attaches to.
    pub target_refs: Vec<TargetRef>,
    /// AUTHN, AUTHZ, STATS or UNSPECIFIED_PHASE.
    pub phase: Option<String>,
    /// Higher runs earlier in its phase.
    pub priority: Option<i64>,
    /// Traffic it is limited to.
    #[serde(rename = "match")]
    pub matches: Vec<PluginMatch>,
    /// The WebAssembly module and its configuration.
    pub wasm: Option<WasmModule<C>>,
    /// A script for Envoy, instead of `wasm`.
    pub lua: Option<Opaque>,
}

/// `spec.wasm` of a TrafficExtension; the fields are those of [`WasmPlugin`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "they stand at WasmPlugin")]
pub struct WasmModule<C> {
    pub url: String,
    pub sha256: String,
    pub image_pull_policy: Option<String>,
    pub image_pull_secret: String,
    pub verification_key: Option<Opaque>,
    pub plugin_config: Option<C>,
    pub plugin_name: String,
    pub fail_strategy: Option<String>,
    pub vm_config: VmConfig,
    #[serde(rename = "type")]
    pub plugin_type: Option<String>,
}

impl<C: Clone + Default> From<&TrafficExtension<C>> for WasmPlugin<C> {
    fn from(extension: &TrafficExtension<C>) -> Self {
        let TrafficExtension { selector, target_refs, phase, priority, matches, wasm, lua: _ } = extension.clone();
        let module = wasm.unwrap_or_default();
        Self {
            selector,
            target_ref: None,
            target_refs,
            url: module.url,
            sha256: module.sha256,
            image_pull_policy: module.image_pull_policy,
            image_pull_secret: module.image_pull_secret,
            verification_key: module.verification_key,
            plugin_config: module.plugin_config,
            plugin_name: module.plugin_name,
            phase,
            priority,
            fail_strategy: module.fail_strategy,
            vm_config: module.vm_config,
            matches,
            plugin_type: module.plugin_type,
        }
    }
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
