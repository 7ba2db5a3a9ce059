//! The control side of plugins: where modules come from, which versions there are, who is attached to what.

mod declaration;

use std::sync::Arc;

pub use declaration::{Declaration, ModuleSource, Origin};

use crate::snapshot::Plugin;

/// A plugin that is ready for listeners, in chain order with others of its kind.
#[derive(Debug, Clone)]
pub struct Attached {
    /// What runs.
    pub plugin: Arc<Plugin>,
    /// Bound ports it is limited to; empty: every port.
    pub ports: Vec<u16>,
}
