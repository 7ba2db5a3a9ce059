//! What operators see of a plugin: what its module is, what its settings miss, and that it is held back.

use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{WASM, ask, module_bytes, probe};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::Upstream;
use serde_json::Value;

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
