//! Group B: sizes. Slow peers are tests of their own (`rows`), because they are about time.

use super::{Case, HOST, Size, Step, both};
use crate::server::Protocol::Http1;

/// The limit of a head, and of its fields, are the README's.
const HEAD: usize = 60 * 1024;

pub(super) fn cases(size: Size) -> Vec<Case> {
    [heads(), bodies(size)].concat()
}

fn heads() -> Vec<Case> {
    let row = "B-5";
    let why = "60 KiB and 100 headers are Istio's limits, measured (istio.md 29)";
    let mut cases = Vec::new();
    for (what, target, fields) in [
        ("a value of 50 KiB", "/".to_owned(), vec![("x".to_owned(), "y".repeat(50 * 1024))]),
        ("a name of 50 KiB", "/".to_owned(), vec![("x".repeat(50 * 1024), "y".to_owned())]),
        (
            "99 headers and the host",
            "/".to_owned(),
            (0..99).map(|number| (format!("x-{number}"), "y".to_owned())).collect(),
        ),
        ("a target of 50 KiB", format!("/{}", "a".repeat(50 * 1024)), vec![]),
    ] {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        cases.extend(both(row, what, "GET", &target, &fields).map(|case| {
            let target = target.clone();
            case.reaches(&[&format!("GET {target}")]).because(why)
        }));
    }
    for (what, fields) in [
        ("a value of 61 KiB", vec![("x".to_owned(), "y".repeat(61 * 1024))]),
        ("a name of 61 KiB", vec![("x".repeat(61 * 1024), "y".to_owned())]),
        ("a value of 1 MiB", vec![("x".to_owned(), "y".repeat(1 << 20))]),
        ("100 headers and the host", (0..100).map(|number| (format!("x-{number}"), "y".to_owned())).collect()),
        ("1,000 headers", (0..1_000).map(|number| (format!("x-{number}"), "y".to_owned())).collect()),
        ("100,000 headers", (0..100_000).map(|number| (format!("x-{number}"), "y".to_owned())).collect()),
    ] {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let [http1, http2] = both(row, what, "GET", "/", &fields);
        // What is far too large ends the connection before all of it is unpacked.
        let far = fields.len() > 10_000 || fields.iter().any(|(_, value)| value.len() > 128 * 1024);
        let end = if far { "GOAWAY ENHANCE_YOUR_CALM, closed" } else { "431, open" };
        cases.extend([http1.gets("431, closed"), http2.gets(end)]);
    }
    let [http1, http2] = both(row, "a target of 61 KiB", "GET", &format!("/{}", "a".repeat(61 * 1024)), &[]);
    cases.extend([http1.gets("431, closed"), http2.gets("431, open")]);
    // To the byte: request line, host and the empty line are 22 + 24 + 2 bytes.
    for (what, length, fits) in [("as large as it may be", HEAD, true), ("a byte larger", HEAD + 1, false)] {
        let head = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx: ");
        let request = format!("{head}{}\r\n\r\n", "y".repeat(length - head.len() - 4));
        let case = Case::http1(row, format!("a head {what}"), request);
        cases.push(if fits { case.reaches(&["GET /"]).because(why) } else { case.gets("431, closed") });
    }
    cases
}

fn bodies(size: Size) -> Vec<Case> {
    let megabytes = size.of(16, 256);
    let requests = size.of(2_000, 20_000);
    let head = format!("POST /path HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", megabytes << 20);
    let get = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let mut many = Case::http1("B-8", format!("{requests} requests on one connection"), "");
    many.steps = std::iter::repeat_n([Step::Send(get.into_bytes()), Step::Wait], requests).flatten().collect();
    vec![
        Case::http1("B-6", format!("a body of {megabytes} MiB"), head)
            .then(Step::Flood(vec![b'a'; 1 << 20], megabytes))
            .only(&[Http1])
            .reaches(&[&format!("POST /path {} bytes", megabytes << 20)]),
        many.only(&[Http1]).gets(&format!("200 ×{requests}, open")).reaches(&vec!["GET /"; requests]),
    ]
}
