//! Modules that say where short answers may be put.

use http::HeaderValue;
use proxy_wasm_host::{Instance, PluginSettings};

use crate::fixture::{exchange, instantiate};

/// Asks for the value of `accept` (and for `request.path`) and adds what it got as `x-value` (and `x-path`). Its allocator
/// gives out `malloc`, which may also be an instruction that traps.
fn asking(global: &str, malloc: &str) -> Instance {
    let text = format!(
        r#"(module
        (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "accept") (data (i32.const 32) "x-value") (data (i32.const 48) "request\00path")
        (data (i32.const 64) "x-path")
        {global}
        (func (export "malloc") (param i32) (result i32) {malloc})
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $get (i32.const 0) (i32.const 16) (i32.const 6) (i32.const 0) (i32.const 4)))
            (drop (call $add (i32.const 0) (i32.const 32) (i32.const 7) (i32.load (i32.const 0)) (i32.load (i32.const 4))))
            (drop (call $property (i32.const 48) (i32.const 12) (i32.const 0) (i32.const 4)))
            (drop (call $add (i32.const 0) (i32.const 64) (i32.const 6) (i32.load (i32.const 0)) (i32.load (i32.const 4))))
            (i32.const 0)))"#
    );
    instantiate(&text, PluginSettings::new("asking")).unwrap()
}

const PLACE: &str = r#"(global (export "gateway_small_answers") i32 (i32.const 4096))"#;

/// What the plugin saw of such a value, and of the path.
fn seen(mut instance: Instance, value: &str) -> Option<(String, String)> {
    let mut exchange = exchange();
    exchange.request.headers.insert("accept", HeaderValue::from_str(value).unwrap());
    let context = instance.open(exchange).unwrap();
    instance.on_request_headers(context, true).ok()?;
    let headers = instance.detach(context).unwrap().request.headers;
    let text = |name| headers[name].to_str().unwrap().to_owned();
    Some((text("x-value"), text("x-path")))
}

#[test]
fn short_answers_come_without_the_allocator() {
    for length in [0, 1, 100, 256] {
        let value = "v".repeat(length);
        let expected = Some((value.clone(), "/sample?q=1".to_owned()));
        assert_eq!(seen(asking(PLACE, "unreachable"), &value), expected, "{length}");
    }
}

#[test]
fn long_answers_need_it() {
    let value = "v".repeat(257);
    assert_eq!(seen(asking(PLACE, "unreachable"), &value), None, "the allocator traps");
    assert_eq!(seen(asking(PLACE, "(i32.const 8192)"), &value), Some((value, "/sample?q=1".to_owned())));
}

#[test]
fn a_place_that_is_none_is_not_used() {
    for global in [
        "",
        // Its end is outside the memory.
        r#"(global (export "gateway_small_answers") i32 (i32.const 65281))"#,
        r#"(global (export "gateway_small_answers") i32 (i32.const -1))"#,
        r#"(global (export "gateway_small_answers") i32 (i32.const 0))"#,
        r#"(global (export "gateway_small_answers") i64 (i64.const 4096))"#,
        r#"(func (export "gateway_small_answers"))"#,
    ] {
        assert_eq!(seen(asking(global, "unreachable"), "v"), None, "{global}");
        assert!(seen(asking(global, "(i32.const 8192)"), "v").is_some(), "{global}");
    }
    let last = r#"(global (export "gateway_small_answers") i32 (i32.const 65280))"#;
    assert!(seen(asking(last, "unreachable"), "v").is_some());
}
