//! Group A: where a message of HTTP/1 ends. Whoever disagrees about it with the service behind lets requests be
//! smuggled. On 400 the connection closes, and the service sees no request that was not there.

use super::recorder::End;
use super::{Case, HOST, Step, both};
use crate::server::Protocol::{Http1, Http2};

/// A request that must never be one.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: test.example.dev\r\n\r\n";

pub(super) fn cases() -> Vec<Case> {
    [
        two_framings(),
        lengths(),
        codings(),
        http10(),
        chunks(),
        trailers(),
        fields(),
        request_lines(),
        bodies_like_requests(),
        expectations(),
        early_answers(),
        pipelines(),
        answers(),
    ]
    .concat()
}

/// A POST with these header lines, and what follows them.
fn post(rest: &str) -> String {
    format!("POST /path HTTP/1.1\r\nhost: {HOST}\r\n{rest}")
}

/// Escaped, so that control characters can be read.
fn shown(text: &str) -> String {
    text.escape_debug().to_string().replace("\\\"", "\"")
}

fn refused(row: &'static str, what: impl Into<String>, bytes: impl AsRef<[u8]>) -> Case {
    Case::http1(row, what, bytes).gets("400, closed")
}

fn two_framings() -> Vec<Case> {
    let end = "0\r\n\r\n";
    vec![
        refused(
            "A-1",
            "content-length: 6 and chunked, of which 6 bytes are one too many",
            post(&format!("content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n{end}{SMUGGLED}")),
        ),
        refused(
            "A-1",
            "content-length covers a request that stands behind the last chunk",
            post(&format!(
                "content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n{end}{SMUGGLED}",
                5 + SMUGGLED.len()
            )),
        ),
        refused(
            "A-2",
            "transfer-encoding, then content-length",
            post(&format!("transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n{end}")),
        ),
        refused(
            "A-2",
            "content-length, then transfer-encoding",
            post(&format!("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n{end}")),
        ),
        refused(
            "A-2",
            "content-length on both sides of transfer-encoding",
            post(&format!("content-length: 5\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n{end}")),
        ),
    ]
}

fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for lines in ["5\r\ncontent-length: 6", "6\r\ncontent-length: 5", "5\r\ncontent-length: 5", "5, 5", "5, 6", "5,"] {
        let request = post(&format!("content-length: {lines}\r\n\r\nhello"));
        cases.push(refused("A-3", format!("content-length: {}", shown(lines)), request));
    }
    for value in [
        "",
        "+5",
        "-5",
        "-0",
        "0x5",
        "05",
        "5_0",
        "5 0",
        "5;a",
        "5.0",
        "1Z",
        "five",
        "18446744073709551616",
        "18446744073709551621",
        "9223372036854775808",
        "\x0b5",
        "5\0",
        "\u{a0}5",
    ] {
        let request = post(&format!("content-length: {value}\r\n\r\nhello"));
        cases.push(refused("A-4", format!("content-length: {}", shown(value)), request));
    }
    cases.push(
        Case::http1(
            "A-4",
            "content-length: 5 with spaces and a tab around",
            post("content-length: \t5 \t\r\n\r\nhello"),
        )
        .reaches(&["POST /path \"hello\""])
        .because("RFC 9110 5.5: white space around a value is not part of it"),
    );
    cases
}

fn codings() -> Vec<Case> {
    let mut cases = Vec::new();
    for value in [
        "xchunked",
        "chunked, identity",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        " ,chunked",
        "chunked,",
        "chunked;a=b",
        "\"chunked\"",
        "",
        "\x0bchunked",
        "chunked\0",
        "\u{a0}chunked",
        "chunked\r\ntransfer-encoding: chunked",
        "chunked\r\ntransfer-encoding: identity",
        "identity\r\ntransfer-encoding: chunked",
    ] {
        let request = post(&format!("transfer-encoding: {value}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
        cases.push(refused("A-5", format!("transfer-encoding: {}", shown(value)), request));
    }
    let plain = post("Transfer-Encoding:\tChunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    cases.push(
        Case::http1("A-5", "transfer-encoding: Chunked", plain)
            .reaches(&["POST /path \"hello\""])
            .because("RFC 9112 7: names of codings have no case, and white space around is not part of them"),
    );
    for line in [
        "transfer-encoding : chunked",
        "transfer-encoding\t: chunked",
        "x: y\r\n transfer-encoding: chunked",
        "transfer-\r\nencoding: chunked",
        "transfer-encoding:\r\n chunked",
        "transfer-encoding: chunked\r\n , identity",
        "transfer_encoding: chunked",
        "content_length: 5",
        "content-length : 5",
    ] {
        cases.push(refused("A-6", shown(line), post(&format!("{line}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))));
    }
    let first = format!("POST /path HTTP/1.1\r\n transfer-encoding: chunked\r\nhost: {HOST}\r\n\r\n0\r\n\r\n");
    cases.push(refused("A-6", "a space before the first header", first));
    cases
}

fn http10() -> Vec<Case> {
    let old = |rest: &str| format!("POST /path HTTP/1.0\r\nhost: {HOST}\r\n{rest}");
    let why = "Istio's gateway answers every HTTP/1.0 with 426; with --http10 it is served, with a body of no bytes";
    vec![
        refused(
            "A-7",
            "HTTP/1.0 with transfer-encoding (CVE-2026-2835)",
            old(&format!("transfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}")),
        ),
        Case::http1("A-7", "HTTP/1.0 POST without a length", old(&format!("\r\n{SMUGGLED}")))
            .gets("426, closed")
            .because(why),
        Case::http1("A-7", "HTTP/1.0 GET", format!("GET / HTTP/1.0\r\nhost: {HOST}\r\n\r\n"))
            .gets("426, closed")
            .because(why),
    ]
}

fn chunks() -> Vec<Case> {
    let after_a_good_one = |rest: &str| post(&format!("transfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n{rest}"));
    let mut cases = Vec::new();
    for size in [
        "",
        "0x1",
        "+1",
        "-1",
        "1_0",
        " 1",
        "1 ",
        "1\t",
        "g",
        "00000000000000001",
        "8000000000000000",
        "10000000000000000",
        "fffffffffffffffff",
    ] {
        let request = after_a_good_one(&format!("{size}\r\na\r\n0\r\n\r\n"));
        cases.push(refused("A-8", format!("a chunk size `{}`", shown(size)), request));
    }
    cases.push(refused("A-8", "a chunk size `1;` and a bare LF", after_a_good_one("1;\na\r\n0\r\n\r\n")));
    for (what, rest) in [
        ("LF after a chunk size", "5\nhello\r\n0\r\n\r\n"),
        ("CR after a chunk size", "5\rhello\r\n0\r\n\r\n"),
        ("CR and another byte after a chunk size", "5\rXhello\r\n0\r\n\r\n"),
        ("LF after chunk data", "5\r\nhello\n0\r\n\r\n"),
        ("CR and another byte after chunk data", "5\r\nhello\rX0\r\n\r\n"),
        ("LF in an extension (CVE-2025-22871)", "5;a\nhello\r\n0\r\n\r\n"),
        ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("NUL in an extension", "5;a\0\r\nhello\r\n0\r\n\r\n"),
        ("data longer than its size", "4\r\nhello\r\n0\r\n\r\n"),
        ("data shorter than its size", "6\r\nhello\r\n0\r\n\r\n"),
        ("LF after the last chunk", "0\n\r\n"),
        ("LF instead of the last line", "0\r\n\n"),
        ("CR and another byte instead of the last line", "0\r\n\rX\r\n\r\n"),
    ] {
        cases.push(refused("A-9", what, after_a_good_one(rest)));
    }
    let extended = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(64 * 1024));
    cases.push(refused("A-10", "a chunk extension of 64 KiB", after_a_good_one(&extended)));
    // At full size: 100,000 chunks. It is refused long before.
    let many = format!("1;{}\r\na\r\n", "b".repeat(100)).repeat(1_000);
    cases.push(refused("A-10", "1,000 chunks of a byte with 100 bytes of extension each", after_a_good_one(&many)));
    let short = post(&format!("transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", "1\r\na\r\n".repeat(1_000)));
    cases.push(Case::http1("A-10", "1,000 chunks of a byte", short).reaches(&["POST /path 1000 bytes"]));
    let one = post("transfer-encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\n\r\n");
    cases.push(
        Case::http1("A-10", "a chunk extension", one)
            .reaches(&["POST /path \"hello\""])
            .because("RFC 9112 7.1.1 wants extensions that are not understood to be ignored; they end here"),
    );
    cases
}

fn trailers() -> Vec<Case> {
    let with = |trailer: &str| post(&format!("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"));
    let mut cases: Vec<_> = [
        "content-length: 5",
        "transfer-encoding: chunked",
        "host: other.example",
        "content_length: 5",
        "x : y",
        ": y",
        "x: y\n",
        "x: a\0b",
    ]
    .into_iter()
    .map(|trailer| refused("A-11", format!("a trailer `{}`", shown(trailer)), with(trailer)))
    .collect();
    cases.push(refused("A-11", "trailers of 9 KiB", with(&format!("x: {}", "y".repeat(9 * 1024)))));
    let many: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    cases.push(refused("A-11", "101 trailers", with(many.trim_end())));
    for trailer in ["authorization: Basic eA==", "x-forwarded-for: 1.2.3.4", "content-type: text/html", "cookie: a=b"] {
        cases.push(
            Case::http1("A-11", format!("a trailer `{trailer}`"), with(trailer))
                .showing(&["authorization", "content-type", "cookie"])
                .reaches(&["POST /path \"hello\" (authorization: -; content-type: -; cookie: -)"])
                .because("a trailer that could be taken for a header is dropped, as RFC 9110 6.5.1 has it"),
        );
    }
    cases
}

fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    for line in [
        ": x",
        " : x",
        "no colon",
        "x y: z",
        "x\0: y",
        "x: a\0b",
        "x\x01: y",
        "x: a\x01b",
        "x: a\x7fb",
        "x: a\rb",
        "x\r: y",
        "x: y\n",
        "x: y\nsmuggled: z",
        "x: y\r\n z",
        "x: y\r\n\tz",
        "(x): y",
        "x[: y",
        "\u{85}x: y",
        "x\u{a0}: y",
        "host : other.example",
    ] {
        cases.push(refused("A-12", format!("a header line `{}`", shown(line)), post(&format!("{line}\r\n\r\n"))));
    }
    cases.push(refused("A-12", "LF instead of the empty line", post("x: y\r\n\n")));
    // Bytes above 127 have no meaning, but are allowed in values (RFC 9110 5.5).
    let mut opaque = post("x: ").into_bytes();
    opaque.extend(b"\x85\xa0a\xff\r\n\r\n");
    cases.push(
        Case::http1("A-12", "a header value of bytes above 127", opaque)
            .showing(&["x"])
            .reaches(&["POST /path (x: \\x85\\xa0a\\xff)"]),
    );
    cases
}

fn request_lines() -> Vec<Case> {
    let host = format!("\r\nhost: {HOST}\r\n\r\n");
    let mut cases = Vec::new();
    for line in [
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/3",
        "GET / HTTP/1.1x",
        "GET / HTTP/1.1 ",
        "GET / http/1.1",
        "GET / HTTP/01.1",
        "GET / HTTP/11",
        "GET /",
        "GET",
        "G@T / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /\x01 HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /caf\u{e9} HTTP/1.1",
        "GET path HTTP/1.1",
        "GET ?query HTTP/1.1",
        "GET http:// HTTP/1.1",
    ] {
        cases.push(refused("A-13", format!("`{}`", shown(line)), format!("{line}{host}")));
    }
    let mut bytes = b"GET /\xff HTTP/1.1".to_vec();
    bytes.extend(host.as_bytes());
    cases.push(refused("A-13", "a target with the byte 0xff", bytes));
    cases.push(refused("A-13", "a request line that ends with LF", format!("GET / HTTP/1.1\nhost: {HOST}\r\n\r\n")));
    cases.push(refused("A-13", "a request of HTTP/0.9", "GET /\r\n"));
    cases.push(refused("A-13", "no HTTP at all", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n"));
    cases.push(
        Case::http1("A-13", "an empty line before the request", format!("\r\nGET / HTTP/1.1{host}"))
            .reaches(&["GET /"]),
    );
    cases.push(
        Case::http1("A-13", "`GET /a\\b HTTP/1.1`", format!("GET /a\\b HTTP/1.1{host}"))
            .reaches(&["GET /a/b"])
            .because("Istio's BASE normalisation, measured (istio.md 32): a backslash becomes a slash, for everybody"),
    );
    cases
}

fn bodies_like_requests() -> Vec<Case> {
    let body = "GET /smuggled HTTP/1.1\r\n\r\n";
    ["GET", "HEAD", "OPTIONS", "DELETE"]
        .into_iter()
        .flat_map(|method| {
            let quoted = format!("{method} /path \"GET /smuggled HTTP/1.1\\r\\n\\r\\n\"");
            let length = body.len();
            let plain = format!("{method} /path HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\n\r\n{body}");
            let chunked = format!(
                "{method} /path HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            );
            [
                Case::http1("A-14", format!("{method} with a body like a request"), plain).reaches(&[&quoted]),
                Case::http1("A-14", format!("{method} with a chunked body like a request"), chunked).reaches(&[&quoted]),
            ]
        })
        .collect()
}

fn expectations() -> Vec<Case> {
    let head = |value: &str| post(&format!("expect: {value}\r\ncontent-length: 5\r\n\r\n"));
    vec![
        Case::http1("A-15", "expect: 100-continue, the body when it is asked for", head("100-continue"))
            .after_answer("hello")
            .gets("100, 200, open")
            .reaches(&["POST /path \"hello\""]),
        Case::http1("A-15", "expect: 100-Continue, the body at once", head("100-Continue") + "hello")
            .gets("100, 200, open")
            .reaches(&["POST /path \"hello\""]),
        refused("A-15", "expect: 100-continue\\x0b", head("100-continue\x0b") + "hello"),
        Case::http1("A-15", "expect: something else", head("y") + "hello").gets("417, closed"),
        Case::http1("A-15", "expect: 100-continue, something else", head("100-continue, y") + "hello")
            .gets("417, closed"),
    ]
}

fn early_answers() -> Vec<Case> {
    let mut cases = Vec::new();
    for (status, line) in [("200", "200 OK"), ("401", "401 Unauthorized"), ("413", "413 Content Too Large")] {
        let head = post(&format!("content-length: {}\r\n\r\nbegin", 5 + 2 * SMUGGLED.len()));
        let answer = format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n");
        let said = answer.clone().into_bytes();
        let service = super::Service::Says(std::sync::Arc::new(move |_| said.clone()), End::Open);
        // The rest of the body looks like a request, and half of it never comes.
        cases.push(
            Case::http1("A-16", format!("{status} before the body is there, of which a request is the rest"), head)
                .after_answer(SMUGGLED)
                .service(service)
                .only(&[Http1])
                .gets(&format!("{status}, closed")),
        );
    }
    cases
}

fn pipelines() -> Vec<Case> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\n\r\nhello");
    let chunked = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    };
    let bad = format!("GET /bad HTTP/1.1\r\nhost: {HOST}\r\nx : y\r\n\r\n");
    vec![
        Case::http1("A-17", "100 requests in one write", get("/").repeat(100))
            .gets("200 ×100, open")
            .reaches(&["GET /"; 100]),
        Case::http1(
            "A-17",
            "bodies of all kinds between requests",
            get("/1") + &post("/2") + &chunked("/3") + &get("/4"),
        )
        .gets("200 ×4, open")
        .reaches(&["GET /1", "POST /2 \"hello\"", "POST /3 \"hello\"", "GET /4"]),
        Case::http1("A-17", "a bad one in the middle", get("/1") + &post("/2") + &bad + &get("/3"))
            .gets("200 ×2, 400, closed")
            .reaches(&["GET /1", "POST /2 \"hello\""]),
    ]
}

/// Answers of a service that break the rules: the client gets an error or nothing, and never what belongs to another.
fn answers() -> Vec<Case> {
    let row = "A-19";
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let refused = |what: &str, bytes: &str| Case::answered(row, what, bytes, End::Open).gets("502, open");
    let mut cases = vec![
        refused(
            "an answer with content-length and chunked",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        refused(
            "an answer with chunked and content-length",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        refused(
            "an answer with two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        ),
        refused(
            "an answer with two equal lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        ),
        refused("an answer with content-length: 5, 5", "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello"),
        refused("an answer with content-length: +5", "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello"),
        refused("an answer with content-length: five", "HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello"),
        refused(
            "an answer with transfer-encoding: xchunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        refused(
            "an answer with transfer-encoding: gzip, chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        refused(
            "an answer of HTTP/1.0 with transfer-encoding",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        refused("an answer with a space before a colon", "HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 0\r\n\r\n"),
        refused(
            "an answer with a line that is continued",
            "HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 0\r\n\r\n",
        ),
        refused("an answer with NUL in a header", "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n"),
        Case::answered(row, "an answer whose lines end with LF", "HTTP/1.1 200 OK\ncontent-length: 0\n\n", End::Open)
            .because("such answers of a service are read (as nginx and HAProxy do); what leaves for the client is well-formed"),
        refused(
            "101 that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        ),
        refused("a status that is none", "HTTP/1.1 99 What\r\n\r\n"),
        Case::answered(
            row,
            "a chunk size that is none",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            End::Open,
        )
        .gets("200 cut, closed")
        .or("closed"),
        Case::answered(
            row,
            "a second answer right behind the first",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{evil}"),
            End::Open,
        )
        .because("the answer itself is in order; what follows is dropped with the connection and reaches nobody"),
        Case::answered(row, "a body with 204", "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nevil", End::Open)
            .gets("204, open")
            .because("the answer itself is in order; what follows is dropped with the connection and reaches nobody"),
        Case::answered(row, "a body with 304", format!("HTTP/1.1 304 Not Modified\r\n\r\n{evil}"), End::Open)
            .gets("304, open")
            .because("the answer itself is in order; what follows is dropped with the connection and reaches nobody"),
        Case::answered(
            row,
            "10,000 interim answers before the answer",
            "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n".repeat(10_000)
                + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            End::Open,
        )
        .gets("502, open"),
    ];
    let heading = both(row, "a body with the answer to HEAD", "HEAD", "/", &[]).map(|case| {
        let said = evil.as_bytes().to_vec();
        let service = super::Service::Says(std::sync::Arc::new(move |_| said.clone()), End::Open);
        case.service(service)
            .only(&[Http1])
            .reaches(&["HEAD /"])
            .because("the answer itself is in order; what follows is dropped with the connection and reaches nobody")
    });
    cases.extend(heading);
    // The same towards clients of HTTP/2.
    let get = crate::http2_frames::get(HOST, []);
    let twins: Vec<_> = cases
        .iter()
        .filter(|case| case.client == Http1 && case.what.starts_with("a"))
        .map(|case| {
            let mut twin = Case { client: Http2, ..case.clone() };
            twin.steps = vec![Step::Send(super::http2::whole(1, &get))];
            if twin.or.is_empty() { twin } else { twin.gets("200 cut, open").or("RST INTERNAL_ERROR, open") }
        })
        .filter(|twin| !twin.what.contains("HEAD"))
        .collect();
    cases.extend(twins);
    cases
}
