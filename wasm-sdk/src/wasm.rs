//! The module's side of the proxy-wasm ABI 0.2.1: `abi` is the calls to the host, `module` the callbacks from it.

mod abi;
mod module;

pub(crate) use abi::{Abi, log, services};
pub use module::{Module, allocate, start};
