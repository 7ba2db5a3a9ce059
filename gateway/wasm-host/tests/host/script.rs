//! A plugin that does what a test tells it: a module generated as WebAssembly text that reads
//! programs from its configuration. A program is a list of host calls (or misdeeds) for one callback;
//! the plugin runs it, keeps the status of every call, and hands the list back with `set_property`.
//!
//! Memory of the plugin: results at `RESULTS`, words that host functions write to at `OUT`, the
//! configuration at `BASE` (its allocator counts up from there, and the configuration comes first).

use std::fmt::Write as _;

use bytes::Bytes;
use proxy_wasm_host::{Exchange, PluginSettings};

const RESULTS: u32 = 0x2000;
const OUT: u32 = 0x8000;
pub(crate) const BASE: u32 = 0x1_0000;
const RECORD: usize = 14 * 4;

/// Callbacks a program can be written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Tick,
    Create,
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Log,
    Done,
    Delete,
}

const CALLBACKS: usize = 11;

/// Host functions: module, name, parameters (`i` is i32, `I` is i64).
pub(crate) const FUNCTIONS: &[(&str, &str, &str)] = &[
    ("env", "proxy_log", "iii"),
    ("env", "proxy_get_log_level", "i"),
    ("env", "proxy_get_current_time_nanoseconds", "i"),
    ("env", "proxy_get_status", "iii"),
    ("env", "proxy_call_foreign_function", "iiiiii"),
    ("env", "proxy_get_configuration", "ii"),
    ("env", "proxy_get_buffer_bytes", "iiiii"),
    ("env", "proxy_set_buffer_bytes", "iiiii"),
    ("env", "proxy_get_buffer_status", "iii"),
    ("env", "proxy_get_header_map_size", "ii"),
    ("env", "proxy_get_header_map_pairs", "iii"),
    ("env", "proxy_set_header_map_pairs", "iii"),
    ("env", "proxy_get_header_map_value", "iiiii"),
    ("env", "proxy_add_header_map_value", "iiiii"),
    ("env", "proxy_replace_header_map_value", "iiiii"),
    ("env", "proxy_remove_header_map_value", "iii"),
    ("env", "proxy_continue_request", ""),
    ("env", "proxy_continue_response", ""),
    ("env", "proxy_continue_stream", "i"),
    ("env", "proxy_close_stream", "i"),
    ("env", "proxy_clear_route_cache", ""),
    ("env", "proxy_send_local_response", "iiiiiiii"),
    ("env", "proxy_set_effective_context", "i"),
    ("env", "proxy_done", ""),
    ("env", "proxy_set_tick_period_milliseconds", "i"),
    ("env", "proxy_get_property", "iiii"),
    ("env", "proxy_set_property", "iiii"),
    ("env", "proxy_get_shared_data", "iiiii"),
    ("env", "proxy_set_shared_data", "iiiii"),
    ("env", "proxy_register_shared_queue", "iii"),
    ("env", "proxy_resolve_shared_queue", "iiiii"),
    ("env", "proxy_enqueue_shared_queue", "iii"),
    ("env", "proxy_dequeue_shared_queue", "iii"),
    ("env", "proxy_define_metric", "iiii"),
    ("env", "proxy_record_metric", "iI"),
    ("env", "proxy_increment_metric", "iI"),
    ("env", "proxy_get_metric", "ii"),
    ("env", "proxy_http_call", "iiiiiiiiii"),
    ("env", "proxy_grpc_call", "iiiiiiiiiiii"),
    ("env", "proxy_grpc_stream", "iiiiiiiii"),
    ("env", "proxy_grpc_send", "iiii"),
    ("env", "proxy_grpc_cancel", "i"),
    ("env", "proxy_grpc_close", "i"),
    ("env", "pthread_equal", "ii"),
    ("wasi_snapshot_preview1", "fd_write", "iiii"),
    ("wasi_snapshot_preview1", "fd_read", "iiii"),
    ("wasi_snapshot_preview1", "fd_pread", "iiiIi"),
    ("wasi_snapshot_preview1", "fd_pwrite", "iiiIi"),
    ("wasi_snapshot_preview1", "fd_seek", "iIii"),
    ("wasi_snapshot_preview1", "fd_tell", "ii"),
    ("wasi_snapshot_preview1", "fd_close", "i"),
    ("wasi_snapshot_preview1", "fd_fdstat_get", "ii"),
    ("wasi_snapshot_preview1", "fd_fdstat_set_flags", "ii"),
    ("wasi_snapshot_preview1", "fd_fdstat_set_rights", "iII"),
    ("wasi_snapshot_preview1", "fd_advise", "iIIi"),
    ("wasi_snapshot_preview1", "fd_allocate", "iII"),
    ("wasi_snapshot_preview1", "fd_datasync", "i"),
    ("wasi_snapshot_preview1", "fd_sync", "i"),
    ("wasi_snapshot_preview1", "fd_filestat_get", "ii"),
    ("wasi_snapshot_preview1", "fd_filestat_set_size", "iI"),
    ("wasi_snapshot_preview1", "fd_filestat_set_times", "iIIi"),
    ("wasi_snapshot_preview1", "fd_readdir", "iiiIi"),
    ("wasi_snapshot_preview1", "fd_renumber", "ii"),
    ("wasi_snapshot_preview1", "fd_prestat_get", "ii"),
    ("wasi_snapshot_preview1", "fd_prestat_dir_name", "iii"),
    ("wasi_snapshot_preview1", "path_open", "iiiiiIIii"),
    ("wasi_snapshot_preview1", "path_filestat_get", "iiiii"),
    ("wasi_snapshot_preview1", "path_filestat_set_times", "iiiiIIi"),
    ("wasi_snapshot_preview1", "path_create_directory", "iii"),
    ("wasi_snapshot_preview1", "path_remove_directory", "iii"),
    ("wasi_snapshot_preview1", "path_unlink_file", "iii"),
    ("wasi_snapshot_preview1", "path_link", "iiiiiii"),
    ("wasi_snapshot_preview1", "path_symlink", "iiiii"),
    ("wasi_snapshot_preview1", "path_rename", "iiiiii"),
    ("wasi_snapshot_preview1", "path_readlink", "iiiiii"),
    ("wasi_snapshot_preview1", "sock_accept", "iii"),
    ("wasi_snapshot_preview1", "sock_recv", "iiiiii"),
    ("wasi_snapshot_preview1", "sock_send", "iiiii"),
    ("wasi_snapshot_preview1", "sock_shutdown", "ii"),
    ("wasi_snapshot_preview1", "args_sizes_get", "ii"),
    ("wasi_snapshot_preview1", "args_get", "ii"),
    ("wasi_snapshot_preview1", "environ_sizes_get", "ii"),
    ("wasi_snapshot_preview1", "environ_get", "ii"),
    ("wasi_snapshot_preview1", "clock_time_get", "iIi"),
    ("wasi_snapshot_preview1", "clock_res_get", "ii"),
    ("wasi_snapshot_preview1", "random_get", "ii"),
    ("wasi_snapshot_preview1", "sched_yield", ""),
    ("wasi_snapshot_preview1", "poll_oneoff", "iiii"),
    ("wasi_unstable", "fd_write", "iiii"),
    ("wasi_unstable", "random_get", "ii"),
];

/// What else a program can do, behind the host functions in the table: name and body of a function that
/// gets the record in `$r` and returns an i32.
const DEEDS: &[(&str, &str)] = &[
    // Hands back bytes a host function returned: name, and where address and length were written.
    (
        "keep",
        "(call $set_property (call $arg (local.get $r) (i32.const 0)) (call $arg (local.get $r) (i32.const 1)) (i32.load (call $arg (local.get $r) (i32.const 2))) (i32.load (call $arg (local.get $r) (i32.const 3))))",
    ),
    ("exit", "(call $proc_exit (call $arg (local.get $r) (i32.const 0))) (i32.const 0)"),
    ("abort", "unreachable"),
    ("read_outside", "(i32.load (i32.const -8))"),
    ("write_outside", "(i32.store (i32.const -8) (i32.const 1)) (i32.const 0)"),
    ("divide_by_zero", "(i32.div_u (i32.const 1) (i32.load (i32.const 0x1ff0)))"),
    ("recurse", "(i32.add (call $recurse (local.get $r)) (i32.const 1))"),
    ("call_nothing", "(call_indirect (type $deed) (local.get $r) (i32.const 999))"),
    ("call_wrong_type", "(call_indirect (type $nullary) (i32.const 0)) (i32.const 0)"),
    ("loop", "(loop $l (br $l)) (unreachable)"),
    ("loop_with_calls", "(loop $l (drop (call $log_level (i32.const 0x1000))) (br $l)) (unreachable)"),
    (
        "loop_filling",
        "(loop $l (memory.fill (i32.const 0x20000) (i32.const 7) (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 0x20000))) (br $l)) (unreachable)",
    ),
    // Asks for one page after the other, answers how many the plugin has in the end.
    (
        "grow",
        "(block $full (loop $l (br_if $full (i32.eq (memory.grow (i32.const 1)) (i32.const -1))) (br $l))) (memory.size)",
    ),
    ("grow_and_abort", "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)"),
    ("grow_table", "(table.grow (ref.null func) (call $arg (local.get $r) (i32.const 0)))"),
    ("break_allocator", "(global.set $mode (call $arg (local.get $r) (i32.const 0))) (i32.const 0)"),
];

/// What `break_allocator` makes the allocator do.
pub(crate) mod allocator {
    pub(crate) const RETURN_ZERO: u32 = 1;
    pub(crate) const RETURN_OUTSIDE: u32 = 2;
    pub(crate) const TRAP: u32 = 3;
    pub(crate) const CALL_FORBIDDEN: u32 = 4;
    pub(crate) const LOOP: u32 = 5;
    pub(crate) const SAME_BLOCK: u32 = 6;
    pub(crate) const RETURN_END: u32 = 7;
    pub(crate) const LOG: u32 = 8;
}

/// The module, with this ABI marker.
pub(crate) fn module(marker: &str) -> Vec<u8> {
    let mut text = String::from("(module\n(type $deed (func (param i32) (result i32)))\n(type $nullary (func))\n");
    for (index, (module, name, params)) in FUNCTIONS.iter().enumerate() {
        writeln!(text, "(import \"{module}\" \"{name}\" (func $f{index} (param {}) (result i32)))", types(params))
            .unwrap();
    }
    let log = index_of("proxy_log");
    let set_property = index_of("proxy_set_property");
    let get_buffer = index_of("proxy_get_buffer_bytes");
    let tick = index_of("proxy_set_tick_period_milliseconds");
    let log_level = index_of("proxy_get_log_level");
    let headers = if marker.ends_with("0_1_0") { "(param i32 i32)" } else { "(param i32 i32 i32)" };
    writeln!(
        text,
        r#"
(import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
(memory (export "memory") 4)
(table {entries} funcref)
(global $heap (mut i32) (i32.const {BASE}))
(global $mode (mut i32) (i32.const 0))
(func (export "{marker}"))
(func $set_property (param i32 i32 i32 i32) (result i32)
  (call $f{set_property} (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
(func $log_level (param i32) (result i32) (call $f{log_level} (local.get 0)))
(func (export "malloc") (param $size i32) (result i32)
  (local $at i32)
  (if (i32.eq (global.get $mode) (i32.const 1)) (then (return (i32.const 0))))
  (if (i32.eq (global.get $mode) (i32.const 2)) (then (return (i32.const 0xfffffff0))))
  (if (i32.eq (global.get $mode) (i32.const 3)) (then unreachable))
  (if (i32.eq (global.get $mode) (i32.const 4)) (then (drop (call $f{tick} (i32.const 5)))))
  (if (i32.eq (global.get $mode) (i32.const 5)) (then (loop $l (br $l))))
  (if (i32.eq (global.get $mode) (i32.const 6)) (then (return (i32.const 0x3000))))
  (if (i32.eq (global.get $mode) (i32.const 7)) (then (return (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)))))
  (if (i32.eq (global.get $mode) (i32.const 8)) (then (drop (call $f{log} (i32.const 2) (i32.const 0x40) (i32.const 9)))))
  (local.set $at (global.get $heap))
  (global.set $heap (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
  (block $fits (loop $more
    (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
    (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (return (i32.const 0))))
    (br $more)))
  (local.get $at))
(func $arg (param $r i32) (param $k i32) (result i32)
  (local $v i32)
  (local.set $v (i32.load offset=8 (i32.add (local.get $r) (i32.shl (local.get $k) (i32.const 2)))))
  (if (i32.and (i32.shr_u (i32.load offset=4 (local.get $r)) (local.get $k)) (i32.const 1))
    (then (local.set $v (i32.load (local.get $v)))))
  (local.get $v))
(func $run (param $callback i32) (result i32)
  (local $program i32) (local $count i32) (local $i i32) (local $record i32)
  (local.set $program (i32.load (i32.add (i32.const {BASE}) (i32.shl (local.get $callback) (i32.const 2)))))
  (if (i32.eqz (local.get $program)) (then (return (i32.const 0))))
  (local.set $count (i32.load (local.get $program)))
  (local.set $record (i32.add (local.get $program) (i32.const 8)))
  (block $end (loop $next
    (br_if $end (i32.ge_u (local.get $i) (local.get $count)))
    (i32.store offset={RESULTS} (i32.shl (local.get $i) (i32.const 2))
      (call_indirect (type $deed) (local.get $record) (i32.load (local.get $record))))
    (local.set $record (i32.add (local.get $record) (i32.const {RECORD})))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br $next)))
  (drop (call $set_property (i32.add (i32.const 0x100) (local.get $callback)) (i32.const 1)
    (i32.const {RESULTS}) (i32.shl (local.get $count) (i32.const 2))))
  (i32.load offset=4 (local.get $program)))
(data (i32.const 0x40) "allocator")
(data (i32.const 0x100) "0123456789:")
(func (export "proxy_on_configure") (param i32 i32) (result i32)
  (i32.eqz (call $f{get_buffer} (i32.const 7) (i32.const 0) (i32.const 0x7fffffff) (i32.const {OUT}) (i32.const {OUT}))))
(func (export "proxy_on_tick") (param i32) (drop (call $run (i32.const 0))))
(func (export "proxy_on_context_create") (param i32 i32)
  (if (local.get 1) (then (drop (call $run (i32.const 1))))))
(func (export "proxy_on_request_headers") {headers} (result i32) (call $run (i32.const 2)))
(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $run (i32.const 3)))
(func (export "proxy_on_request_trailers") (param i32 i32) (result i32) (call $run (i32.const 4)))
(func (export "proxy_on_response_headers") {headers} (result i32) (call $run (i32.const 5)))
(func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (call $run (i32.const 6)))
(func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (call $run (i32.const 7)))
(func (export "proxy_on_log") (param i32) (drop (call $run (i32.const 8))))
(func (export "proxy_on_done") (param i32) (result i32) (call $run (i32.const 9)))
(func (export "proxy_on_delete") (param i32) (drop (call $run (i32.const 10))))"#,
        entries = FUNCTIONS.len() + DEEDS.len(),
    )
    .unwrap();
    let mut entries = String::new();
    for (index, (_, _, params)) in FUNCTIONS.iter().enumerate() {
        write!(text, "(func $w{index} (type $deed) (call $f{index}").unwrap();
        for (k, param) in params.chars().enumerate() {
            let load = format!("(call $arg (local.get 0) (i32.const {k}))");
            let load = if param == 'I' { format!("(i64.extend_i32_s {load})") } else { load };
            text.push_str(&load);
        }
        text.push_str("))\n");
        write!(entries, " $w{index}").unwrap();
    }
    for (name, body) in DEEDS {
        writeln!(text, "(func ${name} (param $r i32) (result i32) {body})").unwrap();
        write!(entries, " ${name}").unwrap();
    }
    writeln!(text, "(elem (i32.const 0){entries}))").unwrap();
    wat::parse_str(&text).unwrap()
}

fn types(params: &str) -> String {
    params.chars().map(|param| if param == 'I' { "i64 " } else { "i32 " }).collect()
}

/// Position of a host function or a deed in the table.
pub(crate) fn index_of(name: &str) -> u32 {
    let functions = FUNCTIONS.iter().map(|(_, function, _)| *function);
    let position = functions.chain(DEEDS.iter().map(|(deed, _)| *deed)).position(|known| known == name);
    u32::try_from(position.unwrap_or_else(|| panic!("no function {name}"))).unwrap()
}

/// One argument of a call.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    /// A number.
    N(u32),
    /// Bytes: two arguments, address and length.
    B(Vec<u8>),
    /// Where the host writes a word.
    Out(u32),
    /// The word written there by an earlier call.
    Read(u32),
}

pub(crate) use Arg::{N, Out, Read};

/// Bytes as an argument.
pub(crate) fn b(bytes: impl AsRef<[u8]>) -> Arg {
    Arg::B(bytes.as_ref().to_vec())
}

/// A program: calls in order, and what the callback returns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    calls: Vec<(u32, Vec<Arg>)>,
    returns: u32,
}

impl Program {
    pub(crate) fn call(mut self, name: &str, args: impl IntoIterator<Item = Arg>) -> Self {
        self.calls.push((index_of(name), args.into_iter().collect()));
        self
    }

    pub(crate) fn call_index(mut self, index: u32, args: impl IntoIterator<Item = Arg>) -> Self {
        self.calls.push((index, args.into_iter().collect()));
        self
    }

    /// Hands back what the last call returned into words 0 and 1, under this name.
    pub(crate) fn keep(self, name: &str) -> Self {
        self.call("keep", [b(name), Out(0), Out(1)])
    }

    pub(crate) fn returns(mut self, value: u32) -> Self {
        self.returns = value;
        self
    }
}

/// An empty program.
pub(crate) fn program() -> Program {
    Program::default()
}

/// Programs for the callbacks, as the configuration of the scripted module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Vec<(On, Program)>);

pub(crate) fn script(on: On, program: Program) -> Script {
    Script::default().and(on, program)
}

impl Script {
    pub(crate) fn and(mut self, on: On, program: Program) -> Self {
        self.0.push((on, program));
        self
    }

    pub(crate) fn settings(&self) -> PluginSettings {
        PluginSettings { configuration: self.encode(), ..PluginSettings::new("scripted") }
    }

    fn encode(&self) -> Bytes {
        let mut out = vec![0u8; CALLBACKS * 4];
        for (on, program) in &self.0 {
            // Bytes first, so that records can point at them.
            let mut records = Vec::new();
            for (function, args) in &program.calls {
                let (mut words, mut mask) = (Vec::new(), 0u32);
                for arg in args {
                    match arg {
                        N(number) => words.push(*number),
                        Out(word) => words.push(OUT + word * 8),
                        Read(word) => {
                            mask |= 1 << words.len();
                            words.push(OUT + word * 8);
                        }
                        Arg::B(bytes) => {
                            words.push(BASE + u32::try_from(out.len()).unwrap());
                            words.push(u32::try_from(bytes.len()).unwrap());
                            out.extend_from_slice(bytes);
                        }
                    }
                }
                assert!(words.len() <= 12);
                words.resize(12, 0);
                records.extend([*function, mask].into_iter().chain(words));
            }
            out.resize(out.len().next_multiple_of(4), 0);
            let address = BASE + u32::try_from(out.len()).unwrap();
            out[*on as usize * 4..][..4].copy_from_slice(&address.to_le_bytes());
            for word in [u32::try_from(program.calls.len()).unwrap(), program.returns].into_iter().chain(records) {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        out.into()
    }
}

/// The statuses of the calls that a callback made about this exchange.
pub(crate) fn results(exchange: &Exchange, on: On) -> Vec<u32> {
    let key = [b"0123456789:"[on as usize]];
    let bytes = exchange.properties.stored(&key).unwrap_or_else(|| panic!("{on:?} reported nothing"));
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// What a program kept.
pub(crate) fn kept<'a>(exchange: &'a Exchange, name: &str) -> &'a [u8] {
    exchange.properties.stored(name.as_bytes()).unwrap_or_else(|| panic!("{name} was not kept"))
}
