//! Calls to the host. Each of them is declared here, and what the host refuses is a value that a handler can see: a
//! panic would cost the whole instance.

use crate::host::{Host, Map, Pairs, Side, Status};
use crate::log::Level;
use crate::{HeaderValue, Reply, pairs};
use std::cell::UnsafeCell;

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
    fn proxy_get_property(path: *const u8, path_len: usize, value: *mut *mut u8, value_len: *mut usize) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_len: usize, id: *mut u32) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_increment_metric(id: u32, by: i64) -> u32;
    fn proxy_get_metric(id: u32, value: *mut u64) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_len: usize,
        value: *mut *mut u8,
        value_len: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_len: usize, value: *const u8, value_len: usize, cas: u32) -> u32;
    fn proxy_register_shared_queue(name: *const u8, name_len: usize, id: *mut u32) -> u32;
    fn proxy_resolve_shared_queue(
        vm_id: *const u8,
        vm_id_len: usize,
        name: *const u8,
        name_len: usize,
        id: *mut u32,
    ) -> u32;
    fn proxy_enqueue_shared_queue(id: u32, item: *const u8, item_len: usize) -> u32;
    fn proxy_dequeue_shared_queue(id: u32, item: *mut *mut u8, item_len: *mut usize) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
}

/// The status that says that there is no such header.
const NOT_FOUND: u32 = 1;
/// The status for data that is not what it should be.
const PARSE_FAILURE: u32 = 4;
/// The buffer that holds `pluginConfig` during `proxy_on_configure`.
const PLUGIN_CONFIGURATION: u32 = 7;

/// Room for short answers, by a name that this gateway knows: it writes them here and need not call the allocator. Other
/// hosts do call it. That goes for all host functions: what an answer points to is the plugin's own only if it is not this.
#[unsafe(export_name = "gateway_small_answers")]
static SMALL_ANSWERS: SmallAnswers = SmallAnswers(UnsafeCell::new([0; 256]));

struct SmallAnswers(UnsafeCell<[u8; 256]>);

// SAFETY: this module has one thread; see `Module`.
unsafe impl Sync for SmallAnswers {}

/// What the host writes its answer into.
struct Answer {
    data: *mut u8,
    len: usize,
}

impl Answer {
    const EMPTY: Answer = Answer { data: std::ptr::null_mut(), len: 0 };

    /// An answer that is not the caller's to keep.
    fn small(&self) -> Option<&[u8]> {
        if self.data.is_null() || self.len == 0 {
            return Some(&[]);
        }
        // SAFETY: the host has written `len` bytes there, at most 256, and writes again only when it is called again.
        std::ptr::eq(self.data, SMALL_ANSWERS.0.get().cast())
            .then(|| unsafe { std::slice::from_raw_parts(self.data, self.len) })
    }

    fn into_value(self) -> HeaderValue {
        match self.small() {
            Some(bytes) => HeaderValue::from(bytes),
            None => HeaderValue::from(self.into_bytes()),
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        if let Some(bytes) = self.small() {
            return bytes.to_vec();
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

/// The first `len` bytes of `pluginConfig`.
pub(super) fn configuration(len: usize) -> Result<Vec<u8>, Status> {
    // Nothing to read is no error: some hosts have no buffer then.
    if len == 0 { Ok(Vec::new()) } else { read_buffer(PLUGIN_CONFIGURATION, 0, len) }
}

/// The host of the stream whose callback is running.
pub(crate) struct Abi;

/// The number of a side's body buffer.
fn buffer(side: Side) -> u32 {
    match side {
        Side::Request => 0,
        Side::Response => 1,
    }
}

// SAFETY of all calls below: every pointer and length is that of a slice or local variable that outlives the call.
#[allow(clippy::undocumented_unsafe_blocks, reason = "said once, above, for all of them")]
impl Host for Abi {
    fn field(&self, map: Map, name: &str) -> Result<Option<HeaderValue>, Status> {
        let mut answer = Answer::EMPTY;
        let status = unsafe {
            proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), &mut answer.data, &mut answer.len)
        };
        match status {
            NOT_FOUND => Ok(None),
            status => checked(status).map(|()| Some(answer.into_value())),
        }
    }

    fn fields(&self, map: Map) -> Result<Pairs, Status> {
        let mut answer = Answer::EMPTY;
        let status = unsafe { proxy_get_header_map_pairs(map as u32, &mut answer.data, &mut answer.len) };
        checked(status)?;
        pairs::decode(&answer.into_bytes()).ok_or(PARSE_FAILURE)
    }

    fn add_field(&self, map: Map, name: &str, value: &[u8]) -> Result<(), Status> {
        let status =
            unsafe { proxy_add_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
        checked(status)
    }

    fn set_field(&self, map: Map, name: &str, value: &[u8]) -> Result<(), Status> {
        let status = unsafe {
            proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
        };
        checked(status)
    }

    fn remove_field(&self, map: Map, name: &str) -> Result<(), Status> {
        let status = unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) };
        checked(status)
    }

    fn body(&self, side: Side, start: usize, max: usize) -> Result<Vec<u8>, Status> {
        read_buffer(buffer(side), start, max)
    }

    fn set_body(&self, side: Side, size: usize, bytes: &[u8]) -> Result<(), Status> {
        let status = unsafe { proxy_set_buffer_bytes(buffer(side), 0, size, bytes.as_ptr(), bytes.len()) };
        checked(status)
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, Status> {
        let (path, mut answer) = (path.join("\0"), Answer::EMPTY);
        let status = unsafe { proxy_get_property(path.as_ptr(), path.len(), &mut answer.data, &mut answer.len) };
        match status {
            NOT_FOUND => Ok(None),
            status => checked(status).map(|()| Some(answer.into_bytes())),
        }
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

/// What the host offers beside streams.
#[allow(clippy::undocumented_unsafe_blocks, reason = "as above")]
pub(crate) mod services {
    use super::*;
    use crate::metrics::Kind;

    pub(crate) fn define_metric(kind: Kind, name: &str) -> Result<u32, Status> {
        let mut id = 0;
        checked(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id) }).map(|()| id)
    }

    pub(crate) fn record_metric(id: u32, value: u64) -> Result<(), Status> {
        checked(unsafe { proxy_record_metric(id, value) })
    }

    pub(crate) fn increment_metric(id: u32, by: i64) -> Result<(), Status> {
        checked(unsafe { proxy_increment_metric(id, by) })
    }

    pub(crate) fn read_metric(id: u32) -> Result<u64, Status> {
        let mut value = 0;
        checked(unsafe { proxy_get_metric(id, &mut value) }).map(|()| value)
    }

    pub(crate) fn shared(key: &str) -> Result<Option<(Vec<u8>, u32)>, Status> {
        let (mut answer, mut cas) = (Answer::EMPTY, 0);
        let status =
            unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), &mut answer.data, &mut answer.len, &mut cas) };
        match status {
            NOT_FOUND => Ok(None),
            status => checked(status).map(|()| Some((answer.into_bytes(), cas))),
        }
    }

    pub(crate) fn set_shared(key: &str, value: &[u8], cas: u32) -> Result<(), Status> {
        checked(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) })
    }

    pub(crate) fn register_queue(name: &str) -> Result<u32, Status> {
        let mut id = 0;
        checked(unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &mut id) }).map(|()| id)
    }

    pub(crate) fn find_queue(vm_id: &str, name: &str) -> Result<u32, Status> {
        let mut id = 0;
        let status =
            unsafe { proxy_resolve_shared_queue(vm_id.as_ptr(), vm_id.len(), name.as_ptr(), name.len(), &mut id) };
        checked(status).map(|()| id)
    }

    pub(crate) fn push(queue: u32, item: &[u8]) -> Result<(), Status> {
        checked(unsafe { proxy_enqueue_shared_queue(queue, item.as_ptr(), item.len()) })
    }

    pub(crate) fn pop(queue: u32) -> Result<Vec<u8>, Status> {
        let mut answer = Answer::EMPTY;
        checked(unsafe { proxy_dequeue_shared_queue(queue, &mut answer.data, &mut answer.len) })
            .map(|()| answer.into_bytes())
    }

    pub(crate) fn set_tick_period(milliseconds: u32) -> Result<(), Status> {
        checked(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
    }

    pub(crate) fn now() -> Result<u64, Status> {
        let mut time = 0;
        checked(unsafe { proxy_get_current_time_nanoseconds(&mut time) }).map(|()| time)
    }
}
