//! The host functions: one table of names, parameters and what they do. Every function exists for
//! every ABI version, so that a module written against a newer or older SDK than its marker says
//! still loads.
//!
//! Parameters are named as in the specification; those without a type are `u32`. `always` functions
//! may be called at any time; `ready` ones end the callback with a trap while the language runtime
//! initialises or while the plugin's allocator runs for the host.

mod buffers;
mod calls;
mod headers;
mod metrics;
mod property;
mod sharing;
mod stream;
mod system;
mod wasi;

use wasmtime::{Linker, format_err};

use crate::abi::MetricType;
use crate::fields::Write;
use crate::guest::{Call, HostResult, Out, Span, Stop};
use crate::state::State;

/// Whether this host provides a function.
pub(crate) fn provides(module: &str, name: &str) -> bool {
    match module {
        "env" => NAMES.contains(&name) || EMSCRIPTEN.contains(&name),
        _ => wasi::provides(module, name),
    }
}

/// Defines all host functions.
pub(crate) fn register(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    register_abi(linker)?;
    linker.func_wrap("env", EMSCRIPTEN[0], |a: u32, b: u32| u32::from(a == b))?;
    linker.func_wrap("env", EMSCRIPTEN[1], |_memory: u32| {})?;
    wasi::register(linker)
}

/// What C++ modules built with emscripten import besides: threads do not exist, so a thread is equal
/// to itself; memory growth needs no notice.
const EMSCRIPTEN: [&str; 2] = ["pthread_equal", "emscripten_notify_memory_growth"];

/// When a function may be called.
#[derive(Clone, Copy)]
enum Gate {
    Always,
    Ready,
}

impl Gate {
    fn check(self, call: &Call<'_>, name: &str) -> HostResult {
        match self {
            Self::Ready if call.data().is_restricted() => Err(Stop::Trap(format_err!(
                "{name} was called where only logging, time and WASI functions may be: while the module initialises, or in its allocator"
            ))),
            Self::Ready | Self::Always => Ok(()),
        }
    }
}

/// The number that a host function returns.
fn answer(result: HostResult) -> wasmtime::Result<u32> {
    match result {
        Ok(()) => Ok(0),
        Err(Stop::Status(status)) => Ok(status as u32),
        Err(Stop::Trap(error)) => Err(error),
    }
}

macro_rules! parameter {
    () => {
        u32
    };
    ($ty:ty) => {
        $ty
    };
}

macro_rules! functions {
    ($call:ident: $($gate:ident $name:ident($($arg:ident $(: $ty:ty)?),*) => $body:expr;)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        fn register_abi(linker: &mut Linker<State>) -> wasmtime::Result<()> {
            $(linker.func_wrap(
                "env",
                stringify!($name),
                |mut caller: Call<'_>, $($arg: parameter!($($ty)?)),*| {
                    let $call = &mut caller;
                    answer(Gate::$gate.check($call, stringify!($name)).and_then(|()| $body))
                },
            )?;)*
            Ok(())
        }
    };
}

functions! { call:
    Always proxy_log(level, text, len) => system::log(call, level, Span(text, len));
    Always proxy_get_log_level(level) => system::log_level(call, level);
    Always proxy_get_current_time_nanoseconds(time) => system::time(call, time);
    Ready proxy_get_status(code, message, len) => system::status(call, code, Out(message, len));
    Ready proxy_call_foreign_function(name, name_len, _args, _args_len, _result, _result_len)
        => system::foreign_function(call, Span(name, name_len));

    Ready proxy_get_configuration(data, len) => buffers::configuration(call, Out(data, len));
    Ready proxy_get_buffer_bytes(kind, start, max, data, len) => buffers::get(call, kind, start, max, Out(data, len));
    Ready proxy_set_buffer_bytes(kind, start, size, data, len) => buffers::set(call, kind, start, size, Span(data, len));
    Ready proxy_get_buffer_status(kind, len, flags) => buffers::status(call, kind, len, flags);

    Ready proxy_get_header_map_size(map, size) => headers::size(call, map, size);
    Ready proxy_get_header_map_pairs(map, data, len) => headers::pairs(call, map, Out(data, len));
    Ready proxy_set_header_map_pairs(map, data, len) => headers::set_pairs(call, map, Span(data, len));
    Ready proxy_get_header_map_value(map, name, name_len, data, len)
        => headers::value(call, map, Span(name, name_len), Out(data, len));
    Ready proxy_add_header_map_value(map, name, name_len, value, value_len)
        => headers::write(call, map, Write::Add, Span(name, name_len), Span(value, value_len));
    Ready proxy_replace_header_map_value(map, name, name_len, value, value_len)
        => headers::write(call, map, Write::Replace, Span(name, name_len), Span(value, value_len));
    Ready proxy_remove_header_map_value(map, name, name_len) => headers::remove(call, map, Span(name, name_len));

    Ready proxy_continue_request() => stream::resume(call, stream::REQUEST);
    Ready proxy_continue_response() => stream::resume(call, stream::RESPONSE);
    Ready proxy_continue_stream(kind) => stream::resume(call, kind);
    Ready proxy_close_stream(kind) => stream::close(call, kind);
    Ready proxy_clear_route_cache() => stream::clear_route_cache(call);
    Ready proxy_send_local_response(code, details, details_len, body, body_len, headers, headers_len, grpc_status)
        => stream::send_local_response(call, code, Span(details, details_len), Span(body, body_len), Span(headers, headers_len), grpc_status);
    Ready proxy_set_effective_context(id) => stream::set_effective_context(call, id);
    Ready proxy_done() => stream::done(call);
    Ready proxy_set_tick_period_milliseconds(period) => stream::set_tick_period(call, period);

    Ready proxy_get_property(path, path_len, data, len) => property::get(call, Span(path, path_len), Out(data, len));
    Ready proxy_set_property(path, path_len, value, value_len)
        => property::set(call, Span(path, path_len), Span(value, value_len));

    Ready proxy_get_shared_data(key, key_len, data, len, cas) => sharing::get(call, Span(key, key_len), Out(data, len), cas);
    Ready proxy_set_shared_data(key, key_len, value, value_len, cas)
        => sharing::set(call, Span(key, key_len), Span(value, value_len), cas);
    Ready proxy_register_shared_queue(name, name_len, id) => sharing::register(call, Span(name, name_len), id);
    Ready proxy_resolve_shared_queue(vm_id, vm_id_len, name, name_len, id)
        => sharing::resolve(call, Span(vm_id, vm_id_len), Span(name, name_len), id);
    Ready proxy_enqueue_shared_queue(id, data, len) => sharing::enqueue(call, id, Span(data, len));
    Ready proxy_dequeue_shared_queue(id, data, len) => sharing::dequeue(call, id, Out(data, len));

    Ready proxy_define_metric(kind, name, name_len, id)
        => metrics::define(call, MetricType::from_abi(kind), Span(name, name_len), id);
    Ready proxy_record_metric(id, value: u64) => metrics::record(call, id, value);
    Ready proxy_increment_metric(id, delta: i64) => metrics::increment(call, id, delta);
    Ready proxy_get_metric(id, value) => metrics::get(call, id, value);

    Ready proxy_http_call(upstream, upstream_len, headers, headers_len, body, body_len, trailers, trailers_len, timeout, token)
        => calls::http(call, &calls::HttpParts {
            upstream: Span(upstream, upstream_len),
            headers: Span(headers, headers_len),
            body: Span(body, body_len),
            trailers: Span(trailers, trailers_len),
            timeout,
        }, token);
    Ready proxy_grpc_call(upstream, upstream_len, service, service_len, method, method_len, metadata, metadata_len, message, message_len, timeout, token)
        => calls::grpc(call, &calls::GrpcParts {
            upstream: Span(upstream, upstream_len),
            service: Span(service, service_len),
            method: Span(method, method_len),
            metadata: Span(metadata, metadata_len),
            unary: Some((Span(message, message_len), timeout)),
        }, token);
    Ready proxy_grpc_stream(upstream, upstream_len, service, service_len, method, method_len, metadata, metadata_len, token)
        => calls::grpc(call, &calls::GrpcParts {
            upstream: Span(upstream, upstream_len),
            service: Span(service, service_len),
            method: Span(method, method_len),
            metadata: Span(metadata, metadata_len),
            unary: None,
        }, token);
    Ready proxy_grpc_send(token, message, message_len, end_of_stream)
        => calls::send(call, token, Span(message, message_len), end_of_stream);
    Ready proxy_grpc_cancel(token) => calls::cancel(call, token);
    Ready proxy_grpc_close(token) => calls::close(call, token);
}
