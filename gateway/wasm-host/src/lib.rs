//! The proxy-wasm ABI (0.1.0, 0.2.0, 0.2.1) on wasmtime: runs untrusted plugins for HTTP and TCP.
//!
//! The crate owns everything between "here are the bytes of a plugin" and "this is what the plugin
//! wants done with this HTTP exchange". It knows nothing of sockets, runtimes, routes or where a
//! plugin came from: the HTTP layer lends it an [`Exchange`], calls one callback, and reads from
//! the returned [`Action`] and from [`Exchange::effects`] what to do next. Nothing here blocks,
//! sleeps or spawns, except the one thread that advances the deadline clock.
//!
//! ```text
//! Engine ──compile──▶ Module ──+ settings, shared state──▶ Plugin ──instantiate──▶ Instance
//! one per process     one per content                      one per version         one per worker
//! ```
//!
//! # What is guaranteed
//!
//! * A callback ends: CPU time, wall time, guest stack and memory are limited ([`Limits`]).
//! * Whatever a plugin passes to a host function, the host does not panic, does not read outside the
//!   plugin's memory and does not allocate from a length it has not checked against that memory.
//! * Whatever a plugin does to a message, the heads it leaves behind are well formed. See
//!   [`Effects`] for what the HTTP layer still has to do (lengths, routing).
//! * What compiling a module takes is limited before it begins (size, declarations, branching), because
//!   it cannot be interrupted: tens of seconds of CPU and some hundred megabytes at worst.
//! * With [`Isolation::Request`] a stream's instance ([`Plugin::fresh`]) holds nothing that any other stream left.
//! * After a [`Trap`] the instance is dead and says so at once; no plugin code of it runs again.
//!
//! # Where this host differs from Envoy on purpose
//!
//! Each of these keeps every plugin working that works in Envoy:
//!
//! * Resuming a stream inside the callback that then returns "pause" continues it (Envoy hangs).
//! * The plugin configuration can be read at any time, not only in `on_configure`.
//! * Request headers can be read in all later phases, and in `on_log` a map that does not exist is empty.
//! * What a service sends over TCP can be paused and resumed, too.
//! * A HTTP call without an answer leaves maps and a body to look at, which are empty.
//! * `set_buffer_bytes` may replace bytes in the middle of a body.
//! * A malformed or oversized map is refused instead of silently emptying the headers. A map that
//!   leaves out pseudo headers keeps their present values.
//! * An edit that would break the message (illegal name or value, unknown pseudo header, removal of
//!   one that is required) is not applied and marks the exchange ([`Effects::invalid_edit`]), since
//!   SDKs abort on any other answer than success.
//! * Headers that frame the message on one connection (`connection`, `transfer-encoding`,
//!   `content-length` and the like) cannot be written, only removed; see [`Effects`].
//! * A local response with a status outside 200..=599 becomes 500. In `on_log` it is refused.
//! * `host` and `:authority` are one entry, which cannot be removed.
//! * Defining the same metric again gives the same identifier; metrics belong to a plugin, so two
//!   plugins may use one name.

mod abi;
mod body;
mod bulk;
mod callbacks;
mod calls;
mod capabilities;
mod contexts;
mod deadline;
mod engine;
mod exchange;
mod expressions;
mod fields;
mod guest;
mod host;
mod image;
mod inspect;
mod instance;
mod instrument;
mod limits;
mod log;
mod metadata;
mod module;
mod names;
mod outbound;
mod pairs;
mod plugin;
mod properties;
mod report;
mod shared;
mod start;
mod state;
mod trap;

pub use abi::{AbiVersion, LogLevel};
pub use body::Body;
pub use callbacks::Callbacks;
pub use contexts::ContextId;
pub use engine::{Engine, EngineError, EngineOptions};
pub use exchange::{Action, Effects, Exchange, Half, HeadState, LocalResponse, Peer, Phase};
pub use heads::{HeaderList, RequestHead, ResponseHead, Scheme};
pub use instance::Instance;
pub use limits::Limits;
pub use log::{LogLine, LogSink};
pub use metadata::{Metadata, MetadataValue};
pub use module::{Module, ModuleError};
pub use outbound::{CallResponse, GrpcCall, GrpcMetadata, HttpCall, Message, Outbound, Upstreams};
pub use plugin::{FreshWay, Isolation, Plugin, PluginSettings};
pub use properties::{Direction, Node, Properties, TlsFacts};
pub use report::{CustomSection, Export, Import, Producer, Range, Report};
pub use shared::{HISTOGRAM_BUCKETS, HistogramSample, MetricSample, MetricValue, Quota, QuotaSample, Shared};
pub use start::{StartError, StartFailure};
pub use trap::{Trap, TrapKind, TrapReason};
