//! Plugins that misbehave: each costs its own callback and its instance, nothing else.

use std::time::{Duration, Instant};

use proxy_wasm_host::{Action, Instance, Limits, Plugin, PluginSettings, Quota, Trap, TrapKind};

use crate::fixture::{exchange, open, response, run_on, scripted, shared, start, start_with};
use crate::script::{N, On, Out, Program, Script, allocator, b, program, results, script};

const ALL: [On; 11] = [
    On::Tick,
    On::Create,
    On::RequestHeaders,
    On::RequestBody,
    On::RequestTrailers,
    On::ResponseHeaders,
    On::ResponseBody,
    On::ResponseTrailers,
    On::Log,
    On::Done,
    On::Delete,
];

/// Runs a program in one callback and answers the trap.
fn trap_in(on: On, program: Program, limits: Limits) -> (Instance, Trap) {
    let mut settings = script(on, program).settings();
    settings.limits = limits;
    let mut instance = start_with(settings);
    let mut first = exchange();
    first.response = Some(response());
    let context = match instance.open(first) {
        Ok(context) => context,
        Err((_, trap)) => return (instance, trap),
    };
    let result = match on {
        On::Tick => instance.on_tick(),
        On::RequestHeaders => instance.on_request_headers(context, false).map(drop),
        On::RequestBody => instance.on_request_body(context, false).map(drop),
        On::RequestTrailers => instance.on_request_trailers(context).map(drop),
        On::ResponseHeaders => instance.on_response_headers(context, false).map(drop),
        On::ResponseBody => instance.on_response_body(context, false).map(drop),
        On::ResponseTrailers => instance.on_response_trailers(context).map(drop),
        On::Create | On::Log | On::Done | On::Delete => instance.close(context).map(drop),
    };
    let trap = result.expect_err("must trap");
    assert!(instance.detach(context).is_some(), "{on:?}: the exchange can be taken from a dead instance");
    (instance, trap)
}

fn is_dead(instance: &mut Instance) {
    assert!(instance.is_dead());
    let (_, trap) = instance.open(exchange()).unwrap_err();
    assert_ne!(trap.kind, TrapKind::Detached);
    assert!(instance.on_tick().is_err());
    assert_eq!(instance.take_woken().count(), 0);
}

#[test]
fn a_trap_in_any_callback_kills_the_instance_and_nothing_else() {
    for on in ALL {
        let (mut instance, trap) = trap_in(on, program().call("abort", []), Limits::default());
        assert_eq!(trap.kind, TrapKind::Trap, "{on:?}: {trap}");
        assert!(trap.to_string().contains("unreachable"), "{trap}");
        is_dead(&mut instance);
    }
    // Names are those of the ABI.
    assert_eq!(trap_in(On::Done, program().call("abort", []), Limits::default()).1.callback, "proxy_on_done");
}

#[test]
fn every_kind_of_failure_in_every_callback_is_a_trap() {
    for on in ALL {
        for (deed, words) in [
            ("abort", "unreachable"),
            ("read_outside", "out of bounds memory access"),
            ("write_outside", "out of bounds memory access"),
            ("divide_by_zero", "divide by zero"),
            ("recurse", "call stack exhausted"),
            ("call_nothing", "table"),
            ("call_wrong_type", "type mismatch"),
        ] {
            let (mut instance, trap) = trap_in(on, program().call(deed, []), Limits::default());
            assert!(trap.kind == TrapKind::Trap && trap.message.contains(words), "{deed} in {on:?}: {trap}");
            is_dead(&mut instance);
        }
    }
}

#[test]
fn streams_of_a_dead_instance_are_told_at_once() {
    let mut instance = start(&script(On::RequestHeaders, program().call("abort", [])));
    let first = open(&mut instance, |_| {});
    let second = open(&mut instance, |_| {});
    assert!(instance.on_request_headers(first, false).is_err());
    assert!(instance.on_request_headers(second, false).is_err());
    assert!(instance.on_response_body(second, false).is_err());
    assert!(instance.close(second).is_err(), "no callback runs after a trap");
    assert!(instance.detach(first).is_some() && instance.detach(second).is_some());
    assert!(instance.detach(second).is_none());
}

/// The time limit of the tests below: short, so that they are.
fn hurry() -> Limits {
    Limits { callback_cpu: Duration::from_millis(20), ..Limits::default() }
}

#[test]
fn a_loop_in_any_callback_is_cut() {
    for on in ALL {
        let begin = Instant::now();
        let (mut instance, trap) = trap_in(on, program().call("loop", []), hurry());
        assert_eq!(trap.kind, TrapKind::CpuDeadline, "{on:?}: {trap}");
        // 20 ms, two ticks, and room for a machine that does other things.
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        is_dead(&mut instance);
    }
}

#[test]
fn a_loop_of_host_calls_or_bulk_operations_is_cut() {
    for deed in ["loop_with_calls", "loop_filling"] {
        let program = match deed {
            "loop_filling" => program().call("grow", []).call(deed, []),
            _ => program().call(deed, []),
        };
        let (_, trap) = trap_in(On::RequestHeaders, program, hurry());
        assert_eq!(trap.kind, TrapKind::CpuDeadline, "{deed}: {trap}");
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing; the call has no other effect.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[test]
fn filling_all_memory_does_not_hold_the_cut_up() {
    // Memory that nobody has touched: all of it takes several times as long as the budget.
    let fill = program().call("grow", []).call("proxy_get_log_level", [N(0x1000)]);
    let settings = script(On::Tick, fill).and(On::RequestHeaders, program().call("loop_filling", [])).settings();
    let mut instance = start_with(PluginSettings { limits: hurry(), ..settings });
    instance.on_tick().unwrap();
    let context = open(&mut instance, |_| {});
    let before = cpu_time();
    let trap = instance.on_request_headers(context, true).unwrap_err();
    let stall = (cpu_time() - before).saturating_sub(hurry().callback_cpu);
    println!("64 MiB: {stall:?} after the end of the budget");
    assert_eq!(trap.kind, TrapKind::CpuDeadline);
    // Two ticks of the clock are 10 ms, and a piece takes one.
    assert!(stall < Duration::from_millis(20), "{stall:?}");
}

#[test]
fn the_budget_is_one_callbacks_and_not_one_streams() {
    // Many callbacks that together take longer than the limit of one.
    let mut settings = script(On::Tick, program().call("random_get", [N(0x9000), N(20_000)])).settings();
    settings.limits = hurry();
    let mut instance = start_with(settings);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(100) {
        instance.on_tick().unwrap();
    }
}

#[test]
fn wall_time_is_capped_too() {
    let limits = Limits {
        callback_cpu: Duration::from_secs(100),
        callback_wall: Duration::from_millis(30),
        ..Limits::default()
    };
    let (_, trap) = trap_in(On::RequestHeaders, program().call("loop", []), limits);
    assert_eq!(trap.kind, TrapKind::WallDeadline);
}

#[test]
fn memory_is_limited() {
    let (shared, _) = shared();
    let mut settings = script(On::RequestHeaders, program().call("grow", [])).settings();
    settings.limits = Limits { memory_bytes: 10 << 16, ..Limits::default() };
    let plugin = Plugin::new(scripted(), settings, shared.clone());
    let mut instance = plugin.instantiate().unwrap();
    let exchange = run_on(&mut instance);
    assert_eq!(results(&exchange, On::RequestHeaders), [10], "pages");
    assert_eq!(instance.memory_bytes(), 10 << 16);
    assert!(!instance.is_dead(), "growing fails inside the plugin");
    assert_eq!((shared.quotas()[0].quota, shared.quotas()[0].refused), (Quota::Memory, 1));

    let (_, trap) = trap_in(On::RequestHeaders, program().call("grow_and_abort", []), Limits::default());
    assert!(trap.kind == TrapKind::Memory && trap.message.contains("memory beyond its limit"), "{trap}");
}

#[test]
fn memory_may_be_a_gibibyte() {
    let limits = Limits { memory_bytes: 1 << 30, callback_cpu: Duration::from_secs(10), ..Limits::default() };
    let settings = script(On::RequestHeaders, program().call("grow", [])).settings();
    let mut instance = start_with(PluginSettings { limits, ..settings });
    assert_eq!(results(&run_on(&mut instance), On::RequestHeaders), [1 << 14], "pages");
}

#[test]
fn tables_are_limited() {
    let limits = Limits { table_elements: 1000, ..Limits::default() };
    let mut settings =
        script(On::RequestHeaders, program().call("grow_table", [N(100)]).call("grow_table", [N(10_000)])).settings();
    settings.limits = limits;
    let exchange = run_on(&mut start_with(settings));
    let grown = results(&exchange, On::RequestHeaders);
    assert!(grown[0] != u32::MAX && grown[1] == u32::MAX, "{grown:?}");
}

#[test]
fn memory_of_a_dead_instance_is_not_seen_by_the_next() {
    // Slots are reused; what a former plugin wrote must be gone.
    let secret = program().call("grow", []).call("random_get", [N(0x2_0000), N(60_000)]);
    let look = program().call("proxy_set_property", [b("seen"), N(0x2_0000), N(60_000)]);
    for _ in 0..5 {
        let mut writer = start(&script(On::RequestHeaders, secret.clone()));
        run_on(&mut writer);
        drop(writer);
        let exchange = run_on(&mut start(&script(On::RequestHeaders, look.clone())));
        assert!(exchange.properties.stored(b"seen").unwrap().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn memory_of_one_plugin_is_not_seen_by_another() {
    let secret = program().call("grow", []).call("random_get", [N(0x2_0000), N(60_000)]);
    let other = r#"(module (import "env" "proxy_set_property" (func $set (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 4) (data (i32.const 0) "seen")
        (func (export "malloc") (param i32) (result i32) (i32.const 1024)) (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $set (i32.const 0) (i32.const 4) (i32.const 0x20000) (i32.const 60000))) (i32.const 0)))"#;
    let other = Plugin::new(crate::fixture::compile(other).unwrap(), PluginSettings::new("other"), shared().0);
    for _ in 0..5 {
        run_on(&mut start(&script(On::RequestHeaders, secret.clone())));
        let exchange = run_on(&mut other.instantiate().unwrap());
        assert!(exchange.properties.stored(b"seen").unwrap().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn an_allocator_that_misbehaves_is_a_trap() {
    let ask = |mode| {
        program()
            .call("break_allocator", [N(mode)])
            .call("proxy_get_header_map_value", [N(0), b(":path"), Out(0), Out(1)])
            .call("proxy_get_header_map_value", [N(0), b(":path"), Out(2), Out(3)])
    };
    for (mode, kind, words) in [
        (allocator::RETURN_ZERO, TrapKind::Memory, "no memory for 11 bytes"),
        (allocator::RETURN_OUTSIDE, TrapKind::Trap, "outside its memory"),
        (allocator::RETURN_END, TrapKind::Trap, "outside its memory"),
        (allocator::TRAP, TrapKind::Trap, "unreachable"),
        (allocator::CALL_FORBIDDEN, TrapKind::Trap, "proxy_set_tick_period_milliseconds"),
        (allocator::LOOP, TrapKind::CpuDeadline, "CPU time"),
    ] {
        let (_, trap) = trap_in(On::RequestHeaders, ask(mode), hurry());
        assert!(trap.kind == kind && trap.message.contains(words), "{mode}: {trap}");
    }
    for mode in [allocator::SAME_BLOCK, allocator::LOG] {
        let exchange = run_on(&mut start(&script(On::RequestHeaders, ask(mode))));
        assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0], "{mode}");
    }
}

#[test]
fn log_floods_are_dropped_and_counted() {
    let (shared, lines) = shared();
    let flood = (0..200).fold(program(), |program, _| program.call("proxy_log", [N(5), b("x")]));
    let settings = script(On::RequestHeaders, flood).settings();
    let plugin = Plugin::new(scripted(), settings, shared.clone());
    let exchange = run_on(&mut plugin.instantiate().unwrap());
    assert!(results(&exchange, On::RequestHeaders).iter().all(|status| *status == 0));
    let written = lines.take().len();
    // A second may begin in between.
    assert!((100..=201).contains(&written), "{written}");
    let dropped = shared.quotas().iter().find(|sample| sample.quota == Quota::Log).map_or(0, |sample| sample.refused);
    assert!(dropped >= 1 && written as u64 + dropped >= 200, "{written} {dropped}");
}

#[test]
fn a_long_line_is_cut() {
    let log = program().call("proxy_log", [N(5), N(0), N(200_000)]);
    let (shared, lines) = shared();
    run_on(&mut Plugin::new(scripted(), script(On::RequestHeaders, log).settings(), shared).instantiate().unwrap());
    assert!(lines.take()[0].len() < 3 * (8 << 10) + 100);
}

#[test]
fn a_panic_of_the_host_leaves_a_dead_instance_behind() {
    struct Panics;

    impl proxy_wasm_host::LogSink for Panics {
        fn log(&self, _: proxy_wasm_host::LogLine<'_>) {
            panic!("a broken log sink");
        }
    }

    let settings = script(On::RequestHeaders, program().call("proxy_log", [N(5), b("x")])).settings();
    let shared = proxy_wasm_host::Shared::new(std::sync::Arc::new(Panics), std::sync::Arc::new(()));
    let mut instance = Plugin::new(scripted(), settings, shared).instantiate().unwrap();
    let context = open(&mut instance, |_| {});
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| instance.on_request_headers(context, true)));
    assert!(panicked.is_err());
    assert!(instance.detach(context).is_some());
    is_dead(&mut instance);
}

#[test]
fn a_resume_never_enters_the_plugin_again() {
    let all = Script::default()
        .and(
            On::RequestHeaders,
            program().call("proxy_continue_stream", [N(0)]).call("proxy_continue_stream", [N(0)]).returns(1),
        )
        .and(On::RequestBody, program().call("abort", []));
    let mut instance = start(&all);
    let context = open(&mut instance, |_| {});
    assert_eq!(instance.on_request_headers(context, false).unwrap(), Action::Continue);
}

#[test]
fn one_instance_serves_many_streams_without_growing() {
    let add = program().call("proxy_add_header_map_value", [N(0), b("x"), b("1")]);
    let mut instance = start(&script(On::RequestHeaders, add));
    let mut before = 0;
    for round in 0..20_000 {
        let context = instance.open(exchange()).unwrap();
        instance.on_request_headers(context, true).unwrap();
        assert!(instance.close(context).unwrap().is_some());
        if round == 100 {
            before = instance.memory_bytes();
        }
    }
    assert_eq!(instance.memory_bytes(), before);
}
