//! WasmPlugin resources: a module and its configuration come into effect, change, and fail to.

use super::get;
use gateway_tests::eventually;
use gateway_tests::gateway::Setup;
use gateway_tests::plugins::{module, module_bytes, probe, wasm_plugin};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};
use std::fs;

fn add_header(value: &str) -> String {
    let spec = format!(
        "pluginConfig:\n  request: {{set: {{x-greeting: '{value}'}}}}\n  response: {{add: {{x-extended-by: '{value}'}}}}"
    );
    wasm_plugin("add-header", &module("add-header"), &spec)
}

#[tokio::test]
async fn a_plugin_changes_request_and_response_and_follows_its_configuration() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::new(200).header("x-extended-by", "service").text("hello"));
    let gateway = Setup::new()
        .workers(2)
        .file("all.yaml", everything_to(&upstream))
        .file("plugin.yaml", add_header("one"))
        .start()
        .await
        .unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let mut client = gateway.client().await.unwrap();
    let response = get(&mut client, "/", "x-greeting: client").await;
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert_eq!(response.header_values("x-extended-by"), ["service", "one"]);
    assert_eq!(upstream.received(1).await.unwrap()[0].header_values("x-greeting"), ["one"]);

    gateway.write("plugin.yaml", &add_header("two")).await.unwrap();
    let response = get(&mut client, "/", "x-greeting: client").await;
    assert_eq!(response.header_values("x-extended-by"), ["service", "two"], "on the connection there was");
    assert_eq!(upstream.received(2).await.unwrap()[1].header_values("x-greeting"), ["two"]);

    // What the plugin refuses changes nothing, and its own words say why.
    let refused = add_header("two").replace("x-greeting: 'two'", "content-length: '0', x-greeting: 'three'");
    gateway.write("plugin.yaml", &refused).await.unwrap();
    let response = get(&mut client, "/", "").await;
    assert_eq!(response.header_values("x-extended-by"), ["service", "two"], "the last good version");
    let problems = gateway.problems();
    assert!(
        problems.iter().any(|problem| problem.file.ends_with("plugin.yaml")
            && problem.resource.contains("add-header")
            && problem.message.contains("request.set.content-length")),
        "{problems:#?}"
    );

    gateway.write("plugin.yaml", &add_header("four")).await.unwrap();
    assert_eq!(get(&mut client, "/", "").await.header_values("x-extended-by"), ["service", "four"]);
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());

    gateway.remove("plugin.yaml").await.unwrap();
    assert_eq!(get(&mut client, "/", "").await.header_values("x-extended-by"), ["service"]);
}

#[tokio::test]
async fn a_module_that_is_replaced_on_disk_is_taken_over() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin.wasm");
    let replace = |name: &str| {
        let fresh = folder.path().join("fresh");
        fs::write(&fresh, module_bytes(name)).unwrap();
        fs::rename(fresh, &path).unwrap();
    };
    replace("probe");
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        // A configuration that both plugins accept: to add-header `name` is unknown, so it has none.
        .file("plugin.yaml", wasm_plugin("changing", &path, ""))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    assert_eq!(get(&mut client, "/", "").await.header("x-trace"), Some(""));

    replace("add-header");
    let taken = async || Ok(get(&mut client, "/", "").await.header("x-trace").is_none().then_some(()));
    eventually("the new module", taken).await.unwrap();

    // A broken file is not: the version that runs stays.
    fs::write(&path, b"no module").unwrap();
    let told = async || {
        let problems = gateway.problems();
        Ok(problems.into_iter().find(|problem| problem.resource.contains("changing")))
    };
    let problem = eventually("the broken module", told).await.unwrap();
    assert_eq!(problem.field, "spec.url");
    assert!(problem.message.contains("not a valid WebAssembly module"), "{problem:#?}");
    assert!(problem.message.contains("keeps serving"), "{problem:#?}");
    let response = get(&mut client, "/", "").await;
    assert_eq!((response.status, response.header("x-trace")), (200, None));
    assert_eq!(gateway.admin_json("/plugins/changing").await.unwrap()["state"], "live");
}

#[tokio::test]
async fn a_plugin_without_a_good_version_is_decided_by_its_fail_strategy() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let missing = std::path::Path::new("/there/is/no.wasm");
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .file("plugin.yaml", wasm_plugin("broken", missing, ""))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    let response = get(&mut client, "/", "").await;
    assert_eq!((response.status, response.text().as_str()), (403, "RBAC: access denied"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    let problems = gateway.problems();
    assert!(problems.iter().any(|problem| problem.message.contains("/there/is/no.wasm")), "{problems:#?}");
    let view = gateway.admin_json("/plugins/broken").await.unwrap();
    assert_eq!(view["state"], "failed");
    assert!(view["reason"].as_str().unwrap().contains("no.wasm"), "{view}");

    gateway.write("plugin.yaml", &wasm_plugin("broken", missing, "failStrategy: FAIL_OPEN")).await.unwrap();
    assert_eq!(get(&mut client, "/", "").await.status, 200);

    // One that does not start is the same, and its code says on which side it is.
    for always in ["start=refuse", "start=trap", "start=loop", "start=memory", "start=exit"] {
        gateway.write("plugin.yaml", &probe("broken", always, "")).await.unwrap();
        assert_eq!(get(&mut client, "/", "").await.status, 403, "{always}");
        assert_eq!(gateway.problems().len(), 1, "{always}: {:#?}", gateway.problems());
    }
    gateway.write("plugin.yaml", &probe("broken", "", "")).await.unwrap();
    assert_eq!(get(&mut client, "/", "").await.status, 200, "it is repaired");
    assert_eq!(upstream.requests().len(), 2, "refused requests did not get through");
}
