//! Group C, rows 17 to 19: services that speak HTTP/2, and not as they should.

use super::http2::{WHOLE, whole};
use super::recorder::End;
use super::{Case, HOST, Service, Size};
use crate::http2_frames::{END_HEADERS, END_STREAM, frame, get, header_block, kind};
use crate::server::Protocol::Http2;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) fn cases(size: Size) -> Vec<Case> {
    let ok = |stream: u32| {
        let head = frame(kind::HEADERS, END_HEADERS, stream, &header_block([(":status", "200")]));
        [head, frame(kind::DATA, END_STREAM, stream, b"ok")].concat()
    };
    let says = |bytes: Arc<dyn Fn(u32) -> Vec<u8> + Send + Sync>, end| Service::Says(bytes, end);
    // The first request gets this, every other one an answer.
    let once = move |first: fn(u32) -> Vec<u8>| {
        let said = AtomicBool::new(false);
        let bytes = move |stream| if said.swap(true, Ordering::Relaxed) { ok(stream) } else { first(stream) };
        says(Arc::new(bytes), End::Open)
    };
    let always = move |first: Arc<dyn Fn(u32) -> Vec<u8> + Send + Sync>| {
        says(Arc::new(move |stream| [first(stream), ok(stream)].concat()), End::Open)
    };
    let flood = size.of(20_000, 100_000);
    let case = |row, what: &str, service: Service| {
        Case::http1(row, what, format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).service(service).only(&[Http2])
    };
    let block = |fields: &[(&str, &str)]| header_block(fields.iter().copied());
    let bad = |what: &str, make: Arc<dyn Fn(u32) -> Vec<u8> + Send + Sync>| {
        case("C-17", what, says(make, End::Open)).gets("502, open").reaches(&["GET /"])
    };
    let bomb =
        [block(&[(":status", "200")]), vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e], vec![b'b'; 4_000], vec![0xbe; 10_000]]
            .concat();
    let unfinished = frame(kind::HEADERS, 0, 1, &[]);
    let head = block(&[(":status", "200")]);
    let cases = vec![
        case(
            "C-17",
            "RST_STREAM with REFUSED_STREAM, once",
            once(|stream| frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 7])),
        )
        .reaches(&["GET /"; 2])
        .because("RFC 9113 8.7: the service has not looked at it, so it is sent once more"),
        case(
            "C-17",
            "GOAWAY without having seen the request, once",
            once(|stream| frame(kind::GOAWAY, 0, 0, &[stream.saturating_sub(2).to_be_bytes(), [0; 4]].concat())),
        )
        .reaches(&["GET /"; 2])
        .because("RFC 9113 6.8: the service has not looked at it, so it is sent once more; Envoy does so in some runs"),
        bad("PUSH_PROMISE", Arc::new(|stream| frame(kind::PUSH_PROMISE, END_HEADERS, stream, &[0, 0, 0, 2]))),
        bad(
            "an answer without :status",
            Arc::new(|stream| frame(kind::HEADERS, WHOLE, stream, &header_block([("a", "b")]))),
        ),
        bad(
            "an answer whose length is not kept",
            Arc::new(|stream| {
                frame(kind::HEADERS, WHOLE, stream, &header_block([(":status", "200"), ("content-length", "5")]))
            }),
        ),
        bad(
            "connection: close",
            Arc::new(|stream| {
                frame(kind::HEADERS, WHOLE, stream, &header_block([(":status", "200"), ("connection", "close")]))
            }),
        ),
        bad("a bomb of headers", Arc::new(move |stream| frame(kind::HEADERS, WHOLE, stream, &bomb))),
        bad(
            "CONTINUATION without an end",
            Arc::new(move |stream| {
                let mut frames = unfinished.clone();
                frames[5..9].copy_from_slice(&stream.to_be_bytes());
                frames.extend(frame(kind::CONTINUATION, 0, stream, &head).repeat(flood));
                frames
            }),
        ),
        bad("HTTP/1.1", Arc::new(|_| b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec())),
        case(
            "C-17",
            "SETTINGS without an end",
            always(Arc::new(move |_| frame(kind::SETTINGS, 0, 0, &[]).repeat(flood))),
        )
        .gets("503, open")
        .reaches(&["GET /"]),
        case(
            "C-17",
            "PING without an end",
            always(Arc::new(move |_| frame(kind::PING, 0, 0, b"12345678").repeat(flood))),
        )
        .gets("503, open")
        .reaches(&["GET /"]),
        case(
            "C-19",
            "RST_STREAM of one request, then another on the same connection",
            says(Arc::new(|stream| frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 1])), End::Open),
        )
        .gets("503, open")
        .reaches(&["GET /"]),
    ];
    let one_of_three =
        [whole(1, &get(HOST, [])), whole(3, &get(HOST, [("connection", "close")])), whole(5, &get(HOST, []))].concat();
    let among = Case::http2("C-19", "a bad request between good ones", one_of_three)
        .gets("200, RST PROTOCOL_ERROR, 200, open")
        .reaches(&["GET /"; 2])
        .because("RFC 9113 5.4.2: it is an error of its stream only");
    [cases, vec![among]].concat()
}
