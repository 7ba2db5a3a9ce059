//! Header and trailer maps.
//!
//! Reading works for as long as the exchange has the map. Writing works until the head has been sent
//! on, never in `on_log`; `BAD_ARGUMENT` otherwise. A write that would make the head ill-formed is not
//! done and marks the exchange ([`Effects::invalid_edit`](crate::Effects::invalid_edit)) but succeeds:
//! SDKs abort on anything else, and a client could then crash plugins by sending odd values.

use heads::HeaderList;
use smallvec::SmallVec;

use crate::abi::{AbiVersion, MapType, Status};
use crate::calls::{Answer, Calls};
use crate::exchange::{Exchange, HeadState, Phase};
use crate::fields::{EditError, Fields, FieldsMut, Write};
use crate::guest::{Call, HostResult, Out, Span, give, give_small, give_with, put_u32, slice, view};
use crate::names::Name;
use crate::shared::Quota;
use crate::state::State;
use crate::{log, pairs};

/// Bytes of names and values. No such map: `BAD_ARGUMENT`.
pub(super) fn size(call: &mut Call<'_>, map: u32, out: u32) -> HostResult {
    let (memory, state) = view(call)?;
    let fields = readable(&state.calls, state.exchange(), kind(map)?).ok_or(Status::BadArgument)?;
    let bytes = fields.iter().fold(0, |sum, (name, value)| sum + name.len() + value.len());
    Ok(put_u32(memory, out, u32::try_from(bytes).unwrap_or(u32::MAX))?)
}

/// The whole map. No such map: success and no bytes.
pub(super) fn pairs(call: &mut Call<'_>, map: u32, out: Out) -> HostResult {
    let map = kind(map)?;
    let state = call.data();
    let length = readable(&state.calls, state.exchange(), map).map_or(0, |fields| pairs::encoded_len(fields.iter()));
    give_with(call, out, length, |state, place| {
        if let Some(fields) = readable(&state.calls, state.exchange(), map) {
            pairs::encode(|| fields.iter(), place);
        }
    })
}

/// The first value of a name. No such map: `BAD_ARGUMENT`. No such name: `NOT_FOUND`, but an empty
/// value in ABI 0.1.0.
pub(super) fn value(call: &mut Call<'_>, map: u32, name: Span, out: Out) -> HostResult {
    let (memory, state) = view(call)?;
    let name = slice(memory, name)?;
    let exchange = state.effective.and_then(|context| state.contexts.exchange(context));
    let fields = readable(&state.calls, exchange, kind(map)?).ok_or(Status::BadArgument)?;
    let value = match fields.value(state.names.read(name)) {
        Some(value) => value,
        None if state.abi() == AbiVersion::V0_1_0 => &[],
        None => return Err(Status::NotFound.into()),
    };
    if give_small(memory, state.small_answers, out, value)? {
        return Ok(());
    }
    // Most values fit, so nothing is allocated to carry one past the call of the plugin's allocator.
    let value: SmallVec<[u8; 128]> = SmallVec::from_slice(value);
    give(call, out, &value)
}

/// Adds a field or puts one in the place of all with its name.
pub(super) fn write(call: &mut Call<'_>, map: u32, how: Write, name: Span, value: Span) -> HostResult {
    let (memory, state) = view(call)?;
    let (name, value) = (slice(memory, name)?, slice(memory, value)?);
    edit(state, map, name, name.len() + value.len(), |fields, name, max| fields.write(how, name, value, max))
}

/// Removes all fields of a name. None there: success.
pub(super) fn remove(call: &mut Call<'_>, map: u32, name: Span) -> HostResult {
    let (memory, state) = view(call)?;
    let name = slice(memory, name)?;
    edit(state, map, name, 0, |fields, name, _| fields.remove(name))
}

/// Replaces the whole map. A malformed one is refused like any other edit that would break the head.
pub(super) fn set_pairs(call: &mut Call<'_>, map: u32, data: Span) -> HostResult {
    let (memory, state) = view(call)?;
    let data = slice(memory, data)?;
    match pairs::decode(data) {
        Ok(pairs) => edit(state, map, b"*", data.len(), |fields, _, max| fields.set(pairs, max).map(|()| true)),
        Err(malformed) => {
            let exchange = state.exchange_mut().ok_or(Status::BadArgument)?;
            writable(exchange, kind(map)?).ok_or(Status::BadArgument)?;
            refuse(state, map, b"*", &malformed);
            Ok(())
        }
    }
}

fn kind(map: u32) -> Result<MapType, Status> {
    MapType::from_abi(map).ok_or(Status::BadArgument)
}

/// The map, if it can be read now.
fn readable<'a>(calls: &'a Calls, exchange: Option<&'a Exchange>, map: MapType) -> Option<Fields<'a>> {
    match (map, &calls.answer) {
        (MapType::CallHeaders, Some(Answer::Http(answer))) => return Some(Fields::Response(&answer.head)),
        (MapType::CallTrailers, Some(Answer::Http(answer))) => return Some(Fields::Trailers(&answer.trailers)),
        (MapType::CallHeaders | MapType::CallTrailers, Some(Answer::NoResponse)) => return Some(none()),
        (MapType::GrpcInitialMetadata, Some(Answer::InitialMetadata(map)))
        | (MapType::GrpcTrailingMetadata, Some(Answer::TrailingMetadata(map))) => return Some(map.fields()),
        _ => {}
    }
    let exchange = exchange?;
    let found = match map {
        MapType::RequestHeaders if exchange.request_state != HeadState::Gone => {
            Some(Fields::Request(&exchange.request))
        }
        MapType::ResponseHeaders if exchange.response_state != HeadState::Gone => {
            exchange.response.as_ref().map(Fields::Response)
        }
        MapType::RequestTrailers => exchange.request_trailers.as_ref().map(Fields::Trailers),
        MapType::ResponseTrailers => exchange.response_trailers.as_ref().map(Fields::Trailers),
        _ => None,
    };
    // Plugins look for trailers in `on_log` without knowing whether there are any, and SDKs abort on `BAD_ARGUMENT`.
    found.or_else(|| (exchange.phase == Phase::Log).then(none))
}

/// A map without fields.
fn none() -> Fields<'static> {
    static NONE: HeaderList = HeaderList::new();
    Fields::Trailers(&NONE)
}

/// The map, if it can be changed now. Trailers can be made in the last body callback of a message that
/// has none.
fn writable(exchange: &mut Exchange, map: MapType) -> Option<FieldsMut<'_>> {
    let last = exchange.end_of_stream;
    match map {
        _ if matches!(exchange.phase, Phase::Created | Phase::Log) => None,
        MapType::RequestHeaders if exchange.request_state == HeadState::Open => {
            Some(FieldsMut::Request(&mut exchange.request))
        }
        MapType::ResponseHeaders if exchange.response_state == HeadState::Open => {
            exchange.response.as_mut().map(FieldsMut::Response)
        }
        MapType::RequestTrailers if exchange.phase == Phase::RequestTrailers => {
            exchange.request_trailers.as_mut().map(FieldsMut::Trailers)
        }
        MapType::ResponseTrailers if exchange.phase == Phase::ResponseTrailers => {
            exchange.response_trailers.as_mut().map(FieldsMut::Trailers)
        }
        MapType::RequestTrailers if exchange.phase == Phase::RequestBody && last => {
            Some(FieldsMut::Trailers(exchange.request_trailers.get_or_insert_default()))
        }
        MapType::ResponseTrailers if exchange.phase == Phase::ResponseBody && last => {
            Some(FieldsMut::Trailers(exchange.response_trailers.get_or_insert_default()))
        }
        _ => None,
    }
}

/// Makes one edit, of `size` bytes, and notes what it did.
fn edit(
    state: &mut State,
    map: u32,
    name: &[u8],
    size: usize,
    apply: impl FnOnce(&mut FieldsMut<'_>, Name<'_>, usize) -> Result<bool, EditError>,
) -> HostResult {
    let (max_fields, max_bytes) = (state.limits().header_fields, state.limits().header_edit_bytes);
    let exchange = state.effective.and_then(|context| state.contexts.exchange_mut(context));
    let exchange = exchange.ok_or(Status::BadArgument)?;
    let edited = exchange.edited_bytes.saturating_add(size);
    let mut fields = writable(exchange, kind(map)?).ok_or(Status::BadArgument)?;
    let name_read = state.names.read(name);
    let outcome = if edited > max_bytes { Err(EditError::TooMany) } else { apply(&mut fields, name_read, max_fields) };
    match outcome {
        Ok(false) => {}
        Ok(true) => {
            exchange.edited_bytes = edited;
            match map {
                0 => exchange.effects.request_head_changed = true,
                2 => exchange.effects.response_head_changed = true,
                _ => {}
            }
        }
        Err(error) => {
            if error == EditError::TooMany {
                state.refuse(Quota::Headers);
            }
            refuse(state, map, name, &error);
        }
    }
    Ok(())
}

fn refuse(state: &mut State, map: u32, name: &[u8], error: &dyn std::error::Error) {
    if let Some(exchange) = state.exchange_mut() {
        exchange.effects.invalid_edit = true;
    }
    let map = ["request headers", "request trailers", "response headers", "response trailers"]
        .get(map as usize)
        .unwrap_or(&"headers");
    state.note(&format!("an edit of `{}` in the {map} was refused: {error}", log::text(name, 64)));
    state.wake_effective();
}
