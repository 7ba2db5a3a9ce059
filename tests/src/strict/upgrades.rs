//! Group E: requests for another protocol. Nothing that follows them passes before the service has agreed, and what
//! nobody agreed to is the next request.

use super::recorder::End;
use super::{Case, HOST, Service, both};
use crate::server::Protocol::Http1;
use std::sync::Arc;

pub(super) fn cases() -> Vec<Case> {
    [declined(), no_upgrades(), methods()].concat()
}

fn websocket(fields: &str) -> String {
    format!(
        "GET /socket HTTP/1.1\r\nhost: {HOST}\r\n{fields}sec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

const ASKED: &str = "connection: upgrade\r\nupgrade: websocket\r\n";

fn declined() -> Vec<Case> {
    let admin = format!("GET /admin HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let other = format!("GET /other HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let bad = format!("GET /other HTTP/1.1\nhost: {HOST}\r\n\r\n");
    let mut cases = Vec::new();
    for (status, line) in [(200, "200 OK"), (403, "403 Forbidden")] {
        let said = format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n").into_bytes();
        let service = Service::Says(Arc::new(move |_| said.clone()), End::Open);
        for (what, next, second, arrives) in [
            (
                "a request behind it",
                &other,
                "200".replace("200", &status.to_string()),
                &["GET /socket", "GET /other"][..],
            ),
            ("a forbidden request behind it", &admin, "403".to_owned(), &["GET /socket"][..]),
        ] {
            let answer =
                format!("{status}, {second}, open").replace(&format!("{second}, {second},"), &format!("{second} ×2,"));
            cases.push(
                Case::http1(
                    "E-1",
                    format!("a WebSocket that the service answers {status}, {what}"),
                    websocket(ASKED) + next,
                )
                .service(service.clone())
                .only(&[Http1])
                .gets(&answer)
                .reaches(arrives)
                .because("RFC 9110 7.8: a service may decline and answer as ever; what follows is the next request"),
            );
        }
        cases.push(
            Case::http1(
                "E-1",
                format!("a WebSocket that the service answers {status}, a bad request behind it"),
                websocket(ASKED) + &bad,
            )
            .service(service)
            .only(&[Http1])
            .gets(&format!("{status}, 400, closed"))
            .reaches(&["GET /socket"]),
        );
    }
    cases
}

fn no_upgrades() -> Vec<Case> {
    let shown: &[&str] = &["upgrade", "connection"];
    let plain = |what: &str, bytes: String| {
        Case::http1("E-2", what, bytes)
            .showing(shown)
            .reaches(&["GET /socket (upgrade: -; connection: -)"])
            .because("RFC 9110 7.8: who does not say both asks for nothing")
    };
    let istio = "403, as Istio's gateway answers what it does not do, measured (istio.md 30)";
    vec![
        plain("upgrade without connection", websocket("upgrade: websocket\r\n")),
        plain("connection: upgrade without upgrade", websocket("connection: upgrade\r\n")),
        Case::http1("E-2", "upgrade: foo", websocket("connection: upgrade\r\nupgrade: foo\r\n"))
            .gets("403, closed")
            .because(istio),
        Case::http1("E-2", "upgrade: tls/1.3", websocket("connection: upgrade\r\nupgrade: tls/1.3\r\n"))
            .gets("403, closed")
            .because(istio),
        Case::http1("E-2", "an upgrade of HTTP/1.0", websocket(ASKED).replace("HTTP/1.1", "HTTP/1.0"))
            .gets("426, closed"),
    ]
}

fn methods() -> Vec<Case> {
    let line = |what: &str, line: &str, answer: &str| {
        Case::http1("E-3", what, format!("{line} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).gets(answer)
    };
    let mut cases = vec![
        line("CONNECT", "CONNECT a.example:443", "404, open"),
        line("CONNECT to this host", "CONNECT 127.0.0.1:22", "404, open"),
        line("CONNECT to where clouds keep secrets", "CONNECT 169.254.169.254:80", "404, open"),
        line("CONNECT with a path", "CONNECT /", "404, open"),
        Case::http1(
            "E-3",
            "CONNECT and bytes behind it (CVE-2025-64763)",
            "CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n\x16\x03\x01",
        )
        .gets("404, 400, closed"),
        line("OPTIONS *", "OPTIONS *", "404, open"),
        line("GET *", "GET *", "400, closed"),
    ];
    for (method, http1, http2) in
        [("TRACE", "405, open", "405, open"), ("FOO", "400, closed", "400, open"), ("get", "400, closed", "400, open")]
    {
        let [first, second] = both("E-3", method, method, "/", &[]);
        cases.extend([first.gets(http1), second.gets(http2)]);
    }
    cases
}
