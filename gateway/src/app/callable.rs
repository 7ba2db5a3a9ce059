//! Whom plugins may call: the services of the configuration that is being published or served.

use std::sync::Arc;

use arc_swap::ArcSwap;
use proxy_wasm_host::Upstreams;

use crate::snapshot::CallNames;

/// The services that plugins know, for whichever thread asks.
#[derive(Default)]
pub(super) struct Callable(ArcSwap<CallNames>);

impl Callable {
    /// From now on these.
    pub(super) fn serve(&self, names: Arc<CallNames>) {
        self.0.store(names);
    }
}

impl Upstreams for Callable {
    fn knows(&self, name: &str) -> bool {
        self.0.load().find(name).is_some()
    }
}
