//! Declarations of plugins and the chains of listeners.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;
use crate::{
    plugins::{ModuleSource, Origin, Remote, Scope},
    snapshot::{Code, FailStrategy, Phase, Plugin, PluginId},
};

#[test]
fn plugins_are_declared_and_attached() {
    let plugin = |metadata: &str, spec: &str| {
        format!("apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{{metadata}}}\nspec: {spec}\n")
    };
    let picture = Picture::of(&[
        &plugin(
            "name: a",
            "{url: 'file://m/a.wasm', phase: AUTHN, priority: 7, failStrategy: FAIL_OPEN, pluginName: root, pluginConfig: {z: 1, a: [x, 1.5]}, match: [{ports: [{number: 8080}]}, {mode: SERVER}], vmConfig: {env: [{name: K, value: v}, {name: SURELY_UNSET, valueFrom: HOST}]}}",
        ),
        &plugin(
            "name: b, namespace: istio-system, creationTimestamp: '2024-01-01T00:00:00Z'",
            "{url: 'file:///b.wasm', pluginConfig: {}, selector: {matchLabels: {istio: ingressgateway}}}",
        ),
        &plugin("name: c, namespace: elsewhere", "{url: 'file:///c.wasm'}"),
        &plugin("name: d", "{url: 'file:///d.wasm', selector: {matchLabels: {app: other}}}"),
        &plugin("name: e", "{url: 'file:///e.wasm', match: [{mode: SERVER}]}"),
        &plugin("name: f", "{url: 'oci://r/f:1', match: [{mode: CLIENT}]}"),
        &plugin("name: h", "{url: 'file:///h.wasm', targetRefs: [{kind: Gateway, name: g}]}"),
    ]);
    let names: Vec<&str> = picture.declarations.iter().map(|declaration| declaration.name.as_str()).collect();
    // With a time before without; `f` is there so that its failStrategy decides.
    assert_eq!(names, ["b", "a", "f"]);
    let [b, a, f] = picture.declarations.as_slice() else { panic!() };
    assert_eq!(a.source, ModuleSource::File("dir/m/a.wasm".into()));
    assert_eq!(a.configuration, r#"{"z":1,"a":["x",1.5]}"#);
    assert_eq!(
        (a.phase, a.priority, a.fail_strategy, a.ports.as_slice()),
        (Phase::Authn, Some(7), FailStrategy::Open, &[8080][..])
    );
    assert_eq!((a.root_id.as_str(), a.root_namespace), ("root", false));
    assert_eq!(a.environment, [("K".to_owned(), "v".to_owned())]);
    assert_eq!((b.configuration.len(), b.root_namespace, b.created.as_str()), (0, true, "2024-01-01T00:00:00Z"));
    assert!(b.created < a.created && a.created < f.created);
    let remote = Remote { url: "oci://r/f:1".to_owned(), sha256: None, revision: None, secret: None };
    assert_eq!(f.source, ModuleSource::Remote(remote));
    for expected in ["SURELY_UNSET", "targetRefs attach"] {
        assert!(picture.problems.iter().any(|problem| problem.contains(expected)), "{:#?}", picture.problems);
    }

    let attached: Vec<Attached> = [("a", vec![8080]), ("b", vec![]), ("c", vec![80])]
        .into_iter()
        .map(|(name, ports)| {
            let plugin = Plugin {
                id: PluginId(1),
                namespace: "default".to_owned(),
                name: name.to_owned(),
                digest: String::new(),
                phase: Phase::Unspecified,
                priority: None,
                network: false,
                fail_strategy: FailStrategy::Close,
                code: Code::Unavailable { reason: String::new() },
            };
            Attached {
                plugin: Arc::new(plugin),
                origin: Origin::Upload,
                ports,
                scope: Scope::default(),
                overrides: Vec::new(),
            }
        })
        .collect();
    // `match.ports` is the bound port, also where a test binds elsewhere.
    let mut options = Options::default();
    options.bind.insert(80, "127.0.0.1:0".parse().unwrap());
    for options in [Options::default(), options] {
        let picture = Picture::with(&[GATEWAY], &options, &attached);
        let chain: Vec<&str> =
            picture.snapshot.listeners[0].plugins.iter().map(|plugin| plugin.name.as_str()).collect();
        assert_eq!(chain, ["a", "b"]);
    }
}

#[test]
fn modules_elsewhere_are_fetched_as_their_pull_policy_says() {
    let plugin = |name: &str, spec: &str| {
        format!(
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        )
    };
    let hex = "a".repeat(64);
    // URL, policy and digest; what is fetched; whether again when the resource changes.
    for (spec, url, again) in [
        ("{url: 'r.io/a'}", "oci://r.io/a", true),
        ("{url: 'oci://r.io/a:latest'}", "oci://r.io/a:latest", true),
        ("{url: 'r.io:5000/a'}", "oci://r.io:5000/a", true),
        ("{url: 'r.io:5000/a:v1'}", "oci://r.io:5000/a:v1", false),
        ("{url: 'r.io/a:v1', imagePullPolicy: Always}", "oci://r.io/a:v1", true),
        ("{url: 'r.io/a', imagePullPolicy: IfNotPresent}", "oci://r.io/a", false),
        ("{url: 'r.io/a', imagePullPolicy: UNSPECIFIED_POLICY}", "oci://r.io/a", true),
        (&format!("{{url: 'r.io/a', imagePullPolicy: Always, sha256: {hex}}}"), "oci://r.io/a", false),
        (
            &format!("{{url: 'r.io/a@sha256:{hex}', imagePullPolicy: Always}}"),
            &format!("oci://r.io/a@sha256:{hex}"),
            false,
        ),
        ("{url: 'https://r.io/a.wasm'}", "https://r.io/a.wasm", false),
        ("{url: 'https://r.io/a.wasm', imagePullPolicy: Always}", "https://r.io/a.wasm", true),
    ] {
        let remote = |text: &str| match &Picture::of(&[&plugin("p", text)]).declarations[0].source {
            ModuleSource::Remote(remote) => remote.clone(),
            other => panic!("{text}: {other:?}"),
        };
        let first = remote(spec);
        assert_eq!((first.url.as_str(), first.revision.is_some()), (url, again), "{spec}");
        assert_eq!(remote(spec), first, "the same resource");
        let changed = remote(&spec.replacen('{', "{priority: 1, ", 1));
        assert_eq!(changed.revision != first.revision, again, "{spec}");
    }
}

#[test]
fn targets_are_for_gateways_of_the_kubernetes_gateway_api() {
    let plugin = |metadata: &str, spec: &str| {
        format!("apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{{metadata}}}\nspec: {spec}\n")
    };
    let to = |group: &str, kind: &str, name: &str| {
        format!("{{url: 'file:///a', targetRefs: [{{group: '{group}', kind: {kind}, name: {name}}}]}}")
    };
    const API: &str = "gateway.networking.k8s.io";
    let texts = [
        plugin("name: ours", &to(API, "Gateway", "front")),
        plugin("name: another", &to(API, "Gateway", "back")),
        plugin("name: service", &to("", "Service", "front")),
        plugin("name: root, namespace: istio-system", &to(API, "Gateway", "front")),
        plugin("name: selector", "{url: 'file:///a', selector: {matchLabels: {istio: ingressgateway}}}"),
        plugin("name: all", "{url: 'file:///a'}"),
    ];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut options = Options::default();
    let names = |options: &Options| {
        let picture = Picture::with(&texts, options, &[]);
        picture.declarations.iter().map(|declaration| declaration.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&options), ["selector", "all"]);
    options.labels.insert(format!("{API}/gateway-name"), "front".to_owned());
    assert_eq!(names(&options), ["ours", "selector", "all"]);
}
