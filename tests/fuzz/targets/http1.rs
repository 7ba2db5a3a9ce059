//! Any bytes: the guard and hyper agree on the end of every message, however the bytes are cut.
#![no_main]
#![allow(dead_code, reason = "only the HTTP/1 part of the guard is fuzzed")]

#[path = "../../../gateway/src/http/guard/mod.rs"]
mod guard;
#[path = "../../../gateway/src/http/limits.rs"]
mod limits;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| guard::fuzz(bytes));
