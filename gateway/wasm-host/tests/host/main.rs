//! The host as its users see it: modules compiled from WebAssembly text, driven through the public
//! API. Most tests use one scripted module (`script.rs`), which calls what a test tells it to.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod bodies;
mod calls;
mod fixture;
mod fresh;
mod headers;
mod hostile;
mod invariants;
mod lifecycle;
mod modules;
mod pointers;
mod properties;
mod script;
mod sharing;
mod small_answers;
mod streams;
mod wasi;
