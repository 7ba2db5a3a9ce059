//! Group C: HTTP/2 of clients; that of services is in `http2_services`. One request that is wrong costs its stream, where RFC 9113 allows that; who costs more than he pays
//! for loses the connection; and nothing of either reaches the service.

use super::{Case, HOST, Size, Step};
use crate::http2_frames::{ACK, END_HEADERS, END_STREAM, PADDED, frame, get, header_block, kind};

pub(super) const WHOLE: u8 = END_HEADERS | END_STREAM;
const RST: &str = "RST PROTOCOL_ERROR, open";
const GOAWAY: &str = "GOAWAY PROTOCOL_ERROR, closed";
/// The h2 crate answers these with the end of the connection, which RFC 9113 5.4.1 allows; it leaves no choice.
const BY_H2: &str = "the h2 crate ends the connection for it, which RFC 9113 5.4.1 allows";

/// It ends the connection, too, but has one reason only for what RFC 9113 tells apart.
const REASON: &str = "the h2 crate says PROTOCOL_ERROR for every frame that it cannot decode";

pub(super) fn cases(size: Size) -> Vec<Case> {
    [
        resets(size),
        floods(size),
        bombs(),
        compression(),
        pseudo_headers(),
        desync(),
        authorities(),
        streams(),
        frames(),
        ends(),
        upgrades(),
    ]
    .concat()
}

/// A head that is a request.
pub(super) fn whole(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut pieces = block.chunks(16_384).peekable();
    let mut first = true;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let (kind, flags) = if first { (kind::HEADERS, END_STREAM | end) } else { (kind::CONTINUATION, end) };
        frames.extend(frame(kind, flags, stream, piece));
        first = false;
    }
    frames
}

/// A request with a body that does not end with its head.
fn begun(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS, stream, block)
}

/// The four pseudo-headers of `POST /path`.
fn post<'a>(more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", "/path")];
    header_block(pseudo.into_iter().chain(more))
}

fn with(name: &str, value: &str) -> Vec<u8> {
    whole(1, &get(HOST, [(name, value)]))
}

/// Client streams 1, 3, 5 …
fn on_streams(count: usize, make: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count as u32).flat_map(|number| make(number * 2 + 1)).collect()
}

fn flood(row: &'static str, what: &str, first: Vec<u8>, again: impl AsRef<[u8]>, times: usize) -> Case {
    let again = again.as_ref();
    // In pieces of some kilobytes, so that it is the other side that is slow.
    let each = (8_000 / again.len()).clamp(1, times);
    Case::http2(row, what, first)
        .then(Step::Flood(again.repeat(each), times / each))
        .gets("GOAWAY ENHANCE_YOUR_CALM, closed")
}

fn resets(size: Size) -> Vec<Case> {
    let streams = size.of(3_000, 100_000);
    let cancel = [0, 0, 0, 8];
    let made =
        |row, what: &str, make: &dyn Fn(u32) -> Vec<u8>| flood(row, what, Vec::new(), on_streams(streams, make), 1);
    vec![
        made("C-1", "streams that are reset at once (CVE-2023-44487)", &|stream| {
            [whole(stream, &get(HOST, [])), frame(kind::RST_STREAM, 0, stream, &cancel)].concat()
        }),
        made("C-1", "uploads that are reset at once", &|stream| {
            [begun(stream, &post([])), frame(kind::RST_STREAM, 0, stream, &cancel)].concat()
        }),
        made("C-2", "a window update of 0 on every stream (CVE-2025-8671)", &|stream| {
            [begun(stream, &post([])), frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
        })
        .gets(GOAWAY),
        made("C-2", "a window that overflows on every stream", &|stream| {
            [begun(stream, &post([])), frame(kind::WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat()
        }),
        made("C-2", "DATA behind the end of every stream", &|stream| {
            [whole(stream, &get(HOST, [])), frame(kind::DATA, 0, stream, b"x")].concat()
        })
        .gets(GOAWAY),
        made("C-2", "a PRIORITY that is too short on every stream", &|stream| {
            [begun(stream, &post([])), frame(kind::PRIORITY, 0, stream, &[0; 4])].concat()
        })
        .gets(GOAWAY),
        made("C-2", "lengths that are not kept on every stream", &|stream| {
            whole(stream, &post([("content-length", "5")]))
        }),
    ]
}

fn floods(size: Size) -> Vec<Case> {
    let times = size.of(20_000, 100_000);
    let head = frame(kind::HEADERS, 0, 1, &get(HOST, []));
    let open = begun(1, &post([]));
    let many: Vec<u8> = [0, 3, 0, 0, 0, 100].repeat(1_000);
    vec![
        flood("C-3", "empty CONTINUATION frames", head.clone(), frame(kind::CONTINUATION, 0, 1, &[]), times),
        flood(
            "C-3",
            "CONTINUATION frames of a small header",
            head.clone(),
            frame(kind::CONTINUATION, 0, 1, &header_block([("a", "b")])),
            times,
        ),
        flood(
            "C-3",
            "CONTINUATION frames of 16 KiB",
            head,
            frame(kind::CONTINUATION, 0, 1, &header_block([("a", "b".repeat(16_000).as_str())])),
            size.of(1_000, 10_000),
        ),
        flood("C-4", "PING", Vec::new(), frame(kind::PING, 0, 0, b"12345678"), times),
        flood("C-4", "answers to PING", Vec::new(), frame(kind::PING, ACK, 0, b"12345678"), times),
        flood("C-4", "SETTINGS", Vec::new(), frame(kind::SETTINGS, 0, 0, &[]), times),
        flood(
            "C-4",
            "SETTINGS of 1,000 parameters",
            Vec::new(),
            frame(kind::SETTINGS, 0, 0, &many),
            size.of(4_000, 20_000),
        ),
        flood("C-4", "PRIORITY", Vec::new(), frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 1, 16]), times),
        flood(
            "C-4",
            "WINDOW_UPDATE of 1 for the connection",
            Vec::new(),
            frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            times,
        ),
        flood(
            "C-4",
            "WINDOW_UPDATE of 1 for a stream",
            open.clone(),
            frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            times,
        ),
        flood("C-4", "frames of an unknown kind", Vec::new(), frame(200, 0, 0, b"unknown"), times),
        flood(
            "C-5",
            "empty DATA (RUSTSEC-2026-0258)",
            open.clone(),
            frame(kind::DATA, 0, 1, &[]),
            size.of(20_000, 1_000_000),
        ),
        flood("C-5", "DATA that is only padding", open, frame(kind::DATA, PADDED, 1, &[3, 0, 0, 0]), times),
        flood("C-5", "DATA on a stream that has ended", whole(1, &get(HOST, [])), frame(kind::DATA, 0, 1, b"x"), times)
            .gets(GOAWAY),
    ]
}

/// Small on the wire, large once it is unpacked.
fn bombs() -> Vec<Case> {
    // Literals that go into the dynamic table, where the last one has the index 62.
    let indexed = |name: &str, value: &str| {
        let mut block = header_block([(name, value)]);
        block[0] = 0x40;
        block
    };
    let bomb = |what: &str, entry: Vec<u8>, times: usize| {
        let block = [get(HOST, []), entry, vec![0xbe; times]].concat();
        // A head that is more than a few frames of it ends the connection.
        let answer = if times > 1_000 { "GOAWAY ENHANCE_YOUR_CALM, closed" } else { "431, open" };
        Case::http2("C-6", what, whole(1, &block)).gets(answer)
    };
    vec![
        bomb("an entry of 4 KiB, 32,768 times", indexed("a", &"b".repeat(4_000)), 32_768),
        bomb("an empty header, 32,000 times", indexed("a", ""), 32_000),
        bomb("cookie crumbs, 32,768 times (CVE-2026-47774)", indexed("cookie", "a=b"), 32_768),
        bomb("cookie crumbs, 101 times", indexed("cookie", "a=b"), 101),
        Case::http2(
            "C-6",
            "cookie crumbs, 50 times",
            whole(1, &[get(HOST, []), indexed("cookie", "a=b"), vec![0xbe; 49]].concat()),
        )
        .reaches(&["GET /"]),
        bomb("101 headers", indexed("a", "b"), 101),
        bomb("headers of 61 KiB", header_block([("a", "b".repeat(61 * 1024).as_str())]), 0),
    ]
}

fn compression() -> Vec<Case> {
    let literal = |huffman: &[u8]| {
        let mut block = get(HOST, []);
        block.extend([0, 1, b'x', 0x80 | huffman.len() as u8]);
        block.extend(huffman);
        block
    };
    [
        ("a table larger than allowed", [vec![0x3f, 0xe2, 0x1f], get(HOST, [])].concat()),
        ("an update of the table that is not at the beginning", [get(HOST, []), vec![0x20]].concat()),
        ("index 0", [get(HOST, []), vec![0x80]].concat()),
        ("an index that nobody has defined", [get(HOST, []), vec![0xff, 0xff, 0x7f]].concat()),
        (
            "an index that overflows",
            [get(HOST, []), vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat(),
        ),
        ("Huffman padding of zeros", literal(&[0x18])),
        ("Huffman padding of more than 7 bits", literal(&[0x1f, 0xff, 0xff])),
        ("the end of a string within it", literal(&[0xff, 0xff, 0xff, 0xff])),
        ("a block that is cut", get(HOST, [])[..20].to_vec()),
    ]
    .into_iter()
    .map(|(what, block)| Case::http2("C-8", what, whole(1, &block)).gets(GOAWAY).because(REASON))
    .collect()
}

fn pseudo_headers() -> Vec<Case> {
    let fields = |path: &'static str| [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", path)];
    let without = |name: &str| header_block(fields("/").into_iter().filter(|(own, _)| *own != name));
    let more = |name: &'static str, value: &'static str| header_block(fields("/").into_iter().chain([(name, value)]));
    let instead = |name: &str, value: &'static str| {
        header_block(fields("/").map(|(own, old)| (own, if own == name { value } else { old })))
    };
    let case = |what: &str, block: &[u8], answer: &str| Case::http2("C-9", what, whole(1, block)).gets(answer);
    let mut cases = vec![
        case("without :method", &without(":method"), RST),
        case("without :scheme", &without(":scheme"), RST),
        case("without :path", &without(":path"), RST),
        case("without :authority and host", &without(":authority"), "400, open"),
        case(":unknown", &more(":unknown", "x"), GOAWAY).because(BY_H2),
        case(":status", &more(":status", "200"), RST),
        case("a pseudo-header behind a header", &header_block([("x", "y")].into_iter().chain(fields("/"))), RST),
        case(":method is `GET /x HTTP/1.1 CRLF a: b`", &instead(":method", "GET /x HTTP/1.1\r\na: b"), GOAWAY)
            .because(BY_H2),
        case(":method is empty", &instead(":method", ""), GOAWAY).because(BY_H2),
        case(":scheme is `https://x/`", &instead(":scheme", "https://x/"), RST),
        case("an upper-case name", &more("Upper", "case"), GOAWAY).because(BY_H2),
        case("a name with a space", &more("x y", "z"), GOAWAY).because(BY_H2),
        case("a name with a colon", &more("x:y", "z"), GOAWAY).because(BY_H2),
        case("a name with CR LF", &more("x\r\ny", "z"), GOAWAY).because(BY_H2),
        case("an empty name", &more("", "z"), GOAWAY).because(BY_H2),
        case("a value with CR LF", &more("x", "a\r\nb: c"), GOAWAY).because(BY_H2),
        case("a value with NUL", &more("x", "a\0b"), GOAWAY).because(BY_H2),
        case("a value with LF", &more("x", "a\nb"), GOAWAY).because(BY_H2),
        case("a value with a space in front", &more("x", " a"), "400, open"),
    ];
    for name in [":method", ":scheme", ":path", ":authority"] {
        let value = fields("/").into_iter().find(|(own, _)| *own == name).map_or("", |(_, value)| value);
        let twice = header_block(fields("/").into_iter().chain([(name, value)]));
        cases.push(case(&format!("{name} twice"), &twice, RST));
    }
    for path in ["", "a", "/a b", "/a\r\nb", "/a\x01b", "*"] {
        let answer = if path == "*" { "400, open" } else { RST };
        cases.push(case(&format!(":path is `{}`", path.escape_debug()), &instead(":path", path), answer));
    }
    cases.push(
        case(":path is `/a#b`", &instead(":path", "/a#b"), "200, open").reaches(&["GET /a"]).because(
            "the h2 crate cuts the fragment off before anybody can see it: a recorded deviation of the contract",
        ),
    );
    let trailer = [begun(1, &post([])), frame(kind::HEADERS, WHOLE, 1, &header_block([(":path", "/")]))].concat();
    cases.push(
        Case::http2("C-9", "a pseudo-header in trailers", trailer)
            .gets("200, open")
            .reaches(&["POST /path"])
            .because("RFC 9113 8.1 calls it malformed; the h2 crate drops the field before anybody can see it"),
    );
    cases
}

/// What must not come out on the other side as another message than it was.
fn desync() -> Vec<Case> {
    let case = |what: &str, frames: Vec<u8>, answer: &str| Case::http2("C-10", what, frames).gets(answer);
    let body = |length: &str, data: &[u8]| {
        [begun(1, &post([("content-length", length)])), frame(kind::DATA, END_STREAM, 1, data)].concat()
    };
    let mut cases = vec![
        case("transfer-encoding: chunked", with("transfer-encoding", "chunked"), RST),
        case("connection: x", with("connection", "x"), RST),
        case("connection: close", with("connection", "close"), RST),
        case("keep-alive", with("keep-alive", "timeout=5"), RST),
        case("upgrade: websocket", with("upgrade", "websocket"), RST),
        case("proxy-connection", with("proxy-connection", "keep-alive"), RST),
        case("te: gzip", with("te", "gzip"), RST),
        case("content-length: 5, the end with the head", with("content-length", "5"), RST),
        case("content-length: 5 and 3 bytes", body("5", b"abc"), RST),
        case("content-length: 5 and 8 bytes", body("5", b"abcdefgh"), RST),
        case("content-length: +5", body("+5", b"hello"), RST),
        case("content-length is empty", body("", b"hello"), RST),
        case("content-length: 5, 5", body("5, 5", b"hello"), RST),
        case("content-length: 05", body("05", b"hello"), "400, open"),
        case("content-length: 18446744073709551616", body("18446744073709551616", b"hello"), RST),
    ];
    for second in ["5", "6"] {
        let twice = begun(1, &post([("content-length", "5"), ("content-length", second)]));
        let frames = [twice, frame(kind::DATA, END_STREAM, 1, b"hello")].concat();
        cases.push(case(
            &format!("content-length: 5 and content-length: {second}"),
            frames,
            if second == "5" { "400, open" } else { RST },
        ));
    }
    for name in ["content_length", "transfer_encoding"] {
        cases.push(case(&format!("{name}: 5"), with(name, "5"), "400, open"));
    }
    cases.push(
        case("te: trailers", with("te", "trailers"), "200, open").showing(&["te"]).reaches(&["GET / (te: trailers)"]),
    );
    let trailer = |name: &'static str, value: &'static str| {
        [
            begun(1, &post([])),
            frame(kind::DATA, 0, 1, b"hello"),
            frame(kind::HEADERS, WHOLE, 1, &header_block([(name, value)])),
        ]
        .concat()
    };
    cases.push(
        case("a trailer content-length: 9", trailer("content-length", "9"), "200, open")
            .showing(&["content-length"])
            .reaches(&["POST /path \"hello\" (content-length: -)"])
            .because("it is dropped; RFC 9113 does not call such a message malformed"),
    );
    cases.push(case("a trailer transfer-encoding", trailer("transfer-encoding", "chunked"), RST));
    cases
}

fn authorities() -> Vec<Case> {
    let case = |what: &str, authority: Option<&str>, host: Option<&str>| {
        let fields =
            [(":method", Some("GET")), (":scheme", Some("http")), (":authority", authority), (":path", Some("/"))];
        let fields = fields.into_iter().chain([("host", host)]);
        let block = header_block(fields.filter_map(|(name, value)| Some((name, value?))));
        Case::http2("C-11", what, whole(1, &block)).showing(&["host"])
    };
    let other = "other.example";
    vec![
        case("host is another than :authority", Some(HOST), Some(other)).gets("400, open"),
        case("host is the same as :authority", Some(HOST), Some(HOST))
            .reaches(&["GET / (host: test.example.dev)"])
            .because("RFC 9113 8.3.1 allows a Host that agrees"),
        case("only host", None, Some(HOST)).reaches(&["GET / (host: test.example.dev)"]),
        case("host without the port of :authority", Some("test.example.dev:80"), Some(HOST)).gets("400, open"),
        case(":authority with a port", Some("test.example.dev:8080"), None)
            .reaches(&["GET / (host: test.example.dev:8080)"]),
        case(":authority with a dot at the end", Some("test.example.dev."), None)
            .reaches(&["GET / (host: test.example.dev.)"]),
        case(":authority with user information", Some("a@test.example.dev"), None).gets("400, open"),
        case(":authority with a comma", Some("a,test.example.dev"), None).gets("400, open"),
        case(":authority is empty", Some(""), None).gets(RST),
        case(":authority with a port that is none", Some("test.example.dev:80x"), None).gets("400, open"),
    ]
}

fn streams() -> Vec<Case> {
    let get = get(HOST, []);
    let case = |what: &str, frames: Vec<u8>, answer: &str| Case::http2("C-12", what, frames).gets(answer);
    vec![
        case("an even stream", whole(2, &get), GOAWAY),
        case("stream 0", whole(0, &get), GOAWAY),
        case("a stream below one that was used", whole(5, &get), "200, GOAWAY PROTOCOL_ERROR, closed")
            .after_answer(whole(3, &get))
            .reaches(&["GET /"]),
        case("a stream that was used", whole(1, &get), "200, GOAWAY PROTOCOL_ERROR, closed")
            .after_answer(whole(1, &get))
            .reaches(&["GET /"]),
        case("DATA on a stream that was never opened", frame(kind::DATA, END_STREAM, 1, b"hello"), GOAWAY),
        case("RST_STREAM on a stream that was never opened", frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]), GOAWAY),
        case(
            "WINDOW_UPDATE on a stream that was never opened",
            frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 8]),
            GOAWAY,
        ),
        case(
            "another frame between HEADERS and CONTINUATION",
            [frame(kind::HEADERS, END_STREAM, 1, &get), frame(kind::PING, 0, 0, b"12345678")].concat(),
            GOAWAY,
        ),
        case("CONTINUATION of nothing", frame(kind::CONTINUATION, END_HEADERS, 1, &get), GOAWAY),
    ]
}

fn frames() -> Vec<Case> {
    let ok = whole(1, &get(HOST, []));
    let case = |what: &str, frames: Vec<u8>, answer: &str| Case::http2("C-13", what, frames).gets(answer);
    let setting = |number: u8, value: u32| {
        let [a, b, c, d] = value.to_be_bytes();
        frame(kind::SETTINGS, 0, 0, &[0, number, a, b, c, d])
    };
    let passing = |what: &str, first: Vec<u8>| {
        case(what, [first, ok.clone()].concat(), "200, open").reaches(&["GET /"]).because(
            "RFC 9113 wants it to be ignored, or allows it; what it costs is bounded by the account for frames",
        )
    };
    let drips: Vec<u8> = (0..500).flat_map(|_| frame(kind::DATA, 0, 1, b"x")).collect();
    vec![
        case(
            "HEADERS that depend on themselves",
            frame(kind::HEADERS, WHOLE | 32, 1, &[&[0, 0, 0, 1, 16], &get(HOST, [])[..]].concat()),
            RST,
        )
        .because("RFC 9113 5.3 does not ask for it any more"),
        case("PRIORITY that depends on itself", frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 16]), RST),
        passing(
            "a chain of 1,000 dependencies",
            on_streams(1_000, |stream| {
                frame(kind::PRIORITY, 0, stream + 2_000, &[&stream.to_be_bytes()[..], &[16]].concat())
            }),
        ),
        case(
            "a frame above the largest size",
            frame(kind::DATA, 0, 1, &[0; 16_385]),
            "GOAWAY FRAME_SIZE_ERROR, closed",
        ),
        case("PING of 7 bytes", frame(kind::PING, 0, 0, b"1234567"), GOAWAY).because(REASON),
        case("SETTINGS of 5 bytes", frame(kind::SETTINGS, 0, 0, b"12345"), GOAWAY).because(REASON),
        case("an answer to SETTINGS that says something", frame(kind::SETTINGS, ACK, 0, &[0; 6]), GOAWAY)
            .because(REASON),
        case("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, &[]), GOAWAY),
        case("frames of at most 16,383 bytes", setting(5, 16_383), GOAWAY),
        case("frames of at most 16 MiB", setting(5, 1 << 24), GOAWAY),
        passing("frames of at most 16 MiB less a byte", setting(5, (1 << 24) - 1)),
        case("a window of 2 GiB", setting(4, 1 << 31), GOAWAY).because(REASON),
        case("a push of 2", setting(2, 2), GOAWAY),
        passing("a setting that nobody knows", setting(99, 1)),
        passing("a frame that nobody knows", frame(99, 0xff, 0, b"hello")),
        case("a window update of 0", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), GOAWAY),
        case(
            "a window that overflows",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            "GOAWAY FLOW_CONTROL_ERROR, closed",
        ),
        case(
            "padding longer than its frame",
            [begun(1, &post([])), frame(kind::DATA, PADDED, 1, &[9, 0, 0])].concat(),
            GOAWAY,
        ),
        case("PUSH_PROMISE of a client", frame(kind::PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), GOAWAY),
        case(
            "500 DATA frames of a byte",
            [begun(1, &post([])), drips, frame(kind::DATA, END_STREAM, 1, b"")].concat(),
            "200, open",
        )
        .reaches(&["POST /path 500 bytes"]),
    ]
}

fn ends() -> Vec<Case> {
    let goodbye = frame(kind::GOAWAY, 0, 0, &[0; 8]);
    let request = [begun(1, &post([])), frame(kind::DATA, 0, 1, b"he")].concat();
    vec![
        Case::http2("C-14", "GOAWAY of a client while it is still sending", [request, goodbye].concat())
            .then(Step::Send(frame(kind::DATA, END_STREAM, 1, b"llo")))
            .gets("200, closed")
            .reaches(&["POST /path \"hello\""]),
        Case::http2("C-14", "a client that closes its side behind the request", whole(1, &get(HOST, [])))
            .then(Step::Finish)
            .gets("closed")
            .may_arrive()
            .because("who closes his side has left, as for Envoy's HTTP listeners"),
        Case::http2("C-14", "a client that closes its side in the middle of a body", begun(1, &post([])))
            .then(Step::Finish)
            .gets("closed"),
    ]
}

fn upgrades() -> Vec<Case> {
    let h2c = format!(
        "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
    );
    let block = |more: &[(&'static str, &'static str)]| {
        let fields = [(":method", "CONNECT"), (":authority", HOST)];
        header_block(fields.into_iter().chain(more.iter().copied()))
    };
    vec![
        Case::http1("C-15", "an upgrade to h2c", h2c)
            .showing(&["upgrade", "connection", "http2-settings"])
            .reaches(&["GET / (upgrade: -; connection: -; http2-settings: -)"])
            .because("stripped and served as HTTP/1.1, as Istio does (istio.md 30)"),
        Case::http2("C-16", "CONNECT", whole(1, &block(&[]))).gets("404, open"),
        Case::http2(
            "C-16",
            "CONNECT for a WebSocket (RFC 8441), which is not offered",
            whole(1, &block(&[(":scheme", "http"), (":path", "/"), (":protocol", "websocket")])),
        )
        .gets(RST),
        Case::http2("C-16", "CONNECT with a path", whole(1, &block(&[(":scheme", "http"), (":path", "/")]))).gets(RST),
    ]
}
