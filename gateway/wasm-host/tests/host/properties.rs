//! Properties: every path of the host, and values that plugins store.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;
use proxy_wasm_host::{Direction, Exchange, HeadState, HeaderList, Limits, Node, TlsFacts};

use crate::fixture::{open, response, run, start, start_with};
use crate::script::{N, On, Out, b, kept, program, results, script};

/// What a plugin reads at a path in `on_log`, or the status.
fn read_in(path: &str, prepare: impl FnOnce(&mut Exchange)) -> Result<Vec<u8>, u32> {
    let path = path.replace('.', "\0").replace('~', ".");
    let ask = program().call("proxy_get_property", [b(&path), Out(0), Out(1)]).keep("value");
    let mut instance = start(&script(On::Log, ask));
    let context = open(&mut instance, prepare);
    let exchange = instance.close(context).unwrap().unwrap();
    match results(&exchange, On::Log)[0] {
        0 => Ok(exchange.properties.stored(b"value").unwrap().to_vec()),
        status => Err(status),
    }
}

fn prepare(exchange: &mut Exchange) {
    exchange.request.headers.insert("user-agent", HeaderValue::from_static("test/1"));
    exchange.request.headers.insert("x.dot", HeaderValue::from_static("dotted"));
    exchange.response = Some(response());
    let mut trailers = HeaderList::new();
    trailers.insert("x-sum", HeaderValue::from_static("9"));
    exchange.response_trailers = Some(trailers);
    let facts = &mut exchange.properties;
    facts.request_id = Some(Bytes::from_static(b"id-1"));
    facts.started = Some(UNIX_EPOCH + Duration::from_nanos(1_000_000_007));
    facts.protocol = Some("HTTP/2");
    facts.duration = Some(Duration::from_micros(3));
    facts.request_bytes = 11;
    facts.response_bytes = 22;
    facts.response_code_details = Some("via_upstream".into());
    facts.response_flags = 4;
    facts.grpc_status = Some(13);
    facts.source = Some("10.0.0.1:1234".parse().unwrap());
    facts.destination = Some("[::1]:8080".parse().unwrap());
    facts.connection_id = Some(77);
    facts.tls = Some(Arc::new(TlsFacts {
        mutual: true,
        version: "TLSv1.3",
        server_name: "test.example.dev".to_owned(),
        subject_peer: "CN=client".to_owned(),
        uri_san_peer: "spiffe://x".to_owned(),
        ..TlsFacts::default()
    }));
    facts.route_name = Some("route".into());
    facts.virtual_host_name = Some("vhost".into());
    facts.cluster_name = Some("outbound|80||svc".into());
    facts.upstream = Some("10.0.0.2:80".parse().unwrap());
    facts.upstream_failure = Some("refused".into());
    facts.node = Some(Arc::new(Node {
        id: "router~1".to_owned(),
        cluster: "ingress".to_owned(),
        metadata: vec![("NAMESPACE".to_owned(), "istio-system".to_owned())],
        labels: vec![("app".to_owned(), "gw".to_owned())],
    }));
}

#[test]
fn every_property_has_a_value() {
    let number = |value: u64| value.to_le_bytes().to_vec();
    let text = |value: &str| value.as_bytes().to_vec();
    for (path, value) in [
        ("plugin_name", text("scripted")),
        ("plugin_root_id", text("")),
        ("plugin_vm_id", text("")),
        ("request.path", text("/sample?q=1")),
        ("request.url_path", text("/sample")),
        ("request.query", text("q=1")),
        ("request.host", text("test.example.dev")),
        ("request.scheme", text("http")),
        ("request.method", text("GET")),
        ("request.useragent", text("test/1")),
        ("request.headers.x-bytes", b"\xff\xfe".to_vec()),
        ("request.headers.x~dot", text("dotted")),
        ("request.time", number(1_000_000_007)),
        ("request.id", text("id-1")),
        ("request.protocol", text("HTTP/2")),
        ("request.duration", number(3_000)),
        ("request.size", number(11)),
        ("response.code", number(200)),
        ("response.code_details", text("via_upstream")),
        ("response.flags", number(4)),
        ("response.grpc_status", number(13)),
        ("response.size", number(22)),
        ("response.headers.server", text("test")),
        ("response.trailers.x-sum", text("9")),
        ("response.headers_bytes", number(7 + 3 + 6 + 4)),
        ("response.total_size", number(22 + 20)),
        ("source.address", text("10.0.0.1:1234")),
        ("source.port", number(1234)),
        ("destination.address", text("[::1]:8080")),
        ("destination.port", number(8080)),
        ("connection.id", number(77)),
        ("connection_id", number(77)),
        ("connection.mtls", vec![1]),
        ("connection.tls_version", text("TLSv1.3")),
        ("connection.requested_server_name", text("test.example.dev")),
        ("connection.subject_peer_certificate", text("CN=client")),
        ("connection.uri_san_peer_certificate", text("spiffe://x")),
        ("upstream.address", text("10.0.0.2:80")),
        ("upstream.port", number(80)),
        ("upstream.transport_failure_reason", text("refused")),
        ("xds.route_name", text("route")),
        ("route_name", text("route")),
        ("xds.cluster_name", text("outbound|80||svc")),
        ("cluster_name", text("outbound|80||svc")),
        ("xds.virtual_host_name", text("vhost")),
        ("xds.listener_direction", number(Direction::Outbound as u64)),
        ("listener_direction", number(2)),
        ("node.id", text("router~1")),
        ("xds.node.id", text("router~1")),
        ("node.cluster", text("ingress")),
        ("node.metadata.NAMESPACE", text("istio-system")),
        ("node.metadata.LABELS.app", text("gw")),
        ("node.metadata.LABELS", b"\x01\0\0\0\x03\0\0\0\x02\0\0\0app\0gw\0".to_vec()),
    ] {
        assert_eq!(read_in(path, prepare), Ok(value), "{path}");
    }
    let headers = read_in("request.headers", prepare).unwrap();
    assert_eq!(headers[..4], 10u32.to_le_bytes(), "a map is written as pairs");
}

#[test]
fn what_is_unknown_is_not_found_and_messages_cannot_be_written() {
    for path in ["request.nothing", "nothing", "xds.nothing", "request.headers.x-missing", "request.path.x"] {
        assert_eq!(read_in(path, prepare), Err(1), "{path:?}");
    }
    for path in ["", "request", "request.", "response", "source", "connection", "upstream", "xds", "node"] {
        assert_eq!(read_in(path, prepare), Err(3), "{path:?}");
    }
    for path in [
        "request.id",
        "request.time",
        "response.code",
        "response.headers.server",
        "source.address",
        "connection.id",
        "connection.tls_version",
        "upstream.address",
        "route_name",
        "node.id",
        "request.referer",
    ] {
        assert_eq!(read_in(path, |_| {}), Err(1), "{path}: not known yet");
    }
    assert_eq!(read_in("connection.mtls", |_| {}), Ok(vec![0]));
    assert_eq!(read_in("response.flags", |_| {}), Ok(vec![0; 8]), "before there is a response");
    assert_eq!(read_in("request.path.", prepare), read_in("request.path", prepare), "the C++ SDK ends with NUL");
    assert_eq!(read_in("request.path", |exchange| exchange.request_state = HeadState::Gone), Err(1));
    assert_eq!(read_in(&"a.".repeat(4000), prepare), Err(1));
}

#[test]
fn stored_values_are_seen_later_and_override_nothing() {
    let store = program()
        .call("proxy_set_property", [b("mine"), b("value")])
        .call("proxy_set_property", [b("request\0path"), b("forged")])
        .call("proxy_get_property", [b("mine"), Out(0), Out(1)])
        .keep("read");
    let read = program()
        .call("proxy_get_property", [b("mine"), Out(0), Out(1)])
        .keep("later")
        .call("proxy_get_property", [b("filter_state\0wasm.mine"), Out(0), Out(1)])
        .keep("filter state")
        .call("proxy_get_property", [b("request\0path"), Out(0), Out(1)])
        .keep("path");
    let mut instance = start(&script(On::RequestHeaders, store).and(On::Log, read));
    let context = open(&mut instance, |_| {});
    instance.on_request_headers(context, true).unwrap();
    let exchange = instance.close(context).unwrap().unwrap();
    assert_eq!(results(&exchange, On::RequestHeaders), [0; 4]);
    let stored = |name: &str| exchange.properties.stored(name.as_bytes()).unwrap();
    assert_eq!([stored("mine"), stored("read"), stored("later"), stored("filter state")], [b"value"; 4]);
    assert_eq!(stored("path"), b"/sample?q=1");
}

#[test]
fn stored_values_are_limited() {
    let store = program()
        .call("proxy_set_property", [b("a"), b(vec![0; 50])])
        .call("proxy_set_property", [b("b"), b(vec![0; 50])]);
    let mut settings = script(On::RequestHeaders, store).settings();
    settings.limits = Limits { property_bytes: 100, ..Limits::default() };
    let mut instance = start_with(settings);
    let exchange = crate::fixture::run_on(&mut instance);
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 10]);
}

#[test]
fn expressions_are_evaluated_over_the_stream() {
    const CALL: &str = "proxy_call_foreign_function";
    let expressions = [
        ("request.method == 'GET' && request.path.startsWith('/sample')", Some(&[1u8][..])),
        ("request.headers['accept'] + request.url_path", Some(b"a/sample")),
        ("size(request.host) * 2", Some(&[32, 0, 0, 0, 0, 0, 0, 0])),
        ("has(request.headers.missing)", Some(&[0])),
        ("request.headers['missing']", None),
        ("response.code", None),
        ("1 / 0", None),
        ("9223372036854775807 + 1", None),
    ];
    for (expression, value) in expressions {
        let exchange = run(program()
            .call(CALL, [b("expr_create"), b(expression), Out(0), Out(1)])
            .call(CALL, [b("expr_evaluate"), b([0, 0, 0, 0]), Out(0), Out(1)])
            .keep("value")
            .call(CALL, [b("expr_delete"), b([0, 0, 0, 0]), N(0), N(0)])
            .call(CALL, [b("expr_evaluate"), b([0, 0, 0, 0]), Out(2), Out(3)])
            .call(CALL, [b("expr_create"), b("1 +"), Out(2), Out(3)])
            .call(CALL, [b("expr_evaluate"), b("no number"), Out(2), Out(3)]));
        let statuses = results(&exchange, On::RequestHeaders);
        let evaluated = if value.is_some() { 0 } else { 10 };
        assert_eq!(statuses, [0, evaluated, 0, 0, 1, 2, 2], "{expression}");
        if let Some(value) = value {
            assert_eq!(kept(&exchange, "value"), value, "{expression}");
        }
    }
}
