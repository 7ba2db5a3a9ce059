//! What becomes of a stream: resume, reset, local response, effective context, ticks.
//!
//! Nothing happens inside the host call: it is noted in the exchange's effects and carried out after
//! the callback, because plugins are not re-entrant.

use std::time::Duration;

use bytes::Bytes;
use heads::HeaderList;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::abi::Status;
use crate::contexts::ROOT;
use crate::exchange::{Exchange, Half, LocalResponse, Phase};
use crate::guest::{Call, HostResult, Span, slice, view};
use crate::state::{Retirement, State};
use crate::{fields, log, pairs};

/// Stream types of the ABI.
pub(super) const REQUEST: u32 = 0;
pub(super) const RESPONSE: u32 = 1;
const DOWNSTREAM: u32 = 2;
const UPSTREAM: u32 = 3;

/// Resumes a paused request or response, or one direction of a TCP connection; nothing if the plugin does not hold it
/// up. (Envoy cannot resume what comes from a service over TCP: `UNIMPLEMENTED`, as here for streams of HTTP.)
pub(super) fn resume(call: &mut Call<'_>, kind: u32) -> HostResult {
    let state = call.data_mut();
    let is_connection = state.exchange().is_some_and(|exchange| exchange.is_connection);
    let half = match kind {
        REQUEST => Half::Request,
        RESPONSE => Half::Response,
        DOWNSTREAM if is_connection => Half::Request,
        UPSTREAM if is_connection => Half::Response,
        _ => return known(kind),
    };
    let Some(context) = state.effective else { return Ok(()) };
    let phase = state.exchange().map(Exchange::phase);
    let inside = state.current == state.effective && phase.and_then(Phase::half) == Some(half);
    if state.contexts.resume(context, half, inside) && !inside {
        state.contexts.wake(context);
    }
    Ok(())
}

/// Resets the stream; closes the connection.
pub(super) fn close(call: &mut Call<'_>, kind: u32) -> HostResult {
    let state = call.data_mut();
    let is_connection = state.exchange().is_some_and(|exchange| exchange.is_connection);
    let concerns = matches!(kind, REQUEST | RESPONSE) || is_connection && matches!(kind, DOWNSTREAM | UPSTREAM);
    if let Some(effects) = state.effects_mut().filter(|_| concerns) {
        effects.reset = true;
        state.wake_effective();
        return Ok(());
    }
    // As in Envoy, what is not there can be closed.
    if kind == UPSTREAM { Ok(()) } else { known(kind) }
}

fn known(kind: u32) -> HostResult {
    match kind {
        REQUEST | RESPONSE | DOWNSTREAM => Ok(()),
        UPSTREAM => Err(Status::Unimplemented.into()),
        _ => Err(Status::BadArgument.into()),
    }
}

/// Has the route resolved again. Without an attached stream nothing.
pub(super) fn clear_route_cache(call: &mut Call<'_>) -> HostResult {
    if let Some(exchange) = call.data_mut().exchange_mut() {
        exchange.effects.request_head_changed = true;
    }
    Ok(())
}

/// Answers the client. The first response wins; nothing happens to a stream that is neither the one of the
/// callback nor paused by this plugin; in
/// `on_log` `BAD_ARGUMENT`. What is invalid in it must not let the request pass, so it becomes a 500 or
/// is left out, with a note in the log.
pub(super) fn send_local_response(
    call: &mut Call<'_>,
    code: u32,
    details: Span,
    body: Span,
    headers: Span,
    grpc_status: u32,
) -> HostResult {
    let (memory, state) = view(call)?;
    let (details, body, headers) = (slice(memory, details)?, slice(memory, body)?, slice(memory, headers)?);
    let limit = state.limits().body_bytes;
    if state.exchange().is_some_and(|exchange| exchange.phase == Phase::Log) {
        return Err(Status::BadArgument.into());
    }
    let Some(effects) = state.effects_mut() else { return Ok(()) };
    if effects.local_response.is_some() {
        state.note("a second local response for one stream was ignored");
        return Ok(());
    }
    let mut problems = Vec::new();
    let status = u16::try_from(code)
        .ok()
        .filter(|code| (200..=599).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or_else(|| {
            problems.push(format!("status {code} is not between 200 and 599, 500 is sent"));
            StatusCode::INTERNAL_SERVER_ERROR
        });
    let (status, body) = if body.len() > limit {
        problems.push(format!("the body of {} bytes is longer than {limit}, an empty 500 is sent", body.len()));
        (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
    } else {
        (status, Bytes::copy_from_slice(body))
    };
    let response = LocalResponse {
        status,
        details: log::text(details, 256).replace(char::is_whitespace, "_"),
        headers: response_headers(headers, state.limits().header_fields, &mut problems),
        body,
        grpc_status: u8::try_from(grpc_status).ok().filter(|status| *status <= 16),
    };
    if let Some(effects) = state.effects_mut() {
        effects.local_response = Some(response);
    }
    for problem in problems {
        state.note(&format!("local response: {problem}"));
    }
    state.wake_effective();
    Ok(())
}

fn response_headers(map: &[u8], max: usize, problems: &mut Vec<String>) -> HeaderList {
    let mut headers = HeaderList::new();
    let pairs = match pairs::decode(map) {
        Ok(pairs) => pairs,
        Err(malformed) => {
            problems.push(format!("its headers were left out: {malformed}"));
            return headers;
        }
    };
    let mut left_out = 0;
    for (name, value) in pairs {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            left_out += 1;
            continue;
        };
        if fields::is_framing(&name) {
            continue;
        }
        if headers.len() >= max {
            left_out += 1;
        } else {
            headers.append(name, value);
        }
    }
    if left_out > 0 {
        problems.push(format!("{left_out} of its headers were left out: illegal name or value, or too many"));
    }
    headers
}

/// Chooses the stream that host functions work on until the callback ends. Unknown: `BAD_ARGUMENT`,
/// by which a plugin learns that its stream has gone.
pub(super) fn set_effective_context(call: &mut Call<'_>, id: u32) -> HostResult {
    let state = call.data_mut();
    if id == ROOT {
        state.effective = None;
    } else if state.current.is_none_or(|current| current.number() != id) {
        state.effective = Some(state.contexts.find(id).ok_or(Status::BadArgument)?);
    } else {
        state.effective = state.current;
    }
    Ok(())
}

/// The root context is done, which its `on_done` had postponed. If it had not, there is nothing to be done: the end of a
/// stream cannot be postponed.
pub(super) fn done(call: &mut Call<'_>) -> HostResult {
    let state = call.data_mut();
    if state.retirement != Retirement::Postponed {
        return Err(Status::NotFound.into());
    }
    state.retirement = Retirement::Done;
    Ok(())
}

/// 0 stops ticks. A period shorter than the limit is raised to it.
pub(super) fn set_tick_period(call: &mut Call<'_>, milliseconds: u32) -> HostResult {
    let state: &mut State = call.data_mut();
    let shortest = state.limits().tick_period;
    state.tick_period = (milliseconds > 0).then(|| Duration::from_millis(u64::from(milliseconds)).max(shortest));
    Ok(())
}
