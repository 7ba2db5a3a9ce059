//! Time: what it is, and being called regularly.

use std::time::Duration;

use crate::HostError;
use crate::host::services;

/// Time since the beginning of 1970, UTC. (`SystemTime::now` does not exist on every WebAssembly target.)
pub fn now() -> Result<Duration, HostError> {
    services::now().map(Duration::from_nanos).map_err(|status| HostError::new("reading the time", status))
}

/// Has [`on_tick`](crate::Plugin::on_tick) called every so often, for the first time one period from now; zero stops
/// it. Rounded up to milliseconds. The gateway's shortest period is 10 ms.
pub fn set_tick_period(period: Duration) -> Result<(), HostError> {
    let milliseconds = u32::try_from(period.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
    services::set_tick_period(milliseconds).map_err(|status| HostError::new("setting the tick period", status))
}
