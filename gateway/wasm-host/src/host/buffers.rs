//! Bodies and configurations.
//!
//! A body can be touched in its own callback, while the stream is paused in it, and in the trailers
//! callback if some of it is still held back. Anywhere else reading gives nothing (and succeeds, as
//! in Envoy) and writing is `BAD_ARGUMENT`.

use crate::Body;
use crate::abi::{BufferType, Status};
use crate::calls::Answer;
use crate::exchange::{Exchange, Phase};
use crate::guest::{Call, HostResult, Out, Span, give_with, put_u32, slice, view};
use crate::shared::Quota;
use crate::state::{Stage, State};

/// Up to `max` bytes from `start`. Beyond the end: success and nothing.
pub(super) fn get(call: &mut Call<'_>, kind: u32, start: u32, max: u32, out: Out) -> HostResult {
    let kind = BufferType::from_abi(kind).ok_or(Status::BadArgument)?;
    let (start, max) = (start as usize, max as usize);
    let bytes = read(call.data(), kind)?;
    let length = bytes.len().saturating_sub(start).min(max);
    give_with(call, out, length, |state, place| {
        // The same bytes as above: the allocator that ran in between can reach no buffer.
        let bytes = read(state, kind).ok().and_then(|bytes| bytes.get(start..start + length));
        if let Some(bytes) = bytes {
            place.copy_from_slice(bytes);
        }
    })
}

/// Replaces `size` bytes from `start` on; see [`Body::splice`] for the forms this takes. Growing
/// a body past its limit is not done and marks the exchange, but succeeds: SDKs abort otherwise.
pub(super) fn set(call: &mut Call<'_>, kind: u32, start: u32, size: u32, data: Span) -> HostResult {
    let (memory, state) = view(call)?;
    let data = slice(memory, data)?;
    let limit = state.limits().body_bytes;
    let kind = BufferType::from_abi(kind).ok_or(Status::BadArgument)?;
    let exchange = state.exchange_mut().ok_or(Status::BadArgument)?;
    let request = matches!(kind, BufferType::RequestBody | BufferType::DownstreamData);
    let body = match kind {
        BufferType::RequestBody if can_edit(exchange, Phase::RequestBody) => &mut exchange.request_body,
        BufferType::ResponseBody if can_edit(exchange, Phase::ResponseBody) => &mut exchange.response_body,
        BufferType::DownstreamData if exchange.phase == Phase::DownstreamData => &mut exchange.request_body,
        BufferType::UpstreamData if exchange.phase == Phase::UpstreamData => &mut exchange.response_body,
        BufferType::CallBody | BufferType::PluginConfiguration => return Err(Status::NotFound.into()),
        _ => return Err(Status::BadArgument.into()),
    };
    let (start, size) = (start as usize, size as usize);
    if body.len_after_splice(start, size, data.len()) > limit.max(body.len()) {
        exchange.effects.body_limit_exceeded = true;
        state.refuse(Quota::Body);
        state.note(&format!("an edit that would make the body longer than {limit} bytes was refused"));
        state.wake_effective();
        return Ok(());
    }
    body.splice(start, size, data);
    if request {
        exchange.effects.request_body_changed = true;
    } else {
        exchange.effects.response_body_changed = true;
    }
    Ok(())
}

/// Length of a buffer; the flags are always 0.
pub(super) fn status(call: &mut Call<'_>, kind: u32, length: u32, flags: u32) -> HostResult {
    let kind = BufferType::from_abi(kind).ok_or(Status::BadArgument)?;
    let bytes = u32::try_from(read(call.data(), kind)?.len()).unwrap_or(u32::MAX);
    let (memory, _) = view(call)?;
    put_u32(memory, length, bytes)?;
    Ok(put_u32(memory, flags, 0)?)
}

/// 0.1.0: the configuration that the present callback is about.
pub(super) fn configuration(call: &mut Call<'_>, out: Out) -> HostResult {
    let kind = match call.data().stage {
        Stage::Initializing | Stage::VmStart => 6,
        Stage::Configure | Stage::Running => 7,
    };
    get(call, kind, 0, u32::MAX, out)
}

/// What a buffer holds. Plugins may read their configuration at any time (Envoy: only in
/// `on_configure`).
fn read(state: &State, kind: BufferType) -> Result<&[u8], Status> {
    let body = |phase, body: fn(&Exchange) -> &Body| {
        state
            .exchange()
            .filter(|exchange| can_edit(exchange, phase))
            .map_or(&[][..], |exchange| body(exchange).as_slice())
    };
    match kind {
        BufferType::RequestBody => Ok(body(Phase::RequestBody, |exchange| &exchange.request_body)),
        BufferType::ResponseBody => Ok(body(Phase::ResponseBody, |exchange| &exchange.response_body)),
        BufferType::VmConfiguration => Ok(&state.plugin.settings.vm_configuration),
        BufferType::PluginConfiguration => Ok(&state.plugin.settings.configuration),
        BufferType::CallBody => match &state.calls.answer {
            Some(Answer::Http(answer)) => Ok(&answer.body),
            Some(Answer::NoResponse) => Ok(&[]),
            _ => Err(Status::NotFound),
        },
        BufferType::GrpcMessage => match &state.calls.answer {
            Some(Answer::Message(message)) => Ok(message),
            _ => Ok(&[]),
        },
        BufferType::DownstreamData => Ok(body(Phase::DownstreamData, |exchange| &exchange.request_body)),
        BufferType::UpstreamData => Ok(body(Phase::UpstreamData, |exchange| &exchange.response_body)),
        BufferType::ForeignArguments => Ok(&[]),
    }
}

/// Whether the body whose callback is `phase` can be touched now.
fn can_edit(exchange: &Exchange, phase: Phase) -> bool {
    match exchange.phase {
        Phase::RequestTrailers => phase == Phase::RequestBody && !exchange.request_body.is_empty(),
        Phase::ResponseTrailers => phase == Phase::ResponseBody && !exchange.response_body.is_empty(),
        now => now == phase,
    }
}
