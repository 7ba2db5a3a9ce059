//! An ingress gateway that is extended by uploading WebAssembly plugins.
//!
//! The house, from the street to the cellar (ARCHITECTURE.md tells more):
//! [`app`] wires everything; [`config`] turns Istio resources ([`istio`]) into a [`snapshot`]; [`plugins`]
//! is the control side of plugins; [`worker`] runs one thread per core, which serves requests ([`http`])
//! from the snapshot and forwards them ([`upstream`]); [`overload`] says when to shed; [`telemetry`] counts and logs;
//! [`admin`] answers operators.

pub mod admin;
pub mod app;
pub mod cli;
mod clock;
pub mod config;
pub mod http;
mod http1;
pub mod istio;
pub mod net;
pub mod overload;
pub mod plugins;
pub mod snapshot;
mod stopwatch;
mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod worker;

/// What the fuzzers in `tests/fuzz` call: each takes any bytes and panics if something does not hold. Only their build
/// has it.
#[cfg(fuzzing)]
#[allow(missing_docs, reason = "the functions behind them say it")]
pub mod fuzzing {
    pub fn access_log(bytes: &[u8]) {
        crate::telemetry::fuzz(bytes);
    }

    pub fn forwarded(bytes: &[u8]) {
        crate::http::fuzz::forwarded(bytes);
    }

    pub fn head(bytes: &[u8]) {
        crate::http::fuzz::head(bytes);
    }

    pub fn http1(bytes: &[u8]) {
        crate::http1::fuzz(bytes);
    }

    pub fn path(bytes: &[u8]) {
        crate::http::fuzz::path(bytes);
    }

    pub fn resources(bytes: &[u8]) {
        crate::config::invariants::check(bytes);
    }
}
