//! Modules that are refused before anything of them runs, and with which words.

use proxy_wasm_host::{AbiVersion, Engine, EngineOptions, Module, ModuleError, Plugin, PluginSettings, Range, Report};

use crate::fixture::{compile, engine, open, scripted, shared, start_logged};
use crate::script::{N, On, Out, b, program, results, script};

const ALLOCATOR: &str = r#"(func (export "malloc") (param i32) (result i32) (i32.const 8))"#;

fn module(parts: &str) -> String {
    format!(r#"(module {parts} (memory (export "memory") 1) {ALLOCATOR} (func (export "proxy_abi_version_0_2_1")))"#)
}

fn refused(text: &str, code: &str, words: &[&str]) {
    match compile(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => {
            assert_eq!(error.code(), code, "{error}");
            for word in words {
                assert!(error.to_string().contains(word), "{word} is not in: {error}");
            }
        }
    }
}

#[test]
fn the_first_known_marker_counts() {
    for (markers, version) in [
        (&["0_1_0"][..], AbiVersion::V0_1_0),
        (&["0_2_0"], AbiVersion::V0_2_0),
        (&["0_2_1", "0_1_0"], AbiVersion::V0_2_1),
        (&["9_9_9", "0_2_0", "0_2_1"], AbiVersion::V0_2_0),
    ] {
        let exports: String =
            markers.iter().map(|marker| format!("(func (export \"proxy_abi_version_{marker}\"))")).collect();
        let text = format!("(module (memory (export \"memory\") 1) {ALLOCATOR} {exports})");
        assert_eq!(compile(&text).unwrap().abi(), version, "{markers:?}");
    }
    let none = format!("(module (memory (export \"memory\") 1) {ALLOCATOR})");
    refused(&none, "module-abi-unknown", &["proxy_abi_version_0_2_1", "none"]);
    let other =
        format!("(module (memory (export \"memory\") 1) {ALLOCATOR} (func (export \"proxy_abi_version_0_2_100\")))");
    refused(&other, "module-abi-unknown", &["proxy_abi_version_0_2_100"]);
}

#[test]
fn what_is_not_webassembly_is_refused() {
    for bytes in
        [&b""[..], b"<!DOCTYPE html>", b"\0asm", b"\0asm\x01\0\0\0\xff", b"\0asm\x02\0\0\0", b"\0asm\x0d\0\x01\0"]
    {
        let error = Module::compile(engine(), bytes).unwrap_err();
        assert_eq!(error.code(), "module-malformed", "{bytes:?}: {error}");
    }
    let large = vec![0; Module::MAX_BYTES + 1];
    assert_eq!(Module::compile(engine(), &large).unwrap_err().code(), "module-too-large");
    // Well formed, but not valid.
    refused(&module("(func (result i32))"), "module-malformed", &[]);
    refused(&module("(memory 1)"), "module-malformed", &[]);
}

#[test]
fn every_unknown_import_is_named() {
    refused(
        &module(
            r#"(import "env" "proxy_redis_init" (func)) (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "sock_open" (func)) (import "env" "proxy_redis_init" (func))
            (import "env" "table" (table 1 funcref)) (import "wasi_unstable" "proxy_log" (func))"#,
        ),
        "module-import-unknown",
        &["env.proxy_redis_init, env.table, wasi_snapshot_preview1.sock_open, wasi_unstable.proxy_log"],
    );
}

#[test]
fn messages_stay_short_whatever_a_module_contains() {
    let imports: String =
        (0..1000).map(|index| format!("(import \"x\" \"{index}{}\" (func))", "y".repeat(1000))).collect();
    let error = compile(&module(&imports)).unwrap_err().to_string();
    assert!(error.contains("and 980 more") && error.len() < 6_000, "{error}");
}

#[test]
fn an_import_with_another_type_is_refused() {
    refused(&module(r#"(import "env" "proxy_log" (func (param i32)))"#), "module-import-type", &["proxy_log"]);
}

#[test]
fn the_same_import_may_appear_twice() {
    let import = r#"(import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))"#;
    assert!(compile(&module(&import.repeat(2))).is_ok());
}

#[test]
fn every_callback_with_a_wrong_type_is_named() {
    refused(
        &module(
            r#"(func (export "proxy_on_request_headers") (param i32 i32) (result i32) (i32.const 0))
            (func (export "proxy_on_log") (param i64)) (func (export "proxy_on_tick") (param i32) (result i32) (i32.const 0))
            (func (export "proxy_on_done") (param i32) (result i32) (i32.const 0))
            (global (export "proxy_on_delete") i32 (i32.const 0))"#,
        ),
        "module-export-type",
        &[
            "proxy_on_request_headers must",
            "3 i32 parameters and one i32 result",
            "proxy_on_log",
            "proxy_on_tick",
            "proxy_on_delete",
        ],
    );
    // What the oldest version's header callbacks look like.
    let old = r#"(func (export "proxy_on_request_headers") (param i32 i32) (result i32) (i32.const 0))"#;
    assert!(compile(&module(old).replace("0_2_1", "0_1_0")).is_ok());
    // Callbacks that are not called yet are checked too, and unknown names are nobody's business.
    refused(&module(r#"(func (export "proxy_on_http_call_response"))"#), "module-export-type", &["5 i32 parameters"]);
    assert!(compile(&module(r#"(func (export "proxy_on_something_new") (param f64))"#)).is_ok());
}

#[test]
fn memory_and_allocator_are_required() {
    refused(&format!("(module {ALLOCATOR} (func (export \"proxy_abi_version_0_2_1\")))"), "module-memory-missing", &[]);
    refused(
        r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1")))"#,
        "module-allocator-missing",
        &["malloc", "proxy_on_memory_allocate"],
    );
}

#[test]
fn modules_that_need_too_much_are_refused() {
    let text = |parts: &str| format!(r#"(module {parts} {ALLOCATOR} (func (export "proxy_abi_version_0_2_1")))"#);
    refused(&text(r#"(memory (export "memory") 65536)"#), "module-limits", &["memory"]);
    refused(&text(r#"(memory (export "memory") 1) (table 200000 funcref)"#), "module-limits", &["table"]);
}

#[test]
fn modules_that_would_take_too_long_to_compile_are_refused() {
    let begin = std::time::Instant::now();
    for (part, count, word) in [
        ("(func)", 50_001, "50003 functions"),
        ("(type (func))", 50_001, "types"),
        ("(global i32 (i32.const 0))", 1_000_001, "exceeds"),
    ] {
        let error = compile(&module(&part.repeat(count))).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    for (part, count, word) in [
        ("loop local.get 0 br_if 0 end ", 10_000, "10000 loops"),
        ("local.get 0 if nop end ", 70_000, "70000 branches"),
        ("block ", 100_000, "100000 branches"),
    ] {
        let end = if part == "block " { "end ".repeat(count) } else { String::new() };
        let text = module(&format!("(func (param i32) {} {end})", part.repeat(count)));
        let error = compile(&text).unwrap_err();
        assert!(error.code() == "module-limits" && error.to_string().contains(word), "{error}");
    }
    let locals = format!("(func {})", "(local i32)".repeat(60_000));
    refused(&module(&locals), "module-malformed", &["locals"]);
    // Compiling any of these would take minutes.
    assert!(begin.elapsed() < std::time::Duration::from_secs(60), "{:?}", begin.elapsed());
}

#[test]
fn callbacks_are_listed() {
    let callbacks =
        compile(&module(r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))"#))
            .unwrap()
            .callbacks();
    assert!(callbacks.request_body && !callbacks.request_headers && !callbacks.response_body && !callbacks.log);
    let callbacks = scripted().callbacks();
    assert!(callbacks.request_headers && callbacks.response_trailers && callbacks.log && callbacks.tick);
}

#[test]
fn when_all_instances_are_in_use_the_next_does_not_start() {
    let engine = Engine::new(&EngineOptions { max_instances: 2, ..EngineOptions::default() }).unwrap();
    assert!(engine.is_pooling());
    let bytes = wat::parse_str(module("")).unwrap();
    let plugin = Plugin::new(Module::compile(&engine, &bytes).unwrap(), PluginSettings::new("p"), shared().0);
    let first = plugin.instantiate().unwrap();
    let _second = plugin.instantiate().unwrap();
    let error = plugin.instantiate().err().unwrap();
    assert_eq!(error.code(), "plugin-instances-exhausted", "{error}");
    drop(first);
    assert!(plugin.instantiate().is_ok());
}

#[test]
fn without_address_space_instances_are_allocated_one_by_one() {
    // More than 2^47 bytes cannot be reserved.
    let engine = Engine::new(&EngineOptions { max_instances: 100_000, ..EngineOptions::default() }).unwrap();
    assert!(!engine.is_pooling());
    let bytes = wat::parse_str(module("")).unwrap();
    let plugin = Plugin::new(Module::compile(&engine, &bytes).unwrap(), PluginSettings::new("p"), shared().0);
    assert!(plugin.instantiate().is_ok());
}

#[test]
fn errors_can_be_compared_and_shown() {
    assert_eq!(compile("(module)").unwrap_err(), ModuleError::AbiUnknown { declared: "none".to_owned() });
}

#[test]
fn a_plugin_can_be_restricted_to_some_capabilities() {
    let calls = program()
        .call("proxy_get_log_level", [Out(0)])
        .call("proxy_set_property", [b("a"), b("b")])
        .call("fd_write", [N(1), N(0), N(0), Out(0)])
        .call("proxy_done", []);
    let script = script(On::RequestHeaders, calls.clone()).and(On::RequestBody, calls);
    let allowed = [
        "proxy_on_configure",
        "proxy_on_request_headers",
        "proxy_get_buffer_bytes",
        "proxy_set_property",
        "proxy_done",
    ];
    let allowed_capabilities = Some(allowed.map(str::to_owned).to_vec());
    let (mut instance, lines) = start_logged(PluginSettings { allowed_capabilities, ..script.settings() });
    let context = open(&mut instance, |_| {});
    instance.on_request_headers(context, false).unwrap();
    instance.on_request_body(context, true).unwrap();
    let exchange = instance.detach(context).unwrap();
    assert_eq!(results(&exchange, On::RequestHeaders), [10, 0, 76, 1]);
    assert!(exchange.properties.stored(b"3").is_none(), "the callback that is not allowed did not run");
    let lines = lines.take();
    assert!(lines.len() == 2 && lines[0].contains("proxy_get_log_level"), "{lines:?}");
}

#[test]
fn a_report_tells_all_and_names_every_refusal() {
    let text = format!(
        r#"(module
            (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2 16) (table 3 7 funcref) (data (i32.const 0) "12345") {ALLOCATOR}
            (func (export "proxy_abi_version_0_2_0"))
            (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
            (func (export "helper"))
            (@custom "about" "\01\02\03")
            (@producers (language "Rust" "1.95.0") (processed-by "rustc" "1.95.0") (sdk "wasm-sdk" "0.1.0")))"#
    );
    let wasm = wat::parse_str(&text).unwrap();
    let report = Report::of(&wasm).unwrap();
    assert_eq!((report.bytes, report.abi, report.functions), (wasm.len(), Some(AbiVersion::V0_2_0), 4));
    assert_eq!(report.memory, Some(Range { min: 2 << 16, max: Some(16 << 16) }));
    assert_eq!(report.tables, [Range { min: 3, max: Some(7) }]);
    assert!((5..20).contains(&report.data_bytes) && (10..60).contains(&report.code_bytes), "{report:?}");
    let imports: Vec<_> = report.imports.iter().map(|it| (it.module.as_str(), it.name.as_str(), it.provided)).collect();
    assert_eq!(imports, [("env", "proxy_log", true), ("wasi_snapshot_preview1", "fd_write", true)]);
    assert!(report.uses_wasi());
    let callbacks: Vec<_> = report.exports.iter().filter(|it| it.callback).map(|it| it.name.as_str()).collect();
    assert_eq!(callbacks, ["proxy_on_vm_start"]);
    assert_eq!(report.exports.iter().filter(|it| !it.function).count(), 1, "the memory");
    let producers: Vec<_> = report.producers.iter().map(|it| (it.field.as_str(), it.name.as_str())).collect();
    assert_eq!(producers, [("language", "Rust"), ("sdk", "wasm-sdk"), ("processed-by", "rustc")]);
    let custom: Vec<_> = report.custom_sections.iter().map(|it| (it.name.as_str(), it.bytes)).collect();
    assert!(custom.contains(&("about", 3)) && custom.iter().any(|(name, _)| *name == "producers"), "{custom:?}");
    assert!(report.refusals.is_empty());
    // However it is cut, it is reported on or refused.
    for length in 0..wasm.len() {
        if let Ok(report) = Report::of(&wasm[..length]) {
            assert!(!report.refusals.is_empty() || length > 8, "{length}");
        }
    }

    let bad = r#"(module (import "env" "proxy_none" (func)) (import "env" "memory" (memory 1)))"#;
    let report = Report::of(&wat::parse_str(bad).unwrap()).unwrap();
    let codes: Vec<_> = report.refusals.iter().map(ModuleError::code).collect();
    assert_eq!(
        codes,
        ["module-abi-unknown", "module-import-unknown", "module-memory-missing", "module-allocator-missing"]
    );
    assert!(report.imports.iter().all(|import| !import.provided) && report.memory.is_none());
    assert_eq!(compile(bad).unwrap_err(), report.refusals[0]);
}

#[test]
fn compiled_code_is_restored_by_an_engine_like_the_one_that_made_it() {
    let wasm = wat::parse_str(module("")).unwrap();
    let first = Module::compile(engine(), &wasm).unwrap();
    let code = first.serialize().unwrap();
    // SAFETY: it is what was serialised of this very module.
    let again = unsafe { Module::restore(engine(), &wasm, &code) }.unwrap();
    assert_eq!((again.abi(), again.callbacks(), again.size()), (first.abi(), first.callbacks(), first.size()));
    let plugin = Plugin::new(again, PluginSettings::new("restored"), shared().0);
    assert!(plugin.instantiate().is_ok());

    // Bounds checks are compiled in where there is no room for the pool.
    let other = Engine::new(&EngineOptions { max_instances: u32::MAX, ..EngineOptions::default() }).unwrap();
    assert_ne!(other.compatibility(), engine().compatibility());
    // SAFETY: as above, and the settings are compared before anything else.
    assert!(unsafe { Module::restore(&other, &wasm, &code) }.is_err());
}

#[test]
fn a_module_that_evaluates_expressions_reads_heads_and_properties() {
    let import = |name: &str| {
        let text = module(&format!(r#"(import "env" "{name}" (func (param i32 i32 i32 i32 i32 i32) (result i32)))"#));
        compile(&text.replace("(memory", "(func (export \"proxy_on_log\") (param i32)) (memory")).unwrap()
    };
    let expressions = import("proxy_call_foreign_function");
    assert!(expressions.reads_properties() && expressions.reads_late() && expressions.reads_request_late());
}
