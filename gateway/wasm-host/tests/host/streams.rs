//! What becomes of a stream: pause and resume, local responses, resets, other streams, ticks.

use proxy_wasm_host::{Action, ContextId, Half, Instance, Limits, Plugin};

use crate::fixture::{open, response, run, run_on, scripted_0_1_0, shared, start, start_logged, start_with};
use crate::script::{Arg, N, On, Out, b, program, results, script};

const RESUME: &str = "proxy_continue_stream";
const CLOSE: &str = "proxy_close_stream";
const LOCAL: &str = "proxy_send_local_response";
const EFFECTIVE: &str = "proxy_set_effective_context";
const NONE: Arg = N(u32::MAX);

fn local(code: u32, details: &str, body: &str, headers: &[u8], grpc: Arg) -> [Arg; 5] {
    [N(code), b(details), b(body), b(headers), grpc]
}

#[test]
fn actions_of_heads_and_trailers() {
    for (returned, head, trailers) in [
        (0, Action::Continue, Action::Continue),
        (1, Action::Pause, Action::Pause),
        (2, Action::Continue, Action::Pause),
        (3, Action::Pause, Action::Pause),
        (4, Action::Pause, Action::Pause),
        (u32::MAX, Action::Pause, Action::Pause),
    ] {
        let on = [On::RequestHeaders, On::RequestTrailers, On::ResponseHeaders, On::ResponseTrailers];
        let all =
            on.into_iter().fold(crate::script::Script::default(), |all, on| all.and(on, program().returns(returned)));
        let mut instance = start(&all);
        let context = open(&mut instance, |exchange| exchange.response = Some(response()));
        assert_eq!(instance.on_request_headers(context, false).unwrap(), head, "{returned}");
        assert_eq!(instance.on_request_trailers(context).unwrap(), trailers, "{returned}");
        assert_eq!(instance.on_response_headers(context, false).unwrap(), head, "{returned}");
        assert_eq!(instance.on_response_trailers(context).unwrap(), trailers, "{returned}");
    }
}

#[test]
fn a_resume_in_the_callback_wins_over_the_pause_it_returns() {
    for (on, kind) in [(On::RequestHeaders, 0), (On::ResponseHeaders, 1)] {
        let mut instance = start(&script(on, program().call(RESUME, [N(kind)]).returns(1)));
        let context = open(&mut instance, |exchange| exchange.response = Some(response()));
        let action = match kind {
            0 => instance.on_request_headers(context, false),
            _ => instance.on_response_headers(context, false),
        };
        assert_eq!(action.unwrap(), Action::Continue);
        assert!(!resumed(&mut instance, context)[kind as usize], "used up");
        assert_eq!(instance.take_woken().count(), 0);
    }
}

#[test]
fn the_oldest_version_resumes_with_its_own_functions() {
    let settings = script(On::RequestHeaders, program().call("proxy_continue_request", []).returns(1)).settings();
    let mut instance = Plugin::new(scripted_0_1_0(), settings, shared().0).instantiate().unwrap();
    let context = open(&mut instance, |_| {});
    assert_eq!(instance.on_request_headers(context, true).unwrap(), Action::Continue);
}

/// Pauses a first stream, then runs `program` in a tick. The program finds that stream as context 2.
fn from_tick(instance: &mut Instance) -> ContextId {
    let context = open(instance, |_| {});
    assert_eq!(instance.on_request_headers(context, false).unwrap(), Action::Pause);
    instance.on_tick().unwrap();
    context
}

#[test]
fn a_tick_resumes_answers_and_resets_paused_streams() {
    let cases: [(&str, Vec<Arg>); 3] =
        [(RESUME, vec![N(0)]), (CLOSE, vec![N(0)]), (LOCAL, local(403, "denied", "no", b"", NONE).to_vec())];
    for (index, (function, args)) in cases.into_iter().enumerate() {
        let tick = program().call(EFFECTIVE, [N(2)]).call(function, args.clone()).call(function, args);
        let mut instance = start(&script(On::RequestHeaders, program().returns(1)).and(On::Tick, tick));
        let context = from_tick(&mut instance);
        assert_eq!(instance.take_woken().collect::<Vec<_>>(), [context], "woken once");
        assert_eq!(instance.take_woken().count(), 0);
        let [request, response] = resumed(&mut instance, context);
        let exchange = instance.detach(context).unwrap();
        assert_eq!(results(&exchange, On::Tick), [0, 0, 0]);
        let effects = &exchange.effects;
        assert!(!response);
        let seen = [request, effects.reset, effects.local_response.is_some()];
        let mut expected = [false; 3];
        expected[index] = true;
        assert_eq!(seen, expected);
    }
}

/// Which halves of a stream were resumed.
fn resumed(instance: &mut Instance, context: ContextId) -> [bool; 2] {
    [Half::Request, Half::Response].map(|half| instance.take_resumed(context, half))
}

#[test]
fn what_a_plugin_decides_while_its_paused_stream_is_lent_elsewhere_is_not_lost() {
    for (function, args) in
        [(RESUME, vec![N(0)]), (CLOSE, vec![N(0)]), (LOCAL, local(403, "denied", "no", b"", NONE).to_vec())]
    {
        let tick = program().call(EFFECTIVE, [N(2)]).call(function, args);
        let mut instance = start(&script(On::RequestHeaders, program().returns(1)).and(On::Tick, tick));
        let context = open(&mut instance, |_| {});
        assert_eq!(instance.on_request_headers(context, false).unwrap(), Action::Pause);
        let exchange = instance.detach(context).unwrap();
        instance.on_tick().unwrap();
        assert_eq!(instance.take_woken().collect::<Vec<_>>(), [context]);
        assert!(!exchange.effects.interrupts());
        assert!(instance.attach(context, exchange).is_ok());
        let resumed = resumed(&mut instance, context);
        let effects = &instance.exchange(context).unwrap().effects;
        let seen = (resumed, effects.reset, effects.local_response.is_some());
        assert_eq!(seen, ([function == RESUME, false], function == CLOSE, function == LOCAL));
    }
}

#[test]
fn a_resume_of_what_is_not_paused_does_not_let_a_later_pause_pass() {
    let early = program().call(RESUME, [N(1)]).returns(0);
    let mut instance = start(&script(On::RequestHeaders, early).and(On::ResponseHeaders, program().returns(1)));
    let context = open(&mut instance, |exchange| exchange.response = Some(response()));
    assert_eq!(instance.on_request_headers(context, false).unwrap(), Action::Continue);
    assert_eq!(instance.on_response_headers(context, false).unwrap(), Action::Pause);
    assert_eq!(resumed(&mut instance, context), [false, false]);
}

#[test]
fn a_stream_acts_on_another_that_is_attached_and_on_no_other() {
    let act = program()
        .call(EFFECTIVE, [N(2)])
        .call(RESUME, [N(0)])
        .call("proxy_get_header_map_value", [N(0), b(":path"), Out(0), Out(1)])
        .call(EFFECTIVE, [N(99)])
        .call(EFFECTIVE, [N(0)])
        .call(EFFECTIVE, [N(3)]);
    let mut instance = start(&script(On::RequestHeaders, program().returns(1)).and(On::ResponseHeaders, act));
    let first = open(&mut instance, |_| {});
    let second = open(&mut instance, |exchange| exchange.response = Some(response()));
    assert_eq!((first.number(), second.number()), (2, 3));

    instance.on_response_headers(second, false).unwrap();
    assert_eq!(results(instance.exchange(second).unwrap(), On::ResponseHeaders), [0, 0, 0, 2, 2, 0]);
    assert_eq!(resumed(&mut instance, first), [false, false], "it was not paused");
    assert_eq!(instance.take_woken().count(), 0);

    let detached = instance.detach(first).unwrap();
    instance.on_response_headers(second, false).unwrap();
    assert_eq!(
        results(instance.exchange(second).unwrap(), On::ResponseHeaders),
        [0, 0, 2, 2, 2, 0],
        "the context is still there, its exchange is not"
    );
    assert_eq!(instance.take_woken().count(), 0);

    assert!(instance.attach(first, detached).is_ok());
    instance.close(first).unwrap();
    instance.on_response_headers(second, false).unwrap();
    assert_eq!(results(instance.exchange(second).unwrap(), On::ResponseHeaders)[0], 2, "deleted");
}

#[test]
fn the_effective_context_ends_with_the_callback() {
    let mut instance = start(
        &script(On::RequestHeaders, program().call(EFFECTIVE, [N(1)]))
            .and(On::ResponseHeaders, program().call("proxy_add_header_map_value", [N(2), b("x"), b("1")])),
    );
    let context = open(&mut instance, |exchange| exchange.response = Some(response()));
    instance.on_request_headers(context, true).unwrap();
    instance.on_response_headers(context, true).unwrap();
    assert_eq!(results(instance.exchange(context).unwrap(), On::ResponseHeaders), [0]);
}

#[test]
fn without_a_stream_nothing_happens_and_all_is_well() {
    // Called in `on_tick` on the root context; the last call makes the results visible.
    let tick = program()
        .call(RESUME, [N(0)])
        .call(CLOSE, [N(1)])
        .call(LOCAL, local(200, "", "", b"", NONE))
        .call("proxy_clear_route_cache", [])
        .call("proxy_get_header_map_pairs", [N(0), Out(0), Out(1)])
        .call("proxy_get_header_map_value", [N(0), b("x"), Out(0), Out(1)])
        .call("proxy_set_buffer_bytes", [N(0), N(0), N(0), b("x")])
        .call("proxy_set_property", [b("x"), b("y")])
        .call("proxy_get_property", [b("plugin_name"), Out(0), Out(1)])
        .call("proxy_get_property", [b("request\0path"), Out(0), Out(1)])
        .call(EFFECTIVE, [N(2)]);
    let mut instance = start(&script(On::Tick, tick));
    let context = open(&mut instance, |_| {});
    instance.on_tick().unwrap();
    let exchange = instance.detach(context).unwrap();
    assert_eq!(results(&exchange, On::Tick), [0, 0, 0, 0, 0, 2, 2, 1, 0, 1, 0]);
    assert!(!exchange.effects.interrupts());
}

#[test]
fn stream_types() {
    let exchange = run((0..=4).fold(program(), |program, kind| program.call(RESUME, [N(kind)])));
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 12, 2]);
    let exchange = run((1..=4).fold(program(), |program, kind| program.call(CLOSE, [N(kind)])));
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 2]);
    assert!(exchange.effects.reset);
}

#[test]
fn a_local_response_stops_the_stream() {
    let headers =
        b"\x03\0\0\0\x01\0\0\0\x01\0\0\0\x0e\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0X\x001\0content-length\x009\0y\0\n\0";
    let respond = program().call(LOCAL, local(403, "not allowed", "go away", headers, N(7)));
    let (mut instance, lines) = start_logged(script(On::RequestHeaders, respond).settings());
    let context = open(&mut instance, |_| {});
    assert_eq!(instance.on_request_headers(context, true).unwrap(), Action::Pause);
    let mut exchange = instance.detach(context).unwrap();
    assert_eq!(results(&exchange, On::RequestHeaders), [0]);
    assert!(exchange.effects.interrupts());
    let response = exchange.effects.local_response.take().unwrap();
    assert_eq!(
        (response.status.as_u16(), response.details.as_str(), &response.body[..]),
        (403, "not_allowed", &b"go away"[..])
    );
    assert_eq!(response.grpc_status, Some(7));
    assert_eq!(response.headers.len(), 1, "without framing and without what is illegal");
    assert_eq!(response.headers["x"], "1");
    assert!(lines.take()[0].contains("1 of its headers were left out"));
}

#[test]
fn the_first_local_response_wins() {
    let respond =
        program().call(LOCAL, local(403, "", "first", b"", NONE)).call(LOCAL, local(200, "", "second", b"", NONE));
    let (mut instance, lines) = start_logged(script(On::RequestHeaders, respond).settings());
    let exchange = run_on(&mut instance);
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0]);
    let response = exchange.effects.local_response.as_ref().unwrap();
    assert_eq!((response.status.as_u16(), &response.body[..], response.grpc_status), (403, &b"first"[..], None));
    assert!(lines.take()[0].contains("second local response"));
}

#[test]
fn an_invalid_local_response_denies_all_the_same() {
    for code in [0, 100, 199, 600, 1000, u32::MAX] {
        let exchange = run(program().call(LOCAL, local(code, "", "text", b"", N(17))));
        assert_eq!(results(&exchange, On::RequestHeaders), [0]);
        let response = exchange.effects.local_response.as_ref().unwrap();
        assert_eq!((response.status.as_u16(), response.grpc_status), (500, None), "{code}");
    }
    let mut settings =
        script(On::RequestHeaders, program().call(LOCAL, local(200, "", "too long", b"bad", NONE))).settings();
    settings.limits = Limits { body_bytes: 7, ..Limits::default() };
    let exchange = run_on(&mut start_with(settings));
    let response = exchange.effects.local_response.as_ref().unwrap();
    assert!(response.status.as_u16() == 500 && response.body.is_empty() && response.headers.is_empty());
}

#[test]
fn a_local_response_in_the_log_is_refused() {
    let mut instance = start(&script(On::Log, program().call(LOCAL, local(200, "", "", b"", NONE))));
    let context = open(&mut instance, |_| {});
    let exchange = instance.close(context).unwrap().unwrap();
    assert_eq!(results(&exchange, On::Log), [2]);
    assert!(exchange.effects.local_response.is_none());
}

#[test]
fn local_responses_work_in_every_phase_before_the_log() {
    let respond = || program().call(LOCAL, local(418, "", "", b"", NONE));
    let all = [
        On::RequestHeaders,
        On::RequestBody,
        On::RequestTrailers,
        On::ResponseHeaders,
        On::ResponseBody,
        On::ResponseTrailers,
    ];
    let mut instance =
        start(&all.into_iter().fold(crate::script::Script::default(), |script, on| script.and(on, respond())));
    for on in all {
        let context = open(&mut instance, |exchange| exchange.response = Some(response()));
        let action = match on {
            On::RequestHeaders => instance.on_request_headers(context, false),
            On::RequestBody => instance.on_request_body(context, false),
            On::RequestTrailers => instance.on_request_trailers(context),
            On::ResponseHeaders => instance.on_response_headers(context, false),
            On::ResponseBody => instance.on_response_body(context, false),
            _ => instance.on_response_trailers(context),
        };
        assert_eq!(action.unwrap(), Action::Pause, "{on:?}");
        assert!(instance.exchange(context).unwrap().effects.local_response.is_some(), "{on:?}");
    }
}

#[test]
fn the_route_can_be_resolved_again_on_demand() {
    let exchange = run(program().call("proxy_call_foreign_function", [b("clear_route_cache"), b(""), Out(0), Out(1)]));
    assert!(results(&exchange, On::RequestHeaders) == [0] && exchange.effects.request_head_changed);
    let exchange = run(program().call("proxy_clear_route_cache", []));
    assert!(exchange.effects.request_head_changed);
    let exchange = run(program().call("proxy_call_foreign_function", [b("compress"), b("x"), N(0), N(0)]));
    assert!(results(&exchange, On::RequestHeaders) == [1] && !exchange.effects.request_head_changed);
}

#[test]
fn ticks_are_asked_for_and_stopped() {
    let set = |period| program().call("proxy_set_tick_period_milliseconds", [N(period)]);
    let mut instance =
        start(&script(On::RequestHeaders, set(1500)).and(On::RequestBody, set(1)).and(On::RequestTrailers, set(0)));
    assert_eq!(instance.tick_period(), None);
    let context = open(&mut instance, |_| {});
    instance.on_request_headers(context, false).unwrap();
    assert_eq!(instance.tick_period().unwrap().as_millis(), 1500);
    instance.on_request_body(context, false).unwrap();
    assert_eq!(instance.tick_period().unwrap().as_millis(), 10, "raised to the shortest");
    instance.on_request_trailers(context).unwrap();
    assert_eq!(instance.tick_period(), None);
}

#[test]
fn nothing_is_ever_left_to_be_done() {
    assert_eq!(results(&run(program().call("proxy_done", [])), On::RequestHeaders), [1]);
}
