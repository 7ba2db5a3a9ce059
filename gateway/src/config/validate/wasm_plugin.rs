//! WasmPlugins and TrafficExtensions, as Istio's `pkg/config/validation` checks them.

use std::collections::HashSet;

use super::{Report, selector_labels};
use crate::{
    config::{compile::plugin_terms, path::Path, resources::Resource, yaml::Value},
    istio::{Labels, TrafficExtension, WasmPlugin},
    plugins,
};

type Spec = WasmPlugin<Value>;

/// Checks a WasmPlugin.
pub(crate) fn wasm_plugin(resource: &Resource<Spec>, report: &mut Report<'_, Spec>) {
    check(&resource.spec, &Path::SPEC, &resource.annotations, report);
}

/// Checks a TrafficExtension.
pub(crate) fn traffic_extension(
    resource: &Resource<TrafficExtension<Value>>,
    report: &mut Report<'_, TrafficExtension<Value>>,
) {
    let spec = &resource.spec;
    match (&spec.wasm, &spec.lua) {
        (Some(_), Some(_)) | (None, None) => report.reject(&Path::SPEC, "exactly one of wasm and lua has to be set"),
        (None, Some(_)) => {
            report.refuse(&Path::SPEC.key("lua"), "lua", "the extension does not run; write it as a plugin")
        }
        (Some(_), None) => check(&WasmPlugin::from(spec), &Path::SPEC.key("wasm"), &resource.annotations, report),
    }
}

/// `module` is where the fields stand that say what runs.
fn check<T>(spec: &Spec, module: &Path<'_>, annotations: &Labels, report: &mut Report<'_, T>) {
    check_url(&spec.url, &module.key("url"), report);
    let digest = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !spec.sha256.is_empty() && (spec.sha256.len() != 64 || !spec.sha256.bytes().all(digest)) {
        report.reject(&module.key("sha256"), "must be 64 lower-case hex digits");
    }
    for (path, value, known) in [
        (Path::SPEC.key("phase"), &spec.phase, &["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"][..]),
        (module.key("failStrategy"), &spec.fail_strategy, &["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"]),
        (module.key("imagePullPolicy"), &spec.image_pull_policy, &["UNSPECIFIED_POLICY", "IfNotPresent", "Always"]),
        (module.key("type"), &spec.plugin_type, &["UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"]),
    ] {
        if let Some(value) = value {
            report.one_of(&path, value, known);
        }
    }
    if spec.priority.is_some_and(|priority| i32::try_from(priority).is_err()) {
        report.reject(&Path::SPEC.key("priority"), format!("must be in the range {}..{}", i32::MIN, i32::MAX));
    }
    if spec.plugin_name.len() > 256 {
        report.reject(&module.key("pluginName"), "must have at most 256 characters");
    }
    if spec.image_pull_secret.len() > 253 {
        report.reject(&module.key("imagePullSecret"), "must have at most 253 characters");
    }
    if spec.plugin_config.as_ref().is_some_and(|config| !config.is_mapping()) {
        report.reject(&module.key("pluginConfig"), "must be a mapping");
    }
    for (field, mistake) in plugin_terms(annotations).1 {
        report.reject(&Path::Root.key("metadata").key("annotations").key(&field), mistake);
    }
    check_attachment(spec, report);
    check_environment(spec, module, report);
    check_matches(spec, report);
}

fn check_url<T>(url: &str, path: &Path<'_>, report: &mut Report<'_, T>) {
    match url.split_once("://").map_or("", |(scheme, _)| scheme) {
        _ if url.is_empty() => report.reject(path, "url field needs to be set"),
        "file" if url.len() == "file://".len() => report.reject(path, "file:// needs a path behind it"),
        "file" => {}
        "" | "oci" | "http" | "https" => {
            if let Err(why) = plugins::check_url(url) {
                report.reject(path, why);
            }
        }
        other => report.reject(path, format!("url contains unsupported scheme: {other}")),
    }
}

fn check_attachment<T>(spec: &Spec, report: &mut Report<'_, T>) {
    let targets = spec.target_refs.len() + usize::from(spec.target_ref.is_some());
    let path = Path::SPEC.key("targetRefs");
    if let Some(selector) = &spec.selector {
        selector_labels(&selector.match_labels, &Path::SPEC.key("selector").key("matchLabels"), report);
    }
    if targets > 0 && spec.selector.is_some() {
        report.reject(&Path::SPEC.key("selector"), "only one of targetRefs or selector can be set");
    }
    if targets > 16 {
        report.reject(&path, "at most 16 targetRefs are possible");
    }
    for (at, target) in spec.target_refs.iter().enumerate() {
        let path = path.index(at);
        if target.kind.is_empty() || target.name.is_empty() {
            report.reject(&path, "targetRef must have kind and name");
        }
        if !target.namespace.is_empty() {
            report.reject(&path.key("namespace"), "cross namespace referencing is not supported");
        }
    }
}

fn check_environment<T>(spec: &Spec, module: &Path<'_>, report: &mut Report<'_, T>) {
    let path = module.key("vmConfig");
    let path = path.key("env");
    if spec.vm_config.env.len() > 256 {
        report.reject(&path, "at most 256 environment variables are possible");
    }
    let mut names = HashSet::new();
    for (at, variable) in spec.vm_config.env.iter().enumerate() {
        let path = path.index(at);
        let name = &variable.name;
        if name.is_empty() || name.len() > 256 || name.contains(['=', '\0']) {
            report.reject(&path.key("name"), "must have 1 to 256 characters, none of them '='");
        } else if !names.insert(name) {
            report.reject(&path.key("name"), format!("duplicate environment variable {name}"));
        }
        if variable.value.len() > 2048 || variable.value.contains('\0') {
            report.reject(&path.key("value"), "must have at most 2048 characters");
        }
        let from = variable.value_from.as_deref().unwrap_or("INLINE");
        report.one_of(&path.key("valueFrom"), from, &["INLINE", "HOST"]);
        if from == "HOST" && !variable.value.is_empty() {
            report.reject(&path.key("value"), "value may only be set when valueFrom is INLINE");
        }
    }
}

fn check_matches<T>(spec: &Spec, report: &mut Report<'_, T>) {
    let path = Path::SPEC.key("match");
    for (at, entry) in spec.matches.iter().enumerate() {
        let path = path.index(at);
        if let Some(mode) = &entry.mode {
            report.one_of(&path.key("mode"), mode, &["UNDEFINED", "CLIENT", "SERVER", "CLIENT_AND_SERVER"]);
        }
        for (port_at, port) in entry.ports.iter().enumerate() {
            let ports = path.key("ports");
            report.port(&ports.index(port_at).key("number"), port.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::assert_problems;

    #[test]
    fn traffic_extensions() {
        let template =
            "apiVersion: extensions.istio.io/v1alpha1\nkind: TrafficExtension\nmetadata: {name: p}\nspec: $$\n";
        assert_problems(
            template,
            &[
                (
                    "{phase: AUTHN, priority: 1, match: [{mode: CLIENT}], wasm: {url: 'file:///a', pluginConfig: {a: 1}}}",
                    "",
                ),
                ("{}", "exactly one of wasm and lua"),
                ("{wasm: {url: 'file:///a'}, lua: {inlineCode: x}}", "exactly one of wasm and lua"),
                ("{lua: {inlineCode: x}}", "spec.lua: lua is not supported"),
                ("{wasm: {}}", "spec.wasm.url: Schema validation error: url field needs to be set"),
                ("{wasm: {url: 'file:///a', sha256: A}}", "spec.wasm.sha256"),
                ("{wasm: {url: 'file:///a', failStrategy: NONE}}", "spec.wasm.failStrategy"),
                ("{wasm: {url: 'file:///a', type: NETWORK}}", ""),
                ("{wasm: {url: 'file:///a', vmConfig: {env: [{}]}}}", "spec.wasm.vmConfig.env[0].name"),
                ("{wasm: {url: 'file:///a', phase: AUTHN}}", "spec.wasm.phase"),
                ("{wasm: {url: 'file:///a'}, url: 'file:///a'}", "spec.url"),
                ("{wasm: {url: 'file:///a'}, priority: 3000000000}", "spec.priority"),
            ],
        );
    }

    #[test]
    fn annotations() {
        let template = "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata:\n  name: p\n  annotations: $$\n\
                        spec: {url: 'file:///a.wasm'}\n";
        assert_problems(
            template,
            &[
                ("{istio.io/other: x}", ""),
                (
                    "{plugin.gateway/limits: '{callbackCpu: 20ms, memory: 1Gi}', plugin.gateway/isolation: request, \
                      plugin.gateway/hosts: '[a.example.com, \"*.b.example.com\"]', plugin.gateway/routes: '[default/shop/cart]', \
                      plugin.gateway/overrides: '[{hosts: [c.example.com], pluginConfig: {a: 1}}]'}",
                    "",
                ),
                ("{plugin.gateway/limits: '{memory: 2Gi}'}", "must be a size from 64Ki to 1Gi"),
                ("{plugin.gateway/limits: '{memory: 2Gi}'}", "limits.memory"),
                ("{plugin.gateway/limit: '{memory: 1Gi}'}", "there are limits, isolation, allowedCapabilities, hosts"),
                ("{plugin.gateway/isolation: stream}", "must be worker or request"),
                ("{plugin.gateway/hosts: '[a'}", "must be one value in YAML"),
                ("{plugin.gateway/routes: '[shop]'}", "must be namespace/virtual-service"),
            ],
        );
    }

    #[test]
    fn plugins() {
        let template = "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: p}\nspec: $$\n";
        assert_problems(
            template,
            &[
                (
                    "{url: 'file:///a.wasm', phase: AUTHN, priority: -5, failStrategy: FAIL_OPEN, pluginConfig: {a: [1]}}",
                    "",
                ),
                (
                    "{url: 'file://a.wasm', vmConfig: {env: [{name: A, value: b}, {name: C, valueFrom: HOST}]}, match: [{ports: [{number: 8080}]}]}",
                    "",
                ),
                ("{}", "url field needs to be set"),
                ("{url: 'file://'}", "needs a path"),
                ("{url: 'ftp://a'}", "unsupported scheme: ftp"),
                ("{url: 'oci://a/b:1', imagePullPolicy: Always, imagePullSecret: pull}", ""),
                ("{url: 'a/b:1'}", ""),
                ("{url: 'https://a.example/b.wasm'}", ""),
                ("{url: 'oci://a/B:1'}", "spec.url"),
                ("{url: 'https://user:password@a.example/b.wasm'}", "spec.url"),
                ("{url: 'http://'}", "spec.url"),
                ("{url: 'oci://a/b', imagePullPolicy: Never}", "spec.imagePullPolicy"),
                ("{url: 'file:///a', sha256: ABC}", "64 lower-case hex digits"),
                ("{url: 'file:///a', phase: LAST}", "is not one of UNSPECIFIED_PHASE"),
                ("{url: 'file:///a', failStrategy: open}", "is not one of FAIL_CLOSE"),
                ("{url: 'file:///a', priority: 3000000000}", "spec.priority"),
                ("{url: 'file:///a', pluginConfig: [1]}", "must be a mapping"),
                (
                    "{url: 'file:///a', selector: {matchLabels: {a: b}}, targetRefs: [{kind: Gateway, name: g}]}",
                    "only one of targetRefs or selector",
                ),
                ("{url: 'file:///a', vmConfig: {env: [{name: A}, {name: A}]}}", "duplicate environment variable"),
                ("{url: 'file:///a', vmConfig: {env: [{name: A, valueFrom: HOST, value: x}]}}", "only be set when"),
                ("{url: 'file:///a', selector: {matchLabels: {a: 'b*'}}}", "wildcard is not supported in selector"),
                ("{url: 'file:///a', match: [{mode: BOTH}]}", "spec.match[0].mode"),
                ("{url: 'file:///a', match: [{ports: [{number: 0}]}]}", "spec.match[0].ports[0].number"),
            ],
        );
    }
}
