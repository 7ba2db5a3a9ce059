//! WasmPlugins → declarations, and plugins that are ready → the chains of listeners.

use std::{
    borrow::Cow,
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
        yaml::{self, Value},
    },
    istio::{EnvVar, WasmPlugin},
    plugins::{Attached, Declaration, Mistakes, ModuleSource, Origin, Scope, Terms},
    snapshot::{FailStrategy, Phase, Plugin, Route, ScopedChain, ScopedPlugin},
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
        let runs = spec.plugin_type.as_deref() != Some("NETWORK");
        if !runs || !applies(plugin, spec.selector.as_ref(), targeted, options) {
            continue;
        }
        let Some(ports) = ports else { continue };
        declarations.push(declaration(plugin, ports, order, options, &mut problems));
    }
    (declarations, problems)
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
        fail_strategy: match spec.fail_strategy.as_deref() {
            Some("FAIL_OPEN") => FailStrategy::Open,
            Some("FAIL_RELOAD") => FailStrategy::Reload,
            _ => FailStrategy::Close,
        },
        ports,
        root_namespace: plugin.namespace == options.root_namespace && options.root_namespace != options.namespace,
        // `~` sorts behind every time.
        created: plugin.created.clone().unwrap_or_else(|| format!("~{order:08}")),
        // What is wrong with them was found when the resource was checked, and it was refused.
        terms: terms(plugin).0,
    }
}

/// What annotations say that the spec has no field for, and what is wrong with them: annotation and mistake.
pub(crate) fn terms(plugin: &PluginResource) -> (Terms, Vec<(String, Cow<'static, str>)>) {
    let (mut terms, mut mistakes) = (Terms::default(), Mistakes::default());
    for (key, text) in &plugin.annotations {
        let Some(name) = key.strip_prefix(Terms::PREFIX) else { continue };
        let mut documents = yaml::documents(text).into_iter();
        let value = match (documents.next(), documents.next()) {
            (Some(Ok(document)), None) => serde_json::to_value(document.value).ok(),
            _ => None,
        };
        let Some(value) = value else {
            mistakes.add(key, "must be one value in YAML");
            continue;
        };
        if !terms.set(name, key, &value, &mut mistakes) {
            mistakes.add(
                key,
                format!("unknown annotation; behind {} there are {}", Terms::PREFIX, Terms::NAMES.join(", ")),
            );
        }
    }
    (terms, mistakes.into_list())
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

/// The plugins of a listener with this bound port, and which of them a request passes if that depends on the request.
/// `attached` is in the order of execution; `routes` has those of the listener, at their ids.
pub(super) fn chain(
    attached: &[Attached],
    port: u16,
    routes: &[Arc<Route>],
) -> (Vec<Arc<Plugin>>, Option<ScopedChain>) {
    let ids = |scope: &Scope| {
        let named = |route: &Route| scope.routes.iter().any(|name| name.is_of(route));
        (0..).zip(routes).filter(|(_, route)| named(route)).map(|(id, _)| id).collect()
    };
    let mut plugins = Vec::new();
    let mut add = |plugin: &Arc<Plugin>, scopes: &[&Scope]| {
        plugins.push(Arc::clone(plugin));
        let scopes = scopes.iter().map(|scope| (scope.hosts.clone(), (!scope.routes.is_empty()).then(|| ids(scope))));
        ScopedPlugin { plugin: plugins.len() - 1, scopes: scopes.collect() }
    };
    let (mut steps, mut scoped) = (Vec::new(), false);
    for attached in attached.iter().filter(|plugin| plugin.ports.is_empty() || plugin.ports.contains(&port)) {
        scoped |= !attached.scope.is_everything() || !attached.overrides.is_empty();
        let overrides = attached.overrides.iter().map(|(scope, plugin)| add(plugin, &[&attached.scope, scope]));
        let mut choices: Vec<ScopedPlugin> = overrides.collect();
        choices.push(add(&attached.plugin, &[&attached.scope]));
        steps.push(choices);
    }
    (plugins, scoped.then(|| ScopedChain::new(&steps)))
}

/// Says which routes that plugins are limited to do not exist.
pub(super) fn check_routes(
    resources: &Resources,
    options: &Options,
    routes: &[Arc<Route>],
    problems: &mut Vec<Problem>,
) {
    for plugin in &resources.wasm_plugins {
        let targeted = !plugin.spec.target_refs.is_empty() || plugin.spec.target_ref.is_some();
        if !applies(plugin, plugin.spec.selector.as_ref(), targeted, options) {
            continue;
        }
        let terms = terms(plugin).0;
        let named = terms.overrides.iter().flat_map(|other| &other.scope.routes).map(|name| ("overrides", name));
        for (setting, name) in terms.scope.routes.iter().map(|name| ("routes", name)).chain(named) {
            if !routes.iter().any(|route| name.is_of(route)) {
                let message = format!("this gateway has no route {name}, so nothing is chosen by it");
                let annotations = Path::Root.key("metadata");
                let annotations = annotations.key("annotations");
                let key = format!("{}{setting}", Terms::PREFIX);
                problems.push(plugin.problem(Level::Warning, "GW0101", &annotations.key(&key), message));
            }
        }
    }
}
