//! Metrics that plugins define. Unknown number: `NOT_FOUND`. An operation the kind does not have:
//! `BAD_ARGUMENT`.

use crate::abi::{MetricType, Status};
use crate::guest::{Call, HostResult, Span, Stop, put_u32, put_u64, slice, view};
use crate::shared::RecordError;

/// Unknown kind, or a name that is not text: `BAD_ARGUMENT`. Beyond the limit a number that keeps
/// nothing, since SDKs abort on a refusal.
pub(super) fn define(call: &mut Call<'_>, kind: Option<MetricType>, name: Span, out: u32) -> HostResult {
    let (memory, state) = view(call)?;
    let kind = kind.ok_or(Status::BadArgument)?;
    let name = std::str::from_utf8(slice(memory, name)?).map_err(|_| Status::BadArgument)?;
    let limits = state.limits();
    let defined = state.plugin.scope.define(kind, name, limits.metrics, limits.metric_name_bytes);
    if !defined.exported {
        let name = crate::log::text(name.as_bytes(), 64);
        let note = format!("the metric `{name}` is not kept: the plugin has too many, or the name is too long");
        state.note(&note);
    }
    Ok(put_u32(memory, out, defined.id)?)
}

/// Adds to a counter, sets a gauge, records a value of a histogram.
pub(super) fn record(call: &mut Call<'_>, id: u32, value: u64) -> HostResult {
    let state = call.data_mut();
    state.metrics.record(&state.plugin.scope, id, value).map_err(stop)
}

/// Counters do not go down; histograms cannot be incremented.
pub(super) fn increment(call: &mut Call<'_>, id: u32, delta: i64) -> HostResult {
    let state = call.data_mut();
    state.metrics.increment(&state.plugin.scope, id, delta).map_err(stop)
}

/// The value of a counter or gauge.
pub(super) fn get(call: &mut Call<'_>, id: u32, out: u32) -> HostResult {
    let (memory, state) = view(call)?;
    let value = state.metrics.read(&state.plugin.scope, id).map_err(stop)?;
    Ok(put_u64(memory, out, value)?)
}

fn stop(error: RecordError) -> Stop {
    Stop::Status(match error {
        RecordError::Unknown => Status::NotFound,
        RecordError::WrongKind => Status::BadArgument,
    })
}
