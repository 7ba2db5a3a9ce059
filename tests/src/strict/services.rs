//! Group G: services that are not there, leave, or never end. What is broken off looks broken off to the client.

use super::recorder::End;
use super::{Case, HOST, Step};
use crate::server::Protocol::Http2;

pub(super) fn cases() -> Vec<Case> {
    [phases(), halves(), large_heads()].concat()
}

/// The same answer to clients of both versions.
fn answered(row: &'static str, what: &str, bytes: &str, end: End, http1: &str, http2: &str) -> [Case; 2] {
    let mut case = Case::answered(row, what, bytes, end).gets(http1);
    let mut twin = Case { client: Http2, ..case.clone() }.gets(http2);
    twin.steps = vec![Step::Send(super::http2::whole(1, &crate::http2_frames::get(HOST, [])))];
    if http1.contains("cut") {
        // The head may still wait to be sent when its body breaks off.
        case.or = "closed";
        twin.or = "RST INTERNAL_ERROR, open";
    }
    [case, twin]
}

fn phases() -> Vec<Case> {
    let row = "G-1";
    [
        answered(row, "a reset instead of an answer", "", End::Reset, "503, open", "503, open"),
        answered(row, "the end instead of an answer", "", End::Close, "503, open", "503, open"),
        answered(row, "the end within a head", "HTTP/1.1 200 OK\r\nx: ", End::Close, "503, open", "503, open"),
        answered(row, "a reset within a head", "HTTP/1.1 200 OK\r\nx: ", End::Reset, "503, open", "503, open"),
        answered(
            row,
            "the end within a body with a length",
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart",
            End::Close,
            "200 cut, closed",
            "200 cut, open",
        ),
        answered(
            row,
            "the end within a chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\npart",
            End::Close,
            "200 cut, closed",
            "200 cut, open",
        ),
        answered(
            row,
            "the end between chunks",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
            End::Close,
            "200 cut, closed",
            "200 cut, open",
        ),
        answered(
            row,
            "the end before the last line of a chunked body",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n",
            End::Close,
            "200 cut, closed",
            "200 cut, open",
        ),
        answered(
            row,
            "a reset within a body",
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart",
            End::Reset,
            "200 cut, closed",
            "200 cut, open",
        ),
        answered(row, "another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n", End::Open, "502, open", "502, open"),
        answered(
            row,
            "bytes of no protocol",
            "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n",
            End::Open,
            "502, open",
            "502, open",
        ),
    ]
    .concat()
}

const LEAVES: &str = "a client that sends nothing more has left, as for Envoy's HTTP listeners: its request is given up unless it is answered already";

fn halves() -> Vec<Case> {
    let get = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    vec![
        Case::http1("G-5", "a client that closes its side behind the request", get)
            .then(Step::Finish)
            .gets("closed")
            .or("200, closed")
            .may_arrive()
            .because(LEAVES),
        Case::http1(
            "G-5",
            "a client that closes its side in the middle of a body",
            format!("POST /path HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\n\r\nhe"),
        )
        .then(Step::Finish)
        .gets("closed")
        .because(LEAVES),
    ]
}

fn large_heads() -> Vec<Case> {
    let row = "G-9";
    let many: String = (0..10_000).map(|number| format!("x-{number}: y\r\n")).collect();
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(500_000));
    [
        answered(
            row,
            "a header of 1 MiB",
            &format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(1 << 20)),
            End::Open,
            "502, open",
            "502, open",
        ),
        answered(row, "10,000 headers", &format!("HTTP/1.1 200 OK\r\n{many}\r\n"), End::Open, "502, open", "502, open"),
        answered(row, "a head without an end", &endless, End::Open, "502, open", "502, open"),
    ]
    .concat()
}
