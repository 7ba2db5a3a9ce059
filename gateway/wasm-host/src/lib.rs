//! The proxy-wasm ABI on wasmtime.

/// A plugin that is ready to be instantiated.
pub struct Plugin;
