//! The WASI shim: enough for language runtimes to start and print, and nothing more.

use proxy_wasm_host::{Limits, PluginSettings};

use crate::fixture::{open, run, run_on, start_logged, start_with};
use crate::script::{FUNCTIONS, N, On, Out, Read, b, index_of, kept, program, results, script};

/// A `ciovec` list in the plugin's memory: the pieces must be at known addresses, so these are taken from
/// its data segment, `allocator` at 0x40 and the callback keys at 0x100.
fn pieces(list: &[(u32, u32)]) -> Vec<u8> {
    list.iter().flat_map(|(address, length)| [address.to_le_bytes(), length.to_le_bytes()].concat()).collect()
}

#[test]
fn standard_output_is_the_log() {
    // A property by the name of the list leaves it at the address where the bytes of a script begin.
    let list = pieces(&[(0x40, 5), (0x100, 3)]);
    let write = |program: crate::script::Program, fd: u32, module: &str| {
        let index = FUNCTIONS.iter().position(|(m, name, _)| *m == module && *name == "fd_write").unwrap();
        program.call_index(u32::try_from(index).unwrap(), [N(fd), N(crate::script::BASE + 11 * 4), N(2), Out(0)])
    };
    let mut all = program().call("proxy_set_property", [b(&list), b("")]);
    all = write(all, 1, "wasi_snapshot_preview1").call("proxy_set_property", [b("written"), N(0x8000), N(4)]);
    all = write(all, 2, "wasi_unstable");
    all = write(all, 3, "wasi_snapshot_preview1");
    let (mut instance, lines) = start_logged(script(On::RequestHeaders, all).settings());
    let exchange = run_on(&mut instance);
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 0, 8]);
    assert_eq!(kept(&exchange, "written"), 8u32.to_le_bytes());
    assert_eq!(lines.take(), ["2 info alloc012", "2 error alloc012"]);
}

#[test]
fn writes_with_bad_pieces_are_refused() {
    let exchange = run(program()
        .call("fd_write", [N(1), N(0xffff_fff0), N(2), Out(0)])
        .call("fd_write", [N(1), N(0), N(u32::MAX), Out(0)])
        .call("fd_write", [N(1), N(0x40), N(1), Out(0)])
        .call("fd_write", [N(1), N(0), N(0), N(u32::MAX)]));
    assert_eq!(results(&exchange, On::RequestHeaders), [21, 28, 21, 21]);
}

#[test]
fn a_write_longer_than_a_line_is_cut_and_reported_whole() {
    let mut settings = script(
        On::RequestHeaders,
        program()
            .call("proxy_set_property", [b(pieces(&[(0x40, 9), (0x40, 9)])), b("")])
            .call("fd_write", [N(1), N(crate::script::BASE + 11 * 4), N(2), Out(0)])
            .call("proxy_set_property", [b("written"), N(0x8000), N(4)]),
    )
    .settings();
    settings.limits = Limits { log_line_bytes: 12, ..Limits::default() };
    let (mut instance, lines) = start_logged(settings);
    let exchange = run_on(&mut instance);
    assert_eq!(kept(&exchange, "written"), 18u32.to_le_bytes());
    assert_eq!(lines.take(), ["2 info allocatorall…"]);
}

#[test]
fn clocks_run_and_there_are_two() {
    let exchange = run(program()
        .call("clock_time_get", [N(0), N(0), Out(0)])
        .call("clock_time_get", [N(1), N(0), Out(1)])
        .call("clock_time_get", [N(2), N(0), Out(2)])
        .call("clock_res_get", [N(1), Out(3)])
        .call("clock_res_get", [N(4), Out(3)])
        .call("clock_time_get", [N(0), N(0), N(u32::MAX)])
        .call("proxy_set_property", [b("clocks"), N(0x8000), N(16)]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 58, 0, 58, 21, 0]);
    let clocks = kept(&exchange, "clocks");
    assert!(u64::from_le_bytes(clocks[..8].try_into().unwrap()) > 1_600_000_000_000_000_000);
    assert!(u64::from_le_bytes(clocks[8..].try_into().unwrap()) > 0);
}

#[test]
fn random_bytes_are_random_and_limited() {
    let exchange = run(program()
        .call("random_get", [N(0x9000), N(32)])
        .call("random_get", [N(0x9020), N(32)])
        .call("random_get", [N(0), N(65_537)])
        .call("random_get", [N(0xffff_fff0), N(32)])
        .call("proxy_set_property", [b("random"), N(0x9000), N(64)]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 28, 21, 0]);
    let random = kept(&exchange, "random");
    assert_ne!(random[..32], random[32..]);
    assert_ne!(random[..32], [0; 32]);
}

#[test]
fn the_environment_is_what_was_configured() {
    let ask = program()
        .call("environ_sizes_get", [Out(0), Out(1)])
        .call("environ_get", [N(0x9000), N(0x9100)])
        .call("args_sizes_get", [Out(2), Out(3)])
        .call("args_get", [N(0), N(0)])
        .call("environ_get", [N(0xffff_fffc), N(0)])
        .call("environ_get", [N(0xa000), N(u32::MAX - 3)])
        .call("proxy_set_property", [b("sizes"), N(0x8000), N(32)])
        .call("proxy_set_property", [b("list"), N(0x9000), N(8)])
        .call("proxy_set_property", [b("text"), N(0x9100), N(14)]);
    let settings = PluginSettings {
        environment: vec![("A".to_owned(), "1".to_owned()), ("LONGER".to_owned(), "xy".to_owned())],
        ..script(On::RequestHeaders, ask).settings()
    };
    let exchange = run_on(&mut start_with(settings));
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 0, 21, 21, 0, 0, 0]);
    let sizes: Vec<_> = kept(&exchange, "sizes").chunks(8).map(|word| word[0]).collect();
    assert_eq!(sizes, [2, 14, 0, 0]);
    assert_eq!(kept(&exchange, "text"), b"A=1\0LONGER=xy\0");
    assert_eq!(kept(&exchange, "list"), [0x9100u32.to_le_bytes(), 0x9104u32.to_le_bytes()].concat());
}

#[test]
fn descriptors_are_described() {
    let exchange = run(program()
        .call("fd_fdstat_get", [N(1), N(0x9000)])
        .call("fd_fdstat_get", [N(0), N(0x9000)])
        .call("fd_fdstat_get", [N(1), N(u32::MAX)])
        .call("proxy_set_property", [b("stat"), N(0x9000), N(24)]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 8, 21, 0]);
    assert_eq!(kept(&exchange, "stat")[8], 64, "may be written");
}

#[test]
fn there_are_no_files_and_no_sockets() {
    let expected = |name: &str| match name {
        "fd_close" | "fd_seek" => 0,
        "fd_filestat_get" | "fd_prestat_get" => 8,
        "fd_readdir" => 20,
        "path_open" => 44,
        name if name.starts_with("fd_") => 52,
        _ => 58,
    };
    let special = ["fd_write", "fd_fdstat_get"];
    let names: Vec<_> = FUNCTIONS
        .iter()
        .filter(|(module, name, _)| *module == "wasi_snapshot_preview1" && !special.contains(name))
        .map(|(_, name, _)| *name)
        .filter(|name| ["fd_", "path_", "sock_"].iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    assert_eq!(names.len(), 19 + 10 + 4);
    let all = names.iter().fold(program(), |program, name| program.call_index(index_of(name), [N(3), N(4), N(5)]));
    let exchange = run(all);
    let expected: Vec<_> = names.iter().map(|name| expected(name)).collect();
    assert_eq!(results(&exchange, On::RequestHeaders), expected, "{names:?}");
}

#[test]
fn polling_does_not_wait() {
    let exchange = run(program()
        .call("poll_oneoff", [N(0), N(0), N(1), Out(0)])
        .call("sched_yield", [])
        .call("pthread_equal", [N(3), N(3)])
        .call("proxy_set_tick_period_milliseconds", [Read(0)]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 1, 0], "no events");
}

#[test]
fn leaving_is_a_trap() {
    for code in [0, 1] {
        let mut instance = crate::fixture::start(&script(On::RequestHeaders, program().call("exit", [N(code)])));
        let context = open(&mut instance, |_| {});
        let trap = instance.on_request_headers(context, true).unwrap_err();
        assert_eq!(trap.kind, proxy_wasm_host::TrapKind::Exit);
        assert!(trap.message.contains(&code.to_string()), "{trap}");
    }
}
