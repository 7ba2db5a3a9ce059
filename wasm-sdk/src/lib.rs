//! Write plugins for the gateway (and for every other proxy-wasm host, Envoy and Istio among them) in Rust.
//!
//! A plugin is a type with a configuration and handlers. This is a whole one; it lets requests pass that know a
//! token, tells the upstream who they are, and counts them in the response:
//!
//! ```
//! use serde::Deserialize;
//! use std::cell::Cell;
//! use wasm_sdk::{Error, Flow, Plugin, Reply, Request, Response, Result};
//!
//! /// What `pluginConfig` says.
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     token: String,
//! }
//!
//! struct Gate {
//!     token: String,
//!     passed: Cell<u64>,
//! }
//!
//! #[wasm_sdk::plugin]
//! impl Plugin for Gate {
//!     type Config = Config;
//!     type Context = ();
//!
//!     fn configure(config: Config) -> Result<Gate> {
//!         if config.token.is_empty() {
//!             return Err(Error::field("token", "must not be empty"));
//!         }
//!         Ok(Gate { token: config.token, passed: Cell::new(0) })
//!     }
//!
//!     fn on_request(&self, request: &mut Request<'_>, _: &mut ()) -> Result<Flow> {
//!         if request.headers().get("x-token")?.is_none_or(|token| token != *self.token) {
//!             wasm_sdk::info!("refused {}", request.path()?);
//!             return Ok(Flow::Respond(Reply::new(401).text("a token, please\n")));
//!         }
//!         self.passed.set(self.passed.get() + 1);
//!         request.headers().set("x-user", "friend")?;
//!         Ok(Flow::Continue)
//!     }
//!
//!     fn on_response(&self, response: &mut Response<'_>, _: &mut ()) -> Result<Flow> {
//!         response.headers().add("x-passed", self.passed.get().to_string())?;
//!         Ok(Flow::Continue)
//!     }
//! }
//!
//! // In a plugin this is a `#[test]`: plugins are tested natively, without a gateway.
//! use wasm_sdk::testing::{Gateway, get};
//!
//! let gateway = Gateway::<Gate>::start(r#"{"token": "sesame"}"#)?;
//!
//! let refused = gateway.send(get("/"));
//! assert_eq!(refused.response.status(), 401);
//! assert!(refused.upstream.is_none());
//!
//! let passed = gateway.send(get("/").header("x-token", "sesame"));
//! assert_eq!(passed.upstream.unwrap().header_text("x-user"), Some("friend"));
//! assert_eq!(passed.response.header_text("x-passed"), Some("1"));
//!
//! let problem = Gateway::<Gate>::start("").err().unwrap();
//! assert_eq!(problem.to_string(), "missing field `token`");
//! # Ok::<(), Error>(())
//! ```
//!
//! # The crate around it
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]   # the WebAssembly module; the library that tests use
//!
//! [dependencies]
//! serde = { version = "1", features = ["derive"] }
//! wasm-sdk = { path = "../../wasm-sdk" }
//! ```
//!
//! Put it into `plugins/NAME` and `plugins/build NAME` makes `target/plugins/NAME.wasm` of it.
//!
//! # What to know
//!
//! * **Headers are bytes.** A [`HeaderValue`] compares with a `str` and never panics on what a client sends.
//! * **Calls to the host happen when you ask for something.** Adding a header costs one call, not a copy of all.
//! * **Nothing in the SDK panics.** What the host refuses comes back as a [`HostError`]; return it with `?` and the
//!   stream is answered with 500. A panic in a plugin ends its instance: the SDK logs message and place before.
//! * **Bodies** pass in chunks through [`Plugin::on_request_body`] and [`Plugin::on_response_body`]. To see one as a
//!   whole, return [`BodyFlow::Wait`] until [`Body::whole`] has it; to change its length, say so while the headers
//!   are still there ([`Request::edit_body`]).
//! * **Trailers** have handlers of their own; [`Body::trailers`] adds some at the end of a body that has none.
//! * **Every worker has its own instance.** What is counted belongs into [`metrics`], what all workers have to agree on
//!   into [`shared`], what one does for another into a [`Queue`]; [`set_tick_period`] has the plugin called regularly.
//! * **A module exports what it handles and imports what it calls**, because of [`plugin`](macro@plugin) at its `impl`: the
//!   gateway calls nothing that is not there, and streams bodies past a plugin that does not look at them.
//! * **Nothing to remember costs nothing.** A plugin whose `Context` is written as `()`, and that has no handlers of bodies
//!   and trailers, is not told where streams begin and end, which is a fifth of what a small one costs. Its module says so
//!   with an export that other hosts do not look at.
//! * **Short answers of the host need no allocation.** This gateway puts them, up to 256 bytes, where the export
//!   `gateway_small_answers` says. The SDK copies them; a plugin that declares host functions of its own must do so, too,
//!   and not free what it got there.
//! * **Modules run everywhere.** They carry the marker of ABI 0.2.1 and import only functions that every host of
//!   that version has.

#![warn(clippy::indexing_slicing, clippy::expect_used, clippy::string_slice)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests")
)]

mod body;
mod config;
mod error;
mod export;
mod headers;
mod host;
pub mod log;
mod message;
pub mod metrics;
#[cfg(any(test, target_arch = "wasm32"))]
mod pairs;
mod plugin;
mod queue;
mod reply;
pub mod shared;
mod stream;
#[cfg(any(test, target_arch = "wasm32"))]
mod streams;
#[cfg(any(test, target_arch = "wasm32"))]
mod table;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod time;
mod value;
#[cfg(target_arch = "wasm32")]
mod wasm;

pub use body::Body;
pub use error::{Error, HostError, Result};
pub use headers::{Headers, is_legal_name, is_legal_value};
pub use message::{Finished, Request, Response};
pub use plugin::{BodyFlow, Flow, Plugin};
pub use queue::Queue;
pub use reply::Reply;
pub use time::{now, set_tick_period};
pub use value::HeaderValue;

pub use wasm_sdk_macros::plugin;

#[doc(hidden)]
pub use host::Side;
#[doc(hidden)]
pub use stream::Stream;
#[doc(hidden)]
#[cfg(any(test, target_arch = "wasm32"))]
pub use streams::{Forgotten, Remembered, Roots, Streams};
#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
pub use wasm::{Module, allocate, start};
