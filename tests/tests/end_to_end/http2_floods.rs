//! HTTP/2 clients that cost more than they pay for; frames are made by hand.

use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::http2_frames::{ACK, END_HEADERS, END_STREAM, Frame, Frames, frame, get, header_block, kind};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol::Http1;
use gateway_tests::upstream::{Answer, Gate, Upstream};

const HOST: &str = "test.example.dev";
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
const WHOLE: u8 = END_HEADERS | END_STREAM;

async fn start() -> (TestGateway, Upstream) {
    let upstream = Upstream::start(Http1).await.unwrap();
    (Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap(), upstream)
}

async fn connect(gateway: &TestGateway) -> Frames {
    Frames::connect(gateway.address(80).unwrap()).await.unwrap()
}

/// The connection was ended, and for this reason if it was said at all.
fn is_ended(came: &[Frame], reason: u32) -> bool {
    let goodbye = came.iter().rfind(|frame| frame.kind == kind::GOAWAY);
    let finished = came.last().is_some_and(|frame| frame.payload == b"the end!");
    !finished && goodbye.is_none_or(|frame| frame.error_code() == Some(reason))
}

async fn hit(gateway: &TestGateway, limit: &str, times: f64) {
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", limit)], times).await.unwrap();
}

#[tokio::test]
async fn floods_of_frames_end_the_connection() {
    let (gateway, upstream) = start().await;
    let open = frame(kind::HEADERS, END_HEADERS, 1, &get(HOST, []));
    for (number, (first, flood)) in [
        (Vec::new(), frame(kind::PING, 0, 0, b"12345678")),
        (Vec::new(), frame(kind::PING, ACK, 0, b"12345678")),
        (Vec::new(), frame(kind::SETTINGS, 0, 0, &[])),
        (Vec::new(), frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 1, 16])),
        (Vec::new(), frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        (Vec::new(), frame(200, 0, 0, b"unknown")),
        (open.clone(), frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = connect(&gateway).await;
        client.send(first).await.unwrap();
        let came = client.flood(&flood, 100_000).await.unwrap();
        assert!(is_ended(&came, ENHANCE_YOUR_CALM), "{flood:?}: {:?}", came.last());
        assert!(came.len() < 3_000, "{flood:?}: {} frames in answer", came.len());
        hit(&gateway, "http2_frames", (number + 1) as f64).await;
    }
    // These h2 itself knows; what matters is that they end.
    for (first, flood) in [
        (open.clone(), frame(kind::DATA, 0, 1, &[])),
        (frame(kind::HEADERS, 0, 1, &get(HOST, [])), frame(kind::CONTINUATION, 0, 1, &[])),
        (frame(kind::HEADERS, 0, 1, &get(HOST, [])), frame(kind::CONTINUATION, 0, 1, &header_block([("a", "b")]))),
    ] {
        let mut client = connect(&gateway).await;
        client.send(first).await.unwrap();
        let came = client.flood(&flood, 100_000).await.unwrap();
        assert!(is_ended(&came, ENHANCE_YOUR_CALM), "{flood:?}: {:?}", came.last());
    }
    gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
    assert!(upstream.requests().iter().all(|request| !request.complete));
    assert_eq!(gateway.h2_client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_flood_is_told_to_calm_down() {
    let (gateway, _upstream) = start().await;
    let mut client = connect(&gateway).await;
    // In step with the answers, so that all of it is read.
    let ping = frame(kind::PING, 0, 0, b"12345678").repeat(50);
    let goodbye = 'flood: {
        for _ in 0..100 {
            client.send(&ping).await.unwrap();
            for _ in 0..50 {
                let came = client.find(|frame| matches!(frame.kind, kind::PING | kind::GOAWAY)).await.unwrap();
                if came.kind == kind::GOAWAY {
                    break 'flood came;
                }
            }
        }
        panic!("nobody minds");
    };
    assert_eq!(goodbye.error_code(), Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let (gateway, upstream) = start().await;
    let never = Gate::shut();
    let gate = never.clone();
    upstream.answer_with(move |_| Answer::new(200).after(&gate));
    let client = connect(&gateway).await;
    let mut attack = Vec::new();
    for stream in (1..4_000).step_by(2) {
        attack.extend(frame(kind::HEADERS, WHOLE, stream, &get(HOST, [])));
        attack.extend(frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let came = client.flood(&attack, 1).await.unwrap();
    assert!(is_ended(&came, ENHANCE_YOUR_CALM), "{:?}", came.last());
    assert!(upstream.requests().len() < 250, "{} requests", upstream.requests().len());
    // By whoever has noticed first, and once the connection has ended.
    let counted = async || {
        let metrics = gateway.metrics().await?;
        let hits = |limit| metrics.sum("gateway_limit_exceeded_total", &[("limit", limit)]);
        Ok((hits("http2_resets") + hits("http2_stream_errors") == 1.0).then_some(()))
    };
    gateway_tests::eventually("the flood to be counted once", counted).await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn streams_that_we_are_made_to_reset_end_the_connection() {
    let (gateway, _upstream) = start().await;
    let client = connect(&gateway).await;
    let mut attack = Vec::new();
    // CVE-2025-8671: a window that is too large is an error of its stream, and resetting it is our part.
    for stream in (1..2_400).step_by(2) {
        attack.extend(frame(kind::HEADERS, END_HEADERS, stream, &get(HOST, [])));
        attack.extend(frame(kind::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes()));
    }
    let came = client.flood(&attack, 1).await.unwrap();
    assert!(is_ended(&came, ENHANCE_YOUR_CALM), "{:?}", came.last());
    hit(&gateway, "http2_stream_errors", 1.0).await;
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn a_busy_client_is_no_flood() {
    let (gateway, upstream) = start().await;
    upstream.answer_with(|_| Answer::new(200).text(vec![7; 40_000]));
    let mut client = connect(&gateway).await;
    for stream in (1..1_200).step_by(2) {
        let mut request = frame(kind::HEADERS, WHOLE, stream, &get(HOST, []));
        request.extend(frame(kind::PING, 0, 0, b"12345678"));
        client.send(request).await.unwrap();
        client.find(|frame| frame.stream == stream && frame.is_end_stream()).await.unwrap();
        // As small as windows get in practice.
        client.send(frame(kind::WINDOW_UPDATE, 0, 0, &2_000u32.to_be_bytes()).repeat(20)).await.unwrap();
    }
    hit(&gateway, "http2_frames", 0.0).await;
}

#[tokio::test]
async fn one_bad_request_ends_its_stream_only() {
    let (gateway, upstream) = start().await;
    let pseudo = |path: &'static str| [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", path)];
    let with = |name: &'static str, value: &'static str| get(HOST, [(name, value)]);
    // For some, h2 ends the connection, which RFC 9113 5.4.1 allows.
    for (block, expected) in [
        (with("Upper", "case"), kind::GOAWAY),
        (with("x y", "z"), kind::GOAWAY),
        (with("x", "a\r\nb: c"), kind::GOAWAY),
        (with("x", "a\0b"), kind::GOAWAY),
        (with("connection", "close"), kind::RST_STREAM),
        (with("transfer-encoding", "chunked"), kind::RST_STREAM),
        (with("upgrade", "websocket"), kind::RST_STREAM),
        (with("keep-alive", "timeout=5"), kind::RST_STREAM),
        (with("te", "gzip"), kind::RST_STREAM),
        (with("content-length", "5"), kind::RST_STREAM),
        (header_block(pseudo("/").into_iter().skip(1)), kind::RST_STREAM),
        (header_block(pseudo("/").into_iter().chain([(":path", "/")])), kind::RST_STREAM),
        (header_block([("x", "y")].into_iter().chain(pseudo("/"))), kind::RST_STREAM),
        (header_block(pseudo("/").into_iter().chain([(":unknown", "x")])), kind::GOAWAY),
        (header_block(pseudo("")), kind::RST_STREAM),
        (header_block(pseudo("/a b")), kind::RST_STREAM),
    ] {
        let mut client = connect(&gateway).await;
        client.send(frame(kind::HEADERS, WHOLE, 1, &block)).await.unwrap();
        let wanted = |frame: &Frame| matches!(frame.kind, kind::RST_STREAM | kind::HEADERS | kind::GOAWAY);
        let came = client.find(wanted).await.unwrap_or_else(|error| panic!("{}: {error:#}", block.escape_ascii()));
        assert_eq!((came.kind, came.error_code()), (expected, Some(PROTOCOL_ERROR)), "{}", block.escape_ascii());
        if expected == kind::RST_STREAM {
            // Another one on the same connection is served.
            client.send(frame(kind::HEADERS, WHOLE, 3, &get(HOST, []))).await.unwrap();
            assert_eq!(client.find(wanted).await.unwrap().stream, 3, "{}", block.escape_ascii());
        }
    }
    assert!(upstream.requests().iter().all(|request| request.complete && request.header("x").is_none()));
}

#[tokio::test]
async fn heads_and_streams_have_their_limits() {
    let (gateway, upstream) = start().await;
    let mut client = gateway.h2_client().await.unwrap();
    let with = |headers: usize, size: usize| {
        let mut request = http::Request::get(format!("http://{HOST}/"));
        for number in 0..headers {
            request = request.header(format!("x-{number}"), "y".repeat(size));
        }
        request.body(gateway_tests::body::Outgoing::empty()).unwrap()
    };
    // The authority becomes a header, too.
    for (headers, size, status) in [(99, 1, 200), (100, 1, 431), (50, 1_000, 200), (50, 1_300, 431), (90, 1_500, 431)] {
        assert_eq!(client.fetch(with(headers, size)).await.unwrap().status, status, "{headers} x {size}");
    }
    let disguised = http::Request::get(format!("http://{HOST}/")).header("content_length", "5");
    let disguised = disguised.body(gateway_tests::body::Outgoing::empty()).unwrap();
    assert_eq!(client.fetch(disguised).await.unwrap().status, 400);

    let gate = Gate::shut();
    let shut = gate.clone();
    upstream.answer_with(move |_| Answer::new(200).after(&shut));
    let mut client = connect(&gateway).await;
    client.find(|frame| frame.kind == kind::SETTINGS && frame.flags & ACK != 0).await.unwrap();
    for stream in (1..=203).step_by(2) {
        client.send(frame(kind::HEADERS, WHOLE, stream, &get(HOST, []))).await.unwrap();
        if stream == 199 {
            // All hundred are being served.
            gateway.metric_becomes("gateway_requests_in_flight", &[], 100.0).await.unwrap();
        }
    }
    let refused = client.find(|frame| frame.kind == kind::RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.error_code()), (201, Some(REFUSED_STREAM)));
    assert!(gateway.metrics().await.unwrap().sum("gateway_limit_exceeded_total", &[("limit", "http2_streams")]) > 0.0);
    gate.open();
    client.find(|frame| frame.stream == 199 && frame.is_end_stream()).await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}

/// `HTTP2_ROUNDS=10000` is row C-5 in full.
#[tokio::test]
async fn data_that_nobody_reads_does_not_use_up_the_window() {
    let rounds = std::env::var("HTTP2_ROUNDS").map_or(2_000, |text| text.parse().unwrap());
    let (gateway, upstream) = start().await;
    let mut client = connect(&gateway).await;
    let post = |method: &str| {
        let pseudo = [(":method", method), (":scheme", "http"), (":authority", HOST), (":path", "/")];
        header_block(pseudo)
    };
    // It is answered at once, and nobody reads the body.
    let refused = post("TRACE");
    let credit = |frame: &Frame| match (frame.kind, frame.stream, frame.payload.first_chunk()) {
        (kind::WINDOW_UPDATE, 0, Some(more)) => u64::from(u32::from_be_bytes(*more)),
        _ => 0,
    };
    let (mut sent, mut given, mut stream) = (0, 65_535, 1);
    for round in 0..rounds {
        let head = frame(kind::HEADERS, END_HEADERS, stream, &refused);
        client.send([head, frame(kind::DATA, END_STREAM, stream, &[7; 1_000])].concat()).await.unwrap();
        sent += 1_000;
        loop {
            let came = client.next().await.unwrap().unwrap_or_else(|| panic!("the connection ended in round {round}"));
            assert_ne!(came.kind, kind::GOAWAY, "round {round}");
            given += credit(&came);
            if came.stream == stream && (came.is_end_stream() || came.kind == kind::RST_STREAM) {
                break;
            }
        }
        stream += 2;
        assert!(given > sent, "the window is empty in round {round}");
    }
    // All of the window is there again, but for what is given back only in larger pieces.
    client.send(frame(kind::PING, 0, 0, b"the end!")).await.unwrap();
    loop {
        let came = client.next().await.unwrap().unwrap();
        given += credit(&came);
        if came.payload == b"the end!" {
            break;
        }
    }
    let window = given - sent;
    assert!(window >= 512 * 1024, "{window} bytes are left after {rounds} rounds");
    client.send(frame(kind::HEADERS, END_HEADERS, stream, &post("POST"))).await.unwrap();
    client.send(frame(kind::DATA, END_STREAM, stream, b"body")).await.unwrap();
    client.find(|frame| frame.stream == stream && frame.is_end_stream()).await.unwrap();
    assert_eq!(upstream.requests().len(), 1);
}
