//! Sixty calls to the host for each request: adds twenty headers, reads them, removes them. The work of a published
//! measurement of plugins in Envoy, so that a call has a price.

use std::collections::BTreeMap;

use wasm_sdk::{Error, Flow, Plugin, Request, Result};

/// The plugin.
pub struct HostCalls {
    names: Vec<String>,
}

#[wasm_sdk::plugin]
impl Plugin for HostCalls {
    // There is nothing to configure.
    type Config = BTreeMap<String, String>;
    type Context = ();

    fn configure(_: BTreeMap<String, String>) -> Result<HostCalls> {
        Ok(HostCalls { names: (0..20).map(|n| format!("x-host-call-{n}")).collect() })
    }

    fn on_request(&self, request: &mut Request<'_>, _: &mut ()) -> Result<Flow> {
        let mut headers = request.headers();
        for name in &self.names {
            headers.add(name, "a value")?;
        }
        for name in &self.names {
            if headers.get(name)?.is_none() {
                return Err(Error::new(format!("{name} was added and is not there")));
            }
        }
        for name in &self.names {
            headers.remove(name)?;
        }
        Ok(Flow::Continue)
    }
}
