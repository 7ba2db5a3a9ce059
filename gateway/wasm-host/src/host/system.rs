//! Host functions that concern no exchange: log, time, status of calls, foreign functions.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::abi::{LogLevel, Status};
use crate::guest::{Call, HostResult, Out, Span, give, put_u32, put_u64, slice, view};
use crate::host::stream;

/// Bad level: `BAD_ARGUMENT`.
pub(super) fn log(call: &mut Call<'_>, level: u32, text: Span) -> HostResult {
    let (memory, state) = view(call)?;
    let level = LogLevel::from_abi(level).ok_or(Status::BadArgument)?;
    state.log(level, slice(memory, text)?);
    Ok(())
}

pub(super) fn log_level(call: &mut Call<'_>, out: u32) -> HostResult {
    let (memory, state) = view(call)?;
    Ok(put_u32(memory, out, state.plugin.settings.log_level as u32)?)
}

/// Nanoseconds since 1970.
pub(super) fn time(call: &mut Call<'_>, out: u32) -> HostResult {
    let (memory, _) = view(call)?;
    Ok(put_u64(memory, out, unix_nanoseconds(SystemTime::now()))?)
}

/// Code and message with which the last gRPC call ended; 0 and nothing before the first.
pub(super) fn status(call: &mut Call<'_>, code: u32, message: Out) -> HostResult {
    let (memory, state) = view(call)?;
    let (number, text) = state.calls.status.clone();
    put_u32(memory, code, number)?;
    give(call, message, text.as_bytes())
}

/// Only `clear_route_cache` exists; everything else is `NOT_FOUND`.
pub(super) fn foreign_function(call: &mut Call<'_>, name: Span) -> HostResult {
    let (memory, _) = view(call)?;
    match slice(memory, name)? {
        b"clear_route_cache" => stream::clear_route_cache(call),
        _ => Err(Status::NotFound.into()),
    }
}

/// A time as the ABI writes it. Times before 1970 are 1970.
pub(super) fn unix_nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
