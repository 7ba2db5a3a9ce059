//! Header and trailer maps: what a plugin can read and change when.

use http::HeaderValue;
use proxy_wasm_host::{HeadState, HeaderList, Limits, Plugin, Quota};

use crate::fixture::{exchange, open, response, run, run_on, scripted, scripted_0_1_0, shared, start, start_logged};
use crate::script::{Arg, N, On, Out, b, kept, program, results, script};

const REQUEST: Arg = N(0);
const REQUEST_TRAILERS: Arg = N(1);
const RESPONSE: Arg = N(2);
const RESPONSE_TRAILERS: Arg = N(3);

const GET: &str = "proxy_get_header_map_value";
const ADD: &str = "proxy_add_header_map_value";
const REPLACE: &str = "proxy_replace_header_map_value";
const REMOVE: &str = "proxy_remove_header_map_value";
const PAIRS: &str = "proxy_get_header_map_pairs";
const SET_PAIRS: &str = "proxy_set_header_map_pairs";

fn blob(pairs: &[(&str, &str)]) -> Arg {
    let mut out = u32::try_from(pairs.len()).unwrap().to_le_bytes().to_vec();
    for (name, value) in pairs {
        for part in [name, value] {
            out.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
        }
    }
    for (name, value) in pairs {
        for part in [name, value] {
            out.extend(part.bytes().chain([0]));
        }
    }
    b(out)
}

#[test]
fn values_are_read_as_bytes() {
    let exchange = run(program()
        .call(GET, [REQUEST, b(":path"), Out(0), Out(1)])
        .keep("path")
        .call(GET, [REQUEST, b("Accept"), Out(0), Out(1)])
        .keep("accept")
        .call(GET, [REQUEST, b("x-bytes"), Out(0), Out(1)])
        .keep("bytes")
        .call(GET, [REQUEST, b("x-missing"), Out(0), Out(1)]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(kept(&exchange, "path"), b"/sample?q=1");
    assert_eq!(kept(&exchange, "accept"), b"a", "the first of several");
    assert_eq!(kept(&exchange, "bytes"), b"\xff\xfe");
    assert!(!exchange.effects.request_head_changed);
}

#[test]
fn a_missing_value_is_empty_in_the_oldest_version() {
    let program = program().call(GET, [REQUEST, b("x-missing"), Out(0), Out(1)]).keep("value");
    let settings = script(On::RequestHeaders, program).settings();
    let mut instance = Plugin::new(scripted_0_1_0(), settings, shared().0).instantiate().unwrap();
    let exchange = run_on(&mut instance);
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0]);
    assert_eq!(kept(&exchange, "value"), b"");
}

#[test]
fn the_whole_map_is_one_blob_with_pseudo_headers_first() {
    let exchange = run(program()
        .call(PAIRS, [REQUEST, Out(0), Out(1)])
        .keep("pairs")
        .call("proxy_get_header_map_size", [REQUEST, Out(2)])
        .call("proxy_set_property", [b("size"), N(0x8010), N(4)]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0; 4]);
    let mut expected = 8u32.to_le_bytes().to_vec();
    let pairs: [(&[u8], &[u8]); 8] = [
        (b":authority", b"test.example.dev"),
        (b":path", b"/sample?q=1"),
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b"accept", b"a"),
        (b"accept", b"b"),
        (b"x-bytes", b"\xff\xfe"),
        (b"content-length", b"5"),
    ];
    let mut size = 0;
    for (name, value) in pairs {
        expected.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
        expected.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
        size += u32::try_from(name.len() + value.len()).unwrap();
    }
    for (name, value) in pairs {
        expected.extend(name.iter().chain(b"\0").chain(value).chain(b"\0"));
    }
    assert_eq!(kept(&exchange, "pairs"), expected);
    assert_eq!(kept(&exchange, "size"), size.to_le_bytes(), "bytes, not pairs");
}

#[test]
fn edits_change_the_head_and_say_so() {
    let exchange = run(program()
        .call(ADD, [REQUEST, b("X-Added"), b("1")])
        .call(ADD, [REQUEST, b("x-added"), b("2")])
        .call(REPLACE, [REQUEST, b("accept"), b("c")])
        .call(REPLACE, [REQUEST, b("x-new"), b("")])
        .call(REMOVE, [REQUEST, b("x-bytes")])
        .call(REMOVE, [REQUEST, b("x-missing")])
        .call(REPLACE, [REQUEST, b(":path"), b("/other")])
        .call(REPLACE, [REQUEST, b(":authority"), b("other.example.dev")]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0; 8]);
    let headers = &exchange.request.headers;
    assert!(headers.get_all("x-added").eq(["1", "2"]));
    assert!(headers.get_all("accept").eq(["c"]));
    assert_eq!(headers["x-new"], "");
    assert!(!headers.contains_key("x-bytes"));
    assert_eq!((exchange.request.target.as_str(), &headers["host"]), ("/other", &"other.example.dev".parse().unwrap()));
    assert!(exchange.effects.request_head_changed && !exchange.effects.invalid_edit);
}

#[test]
fn edits_that_would_break_the_message_mark_the_exchange() {
    for (name, value) in [
        ("x", "a\r\nb: c"),
        ("x y", "1"),
        ("", "1"),
        (":unknown", "1"),
        (":status", "200"),
        (":path", "no slash"),
        (":method", "CONNECT"),
        ("host", "a b"),
    ] {
        let (mut instance, lines) =
            start_logged(script(On::RequestHeaders, program().call(REPLACE, [REQUEST, b(name), b(value)])).settings());
        let exchange = run_on(&mut instance);
        assert_eq!(results(&exchange, On::RequestHeaders), [0], "{name}: SDKs abort on anything else");
        assert!(exchange.effects.invalid_edit && !exchange.effects.request_head_changed, "{name}");
        assert_eq!(exchange.request.headers, crate::fixture::exchange().request.headers, "{name}");
        let lines = lines.take();
        assert!(lines.len() == 1 && lines[0].contains("in the request headers was refused"), "{lines:?}");
    }
    let exchange = run(program().call(REMOVE, [REQUEST, b(":path")]));
    assert!(exchange.effects.invalid_edit);
}

#[test]
fn framing_headers_are_not_a_plugins_to_write() {
    let exchange = run(program()
        .call(REPLACE, [REQUEST, b("content-length"), b("1000")])
        .call(ADD, [REQUEST, b("transfer-encoding"), b("chunked")])
        .call(ADD, [REQUEST, b("connection"), b("x-bytes")]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0; 3]);
    assert_eq!(exchange.request.headers, crate::fixture::exchange().request.headers);
    assert!(!exchange.effects.request_head_changed && !exchange.effects.invalid_edit);
}

#[test]
fn a_map_is_replaced_whole_or_not_at_all() {
    let exchange = run(program().call(SET_PAIRS, [REQUEST, blob(&[(":path", "/new"), ("x", "1"), ("x", "2")])]));
    assert_eq!(results(&exchange, On::RequestHeaders), [0]);
    assert_eq!(exchange.request.target, "/new");
    assert_eq!(exchange.request.headers.len(), 3);
    assert_eq!(exchange.request.headers["host"], "test.example.dev");

    let lies = b"\xff\xff\xff\x7f".to_vec();
    for bad in [blob(&[("x", "1"), ("y", "\n")]), b(lies), b(b"\x01\0\0\0"), b(vec![0; (1 << 20) + 1])] {
        let exchange = run(program().call(SET_PAIRS, [REQUEST, bad]));
        assert_eq!(results(&exchange, On::RequestHeaders), [0]);
        assert!(exchange.effects.invalid_edit);
        assert_eq!(exchange.request.headers, crate::fixture::exchange().request.headers);
    }
}

#[test]
fn maps_that_do_not_exist_yet_cannot_be_touched() {
    let all = |map: u32| {
        program()
            .call(PAIRS, [N(map), Out(0), Out(1)])
            .keep("pairs")
            .call(GET, [N(map), b("x"), Out(0), Out(1)])
            .call(ADD, [N(map), b("x"), b("1")])
            .call(REMOVE, [N(map), b("x")])
            .call(SET_PAIRS, [N(map), b("")])
            .call(SET_PAIRS, [N(map), b("bad")])
    };
    // 1 to 3: trailers and the response; 4 to 7: maps of outbound calls.
    for map in 1..=7 {
        let exchange = run(all(map));
        assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 2, 2, 2, 2, 2], "map {map}");
        assert_eq!(kept(&exchange, "pairs"), b"");
    }
    assert_eq!(results(&run(all(8)), On::RequestHeaders), [2, 0, 2, 2, 2, 2, 2], "no such map");
}

#[test]
fn a_head_that_was_sent_can_be_read_and_one_that_is_gone_cannot() {
    let program = program().call(GET, [REQUEST, b("accept"), Out(0), Out(1)]).call(ADD, [REQUEST, b("x"), b("1")]);
    let mut instance = start(&script(On::ResponseHeaders, program));
    for (state, expected) in [(HeadState::Open, [0, 0]), (HeadState::Sent, [0, 2]), (HeadState::Gone, [2, 2])] {
        let context = open(&mut instance, |exchange| {
            exchange.request_state = state;
            exchange.response = Some(response());
        });
        instance.on_response_headers(context, false).unwrap();
        assert_eq!(results(&instance.detach(context).unwrap(), On::ResponseHeaders), expected, "{state:?}");
    }
}

#[test]
fn response_heads_are_edited_like_requests() {
    let program = program()
        .call(GET, [RESPONSE, b(":status"), Out(0), Out(1)])
        .keep("status")
        .call(REPLACE, [RESPONSE, b(":status"), b("404")])
        .call(ADD, [RESPONSE, b("x-added"), b("1")])
        .call(REMOVE, [RESPONSE, b("server")]);
    let mut instance = start(&script(On::ResponseHeaders, program));
    let context = open(&mut instance, |exchange| exchange.response = Some(response()));
    instance.on_response_headers(context, false).unwrap();
    let exchange = instance.detach(context).unwrap();
    assert_eq!(results(&exchange, On::ResponseHeaders), [0; 5]);
    assert_eq!(kept(&exchange, "status"), b"200");
    let head = exchange.response.as_ref().unwrap();
    assert_eq!(head.status.as_u16(), 404);
    assert!(head.headers.len() == 1 && head.headers["x-added"] == "1");
    assert!(exchange.effects.response_head_changed && !exchange.effects.request_head_changed);
}

#[test]
fn trailers_are_edited_in_their_callback() {
    let edit =
        |map: Arg| program().call(ADD, [map.clone(), b("x-sum"), b("1")]).call(GET, [map, b("x-old"), Out(0), Out(1)]);
    let mut instance =
        start(&script(On::RequestTrailers, edit(REQUEST_TRAILERS)).and(On::ResponseTrailers, edit(RESPONSE_TRAILERS)));
    let context = open(&mut instance, |exchange| {
        let mut trailers = HeaderList::new();
        trailers.insert("x-old", HeaderValue::from_static("0"));
        exchange.request_trailers = Some(trailers.clone());
        exchange.response_trailers = Some(trailers);
    });
    instance.on_request_trailers(context).unwrap();
    instance.on_response_trailers(context).unwrap();
    let exchange = instance.detach(context).unwrap();
    assert_eq!(results(&exchange, On::RequestTrailers), [0, 0]);
    assert_eq!(results(&exchange, On::ResponseTrailers), [0, 0]);
    for trailers in [&exchange.request_trailers, &exchange.response_trailers] {
        assert_eq!(trailers.as_ref().unwrap()["x-sum"], "1");
    }
}

#[test]
fn trailers_can_be_made_in_the_last_body_callback_only() {
    let program = program().call(ADD, [RESPONSE_TRAILERS, b("x-sum"), b("1")]);
    let mut instance = start(&script(On::ResponseBody, program));
    for (end_of_stream, status) in [(false, 2), (true, 0)] {
        let context = open(&mut instance, |_| {});
        instance.on_response_body(context, end_of_stream).unwrap();
        let exchange = instance.detach(context).unwrap();
        assert_eq!(results(&exchange, On::ResponseBody), [status]);
        assert_eq!(exchange.response_trailers.is_some(), end_of_stream);
    }
}

#[test]
fn everything_can_be_read_in_the_log_and_nothing_changed() {
    let program = program()
        .call(GET, [REQUEST, b("accept"), Out(0), Out(1)])
        .call(GET, [RESPONSE, b(":status"), Out(0), Out(1)])
        .call(PAIRS, [RESPONSE_TRAILERS, Out(0), Out(1)])
        .call(ADD, [REQUEST, b("x"), b("1")])
        .call(ADD, [RESPONSE, b("x"), b("1")])
        .call(ADD, [RESPONSE_TRAILERS, b("x"), b("1")]);
    let mut instance = start(&script(On::Log, program));
    let context = open(&mut instance, |exchange| {
        exchange.response = Some(response());
        exchange.response_trailers = Some(HeaderList::new());
    });
    let exchange = instance.close(context).unwrap().unwrap();
    assert_eq!(results(&exchange, On::Log), [0, 0, 0, 2, 2, 2]);
}

#[test]
fn nothing_can_be_changed_before_the_first_callback() {
    let program = program().call(GET, [REQUEST, b("accept"), Out(0), Out(1)]).call(ADD, [REQUEST, b("x"), b("1")]);
    let mut instance = start(&script(On::Create, program));
    let context = open(&mut instance, |_| {});
    assert_eq!(results(&instance.detach(context).unwrap(), On::Create), [0, 2]);
}

#[test]
fn the_size_of_a_head_is_limited() {
    let (shared, _) = shared();
    let mut settings = script(
        On::RequestHeaders,
        (0..9).fold(program(), |program, index| program.call(ADD, [REQUEST, b(format!("x-{index}")), b("1")])),
    )
    .settings();
    settings.limits = Limits { header_fields: 10, ..Limits::default() };
    let plugin = Plugin::new(scripted(), settings.clone(), shared.clone());
    let exchange = run_on(&mut plugin.instantiate().unwrap());
    assert_eq!(exchange.request.headers.len(), 10);
    assert!(exchange.effects.invalid_edit);
    let quotas = shared.quotas();
    assert_eq!((quotas[0].quota, quotas[0].refused), (Quota::Headers, 4));

    settings.limits = Limits { header_edit_bytes: 12, ..Limits::default() };
    let plugin = Plugin::new(scripted(), settings, shared);
    let exchange = run_on(&mut plugin.instantiate().unwrap());
    assert_eq!(exchange.request.headers.len(), exchange_fields() + 3);
}

fn exchange_fields() -> usize {
    exchange().request.headers.len()
}
