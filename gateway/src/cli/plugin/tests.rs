//! The commands against a real admin API on a real socket.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, net::Ipv4Addr};

use clap::Parser;

use super::*;
use crate::{
    admin::{
        Changes,
        tests::{module, served, state},
    },
    telemetry::{Telemetry, TelemetryOptions},
};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn parse(line: &[&str]) -> Result<Args, clap::Error> {
    Cli::try_parse_from([&["plugin"], line].concat()).map(|cli| cli.args)
}

/// Runs a command line; stdout, stderr and the failure.
async fn gateway_plugin(line: &[&str]) -> (String, String, Result<(), Failure>) {
    let args = parse(line).unwrap();
    tokio::task::spawn_blocking(move || {
        let (mut out, mut chatter) = (Vec::new(), Vec::new());
        let result = execute(args, &mut out, &mut chatter);
        (String::from_utf8(out).unwrap(), String::from_utf8(chatter).unwrap(), result)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn push_list_show_remove() {
    let (state, ..) = state();
    let serving = served(state);
    let address = serving.addresses().admin.to_string();
    let at = ["--admin-address", &address];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("add_header.wasm");
    fs::write(&file, module("one")).unwrap();
    let file = file.to_str().unwrap();
    let config = folder.path().join("config.yaml");
    fs::write(&config, "z: 1\na: [x]\n").unwrap();

    let (out, chatter, _) = gateway_plugin(&[&["ls"][..], &at].concat()).await;
    assert!(out.is_empty() && chatter.contains("gateway plugin push"));

    let (out, chatter, result) = gateway_plugin(&[&["push", file][..], &at].concat()).await;
    result.unwrap();
    assert_eq!(chatter, "add-header: created, live on 2 workers\n");
    assert!(out.starts_with("NAME ") && out.contains("\nadd-header "), "{out}");

    let settings =
        ["--config", config.to_str().unwrap(), "--phase", "authn", "--priority", "-4", "--fail-strategy", "FAIL_OPEN"];
    let (_, _, result) = gateway_plugin(&[&["push", file, "--name", "second"][..], &settings, &at].concat()).await;
    result.unwrap();
    let (out, _, _) = gateway_plugin(&[&["show", "second", "-o", "json"][..], &at].concat()).await;
    assert!(out.contains("\"pluginConfig\": {\n      \"z\": 1,\n      \"a\": ["), "in the order of the file: {out}");
    let (_, chatter, result) =
        gateway_plugin(&[&["push", "--name", "second", "--config-json", "{}"][..], &at].concat()).await;
    result.unwrap();
    assert_eq!(chatter, "second: up to date, live on 2 workers\n");

    let (out, _, _) = gateway_plugin(&[&["show", "second", "-o", "json"][..], &at].concat()).await;
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        shown["settings"],
        serde_json::json!({"pluginConfig": {}, "phase": "AUTHN", "priority": -4, "failStrategy": "FAIL_OPEN"})
    );
    let (out, _, _) = gateway_plugin(&[&["show", "second"][..], &at].concat()).await;
    assert!(out.starts_with("name: second\n") && out.contains("\n  failStrategy: FAIL_OPEN\n"), "{out}");
    let (out, _, _) = gateway_plugin(&[&["ls", "-o", "yaml"][..], &at].concat()).await;
    assert!(out.starts_with("plugins:\n- name: second\n"), "{out}");

    let (out, chatter, result) = gateway_plugin(&[&["rm", "second"][..], &at].concat()).await;
    assert!(result.is_ok() && out.is_empty() && chatter == "second: removed, with all versions\n");
    let (_, _, result) = gateway_plugin(&[&["rm", "second"][..], &at].concat()).await;
    let failure = result.unwrap_err();
    assert!(failure.exit == 1 && failure.message.contains("plugin-unknown"), "{}", failure.message);

    // A refusal is told as the gateway tells it.
    let (_, _, result) =
        gateway_plugin(&[&["push", file, "--config-json", r#"{"more": "than 20 bytes"}"#][..], &at].concat()).await;
    let message = result.unwrap_err().message;
    assert!(message.starts_with("pluginConfig: ") && message.ends_with("(plugin-configuration-refused)"), "{message}");
    // Also one that is too large to be read to the end.
    let large = folder.path().join("large.wasm");
    fs::write(&large, [module("large"), vec![0; 1 << 20]].concat()).unwrap();
    for settings in [&[][..], &["--phase", "AUTHN"]] {
        let (_, _, result) = gateway_plugin(&[&["push", large.to_str().unwrap()][..], settings, &at].concat()).await;
        let message = result.unwrap_err().message;
        assert!(message.contains("module-too-large"), "{message}");
    }
}

#[tokio::test]
async fn back_and_forth_with_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "0123456789abcdef\n").unwrap();
    let (mut state, ..) = state();
    let telemetry = Telemetry::new(&TelemetryOptions::default()).unwrap();
    state.changes = Changes::new(Some(token.clone()), Ipv4Addr::LOCALHOST.into(), &telemetry).unwrap();
    let serving = served(state);
    let address = serving.addresses().admin.to_string();
    let file = folder.path().join("a.wasm");
    let run = async |line: &[&str]| {
        let rest = ["--admin-address", &address, "--token-file", token.to_str().unwrap()];
        gateway_plugin(&[line, &rest].concat()).await
    };
    for tag in ["one", "two"] {
        fs::write(&file, module(tag)).unwrap();
        run(&["push", file.to_str().unwrap()]).await.2.unwrap();
    }
    let (out, chatter, result) = run(&["rollback", "a"]).await;
    result.unwrap();
    assert_eq!(chatter, "a: version 1, live on 2 workers\n");
    assert!(out.starts_with("NAME ") && out.contains("\na "), "{out}");
    let (_, chatter, _) = run(&["rollback", "a", "--to", "2"]).await;
    assert_eq!(chatter, "a: version 2, live on 2 workers\n");
    let (out, chatter, _) = run(&["disable", "a"]).await;
    assert_eq!(chatter, "a: disabled: in no chain until it is enabled\n");
    assert!(out.contains(" disabled "), "{out}");
    assert_eq!(run(&["enable", "a"]).await.1, "a: live on 2 workers\n");

    // For programs what is refused is an object, too.
    let (out, _, result) = run(&["rollback", "a", "--to", "7", "-o", "json"]).await;
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&object["error"]["code"], &object["error"]["field"]), (&"version-unknown".into(), &"to".into()));
    assert_eq!(result.unwrap_err().exit, 1);

    // Without the token, with another one, and with none that could be one.
    let other = folder.path().join("other");
    for (text, part) in [("another-token-0123", "token-wrong"), ("short", "--token-file")] {
        fs::write(&other, text).unwrap();
        let line = ["disable", "a", "--admin-address", &address, "--token-file", other.to_str().unwrap()];
        let message = gateway_plugin(&line).await.2.unwrap_err().message;
        assert!(message.contains(part), "{message}");
    }
    let message = gateway_plugin(&["disable", "a", "--admin-address", &address]).await.2.unwrap_err().message;
    assert!(message.contains("token-wrong") && message.contains("--token-file"), "{message}");
    // Also when it refuses what is still being sent.
    let large = folder.path().join("large.wasm");
    fs::write(&large, [module("large"), vec![0; 4 << 20]].concat()).unwrap();
    let message =
        gateway_plugin(&["push", large.to_str().unwrap(), "--admin-address", &address]).await.2.unwrap_err().message;
    assert!(message.contains("token-wrong"), "{message}");
    gateway_plugin(&["ls", "--admin-address", &address]).await.2.unwrap();
}

#[tokio::test]
async fn a_module_is_looked_at_and_tried_without_a_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.wasm");
    fs::write(&file, module("one")).unwrap();
    let file = file.to_str().unwrap();
    let (out, chatter, result) = gateway_plugin(&["inspect", file]).await;
    result.unwrap();
    assert!(chatter.is_empty());
    for line in ["abi          0.2.1\n", "memory       65536 bytes or more\n", "callbacks    proxy_on_configure\n"] {
        assert!(out.replace("64.0 KiB", "65536 bytes").contains(line), "{line:?} is not in {out}");
    }
    let (out, _, _) = gateway_plugin(&["inspect", file, "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&shown["abi"], &shown["memory"]["min"], &shown["wasi"]),
        (&"0.2.1".into(), &65_536.into(), &false.into())
    );

    let (out, _, result) = gateway_plugin(&["check", file, "--config-json", "{}"]).await;
    result.unwrap();
    assert!(out.ends_with("accepted     yes\n") && out.contains("\nstart "), "{out}");
    let refused = ["check", file, "--config-json", r#"{"more": "than 20 bytes"}"#, "-o", "json"];
    let (out, _, result) = gateway_plugin(&refused).await;
    let failure = result.unwrap_err();
    assert!(failure.exit == 1 && failure.message.ends_with("(plugin-configuration-refused)"), "{}", failure.message);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&shown["accepted"], &shown["error"]["field"]), (&false.into(), &"pluginConfig".into()), "{out}");
    assert_eq!(shown["module"]["refusals"], Value::Array(Vec::new()));
    let settings = folder.path().join("settings.yaml");
    fs::write(&settings, "pluginConfig: {}\nphase: LATE\n").unwrap();
    let (_, _, result) = gateway_plugin(&["check", file, "--settings", settings.to_str().unwrap()]).await;
    assert!(result.unwrap_err().message.contains("settings-invalid"));

    let broken = folder.path().join("broken.wasm");
    let imports = r#"(module (import "env" "proxy_none" (func)) (import "wasi_unstable" "fd_write" (func)))"#;
    for (bytes, codes) in [
        (b"no module".to_vec(), &["module-malformed"][..]),
        (vec![0; 33 << 20], &["module-too-large"]),
        (
            wat::parse_str(imports).unwrap(),
            &["module-abi-unknown", "module-import-unknown", "module-memory-missing", "module-allocator-missing"],
        ),
    ] {
        fs::write(&broken, bytes).unwrap();
        for command in ["inspect", "check"] {
            let (out, _, result) = gateway_plugin(&[command, broken.to_str().unwrap()]).await;
            assert_eq!(result.unwrap_err().exit, 1);
            for code in codes {
                assert!(out.contains(&format!("({code})")), "{code} is not in {out}");
            }
        }
    }
    assert_eq!(gateway_plugin(&["inspect", "/nowhere.wasm"]).await.2.unwrap_err().exit, 1);
}

#[tokio::test]
async fn every_setting_has_a_flag() {
    let (state, ..) = state();
    let serving = served(state);
    let address = serving.addresses().admin.to_string();
    let folder = tempfile::tempdir().unwrap();
    let (file, other) = (folder.path().join("a.wasm"), folder.path().join("other.yaml"));
    fs::write(&file, module("one")).unwrap();
    fs::write(&other, "b: 2\n").unwrap();
    let other = format!("a.example.com,default/shop=@{}", other.display());
    let settings = async || {
        let (out, ..) = gateway_plugin(&["show", "a", "-o", "json", "--admin-address", &address]).await;
        serde_json::from_str::<Value>(&out).unwrap()["settings"].clone()
    };
    let push = async |more: &[&str]| {
        gateway_plugin(&[&["push", "--name", "a", "--admin-address", &address][..], more].concat()).await.2
    };
    let flags = [
        &[
            "--limit",
            "callbackCpu=20ms",
            "--limit",
            "logLines=7",
            "--isolation",
            "Request",
            "--hosts",
            "a.example.com,*.b.c",
        ],
        &["--hosts", "d", "--routes", "default/shop/cart", "--allowed-capabilities", "proxy_log,proxy_on_configure"][..],
        &["--override", r#"*.b.c={"a": "1,2=3"}"#, "--override", &other],
    ];
    let all = [&[file.to_str().unwrap()][..], &flags.concat()].concat();
    push(&all).await.unwrap();
    let expected = serde_json::json!({
        "limits": {"callbackCpu": "20ms", "logLines": "7"}, "isolation": "request",
        "allowedCapabilities": ["proxy_log", "proxy_on_configure"],
        "hosts": ["a.example.com", "*.b.c", "d"], "routes": ["default/shop/cart"],
        "overrides": [
            {"hosts": ["*.b.c"], "pluginConfig": {"a": "1,2=3"}},
            {"hosts": ["a.example.com"], "routes": ["default/shop"], "pluginConfig": {"b": 2}},
        ],
    });
    assert_eq!(settings().await, expected);
    push(&["--limit", "memory=1Mi", "--routes", "", "--override", "", "--allowed-capabilities", ""]).await.unwrap();
    let expected = serde_json::json!({
        "limits": {"memory": "1Mi"}, "isolation": "request", "hosts": ["a.example.com", "*.b.c", "d"],
    });
    assert_eq!(settings().await, expected, "what is given replaces, what is empty takes away, the rest stays");

    for (flags, exit, part) in [
        (["--limit", "memory"], 64, "--limit: \"memory\" is not NAME=VALUE"),
        (
            ["--limit", "memory=2Gi"],
            1,
            "limits.memory: must be a size from 64Ki to 1Gi (settings-invalid); check --limit or",
        ),
        (["--hosts", "a,b:80"], 1, "check --hosts"),
        (["--routes", "shop"], 1, "check --routes"),
        (["--override", "a.example.com"], 64, "--override: \"a.example.com\" is not WHERE=JSON"),
        (["--override", "a=@/nowhere.yaml"], 1, "check --override"),
        (
            ["--override", "a=[1]"],
            1,
            "overrides[0].pluginConfig: must be an object (settings-invalid); check --override or",
        ),
        (["--override", "a={"], 64, "--override: line 2"),
    ] {
        let failure = push(&flags).await.unwrap_err();
        assert_eq!(failure.exit, exit, "{flags:?}: {}", failure.message);
        assert!(failure.message.contains(part), "{flags:?}: {}", failure.message);
    }
    assert_eq!(settings().await, expected);

    let tight = ["check", file.to_str().unwrap(), "--limit", "memory=64Ki"];
    gateway_plugin(&tight).await.2.unwrap();
    let wrong = gateway_plugin(&[&tight[..3], &["memory=1"]].concat()).await.2.unwrap_err();
    assert!(wrong.message.contains("check --limit"), "{}", wrong.message);
}

#[tokio::test]
async fn what_to_check_when_it_does_not_work() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("plugin.rs");
    fs::write(&text, "fn main() {}").unwrap();
    let text = text.to_str().unwrap();
    let cases = [
        (&["ls"][..], 1, "gateway run"),
        (&["push", "/nowhere/x.wasm"], 1, "check the path"),
        (&["push", text], 1, "compile the plugin first"),
        (&["push", "--name", "a"], 64, "nothing to do"),
        (&["push", "/x/_%.wasm"], 64, "--name"),
        (&["push", "--name", "a", "--config", "/nowhere/c.json"], 1, "check --config"),
        (&["push", "--name", "a", "--config-json", "{"], 64, "--config-json: line 2"),
        (&["push", "--name", "a", "--config-json", "a: 1\n---\nb: 2"], 64, "more than one"),
    ];
    for (line, exit, part) in cases {
        let (out, _, result) = gateway_plugin(&[line, &["--admin-address", &address]].concat()).await;
        let failure = result.unwrap_err();
        assert_eq!(failure.exit, exit, "{line:?}: {}", failure.message);
        assert!(out.is_empty() && failure.message.contains(part), "{line:?}: {}", failure.message);
    }
    for address in ["15000", "localhost", "http://localhost:15000", ":15000", "localhost:x", "a@b:1"] {
        let (_, _, result) = gateway_plugin(&["ls", "--admin-address", address]).await;
        assert_eq!(result.unwrap_err().exit, 64, "{address}");
    }
}

#[test]
fn the_command_line_is_checked() {
    for line in [
        &["push"][..],
        &["push", "x.wasm", "--phase", "LATE"],
        &["push", "x.wasm", "--priority", "high"],
        &["push", "x.wasm", "--isolation", "stream"],
        &["push", "x.wasm", "--config", "a", "--config-json", "{}"],
        &["show"],
        &["ls", "-o", "xml"],
    ] {
        assert!(parse(line).unwrap_err().use_stderr(), "{line:?}");
    }
    assert!(parse(&["push", "x.wasm", "--priority", "-5", "--phase", "Authn"]).is_ok());
}
