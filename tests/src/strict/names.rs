//! Group D: paths, hosts and headers. One form of each for routing, plugins and the service alike, and nothing from
//! outside that only the gateway may say.

use super::{Case, HOST, both};
use crate::http2_frames::header_block;

pub(super) fn cases() -> Vec<Case> {
    [paths(), guarded_paths(), hosts(), forwarding(), hop_by_hop(), underscores(), several_values(), odd_values()]
        .concat()
}

const BASE: &str = "Istio's BASE normalisation, measured (istio.md 32)";

fn get(row: &'static str, what: &str, target: &str) -> [Case; 2] {
    both(row, what, "GET", target, &[])
}

fn paths() -> Vec<Case> {
    let passes = [
        ("/a/../b", "/b"),
        ("/a/./b", "/a/b"),
        ("/a/..", "/"),
        ("/../../a", "/a"),
        ("//a", "//a"),
        ("/a//b", "/a//b"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/%2E%2e/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%2fb", "/a%2fb"),
        ("/a/..%2fb", "/a/..%2fb"),
        ("/a%5Cb", "/a%5Cb"),
        ("/a%0d%0ab", "/a%0d%0ab"),
        ("/%41%7e", "/A~"),
        ("/%25%32%66", "/%252f"),
        ("/%252e%252e/a", "/%252e%252e/a"),
        ("/a;x=/../b", "/b"),
        ("/a/..;/b", "/a/..;/b"),
        ("/%c0%af", "/%c0%af"),
        ("/%ff", "/%ff"),
        ("/%C3%a4", "/%C3%a4"),
        ("/a%zz", "/a%zz"),
        ("/a%", "/a%"),
        ("/a%20x", "/a%20x"),
        ("/a.", "/a."),
        ("/a/...", "/a/..."),
        ("/a?x=/../b", "/a?x=/../b"),
        ("/a?b?c", "/a?b?c"),
    ];
    let refused = ["/%00", "/a%00b", "/a?b=%00"];
    let mut cases: Vec<Case> = passes
        .iter()
        .flat_map(|(sent, received)| {
            get("D-1", &format!("`{sent}`"), sent).map(|case| case.reaches(&[&format!("GET {received}")]).because(BASE))
        })
        .collect();
    for path in refused {
        let [http1, http2] = get("D-1", &format!("`{path}`"), path);
        cases.extend([http1.gets("400, closed"), http2.gets("400, open")]);
    }
    // HTTP/2 has it too, but what the h2 crate does with it is in group C.
    cases.push(
        Case::http1("D-1", "`/a\\..\\b`", format!("GET /a\\..\\b HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
            .reaches(&["GET /b"])
            .because(BASE),
    );
    cases
}

/// A route answers 403 for everything below `/admin`. Whatever the service is sent instead must not be that path.
fn guarded_paths() -> Vec<Case> {
    let guarded = [
        "/admin",
        "/admin/",
        "/admin/x",
        "/admin?x",
        "/./admin",
        "/x/../admin",
        "/x/y/../../admin",
        "/x/%2e%2e/admin",
        "/x/.%2E/admin",
        "/%61dmin",
        "/adm%69n",
        "/%61%64%6d%69%6e",
        "/admin/../admin",
        "/../admin",
        "/admin;x/../admin",
        "/admin%20",
        "/admin%2f",
        "/admin.",
        "/admin/%2e%2e%2fx",
    ];
    let passing = [
        ("/ADMIN", "/ADMIN", "paths are compared with regard to case, as RFC 3986 6.2.2.1 has it"),
        ("//admin", "//admin", BASE),
        ("/x/..//admin", "//admin", BASE),
        ("/%2fadmin", "/%2fadmin", BASE),
        ("/x%2f..%2fadmin", "/x%2f..%2fadmin", BASE),
        ("/%2561dmin", "/%2561dmin", BASE),
        ("/;/admin", "/;/admin", BASE),
        ("/admin/../x", "/x", BASE),
        ("/admin/%2e%2e/x", "/x", BASE),
    ];
    let mut cases: Vec<Case> = guarded
        .iter()
        .flat_map(|path| {
            get("D-2", &format!("`{path}`, `/admin` is forbidden"), path).map(|case| case.gets("403, open"))
        })
        .collect();
    for (sent, received, why) in passing {
        cases.extend(
            get("D-2", &format!("`{sent}`, `/admin` is forbidden"), sent)
                .map(|case| case.reaches(&[&format!("GET {received}")]).because(why)),
        );
    }
    let absolute = format!("GET http://{HOST}/admin HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    cases.push(Case::http1("D-2", "the absolute form of `/admin`, which is forbidden", absolute).gets("403, open"));
    let backslash = format!("GET /x\\..\\admin HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    cases.push(Case::http1("D-2", "`/x\\..\\admin`, `/admin` is forbidden", backslash).gets("403, open"));
    cases
}

fn hosts() -> Vec<Case> {
    let case = |what: &str, target: &str, hosts: &[&str]| {
        let lines: String = hosts.iter().map(|host| format!("host: {host}\r\n")).collect();
        Case::http1("D-3", what, format!("GET {target} HTTP/1.1\r\n{lines}\r\n")).showing(&["host"])
    };
    let host = |value: &str| case(&format!("host: {}", value.escape_debug()), "/", &[value]);
    let refused = |case: Case| case.gets("400, closed");
    let long = format!("{}.example", "a".repeat(260));
    let mut cases = vec![
        refused(case("no host", "/", &[])),
        refused(case("two hosts", "/", &["a.example", "b.example"])),
        refused(case("the same host twice", "/", &[HOST, HOST])),
        case("an absolute target and another host", "http://test.example.dev/a", &["other.example"])
            .reaches(&["GET /a (host: test.example.dev)"])
            .because("RFC 9112 3.2.2: the target wins; measured in Istio, too (istio.md 29)"),
        case("an absolute target with a port", "http://test.example.dev:8080/a", &[HOST])
            .reaches(&["GET /a (host: test.example.dev:8080)"])
            .because("RFC 9112 3.2.2: the target wins"),
        refused(case("an absolute target with user information", "http://a@test.example.dev/", &[HOST])),
        refused(case("an absolute target without a host", "http:///a", &[HOST])),
        refused(case("an absolute target and no host", "http://test.example.dev/a", &[])),
    ];
    for value in [
        "",
        "a.example, b.example",
        "a@b.example",
        "a.example:80x",
        "a.example:-1",
        "a.example:99999",
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "a%00b",
        "http://a.example",
        "[::1",
        "::1",
        "[fe80::1%25eth0]",
        "a\u{e9}b",
        "\"a\"",
    ] {
        cases.push(refused(host(value)));
    }
    for value in [
        "TEST.example.DEV",
        "test.example.dev.",
        "test.example.dev:8080",
        "[::1]",
        "[::1]:80",
        "127.0.0.1",
        "a_b.example",
    ] {
        cases.push(host(value).reaches(&[&format!("GET / (host: {value})")]));
    }
    cases.push(refused(case("a host with a label of 260 bytes", "/", &[&long])));
    cases
}

/// `numTrustedProxies` and more are in `topology`.
fn forwarding() -> Vec<Case> {
    let case = |what: &str, fields: &[(&str, &str)], shown: &'static [&'static str], value: &str| {
        both("D-4", what, "GET", "/", fields).map(|case| case.showing(shown).reaches(&[&format!("GET / ({value})")]))
    };
    let garbage = "x".repeat(10_000);
    let measured = "as Istio does, measured (istio.md 33)";
    [
        case("x-forwarded-for", &[("x-forwarded-for", "1.1.1.1")], &["x-forwarded-for"], "x-forwarded-for: 1.1.1.1,127.0.0.1")
            .map(|case| case.because("the peer is appended; who counts trusted proxies counts from the right (istio.md 33)")),
        case("x-forwarded-proto: https", &[("x-forwarded-proto", "https")], &["x-forwarded-proto"], "x-forwarded-proto: http"),
        case("x-forwarded-host", &[("x-forwarded-host", "a")], &["x-forwarded-host"], "x-forwarded-host: a")
            .map(|case| case.because(measured)),
        case(
            "x-forwarded-client-cert",
            &[("x-forwarded-client-cert", "By=a")],
            &["x-forwarded-client-cert"],
            "x-forwarded-client-cert: -",
        ),
        case(
            "x-envoy-internal and the like (CVE-2024-45806)",
            &[
                ("x-envoy-internal", "true"),
                ("x-envoy-original-path", "/admin"),
                ("x-envoy-upstream-rq-timeout-ms", "1"),
                ("x-envoy-retry-on", "5xx"),
                ("x-envoy-foo", "a"),
            ],
            &["x-envoy-internal", "x-envoy-original-path", "x-envoy-upstream-rq-timeout-ms", "x-envoy-retry-on", "x-envoy-foo"],
            "x-envoy-internal: -; x-envoy-original-path: -; x-envoy-upstream-rq-timeout-ms: -; x-envoy-retry-on: -; x-envoy-foo: -",
        ),
        case(
            "x-envoy-external-address",
            &[("x-envoy-external-address", "9.9.9.9")],
            &["x-envoy-external-address"],
            "x-envoy-external-address: 127.0.0.1",
        ),
        case("x-envoy-attempt-count", &[("x-envoy-attempt-count", "9")], &["x-envoy-attempt-count"], "x-envoy-attempt-count: 1"),
        case(
            "forwarded, x-real-ip, via",
            &[("forwarded", "for=1.1.1.1"), ("x-real-ip", "1.1.1.1"), ("via", "1.1 a")],
            &["forwarded", "x-real-ip", "via"],
            "forwarded: for=1.1.1.1; x-real-ip: 1.1.1.1; via: 1.1 a",
        )
        .map(|case| case.because("Istio's gateway knows nothing of these and passes them on; services must not believe them")),
        case(
            "x-forwarded-for of 10 kB that is no list of addresses",
            &[("x-forwarded-for", &garbage)],
            &["x-envoy-external-address"],
            "x-envoy-external-address: 127.0.0.1",
        ).map(|case| case.because("heads may have 60 KiB, as in Istio; what is no address is not believed")),
        case("referer with a password", &[("referer", "http://a:b@c.example/")], &["referer"], "referer: -"),
    ]
    .concat()
}

fn hop_by_hop() -> Vec<Case> {
    let case = |what: &str, lines: &str, shown: &'static [&'static str], value: &str| {
        Case::http1("D-5", what, format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{lines}\r\n"))
            .showing(shown)
            .reaches(&[&format!("GET / ({value})")])
            .because("RFC 9110 7.6.1: what is named is removed, but for what a client must not remove; that stays")
    };
    let mut opaque = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: a").into_bytes();
    opaque.extend(b"\xff\r\nx: y\r\n\r\n");
    vec![
        case("connection names a header", "connection: x-mine\r\nx-mine: 1\r\n", &["x-mine", "connection"], "x-mine: -; connection: -"),
        case(
            "connection twice",
            "connection: x-one\r\nconnection: x-two\r\nx-one: 1\r\nx-two: 2\r\n",
            &["x-one", "x-two"],
            "x-one: -; x-two: -",
        ),
        case("connection names host", "connection: Host\r\n", &["host"], "host: test.example.dev"),
        case(
            "connection names authorization",
            "connection: authorization\r\nauthorization: Basic eA==\r\n",
            &["authorization"],
            "authorization: Basic eA==",
        ),
        case(
            "connection names what the gateway sets",
            "connection: x-forwarded-for, x-request-id, x-forwarded-proto, x-envoy-external-address\r\n",
            &["x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address"],
            "x-forwarded-for: 127.0.0.1; x-forwarded-proto: http; x-envoy-external-address: 127.0.0.1",
        ),
        case("keep-alive and proxy-connection", "keep-alive: 300\r\nproxy-connection: close\r\n", &["keep-alive", "proxy-connection"], "keep-alive: -; proxy-connection: -"),
        case("te: trailers, gzip", "te: trailers, gzip\r\n", &["te"], "te: trailers"),
        Case::http1("D-5", "connection with a byte above 127 (hyper #4019)", opaque).showing(&["x"]).reaches(&["GET / (x: y)"]),
        Case::http1(
            "D-5",
            "connection names content-length",
            format!("POST /path HTTP/1.1\r\nhost: {HOST}\r\nconnection: content-length\r\ncontent-length: 5\r\n\r\nhello"),
        )
        .reaches(&["POST /path \"hello\""]),
        Case::http1(
            "D-5",
            "connection names transfer-encoding",
            format!("POST /path HTTP/1.1\r\nhost: {HOST}\r\nconnection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        )
        .reaches(&["POST /path \"hello\""]),
    ]
}

fn underscores() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, value) in [("content_length", "5"), ("transfer_encoding", "chunked"), ("host_", "a"), ("_te", "a")] {
        let [http1, http2] = both("D-6", &format!("a header named {name}"), "GET", "/", &[(name, value)]);
        cases.extend([http1.gets("400, closed"), http2.gets("400, open")]);
    }
    cases.extend(both("D-6", "a header named x_y", "GET", "/", &[("x_y", "z")]).map(|case| {
        case.showing(&["x_y"])
            .reaches(&["GET / (x_y: z)"])
            .because("Istio's gateway passes them, measured (istio.md 29); names like those of framing are refused")
    }));
    cases.push(
        Case::http1(
            "D-6",
            "a name in two cases",
            format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nX-A: 1\r\nx-a: 2\r\n\r\n"),
        )
        .showing(&["x-a"])
        .reaches(&["GET / (x-a: 1 | 2)"]),
    );
    cases
}

fn several_values() -> Vec<Case> {
    let cases = [
        both("D-7", "a role on two lines (CVE-2026-26308)", "GET", "/", &[("x-role", "user"), ("x-role", "admin")])
            .map(|case| case.reaches(&["GET / (x-role: user | admin)"])),
        both("D-7", "a role as a list", "GET", "/", &[("x-role", "user, admin")])
            .map(|case| case.reaches(&["GET / (x-role: user, admin)"])),
    ];
    cases.concat().into_iter().map(|case| case.showing(&["x-role"])).collect()
}

/// What they become in logs is in `access_log`.
fn odd_values() -> Vec<Case> {
    let agent = |what: &str, value: &str| {
        Case::http1("D-8", what, format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: {value}\r\n\r\n"))
    };
    let long = "a".repeat(50 * 1024);
    let raw = crate::http2_frames::get(HOST, [("user-agent", "a\x1b[1mb")]);
    let quoted = header_block([("user-agent", "\"}{\\\"")]);
    vec![
        agent("quotes and braces in user-agent", "\"}{\\\"").reaches(&["GET /"]),
        agent("ANSI in user-agent", "\x1b[1m").gets("400, closed"),
        agent("user-agent of 50 KiB", &long).reaches(&["GET /"]).because("heads may have 60 KiB, as in Istio"),
        Case::http2(
            "D-8",
            "quotes and braces in user-agent",
            super::http2::whole(1, &[crate::http2_frames::get(HOST, []), quoted].concat()),
        )
        .reaches(&["GET /"]),
        Case::http2("D-8", "ANSI in user-agent", super::http2::whole(1, &raw)).gets("GOAWAY PROTOCOL_ERROR, closed"),
    ]
}
