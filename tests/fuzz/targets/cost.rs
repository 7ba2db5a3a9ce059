//! What the guard costs: nanoseconds for one head that comes whole, with 300 bytes and as browsers send it.
#![allow(dead_code, reason = "only the HTTP/1 part of the guard is measured")]

use std::{hint::black_box, time::Instant};

#[path = "../../../gateway/src/http/guard/mod.rs"]
mod guard;
#[path = "../../../gateway/src/http/limits.rs"]
mod limits;

const SMALL: &str = "GET /api/v1/items?id=12345 HTTP/1.1\r\nhost: www.example.com\r\nuser-agent: load/1.0 (x86_64)\r\n\
    accept: application/json\r\naccept-encoding: gzip, br\r\nx-request-id: 6f1c3c1e-2b53-4f0e-9d3a-0f6c2a7b9c11\r\n\
    authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789\r\ncache-control: no-cache\r\ncookie: a=b\r\n\r\n";
const BROWSER: &str = "GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\nsec-ch-ua: \"Chromium\";v=\"140\"\r\n\
    sec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\nUpgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; \
    Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nAccept: text/html,application\
    /xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: \
    navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\r\n";

fn main() {
    for head in [SMALL, BROWSER] {
        let best = (0..3_000).map(|_| round(head)).fold(f64::MAX, f64::min);
        println!("{} bytes: {best:.0} ns", head.len());
    }
}

fn round(head: &str) -> f64 {
    const TIMES: u32 = 1_000;
    let mut guard = guard::Http1::default();
    let began = Instant::now();
    for _ in 0..TIMES {
        let checked = black_box(&mut guard).check(black_box(head.as_bytes()));
        assert_eq!(checked.pass, head.len());
    }
    began.elapsed().as_nanos() as f64 / f64::from(TIMES)
}
