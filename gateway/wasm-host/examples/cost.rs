//! What a plugin costs: nanoseconds per stream for a few plugins, with everything the HTTP layer would call
//! and nothing else. Run it with `cargo run --release -p proxy-wasm-host --example cost`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement; what fails should be seen")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};
use proxy_wasm_host::{
    Engine, EngineOptions, Exchange, HeaderList, Instance, LogLine, LogSink, Module, Plugin, PluginSettings,
    RequestHead, ResponseHead, Scheme, Shared,
};

struct Nowhere;

impl LogSink for Nowhere {
    fn log(&self, line: LogLine<'_>) {
        panic!("{line:?}");
    }
}

/// A plugin with six callbacks, which does `work` in `on_request_headers`.
fn module(work: &str) -> String {
    format!(
        r#"(module
        (import "env" "proxy_replace_header_map_value" (func $replace (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_remove_header_map_value" (func $remove (param i32 i32 i32) (result i32)))
        (import "env" "proxy_get_log_level" (func $level (param i32) (result i32)))
        (memory (export "memory") 2)
        (data (i32.const 16) "x-plugin") (data (i32.const 32) "value") (data (i32.const 48) "user-agent")
        (func (export "malloc") (param i32) (result i32) (i32.const 4096))
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {work} (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_log") (param i32))
        (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
        (func (export "proxy_on_delete") (param i32)))"#
    )
}

fn exchange() -> Box<Exchange> {
    let mut headers = HeaderList::with_capacity(16);
    headers.insert(HOST, HeaderValue::from_static("test.example.dev"));
    headers.insert("user-agent", HeaderValue::from_static("cost/1.0"));
    headers.insert("accept", HeaderValue::from_static("*/*"));
    let mut exchange = Exchange::new(RequestHead {
        method: Method::GET,
        target: PathAndQuery::from_static("/sample"),
        scheme: Scheme::Http,
        headers,
    });
    exchange.response = Some(ResponseHead { status: StatusCode::OK, headers: HeaderList::new() });
    exchange
}

/// One stream, as the HTTP layer calls it.
fn stream(instance: &mut Instance, exchange: Box<Exchange>) -> Box<Exchange> {
    let context = instance.open(exchange).unwrap();
    instance.on_request_headers(context, true).unwrap();
    let exchange = instance.detach(context).unwrap();
    instance.attach(context, exchange).unwrap();
    instance.on_response_headers(context, true).unwrap();
    instance.close(context).unwrap().unwrap()
}

/// Nanoseconds that `work` takes in the best of many batches.
fn fastest(mut work: impl FnMut()) -> f64 {
    const BATCH: u32 = 1_000;
    let batch = |_| {
        let begin = Instant::now();
        for _ in 0..BATCH {
            work();
        }
        begin.elapsed().as_nanos() as f64 / f64::from(BATCH)
    };
    (0..300).map(batch).fold(f64::MAX, f64::min)
}

fn main() {
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let shared = Shared::new(Arc::new(Nowhere), Arc::new(()));
    let edits = r#"(drop (call $replace (i32.const 0) (i32.const 16) (i32.const 8) (i32.const 32) (i32.const 5)))"#;
    let reads = r#"(drop (call $get (i32.const 0) (i32.const 48) (i32.const 10) (i32.const 0) (i32.const 4)))"#;
    let removals = r#"(drop (call $remove (i32.const 0) (i32.const 16) (i32.const 8)))"#;
    let sixty = format!("{edits}{reads}{removals}").repeat(20);
    for (name, work) in [
        ("6 callbacks, no host call", ""),
        ("6 callbacks, 1 cheap host call", "(drop (call $level (i32.const 8)))"),
        ("6 callbacks, 1 header set", edits),
        ("6 callbacks, 60 header host calls", &sixty),
    ] {
        let begin = Instant::now();
        let module = Module::compile(&engine, &wat::parse_str(module(work)).unwrap()).unwrap();
        let compiled = begin.elapsed();
        let plugin = Plugin::new(module, PluginSettings::new(name), shared.clone());
        let mut instance = plugin.instantiate().unwrap();

        // The exchange is not the plugin's cost. Short batches, so that some are not interrupted.
        let with_plugin = fastest(|| drop(black_box(stream(&mut instance, exchange()))));
        let without = fastest(|| drop(black_box(exchange())));
        let cost = with_plugin - without;

        let begin = Instant::now();
        for _ in 0..1_000 {
            drop(black_box(plugin.instantiate().unwrap()));
        }
        let instantiated = begin.elapsed() / 1_000;
        println!("{name:36} {cost:8.0} ns per stream   compiled in {compiled:?}, instantiated in {instantiated:?}");
    }
}
