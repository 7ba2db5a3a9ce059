//! What operators see of a plugin: what its module is, what its settings miss, and that it is held back.

use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{FORM, WASM, ask, form, module_bytes, probe};
use gateway_tests::resources::{GATEWAY, everything_to, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::Upstream;
use serde_json::{Value, json};

use super::terms::annotated;

/// `GET /plugins/{name}`
async fn shown(gateway: &TestGateway, name: &str) -> Value {
    let (status, shown) = ask(gateway, "GET", &format!("/plugins/{name}"), "", b"").await.unwrap();
    assert_eq!(status, 200, "{shown}");
    shown
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
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
    let (_, other) = ask(&gateway, "PUT", "/plugins/other", WASM, &module_bytes("add-header")).await.unwrap();
    assert!(names(&other["module"]["producers"]["processed-by"])[0].starts_with("rustc "), "{other}");
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
