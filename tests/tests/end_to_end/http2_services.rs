//! Services in HTTP/2 that send more than anybody asked for; frames are made by hand.

use gateway_tests::gateway::Setup;
use gateway_tests::http2_frames::{END_HEADERS, END_STREAM, Frames, frame, get, header_block, kind};
use gateway_tests::resources::{GATEWAY, service_at, virtual_service};
use gateway_tests::within;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HOST: &str = "test.example.dev";

/// One that needs nothing of its test.
type Flood = fn(usize, u8, u32, bool) -> Vec<u8>;

/// What a service sends on this connection for a frame of this kind on this stream; `true`: it is the last of its message.
trait Says: Fn(usize, u8, u32, bool) -> Vec<u8> + Clone + Send + 'static {}
impl<F: Fn(usize, u8, u32, bool) -> Vec<u8> + Clone + Send + 'static> Says for F {}

/// A service that answers frames with `says`. Gives its address and how many connections it has had.
async fn service(says: impl Says) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let says = says.clone();
            // The gateway hangs up; that is what this is about.
            tokio::spawn(async move { drop(serve(stream, number, says).await) });
        }
    });
    (address, connections)
}

async fn serve(mut stream: TcpStream, number: usize, says: impl Says) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(&frame(kind::SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await?;
        let [a, b, c, kind, flags, s, t, u, v] = header;
        stream.read_exact(&mut vec![0; u32::from_be_bytes([0, a, b, c]) as usize]).await?;
        let last = matches!(kind, kind::DATA | kind::HEADERS) && flags & END_STREAM != 0;
        stream.write_all(&says(number, kind, u32::from_be_bytes([s, t, u, v]), last)).await?;
    }
}

fn answer(stream: u32) -> Vec<u8> {
    let head = frame(kind::HEADERS, END_HEADERS, stream, &header_block([(":status", "200")]));
    [head, frame(kind::DATA, END_STREAM, stream, b"ok")].concat()
}

/// What answers a request: 10,000 of these frames, and only then an answer.
fn flood(stream: u32, last: bool, frame: &[u8]) -> Vec<u8> {
    if last { [frame.repeat(10_000), answer(stream)].concat() } else { Vec::new() }
}

async fn start(address: SocketAddr) -> gateway_tests::gateway::TestGateway {
    let route = virtual_service("all", &["*"], "  - {retries: {attempts: 0}, route: [{destination: {host: sample}}]}");
    let text = GATEWAY.to_owned() + &service_at("sample", "HTTP2", &[address]) + &route;
    Setup::new().workers(1).file("all.yaml", text).start().await.unwrap()
}

#[tokio::test]
async fn floods_end_the_connection_and_no_other() {
    let floods: [(&str, Flood); 3] = [
        ("PING", |_, _, stream, last| flood(stream, last, &frame(kind::PING, 0, 0, b"12345678"))),
        ("SETTINGS", |_, _, stream, last| flood(stream, last, &frame(kind::SETTINGS, 0, 0, &[]))),
        ("WINDOW_UPDATE", |_, _, stream, last| flood(stream, last, &frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
    ];
    for (what, flood) in floods {
        let (address, connections) = service(flood).await;
        let gateway = start(address).await;
        let mut client = gateway.client().await.unwrap();
        let status = client.get(HOST, "/").await.unwrap().status;
        assert!(matches!(status, 502 | 503), "{what}: {status}");
        gateway
            .metric_becomes("gateway_limit_exceeded_total", &[("limit", "upstream_http2_frames")], 1.0)
            .await
            .unwrap();
        gateway.metric_becomes("gateway_upstream_connections", &[], 0.0).await.unwrap();
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{what}");
        gateway.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_was_flooded_is_replaced() {
    let (address, connections) = service(|number, kind, stream, last| match (number, kind, last) {
        (0, kind::HEADERS, true) => [answer(stream), frame(kind::PING, 0, 0, b"12345678").repeat(10_000)].concat(),
        (_, kind::HEADERS, true) => answer(stream),
        _ => Vec::new(),
    })
    .await;
    let gateway = start(address).await;
    let mut client = gateway.client().await.unwrap();
    // The answer comes first, so it counts.
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "upstream_http2_frames")], 1.0).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_service_that_answers_every_piece_is_no_flood() {
    let (seen, mut pieces) = tokio::sync::mpsc::unbounded_channel();
    let (address, connections) = service(move |_, kind, stream, last| match (kind, last) {
        (kind::DATA | kind::HEADERS, true) => answer(stream),
        (kind::DATA, _) => {
            seen.send(()).unwrap();
            let more = [0, 0, 0, 20];
            let whole = frame(kind::WINDOW_UPDATE, 0, 0, &more);
            [whole, frame(kind::WINDOW_UPDATE, 0, stream, &more), frame(kind::PING, 0, 0, b"12345678")].concat()
        }
        _ => Vec::new(),
    })
    .await;
    let gateway = start(address).await;
    let mut client = Frames::connect(gateway.address(80).unwrap()).await.unwrap();
    let mut head = get(HOST, []);
    // POST has the index behind that of GET, but this block has no indexes: the method is a literal.
    let at = head.windows(3).position(|window| window == b"GET").unwrap();
    head.splice(at - 1..at + 3, [4, b'P', b'O', b'S', b'T']);
    client.send(frame(kind::HEADERS, END_HEADERS, 1, &head)).await.unwrap();
    for _ in 0..3_000 {
        client.send(frame(kind::DATA, 0, 1, &[7; 20])).await.unwrap();
        // One at a time: many that wait would be a flood of the client's.
        within("a piece", pieces.recv()).await.unwrap().unwrap();
    }
    client.send(frame(kind::DATA, END_STREAM, 1, &[])).await.unwrap();
    let last = within("the answer", client.find(|frame| frame.stream == 1 && frame.is_end_stream())).await.unwrap();
    assert_eq!(last.unwrap().payload, b"ok");
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_limit_exceeded_total", &[("limit", "upstream_http2_frames")]), 0.0);
}
