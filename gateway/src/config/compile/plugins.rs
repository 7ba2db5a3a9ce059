//! WasmPlugins and TrafficExtensions → declarations, and plugins that are ready → the chains of listeners.

use std::{
    borrow::Cow,
    cell::LazyCell,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::policies::{GATEWAY_NAME_LABEL, applies};
use crate::{
    config::{
        Options,
        credentials::Entries,
        path::Path,
        problem::{Level, Problem},
        resources::{Resource, Resources, TRAFFIC_EXTENSION},
        yaml::{self, Value},
    },
    istio::{EnvVar, Labels, WasmPlugin},
    plugins::{Attached, Declaration, Mistakes, ModuleSource, Origin, PullSecret, Remote, RouteName, Scope, Terms},
    snapshot::{FailStrategy, HostPattern, Listener, Phase, Plugin, Route, ScopedChain, ScopedPlugin},
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
        // Istio's `policyattachment.go`: targets are for gateways of that API, selectors for all.
        let attached = if targeted {
            is_target(plugin, options)
        } else {
            applies(plugin, spec.selector.as_ref(), targeted, options)
        };
        if targeted && !options.labels.contains_key(GATEWAY_NAME_LABEL) {
            let message = "targetRefs attach to gateways of the Kubernetes Gateway API only, so the plugin does not run here; use selector";
            problems.push(plugin.problem(Level::Warning, "GW0101", &Path::SPEC.key("targetRefs"), message));
        }
        // A gateway is a client, so SERVER never matches.
        let ports = ports(spec);
        if !attached {
            continue;
        }
        let Some(ports) = ports else { continue };
        let source = module_source(plugin, resources);
        declarations.push(declaration(plugin, source, ports, order, options, &mut problems));
    }
    (declarations, problems)
}

/// Whether the plugin is for TCP connections.
fn is_network(spec: &WasmPlugin<Value>) -> bool {
    spec.plugin_type.as_deref() == Some("NETWORK")
}

/// Whether a plugin with targets names this gateway, which is then one of the Kubernetes Gateway API.
fn is_target(plugin: &PluginResource, options: &Options) -> bool {
    let Some(name) = options.labels.get(GATEWAY_NAME_LABEL) else { return false };
    let mut targets = plugin.spec.target_refs.iter().chain(&plugin.spec.target_ref);
    plugin.namespace == options.namespace
        && targets.any(|target| {
            target.group == "gateway.networking.k8s.io" && target.kind == "Gateway" && target.name == *name
        })
}

/// Where the fields stand that say what runs.
fn module_fields(plugin: &PluginResource) -> Path<'static> {
    match plugin.kind {
        TRAFFIC_EXTENSION => const { Path::Key(&Path::SPEC, "wasm") },
        _ => Path::SPEC,
    }
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
    source: ModuleSource,
    ports: Vec<u16>,
    order: usize,
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Declaration {
    let spec = &plugin.spec;
    let environment = spec.vm_config.env.iter().enumerate().filter_map(|(at, variable)| {
        let value = environment(variable);
        if value.is_none() {
            let fields = module_fields(plugin);
            let path = fields.key("vmConfig");
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
        origin: Origin::Resource { kind: plugin.kind, place: plugin.origin.to_string() },
        source,
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
        // What is wrong with them was found when the resource was checked, and it was refused.
        terms: terms(&plugin.annotations).0,
    }
}

/// What annotations say that the spec has no field for, and what is wrong with them: annotation and mistake.
pub(crate) fn terms(annotations: &Labels) -> (Terms, Vec<(String, Cow<'static, str>)>) {
    let (mut terms, mut mistakes) = (Terms::default(), Mistakes::default());
    for (key, text) in annotations {
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

/// `file:///absolute`, or `file://relative` to the file that says so. Whatever else has to be fetched.
fn module_source(plugin: &PluginResource, resources: &Resources) -> ModuleSource {
    let (spec, file) = (&plugin.spec, &plugin.origin.file);
    match spec.url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => ModuleSource::File(PathBuf::from(path)),
        Some(path) => ModuleSource::File(FilePath::new(&**file).parent().unwrap_or(FilePath::new("")).join(path)),
        None => ModuleSource::Remote(remote(plugin, resources)),
    }
}

fn remote(plugin: &PluginResource, resources: &Resources) -> Remote {
    let spec = &plugin.spec;
    let url = if spec.url.contains("://") { spec.url.clone() } else { format!("oci://{}", spec.url) };
    let sha256 = (!spec.sha256.is_empty()).then(|| spec.sha256.clone());
    let secret = (!spec.image_pull_secret.is_empty() && url.starts_with("oci://"))
        .then(|| pull_secret(resources, &plugin.namespace, &spec.image_pull_secret));
    let image = url.strip_prefix("oci://");
    // What is named by its digest cannot become something else.
    let pinned = sha256.is_some() || image.is_some_and(|image| image.contains('@'));
    let always = match spec.image_pull_policy.as_deref() {
        Some("Always") => true,
        Some("IfNotPresent") => false,
        _ => image.is_some_and(is_latest),
    };
    Remote { url, sha256, revision: (always && !pinned).then(|| revision(plugin)), secret }
}

/// Whether an image has the tag `latest`, or none, which means the same.
fn is_latest(image: &str) -> bool {
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Another number whenever the resource changes, as Kubernetes' `resourceVersion`. Within this process only.
fn revision(plugin: &PluginResource) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{:?}{:?}{:?}", plugin.labels, plugin.annotations, plugin.spec).hash(&mut hasher);
    hasher.finish()
}

/// The Secret of that name beside the plugin.
fn pull_secret(resources: &Resources, namespace: &str, name: &str) -> PullSecret {
    const ENTRY: &str = ".dockerconfigjson";
    let secret = resources.secrets.iter().find(|secret| secret.namespace == namespace && secret.name == name);
    let docker_config = match secret.map(|secret| secret.entry(ENTRY)) {
        None => Err("does not exist".to_owned()),
        Some(None) => Err(format!("has no entry {ENTRY}")),
        Some(Some(Err(why))) => Err(format!("has an entry {ENTRY} that {why}")),
        Some(Some(Ok(bytes))) => {
            String::from_utf8(bytes).map(Arc::from).map_err(|_| format!("has an entry {ENTRY} that is not text"))
        }
    };
    PullSecret { name: format!("{namespace}/{name}"), docker_config }
}

/// The plugins of a listener with this bound port, and which of them a request passes if that depends on the request:
/// those for HTTP if it has `http` servers, behind them those for TCP if it has `tcp` ones. `attached` is in the order of
/// execution; `routes` has those of the listener, at their ids.
pub(super) fn chain(
    attached: &[Attached],
    port: u16,
    routes: &[Arc<Route>],
    http: bool,
    tcp: bool,
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
    let here = |plugin: &&Attached| plugin.ports.is_empty() || plugin.ports.contains(&port);
    for attached in attached.iter().filter(here).filter(|plugin| http && !plugin.plugin.network) {
        scoped |= !attached.scope.is_everything() || !attached.overrides.is_empty();
        let overrides = attached.overrides.iter().map(|(scope, plugin)| add(plugin, &[&attached.scope, scope]));
        let mut choices: Vec<ScopedPlugin> = overrides.collect();
        choices.push(add(&attached.plugin, &[&attached.scope]));
        steps.push(choices);
    }
    // Scopes are about requests.
    let network = attached.iter().filter(here).filter(|plugin| tcp && plugin.plugin.network);
    plugins.extend(network.map(|attached| Arc::clone(&attached.plugin)));
    (plugins, scoped.then(|| ScopedChain::new(&steps)))
}

/// Says which hosts and routes that plugins are limited to do not exist: such a plugin protects nothing. They may come
/// later, so it is no mistake.
pub(super) fn check_scopes(
    resources: &Resources,
    options: &Options,
    attached: &[Attached],
    listeners: &[Arc<Listener>],
    routes: &[Arc<Route>],
    problems: &mut Vec<Problem>,
) {
    let hosts = LazyCell::new(|| listeners.iter().flat_map(|listener| listener.virtual_hosts()).collect::<Vec<_>>());
    let missing = |scope: &Scope| {
        let host = |pattern: &&HostPattern| !hosts.iter().any(|host| host.name.intersect(pattern).is_some());
        let route = |name: &&RouteName| !routes.iter().any(|route| name.is_of(route));
        let hosts = scope.hosts.iter().filter(host).map(|pattern| ("hosts", format!("serves no host {pattern}")));
        let routes = scope.routes.iter().filter(route).map(|name| ("routes", format!("has no route {name}")));
        hosts.chain(routes).collect::<Vec<_>>()
    };
    let report = |scope: &Scope, overrides: &mut dyn Iterator<Item = &Scope>, add: &mut dyn FnMut(&str, String)| {
        let own = missing(scope);
        for (setting, what) in &own {
            let all = if *setting == "hosts" { scope.hosts.len() } else { scope.routes.len() };
            let none = own.iter().filter(|(other, _)| other == setting).count() == all;
            let consequence = if none { "the plugin sees no request at all" } else { "nothing is chosen by it" };
            add(setting, format!("this gateway {what}, so {consequence}"));
        }
        for (_, what) in overrides.flat_map(missing) {
            add("overrides", format!("this gateway {what}, so nothing is chosen by it"));
        }
    };
    for plugin in &resources.wasm_plugins {
        let targeted = !plugin.spec.target_refs.is_empty() || plugin.spec.target_ref.is_some();
        if !applies(plugin, plugin.spec.selector.as_ref(), targeted, options) {
            continue;
        }
        let terms = terms(&plugin.annotations).0;
        report(&terms.scope, &mut terms.overrides.iter().map(|other| &other.scope), &mut |setting, message| {
            let annotations = Path::Root.key("metadata");
            let annotations = annotations.key("annotations");
            let key = format!("{}{setting}", Terms::PREFIX);
            problems.push(plugin.problem(Level::Warning, "GW0101", &annotations.key(&key), message));
        });
    }
    for upload in attached.iter().filter(|plugin| plugin.origin == Origin::Upload) {
        report(&upload.scope, &mut upload.overrides.iter().map(|(scope, _)| scope), &mut |setting, message| {
            problems.push(upload.of_upload(setting, message));
        });
    }
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
