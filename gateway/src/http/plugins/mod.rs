//! Plugins on the request path of one worker.
//!
//! `live` keeps a plugin's instance and its spares, `vm` is one of these; `filters` takes one stream through the callbacks of a
//! chain, `passage` is what happens in one of them; `body` does the same for a body while it streams,
//! `weight` counts what is held back meanwhile; `connection` is a TCP connection that passes
//! through them. `calls` is what plugins ask of other services. The ABI itself is the business of `proxy-wasm-host`; here its
//! effects are carried out.

mod body;
mod calls;
mod connection;
mod filters;
mod live;
mod passage;
mod vm;
mod weight;

pub(crate) use body::FilteredBody;
pub(crate) use calls::CallBody;
pub(super) use connection::FilteredTunnel;
pub(super) use filters::Filters;
pub(super) use live::Link;
pub(crate) use live::{PluginSet, Prepared, SpareOrder};
pub(super) use passage::Interrupted;
