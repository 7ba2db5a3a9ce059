//! An instance of its own for every stream: it holds what configuring left, and nothing that a stream left.

use std::time::Duration;

use proxy_wasm_host::{FreshWay, Instance, Isolation, Limits, Plugin, PluginSettings};

use crate::fixture::{compile, engine, open, scripted, shared};
use crate::script::{N, On, b, program, script};

/// Counts its streams in a global and in memory that it has grown, and shows both and a byte of its configuration in the
/// property `seen`. `extra` is more of the module, `first` is done when it is configured.
fn counting(extra: &str, first: &str) -> String {
    format!(
        r#"(module
        (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (import "env" "proxy_set_property" (func $set (param i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
        (memory (export "memory") 1)
        (global $streams (mut i32) (i32.const 0))
        (global $started (mut i64) (i64.const 5))
        (data (i32.const 0) "seen") (data (i32.const 8) "configured")
        (func (export "malloc") (param i32) (result i32) (i32.const 40000))
        (func (export "proxy_abi_version_0_2_1"))
        (func $start (global.set $started (i64.add (global.get $started) (i64.const 1))))
        (start $start)
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $log (i32.const 2) (i32.const 8) (i32.const 10)))
          (drop (call $tick (i32.const 100)))
          (drop (memory.grow (i32.const 2)))
          (drop (call $get (i32.const 7) (i32.const 0) (i32.const 10) (i32.const 32) (i32.const 36)))
          (i32.store8 (i32.const 150000) (i32.load8_u (i32.load (i32.const 32))))
          (global.set $streams (i32.const 10))
          {first}
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (global.set $streams (i32.add (global.get $streams) (i32.const 1)))
          (i32.store8 (i32.const 150001) (i32.add (i32.load8_u (i32.const 150001)) (i32.const 1)))
          (i32.store8 (i32.const 150002) (global.get $streams))
          (i32.store8 (i32.const 150003) (i32.wrap_i64 (global.get $started)))
          (drop (call $set (i32.const 0) (i32.const 4) (i32.const 150000) (i32.const 4)))
          (i32.const 0))
        {extra})"#
    )
}

fn settings(limits: Limits) -> PluginSettings {
    let configuration = bytes::Bytes::from_static(b"7");
    PluginSettings { configuration, limits, isolation: Isolation::Request, ..PluginSettings::new("counting") }
}

/// What a stream saw: configuration, streams by memory, streams by global, starts.
fn seen(instance: &mut Instance) -> Vec<u8> {
    let context = open(instance, |_| {});
    instance.on_request_headers(context, true).unwrap();
    let exchange = instance.detach(context).unwrap();
    instance.close(context).unwrap();
    exchange.properties.stored(b"seen").unwrap().to_vec()
}

#[test]
fn a_copy_holds_what_configuring_left_and_no_code_runs_for_it() {
    let (shared, lines) = shared();
    let plugin = Plugin::new(compile(&counting("", "")).unwrap(), settings(Limits::default()), shared);
    let way = plugin.prepare_fresh().unwrap();
    assert!(matches!(way, FreshWay::Copied(1..=12_288)), "{way:?}: a page of data, and one that was grown");
    assert_eq!(lines.take(), ["1 info configured"], "once");
    for _ in 0..3 {
        let mut fresh = plugin.fresh().unwrap();
        assert_eq!(seen(&mut fresh), [b'7', 1, 11, 6]);
        assert_eq!(seen(&mut fresh), [b'7', 2, 12, 6], "within an instance it counts on");
        assert_eq!(fresh.memory_bytes(), 3 << 16);
        assert_eq!(fresh.tick_period(), None, "the timer is the root instance's");
    }
    assert!(lines.take().is_empty());
    // The one that ticks and hears of queues is an instance as ever.
    let mut root = plugin.instantiate().unwrap();
    assert_eq!(root.tick_period(), Some(Duration::from_millis(100)));
    assert_eq!(seen(&mut root), [b'7', 1, 11, 6]);
}

#[test]
fn a_module_that_cannot_be_copied_is_configured_anew() {
    let (shared, lines) = shared();
    let tables = "(table 2 funcref) (func $f) (elem declare func $f)";
    let text = counting(tables, "(table.set (i32.const 0) (ref.func $f))");
    let plugin = Plugin::new(compile(&text).unwrap(), settings(Limits::default()), shared);
    let way = plugin.prepare_fresh().unwrap();
    assert_eq!(way, FreshWay::Configured("the module changes its tables while it runs"));
    assert_eq!(lines.take().len(), 1);
    for _ in 0..2 {
        let mut fresh = plugin.fresh().unwrap();
        assert_eq!(seen(&mut fresh), [b'7', 1, 11, 6]);
        assert_eq!(lines.take(), ["1 info configured"], "each time");
    }
    let global = "(global (mut funcref) (ref.null func))";
    let plugin = Plugin::new(compile(&counting(global, "")).unwrap(), settings(Limits::default()), self::shared().0);
    assert!(matches!(plugin.prepare_fresh().unwrap(), FreshWay::Configured(why) if why.contains("references")));
    let globals = "(global (mut i32) (i32.const 0))".repeat(10_001);
    let plugin = Plugin::new(compile(&counting(&globals, "")).unwrap(), settings(Limits::default()), self::shared().0);
    assert!(matches!(plugin.prepare_fresh().unwrap(), FreshWay::Configured(why) if why.contains("globals")));
}

#[test]
fn a_start_up_that_takes_longer_than_a_callback_cannot_be_repeated_for_every_request() {
    let slow = "(local.set 0 (i32.const 0)) (loop $l (br_if $l (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) \
                (i32.const 0x8000000))))";
    let limits = Limits { callback_cpu: Duration::from_millis(10), ..Limits::default() };
    let text = counting("(table 2 funcref)", &format!("(drop (table.grow (ref.null func) (i32.const 1))) {slow}"));
    let plugin = Plugin::new(compile(&text).unwrap(), settings(limits.clone()), shared().0);
    let error = plugin.prepare_fresh().unwrap_err();
    assert_eq!(error.code(), "plugin-isolation-too-slow", "{error}");
    assert!(error.to_string().contains("changes its tables") && error.to_string().contains("10ms"), "{error}");
    // A copy costs the same however long that took.
    let limits = Limits { start_cpu: Duration::from_secs(100), start_wall: Duration::from_secs(100), ..limits };
    let plugin = Plugin::new(compile(&counting("", slow)).unwrap(), settings(limits), shared().0);
    plugin.prepare_fresh().unwrap();
    assert_eq!(seen(&mut plugin.fresh().unwrap()), [b'7', 1, 11, 6]);
}

#[test]
fn what_one_stream_left_in_memory_is_not_in_the_next_ones() {
    let fill = program().call("grow", []).call("random_get", [N(0x2_0000), N(60_000)]);
    let look = program().call("proxy_set_property", [b("seen"), N(0x2_0000), N(60_000)]);
    let script = script(On::RequestHeaders, look).and(On::ResponseHeaders, fill);
    let settings = PluginSettings { isolation: Isolation::Request, ..script.settings() };
    let plugin = Plugin::new(scripted(), settings, shared().0);
    assert!(matches!(plugin.prepare_fresh().unwrap(), FreshWay::Configured(_)), "a deed of it is to grow its table");
    for _ in 0..20 {
        let mut fresh = plugin.fresh().unwrap();
        let context = open(&mut fresh, |_| {});
        fresh.on_request_headers(context, false).unwrap();
        let exchange = fresh.exchange(context).unwrap();
        assert!(exchange.properties.stored(b"seen").unwrap().iter().all(|byte| *byte == 0));
        exchange.response = Some(crate::fixture::response());
        fresh.on_response_headers(context, true).unwrap();
    }
}

#[test]
fn a_module_with_an_export_of_the_hosts_names_is_refused() {
    let text = counting("(global (export \"gateway:global:0\") i32 (i32.const 1))", "");
    assert_eq!(compile(&text).unwrap_err().code(), "module-limits");
    assert!(engine().is_pooling());
}

/// Memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn many_fresh_instances_take_no_more_memory_than_a_few() {
    let plugin = Plugin::new(compile(&counting("", "")).unwrap(), settings(Limits::default()), shared().0);
    plugin.prepare_fresh().unwrap();
    let mut before = 0;
    // By hand, with a million: FRESH_INSTANCES=1000000 cargo test --release -p proxy-wasm-host fresh
    let most = std::env::var("FRESH_INSTANCES").map_or(3_000, |most| most.parse().unwrap());
    for number in 0..most {
        assert_eq!(seen(&mut plugin.fresh().unwrap()), [b'7', 1, 11, 6]);
        if number == 500 {
            before = resident();
        }
    }
    // Other tests run beside this one.
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes more");
}
