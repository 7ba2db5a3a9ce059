//! Versions of uploads: exchanged under load, gone back to, disabled, kept over restarts; what a full disk does.
//!
//! `SWAPS`, `SWAP_RATE` (requests a second), `SWAP_FUNCTIONS` (of the module, 3,000 make 1 MB) and `SWAP_GATEWAY` (the
//! program) let the first test measure at full size.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gateway_tests::client::RawClient;
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::load::{Client, Load};
use gateway_tests::plugins::{FORM, ask, ask_at, form, module_bytes, variant};
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, virtual_service};
use serde_json::{Value, json};

const GATEWAY_COMMAND: &str = env!("CARGO_BIN_EXE_gateway-command");
const HOST: &str = "test.example.dev";
const WASM: &str = "application/wasm";
const JSON: &str = "application/json";

/// Every request is answered by the gateway itself.
fn resources() -> String {
    GATEWAY.to_owned() + &virtual_service("all", &["*"], "  - directResponse: {status: 200, body: {string: here}}")
}

/// A plugin that answers with its version in `x-version`, and has so many more functions to compile.
fn versioned(version: usize, functions: usize) -> Vec<u8> {
    let bulk: String = (0..functions)
        .map(|number| {
            let step = |n: usize| {
                format!(
                    "(local.set 2 (i32.mul (i32.xor (local.get 0) (i32.const {})) (i32.add (local.get 1) (local.get 2))))
                     (if (i32.gt_u (local.get 2) (i32.const {})) (then (i32.store (i32.const {}) (local.get 2))))",
                    number * 7919 + n,
                    number * 31 + n * 1009,
                    4096 + n * 4
                )
            };
            let steps: String = (0..10).map(step).collect();
            format!("(func (param i32 i32) (result i32) (local i32) {steps} (local.get 2))")
        })
        .collect();
    let text = format!(
        r#"(module
            (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2) (data (i32.const 0) "x-version{version:06}")
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) (i32.const 1024))
            (func (export "proxy_on_context_create") (param i32 i32))
            (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
                (drop (call $add (i32.const 2) (i32.const 0) (i32.const 9) (i32.const 9) (i32.const 6)))
                (i32.const 0))
            {bulk})"#
    );
    wat::parse_str(text).unwrap()
}

fn amount(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The versions that new connections meet, of which the kernel gives some to every worker.
async fn served(process: &Process) -> Vec<Option<String>> {
    let mut versions = Vec::new();
    for _ in 0..8 {
        let mut client = RawClient::connect(process.address().unwrap()).await.unwrap();
        let response = client.get(HOST, "/").await.unwrap();
        assert_eq!(response.status, 200);
        versions.push(response.header("x-version").map(str::to_owned));
    }
    versions.dedup();
    versions
}

#[tokio::test]
async fn swaps_under_load_lose_no_request_and_leave_no_memory() {
    let (swaps, rate) = (amount("SWAPS", 24), amount("SWAP_RATE", 200));
    let functions = amount("SWAP_FUNCTIONS", 60);
    let program = std::env::var("SWAP_GATEWAY").unwrap_or(GATEWAY_COMMAND.to_owned());
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("all.yaml"), resources()).unwrap();
    let process = Process::start(&program, home.path(), &[]).await.unwrap();
    let admin = process.admin().unwrap();
    let put = async |kind: &str, body: &[u8]| ask_at(admin, "PUT", "/plugins/p", kind, body).await.unwrap();
    let post = async |path: &str| ask_at(admin, "POST", &format!("/plugins/p/{path}"), "", b"").await.unwrap();
    let modules: Vec<_> = (0..swaps).map(|version| versioned(version, functions)).collect();
    assert_eq!(put(WASM, &versioned(999_999, functions)).await.0, 201);
    served(&process).await;
    let descriptors = process.descriptors().unwrap();

    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(Client::Http1(RawClient::connect(process.address().unwrap()).await.unwrap()));
    }
    let load = Load::start(clients, u32::try_from(rate).unwrap(), HOST, "/");
    let mut turn = tokio::time::interval(Duration::from_millis(100));
    let (mut before, mut times) = (None, Vec::new());
    for (version, module) in modules.iter().enumerate() {
        turn.tick().await;
        let begin = Instant::now();
        let (status, shown) = put(WASM, module).await;
        times.push(begin.elapsed());
        assert_eq!((status, &shown["workers"]), (200, &json!(2)), "{shown}");
        assert_eq!(served(&process).await, [Some(format!("{version:06}"))], "live everywhere when it is answered");
        match version % 6 {
            // The module is the same, its configuration is another one.
            1 => assert_eq!(put(JSON, json!({"pluginConfig": {"v": version}}).to_string().as_bytes()).await.0, 200),
            2 => {
                assert_eq!(post("rollback").await.0, 200);
                assert_eq!(served(&process).await, [Some(format!("{:06}", version - 1))]);
            }
            4 => {
                assert_eq!(post("disable").await.0, 200);
                assert_eq!(served(&process).await, [None]);
                assert_eq!(post("enable").await.0, 200);
                assert_eq!(served(&process).await, [Some(format!("{version:06}"))]);
            }
            _ => {}
        }
        // By then the history is full.
        if version == 11 {
            before = Some(process.memory().unwrap());
        }
    }
    let outcome = load.end().await.unwrap();
    let memory = before.unwrap();
    // Those of the clients go when the gateway sees that they have gone.
    let settled = eventually("the descriptors to be those of before", async || {
        let now = process.descriptors()?;
        Ok((now <= descriptors).then_some(now))
    });
    let descriptors_now = settled.await.unwrap();
    // What was freed goes back to the system after some seconds.
    let settled = eventually("the memory to be that of before", async || {
        let grown = process.memory()? as f64 / 1e6 - memory as f64 / 1e6;
        Ok((grown < 16.0).then_some(grown))
    });
    let grown = settled.await.unwrap();
    times.sort_unstable();
    println!(
        "{swaps} swaps of {} bytes: {outcome}\nswap p50 {:?}, longest {:?}; memory {grown:+.1} MB of {:.1}, {descriptors_now} descriptors after {descriptors}",
        modules[0].len(),
        times[times.len() / 2],
        times[times.len() - 1],
        memory as f64 / 1e6,
    );
    assert!(outcome.errors.is_empty(), "{outcome}");
    assert!(outcome.answered > 100, "{outcome}");
    let (_, shown) = ask_at(admin, "GET", "/plugins/p", "", b"").await.unwrap();
    assert_eq!((shown["versions"].as_array().unwrap().len(), &shown["stats"]["traps"]), (10, &json!(0)));
    let blobs = fs::read_dir(home.path().join("data/blobs")).unwrap().count();
    assert!(blobs <= 10, "{blobs} modules for 10 versions");
}

async fn start(data: &Path) -> TestGateway {
    Setup::new().workers(2).file("all.yaml", resources()).data_dir(data).start().await.unwrap()
}

async fn change(gateway: &TestGateway, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, Value) {
    ask(gateway, method, &format!("/plugins/{path}"), kind, body).await.unwrap()
}

async fn version(gateway: &TestGateway) -> Option<String> {
    let response = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
    assert_eq!(response.status, 200);
    response.header("x-version").map(str::to_owned)
}

/// All plugins, without what they have counted.
async fn shown(gateway: &TestGateway) -> Value {
    let mut list = gateway.admin_json("/plugins").await.unwrap();
    for plugin in list["plugins"].as_array_mut().unwrap() {
        plugin["stats"] = Value::Null;
    }
    list
}

#[tokio::test]
async fn every_state_survives_a_process_that_dies() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = start(folder.path()).await;
    let modules = [versioned(1, 0), versioned(2, 0), versioned(3, 0)];
    type Step<'a> = (&'a str, &'a str, &'a str, &'a [u8], Option<&'a str>);
    let steps: [Step<'_>; 10] = [
        ("PUT", "p", WASM, &modules[0], Some("000001")),
        ("PUT", "p?phase=AUTHN", WASM, &modules[1], Some("000002")),
        ("PUT", "p", JSON, br#"{"pluginConfig": {"a": 1}}"#, Some("000002")),
        ("PUT", "p", WASM, &modules[2], Some("000003")),
        ("POST", "p/rollback?to=1", "", b"", Some("000001")),
        ("POST", "p/disable", "", b"", None),
        ("POST", "p/rollback?to=4", "", b"", None),
        ("POST", "p/enable", "", b"", Some("000003")),
        ("POST", "p/rollback", "", b"", Some("000001")),
        ("DELETE", "p", "", b"", None),
    ];
    for (method, path, kind, body, expected) in steps {
        let (status, answer) = change(&gateway, method, path, kind, body).await;
        assert!((200..=204).contains(&status), "{method} {path}: {answer}");
        assert_eq!(version(&gateway).await.as_deref(), expected, "{method} {path}");
        let before = shown(&gateway).await;
        // Without an end in order: nothing is written on the way out.
        drop(gateway);
        gateway = eventually("the folder to be free", async || {
            let setup = Setup::new().workers(2).file("all.yaml", resources()).data_dir(folder.path());
            match setup.start().await {
                Err(error) if error.to_string().contains("in use") => Ok(None),
                started => started.map(Some),
            }
        })
        .await
        .unwrap();
        assert_eq!(version(&gateway).await.as_deref(), expected, "{method} {path}, after a restart");
        assert_eq!(shown(&gateway).await, before, "{method} {path}");
    }
    assert_eq!(fs::read_dir(folder.path().join("blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn changes_of_one_name_at_the_same_time_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path()).await;
    let admin = gateway.gateway().admin().admin;
    let (one, two) = (versioned(1, 0), versioned(2, 0));
    assert_eq!(change(&gateway, "PUT", "p", WASM, &one).await.0, 201);
    assert_eq!(change(&gateway, "PUT", "p", WASM, &two).await.0, 200);
    let load = {
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(Client::Http1(gateway.client().await.unwrap()));
        }
        Load::start(clients, 200, HOST, "/")
    };
    let mut changes = tokio::task::JoinSet::new();
    for (client, module) in (0..4).flat_map(|client| [(client, one.clone()), (client, two.clone())]) {
        changes.spawn(async move {
            let mut statuses = Vec::new();
            for (method, path, kind) in [
                ("PUT", "p", WASM),
                ("POST", "p/rollback", ""),
                ("POST", "p/disable", ""),
                ("PUT", "p", JSON),
                ("POST", "p/rollback?to=1", ""),
                ("POST", "p/enable", ""),
            ] {
                let settings = json!({"pluginConfig": {"client": client}}).to_string();
                let body = match kind {
                    WASM => module.as_slice(),
                    JSON => settings.as_bytes(),
                    _ => b"",
                };
                let (status, answer) = ask_at(admin, method, &format!("/plugins/{path}"), kind, body).await.unwrap();
                let code = answer["error"]["code"].as_str().unwrap_or_default().to_owned();
                statuses.push((status, code));
            }
            statuses
        });
    }
    while let Some(statuses) = changes.join_next().await {
        for (status, code) in statuses.unwrap() {
            let known = matches!(
                (status, code.as_str()),
                // Nothing before the first, and the first forgotten when there were ten newer ones.
                (200, "") | (409, "version-none-before") | (404, "version-unknown")
            );
            assert!(known, "{status} {code}");
        }
    }
    assert_eq!(change(&gateway, "POST", "p/enable", "", b"").await.0, 200);
    let outcome = load.end().await.unwrap();
    assert!(outcome.errors.is_empty(), "{outcome}");
    // What is shown, what serves and what is on disk is one and the same.
    let (_, last) = change(&gateway, "GET", "p", "", b"").await;
    let expected = if last["digest"] == digest(&one) { "000001" } else { "000002" };
    assert_eq!(version(&gateway).await.as_deref(), Some(expected));
    let numbers: Vec<_> =
        last["versions"].as_array().unwrap().iter().map(|it| it["number"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a > b) && numbers.len() <= 10, "{numbers:?}");
    let before = shown(&gateway).await;
    gateway.shutdown().await.unwrap();
    assert_eq!(shown(&start(folder.path()).await).await, before);
}

fn digest(module: &[u8]) -> Value {
    json!(gateway::plugins::Digest::of(module).with_algorithm())
}

#[tokio::test]
async fn names_of_resources_are_refused_for_every_change() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path()).await;
    assert_eq!(change(&gateway, "PUT", "p", WASM, &versioned(1, 0)).await.0, 201);
    let file = gateway.home().join("resource.wasm");
    fs::write(&file, versioned(7, 0)).unwrap();
    let resource = gateway_tests::plugins::wasm_plugin("p", &file, "");
    gateway.write("plugin.yaml", &resource).await.unwrap();
    for (method, path, kind, body) in [
        ("PUT", "p", JSON, &b"{}"[..]),
        ("POST", "p/rollback", "", b""),
        ("POST", "p/disable", "", b""),
        ("POST", "p/enable", "", b""),
        ("DELETE", "p", "", b""),
    ] {
        let (status, error) = change(&gateway, method, path, kind, body).await;
        assert_eq!((status, &error["error"]["code"]), (409, &json!("plugin-is-resource")), "{method} {path}");
    }
    assert_eq!(version(&gateway).await.as_deref(), Some("000007"));
    let (_, shown) = change(&gateway, "GET", "p", "", b"").await;
    assert_eq!((&shown["versions"][0]["current"], &shown["versions"][0]["number"]), (&json!(true), &Value::Null));
    gateway.remove("plugin.yaml").await.unwrap();
    assert_eq!(version(&gateway).await.as_deref(), Some("000001"));
}

/// Needs user namespaces, or root: the disk is a small tmpfs that only this process sees.
#[tokio::test]
async fn a_full_disk_refuses_changes_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("all.yaml"), resources()).unwrap();
    let data = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=640k tmpfs '{}' && exec \"$0\" \"$@\"", data.path().display());
    let under = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount];
    let data_dir = format!("--data-dir={}", data.path().display());
    let process = Process::start_under(&under, GATEWAY_COMMAND, home.path(), &[&data_dir]).await.unwrap();
    let admin = process.admin().unwrap();
    let ask = async |method: &str, path: &str, kind: &str, body: &[u8]| {
        ask_at(admin, method, &format!("/plugins/{path}"), kind, body).await.unwrap()
    };
    let probe = module_bytes("probe");
    let named = |name: &str| form(&[("module", &variant(&probe, name)), ("settings", named(name).as_bytes())]);
    assert_eq!(ask("PUT", "a", FORM, &named("first")).await.0, 201);
    let mut pushed = 0;
    let full = loop {
        let (status, answer) = ask("PUT", "a", FORM, &named(&format!("more-{pushed}"))).await;
        if status != 200 {
            break (status, answer);
        }
        pushed += 1;
        assert!(pushed < 10, "640 KiB hold no ten modules of {} bytes", probe.len());
    };
    assert_eq!((full.0, &full.1["error"]["code"]), (507, &json!("storage-full")), "{}", full.1);
    assert!(pushed > 1);
    let last = format!("more-{}", pushed - 1);
    let served = async || {
        let mut client = RawClient::connect(process.address().unwrap()).await.unwrap();
        client.get(HOST, "/").await.unwrap().header("x-trace").map(str::to_owned)
    };
    assert_eq!(served().await.as_deref(), Some(last.as_str()));
    assert_eq!(ask("GET", "a", "", b"").await.1["settings"]["pluginConfig"]["name"], last);
    // What needs no room for a module goes on, and makes room.
    assert_eq!(ask("POST", "a/rollback", "", b"").await.0, 200);
    assert_ne!(served().await.as_deref(), Some(last.as_str()));
    assert_eq!(ask("POST", "a/disable", "", b"").await.0, 200);
    assert_eq!(served().await, None);
    assert_eq!(ask("PUT", "b", FORM, &named("other")).await.0, 507);
    assert_eq!(ask("DELETE", "a", "", b"").await.0, 204);
    assert_eq!(ask("PUT", "b", FORM, &named("other")).await.0, 201);
    assert_eq!(served().await.as_deref(), Some("other"));
    // The folder as the process sees it.
    let inside = format!("/proc/{}/root{}/blobs", process.id(), data.path().display());
    assert_eq!(fs::read_dir(inside).unwrap().count(), 1, "nothing half-written is left");
}

fn named(name: &str) -> String {
    json!({ "pluginConfig": { "name": name } }).to_string()
}

#[tokio::test]
async fn changes_need_the_token_of_the_file() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("all.yaml"), resources()).unwrap();
    let token = home.path().join("token");
    let flag = format!("--admin-token-file={}", token.display());
    fs::write(&token, "short").unwrap();
    let refused = Process::start(GATEWAY_COMMAND, home.path(), &[&flag]).await.err().unwrap().to_string();
    assert!(refused.contains("--admin-token-file") && refused.contains("16 to 1024"), "{refused}");
    fs::write(&token, "0123456789abcdef").unwrap();
    let process = Process::start(GATEWAY_COMMAND, home.path(), &[&flag]).await.unwrap();
    let module = home.path().join("p.wasm");
    fs::write(&module, versioned(1, 0)).unwrap();
    let push = async |token_file: Option<&Path>| {
        let mut command = std::process::Command::new(GATEWAY_COMMAND);
        command
            .args(["plugin", "push"])
            .arg(&module)
            .env("GATEWAY_ADMIN_ADDRESS", process.admin().unwrap().to_string());
        command.envs(token_file.map(|file| ("GATEWAY_ADMIN_TOKEN_FILE", file)));
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    };
    let output = push(None).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("token-wrong"));
    assert_eq!(process.metrics().await.unwrap().sum("gateway_admin_refused_changes_total", &[]), 1.0);
    assert!(push(Some(&token)).await.status.success());
    assert_eq!(served(&process).await, [Some("000001".to_owned())]);
}
