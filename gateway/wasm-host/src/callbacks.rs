//! The callbacks of the ABI: their names and signatures, which of them a module exports, and the
//! functions of a live instance.

use wasmtime::{AsContextMut, TypedFunc, WasmParams, WasmResults};

use crate::abi::AbiVersion;

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
}

impl Callbacks {
    /// Reads them off a list of exported functions.
    pub(crate) fn of<'a>(exports: impl Iterator<Item = &'a str>) -> Self {
        let mut callbacks = Self::default();
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
                _ => {}
            }
        }
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
    /// Looks the callbacks up. Their types were checked when the module was compiled.
    pub(crate) fn of(instance: &wasmtime::Instance, mut store: impl AsContextMut, abi: AbiVersion) -> Self {
        let mut store = store.as_context_mut();
        let headers = |store: &mut wasmtime::StoreContextMut<'_, _>, name| match abi {
            AbiVersion::V0_1_0 => find(instance, store, name).map(OnHeaders::V0_1),
            AbiVersion::V0_2_0 | AbiVersion::V0_2_1 => find(instance, store, name).map(OnHeaders::V0_2),
        };
        Self {
            on_context_create: find(instance, &mut store, "proxy_on_context_create"),
            on_vm_start: find(instance, &mut store, "proxy_on_vm_start"),
            validate_configuration: find(instance, &mut store, "proxy_validate_configuration"),
            on_configure: find(instance, &mut store, "proxy_on_configure"),
            on_tick: find(instance, &mut store, "proxy_on_tick"),
            on_queue_ready: find(instance, &mut store, "proxy_on_queue_ready"),
            on_http_call_response: find(instance, &mut store, "proxy_on_http_call_response"),
            on_grpc_initial_metadata: find(instance, &mut store, "proxy_on_grpc_receive_initial_metadata"),
            on_grpc_receive: find(instance, &mut store, "proxy_on_grpc_receive"),
            on_grpc_trailing_metadata: find(instance, &mut store, "proxy_on_grpc_receive_trailing_metadata"),
            on_grpc_close: find(instance, &mut store, "proxy_on_grpc_close"),
            on_request_headers: headers(&mut store, "proxy_on_request_headers"),
            on_request_body: find(instance, &mut store, "proxy_on_request_body"),
            on_request_trailers: find(instance, &mut store, "proxy_on_request_trailers"),
            on_response_headers: headers(&mut store, "proxy_on_response_headers"),
            on_response_body: find(instance, &mut store, "proxy_on_response_body"),
            on_response_trailers: find(instance, &mut store, "proxy_on_response_trailers"),
            on_new_connection: find(instance, &mut store, "proxy_on_new_connection"),
            on_downstream_data: find(instance, &mut store, "proxy_on_downstream_data"),
            on_upstream_data: find(instance, &mut store, "proxy_on_upstream_data"),
            on_downstream_close: find(instance, &mut store, "proxy_on_downstream_connection_close"),
            on_upstream_close: find(instance, &mut store, "proxy_on_upstream_connection_close"),
            on_log: find(instance, &mut store, "proxy_on_log"),
            on_done: find(instance, &mut store, "proxy_on_done"),
            on_delete: find(instance, &mut store, "proxy_on_delete"),
        }
    }
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
