#![no_main]
#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "the tests' own sources")]

// The checks and the plugin that makes the calls, as the tests of the crate have them.
#[path = "../../../gateway/wasm-host/tests/host/invariants.rs"]
mod invariants;
#[path = "../../../gateway/wasm-host/tests/host/script.rs"]
mod script;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
