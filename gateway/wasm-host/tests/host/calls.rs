//! What plugins ask of other services, as the HTTP layer gets it; and which statuses they get.

use std::sync::Arc;

use proxy_wasm_host::{HeaderList, Instance, Limits, Outbound, Plugin, PluginSettings, Quota, Shared, Upstreams};

use crate::fixture::{Lines, run_on, scripted};
use crate::script::{Arg, N, On, Out, Program, b, program, results, script};

/// One service.
struct One;

impl Upstreams for One {
    fn knows(&self, name: &str) -> bool {
        name == "known"
    }
}

fn start(limits: Limits, program: Program) -> (Instance, Shared) {
    let shared = Shared::new(Arc::new(Lines::default()), Arc::new(One));
    let settings = PluginSettings { limits, ..script(On::RequestHeaders, program).settings() };
    (Plugin::new(scripted(), settings, shared.clone()).instantiate().unwrap(), shared)
}

/// The statuses of a program's calls, and what it wants of services.
fn run(program: Program) -> (Vec<u32>, Vec<Outbound>) {
    let (mut instance, _) = start(Limits::default(), program);
    let exchange = run_on(&mut instance);
    assert_eq!(instance.has_outbound(), !instance.take_outbound().is_empty());
    let statuses = results(&exchange, On::RequestHeaders);
    // The exchange was taken off before; a second stream repeats it, with what it asked for.
    run_on(&mut instance);
    (statuses, instance.take_outbound())
}

fn map(pairs: &[(&str, &str)]) -> Arg {
    let mut map = u32::try_from(pairs.len()).unwrap().to_le_bytes().to_vec();
    for (name, value) in pairs {
        map.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
        map.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
    }
    for (name, value) in pairs {
        map.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    b(map)
}

fn get() -> Arg {
    map(&[
        (":method", "GET"),
        (":path", "/x?y"),
        (":authority", "a.example.com"),
        ("x-a", "1"),
        ("connection", "close"),
    ])
}

fn http(upstream: &str, headers: Arg, body: &str) -> [Arg; 6] {
    [b(upstream), headers, b(body), map(&[("x-t", "2")]), N(250), Out(0)]
}

const HTTP: &str = "proxy_http_call";
const UNARY: &str = "proxy_grpc_call";
const STREAM: &str = "proxy_grpc_stream";

#[test]
fn a_http_call_says_all_that_is_needed() {
    let (statuses, wanted) = run(program().call(HTTP, http("known", get(), "body")));
    assert_eq!(statuses, [0]);
    let [Outbound::Http(call)] = &wanted[..] else { panic!("{wanted:?}") };
    assert_eq!((call.token, call.upstream.as_str()), (8, "known"), "4 was the first stream's");
    assert_eq!((call.head.method.as_str(), call.head.target.as_str()), ("GET", "/x?y"));
    assert_eq!(
        (&call.head.headers["host"], &call.head.headers["x-a"]),
        (&"a.example.com".parse().unwrap(), &"1".parse().unwrap())
    );
    assert!(!call.head.headers.contains_key("connection"), "the call's own connection is not the plugin's");
    assert_eq!((&call.body[..], &call.trailers["x-t"]), (&b"body"[..], &"2".parse().unwrap()));
    assert_eq!(call.timeout.unwrap().as_millis(), 250);
}

#[test]
fn calls_that_cannot_be_made_have_the_statuses_that_sdks_know() {
    let without = |name: &str| {
        let all = [(":method", "GET"), (":path", "/"), (":authority", "a")];
        map(&all.into_iter().filter(|(key, _)| *key != name).collect::<Vec<_>>())
    };
    let (statuses, wanted) = run(program()
        .call(HTTP, http("unknown", get(), ""))
        .call(HTTP, http("known", without(":method"), ""))
        .call(HTTP, http("known", without(":path"), ""))
        .call(HTTP, http("known", without(":authority"), ""))
        .call(HTTP, http("known", map(&[(":method", "GET"), (":path", "no"), (":authority", "a")]), ""))
        .call(HTTP, http("known", b("malformed"), ""))
        .call(UNARY, [b("unknown"), b("s"), b("m"), b(""), b(""), N(0), Out(0)])
        .call(UNARY, [b("known"), b("s"), b("white space"), b(""), b(""), N(0), Out(0)])
        .call(UNARY, [b("known"), b("s"), b("m"), b("malformed"), b(""), N(0), Out(0)])
        .call(STREAM, [b("unknown"), b("s"), b("m"), b(""), Out(0)])
        .call("proxy_grpc_send", [N(6), b(""), N(1)])
        .call("proxy_grpc_cancel", [N(6)])
        .call("proxy_grpc_close", [N(4)]));
    assert_eq!(statuses, [2, 2, 2, 2, 2, 2, 4, 10, 10, 4, 1, 1, 1]);
    assert!(wanted.is_empty(), "{wanted:?}");
}

#[test]
fn grpc_targets_may_be_what_envoy_takes() {
    // GrpcService { envoy_grpc { cluster_name: "known", authority: "a" }, initial_metadata { key: "k", value: "v" } }
    let target = b"\x0a\x0a\x0a\x05known\x12\x01a\x2a\x06\x0a\x01k\x12\x01v";
    let other = b"\x0a\x09\x0a\x07unknown";
    let (statuses, wanted) = run(program()
        .call(
            UNARY,
            [
                b(target),
                b("pkg.Service"),
                b("Method"),
                map(&[("x-m", "1"), ("te", "x"), ("k", "w")]),
                b("message"),
                N(10),
                Out(0),
            ],
        )
        .call(STREAM, [b(other), b("s"), b("m"), b(""), Out(0)]));
    assert_eq!(statuses, [0, 4]);
    let [Outbound::Grpc(call)] = &wanted[..] else { panic!("{wanted:?}") };
    assert_eq!((call.token, call.upstream.as_str(), call.path.as_str()), (9, "known", "/pkg.Service/Method"));
    assert_eq!(call.authority.as_ref().unwrap(), "a");
    let names = |map: &HeaderList| map.names().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&call.metadata), ["k", "x-m", "k"], "the call's own is added, as by Envoy");
    assert!(call.metadata.get_all("k").eq(["v", "w"]));
    assert_eq!(call.message.as_deref(), Some(&b"message"[..]));
}

#[test]
fn a_grpc_stream_is_sent_to_until_its_end() {
    let (mut instance, _) = start(
        Limits { body_bytes: 8, ..Limits::default() },
        program()
            .call(STREAM, [b("known"), b("s"), b("m"), b(""), Out(0)])
            .call("proxy_grpc_send", [N(6), b("12345"), N(0)])
            .call("proxy_grpc_send", [N(6), b("1234"), N(0)])
            .call("proxy_grpc_send", [N(6), b("123"), N(1)])
            .call("proxy_grpc_send", [N(6), b(""), N(0)])
            .call("proxy_grpc_close", [N(6)])
            .call("proxy_grpc_cancel", [N(6)])
            .call("proxy_grpc_send", [N(6), b(""), N(0)]),
    );
    assert_eq!(
        results(&run_on(&mut instance), On::RequestHeaders),
        [0, 0, 2, 0, 2, 0, 0, 1],
        "too much waits, then it has ended"
    );
    let wanted = instance.take_outbound().into_iter().map(|wish| match wish {
        Outbound::Grpc(call) => format!("begin {}", call.token),
        Outbound::Message { token, message: Some(message) } => format!("{token} {}", message.bytes.escape_ascii()),
        Outbound::Message { token, message: None } => format!("{token} end"),
        Outbound::Cancel { token } => format!("{token} cancelled"),
        Outbound::Http(_) => "http".to_owned(),
    });
    let wanted: Vec<_> = wanted.collect();
    assert_eq!(wanted, ["begin 6", "6 12345", "6 123", "6 end", "6 cancelled"]);
    assert!(!instance.awaits(6));
}

#[test]
fn calls_are_limited_for_streams_and_for_plugins() {
    let two = || program().call(HTTP, http("known", get(), "")).call(HTTP, http("known", get(), ""));
    let (mut instance, shared) = start(Limits { calls_per_stream: 1, calls_in_flight: 2, ..Limits::default() }, two());
    let status = |instance: &mut Instance| results(&run_on(instance), On::RequestHeaders);
    assert_eq!(status(&mut instance), [0, 10], "one stream");
    assert_eq!(status(&mut instance), [0, 10], "another");
    assert_eq!(status(&mut instance), [10, 10], "the plugin has two");
    // An answer makes room, an instance that is gone, too.
    instance.on_http_call_response(4, None).unwrap();
    assert_eq!(status(&mut instance), [0, 10]);
    let quotas = shared.quotas();
    assert_eq!((quotas[0].quota, quotas[0].refused), (Quota::Calls, 5));
    drop(instance);
    let settings = PluginSettings {
        limits: Limits { calls_in_flight: 2, ..Limits::default() },
        ..script(On::RequestHeaders, two()).settings()
    };
    let mut instance = Plugin::new(scripted(), settings, shared).instantiate().unwrap();
    assert_eq!(status(&mut instance), [0, 0]);
}

#[test]
fn a_body_that_is_too_long_is_not_called_with() {
    let (mut instance, _) =
        start(Limits { body_bytes: 3, ..Limits::default() }, program().call(HTTP, http("known", get(), "four")));
    assert_eq!(results(&run_on(&mut instance), On::RequestHeaders), [10]);
    assert!(!instance.has_outbound());
}
