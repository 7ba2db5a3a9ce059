//! The real host, behind the proxy-wasm ABI 0.2.1.
//!
//! The `proxy-wasm` crate gives the exports: the version marker, the allocator, the callbacks and the contexts of
//! streams. Calls *to* the host are declared here once more, because those of the crate panic on every status they do
//! not expect (and a panic costs the whole instance), while here each of them is an error that a handler can see.

use crate::host::{Host, Pairs, Side, Status};
use crate::log::Level;
use crate::stream::{self, Stream};
use crate::{HostError, Plugin, Reply, config, pairs};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;
use std::rc::Rc;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, len: usize) -> u32;
    fn proxy_get_buffer_bytes(kind: u32, start: usize, max: usize, data: *mut *mut u8, len: *mut usize) -> u32;
    fn proxy_set_buffer_bytes(kind: u32, start: usize, size: usize, data: *const u8, len: usize) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, len: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *mut *mut u8,
        value_len: *mut usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        value_len: usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        value_len: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_len: usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_len: usize,
        body: *const u8,
        body_len: usize,
        headers: *const u8,
        headers_len: usize,
        grpc_status: i32,
    ) -> u32;
}

/// The status that says that there is no such header.
const NOT_FOUND: u32 = 1;
/// The status for data that is not what it should be.
const PARSE_FAILURE: u32 = 4;
/// The buffer that holds `pluginConfig` during `proxy_on_configure`.
const PLUGIN_CONFIGURATION: u32 = 7;

/// What the host writes its answer into.
struct Answer {
    data: *mut u8,
    len: usize,
}

impl Answer {
    const EMPTY: Answer = Answer { data: std::ptr::null_mut(), len: 0 };

    fn into_bytes(self) -> Vec<u8> {
        if self.data.is_null() || self.len == 0 {
            return Vec::new();
        }
        // SAFETY: the ABI has the host write here only memory that it got from the exported allocator, which hands
        // out boxed slices of exactly the length asked for, and give up that memory with the call.
        unsafe { Vec::from_raw_parts(self.data, self.len, self.len) }
    }
}

fn checked(status: u32) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(status) }
}

fn read_buffer(kind: u32, start: usize, max: usize) -> Result<Vec<u8>, Status> {
    let mut answer = Answer::EMPTY;
    // SAFETY: both pointers are to fields of `answer`, which outlives the call.
    let status = unsafe { proxy_get_buffer_bytes(kind, start, max, &mut answer.data, &mut answer.len) };
    checked(status).map(|()| answer.into_bytes())
}

/// Writes a line to the host's log. There is nobody to tell if that fails.
pub(crate) fn log(level: Level, text: &str) {
    // SAFETY: pointer and length are those of `text`.
    unsafe { proxy_log(level as u32, text.as_ptr(), text.len()) };
}

/// The host of the stream whose callback is running.
struct AbiHost;

/// The number of a side's header map.
fn map(side: Side) -> u32 {
    match side {
        Side::Request => 0,
        Side::Response => 2,
    }
}

/// The number of a side's body buffer.
fn buffer(side: Side) -> u32 {
    match side {
        Side::Request => 0,
        Side::Response => 1,
    }
}

// SAFETY of all calls below: every pointer and length is that of a slice or local variable that outlives the call.
#[allow(clippy::undocumented_unsafe_blocks, reason = "said once, above, for all of them")]
impl Host for AbiHost {
    fn header(&self, side: Side, name: &str) -> Result<Option<Vec<u8>>, Status> {
        let mut answer = Answer::EMPTY;
        let status = unsafe {
            proxy_get_header_map_value(map(side), name.as_ptr(), name.len(), &mut answer.data, &mut answer.len)
        };
        match status {
            NOT_FOUND => Ok(None),
            status => checked(status).map(|()| Some(answer.into_bytes())),
        }
    }

    fn headers(&self, side: Side) -> Result<Pairs, Status> {
        let mut answer = Answer::EMPTY;
        let status = unsafe { proxy_get_header_map_pairs(map(side), &mut answer.data, &mut answer.len) };
        checked(status)?;
        pairs::decode(&answer.into_bytes()).ok_or(PARSE_FAILURE)
    }

    fn add_header(&self, side: Side, name: &str, value: &[u8]) -> Result<(), Status> {
        let status =
            unsafe { proxy_add_header_map_value(map(side), name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
        checked(status)
    }

    fn set_header(&self, side: Side, name: &str, value: &[u8]) -> Result<(), Status> {
        let status = unsafe {
            proxy_replace_header_map_value(map(side), name.as_ptr(), name.len(), value.as_ptr(), value.len())
        };
        checked(status)
    }

    fn remove_header(&self, side: Side, name: &str) -> Result<(), Status> {
        let status = unsafe { proxy_remove_header_map_value(map(side), name.as_ptr(), name.len()) };
        checked(status)
    }

    fn body(&self, side: Side, start: usize, max: usize) -> Result<Vec<u8>, Status> {
        read_buffer(buffer(side), start, max)
    }

    fn set_body(&self, side: Side, size: usize, bytes: &[u8]) -> Result<(), Status> {
        let status = unsafe { proxy_set_buffer_bytes(buffer(side), 0, size, bytes.as_ptr(), bytes.len()) };
        checked(status)
    }

    fn reply(&self, reply: &Reply) -> Result<(), Status> {
        let headers = pairs::encode(&reply.headers);
        let status = unsafe {
            proxy_send_local_response(
                u32::from(reply.status),
                std::ptr::null(),
                0,
                reply.body.as_ptr(),
                reply.body.len(),
                headers.as_ptr(),
                headers.len(),
                -1,
            )
        };
        checked(status)
    }
}

/// Runs when the module is loaded; [`register!`](crate::register) calls it.
pub fn start<P: Plugin>() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        match panic.location() {
            Some(location) => crate::log::write(Level::Critical, format_args!("panic at {location}: {message}")),
            None => crate::log::write(Level::Critical, format_args!("panic: {message}")),
        }
    }));
    proxy_wasm::set_root_context(|_| Box::new(Root::<P> { plugin: None }));
}

/// The plugin with its configuration, once per instance.
struct Root<P> {
    plugin: Option<Rc<P>>,
}

impl<P: Plugin> Context for Root<P> {}

impl<P: Plugin> RootContext for Root<P> {
    fn on_configure(&mut self, len: usize) -> bool {
        // Nothing to read is no error: some hosts have no buffer then.
        let bytes = if len == 0 { Ok(Vec::new()) } else { read_buffer(PLUGIN_CONFIGURATION, 0, len) };
        let bytes = bytes.map_err(|status| HostError::new("reading the configuration", status).into());
        match bytes.and_then(|bytes| config::parse(&bytes)).and_then(P::configure) {
            Ok(plugin) => {
                self.plugin = Some(Rc::new(plugin));
                true
            }
            Err(error) => {
                crate::error!("configuration refused: {error}");
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(match &self.plugin {
            Some(plugin) => Box::new(Http(Stream::new(Rc::clone(plugin)))),
            None => Box::new(Unconfigured),
        })
    }
}

/// One stream, as the dispatcher of the `proxy-wasm` crate wants it.
struct Http<P: Plugin>(Stream<P>);

type Action = proxy_wasm::types::Action;

impl From<stream::Action> for Action {
    fn from(action: stream::Action) -> Action {
        match action {
            stream::Action::Continue => Action::Continue,
            stream::Action::Pause => Action::Pause,
        }
    }
}

impl<P: Plugin> Context for Http<P> {}

impl<P: Plugin> HttpContext for Http<P> {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        self.0.on_headers(&AbiHost, Side::Request, end).into()
    }

    fn on_http_request_body(&mut self, len: usize, end: bool) -> Action {
        self.0.on_body(&AbiHost, Side::Request, len, end).into()
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.0.on_trailers(&AbiHost, Side::Request).into()
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        self.0.on_headers(&AbiHost, Side::Response, end).into()
    }

    fn on_http_response_body(&mut self, len: usize, end: bool) -> Action {
        self.0.on_body(&AbiHost, Side::Response, len, end).into()
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.0.on_trailers(&AbiHost, Side::Response).into()
    }
}

/// A stream of a plugin that was never configured: a mistake of the host, and no reason to let a request pass.
struct Unconfigured;

impl Context for Unconfigured {}

impl HttpContext for Unconfigured {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        stream::fail(&AbiHost, "the plugin has no configuration");
        Action::Pause
    }
}
