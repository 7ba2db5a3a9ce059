//! What WasmPlugin has no field for: budgets, and the hosts and routes that a plugin is limited to.

use gateway_tests::client::RawClient;
use gateway_tests::gateway::Setup;
use gateway_tests::plugins::{FORM, ask, form, module, module_bytes, probe, wasm_plugin};
use gateway_tests::resources::{GATEWAY, everything_to, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};
use serde_json::json;
use std::time::Instant;

use super::get;

/// A plugin with annotations.
pub(super) fn annotated(plugin: &str, annotations: &[(&str, &str)]) -> String {
    let lines: String =
        annotations.iter().map(|(name, value)| format!("\n    plugin.gateway/{name}: '{value}'")).collect();
    let (before, after) = plugin.split_once("metadata: {").unwrap();
    let (fields, rest) = after.split_once('}').unwrap();
    let fields = fields.replace(", ", "\n  ");
    format!("{before}metadata:\n  {fields}\n  annotations:{lines}{rest}")
}

fn add_header(name: &str, annotations: &[(&str, &str)]) -> String {
    let spec = format!("pluginConfig: {{response: {{add: {{x-seen-by: {name}}}}}}}");
    annotated(&wasm_plugin(name, &module("add-header"), &spec), annotations)
}

/// The values of `x-seen-by` of the answer from this host and path.
async fn seen_by(client: &mut RawClient, host: &str, path: &str) -> Vec<String> {
    client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await.unwrap();
    let response = client.response().await.unwrap();
    response.header_values("x-seen-by").into_iter().map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn a_plugin_is_limited_to_hosts_and_routes_and_has_other_configurations_there() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::new(200).text("hello"));
    let routes = "  - name: cart\n    match: [{uri: {prefix: /cart}}]\n    route: [{destination: {host: sample}}]\n\
                  \x20 - name: rest\n    route: [{destination: {host: sample}}]";
    let hosts = add_header("hosts", &[("hosts", r#"[a.example.com, "*.b.example.com"]"#)]);
    let route = add_header("route", &[("routes", "[default/shop/cart]")]);
    let service_of = add_header("shop", &[("routes", "[default/shop]")]);
    let other = r#"[{hosts: [a.example.com], pluginConfig: {response: {add: {x-seen-by: first}}}},
        {routes: [default/shop/cart], pluginConfig: {response: {add: {x-seen-by: second}}}}]"#;
    let overrides = add_header("base", &[("overrides", other)]);
    let gateway = Setup::new()
        .file("gateway.yaml", GATEWAY)
        .file("service.yaml", service("sample", &[&upstream]))
        .file("routes.yaml", virtual_service("shop", &["*"], routes))
        // Response callbacks run in reverse.
        .file("1.yaml", hosts)
        .file("2.yaml", route)
        .file("3.yaml", service_of)
        .file("4.yaml", overrides)
        .start()
        .await
        .unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let mut client = gateway.client().await.unwrap();
    for (host, path, expected) in [
        ("a.example.com", "/", &["first", "shop", "hosts"][..]),
        ("A.example.com:80", "/cart", &["first", "shop", "route", "hosts"]),
        ("x.b.example.com", "/cart", &["second", "shop", "route", "hosts"]),
        ("b.example.com", "/", &["base", "shop"]),
        ("other", "/cart/1", &["second", "shop", "route"]),
    ] {
        assert_eq!(seen_by(&mut client, host, path).await, expected, "{host}{path}");
    }

    // A route that does not exist is said, and the plugin that is limited to it does not run.
    gateway.write("2.yaml", &add_header("route", &[("routes", "[default/shop/basket]")])).await.unwrap();
    let problems = gateway.problems();
    assert!(
        problems.iter().any(|problem| problem.message.contains("no route default/shop/basket")
            && problem.field == r#"metadata.annotations["plugin.gateway/routes"]"#),
        "{problems:#?}"
    );
    assert_eq!(seen_by(&mut client, "other", "/cart/1").await, ["second", "shop"]);
}

#[tokio::test]
async fn a_listener_whose_plugins_are_all_for_other_hosts_serves_without() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::echo());
    let bad = annotated(&probe("bad", "request_headers=trap", ""), &[("hosts", "[other.example.dev]")]);
    let gateway =
        Setup::new().file("all.yaml", everything_to(&upstream)).file("plugin.yaml", bad).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    assert_eq!(get(&mut client, "/", "").await.status, 200);
    client.send("GET / HTTP/1.1\r\nhost: other.example.dev\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 503);
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "hello");
}

#[tokio::test]
async fn budgets_are_a_plugins_own() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::echo());
    let bad = annotated(&probe("bad", "", ""), &[("limits", "{pause: 50ms, body: 3, memory: 4Mi}")]);
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .file("plugins.yaml", probe("good", "", "priority: 2") + &bad)
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    let started = Instant::now();
    assert_eq!(get(&mut client, "/", "x-probe-bad: request_headers=hang").await.status, 503);
    assert!(started.elapsed().as_secs() < 20, "not the gateway's 30 s");
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "plugin_pause_time")], 1.0).await.unwrap();
    assert_eq!(get(&mut client, "/", "x-probe-bad: request_headers=memory").await.status, 503);
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "plugin_memory")], 1.0).await.unwrap();
    // A body of 10 bytes is too much for the one, and nothing for the other.
    for (name, status) in [("good", 200), ("bad", 413)] {
        let script = format!("x-probe-{name}: request_body=flood:10");
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{script}\r\ncontent-length: 5\r\n\r\nhello")).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, status, "{name}");
    }
}

#[tokio::test]
async fn an_upload_has_the_same_settings() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::new(200).text("hello"));
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let settings = json!({
        "pluginConfig": {"response": {"add": {"x-seen-by": "base"}}}, "limits": {"callbackCpu": "2s", "memory": "1Gi"},
        "isolation": "request", "hosts": ["*.example.com"], "routes": ["default/everything"],
        "overrides": [{"hosts": ["a.example.com"], "pluginConfig": {"response": {"add": {"x-seen-by": "first"}}}}],
    });
    let (module, text) = (module_bytes("add-header"), settings.to_string());
    let body = form(&[("module", &module), ("settings", text.as_bytes())]);
    let (status, shown) = ask(&gateway, "PUT", "/plugins/scoped", FORM, &body).await.unwrap();
    assert_eq!((status, &shown["settings"]), (201, &settings), "{shown}");
    let mut client = gateway.client().await.unwrap();
    assert_eq!(seen_by(&mut client, "a.example.com", "/").await, ["first"]);
    assert_eq!(seen_by(&mut client, "b.example.com", "/").await, ["base"]);
    assert!(seen_by(&mut client, "example.com", "/").await.is_empty());

    for (settings, field) in [
        (json!({"limits": {"callbackCpu": "1h"}}), "limits.callbackCpu"),
        (json!({"overrides": [{"hosts": ["a"], "routes": [1]}]}), "overrides[0].routes[0]"),
    ] {
        let text = settings.to_string();
        let (status, error) =
            ask(&gateway, "PUT", "/plugins/scoped", "application/json", text.as_bytes()).await.unwrap();
        assert_eq!((status, error["error"]["field"].as_str()), (400, Some(field)), "{error}");
    }
    assert_eq!(seen_by(&mut client, "a.example.com", "/").await, ["first"], "nothing has changed");
}

#[tokio::test]
async fn an_instance_of_its_own_for_every_request() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|_| Answer::echo());
    let isolated = |spec: &str| annotated(&probe("bad", "", spec), &[("isolation", "request")]);
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .file("plugins.yaml", probe("first", "", "priority: 2") + &isolated(""))
        .start()
        .await
        .unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let (_, shown) = ask(&gateway, "GET", "/plugins/bad", "", b"").await.unwrap();
    let way = shown["isolation"].as_str().unwrap_or_default();
    assert!(way.starts_with("request: a copy of "), "{shown}");
    let (_, shown) = ask(&gateway, "GET", "/plugins/first", "", b"").await.unwrap();
    assert_eq!(shown.get("isolation"), None, "{shown}");

    // One instance for the timer, one to take its place, and none of a request that is over.
    let mut client = gateway.client().await.unwrap();
    for _ in 0..20 {
        assert_eq!(get(&mut client, "/", "").await.header_values("x-trace"), ["bad", "first"]);
    }
    gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 2.0).await.unwrap();

    // A stream that is paused has its own as well, and the death of another one is nothing to it.
    let mut waiting = gateway.client().await.unwrap();
    waiting.send("GET / HTTP/1.1\r\nhost: a\r\nx-probe-bad: request_headers=hang\r\n\r\n").await.unwrap();
    gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 3.0).await.unwrap();
    for how in ["trap", "loop"] {
        assert_eq!(get(&mut client, "/", &format!("x-probe-bad: request_headers={how}")).await.status, 503);
        assert_eq!(get(&mut client, "/", "").await.header_values("x-trace"), ["bad", "first"]);
    }
    gateway.metric_becomes("gateway_plugin_traps_total", &[("plugin", "bad")], 1.0).await.unwrap();
    gateway.metric_becomes("gateway_plugin_deadlines_total", &[("plugin", "bad")], 1.0).await.unwrap();
    gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 3.0).await.unwrap();
    drop(waiting);
    gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "bad")], 2.0).await.unwrap();

    // As many crashes as there are requests turn nothing off and use up no spares.
    for _ in 0..150 {
        assert_eq!(get(&mut client, "/", "x-probe-bad: request_headers=trap").await.status, 503);
    }
    assert_eq!(get(&mut client, "/", "").await.header_values("x-trace"), ["bad", "first"]);
    assert_eq!(
        gateway.metrics().await.unwrap().sum("gateway_limit_exceeded_total", &[("limit", "plugin_instances")]),
        0.0
    );

    gateway.write("plugins.yaml", &isolated("failStrategy: FAIL_OPEN")).await.unwrap();
    assert_eq!(get(&mut client, "/", "x-probe-bad: request_headers=trap").await.status, 200);
}
