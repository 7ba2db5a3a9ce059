//! From start to end: start-up code, root context, configuration, order of callbacks, log lines.

use bytes::Bytes;
use proxy_wasm_host::{Instance, Limits, LogLevel, Plugin, PluginSettings, StartFailure, TrapKind};

use crate::fixture::{compile, exchange, instantiate, open, run_on, shared, start, start_logged};
use crate::script::{N, On, Out, b, kept, program, results, script};

/// A module that logs the name of everything that is called.
fn tracing_module(extra: &str) -> String {
    let callbacks = [
        ("_initialize", "", "", 0),
        ("proxy_on_context_create", "(param i32 i32)", "", 1),
        ("proxy_on_vm_start", "(param i32 i32)", "1", 2),
        ("proxy_validate_configuration", "(param i32 i32)", "1", 3),
        ("proxy_on_configure", "(param i32 i32)", "1", 4),
        ("proxy_on_log", "(param i32)", "", 5),
        ("proxy_on_done", "(param i32)", "0", 6),
        ("proxy_on_delete", "(param i32)", "", 7),
        ("__main_void", "", "0", 8),
    ];
    let mut text = String::from(
        r#"(module (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (func (export "malloc") (param i32) (result i32) (i32.const 1024))
        (func (export "proxy_abi_version_0_2_1"))"#,
    );
    for (name, params, result, index) in callbacks {
        let (ty, value) =
            if result.is_empty() { ("", String::new()) } else { ("(result i32)", format!("(i32.const {result})")) };
        let at = index * 40;
        text.push_str(&format!(
            "(data (i32.const {at}) \"{name}\") (func (export \"{name}\") {params} {ty} (drop (call $log (i32.const 2) (i32.const {at}) (i32.const {}))) {value})",
            name.len()
        ));
    }
    text + extra + ")"
}

#[test]
fn callbacks_come_in_the_order_of_envoy() {
    let (shared, lines) = shared();
    let plugin = Plugin::new(compile(&tracing_module("")).unwrap(), PluginSettings::new("p"), shared);
    let mut instance = plugin.instantiate().unwrap();
    assert_eq!(
        lines.take(),
        [
            "1 info _initialize",
            "1 info __main_void",
            "1 info proxy_on_context_create",
            "1 info proxy_on_vm_start",
            "1 info proxy_validate_configuration",
            "1 info proxy_on_configure",
        ]
    );
    let first = instance.open(exchange()).unwrap();
    let second = instance.open(exchange()).unwrap();
    assert!(instance.close(first).unwrap().is_some());
    assert_eq!(
        lines.take(),
        [
            "2 info proxy_on_context_create",
            "3 info proxy_on_context_create",
            "2 info proxy_on_log",
            "2 info proxy_on_done",
            "2 info proxy_on_delete",
        ]
    );
    instance.log(second).unwrap();
    instance.log(second).unwrap();
    assert_eq!(lines.take(), ["3 info proxy_on_log"]);
    instance.detach(second).unwrap();
    assert!(instance.close(second).unwrap().is_none(), "nothing was attached");
    assert_eq!(lines.take(), ["3 info proxy_on_done", "3 info proxy_on_delete"], "it was logged before");
}

#[test]
fn a_module_that_forgets_streams_hears_only_of_their_messages_and_log() {
    let (shared, lines) = shared();
    let module = compile(&tracing_module("(func (export \"gateway_streams_are_forgotten\"))")).unwrap();
    assert!(module.callbacks().forgets_streams && module.callbacks().end);
    let mut instance = Plugin::new(module, PluginSettings::new("p"), shared).instantiate().unwrap();
    assert!(lines.take().contains(&"1 info proxy_on_context_create".to_owned()), "roots are created as ever");
    let context = instance.open(exchange()).unwrap();
    assert!(instance.close(context).unwrap().is_some());
    assert_eq!(lines.take(), ["2 info proxy_on_log", "2 info proxy_on_done"]);
    assert!(instance.retire().is_ok_and(|done| !done), "done says no");
    assert_eq!(lines.take(), ["1 info proxy_on_done"]);
    let quiet = compile(&tracing_module("")).unwrap().callbacks();
    assert!(!quiet.forgets_streams && quiet.end);
}

#[test]
fn instances_can_be_handed_to_another_thread() {
    fn is_send<T: Send>(_: &T) {}
    let mut instance =
        start(&script(On::RequestHeaders, program().call("proxy_add_header_map_value", [N(0), b("x"), b("1")])));
    is_send(&instance);
    let exchange = std::thread::spawn(move || run_on(&mut instance)).join().unwrap();
    assert_eq!(exchange.request.headers["x"], "1");
}

#[test]
fn an_exchange_moves_between_instances() {
    let add = |value| {
        start(&script(On::RequestHeaders, program().call("proxy_add_header_map_value", [N(0), b("x"), b(value)])))
    };
    let (mut one, mut two) = (add("1"), add("2"));
    let first = one.open(exchange()).unwrap();
    one.on_request_headers(first, true).unwrap();
    let second = two.open(one.detach(first).unwrap()).unwrap();
    two.on_request_headers(second, true).unwrap();
    assert!(one.attach(first, two.detach(second).unwrap()).is_ok());
    assert!(one.exchange(first).unwrap().request.headers.get_all("x").eq(["1", "2"]));
    assert!(two.close(second).unwrap().is_none());
    assert!(one.close(first).unwrap().is_some());
}

#[test]
fn calls_about_what_is_not_attached_are_refused_and_harmless() {
    let mut instance = start(&script(On::RequestHeaders, program()));
    let context = open(&mut instance, |_| {});
    let exchange = instance.detach(context).unwrap();
    assert_eq!(instance.on_request_headers(context, true).unwrap_err().kind, TrapKind::Detached);
    assert!(!instance.is_dead());
    assert!(instance.attach(context, exchange).is_ok());
    instance.on_request_headers(context, true).unwrap();
    instance.close(context).unwrap();
    assert_eq!(instance.close(context).unwrap_err().kind, TrapKind::Detached);
    assert_eq!(instance.on_request_headers(context, true).unwrap_err().kind, TrapKind::Detached);
    assert!(instance.attach(context, crate::fixture::exchange()).is_err(), "handed back");
    assert!(!instance.is_dead());
}

#[test]
fn callbacks_that_are_not_exported_continue() {
    let mut instance = instantiate(
        r#"(module (memory (export "memory") 1) (func (export "malloc") (param i32) (result i32) (i32.const 8))
        (func (export "proxy_abi_version_0_2_0")))"#,
        PluginSettings::new("empty"),
    )
    .unwrap();
    let context = open(&mut instance, |_| {});
    use proxy_wasm_host::Action::Continue;
    assert_eq!(instance.on_request_headers(context, false).unwrap(), Continue);
    assert_eq!(instance.on_request_body(context, false).unwrap(), Continue);
    assert_eq!(instance.on_request_trailers(context).unwrap(), Continue);
    assert_eq!(instance.on_response_headers(context, false).unwrap(), Continue);
    assert_eq!(instance.on_response_body(context, true).unwrap(), Continue);
    assert_eq!(instance.on_response_trailers(context).unwrap(), Continue);
    instance.on_tick().unwrap();
    assert!(instance.close(context).unwrap().is_some());
    assert_eq!(instance.memory_bytes(), 65536);
}

/// A module whose start-up does `body` in `function`.
fn starting(exports: &str) -> String {
    format!(
        r#"(module
        (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
        (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "line") (data (i32.const 16) "plugin_root_id")
        (func (export "malloc") (param i32) (result i32) (i32.const 1024))
        (func (export "proxy_abi_version_0_2_1"))
        {exports})"#
    )
}

fn fails(exports: &str) -> proxy_wasm_host::StartError {
    match instantiate(&starting(exports), PluginSettings::new("p")) {
        Ok(_) => panic!("started: {exports}"),
        Err(error) => error,
    }
}

fn starts(exports: &str) -> Instance {
    instantiate(&starting(exports), PluginSettings::new("p")).unwrap_or_else(|error| panic!("{exports}: {error}"))
}

#[test]
fn a_refusal_is_reported_with_what_the_plugin_logged() {
    let refuse = "(result i32) (drop (call $log (i32.const 4) (i32.const 0) (i32.const 4))) (i32.const 0))";
    let error = fails(&format!("(func (export \"proxy_on_vm_start\") (param i32 i32) {refuse}"));
    assert_eq!((error.code(), &error.log[..]), ("plugin-start-refused", &["line".to_owned()][..]));
    let error = fails(&format!("(func (export \"proxy_on_configure\") (param i32 i32) {refuse}"));
    assert_eq!(error.code(), "plugin-configuration-refused");
    assert!(error.to_string().contains("pluginConfig") && error.to_string().contains("line"), "{error}");
    let error = fails(&format!("(func (export \"proxy_validate_configuration\") (param i32 i32) {refuse}"));
    assert!(matches!(error.failure, StartFailure::ConfigurationRefused("proxy_validate_configuration")));
}

#[test]
fn lines_kept_from_the_start_are_bounded() {
    let error = fails(
        r#"(func (export "_initialize") (local $i i32) (loop $l
            (drop (call $log (i32.const 0) (i32.const 0) (i32.const 60000)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const 200)))) (unreachable))"#,
    );
    assert_eq!(error.code(), "plugin-start-trap");
    assert_eq!(error.log.len(), 20);
    assert!(error.log.iter().all(|line| line.chars().count() <= 1025));
}

#[test]
fn start_up_code_may_log_and_use_wasi_but_nothing_else() {
    starts(
        r#"(func (export "_initialize") (drop (call $log (i32.const 2) (i32.const 0) (i32.const 4)))
        (drop (call $random (i32.const 64) (i32.const 8))))"#,
    );
    for name in ["_initialize", "_start"] {
        let error = fails(&format!("(func (export \"{name}\") (drop (call $tick (i32.const 5))))"));
        assert_eq!(error.code(), "plugin-start-trap", "{name}");
        assert!(error.to_string().contains("proxy_set_tick_period_milliseconds"), "{error}");
    }
    let error = fails("(func $s (drop (call $tick (i32.const 5)))) (start $s)");
    assert!(error.to_string().contains("instantiation"), "{error}");
    starts("(func $s (drop (call $log (i32.const 2) (i32.const 0) (i32.const 4)))) (start $s)");
    // From the root context on, everything may be called.
    let instance = starts(
        r#"(func (export "proxy_on_context_create") (param i32 i32)
        (if (call $property (i32.const 16) (i32.const 14) (i32.const 32) (i32.const 36)) (then unreachable))
        (drop (call $tick (i32.const 500))))
        (func (export "proxy_on_tick") (param i32))"#,
    );
    assert_eq!(instance.tick_period().unwrap().as_millis(), 500);
}

#[test]
fn a_command_may_exit_with_success() {
    starts("(func (export \"_start\") (call $exit (i32.const 0)))");
    assert_eq!(fails("(func (export \"_start\") (call $exit (i32.const 1)))").code(), "plugin-start-trap");
    assert_eq!(fails("(func (export \"_initialize\") (call $exit (i32.const 0)))").code(), "plugin-start-trap");
    // `_start` is for modules that have no `_initialize`.
    starts("(func (export \"_initialize\")) (func (export \"_start\") unreachable)");
    assert_eq!(
        fails("(func (export \"_initialize\")) (func (export \"main\") (param i32 i32) (result i32) unreachable)")
            .code(),
        "plugin-start-trap"
    );
}

#[test]
fn a_start_that_does_not_end_is_cut() {
    for export in [
        "(func (export \"_initialize\") (loop $l (br $l)))",
        "(func (export \"_start\") (loop $l (br $l)))",
        "(func $s (loop $l (br $l))) (start $s)",
        "(func (export \"proxy_on_context_create\") (param i32 i32) (loop $l (br $l)))",
        "(func (export \"proxy_on_vm_start\") (param i32 i32) (result i32) (loop $l (br $l)) (unreachable))",
        "(func (export \"proxy_on_configure\") (param i32 i32) (result i32) (loop $l (br $l)) (unreachable))",
    ] {
        let mut settings = PluginSettings::new("p");
        settings.limits = Limits { start_cpu: std::time::Duration::from_millis(30), ..Limits::default() };
        let Err(error) = instantiate(&starting(export), settings) else { panic!("started: {export}") };
        assert_eq!(error.code(), "plugin-start-deadline", "{export}: {error}");
    }
}

#[test]
fn a_trap_at_any_step_of_the_start_is_reported_with_the_step() {
    for step in ["_initialize", "_start", "proxy_on_context_create", "proxy_on_vm_start", "proxy_on_configure"] {
        let params = if step.starts_with('_') { "" } else { "(param i32 i32)" };
        let result = if step.contains("start") && step.starts_with("proxy") || step.contains("configure") {
            "(result i32)"
        } else {
            ""
        };
        let error = fails(&format!("(func (export \"{step}\") {params} {result} unreachable)"));
        assert_eq!(error.code(), "plugin-start-trap");
        assert!(error.to_string().contains(step), "{error}");
    }
}

#[test]
fn a_module_that_needs_too_much_memory_does_not_start() {
    let mut settings = PluginSettings::new("p");
    settings.limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let text = r#"(module (memory (export "memory") 17) (func (export "malloc") (param i32) (result i32) (i32.const 8))
        (func (export "proxy_abi_version_0_2_0")))"#;
    let Err(error) = instantiate(text, settings.clone()) else { panic!("started") };
    assert_eq!(error.code(), "plugin-memory");
    assert!(error.to_string().contains("1048576"), "{error}");
    // It starts with less, asks for more while it starts, and gives up.
    let text = starting(
        "(func (export \"_initialize\") (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable)))",
    );
    let Err(error) = instantiate(&text, settings) else { panic!("started") };
    assert_eq!(error.code(), "plugin-memory");
}

#[test]
fn plugins_learn_their_names_and_configurations() {
    let ask = |name: &str| program().call("proxy_get_property", [b(name), Out(0), Out(1)]).keep(name);
    let all = ask("plugin_name");
    let all = all.call("proxy_get_property", [b("plugin_root_id"), Out(0), Out(1)]).keep("root");
    let all = all.call("proxy_get_property", [b("plugin_vm_id"), Out(0), Out(1)]).keep("vm");
    let settings = PluginSettings {
        root_id: "root id".to_owned(),
        vm_id: "vm id".to_owned(),
        ..script(On::RequestHeaders, all).settings()
    };
    let exchange = run_on(&mut crate::fixture::start_with(settings));
    assert_eq!(kept(&exchange, "plugin_name"), b"scripted");
    assert_eq!((kept(&exchange, "root"), kept(&exchange, "vm")), (&b"root id"[..], &b"vm id"[..]));
}

#[test]
fn log_lines_have_a_level_and_a_context() {
    let log = |level| program().call("proxy_log", [N(level), b("text\n\x1b[0m")]);
    let mut all = log(0);
    for level in 1..=6 {
        all = all.call("proxy_log", [N(level), b("text")]);
    }
    let (mut instance, lines) = start_logged(script(On::RequestHeaders, all.clone()).settings());
    let exchange = run_on(&mut instance);
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(lines.take(), ["2 info text", "2 warn text", "2 error text", "2 critical text"]);

    let settings = PluginSettings { log_level: LogLevel::Trace, ..script(On::RequestHeaders, all).settings() };
    let (mut instance, lines) = start_logged(settings);
    run_on(&mut instance);
    assert_eq!(lines.take()[0], "2 trace text\n\x1b[0m", "the sink escapes");
}

#[test]
fn plugins_can_ask_for_level_and_time() {
    let ask = program()
        .call("proxy_get_log_level", [Out(0)])
        .call("proxy_get_current_time_nanoseconds", [Out(1)])
        .call("proxy_set_property", [b("both"), N(0x8000), N(16)]);
    let settings = PluginSettings { log_level: LogLevel::Error, ..script(On::RequestHeaders, ask).settings() };
    let exchange = run_on(&mut crate::fixture::start_with(settings));
    let both = kept(&exchange, "both");
    assert_eq!(both[..4], [4, 0, 0, 0]);
    let time = u64::from_le_bytes(both[8..].try_into().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(now - time < 60_000_000_000, "{time} {now}");
}

#[test]
fn bytes_are_given_only_through_an_allocator_that_is_called_with_the_exact_length() {
    // Traps on 0; logs nothing; the configuration has 5 bytes.
    let text = r#"(module
        (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "proxy_on_memory_allocate") (param i32) (result i32)
          (if (i32.ne (local.get 0) (i32.const 5)) (then unreachable)) (i32.const 1024))
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (if (call $get (i32.const 7) (i32.const 0) (i32.const 100) (i32.const 0) (i32.const 4)) (then unreachable))
          (if (i32.ne (i32.load8_u (i32.load (i32.const 0))) (i32.const 104)) (then unreachable))
          (if (call $get (i32.const 6) (i32.const 0) (i32.const 100) (i32.const 0) (i32.const 4)) (then unreachable))
          (i32.eqz (i32.load (i32.const 4)))))"#;
    let mut settings = PluginSettings::new("p");
    settings.configuration = Bytes::from_static(b"hello");
    instantiate(text, settings).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn malloc_is_preferred_to_the_allocator_of_the_specification() {
    instantiate(
        r#"(module
        (import "env" "proxy_get_property" (func $get (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 16) "plugin_name")
        (func (export "malloc") (param i32) (result i32) (i32.const 1024))
        (func (export "proxy_on_memory_allocate") (param i32) (result i32) unreachable)
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_context_create") (param i32 i32)
          (drop (call $get (i32.const 16) (i32.const 11) (i32.const 0) (i32.const 4)))))"#,
        PluginSettings::new("p"),
    )
    .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_root_context_may_postpone_its_end() {
    let script = script(On::Done, program().returns(0)).and(On::Tick, program().call("proxy_done", []));
    let mut instance = start(&script);
    assert!(!instance.retire().unwrap() && !instance.is_retired());
    assert!(!instance.retire().unwrap(), "asked again, not told again");
    instance.on_tick().unwrap();
    assert!(instance.is_retired() && instance.retire().unwrap());

    let mut instance = start(&crate::script::script(On::Done, program().returns(1)));
    assert!(instance.retire().unwrap());
}
