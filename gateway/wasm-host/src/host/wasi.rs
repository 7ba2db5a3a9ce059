//! WASI preview 1 as language runtimes need it to start and to print: no files, no sockets, no
//! waiting. The names are those that proxy-wasm-cpp-host registers, under both module names
//! (`wasi_unstable` is what old AssemblyScript imports).
//!
//! All of it may be called at any time, also while the module initialises.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

use wasmtime::Linker;

use crate::abi::{LogLevel, Status};
use crate::guest::{Call, Span, Stop, put_u32, put_u64, slice, slice_mut, view};
use crate::host::system::unix_nanoseconds;
use crate::state::State;
use crate::trap::Exit;

const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

/// Most bytes of one `random_get` (as in proxy-wasm-cpp-host).
const MAX_RANDOM: u32 = 64 << 10;
/// Most pieces of one write (`IOV_MAX`).
const MAX_PIECES: u32 = 1024;

/// WASI's error numbers.
#[derive(Clone, Copy)]
enum Errno {
    Success = 0,
    BadDescriptor = 8,
    Fault = 21,
    Invalid = 28,
    NotADirectory = 20,
    NoEntry = 44,
    NotImplemented = 52,
    NotSupported = 58,
}

/// How a function ends: an error number, or the end of the callback.
enum Failure {
    Errno(Errno),
    Trap(wasmtime::Error),
}

type WasiResult = Result<(), Failure>;

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Status> for Failure {
    /// The only status that memory accesses end with.
    fn from(_: Status) -> Self {
        Self::Errno(Errno::Fault)
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Status(status) => status.into(),
            Stop::Trap(error) => Self::Trap(error),
        }
    }
}

fn answer(result: WasiResult) -> wasmtime::Result<u32> {
    match result {
        Ok(()) => Ok(Errno::Success as u32),
        Err(Failure::Errno(errno)) => Ok(errno as u32),
        Err(Failure::Trap(error)) => Err(error),
    }
}

/// Whether this host provides a function of that module.
pub(super) fn provides(module: &str, name: &str) -> bool {
    MODULES.contains(&module) && (name == "proc_exit" || NAMES.contains(&name))
}

/// Defines all functions.
pub(super) fn register(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for module in MODULES {
        register_functions(linker, module)?;
        linker.func_wrap(module, "proc_exit", |code: u32| -> wasmtime::Result<()> { Err(Exit(code).into()) })?;
    }
    Ok(())
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
    ($call:ident: $($name:ident($($arg:ident $(: $ty:ty)?),*) => $body:expr;)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        fn register_functions(linker: &mut Linker<State>, module: &str) -> wasmtime::Result<()> {
            $(linker.func_wrap(
                module,
                stringify!($name),
                |mut caller: Call<'_>, $($arg: parameter!($($ty)?)),*| {
                    let $call = &mut caller;
                    let _ = &$call;
                    answer($body)
                },
            )?;)*
            Ok(())
        }
    };
}

functions! { call:
    fd_write(fd, pieces, count, written) => write(call, fd, pieces, count, written);
    fd_read(_fd, _pieces, _count, _read) => fail(Errno::NotImplemented);
    fd_pread(_fd, _pieces, _count, _offset: u64, _read) => fail(Errno::NotImplemented);
    fd_pwrite(_fd, _pieces, _count, _offset: u64, _written) => fail(Errno::NotImplemented);
    fd_seek(_fd, _offset: u64, _whence, _position) => Ok(());
    fd_tell(_fd, _position) => fail(Errno::NotImplemented);
    fd_close(_fd) => Ok(());
    fd_fdstat_get(fd, out) => describe(call, fd, out);
    fd_fdstat_set_flags(_fd, _flags) => fail(Errno::NotImplemented);
    fd_fdstat_set_rights(_fd, _base: u64, _inheriting: u64) => fail(Errno::NotImplemented);
    fd_advise(_fd, _offset: u64, _len: u64, _advice) => fail(Errno::NotImplemented);
    fd_allocate(_fd, _offset: u64, _len: u64) => fail(Errno::NotImplemented);
    fd_datasync(_fd) => fail(Errno::NotImplemented);
    fd_sync(_fd) => fail(Errno::NotImplemented);
    fd_filestat_get(_fd, _out) => fail(Errno::BadDescriptor);
    fd_filestat_set_size(_fd, _size: u64) => fail(Errno::NotImplemented);
    fd_filestat_set_times(_fd, _accessed: u64, _modified: u64, _flags) => fail(Errno::NotImplemented);
    fd_readdir(_fd, _buffer, _len, _cookie: u64, _used) => fail(Errno::NotADirectory);
    fd_renumber(_fd, _to) => fail(Errno::NotImplemented);
    // "No such descriptor" ends the scan for preopened directories in every libc.
    fd_prestat_get(_fd, _out) => fail(Errno::BadDescriptor);
    fd_prestat_dir_name(_fd, _path, _len) => fail(Errno::NotImplemented);

    path_open(_fd, _lookup, _path, _len, _open, _base: u64, _inheriting: u64, _flags, _out) => fail(Errno::NoEntry);
    path_filestat_get(_fd, _lookup, _path, _len, _out) => fail(Errno::NotSupported);
    path_filestat_set_times(_fd, _lookup, _path, _len, _accessed: u64, _modified: u64, _flags) => fail(Errno::NotSupported);
    path_create_directory(_fd, _path, _len) => fail(Errno::NotSupported);
    path_remove_directory(_fd, _path, _len) => fail(Errno::NotSupported);
    path_unlink_file(_fd, _path, _len) => fail(Errno::NotSupported);
    path_link(_fd, _lookup, _path, _len, _to_fd, _to, _to_len) => fail(Errno::NotSupported);
    path_symlink(_target, _target_len, _fd, _path, _len) => fail(Errno::NotSupported);
    path_rename(_fd, _path, _len, _to_fd, _to, _to_len) => fail(Errno::NotSupported);
    path_readlink(_fd, _path, _len, _buffer, _buffer_len, _used) => fail(Errno::NotSupported);

    sock_accept(_fd, _flags, _out) => fail(Errno::NotSupported);
    sock_recv(_fd, _pieces, _count, _flags, _read, _out_flags) => fail(Errno::NotSupported);
    sock_send(_fd, _pieces, _count, _flags, _written) => fail(Errno::NotSupported);
    sock_shutdown(_fd, _how) => fail(Errno::NotSupported);

    args_sizes_get(count, size) => sizes(call, count, size, 0, 0);
    args_get(_list, _text) => Ok(());
    environ_sizes_get(count, size) => environment_sizes(call, count, size);
    environ_get(list, text) => environment(call, list, text);

    clock_time_get(clock, _precision: u64, out) => time(call, clock, out);
    clock_res_get(clock, out) => resolution(call, clock, out);
    random_get(buffer, len) => random(call, buffer, len);
    sched_yield() => Ok(());
    // Nothing is ever ready and nothing waits: a worker must not sleep. A plugin that polls in a loop
    // meets its deadline.
    poll_oneoff(_in, _out, _count, ready) => put(call, ready, 0);
}

fn fail(errno: Errno) -> WasiResult {
    Err(errno.into())
}

fn put(call: &mut Call<'_>, out: u32, value: u32) -> WasiResult {
    let (memory, _) = view(call)?;
    Ok(put_u32(memory, out, value)?)
}

/// Standard output and error are the plugin's log, one write a line.
fn write(call: &mut Call<'_>, fd: u32, pieces: u32, count: u32, written: u32) -> WasiResult {
    let level = match fd {
        1 => LogLevel::Info,
        2 => LogLevel::Error,
        _ => return fail(Errno::BadDescriptor),
    };
    if count > MAX_PIECES {
        return fail(Errno::Invalid);
    }
    let (memory, state) = view(call)?;
    let limit = state.limits().log_line_bytes;
    let mut line = Vec::new();
    let mut total = 0u32;
    for piece in slice(memory, Span(pieces, count * 8))?.chunks_exact(8) {
        let [a, b, c, d, e, f, g, h] = *piece else { continue };
        let span = Span(u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let text = slice(memory, span)?;
        total = total.saturating_add(span.1);
        // One byte more than fits shows that the line was cut.
        let room = (limit + 1).saturating_sub(line.len()).min(text.len());
        line.extend_from_slice(&text[..room]);
    }
    put_u32(memory, written, total)?;
    state.log(level, line.strip_suffix(b"\n").unwrap_or(&line));
    Ok(())
}

/// `fdstat` (24 bytes) of standard output and error: writable, of unknown type.
fn describe(call: &mut Call<'_>, fd: u32, out: u32) -> WasiResult {
    const RIGHT_TO_WRITE: u64 = 64;
    if !matches!(fd, 1 | 2) {
        return fail(Errno::BadDescriptor);
    }
    let (memory, _) = view(call)?;
    let stat = slice_mut(memory, Span(out, 24))?;
    stat.fill(0);
    stat[8..16].copy_from_slice(&RIGHT_TO_WRITE.to_le_bytes());
    Ok(())
}

fn sizes(call: &mut Call<'_>, count_out: u32, size_out: u32, count: usize, size: usize) -> WasiResult {
    let (memory, _) = view(call)?;
    put_u32(memory, count_out, u32::try_from(count).unwrap_or(u32::MAX))?;
    Ok(put_u32(memory, size_out, u32::try_from(size).unwrap_or(u32::MAX))?)
}

fn environment_sizes(call: &mut Call<'_>, count_out: u32, size_out: u32) -> WasiResult {
    let variables = &call.data().plugin.settings.environment;
    let (count, size) = (variables.len(), variables.iter().map(|(key, value)| key.len() + value.len() + 2).sum());
    sizes(call, count_out, size_out, count, size)
}

fn environment(call: &mut Call<'_>, list: u32, text: u32) -> WasiResult {
    let (memory, state) = view(call)?;
    let (mut list, mut text) = (list, text);
    for (key, value) in &state.plugin.settings.environment {
        put_u32(memory, list, text)?;
        for part in [key.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            let length = u32::try_from(part.len()).map_err(|_| Errno::Fault)?;
            slice_mut(memory, Span(text, length))?.copy_from_slice(part);
            text = text.checked_add(length).ok_or(Errno::Fault)?;
        }
        list = list.checked_add(4).ok_or(Errno::Fault)?;
    }
    Ok(())
}

/// Clock 0 is the time of day, 1 counts from some point in the past. There are no others.
fn time(call: &mut Call<'_>, clock: u32, out: u32) -> WasiResult {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let nanoseconds = match clock {
        0 => unix_nanoseconds(SystemTime::now()),
        // Not 0: some runtimes take that for a clock that does not work.
        1 => u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1),
        _ => return fail(Errno::NotSupported),
    };
    let (memory, _) = view(call)?;
    Ok(put_u64(memory, out, nanoseconds)?)
}

fn resolution(call: &mut Call<'_>, clock: u32, out: u32) -> WasiResult {
    if clock > 1 {
        return fail(Errno::NotSupported);
    }
    let (memory, _) = view(call)?;
    Ok(put_u64(memory, out, 1)?)
}

/// Random bytes good enough for keys, from the operating system.
fn random(call: &mut Call<'_>, buffer: u32, length: u32) -> WasiResult {
    if length > MAX_RANDOM {
        return fail(Errno::Invalid);
    }
    let (memory, _) = view(call)?;
    let mut rest = slice_mut(memory, Span(buffer, length))?;
    while !rest.is_empty() {
        // SAFETY: `rest` is valid for writing its length.
        let written = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        let Ok(written) = usize::try_from(written) else {
            if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted {
                continue;
            }
            return fail(Errno::NotSupported);
        };
        rest = rest.get_mut(written..).unwrap_or_default();
    }
    Ok(())
}
