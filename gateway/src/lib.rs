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
mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod worker;
