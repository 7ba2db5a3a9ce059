//! Bodies and configurations: what a plugin can read and replace when.

use bytes::Bytes;
use proxy_wasm_host::{Action, Limits, PluginSettings};

use crate::fixture::{open, run, start, start_with};
use crate::script::{N, On, Out, Program, Read, b, kept, program, results, script};

const GET: &str = "proxy_get_buffer_bytes";
const SET: &str = "proxy_set_buffer_bytes";
const MAX: u32 = 0x7fff_ffff;

#[test]
fn a_body_is_read_in_parts() {
    let get =
        |program: Program, start, max, name| program.call(GET, [N(0), N(start), N(max), Out(0), Out(1)]).keep(name);
    let mut all = program();
    for (start, max, name) in
        [(0, MAX, "all"), (2, 3, "middle"), (4, 100, "end"), (6, 1, "beyond"), (9, 1, "far beyond")]
    {
        all = get(all, start, max, name);
    }
    all = all
        .call(GET, [N(0), N(u32::MAX), N(1), Out(0), Out(1)])
        .call("proxy_get_buffer_status", [N(0), Out(2), Out(3)])
        .call("proxy_set_property", [b("status"), N(0x8010), N(16)]);
    let mut instance = start(&script(On::RequestBody, all));
    let context = open(&mut instance, |exchange| exchange.request_body.push(Bytes::from_static(b"abcdef")));
    instance.on_request_body(context, false).unwrap();
    let exchange = instance.detach(context).unwrap();
    assert_eq!(results(&exchange, On::RequestBody)[10..], [0, 0, 0], "start + max does not overflow");
    for (name, bytes) in
        [("all", &b"abcdef"[..]), ("middle", b"cde"), ("end", b"ef"), ("beyond", b""), ("far beyond", b"")]
    {
        assert_eq!(kept(&exchange, name), bytes, "{name}");
    }
    assert_eq!(kept(&exchange, "status")[..4], 6u32.to_le_bytes());
    assert_eq!(kept(&exchange, "status")[8..12], [0; 4]);
    assert!(!exchange.effects.request_body_changed);
}

#[test]
fn a_body_is_edited_in_every_form() {
    for (start, size, expected) in [
        (0, 0, "12abcdef"),
        (0, 6, "12"),
        (0, u32::MAX, "12"),
        (0, 2, "12cdef"),
        (6, 0, "abcdef12"),
        (u32::MAX, 0, "abcdef12"),
        (2, 2, "ab12ef"),
    ] {
        let edit = program().call(SET, [N(1), N(start), N(size), b("12")]);
        let mut instance = crate::fixture::start(&script(On::ResponseBody, edit));
        let context = open(&mut instance, |exchange| exchange.response_body.push(Bytes::from_static(b"abcdef")));
        assert_eq!(instance.on_response_body(context, true).unwrap(), Action::Continue);
        let mut exchange = instance.detach(context).unwrap();
        assert_eq!(results(&exchange, On::ResponseBody), [0]);
        assert_eq!(exchange.response_body.take(), expected, "{start} {size}");
        assert!(exchange.effects.response_body_changed && !exchange.effects.request_body_changed);
    }
}

#[test]
fn a_body_that_is_kept_back_grows() {
    let whole = program().call(GET, [N(0), N(0), N(MAX), Out(0), Out(1)]).keep("body").returns(1);
    let mut instance = start(&script(On::RequestBody, whole));
    let context = open(&mut instance, |_| {});
    for chunk in ["one ", "two ", "three"] {
        instance.exchange(context).unwrap().request_body.push(Bytes::from(chunk));
        assert_eq!(instance.on_request_body(context, chunk == "three").unwrap(), Action::Pause);
    }
    assert_eq!(kept(instance.exchange(context).unwrap(), "body"), b"one two three");
}

#[test]
fn actions_of_a_body() {
    for (returned, action) in [
        (0, Action::Continue),
        (1, Action::Pause),
        (2, Action::PauseWatermark),
        (3, Action::PauseDiscard),
        (77, Action::PauseDiscard),
    ] {
        let mut instance = start(&script(On::RequestBody, program().returns(returned)));
        let context = open(&mut instance, |_| {});
        assert_eq!(instance.on_request_body(context, false).unwrap(), action);
    }
}

#[test]
fn a_body_cannot_be_touched_outside_its_callback() {
    let touch =
        program().call(GET, [N(0), N(0), N(MAX), Out(0), Out(1)]).keep("read").call(SET, [N(0), N(0), N(0), b("x")]);
    for on in [On::RequestHeaders, On::ResponseHeaders, On::ResponseBody, On::Log] {
        let mut instance = start(&script(on, touch.clone()));
        let context = open(&mut instance, |exchange| {
            exchange.request_body.push(Bytes::from_static(b"held"));
            exchange.response = Some(crate::fixture::response());
        });
        match on {
            On::RequestHeaders => instance.on_request_headers(context, false).map(drop).unwrap(),
            On::ResponseHeaders => instance.on_response_headers(context, false).map(drop).unwrap(),
            On::ResponseBody => instance.on_response_body(context, false).map(drop).unwrap(),
            _ => {}
        }
        let exchange = instance.close(context).unwrap().unwrap();
        assert_eq!(results(&exchange, on), [0, 0, 2], "{on:?}");
        assert_eq!(kept(&exchange, "read"), b"", "{on:?}");
    }
}

#[test]
fn a_body_held_back_can_be_touched_in_the_trailers_callback() {
    let touch =
        program().call(GET, [N(0), N(0), N(MAX), Out(0), Out(1)]).keep("read").call(SET, [N(0), N(0), N(0), b("x")]);
    let mut instance = start(&script(On::RequestTrailers, touch));
    for (held, status) in [("held", 0), ("", 2)] {
        let context = open(&mut instance, |exchange| exchange.request_body.push(Bytes::from(held)));
        instance.on_request_trailers(context).unwrap();
        let exchange = instance.detach(context).unwrap();
        assert_eq!(results(&exchange, On::RequestTrailers), [0, 0, status]);
        assert_eq!(kept(&exchange, "read"), held.as_bytes());
    }
}

#[test]
fn a_body_does_not_grow_beyond_its_limit() {
    let edit = program().call(SET, [N(0), N(0), N(0), b("12345")]).call(SET, [N(0), N(0), N(100), b("123456")]);
    let mut settings = script(On::RequestBody, edit).settings();
    settings.limits = Limits { body_bytes: 6, ..Limits::default() };
    let mut instance = start_with(settings);
    let context = open(&mut instance, |exchange| exchange.request_body.push(Bytes::from_static(b"abcd")));
    assert_eq!(instance.on_request_body(context, true).unwrap(), Action::Pause);
    let mut exchange = instance.detach(context).unwrap();
    assert_eq!(results(&exchange, On::RequestBody), [0, 0], "SDKs abort on anything else");
    assert!(exchange.effects.body_limit_exceeded);
    assert_eq!(exchange.request_body.take(), "123456", "an edit that fits is made");
}

#[test]
fn configurations_can_be_read_at_any_time() {
    let read = program()
        .call(GET, [N(6), N(0), N(MAX), Out(0), Out(1)])
        .keep("vm")
        .call(GET, [N(7), N(0), N(4), Out(0), Out(1)])
        .keep("plugin")
        .call("proxy_get_configuration", [Out(0), Out(1)])
        .call("proxy_get_buffer_status", [N(7), Out(2), Out(3)])
        .call("proxy_set_property", [b("length"), N(0x8010), N(4)])
        .call(SET, [N(7), N(0), N(0), b("x")]);
    let settings = script(On::RequestHeaders, read).settings();
    let configuration = settings.configuration.clone();
    let mut instance = start_with(PluginSettings { vm_configuration: Bytes::from_static(b"vm"), ..settings });
    let exchange = crate::fixture::run_on(&mut instance);
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(kept(&exchange, "vm"), b"vm");
    assert_eq!(kept(&exchange, "plugin"), &configuration[..4]);
    assert_eq!(kept(&exchange, "length"), u32::try_from(configuration.len()).unwrap().to_le_bytes());
}

#[test]
fn buffers_that_do_not_exist() {
    let mut all = program();
    for kind in 0..=10 {
        all = all.call(GET, [N(kind), N(0), N(MAX), Out(0), Out(1)]);
    }
    let exchange = run(all.call(SET, [N(9), N(0), N(0), b("x")]).call(SET, [N(4), Read(0), N(0), b("")]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 2, 2, 1]);
}
