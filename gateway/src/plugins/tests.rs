//! The registry with real modules on a real engine.
#![allow(clippy::unwrap_used, reason = "tests")]

mod versions;

use std::{fs, path::Path};

use bytes::Bytes;
use proxy_wasm_host::{Engine, EngineOptions, LogLine, LogSink, Shared};
use serde_json::{Value, json};

use super::*;
use crate::{
    config::problem::{Level, Problem},
    snapshot::{Code, FailStrategy, Phase, PluginId},
};

struct NoLog;

impl LogSink for NoLog {
    fn log(&self, _: LogLine<'_>) {}
}

/// A module that accepts configurations of at most 20 bytes; `tag` makes its content another one.
fn module(tag: &str) -> Bytes {
    let text = format!(
        r#"(module
            (memory (export "memory") 1)
            (data (i32.const 0) "{tag}")
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) i32.const 1024)
            (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.le_u (local.get 1) (i32.const 20))))"#
    );
    Bytes::from(wat::parse_str(text).unwrap())
}

fn options(data_dir: Option<&Path>) -> RegistryOptions {
    let engine = EngineOptions { max_instances: 20, max_memory_bytes: 64 << 20, ..EngineOptions::default() };
    RegistryOptions {
        data_dir: data_dir.map(Path::to_owned),
        lock: None,
        namespace: "edge".into(),
        safe_mode: false,
        engine: Engine::new(&engine).unwrap(),
        shared: Shared::new(Arc::new(NoLog), Arc::new(())),
        limits: Limits::default(),
        held_back: HeldBack::new().unwrap(),
        sources: Sources::default(),
    }
}

fn registry() -> Registry {
    Registry::new(options(None)).unwrap()
}

#[allow(clippy::needless_pass_by_value, reason = "callers write literals")]
fn put(name: &str, module: Option<Bytes>, settings: Value) -> Change {
    Change::Put(UploadRequest { name: name.into(), module, settings: settings.as_object().unwrap().clone() })
}

/// What the control task does, with `declared` as the resources; the outcome of the change.
async fn apply(registry: &mut Registry, declared: &[Declaration], change: Change) -> Result<Outcome, ApiError> {
    let staged = registry.stage(change).await?;
    let outcome = staged.outcome();
    if outcome == Outcome::Unchanged {
        return Ok(outcome);
    }
    let resolved = registry.resolve(declared, Some(&staged)).await;
    for attached in &resolved.attached {
        if let Err(error) = prepare(&attached.plugin, 1).await {
            assert!(staged.concerns(&attached.plugin));
            registry.discard(staged);
            return Err(ApiError::from(&error));
        }
    }
    registry.commit(resolved, Some(staged))?;
    Ok(outcome)
}

/// What the control task does when files changed: versions that do not start are refused.
async fn reload(registry: &mut Registry, declared: &[Declaration]) -> (Vec<Attached>, Vec<Problem>) {
    'again: loop {
        let resolved = registry.resolve(declared, None).await;
        for attached in &resolved.attached {
            if let Err(error) = prepare(&attached.plugin, 1).await {
                registry.refuse(&attached.plugin, &error);
                continue 'again;
            }
        }
        let (attached, problems) = (resolved.attached.clone(), resolved.problems.clone());
        registry.commit(resolved, None).unwrap();
        return (attached, problems);
    }
}

fn view(registry: &Registry, name: &str) -> PluginView {
    registry.views().load().iter().find(|view| view.name == name).unwrap().clone()
}

fn resource(name: &str, path: &Path) -> Declaration {
    Declaration {
        namespace: "edge".into(),
        name: name.into(),
        origin: Origin::Resource { kind: "WasmPlugin", place: "plugins.yaml:7".into() },
        source: ModuleSource::File(path.to_owned()),
        sha256: None,
        root_id: String::new(),
        configuration: Bytes::new(),
        environment: Vec::new(),
        phase: Phase::Unspecified,
        priority: None,
        network: false,
        fail_strategy: FailStrategy::Close,
        ports: Vec::new(),
        root_namespace: false,
        created: "1".into(),
        terms: Terms::default(),
    }
}

fn id(attached: &[Attached]) -> PluginId {
    attached[0].plugin.id
}

fn is_loaded(attached: &Attached) -> bool {
    matches!(attached.plugin.code, Code::Loaded(_))
}

#[tokio::test]
async fn create_replace_and_leave_unchanged() {
    let mut registry = registry();
    let (one, two) = (module("one"), module("two"));
    let created =
        apply(&mut registry, &[], put("a", Some(one.clone()), json!({"phase": "AUTHN", "priority": 3}))).await;
    assert_eq!(created, Ok(Outcome::Created));
    let shown = view(&registry, "a");
    assert_eq!((shown.state, shown.source.as_str(), shown.abi.as_str()), (State::Live, "upload", "0.2.1"));
    assert_eq!((shown.phase, shown.priority, shown.fail_strategy), ("AUTHN", Some(3), "FAIL_CLOSE"));
    assert_eq!((shown.bytes, &shown.digest), (one.len() as u64, &Digest::of(&one).with_algorithm()));

    let same = apply(&mut registry, &[], put("a", Some(one.clone()), json!({"priority": 3}))).await;
    assert_eq!(same, Ok(Outcome::Unchanged));
    assert_eq!(apply(&mut registry, &[], put("a", None, json!({}))).await, Ok(Outcome::Unchanged));

    // Settings only, then a module only: what is not named stays.
    let settings = json!({"pluginConfig": {"a": 1}, "priority": null});
    assert_eq!(apply(&mut registry, &[], put("a", None, settings)).await, Ok(Outcome::Replaced));
    assert_eq!(apply(&mut registry, &[], put("a", Some(two.clone()), json!({}))).await, Ok(Outcome::Replaced));
    let shown = view(&registry, "a");
    assert_eq!(Value::Object(shown.settings), json!({"phase": "AUTHN", "pluginConfig": {"a": 1}}));
    let digests: Vec<_> = shown.versions.iter().map(|version| version.digest.clone()).collect();
    let (digest, digest_of_two) = (Digest::of(&one).with_algorithm(), Digest::of(&two).with_algorithm());
    assert_eq!(digests, [digest_of_two, digest.clone(), digest], "settings make a version, too");

    assert_eq!(apply(&mut registry, &[], Change::Delete { name: "a".into() }).await, Ok(Outcome::Deleted));
    assert!(registry.views().load().is_empty());
    let again = apply(&mut registry, &[], Change::Delete { name: "a".into() }).await.unwrap_err();
    assert_eq!((again.status, again.code), (404, "plugin-unknown"));
}

#[tokio::test]
async fn refusals_change_nothing() {
    let mut registry = registry();
    registry.limits.settings_bytes = 200;
    registry.limits.module_bytes = 2000;
    apply(&mut registry, &[], put("a", Some(module("one")), json!({}))).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("module.wasm");
    fs::write(&path, module("file")).unwrap();
    let declared = [resource("declared", &path)];
    reload(&mut registry, &declared).await;
    let before = registry.views().load_full();

    let unknown_import = wat::parse_str(
        r#"(module (import "env" "proxy_none" (func)) (memory (export "memory") 1)
        (func (export "proxy_abi_version_0_2_1")) (func (export "malloc") (param i32) (result i32) i32.const 0))"#,
    );
    let long = "x".repeat(300);
    let cases = [
        (put("Upper", Some(module("x")), json!({})), 400, "name-invalid", "name"),
        (put("-a", Some(module("x")), json!({})), 400, "name-invalid", "name"),
        (put("../a", Some(module("x")), json!({})), 400, "name-invalid", "name"),
        (put(&"a".repeat(64), Some(module("x")), json!({})), 400, "name-invalid", "name"),
        (put("b", None, json!({})), 400, "module-missing", "module"),
        (put("a", None, json!({"phase": "LATE"})), 400, "settings-invalid", "phase"),
        (put("a", None, json!({"sha256": "x"})), 400, "settings-invalid", "sha256"),
        (put("declared", Some(module("x")), json!({})), 409, "plugin-is-resource", ""),
        (Change::Delete { name: "declared".into() }, 409, "plugin-is-resource", ""),
        (put("a", None, json!({"pluginConfig": {"x": long}})), 413, "settings-too-large", ""),
        (put("a", Some(Bytes::from(vec![0; 3000])), json!({})), 413, "module-too-large", "module"),
        (put("a", Some(Bytes::from("not wasm")), json!({})), 422, "module-malformed", "module"),
        (put("a", Some(unknown_import.unwrap().into()), json!({})), 422, "module-import-unknown", "module"),
        (put("a", None, json!({"sha256": Digest::of(b"x").to_string()})), 422, "module-digest", "sha256"),
        (
            put("a", None, json!({"pluginConfig": {"longer": "than 20 bytes"}})),
            422,
            "plugin-configuration-refused",
            "pluginConfig",
        ),
    ];
    for (change, status, code, field) in cases {
        let shown = format!("{change:?}");
        let error = apply(&mut registry, &declared, change).await.unwrap_err();
        assert_eq!((error.status, error.code), (status, code), "{shown}: {error}");
        assert_eq!(error.field.as_deref().unwrap_or_default(), field, "{shown}");
        assert_eq!(registry.views().load_full(), before, "{shown}");
    }
}

#[tokio::test]
async fn the_store_is_bounded() {
    let mut registry = registry();
    let size = module("1").len() as u64;
    registry.limits.uploads = 2;
    registry.limits.stored_bytes = 2 * size;
    registry.limits.versions = 3;
    for name in ["a", "b"] {
        apply(&mut registry, &[], put(name, Some(module("1")), json!({}))).await.unwrap();
    }
    let third = apply(&mut registry, &[], put("c", Some(module("1")), json!({}))).await.unwrap_err();
    assert_eq!((third.status, third.code), (409, "uploads-limit"));
    let larger = apply(&mut registry, &[], put("a", Some(module("12")), json!({}))).await.unwrap_err();
    assert_eq!((larger.status, larger.code), (413, "store-full"));
    for (stored, kept) in [(2 * size, 1), (3 * size, 2), (10 * size, 3)] {
        registry.limits.stored_bytes = stored;
        for tag in ["2", "3", "4", "5"] {
            apply(&mut registry, &[], put("a", Some(module(tag)), json!({}))).await.unwrap();
        }
        assert_eq!(view(&registry, "a").versions.len(), kept, "the module of b has its part of {stored} bytes");
    }
}

#[tokio::test]
async fn uploads_serve_again_after_a_restart_and_not_in_safe_mode() {
    let folder = tempfile::tempdir().unwrap();
    let one = module("one");
    let before = {
        let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
        apply(&mut registry, &[], put("a", Some(one.clone()), json!({"failStrategy": "FAIL_OPEN"}))).await.unwrap();
        view(&registry, "a")
    };
    {
        let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
        let (attached, problems) = reload(&mut registry, &[]).await;
        assert!(is_loaded(&attached[0]) && problems.is_empty());
        assert_eq!(view(&registry, "a"), before);
    }
    {
        let mut registry = Registry::new(RegistryOptions { safe_mode: true, ..options(Some(folder.path())) }).unwrap();
        let (attached, _) = reload(&mut registry, &[]).await;
        assert!(attached.is_empty());
        let shown = view(&registry, "a");
        assert!(shown.state == State::Failed && shown.reason.contains("safe mode"));
        // Sent again, it runs: there is no other way to get a repaired one going.
        assert_eq!(apply(&mut registry, &[], put("a", Some(one), json!({}))).await, Ok(Outcome::Replaced));
        assert_eq!(view(&registry, "a").state, State::Live);
    }
}

#[tokio::test]
async fn a_damaged_upload_is_listed_and_treated_by_its_strategy() {
    let folder = tempfile::tempdir().unwrap();
    let one = module("one");
    {
        let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
        apply(&mut registry, &[], put("a", Some(one.clone()), json!({"failStrategy": "FAIL_OPEN"}))).await.unwrap();
    }
    let blob = folder.path().join("blobs").join(format!("{}.wasm", Digest::of(&one)));
    for damage in [Some("damaged"), None] {
        match damage {
            Some(text) => fs::write(&blob, text).unwrap(),
            None => fs::remove_file(&blob).unwrap(),
        }
        let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
        let (attached, problems) = reload(&mut registry, &[]).await;
        assert!(!is_loaded(&attached[0]));
        assert_eq!(attached[0].plugin.fail_strategy, FailStrategy::Open);
        assert_eq!(problems.len(), 1);
        let shown = view(&registry, "a");
        assert!(shown.state == State::Failed && shown.reason.contains("upload it again"), "{}", shown.reason);
        // The same bytes repair it.
        assert_eq!(apply(&mut registry, &[], put("a", Some(one.clone()), json!({}))).await, Ok(Outcome::Replaced));
        assert_eq!(view(&registry, "a").state, State::Live);
        assert_eq!(fs::read(&blob).unwrap(), one);
    }
    {
        let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
        fs::remove_file(&blob).unwrap();
        reload(&mut registry, &[]).await;
        assert_eq!(apply(&mut registry, &[], Change::Delete { name: "a".into() }).await, Ok(Outcome::Deleted));
    }
}

#[tokio::test]
async fn a_resource_keeps_its_last_good_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("module.wasm");
    let mut registry = registry();

    // At the first start there is none.
    let (attached, problems) = reload(&mut registry, &[resource("a", &path)]).await;
    assert!(!is_loaded(&attached[0]));
    let absent = id(&attached);
    let problem = &problems[0];
    assert_eq!((problem.level, problem.file.as_str(), problem.line), (Level::Error, "plugins.yaml", 7));
    assert_eq!((problem.resource.as_str(), problem.field.as_str()), ("WasmPlugin edge/a", "spec.url"));
    assert!(problem.message.contains("FAIL_CLOSE"), "{problem}");

    fs::write(&path, module("one")).unwrap();
    let (attached, problems) = reload(&mut registry, &[resource("a", &path)]).await;
    assert!(is_loaded(&attached[0]) && problems.is_empty());
    assert_eq!(registry.watched_files(), std::slice::from_ref(&path));
    let good = id(&attached);
    assert_ne!(good, absent);
    let digest = Digest::of(&module("one")).with_algorithm();

    // Not wasm any more, gone, another digest than declared, a configuration it does not take: still there,
    // in the place where it is wanted now.
    let other = |change: fn(&mut Declaration)| {
        let mut declaration = resource("a", &path);
        declaration.phase = Phase::Authn;
        change(&mut declaration);
        declaration
    };
    fs::write(&path, "broken").unwrap();
    let (broken, field_of_broken) = (reload(&mut registry, &[other(|_| {})]).await, "spec.url");
    fs::remove_file(&path).unwrap();
    let (gone, field_of_gone) = (reload(&mut registry, &[other(|_| {})]).await, "spec.url");
    fs::write(&path, module("one")).unwrap();
    let wrong_digest = reload(&mut registry, &[other(|it| it.sha256 = Some("0".repeat(64)))]).await;
    let too_long = reload(&mut registry, &[other(|it| it.configuration = Bytes::from_static(&[b' '; 21]))]).await;
    for ((attached, problems), field) in [
        (broken, field_of_broken),
        (gone, field_of_gone),
        (wrong_digest, "spec.sha256"),
        (too_long, "spec.pluginConfig"),
    ] {
        assert!(is_loaded(&attached[0]));
        assert_eq!((id(&attached), attached[0].plugin.phase), (good, Phase::Authn));
        assert_eq!(attached[0].plugin.digest, digest);
        assert_eq!(problems[0].field, field);
        assert!(problems[0].message.contains(&digest), "{}", problems[0]);
    }
    let shown = view(&registry, "a");
    assert!(shown.state == State::Live && shown.reason.contains("configuration"), "{}", shown.reason);

    // A file that changes on disk is a new version.
    fs::write(&path, module("two")).unwrap();
    let (attached, problems) = reload(&mut registry, &[resource("a", &path)]).await;
    assert!(problems.is_empty());
    assert_ne!(id(&attached), good);
    assert_eq!(attached[0].plugin.digest, Digest::of(&module("two")).with_algorithm());
}

#[tokio::test]
async fn a_resource_hides_an_upload_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("module.wasm");
    fs::write(&path, module("file")).unwrap();
    let mut registry = registry();
    apply(&mut registry, &[], put("a", Some(module("upload")), json!({}))).await.unwrap();
    let (attached, problems) = reload(&mut registry, &[resource("a", &path)]).await;
    assert_eq!(attached.len(), 1);
    assert_eq!(view(&registry, "a").source, format!("file://{}", path.display()));
    assert_eq!(problems[0].level, Level::Warning);
    // The upload is still there when the resource goes.
    reload(&mut registry, &[]).await;
    assert_eq!(view(&registry, "a").source, "upload");
}

#[tokio::test]
async fn a_discarded_change_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
    apply(&mut registry, &[], put("a", Some(module("one")), json!({}))).await.unwrap();
    let before = registry.views().load_full();
    for change in [
        put("a", Some(module("two")), json!({})),
        put("b", Some(module("two")), json!({})),
        Change::Delete { name: "a".into() },
    ] {
        let staged = registry.stage(change).await.unwrap();
        registry.resolve(&[], Some(&staged)).await;
        registry.discard(staged);
        let (attached, _) = reload(&mut registry, &[]).await;
        assert!(is_loaded(&attached[0]));
        assert_eq!(registry.views().load_full(), before);
    }
    drop(registry);
    let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
    reload(&mut registry, &[]).await;
    assert_eq!(registry.views().load_full(), before);
}

#[tokio::test]
async fn instances_are_prepared_as_many_as_asked() {
    let mut registry = registry();
    apply(&mut registry, &[], put("a", Some(module("one")), json!({}))).await.unwrap();
    let (attached, _) = reload(&mut registry, &[]).await;
    for count in [0, 1, 2, 7] {
        assert_eq!(prepare(&attached[0].plugin, count).await.unwrap().len(), count);
    }
    // More than the engine has places for: all of them are given back.
    let error = ApiError::from(&prepare(&attached[0].plugin, 21).await.map(|_| ()).unwrap_err());
    assert_eq!(error.status, 503);
    assert_eq!(prepare(&attached[0].plugin, 20).await.unwrap().len(), 20);
}

#[tokio::test]
async fn an_upload_that_no_longer_starts_is_listed_and_can_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let one = module("one");
    {
        let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
        apply(&mut registry, &[], put("a", Some(one.clone()), json!({}))).await.unwrap();
    }
    let mut starved = options(Some(folder.path()));
    starved.limits.running.memory_bytes = 1;
    let mut registry = Registry::new(starved).unwrap();
    let (attached, problems) = reload(&mut registry, &[]).await;
    assert!(!is_loaded(&attached[0]));
    assert!(problems[0].message.contains("FAIL_CLOSE"), "{}", problems[0]);
    let shown = view(&registry, "a");
    assert!(shown.state == State::Failed && shown.reason.contains("memory"), "{}", shown.reason);

    let again = apply(&mut registry, &[], put("a", Some(one.clone()), json!({}))).await.unwrap_err();
    assert_eq!((again.status, again.code), (422, "plugin-memory"));
    registry.limits.running = proxy_wasm_host::Limits::default();
    assert_eq!(apply(&mut registry, &[], put("a", Some(one), json!({}))).await, Ok(Outcome::Replaced));
    assert_eq!(view(&registry, "a").state, State::Live);
}

#[tokio::test]
async fn a_configuration_is_checked_also_if_no_listener_would_have_the_plugin() {
    let mut registry = registry();
    let long = json!({"pluginConfig": {"longer": "than 20 bytes"}});
    let staged = registry.stage(put("a", Some(module("one")), long)).await;
    let error = staged.map(|_| ()).unwrap_err();
    assert_eq!((error.status, error.code), (422, "plugin-configuration-refused"));
    assert_eq!(error.field.as_deref(), Some("pluginConfig"));
}
