//! Plugins that are uploaded to a running gateway, over HTTP and with the command line.

use gateway_tests::client::RawClient;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{FORM, ask, form, module, module_bytes, probe, variant};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::Upstream;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

const WASM: &str = "application/wasm";
const JSON: &str = "application/json";

async fn start(upstream: &Upstream, change: impl FnOnce(Setup) -> Setup) -> TestGateway {
    change(Setup::new().workers(2).file("all.yaml", everything_to(upstream))).start().await.unwrap()
}

/// The names of the probes that a request passes.
async fn trace(gateway: &TestGateway) -> Vec<String> {
    let response = gateway.client().await.unwrap().get("test.example.dev", "/").await.unwrap();
    assert_eq!(response.status, 200);
    response.header_values("x-trace").into_iter().rev().map(str::to_owned).collect()
}

async fn put(gateway: &TestGateway, path: &str, kind: &str, body: impl AsRef<[u8]>) -> (u16, Value) {
    ask(gateway, "PUT", &format!("/plugins/{path}"), kind, body.as_ref()).await.unwrap()
}

async fn get(gateway: &TestGateway, path: &str) -> (u16, Value) {
    ask(gateway, "GET", &format!("/plugins{path}"), "", b"").await.unwrap()
}

async fn delete(gateway: &TestGateway, name: &str) -> u16 {
    ask(gateway, "DELETE", &format!("/plugins/{name}"), "", b"").await.unwrap().0
}

fn named(name: &str) -> String {
    json!({ "pluginConfig": { "name": name } }).to_string()
}

/// A form with a module and the configuration of a probe of this name.
fn probe_form(module: &[u8], name: &str) -> Vec<u8> {
    form(&[("module", module), ("settings", named(name).as_bytes())])
}

#[tokio::test]
async fn an_upload_acts_at_once_can_be_changed_and_removed() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, |setup| setup).await;
    let module = module_bytes("probe");

    let (status, shown) =
        put(&gateway, "one?phase=AUTHN&priority=7&failStrategy=FAIL_OPEN&pluginName=r", WASM, &module).await;
    assert_eq!(status, 201, "{shown}");
    assert_eq!((&shown["name"], &shown["source"], &shown["state"]), (&json!("one"), &json!("upload"), &json!("live")));
    assert_eq!((&shown["phase"], &shown["priority"]), (&json!("AUTHN"), &json!(7)));
    assert_eq!((&shown["failStrategy"], &shown["settings"]["pluginName"]), (&json!("FAIL_OPEN"), &json!("r")));
    assert_eq!((&shown["abi"], &shown["workers"], &shown["bytes"]), (&json!("0.2.1"), &json!(2), &json!(module.len())));
    assert_eq!(shown["versions"].as_array().unwrap().len(), 1);
    assert_eq!(get(&gateway, "/one").await, (200, shown.clone()));
    assert_eq!(trace(&gateway).await, [""], "it has no name yet");

    // The same once more is no change: nothing is published.
    let version = gateway.gateway().progress().borrow().version;
    let (status, again) = put(&gateway, "one?phase=AUTHN", WASM, &module).await;
    assert_eq!((status, &again["versions"]), (200, &shown["versions"]));
    assert_eq!(gateway.gateway().progress().borrow().version, version);

    // Settings only: what is not named keeps its value.
    let (status, shown) = put(&gateway, "one", JSON, named("one")).await;
    assert_eq!((status, &shown["phase"], &shown["priority"]), (200, &json!("AUTHN"), &json!(7)));
    assert_eq!(shown["versions"].as_array().unwrap().len(), 2, "a version is a module with its settings");
    assert_eq!(trace(&gateway).await, ["one"]);

    // Both at once.
    let newer = variant(&module, "newer");
    let parts: [(&str, &[u8]); 2] =
        [("settings", br#"{"pluginConfig": {"name": "two"}, "phase": null}"#), ("module", &newer)];
    let (status, shown) = put(&gateway, "one", FORM, form(&parts)).await;
    assert_eq!((status, &shown["phase"], &shown["priority"]), (200, &json!("UNSPECIFIED_PHASE"), &json!(7)));
    assert_eq!(shown["versions"].as_array().unwrap().len(), 3);
    assert_eq!(shown["digest"], shown["versions"][0]["digest"]);
    assert_eq!(trace(&gateway).await, ["two"]);

    // Chain order among uploads and resources.
    assert_eq!(put(&gateway, "first", FORM, probe_form(&module, "first")).await.0, 201);
    gateway.write("plugin.yaml", &probe("resource", "", "priority: 6")).await.unwrap();
    assert_eq!(trace(&gateway).await, ["two", "resource", "first"]);
    assert_eq!(put(&gateway, "first", JSON, r#"{"phase": "AUTHZ"}"#).await.0, 200);
    assert_eq!(trace(&gateway).await, ["first", "two", "resource"]);
    let (_, list) = get(&gateway, "").await;
    let names: Vec<_> = list["plugins"].as_array().unwrap().iter().map(|plugin| &plugin["name"]).collect();
    assert_eq!(names, ["first", "one", "resource"]);

    assert_eq!(delete(&gateway, "one").await, 204);
    assert_eq!(trace(&gateway).await, ["first", "resource"]);
    assert_eq!((get(&gateway, "/one").await.0, delete(&gateway, "one").await), (404, 404));
    let (_, error) = get(&gateway, "/one").await;
    assert_eq!(error["error"]["code"], "plugin-unknown");
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let limited = |setup: Setup| setup.options(|options| options.limits.module_bytes = 200_000);
    let gateway = start(&upstream, limited).await;
    let module = module_bytes("probe");
    let good: [(&str, &[u8]); 2] = [("module", &module), ("settings", br#"{"pluginConfig": {"name": "good"}}"#)];
    assert_eq!(put(&gateway, "p", FORM, form(&good)).await.0, 201);
    let (_, before) = get(&gateway, "").await;

    let always = |script: &str| json!({ "pluginConfig": { "name": "bad", "always": script } }).to_string();
    let wat = |text: &str| wat::parse_str(text).unwrap();
    let unknown = wat(r#"(module (import "env" "proxy_no_such_thing" (func)) (func (export "proxy_abi_version_0_2_1"))
        (memory (export "memory") 1) (func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 0))"#);
    /// Path, content type, body; status, code, field.
    type Case = (&'static str, &'static str, Vec<u8>, u16, &'static str, Value);
    let cases: Vec<Case> = vec![
        ("p", WASM, Vec::new(), 400, "module-missing", json!("module")),
        ("p", WASM, b"no module".to_vec(), 422, "module-malformed", json!("module")),
        ("p", WASM, module[..module.len() / 2].to_vec(), 422, "module-malformed", json!("module")),
        ("p", WASM, wat("(module)"), 422, "module-abi-unknown", json!("module")),
        ("p", WASM, unknown, 422, "module-import-unknown", json!("module")),
        ("p", WASM, vec![0; 300_000], 413, "module-too-large", json!("module")),
        ("p?phase=LATER", WASM, module.clone(), 400, "settings-invalid", json!("phase")),
        ("p", JSON, always("start=refuse").into(), 422, "plugin-configuration-refused", json!("pluginConfig")),
        ("p", JSON, always("start=trap").into(), 422, "plugin-start-trap", json!("module")),
        ("p", JSON, always("start=exit").into(), 422, "plugin-start-trap", json!("module")),
        ("p", JSON, always("start=loop").into(), 422, "plugin-start-deadline", json!("module")),
        ("p", JSON, always("start=memory").into(), 422, "plugin-memory", json!("module")),
        ("p", JSON, b"{".to_vec(), 400, "settings-malformed", json!("settings")),
        ("p", JSON, br#"{"url": "file:///x"}"#.to_vec(), 400, "settings-invalid", json!("url")),
        ("new", JSON, b"{}".to_vec(), 400, "module-missing", json!("module")),
        ("Not-A-Label", WASM, module.clone(), 400, "name-invalid", json!("name")),
    ];
    for (path, kind, body, status, code, field) in cases {
        let (answered, error) = put(&gateway, path, kind, body).await;
        assert_eq!((answered, &error["error"]["code"]), (status, &json!(code)), "{path} {kind}: {error}");
        assert_eq!(error["error"]["field"], field, "{path} {kind}: {error}");
        assert_eq!(trace(&gateway).await, ["good"], "{code}");
    }
    let (_, mut after) = get(&gateway, "").await;
    // All but what the requests above have counted.
    after["plugins"][0]["stats"] = before["plugins"][0]["stats"].clone();
    assert_eq!(after, before);
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
}

#[tokio::test]
async fn names_of_resources_and_callers_from_elsewhere_are_refused() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, |setup| setup.file("plugin.yaml", probe("taken", "", ""))).await;
    let module = module_bytes("probe");
    let (status, error) = put(&gateway, "taken", WASM, &module).await;
    assert_eq!((status, &error["error"]["code"]), (409, &json!("plugin-is-resource")));
    assert!(error["error"]["message"].as_str().unwrap().contains("plugin.yaml"), "{error}");
    assert_eq!(delete(&gateway, "taken").await, 409);
    assert_eq!(trace(&gateway).await, ["taken"]);

    let address = gateway.gateway().admin().admin;
    for (host, more) in [
        ("evil.example.dev".to_owned(), ""),
        (address.to_string(), "origin: http://evil.example.dev\r\n"),
        (address.to_string(), "origin: null\r\n"),
    ] {
        for method in ["GET", "DELETE", "PUT"] {
            let mut client = RawClient::connect(address).await.unwrap();
            let request = format!("{method} /plugins/new HTTP/1.1\r\nhost: {host}\r\n{more}content-length: 0\r\n\r\n");
            client.send(request).await.unwrap();
            assert_eq!(client.response().await.unwrap().status, 403, "{method} {host} {more}");
        }
    }

    // A resource that comes later takes the name, and what was uploaded waits.
    assert_eq!(put(&gateway, "later", FORM, probe_form(&module, "upload")).await.0, 201);
    assert_eq!(trace(&gateway).await, ["upload", "taken"], "a resource without a creation time is the youngest");
    gateway.write("later.yaml", &probe("later", "", "priority: 1")).await.unwrap();
    assert_eq!(trace(&gateway).await, ["later", "taken"]);
    assert_eq!(get(&gateway, "/later").await.1["source"], format!("file://{}", module_path()));
    gateway.remove("later.yaml").await.unwrap();
    assert_eq!(trace(&gateway).await, ["upload", "taken"]);
}

fn module_path() -> String {
    module("probe").display().to_string()
}

#[tokio::test]
async fn uploads_survive_a_restart_and_what_was_damaged_is_reported() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let start_here =
        async |change: fn(Setup) -> Setup| start(&upstream, |setup| change(setup.data_dir(folder.path()))).await;
    let module = module_bytes("probe");
    let gateway = start_here(|setup| setup).await;
    for (name, text) in [("a", ""), ("a", "second"), ("b", "another")] {
        let (status, shown) = put(&gateway, name, FORM, probe_form(&variant(&module, text), name)).await;
        assert!([200, 201].contains(&status), "{shown}");
    }
    let (_, a) = get(&gateway, "/a").await;
    // Nobody else may use the folder meanwhile.
    let second = Setup::new().file("all.yaml", everything_to(&upstream)).data_dir(folder.path()).start().await;
    let refused = second.err().unwrap().to_string();
    assert!(refused.contains("in use") && refused.contains("--data-dir"), "{refused}");
    gateway.shutdown().await.unwrap();

    let gateway = start_here(|setup| setup).await;
    assert_eq!(trace(&gateway).await, ["a", "b"]);
    let (_, back) = get(&gateway, "/a").await;
    for field in ["digest", "bytes", "settings", "versions", "state", "abi"] {
        assert_eq!(back[field], a[field], "{field}");
    }
    assert_eq!(put(&gateway, "b", JSON, r#"{"failStrategy": "FAIL_OPEN"}"#).await.0, 200);
    gateway.shutdown().await.unwrap();

    let gateway = start_here(|setup| setup.options(|options| options.safe_mode = true)).await;
    assert!(trace(&gateway).await.is_empty());
    let (_, held) = get(&gateway, "/a").await;
    assert_eq!(held["state"], "failed");
    assert!(held["reason"].as_str().unwrap().contains("safe mode"), "{held}");
    gateway.shutdown().await.unwrap();

    // Both are listed with what is wrong and treated by their failStrategy; one of them can be sent again, the other
    // deleted.
    for blob in std::fs::read_dir(folder.path().join("blobs")).unwrap() {
        std::fs::write(blob.unwrap().path(), b"damaged").unwrap();
    }
    let gateway = start_here(|setup| setup).await;
    for name in ["a", "b"] {
        let (_, shown) = get(&gateway, &format!("/{name}")).await;
        assert_eq!(shown["state"], "failed");
        assert!(shown["reason"].as_str().unwrap().contains("upload it again"), "{shown}");
    }
    assert_eq!(gateway.problems().len(), 2, "{:#?}", gateway.problems());
    let response = gateway.client().await.unwrap().get("a", "/").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (403, "RBAC: access denied"), "a is FAIL_CLOSE");
    assert_eq!(delete(&gateway, "a").await, 204);
    assert!(trace(&gateway).await.is_empty(), "b is FAIL_OPEN");
    assert_eq!(put(&gateway, "b", WASM, variant(&module, "another")).await.0, 200);
    assert_eq!(trace(&gateway).await, ["b"]);
    gateway.shutdown().await.unwrap();

    std::fs::write(folder.path().join("uploads.json"), b"{ broken").unwrap();
    let gateway = start_here(|setup| setup).await;
    assert!(trace(&gateway).await.is_empty());
    let problems = gateway.problems();
    assert!(problems.iter().any(|problem| problem.message.contains("uploads.json.unreadable")), "{problems:#?}");
    assert_eq!(put(&gateway, "b", FORM, probe_form(&module, "b")).await.0, 201);
    assert_eq!(trace(&gateway).await, ["b"]);
}

#[tokio::test]
async fn uploads_of_one_name_follow_each_other() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, |setup| setup).await;
    let module = module_bytes("probe");
    let names: Vec<_> = (0..8).map(|number| format!("n{number}")).collect();
    let bodies: Vec<_> = names.iter().map(|name| probe_form(&module, name)).collect();
    let mut statuses = Vec::new();
    let answers = futures(bodies.iter().map(|body| put(&gateway, "one", FORM, body))).await;
    for (status, shown) in answers {
        assert!(names.contains(&shown["settings"]["pluginConfig"]["name"].as_str().unwrap().to_owned()), "{shown}");
        statuses.push(status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 201]);
    let (_, shown) = get(&gateway, "/one").await;
    assert_eq!(trace(&gateway).await, [shown["settings"]["pluginConfig"]["name"].as_str().unwrap()]);
}

/// All of them at the same time.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = all.map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|cx| {
        for (one, done) in waiting.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(output) = one.as_mut().poll(cx) {
                *done = Some(output);
            }
        }
        let ready = waiting.iter().all(|(_, done)| done.is_some());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

/// Runs `gateway plugin` as a process.
async fn gateway_plugin(gateway: &TestGateway, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-command"));
    command.arg("plugin").args(arguments).env("GATEWAY_ADMIN_ADDRESS", gateway.gateway().admin().admin.to_string());
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn the_command_line_does_all_of_it() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, |setup| setup).await;
    let (module, home) = (module_path(), gateway.home().to_owned());
    let run = async |arguments: &[&str]| gateway_plugin(&gateway, arguments).await;

    let output = run(&["ls"]).await;
    assert!(output.status.success() && output.stdout.is_empty() && !output.stderr.is_empty());

    let config = home.join("probe-config.yaml");
    std::fs::write(&config, "name: from-file\n").unwrap();
    let output = run(&["push", &module, "--phase", "authn", "--config", config.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", said(&output.stderr));
    assert_eq!(said(&output.stderr), "probe: created, live on 2 workers\n");
    assert_eq!(trace(&gateway).await, ["from-file"]);
    let output = run(&["push", "--name", "probe", "--config-json", r#"{"name": "changed"}"#, "--priority", "-3"]).await;
    assert!(output.status.success(), "{}", said(&output.stderr));
    assert_eq!(trace(&gateway).await, ["changed"]);

    let elsewhere = home.join("elsewhere.yaml");
    std::fs::write(&elsewhere, "routes: [default/elsewhere]\n").unwrap();
    let output = run(&["push", "--name", "probe", "--settings", elsewhere.to_str().unwrap()]).await;
    let warning = "warning: routes: this gateway has no route default/elsewhere, so the plugin sees no request at all";
    assert_eq!(said(&output.stderr), format!("probe: up to date, live on 2 workers\n{warning}\n"));
    assert!(trace(&gateway).await.is_empty());
    assert!(run(&["rollback", "probe"]).await.status.success());

    let output = run(&["ls"]).await;
    let table = said(&output.stdout);
    assert!(table.starts_with("NAME") && table.contains("\nprobe ") && table.contains("AUTHN"), "{table}");
    let output = run(&["show", "probe", "-o", "json"]).await;
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&shown["priority"], &shown["settings"]["pluginConfig"]["name"]), (&json!(-3), &json!("changed")));

    let output = run(&["push", "--name", "probe", "--config-json", r#"{"always": "start=refuse"}"#]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = said(&output.stderr);
    assert!(error.contains("pluginConfig") && error.contains("plugin-configuration-refused"), "{error}");
    assert_eq!(trace(&gateway).await, ["changed"]);

    assert!(run(&["rm", "probe"]).await.status.success());
    assert!(trace(&gateway).await.is_empty());
    let output = run(&["rm", "probe"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output.stderr).contains("plugin-unknown"), "{}", said(&output.stderr));
    for (arguments, code) in [
        (&["push"][..], 64),
        (&["push", "--name", "x", "--priority", "high"], 64),
        (&["push", "/there/is/no.wasm"], 1),
        (&["ls", "--admin-address", "127.0.0.1:1"], 1),
    ] {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output.stderr));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
    assert!(Path::new(&module).is_file());
}
