//! Every row of what is refused, in every split of its bytes; and that hyper agrees about what is not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use bytes::BytesMut;
use heads::HeaderList;
use proptest::prelude::*;

use super::{
    agreement::{self, judge},
    body::Framing,
    limits,
    request::{Reader, Refusal, is_disguised},
};

/// Judges bytes in every way to cut them once, and byte by byte; what passes must not depend on it.
fn judged(bytes: &[u8]) -> agreement::Judged {
    let whole = judge(bytes, bytes.len(), |_, _| {});
    for piece in 1..bytes.len().min(300) {
        assert_eq!(judge(bytes, piece, |_, _| {}), whole, "in pieces of {piece}: {}", bytes.escape_ascii());
    }
    whole
}

fn refused(bytes: impl AsRef<[u8]>) -> Refusal {
    let bytes = bytes.as_ref();
    judged(bytes).refusal.unwrap_or_else(|| panic!("passes: {}", bytes.escape_ascii()))
}

fn passes(bytes: impl AsRef<[u8]>, messages: u64) {
    let bytes = bytes.as_ref();
    let judged = judged(bytes);
    assert_eq!(
        (judged.refusal, judged.messages, judged.passed),
        (None, messages, bytes.len()),
        "{}",
        bytes.escape_ascii()
    );
    agreement::check(bytes);
}

/// A head with these lines after its request line.
fn head(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n")
}

fn is_malformed(bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    assert!(matches!(refused(bytes), Refusal::Malformed(_)), "{}", bytes.escape_ascii());
}

#[test]
fn plain_requests_pass() {
    passes("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 1);
    passes("GET /a?b=%20c&d={\"e\":1} HTTP/1.1\r\nhost: a\r\n\r\n".replace('"', ""), 1);
    passes("GET /{\"json\"} HTTP/1.1\r\nhost: a\r\n\r\n", 1);
    passes("GET http://a.example.com/x HTTP/1.1\r\nhost: a.example.com\r\n\r\n", 1);
    passes("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 1);
    passes("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", 1);
    passes("GET / HTTP/1.0\r\n\r\n", 1);
    passes("FOO / HTTP/1.1\r\nhost: a\r\nx_y: z\r\nx-empty:\r\nx-bytes: \u{e9}\r\nx-tab:\ta\tb \r\n\r\n", 1);
    passes(head("content-length: 0\r\n") + &head("content-length: 5\r\n") + "hello" + &head(""), 3);
    passes(
        head("Transfer-Encoding: Chunked\r\n") + "5\r\nhello\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\n\r\n" + &head(""),
        2,
    );
    passes(head("transfer-encoding: chunked\r\n") + "0\r\nx-trailer: y\r\n\r\n" + &head(""), 2);
    passes(head("") + "\r\n" + &head("content-length: 1\r\n") + "x\r\n" + &head(""), 3);
    passes(head("upgrade: websocket\r\nconnection: upgrade\r\n") + &head(""), 2);
    passes(head("expect: 100-continue\r\ncontent-length: 2\r\n") + "ok" + &head(""), 2);
}

#[test]
fn a_message_has_one_length() {
    for both in
        ["content-length: 6\r\ntransfer-encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"]
    {
        assert_eq!(refused(head(both) + "0\r\n\r\nG"), Refusal::LengthAndChunked);
    }
    for length in [
        "",
        "+5",
        "-5",
        "-0",
        "0x5",
        "05",
        "00",
        "5_0",
        "1Z",
        "5,5",
        "5, 5",
        "5 5",
        "18446744073709551616",
        "9999999999999999999",
        "1000000000000000000",
        "5;",
        "\u{a0}5",
        "five",
    ] {
        is_malformed(head(&format!("content-length: {length}\r\n")) + "hello");
    }
    is_malformed(head("content-length: 5\r\ncontent-length: 5\r\n") + "hello");
    is_malformed(head("content-length: 5\r\ncontent-length: 6\r\n") + "hello");
    for coding in [
        "",
        "xchunked",
        "chunked, identity",
        "identity",
        "gzip, chunked",
        ",chunked",
        "chunked,",
        "chunked;a=b",
        "\"chunked\"",
        "chunked chunked",
        "\u{a0}chunked",
        "chunked, chunked",
    ] {
        is_malformed(head(&format!("transfer-encoding: {coding}\r\n")) + "0\r\n\r\n");
    }
    is_malformed(head("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n") + "0\r\n\r\n");
    is_malformed("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
}

#[test]
fn lines_are_what_they_should_be() {
    for lines in [
        "x: y\n",
        "x: y\r\r\n",
        "x: \ry\r\n",
        " x: y\r\n",
        "x: y\r\n z\r\n",
        "x: y\r\n\tz\r\n",
        "x : y\r\n",
        "x\t: y\r\n",
        ": y\r\n",
        "x\r\n",
        "x(y: z\r\n",
        "\u{e9}: y\r\n",
        "x\0: y\r\n",
        "x: y\0\r\n",
        "x: \x01\r\n",
        "x: \x7f\r\n",
        "x: \x0by\r\n",
        "x: y\x1b[1m\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-\r\nencoding: chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "content_length: 5\r\n",
        "Transfer_Encoding: chunked\r\n",
        "host_: b\r\n",
        "_host: b\r\n",
        "te_: x\r\n",
    ] {
        is_malformed(head(lines));
    }
    is_malformed("GET / HTTP/1.1\nhost: a\n\n");
    is_malformed("GET / HTTP/1.1\r\nhost: a\r\n\n");
}

#[test]
fn request_lines_are_what_they_should_be() {
    for line in [
        "",
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/\tHTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/1.1x",
        "GET / http/1.1",
        "GET / HTTP/01.1",
        "GET / HTTP/0.9",
        "PRI * HTTP/2.0",
        "G(T / HTTP/1.1",
        "G\u{c9}T / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /?a#b HTTP/1.1",
        "GET /\x01 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /caf\u{e9} HTTP/1.1",
        "GET /a\0b HTTP/1.1",
        "GET /a\rb HTTP/1.1",
        "GET x HTTP/1.1 HTTP/1.1",
        "GET /<x> HTTP/1.1",
        "GET a/b HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET ?x HTTP/1.1",
        " / HTTP/1.1",
    ] {
        is_malformed(format!("{line}\r\nhost: a\r\n\r\n"));
    }
    // Only one empty line may come before a request; and a beginning that cannot become one is not waited for.
    is_malformed("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
    is_malformed("\n");
    is_malformed("\x16\x03\x01");
}

#[test]
fn chunks_are_what_they_should_be() {
    let chunked = head("transfer-encoding: chunked\r\n");
    for body in [
        "\r\n",
        "0x1\r\na\r\n",
        "+1\r\na\r\n",
        "-1\r\na\r\n",
        "1_0\r\n",
        " 1\r\na\r\n",
        "1 \r\na\r\n",
        "1\na\r\n",
        "1\r\r\na",
        "1;\n",
        "1;a\nb\r\n",
        "1;a\0\r\n",
        "1;a\rb\r\n",
        "g\r\n",
        "10000000000000000\r\n",
        "8000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "0000000000000001\r\na\r\n",
        "1\r\nab\r\n",
        "1\r\na\n",
        "1\r\na\rX",
        "1\r\na0\r\n",
        "2\r\na\r\n0\r\n\r\n;",
    ] {
        let judged = judged((chunked.clone() + body).as_bytes());
        assert!(matches!(judged.refusal, Some(Refusal::Malformed(_))), "{body:?}");
        assert_eq!(judged.messages, 0, "{body:?}");
    }
    for trailers in [
        "content-length: 5\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
        "host: b\r\n\r\n",
        "x : y\r\n\r\n",
        "x: y\n\r\n",
        " x: y\r\n\r\n",
        ": y\r\n\r\n",
        "x: \0\r\n\r\n",
        "content_length: 5\r\n\r\n",
        "\n",
    ] {
        assert!(matches!(refused(chunked.clone() + "0\r\n" + trailers), Refusal::Malformed(_)), "{trailers:?}");
    }
    let many = |count: usize, extension: usize| {
        let chunk = format!("1;{}\r\na\r\n", "x".repeat(extension));
        chunked.clone() + &chunk.repeat(count) + "0\r\n\r\n"
    };
    passes(many(8, 100), 1);
    is_malformed(many(1, limits::MAX_CHUNK_EXTENSION_BYTES));
    is_malformed(many(200, 50));
    let trailers = |count: usize, size: usize| {
        let lines: String = (0..count).map(|at| format!("x-{at}: {}\r\n", "y".repeat(size))).collect();
        chunked.clone() + "0\r\n" + &lines + "\r\n"
    };
    passes(trailers(limits::MAX_TRAILERS, 1), 1);
    is_malformed(trailers(limits::MAX_TRAILERS + 1, 1));
    is_malformed(trailers(2, limits::MAX_TRAILER_BYTES / 2));
}

#[test]
fn limits_of_heads_are_exact() {
    let fill = |size: usize| {
        let empty = head("x: \r\n").len();
        head(&format!("x: {}\r\n", "y".repeat(size - empty)))
    };
    passes_quickly(&fill(limits::MAX_HEAD_BYTES));
    assert_eq!(refused_quickly(&fill(limits::MAX_HEAD_BYTES + 1)), Refusal::HeadTooLarge);
    // It does not take a complete line to notice.
    assert_eq!(refused_quickly(&"G".repeat(limits::MAX_HEAD_BYTES)), Refusal::HeadTooLarge);
    let count = |headers: usize| head(&"x: y\r\n".repeat(headers - 1));
    passes(count(limits::MAX_HEADERS), 1);
    assert_eq!(refused(count(limits::MAX_HEADERS + 1)), Refusal::TooManyHeaders);
}

fn passes_quickly(text: &str) {
    assert_eq!(judge(text.as_bytes(), 4096, |_, _| {}).messages, 1);
    agreement::check(text.as_bytes());
}

fn refused_quickly(text: &str) -> Refusal {
    judge(text.as_bytes(), 4096, |_, _| {}).refusal.unwrap()
}

#[test]
fn what_stands_in_for_a_head_is_harmless() {
    let stand_in = |bytes: &str| {
        let (mut reader, mut buffer) = (Reader::default(), BytesMut::from(bytes));
        while reader.take(&mut buffer, &mut HeaderList::new()).unwrap_or_else(|_| None).is_some() {}
        let (head, is_known) = reader.stand_in(&buffer);
        assert_eq!(head.framing, Framing::Length(0));
        let fields = head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        (format!("{} {}", head.method, head.uri), fields.collect::<Vec<_>>(), is_known)
    };
    let bad =
        "PUT /x?y HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\nuser-agent: b\r\nx : y\r\n\r\n";
    let fields = |fields: &[&str]| fields.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(stand_in(bad), ("PUT /x?y".to_owned(), fields(&["host: a", "user-agent: b"]), true));
    assert_eq!(stand_in(&head(" \r\n")), ("POST /".to_owned(), fields(&["host: a"]), true));
    assert_eq!(stand_in(&(head("") + "GET /a b HTTP/1.1\r\n")), ("GET /".to_owned(), fields(&[]), false));
}

#[test]
fn disguises_are_seen_through() {
    for name in [
        "content_length",
        "Content_Length",
        "transfer_encoding",
        "host_",
        "_host",
        "__te__",
        "connection_",
        "Transfer-_Encoding_",
    ] {
        assert_eq!(is_disguised(name.as_bytes()), name != "Transfer-_Encoding_", "{name}");
    }
    for name in ["content-length", "host", "_", "__", "x_host", "x_forwarded_for", "content_type", "a_b", "hosts_"] {
        assert!(!is_disguised(name.as_bytes()), "{name}");
    }
}

/// Pieces of which requests, good and bad, are made.
const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "GET / HTTP/1.0\r\n",
    "CONNECT a:1 HTTP/1.1\r\n",
    "host: a\r\n",
    "content-length: 5\r\n",
    "content-length: 0\r\n",
    "transfer-encoding: chunked\r\n",
    "connection: close\r\n",
    "connection: upgrade\r\n",
    "upgrade: websocket\r\n",
    "expect: 100-continue\r\n",
    "x: y\r\n",
    "\r\n",
    "\r\n\r\n",
    "hello",
    "5\r\nhello\r\n",
    "5;a=b\r\nhello\r\n",
    "0\r\n",
    "0\r\n\r\n",
    "a",
    "1\r\n",
    "\n",
    "\r",
    " ",
    ":",
    "\t",
    "\0",
    "x: y\n",
    "trailer: x\r\n",
    "te: trailers\r\n",
    "HTTP/1.1",
    "ff\r\n",
    "\u{e9}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn hyper_agrees_on_the_end_of_every_message(pieces in prop::collection::vec(prop::sample::select(PIECES), 1..24)) {
        agreement::check(pieces.concat().as_bytes());
    }

    #[test]
    fn hyper_agrees_when_a_good_message_is_damaged(
        begin in 0usize..6, at in 0usize..120, with in any::<u8>(), remove in 0usize..3
    ) {
        let chunked = head("transfer-encoding: chunked\r\n") + "5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nx: y\r\n\r\n";
        let messages = [head(""), head("content-length: 5\r\n") + "hello", chunked];
        let mut bytes = (0..4).map(|next| messages[(begin + next) % 3].as_str()).collect::<String>().into_bytes();
        bytes.splice(at..at + remove, [with]);
        agreement::check(&bytes);
    }

    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        agreement::check(&bytes);
    }
}
