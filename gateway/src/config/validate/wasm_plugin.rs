//! WasmPlugins, as Istio's `pkg/config/validation` checks them.

use std::collections::HashSet;

use super::{Report, selector_labels};
use crate::{
    config::{compile::plugin_terms, path::Path, resources::Resource, yaml::Value},
    istio::WasmPlugin,
};

type Spec = WasmPlugin<Value>;

/// Checks a WasmPlugin.
pub(crate) fn wasm_plugin(resource: &Resource<Spec>, report: &mut Report<'_, Spec>) {
    let spec = &resource.spec;
    let field = |name| Path::SPEC.key(name);
    check_url(&spec.url, report);
    let digest = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !spec.sha256.is_empty() && (spec.sha256.len() != 64 || !spec.sha256.bytes().all(digest)) {
        report.reject(&field("sha256"), "must be 64 lower-case hex digits");
    }
    for (name, value, known) in [
        ("phase", &spec.phase, &["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"][..]),
        ("failStrategy", &spec.fail_strategy, &["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"]),
        ("imagePullPolicy", &spec.image_pull_policy, &["UNSPECIFIED_POLICY", "IfNotPresent", "Always"]),
        ("type", &spec.plugin_type, &["UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"]),
    ] {
        if let Some(value) = value {
            report.one_of(&field(name), value, known);
        }
    }
    if spec.plugin_type.as_deref() == Some("NETWORK") {
        report.unsupported(&field("type"), "type NETWORK", "the plugin does not run");
    }
    if spec.priority.is_some_and(|priority| i32::try_from(priority).is_err()) {
        report.reject(&field("priority"), format!("must be in the range {}..{}", i32::MIN, i32::MAX));
    }
    if spec.plugin_name.len() > 256 {
        report.reject(&field("pluginName"), "must have at most 256 characters");
    }
    if spec.plugin_config.as_ref().is_some_and(|config| !config.is_mapping()) {
        report.reject(&field("pluginConfig"), "must be a mapping");
    }
    for (field, mistake) in plugin_terms(resource).1 {
        report.reject(&Path::Root.key("metadata").key("annotations").key(&field), mistake);
    }
    check_attachment(spec, report);
    check_environment(spec, report);
    check_matches(spec, report);
}

fn check_url(url: &str, report: &mut Report<'_, Spec>) {
    let path = Path::SPEC.key("url");
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme {
        _ if url.is_empty() => report.reject(&path, "url field needs to be set"),
        "file" if url.len() == "file://".len() => report.reject(&path, "file:// needs a path behind it"),
        "file" => {}
        "" | "oci" | "http" | "https" => {
            let what = if scheme.is_empty() {
                "a module from a registry (no scheme means oci)".to_owned()
            } else {
                format!("{scheme}://")
            };
            let instead =
                "the plugin counts as one that cannot be fetched (failStrategy decides); use file:// or upload it";
            report.unsupported(&path, &what, instead);
        }
        other => report.reject(&path, format!("url contains unsupported scheme: {other}")),
    }
}

fn check_attachment(spec: &Spec, report: &mut Report<'_, Spec>) {
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

fn check_environment(spec: &Spec, report: &mut Report<'_, Spec>) {
    let path = Path::SPEC.key("vmConfig");
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

fn check_matches(spec: &Spec, report: &mut Report<'_, Spec>) {
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
                ("{plugin.gateway/limit: '{memory: 1Gi}'}", "there are limits, isolation, hosts"),
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
                ("{url: 'oci://a/b:1'}", "Error [GW0102]"),
                ("{url: 'a/b:1'}", "no scheme means oci"),
                ("{url: 'file:///a', sha256: ABC}", "64 lower-case hex digits"),
                ("{url: 'file:///a', phase: LAST}", "is not one of UNSPECIFIED_PHASE"),
                ("{url: 'file:///a', failStrategy: open}", "is not one of FAIL_CLOSE"),
                ("{url: 'file:///a', type: NETWORK}", "the plugin does not run"),
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
