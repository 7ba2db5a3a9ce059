//! WasmPlugins → declarations, and plugins that are ready → the chains of listeners.

use std::{
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::policies::{GATEWAY_NAME_LABEL, applies};
use crate::{
    config::{
        Options,
        path::Path,
        problem::{Level, Problem},
        resources::{Resource, Resources},
        yaml::Value,
    },
    istio::{EnvVar, WasmPlugin},
    plugins::{Attached, Declaration, ModuleSource, Origin},
    snapshot::{FailStrategy, Listener, Phase, Plugin},
};

type PluginResource = Resource<WasmPlugin<Value>>;

/// The plugins that resources declare for this gateway, in no particular order.
#[must_use]
pub fn declarations(resources: &Resources, options: &Options) -> (Vec<Declaration>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut declarations = Vec::new();
    for (order, plugin) in resources.wasm_plugins.iter().enumerate() {
        let spec = &plugin.spec;
        let targeted = !spec.target_refs.is_empty() || spec.target_ref.is_some();
        if targeted && !options.labels.contains_key(GATEWAY_NAME_LABEL) {
            let message = "targetRefs attach to gateways of the Kubernetes Gateway API only, so the plugin does not run here; use selector";
            problems.push(plugin.problem(Level::Warning, "GW0101", &Path::SPEC.key("targetRefs"), message));
        }
        // A gateway is a client, so SERVER never matches.
        let ports = ports(spec);
        if !applies(plugin, spec.selector.as_ref(), targeted, options) {
            continue;
        }
        let Some(ports) = ports else { continue };
        declarations.push(declaration(plugin, ports, order, options, &mut problems));
    }
    (declarations, problems)
}

/// Whether the plugin is for TCP connections.
fn is_network(spec: &WasmPlugin<Value>) -> bool {
    spec.plugin_type.as_deref() == Some("NETWORK")
}

/// The ports of `match`: empty for all, `None` if nothing can match.
fn ports(spec: &WasmPlugin<Value>) -> Option<Vec<u16>> {
    if spec.matches.is_empty() {
        return Some(Vec::new());
    }
    let mut ports = Vec::new();
    let mut any = false;
    for entry in spec.matches.iter().filter(|entry| entry.mode.as_deref() != Some("SERVER")) {
        any = true;
        if entry.ports.is_empty() {
            return Some(Vec::new());
        }
        ports.extend(entry.ports.iter().filter_map(|port| u16::try_from(port.number).ok()));
    }
    ports.sort_unstable();
    ports.dedup();
    any.then_some(ports)
}

fn declaration(
    plugin: &PluginResource,
    ports: Vec<u16>,
    order: usize,
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Declaration {
    let spec = &plugin.spec;
    let environment = spec.vm_config.env.iter().enumerate().filter_map(|(at, variable)| {
        let value = environment(variable);
        if value.is_none() {
            let path = Path::SPEC.key("vmConfig");
            let path = path.key("env");
            let message = format!(
                "the gateway's own environment has no variable {}, so the plugin does not get it",
                variable.name
            );
            problems.push(plugin.problem(Level::Warning, "GW0101", &path.index(at), message));
        }
        value.map(|value| (variable.name.clone(), value))
    });
    Declaration {
        namespace: plugin.namespace.clone(),
        name: plugin.name.clone(),
        origin: Origin::Resource(plugin.origin.to_string()),
        source: module_source(&spec.url, &plugin.origin.file),
        sha256: (!spec.sha256.is_empty()).then(|| spec.sha256.clone()),
        root_id: spec.plugin_name.clone(),
        configuration: configuration(spec.plugin_config.as_ref()),
        environment: environment.collect(),
        phase: match spec.phase.as_deref() {
            Some("AUTHN") => Phase::Authn,
            Some("AUTHZ") => Phase::Authz,
            Some("STATS") => Phase::Stats,
            _ => Phase::Unspecified,
        },
        priority: spec.priority.and_then(|priority| i32::try_from(priority).ok()),
        network: is_network(spec),
        fail_strategy: match spec.fail_strategy.as_deref() {
            Some("FAIL_OPEN") => FailStrategy::Open,
            Some("FAIL_RELOAD") => FailStrategy::Reload,
            _ => FailStrategy::Close,
        },
        ports,
        root_namespace: plugin.namespace == options.root_namespace && options.root_namespace != options.namespace,
        // `~` sorts behind every time.
        created: plugin.created.clone().unwrap_or_else(|| format!("~{order:08}")),
    }
}

/// The value of a variable; HOST takes it from the gateway's own environment.
fn environment(variable: &EnvVar) -> Option<String> {
    match variable.value_from.as_deref() {
        Some("HOST") => std::env::var(&variable.name).ok(),
        _ => Some(variable.value.clone()),
    }
}

/// Compact JSON in the order of the file; nothing for an empty configuration, as in Istio.
fn configuration(config: Option<&Value>) -> Bytes {
    match config {
        Some(config) if config.as_mapping().is_some_and(|mapping| !mapping.is_empty()) => {
            serde_json::to_vec(config).map(Bytes::from).unwrap_or_default()
        }
        _ => Bytes::new(),
    }
}

/// `file:///absolute`, or `file://relative` to the file that says so. Whatever else is a module that cannot be fetched.
fn module_source(url: &str, file: &str) -> ModuleSource {
    match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => ModuleSource::File(PathBuf::from(path)),
        Some(path) => ModuleSource::File(FilePath::new(file).parent().unwrap_or(FilePath::new("")).join(path)),
        None => ModuleSource::Unsupported(url.to_owned()),
    }
}

/// The chain of a listener with this bound port, of those for TCP if it has `tcp` servers and of those for HTTP if it
/// has `http` ones; `attached` is in the order of execution.
pub(super) fn chain(attached: &[Attached], port: u16, http: bool, tcp: bool) -> Vec<Arc<Plugin>> {
    attached
        .iter()
        .filter(|plugin| plugin.ports.is_empty() || plugin.ports.contains(&port))
        .filter(|plugin| if plugin.plugin.network { tcp } else { http })
        .map(|attached| Arc::clone(&attached.plugin))
        .collect()
}

/// Reports plugins for TCP that no listener has. (Istio also runs them below HTTP, where they would see it as bytes.)
pub(super) fn report_unused(
    resources: &Resources,
    listeners: &[Arc<Listener>],
    attached: &[Attached],
    problems: &mut Vec<Problem>,
) {
    let runs = |resource: &Arc<PluginResource>| {
        let mut chains = listeners.iter().flat_map(|listener| &listener.plugins);
        chains.any(|plugin| plugin.name == resource.name && plugin.namespace == resource.namespace)
    };
    let is_attached = |resource: &Arc<PluginResource>| {
        attached.iter().any(|a| a.plugin.name == resource.name && a.plugin.namespace == resource.namespace)
    };
    let network = resources.wasm_plugins.iter().filter(|resource| is_network(&resource.spec));
    for resource in network.filter(|resource| is_attached(resource) && !runs(resource)) {
        let message = "type NETWORK runs on TCP and TLS servers only, not on those of HTTP, and no listener of the plugin has one: it does not run";
        problems.push(resource.problem(Level::Warning, "GW0101", &Path::SPEC.key("type"), message));
    }
}
