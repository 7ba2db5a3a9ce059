//! The workloads: what is sent, and what the ratios should be at most.

use crate::load::{h2load, wrk::Request};

/// Work that every proxy can do.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) work: Work,
    /// Ours divided by nginx's, HAProxy's and Envoy's.
    pub(crate) targets: Option<[f64; 3]>,
}

#[derive(Debug)]
pub(crate) enum Work {
    Wrk(Request),
    H2load(h2load::Request),
    Handshakes {
        resume: bool,
    },
    GrpcStream,
    /// So many that are open.
    WebSockets(usize),
}

pub(crate) const GET: Request =
    Request { path: "/small", connections: 32, tls: false, body: 0, answer: crate::origin::SMALL, headers: &[] };

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "small-get",
        title: "GET, 128 B, 32 connections",
        work: Work::Wrk(GET),
        targets: Some([1.10, 1.0, 0.32]),
    },
    Workload {
        name: "small-get-256",
        title: "GET, 128 B, 256 connections",
        work: Work::Wrk(Request { connections: 256, ..GET }),
        targets: Some([1.10, 1.0, 0.32]),
    },
    Workload {
        name: "real-headers",
        title: "GET, 20 headers in, 12 out",
        work: Work::Wrk(Request { path: "/headers", headers: BROWSER, ..GET }),
        targets: None,
    },
    Workload {
        name: "get-64k",
        title: "GET, 64 KB",
        work: Work::Wrk(Request { path: "/64k", answer: 64 << 10, ..GET }),
        targets: Some([0.75, 0.95, 0.42]),
    },
    Workload {
        name: "get-1m",
        title: "GET, 1 MB",
        work: Work::Wrk(Request { path: "/1m", answer: 1 << 20, ..GET }),
        targets: Some([0.75, 0.95, 0.42]),
    },
    Workload { name: "post-1k", title: "POST, 1 KB", work: Work::Wrk(Request { body: 1 << 10, ..GET }), targets: None },
    Workload {
        name: "post-64k",
        title: "POST, 64 KB",
        work: Work::Wrk(Request { body: 64 << 10, ..GET }),
        targets: Some([0.9, 1.0, 0.5]),
    },
    Workload { name: "post-1m", title: "POST, 1 MB", work: Work::Wrk(Request { body: 1 << 20, ..GET }), targets: None },
    Workload {
        name: "tls-small",
        title: "TLS 1.3, HTTP/1.1, GET, 128 B",
        work: Work::Wrk(Request { tls: true, ..GET }),
        targets: Some([1.0, 1.0, 0.4]),
    },
    Workload {
        name: "tls-64k",
        title: "TLS 1.3, HTTP/1.1, GET, 64 KB",
        work: Work::Wrk(Request { tls: true, path: "/64k", answer: 64 << 10, ..GET }),
        targets: Some([1.0, 1.0, 0.4]),
    },
    Workload {
        name: "tls-h2",
        title: "TLS 1.3, HTTP/2, 32 × 10 streams, GET, 128 B",
        work: Work::H2load(h2load::Request::Get { connections: 32, streams: 10 }),
        targets: Some([1.0, 1.0, 0.4]),
    },
    Workload {
        name: "handshake-full",
        title: "TLS 1.3, new connection with one GET, whole ECDSA handshake",
        work: Work::Handshakes { resume: false },
        targets: Some([0.7, 0.7, 0.8]),
    },
    Workload {
        name: "handshake-resumed",
        title: "TLS 1.3, new connection with one GET, resumed",
        work: Work::Handshakes { resume: true },
        targets: None,
    },
    Workload {
        name: "grpc-unary",
        title: "gRPC in clear text, unary, 128 B both ways, 8 × 10 streams",
        work: Work::H2load(h2load::Request::Grpc { connections: 8, streams: 10 }),
        targets: None,
    },
    Workload {
        name: "grpc-stream",
        title: "gRPC in clear text, 32 streams of 1,000 messages, each echoed; per message",
        work: Work::GrpcStream,
        targets: None,
    },
    Workload {
        name: "websocket",
        title: "WebSocket, 1,000 open, 128 B echoed; per message",
        work: Work::WebSockets(1000),
        targets: None,
    },
];

/// With `host`, twenty headers as a browser sends them through a CDN, 1.5 KB.
const BROWSER: &[(&str, &str)] = &[
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    ),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
    ("cache-control", "max-age=0"),
    (
        "cookie",
        "session=4b7ad2f0c1e94a5f8d3e6b7c9a0f1e2d; theme=dark; consent=2026-11-01.a1b2c3d4e5f6; _ga=GA1.2.1904836219.1764150000; _ga_XK12=GS1.1.1764150000.3.1.1764150230.0.0.0; cart=eyJpdGVtcyI6W3siaWQiOjQyLCJuIjoxfSx7ImlkIjo3LCJuIjozfV19; csrf=9f8e7d6c5b4a39281706f5e4d3c2b1a0",
    ),
    ("dnt", "1"),
    ("if-none-match", "W/\"5f2c-0a1b2c3d4e\""),
    ("priority", "u=0, i"),
    ("referer", "https://bench.example.dev/catalogue/spring?page=2&sort=price"),
    ("sec-ch-ua", "\"Chromium\";v=\"131\", \"Not_A Brand\";v=\"24\""),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\"Linux\""),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
    ("upgrade-insecure-requests", "1"),
    (
        "authorization",
        "Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1c2VyLTEyMzQ1Njc4OTAiLCJpYXQiOjE3NjQxNTAwMDAsImV4cCI6MTc2NDE1MzYwMH0.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmUtc2lnbmF0dXJl",
    ),
    ("x-correlation-id", "01JDQ4Y7N8K3T5V6W7X8Y9Z0AB"),
];
