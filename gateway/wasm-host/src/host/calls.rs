//! Outbound HTTP and gRPC calls, which this version does not make.

use crate::abi::Status;
use crate::guest::{Call, HostResult};

/// Refuses to begin a call with `INTERNAL_FAILURE`, which all SDKs hand to the plugin as an error, and
/// tells the operator once.
pub(super) fn refuse(call: &mut Call<'_>) -> HostResult {
    let state = call.data_mut();
    if !std::mem::replace(&mut state.calls_refused, true) {
        state.note("the plugin tried an outbound HTTP or gRPC call; this version of the gateway makes none, the plugin is told that they fail");
    }
    Err(Status::InternalFailure.into())
}

/// There are no calls, so no token is known.
pub(super) fn unknown() -> HostResult {
    Err(Status::NotFound.into())
}
