//! What operators see of a plugin: what its module is, what its settings miss, and that it is held back.

use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{FORM, WASM, ask, form, module_bytes, probe, wasm_plugin};
use gateway_tests::resources::{GATEWAY, everything_to, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::Upstream;
use serde_json::{Value, json};

use super::{get, terms::annotated};

/// `GET /plugins/{name}`
async fn shown(gateway: &TestGateway, name: &str) -> Value {
    let (status, shown) = ask(gateway, "GET", &format!("/plugins/{name}"), "", b"").await.unwrap();
    assert_eq!(status, 200, "{shown}");
    shown
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

/// The section that says what a module was made by; not every tool chain leaves it in.
fn producers(name: &str, version: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let content = [text("producers"), vec![1], text("processed-by"), vec![1], text(name), text(version)].concat();
    [vec![0, u8::try_from(content.len()).unwrap()], content].concat()
}

#[tokio::test]
async fn the_detail_of_a_plugin_says_what_its_module_is() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let setup = Setup::new().file("all.yaml", everything_to(&upstream)).file("plugin.yaml", probe("file", "", ""));
        setup.data_dir(folder.path()).start()
    };
    let gateway = start().await.unwrap();
    let (status, uploaded) = ask(&gateway, "PUT", "/plugins/upload", WASM, &module_bytes("probe")).await.unwrap();
    assert_eq!(status, 201, "{uploaded}");
    let module = &uploaded["module"];
    assert_eq!((&module["abi"], &module["wasi"]), (&uploaded["abi"], &Value::Bool(true)), "{module}");
    assert!(names(&module["callbacks"]).contains(&"proxy_on_request_headers"), "{module}");
    assert!(names(&module["imports"]["env"]).contains(&"proxy_log"), "{module}");
    assert!(module["memory"]["min"].as_u64().unwrap() >= 64 << 10, "{module}");
    assert!(module["functions"].as_u64().unwrap() > 0 && module["codeBytes"].as_u64().unwrap() > 0, "{module}");
    assert_eq!(shown(&gateway, "file").await["module"], *module, "the same for a resource");
    let made = [module_bytes("add-header"), producers("rustc", "1.95.0")].concat();
    let (_, other) = ask(&gateway, "PUT", "/plugins/other", WASM, &made).await.unwrap();
    assert!(names(&other["module"]["producers"]["processed-by"]).contains(&"rustc 1.95.0"), "{other}");
    let (_, list) = ask(&gateway, "GET", "/plugins", "", b"").await.unwrap();
    assert_eq!(list["plugins"].as_array().unwrap().len(), 3);
    assert!(list["plugins"].as_array().unwrap().iter().all(|plugin| plugin.get("module").is_none()), "{list}");
    gateway.shutdown().await.unwrap();

    // It is not compiled again after a restart, but known all the same.
    let gateway = start().await.unwrap();
    assert_eq!(shown(&gateway, "upload").await["module"], *module);
    gateway.write("plugin.yaml", &probe("file", "start=refuse", "")).await.unwrap();
    assert_eq!(shown(&gateway, "file").await["module"], *module, "that of the version that serves");
}

#[tokio::test]
async fn hosts_and_routes_that_do_not_exist_are_warned_of() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let route = |name: &str, host: &str| {
        let http = "  - name: first\n    route: [{destination: {host: sample}}]";
        virtual_service(name, &[host], http)
    };
    let resource = annotated(
        &probe("resource", "", ""),
        &[("hosts", r#"[shop.example.com, a.example.com]"#), ("routes", "[default/a/second]")],
    );
    let gateway = Setup::new()
        .file("gateway.yaml", GATEWAY)
        .file("service.yaml", service("sample", &[&upstream]))
        .file("a.yaml", route("a", "*.example.com"))
        .file("b.yaml", route("b", "b.example.dev"))
        .file("plugin.yaml", resource)
        .start()
        .await
        .unwrap();
    let none =
        "plugin.gateway/routes\"]: this gateway has no route default/a/second, so the plugin sees no request at all";
    let warnings = shown(&gateway, "resource").await["warnings"].clone();
    assert_eq!(names(&warnings).len(), 1, "the host is one of *.example.com: {warnings}");
    assert!(names(&warnings)[0].ends_with(none), "{warnings}");

    let settings = json!({
        "hosts": ["b.example.dev", "*.example.org"], "routes": ["default/a/first"],
        "overrides": [{"hosts": ["c.example.dev"], "pluginConfig": {"name": "c"}}],
    });
    let (module, text) = (module_bytes("probe"), settings.to_string());
    let body = form(&[("module", &module), ("settings", text.as_bytes())]);
    let (status, uploaded) = ask(&gateway, "PUT", "/plugins/upload", FORM, &body).await.unwrap();
    assert_eq!((status, &uploaded["state"]), (201, &json!("live")), "it is no refusal: {uploaded}");
    let expected = [
        "hosts: this gateway serves no host *.example.org, so nothing is chosen by it",
        "overrides: this gateway serves no host c.example.dev, so nothing is chosen by it",
    ];
    assert_eq!(names(&uploaded["warnings"]), expected);
    let problems = gateway.problems();
    let of_upload: Vec<_> = problems.iter().filter(|problem| problem.resource == "Upload default/upload").collect();
    assert_eq!(of_upload.len(), 2, "{problems:#?}");

    // The routes may come later.
    gateway.write("c.yaml", &(route("c", "c.example.dev") + &route("d", "x.example.org"))).await.unwrap();
    assert_eq!(shown(&gateway, "upload").await["warnings"], json!([]));
    assert_eq!(gateway.problems().len(), 1, "{:#?}", gateway.problems());
    gateway.remove("b.yaml").await.unwrap();
    assert_eq!(
        names(&shown(&gateway, "upload").await["warnings"]),
        ["hosts: this gateway serves no host b.example.dev, so nothing is chosen by it"]
    );
}

/// A plugin whose instances refuse to start while shared data says so. A request with more than 30 headers makes it say so,
/// and crashes; a version with a configuration takes it back.
const FICKLE: &str = r#"(module
    (import "env" "proxy_get_shared_data" (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_shared_data" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "broken")
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) i32.const 1024)
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
        (if (local.get 1) (then (return (i32.eqz (call $set (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 0) (i32.const 0))))))
        (drop (call $get (i32.const 0) (i32.const 6) (i32.const 100) (i32.const 104) (i32.const 108)))
        (i32.eqz (i32.load (i32.const 104))))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (if (i32.gt_u (local.get 1) (i32.const 30)) (then
            (drop (call $set (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 1) (i32.const 0)))
            unreachable))
        i32.const 0))"#;

#[tokio::test]
async fn a_plugin_that_does_not_start_is_held_back_and_says_so() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let module = wat::parse_str(FICKLE).unwrap();
    let gateway = Setup::new().workers(1).file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let put = async |name: &str, settings: &str| {
        let body = form(&[("module", &module), ("settings", settings.as_bytes())]);
        let (status, answer) = ask(&gateway, "PUT", &format!("/plugins/{name}"), FORM, &body).await.unwrap();
        assert_eq!((status, &answer["state"]), (201, &json!("live")), "{answer}");
    };
    put("fickle", "{}").await;
    let mut client = gateway.client().await.unwrap();
    let many = (0..40).map(|number| format!("x-{number}: 1")).collect::<Vec<_>>().join("\r\n");
    assert_eq!(get(&mut client, "/", "").await.status, 200);
    // The instance that serves, and its spare.
    for _ in 0..2 {
        assert_eq!(get(&mut client, "/", &many).await.status, 503);
    }
    let becomes = async |name: &str, state: &str| {
        let as_wanted = async || Ok(Some(shown(&gateway, name).await).filter(|shown| shown["state"] == state));
        gateway_tests::eventually("a plugin to be in this state", as_wanted).await.unwrap()
    };
    let says_when_and_why = |plugin: &Value| {
        let (reason, again) = (plugin["reason"].as_str().unwrap(), plugin["retryAt"].as_str().unwrap());
        assert!(reason.contains("proxy_on_configure returned false"), "{reason}");
        assert!(reason.ends_with(&format!("; tried again at {again}")), "{reason}");
    };
    says_when_and_why(&becomes("fickle", "held-back").await);
    gateway
        .metric_becomes("gateway_plugin_held_back", &[("namespace", "default"), ("plugin", "fickle")], 1.0)
        .await
        .unwrap();
    let (_, list) = ask(&gateway, "GET", "/plugins", "", b"").await.unwrap();
    assert_eq!(list["plugins"][0]["state"], "held-back");
    assert_eq!(get(&mut client, "/", "").await.status, 503, "nothing is left of it, but it protects");

    // One that never served fails, and is tried again by itself.
    let file = gateway.home().join("fickle.wasm");
    std::fs::write(&file, &module).unwrap();
    gateway.write("late.yaml", &wasm_plugin("late", &file, "priority: -1")).await.unwrap();
    says_when_and_why(&becomes("late", "failed").await);
    gateway.metric_becomes("gateway_plugin_held_back", &[("plugin", "late")], 1.0).await.unwrap();
    put("healer", r#"{"pluginConfig": {"heal": true}}"#).await;
    let late = becomes("late", "live").await;
    assert_eq!((&late["reason"], late.get("retryAt")), (&json!(""), None), "{late}");
    gateway_tests::eventually("the plugin to be back", async || {
        Ok((get(&mut client, "/", "").await.status == 200).then_some(()))
    })
    .await
    .unwrap();
    let fickle = becomes("fickle", "live").await;
    assert_eq!((&fickle["reason"], fickle.get("retryAt")), (&json!(""), None), "{fickle}");
    assert_eq!(gateway.metrics().await.unwrap().sum("gateway_plugin_held_back", &[]), 0.0);
}
