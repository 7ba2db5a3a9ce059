//! The callbacks of the ABI: their names and signatures, which of them a module exports, and the
//! functions of a live instance.

use wasmtime::{AsContextMut, TypedFunc, WasmParams, WasmResults};

use crate::abi::AbiVersion;
use crate::plugin::Inner;

/// Which callbacks of streams a module exports. One that is not exported need not be prepared for: a body
/// that no plugin looks at can pass by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// `proxy_on_request_headers`
    pub request_headers: bool,
    /// `proxy_on_request_body`
    pub request_body: bool,
    /// `proxy_on_request_trailers`
    pub request_trailers: bool,
    /// `proxy_on_response_headers`
    pub response_headers: bool,
    /// `proxy_on_response_body`
    pub response_body: bool,
    /// `proxy_on_response_trailers`
    pub response_trailers: bool,
    /// `proxy_on_new_connection`
    pub new_connection: bool,
    /// `proxy_on_downstream_data`
    pub downstream_data: bool,
    /// `proxy_on_upstream_data`
    pub upstream_data: bool,
    /// `proxy_on_log`
    pub log: bool,
    /// `proxy_on_tick`
    pub tick: bool,
    /// `proxy_on_queue_ready`
    pub queue_ready: bool,
    /// It remembers nothing of a stream between two callbacks: `gateway_streams_are_forgotten`. It is not told where
    /// streams begin (`proxy_on_context_create`), nor that they may be deleted (`proxy_on_delete`).
    pub forgets_streams: bool,
    /// It wants to hear that a stream ends: `proxy_on_done` or `proxy_on_delete`.
    pub end: bool,
}

/// How a module says that it remembers nothing of a stream between two callbacks, so that there is nothing to prepare for
/// one and nothing to clean up. Like the markers of the ABI it is never called. Other hosts do not know it; to them such a
/// module is like any other.
const STREAMS_ARE_FORGOTTEN: &str = "gateway_streams_are_forgotten";

impl Callbacks {
    /// Reads them off a list of exported functions.
    pub(crate) fn of<'a>(exports: impl Iterator<Item = &'a str>) -> Self {
        let mut callbacks = Self::default();
        let mut delete = false;
        for name in exports {
            match name {
                "proxy_on_request_headers" => callbacks.request_headers = true,
                "proxy_on_request_body" => callbacks.request_body = true,
                "proxy_on_request_trailers" => callbacks.request_trailers = true,
                "proxy_on_response_headers" => callbacks.response_headers = true,
                "proxy_on_response_body" => callbacks.response_body = true,
                "proxy_on_response_trailers" => callbacks.response_trailers = true,
                "proxy_on_new_connection" => callbacks.new_connection = true,
                "proxy_on_downstream_data" => callbacks.downstream_data = true,
                "proxy_on_upstream_data" => callbacks.upstream_data = true,
                "proxy_on_log" => callbacks.log = true,
                "proxy_on_tick" => callbacks.tick = true,
                "proxy_on_queue_ready" => callbacks.queue_ready = true,
                "proxy_on_done" => callbacks.end = true,
                "proxy_on_delete" => delete = true,
                STREAMS_ARE_FORGOTTEN => callbacks.forgets_streams = true,
                _ => {}
            }
        }
        callbacks.end |= delete && !callbacks.forgets_streams;
        callbacks
    }
}

/// The signature that an export of this name must have: number of `i32` parameters, and whether it
/// returns an `i32`. `None` for names the ABI does not know.
pub(crate) fn signature(name: &str, abi: AbiVersion) -> Option<(usize, bool)> {
    Some(match name {
        "_initialize" | "_start" => (0, false),
        "__main_void" => (0, true),
        "main" => (2, true),
        "malloc" | "proxy_on_memory_allocate" => (1, true),
        "proxy_on_context_create" => (2, false),
        "proxy_on_vm_start" | "proxy_validate_configuration" | "proxy_on_configure" => (2, true),
        "proxy_on_tick" => (1, false),
        "proxy_on_queue_ready" => (2, false),
        "proxy_on_foreign_function" => (3, false),
        "proxy_on_new_connection" => (1, true),
        "proxy_on_downstream_data" | "proxy_on_upstream_data" => (3, true),
        "proxy_on_downstream_connection_close" | "proxy_on_upstream_connection_close" => (2, false),
        "proxy_on_request_headers" | "proxy_on_response_headers" if abi == AbiVersion::V0_1_0 => (2, true),
        "proxy_on_request_headers" | "proxy_on_response_headers" => (3, true),
        "proxy_on_request_body" | "proxy_on_response_body" => (3, true),
        "proxy_on_request_trailers" | "proxy_on_response_trailers" => (2, true),
        "proxy_on_request_metadata" | "proxy_on_response_metadata" => (2, true),
        "proxy_on_http_call_response" => (5, false),
        "proxy_on_grpc_receive_initial_metadata"
        | "proxy_on_grpc_receive"
        | "proxy_on_grpc_receive_trailing_metadata"
        | "proxy_on_grpc_close" => (3, false),
        "proxy_on_done" => (1, true),
        "proxy_on_log" | "proxy_on_delete" => (1, false),
        _ => return None,
    })
}

/// A header callback: the oldest ABI version does not tell it about the end of the stream.
#[derive(Clone)]
pub(crate) enum OnHeaders {
    V0_1(TypedFunc<(u32, u32), u32>),
    V0_2(TypedFunc<(u32, u32, u32), u32>),
}

/// The callback with a whole answer: context, number, fields, bytes, trailers.
pub(crate) type OnCallResponse = TypedFunc<(u32, u32, u32, u32, u32), ()>;
/// A callback about a gRPC call: context, number, size or status.
pub(crate) type OnGrpc = TypedFunc<(u32, u32, u32), ()>;

/// The exported callbacks of one instance, resolved once.
pub(crate) struct Exports {
    /// Whether streams are created and deleted in it; root contexts always are.
    pub(crate) keeps_streams: bool,
    pub(crate) on_context_create: Option<TypedFunc<(u32, u32), ()>>,
    pub(crate) on_vm_start: Option<TypedFunc<(u32, u32), u32>>,
    pub(crate) validate_configuration: Option<TypedFunc<(u32, u32), u32>>,
    pub(crate) on_configure: Option<TypedFunc<(u32, u32), u32>>,
    pub(crate) on_tick: Option<TypedFunc<u32, ()>>,
    pub(crate) on_queue_ready: Option<TypedFunc<(u32, u32), ()>>,
    pub(crate) on_http_call_response: Option<OnCallResponse>,
    pub(crate) on_grpc_initial_metadata: Option<OnGrpc>,
    pub(crate) on_grpc_receive: Option<OnGrpc>,
    pub(crate) on_grpc_trailing_metadata: Option<OnGrpc>,
    pub(crate) on_grpc_close: Option<OnGrpc>,
    pub(crate) on_request_headers: Option<OnHeaders>,
    pub(crate) on_request_body: Option<TypedFunc<(u32, u32, u32), u32>>,
    pub(crate) on_request_trailers: Option<TypedFunc<(u32, u32), u32>>,
    pub(crate) on_response_headers: Option<OnHeaders>,
    pub(crate) on_response_body: Option<TypedFunc<(u32, u32, u32), u32>>,
    pub(crate) on_response_trailers: Option<TypedFunc<(u32, u32), u32>>,
    pub(crate) on_new_connection: Option<TypedFunc<u32, u32>>,
    pub(crate) on_downstream_data: Option<TypedFunc<(u32, u32, u32), u32>>,
    pub(crate) on_upstream_data: Option<TypedFunc<(u32, u32, u32), u32>>,
    pub(crate) on_downstream_close: Option<TypedFunc<(u32, u32), ()>>,
    pub(crate) on_upstream_close: Option<TypedFunc<(u32, u32), ()>>,
    pub(crate) on_log: Option<TypedFunc<u32, ()>>,
    pub(crate) on_done: Option<TypedFunc<u32, u32>>,
    pub(crate) on_delete: Option<TypedFunc<u32, ()>>,
}

impl Exports {
    /// Looks the callbacks up, as far as the plugin may have them. Their types were checked when the module was compiled.
    pub(crate) fn of(instance: &wasmtime::Instance, mut store: impl AsContextMut, plugin: &Inner) -> Self {
        let mut store = store.as_context_mut();
        let abi = plugin.module.abi();
        let headers = |store: &mut wasmtime::StoreContextMut<'_, _>, name| match abi {
            AbiVersion::V0_1_0 => callback(plugin, instance, store, name).map(OnHeaders::V0_1),
            AbiVersion::V0_2_0 | AbiVersion::V0_2_1 => callback(plugin, instance, store, name).map(OnHeaders::V0_2),
        };
        Self {
            keeps_streams: !plugin.module.callbacks().forgets_streams,
            on_context_create: callback(plugin, instance, &mut store, "proxy_on_context_create"),
            on_vm_start: callback(plugin, instance, &mut store, "proxy_on_vm_start"),
            validate_configuration: callback(plugin, instance, &mut store, "proxy_validate_configuration"),
            on_configure: callback(plugin, instance, &mut store, "proxy_on_configure"),
            on_tick: callback(plugin, instance, &mut store, "proxy_on_tick"),
            on_queue_ready: callback(plugin, instance, &mut store, "proxy_on_queue_ready"),
            on_http_call_response: callback(plugin, instance, &mut store, "proxy_on_http_call_response"),
            on_grpc_initial_metadata: callback(plugin, instance, &mut store, "proxy_on_grpc_receive_initial_metadata"),
            on_grpc_receive: callback(plugin, instance, &mut store, "proxy_on_grpc_receive"),
            on_grpc_trailing_metadata: callback(
                plugin,
                instance,
                &mut store,
                "proxy_on_grpc_receive_trailing_metadata",
            ),
            on_grpc_close: callback(plugin, instance, &mut store, "proxy_on_grpc_close"),
            on_request_headers: headers(&mut store, "proxy_on_request_headers"),
            on_request_body: callback(plugin, instance, &mut store, "proxy_on_request_body"),
            on_request_trailers: callback(plugin, instance, &mut store, "proxy_on_request_trailers"),
            on_response_headers: headers(&mut store, "proxy_on_response_headers"),
            on_response_body: callback(plugin, instance, &mut store, "proxy_on_response_body"),
            on_response_trailers: callback(plugin, instance, &mut store, "proxy_on_response_trailers"),
            on_new_connection: callback(plugin, instance, &mut store, "proxy_on_new_connection"),
            on_downstream_data: callback(plugin, instance, &mut store, "proxy_on_downstream_data"),
            on_upstream_data: callback(plugin, instance, &mut store, "proxy_on_upstream_data"),
            on_downstream_close: callback(plugin, instance, &mut store, "proxy_on_downstream_connection_close"),
            on_upstream_close: callback(plugin, instance, &mut store, "proxy_on_upstream_connection_close"),
            on_log: callback(plugin, instance, &mut store, "proxy_on_log"),
            on_done: callback(plugin, instance, &mut store, "proxy_on_done"),
            on_delete: callback(plugin, instance, &mut store, "proxy_on_delete"),
        }
    }
}

/// An exported callback that the plugin may have.
fn callback<P: WasmParams, R: WasmResults>(
    plugin: &Inner,
    instance: &wasmtime::Instance,
    store: impl AsContextMut,
    name: &str,
) -> Option<TypedFunc<P, R>> {
    find(instance, store, name).filter(|_| plugin.allows(name))
}

/// An exported function of the right type.
pub(crate) fn find<P: WasmParams, R: WasmResults>(
    instance: &wasmtime::Instance,
    mut store: impl AsContextMut,
    name: &str,
) -> Option<TypedFunc<P, R>> {
    let function = instance.get_func(&mut store, name)?;
    function.typed(&store).ok()
}
