//! The host functions, by name.

use crate::script::{Argument, Step};
use std::{fmt::Write as _, ptr};

/// Declares the functions whose parameters are all numbers of 32 bits, and calls one by its name.
macro_rules! functions {
    ($($(#[$only:meta])? $name:ident $host:ident($($at:literal)*);)*) => {
        mod host {
            #[link(wasm_import_module = "env")]
            unsafe extern "C" {
                $($(#[$only])? pub(super) fn $host($(_: functions!(u32 $at)),*) -> u32;)*
                pub(super) fn proxy_record_metric(metric: u32, value: i64) -> u32;
                pub(super) fn proxy_increment_metric(metric: u32, delta: i64) -> u32;
            }
        }

        /// `None`: there is no such function, or it has other parameters.
        fn by_name(name: &str, a: &[u32], long: i64) -> Option<u32> {
            // SAFETY: the host checks every address, or it is what this is to find out.
            unsafe {
                match (name, a.len()) {
                    $($(#[$only])? (stringify!($name), length) if length == functions!(count $($at)*) => Some(host::$host($(a[$at]),*)),)*
                    ("record_metric", 1) => Some(host::proxy_record_metric(a[0], long)),
                    ("increment_metric", 1) => Some(host::proxy_increment_metric(a[0], long)),
                    _ => None,
                }
            }
        }
    };
    (u32 $at:literal) => { u32 };
    (count) => { 0 };
    (count $first:literal $($rest:literal)*) => { 1 + functions!(count $($rest)*) };
}

functions! {
    log proxy_log(0 1 2);
    get_current_time_nanoseconds proxy_get_current_time_nanoseconds(0);
    set_tick_period_milliseconds proxy_set_tick_period_milliseconds(0);
    get_buffer_bytes proxy_get_buffer_bytes(0 1 2 3 4);
    set_buffer_bytes proxy_set_buffer_bytes(0 1 2 3 4);
    get_buffer_status proxy_get_buffer_status(0 1 2);
    get_header_map_size proxy_get_header_map_size(0 1);
    get_header_map_pairs proxy_get_header_map_pairs(0 1 2);
    set_header_map_pairs proxy_set_header_map_pairs(0 1 2);
    get_header_map_value proxy_get_header_map_value(0 1 2 3 4);
    add_header_map_value proxy_add_header_map_value(0 1 2 3 4);
    replace_header_map_value proxy_replace_header_map_value(0 1 2 3 4);
    remove_header_map_value proxy_remove_header_map_value(0 1 2);
    #[cfg(feature = "abi-0-1-0")] continue_request proxy_continue_request();
    #[cfg(feature = "abi-0-1-0")] continue_response proxy_continue_response();
    #[cfg(feature = "abi-0-1-0")] clear_route_cache proxy_clear_route_cache();
    #[cfg(feature = "abi-0-1-0")] get_configuration proxy_get_configuration(0 1);
    #[cfg(not(feature = "abi-0-1-0"))] continue_stream proxy_continue_stream(0);
    #[cfg(not(feature = "abi-0-1-0"))] close_stream proxy_close_stream(0);
    get_status proxy_get_status(0 1 2);
    send_local_response proxy_send_local_response(0 1 2 3 4 5 6 7);
    http_call proxy_http_call(0 1 2 3 4 5 6 7 8 9);
    grpc_call proxy_grpc_call(0 1 2 3 4 5 6 7 8 9 10 11);
    grpc_stream proxy_grpc_stream(0 1 2 3 4 5 6 7 8);
    grpc_send proxy_grpc_send(0 1 2 3);
    grpc_cancel proxy_grpc_cancel(0);
    grpc_close proxy_grpc_close(0);
    get_shared_data proxy_get_shared_data(0 1 2 3 4);
    set_shared_data proxy_set_shared_data(0 1 2 3 4);
    register_shared_queue proxy_register_shared_queue(0 1 2);
    resolve_shared_queue proxy_resolve_shared_queue(0 1 2 3 4);
    enqueue_shared_queue proxy_enqueue_shared_queue(0 1 2);
    dequeue_shared_queue proxy_dequeue_shared_queue(0 1 2);
    define_metric proxy_define_metric(0 1 2 3);
    get_metric proxy_get_metric(0 1);
    get_property proxy_get_property(0 1 2 3);
    set_property proxy_set_property(0 1 2 3);
    call_foreign_function proxy_call_foreign_function(0 1 2 3 4 5);
    set_effective_context proxy_set_effective_context(0);
    done proxy_done();
}

/// What came of a call.
pub(crate) struct Made {
    /// Its status and, if that is success, its results.
    pub(crate) outcome: String,
    /// The number of an outbound call that has begun.
    pub(crate) token: Option<u32>,
}

/// Where a host function writes a result.
enum Place {
    Number(usize),
    Long(usize),
    Bytes(usize),
}

pub(crate) fn make(step: &Step, own: u32, numbers: &mut Vec<u32>) -> Made {
    if let ("pairs", Some(map)) = (&*step.call, step.number()) {
        return Made { outcome: pairs(map), token: None };
    }
    // Results: 8 bytes for each of at most 16 arguments, at addresses that do not move.
    let results = vec![0_u64; 16].leak();
    let address = |at: usize| &raw const results[at] as u32;
    let (mut parameters, mut long, mut places) = (Vec::new(), 0, Vec::new());
    for (at, argument) in step.arguments.iter().enumerate() {
        match argument {
            Argument::Number(number) => parameters.push(*number),
            Argument::Long(number) => long = *number,
            Argument::Bytes(bytes) => parameters.extend([bytes.as_ptr() as u32, bytes.len() as u32]),
            Argument::Nth(nth) => parameters.push(numbers.get(*nth).copied().unwrap_or_default()),
            Argument::Own => parameters.push(own),
            Argument::Number32Out => {
                parameters.push(address(at));
                places.push(Place::Number(at));
            }
            Argument::Number64Out => {
                parameters.push(address(at));
                places.push(Place::Long(at));
            }
            Argument::BytesOut => {
                parameters.extend([address(at), address(at) + 4]);
                places.push(Place::Bytes(at));
            }
        }
    }
    let Some(status) = by_name(&step.call, &parameters, long) else {
        return Made { outcome: format!("no such call with {} arguments", parameters.len()), token: None };
    };
    let mut outcome = status.to_string();
    let mut token = None;
    for place in places.into_iter().filter(|_| status == 0) {
        // SAFETY: `results` is valid; the host wrote to it behind the compiler's back.
        let read = |at: usize| unsafe { ptr::read_volatile(&raw const results[at]) };
        match place {
            Place::Number(at) => {
                numbers.push(read(at) as u32);
                token =
                    Some(read(at) as u32).filter(|_| matches!(&*step.call, "http_call" | "grpc_call" | "grpc_stream"));
                let _ = write!(outcome, " {}", read(at) as u32);
            }
            Place::Long(at) => {
                let _ = write!(outcome, " {}", read(at));
            }
            Place::Bytes(at) => {
                let _ = write!(outcome, " \"{}\"", taken(read(at)).escape_ascii());
            }
        }
    }
    Made { outcome, token }
}

/// Headers that are different each time, or belong to the test.
const CHANGING: [&[u8]; 4] = [b"x-request-id", b"x-forwarded-for", b"date", b"x-envoy-upstream-service-time"];
const OURS: [&[u8]; 2] = [b"x-script", b"x-case"]; // and what begins so

/// `get_header_map_pairs`, with its result taken apart.
fn pairs(map: u32) -> String {
    let mut out = [0_u32; 2];
    // SAFETY: all of it is ours.
    let status = unsafe {
        let out = out.as_mut_ptr() as u32;
        host::proxy_get_header_map_pairs(map, out, out + 4)
    };
    let blob = taken(u64::from(out[0]) | (u64::from(out[1]) << 32));
    let mut text = status.to_string();
    for (name, value) in fields(&blob).unwrap_or_default() {
        if OURS.iter().any(|own| name.starts_with(own)) {
            continue;
        }
        let value = if CHANGING.contains(&name) { &b"*"[..] } else { value };
        let _ = write!(text, " {}={}", name.escape_ascii(), value.escape_ascii());
    }
    text
}

/// The headers in a blob of the ABI.
fn fields(blob: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let number = |at: usize| Some(u32::from_le_bytes(blob.get(at..at + 4)?.try_into().ok()?) as usize);
    let count = number(0)?;
    let (mut fields, mut at) = (Vec::new(), 4 + 8 * count);
    for field in 0..count {
        let (name, value) = (number(4 + 8 * field)?, number(8 + 8 * field)?);
        fields.push((blob.get(at..at + name)?, blob.get(at + name + 1..at + name + 1 + value)?));
        at += name + value + 2;
    }
    Some(fields)
}

/// The bytes that the host has put into memory of ours: address and length.
fn taken(place: u64) -> Vec<u8> {
    let (address, length) = (place as u32 as *mut u8, (place >> 32) as usize);
    if address.is_null() || length == 0 {
        return Vec::new();
    }
    // SAFETY: the host got it from `proxy_on_memory_allocate`, with this length.
    unsafe { Vec::from_raw_parts(address, length, length) }
}

/// A header of the request.
pub(crate) fn header(name: &str) -> Option<String> {
    let mut out = [0_u32; 2];
    // SAFETY: all of it is ours.
    let status = unsafe {
        let out = out.as_mut_ptr() as u32;
        host::proxy_get_header_map_value(0, name.as_ptr() as u32, name.len() as u32, out, out + 4)
    };
    // In 0.1.0 a header that is not there is an empty one.
    let value = taken(u64::from(out[0]) | (u64::from(out[1]) << 32));
    (status == 0 && !value.is_empty()).then(|| String::from_utf8_lossy(&value).into_owned())
}

/// Nanoseconds since 1970.
pub(crate) fn time() -> u64 {
    let mut now = 0_u64;
    // SAFETY: it is ours, and aligned; the host writes to it behind the compiler's back.
    unsafe {
        host::proxy_get_current_time_nanoseconds(&raw mut now as u32);
        ptr::read_volatile(&raw const now)
    }
}

/// The plugin's configuration.
pub(crate) fn configuration() -> String {
    let mut out = [0_u32; 2];
    // SAFETY: all of it is ours.
    unsafe {
        let out = out.as_mut_ptr() as u32;
        host::proxy_get_buffer_bytes(7, 0, 1 << 20, out, out + 4);
    }
    String::from_utf8_lossy(&taken(u64::from(out[0]) | (u64::from(out[1]) << 32))).into_owned()
}

/// Answers the request with this text.
pub(crate) fn reply(text: &str) {
    // SAFETY: all of it is ours.
    unsafe {
        host::proxy_send_local_response(200, 0, 0, text.as_ptr() as u32, text.len() as u32, 0, 0, u32::MAX);
    }
}
