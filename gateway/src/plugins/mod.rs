//! The control side of plugins: where modules come from, which versions there are, what is attached
//! in which order.
//!
//! [`Registry`] belongs to the one control task, so nothing here locks. It is asked in steps, and nothing
//! that serves changes before the last one:
//!
//! ```text
//! stage(change)          an upload or removal: checked, compiled, written to disk, but not in effect
//! resolve(declarations)  every plugin in chain order, with code to run or the reason why there is none
//!   … the caller compiles a snapshot, `prepare`s instances of new versions, publishes to the workers …
//! commit / discard       the change is the truth now, or has never been
//! ```
//!
//! Nothing here knows listeners, workers, Istio's resources or HTTP.

mod budgets;
mod command;
mod compiled;
mod declaration;
mod digest;
mod error;
mod fetch;
mod held;
mod limits;
mod loader;
mod order;
mod preflight;
mod prepare;
mod problem;
mod registry;
mod resolve;
mod scope;
mod settings;
mod stage;
mod store;
#[cfg(test)]
mod tests;
mod time;
mod upload;
mod view;

use std::sync::Arc;

pub use budgets::Budgets;
pub use command::{Change, Command, Outcome, UploadRequest};
pub use declaration::{Declaration, ModuleSource, Origin, PullSecret, Remote};
pub use digest::Digest;
pub use error::ApiError;
pub use fetch::{FetchCounters, FetchLimit, Sources, check_url};
pub use held::{HeldBack, Hold};
pub use limits::Limits;
pub use preflight::{Contents, Inspection, Line, Section, Size, Start, Trial, check, inspect};
pub use prepare::prepare;
pub use registry::{Registry, RegistryOptions, Views};
pub use resolve::Resolved;
pub use scope::{Override, RouteName, Scope};
pub(crate) use settings::Mistakes;
pub use settings::{Spec, Terms};
pub use stage::Staged;
pub use store::StoreError;
pub(crate) use time::rfc3339;
pub use view::{PluginView, State, VersionView};

use crate::snapshot::Plugin;

/// A plugin that is ready for listeners, in chain order with others of its kind.
#[derive(Debug, Clone)]
pub struct Attached {
    /// What runs.
    pub plugin: Arc<Plugin>,
    /// Who declared it.
    pub origin: Origin,
    /// Bound ports it is limited to; empty: every port.
    pub ports: Vec<u16>,
    /// Requests it is limited to.
    pub scope: Scope,
    /// What runs in its place for some of those requests; the first that fits counts.
    pub overrides: Vec<(Scope, Arc<Plugin>)>,
}
