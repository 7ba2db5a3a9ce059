//! The differential test: the same modules and the same requests in a real Envoy and in our gateway.
//!
//! A [`Case`] is a request, the answer of the service, and what the plugin does, as a script for `tests/plugins/scripted`
//! or as a wish for one of the modules in other languages. What is compared is what the client gets, what reaches the service, and what the
//! plugin saw: every callback with its arguments, every host call with its status and results. All of that is lines of
//! the form `what = value` ([`Seen`]).
//!
//! Lines that differ have to stand in `tests/differential/DIFFERENCES.md`, with the reason ([`table`]). What stands there
//! and does not differ any more is an error, too.

mod case;
pub mod cases;
mod exchange;
mod front;
mod http2;
mod service;
mod sites;
pub mod table;
mod transcript;

pub use case::{Answer, Case};
pub use exchange::{Seen, run};
pub use front::{Front, is_there};
pub use sites::{Site, envoy_program};
