//! Earlier versions, disabled uploads, and trials that take nothing from what serves.

use super::*;

fn rollback(name: &str, to: Option<&str>) -> Change {
    Change::Rollback { name: name.into(), to: to.map(str::to_owned) }
}

fn enable(name: &str, enabled: bool) -> Change {
    Change::Enable { name: name.into(), enabled }
}

/// Number of the current version, and all numbers.
fn numbers(registry: &Registry, name: &str) -> (u64, Vec<u64>) {
    let versions = view(registry, name).versions;
    let current = versions.iter().find(|version| version.current).unwrap().number.unwrap();
    (current, versions.iter().map(|version| version.number.unwrap()).collect())
}

#[tokio::test]
async fn versions_can_be_gone_back_to_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (module("one"), module("two"));
    {
        let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
        apply(&mut registry, &[], put("a", Some(one.clone()), json!({"phase": "AUTHN"}))).await.unwrap();
        apply(&mut registry, &[], put("a", Some(two), json!({"phase": "STATS"}))).await.unwrap();
        apply(&mut registry, &[], put("a", None, json!({"priority": 1}))).await.unwrap();
        assert_eq!(apply(&mut registry, &[], rollback("a", None)).await, Ok(Outcome::Replaced));
        assert_eq!(numbers(&registry, "a"), (2, vec![3, 2, 1]));
        assert_eq!(Value::Object(view(&registry, "a").settings), json!({"phase": "STATS"}));
    }
    let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
    reload(&mut registry, &[]).await;
    let digest = Digest::of(&one).to_string();
    assert_eq!(apply(&mut registry, &[], rollback("a", Some(&digest[..12]))).await, Ok(Outcome::Replaced));
    let shown = view(&registry, "a");
    assert_eq!((shown.digest, shown.phase, shown.state), (format!("sha256:{digest}"), "AUTHN", State::Live));
    assert_eq!(apply(&mut registry, &[], rollback("a", Some("1"))).await, Ok(Outcome::Unchanged));
    assert_eq!(apply(&mut registry, &[], rollback("a", Some("3"))).await, Ok(Outcome::Replaced));
    assert_eq!(numbers(&registry, "a"), (3, vec![3, 2, 1]));
    apply(&mut registry, &[], rollback("a", Some("1"))).await.unwrap();

    let before = registry.views().load_full();
    for (change, status, code) in [
        (rollback("a", None), 409, "version-none-before"),
        (rollback("a", Some("4")), 404, "version-unknown"),
        (rollback("a", Some(&"0".repeat(64))), 404, "version-unknown"),
        (rollback("a", Some("latest")), 400, "version-invalid"),
        (rollback("b", None), 404, "plugin-unknown"),
        (enable("b", false), 404, "plugin-unknown"),
    ] {
        let shown = format!("{change:?}");
        let error = apply(&mut registry, &[], change).await.unwrap_err();
        assert_eq!((error.status, error.code), (status, code), "{shown}: {error}");
        assert_eq!(registry.views().load_full(), before, "{shown}");
    }

    // One whose module the disk has lost cannot serve, so nothing changes.
    fs::remove_file(folder.path().join("blobs").join(format!("{}.wasm", Digest::of(&module("two"))))).unwrap();
    let lost = apply(&mut registry, &[], rollback("a", Some("2"))).await.unwrap_err();
    assert_eq!((lost.status, lost.code), (422, "module-lost"));
    assert_eq!(registry.views().load_full(), before);

    assert_eq!(apply(&mut registry, &[], Change::Delete { name: "a".into() }).await, Ok(Outcome::Deleted));
    assert_eq!(fs::read_dir(folder.path().join("blobs")).unwrap().count(), 0, "all versions are gone");
}

#[tokio::test]
async fn a_disabled_upload_is_kept_and_in_no_chain() {
    let folder = tempfile::tempdir().unwrap();
    {
        let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
        apply(&mut registry, &[], put("a", Some(module("one")), json!({"phase": "AUTHN"}))).await.unwrap();
        apply(&mut registry, &[], put("b", Some(module("one")), json!({}))).await.unwrap();
        assert_eq!(apply(&mut registry, &[], enable("a", true)).await, Ok(Outcome::Unchanged));
        assert_eq!(apply(&mut registry, &[], enable("a", false)).await, Ok(Outcome::Replaced));
        assert_eq!(apply(&mut registry, &[], enable("a", false)).await, Ok(Outcome::Unchanged));
    }
    let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
    let (attached, problems) = reload(&mut registry, &[]).await;
    assert!(problems.is_empty());
    assert_eq!(attached.iter().map(|it| it.plugin.name.as_str()).collect::<Vec<_>>(), ["b"]);
    let shown = view(&registry, "a");
    assert_eq!((shown.state, shown.phase, shown.reason.as_str()), (State::Disabled, "AUTHN", ""));
    assert_eq!(shown.digest, Digest::of(&module("one")).with_algorithm());

    // What is pushed or gone back to meanwhile is checked as ever, and stays out of the chain.
    let long = json!({"pluginConfig": {"longer": "than 20 bytes"}});
    let refused = apply(&mut registry, &[], put("a", None, long)).await.unwrap_err();
    assert_eq!(refused.code, "plugin-configuration-refused");
    assert_eq!(apply(&mut registry, &[], put("a", Some(module("two")), json!({}))).await, Ok(Outcome::Replaced));
    assert_eq!(apply(&mut registry, &[], put("a", Some(module("two")), json!({}))).await, Ok(Outcome::Unchanged));
    assert_eq!(apply(&mut registry, &[], rollback("a", None)).await, Ok(Outcome::Replaced));
    assert_eq!((view(&registry, "a").state, numbers(&registry, "a").0), (State::Disabled, 1));

    assert_eq!(apply(&mut registry, &[], enable("a", true)).await, Ok(Outcome::Replaced));
    assert_eq!(view(&registry, "a").state, State::Live);

    // One that is broken can be taken out, and does not get in again.
    let blob = folder.path().join("blobs").join(format!("{}.wasm", Digest::of(&module("one"))));
    fs::write(&blob, "damaged").unwrap();
    drop(registry);
    let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
    assert_eq!(reload(&mut registry, &[]).await.1.len(), 2);
    assert_eq!(apply(&mut registry, &[], enable("a", false)).await, Ok(Outcome::Replaced));
    let again = apply(&mut registry, &[], enable("a", true)).await.unwrap_err();
    assert_eq!((again.status, again.code), (422, "module-lost"));
    assert_eq!(view(&registry, "a").state, State::Disabled);
}

#[tokio::test]
async fn a_store_of_the_first_format_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (module("one"), module("two"));
    let (digest_of_one, digest_of_two) = (Digest::of(&one).to_string(), Digest::of(&two).to_string());
    fs::create_dir(folder.path().join("blobs")).unwrap();
    fs::write(folder.path().join("blobs").join(format!("{digest_of_two}.wasm")), &two).unwrap();
    let index = json!({"format": 1, "uploads": {"a": {
        "digest": digest_of_two,
        "bytes": two.len(),
        "settings": {"phase": "AUTHN"},
        "created": "2026-01-01T00:00:00Z",
        "versions": [
            {"digest": digest_of_two, "time": "2026-02-01T00:00:00Z"},
            {"digest": digest_of_one, "time": "2026-01-01T00:00:00Z"},
        ],
    }}});
    fs::write(folder.path().join("uploads.json"), format!("{index:#}\n")).unwrap();

    for start in 0..2 {
        let mut registry = Registry::new(options(Some(folder.path()))).unwrap();
        let (attached, problems) = reload(&mut registry, &[]).await;
        assert!(is_loaded(&attached[0]) && problems.is_empty());
        let shown = view(&registry, "a");
        assert_eq!((shown.phase, shown.digest), ("AUTHN", format!("sha256:{digest_of_two}")));
        if start == 0 {
            // Modules of earlier versions were not kept.
            assert_eq!(numbers(&registry, "a"), (1, vec![1]));
            assert_eq!(shown.versions[0].time, "2026-02-01T00:00:00Z");
            apply(&mut registry, &[], put("a", Some(one.clone()), json!({}))).await.unwrap();
            apply(&mut registry, &[], rollback("a", None)).await.unwrap();
        } else {
            assert_eq!(numbers(&registry, "a"), (1, vec![2, 1]));
        }
    }
}

/// Answers `on_configure` with what it finds in the shared data: false once an instance has been there before.
const SELFISH: &str = r#"(module
    (import "env" "proxy_get_shared_data" (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_shared_data" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1) (data (i32.const 0) "key")
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) i32.const 1024)
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
        (if (i32.eqz (call $get (i32.const 0) (i32.const 3) (i32.const 16) (i32.const 20) (i32.const 24)))
            (then (return (i32.const 0))))
        (drop (call $set (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 3) (i32.const 0)))
        i32.const 1))"#;

#[tokio::test]
async fn a_trial_shares_nothing_with_what_serves() {
    let mut registry = registry();
    let selfish = Bytes::from(wat::parse_str(SELFISH).unwrap());
    assert_eq!(apply(&mut registry, &[], put("a", Some(selfish.clone()), json!({}))).await, Ok(Outcome::Created));
    // What serves has left its mark, so that no other instance of it starts.
    let attached = registry.resolve(&[], None).await.attached;
    assert!(prepare(&attached[0].plugin, 1).await.is_err());
    // The trial of another plugin that shares its data does not see that, and leaves no mark of its own.
    let staged = registry.stage(put("b", Some(selfish), json!({}))).await.unwrap();
    registry.discard(staged);
}
