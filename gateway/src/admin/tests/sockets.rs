//! What only shows on sockets: addresses, limits, patience.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn taken_addresses_are_all_named_with_their_flags() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let Err(errors) = bind(&Addresses { admin: address, agent: any, status: address, metrics: any }, Vec::new()) else {
        panic!("bound a taken address")
    };
    let text = errors.to_string();
    assert_eq!(errors.0.len(), 2);
    for part in [address.to_string().as_str(), "--admin-address", "--status-address"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn an_upload_over_a_socket() {
    let (state, ..) = state();
    let serving = served(state);
    let address = serving.addresses().admin;
    assert_ne!(address.port(), 0);
    let body = module("one");
    let head = format!(
        "PUT /plugins/a HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = send(address, &head).await;
    stream.write_all(&body).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    assert!(answer.contains("location: /plugins/a\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn too_large_is_said_before_all_of_it_was_sent() {
    let (state, ..) = state();
    let telemetry = state.telemetry.clone();
    let serving = served(state);
    let address = serving.addresses().admin;
    let announced = format!("PUT /plugins/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\nab", 1u64 << 40);
    let chunked = format!(
        "PUT /plugins/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1400\r\n{}\r\n",
        "x".repeat(0x1400)
    );
    for request in [announced, chunked] {
        let answer = rest(send(address, &request).await).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("module-too-large"), "{answer}");
    }
    let metrics = String::from_utf8(telemetry.render_prometheus()).unwrap();
    assert!(metrics.contains("gateway_limit_exceeded_total{limit=\"admin_body_bytes\"} 2"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let (state, ..) = state();
    let serving = served(state);
    let address = serving.addresses().admin;
    let begun = tokio::time::Instant::now();
    // Nothing, half a head, and nothing more after an answer.
    for request in ["", "GET /plugins HTTP/1.1\r\nhost: loc", "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        let answer = rest(send(address, request).await).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 408 "),
            "{answer}"
        );
    }
    let stalled = "PUT /plugins/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nab";
    let answer = rest(send(address, stalled).await).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body-stalled"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let (state, ..) = state();
    let telemetry = state.telemetry.clone();
    let message = "x".repeat(32 << 20);
    state.problems.store(Arc::new(vec![Problem {
        level: Level::Info,
        code: "GW0000",
        resource: String::new(),
        file: String::new(),
        line: 0,
        field: String::new(),
        message,
    }]));
    let serving = served(state);
    let begun = tokio::time::Instant::now();
    let stream = send(serving.addresses().admin, "GET /problems HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    // What was not sent after this long never will be.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let answer = rest(stream).await;
    let metrics = String::from_utf8(telemetry.render_prometheus()).unwrap();
    assert!(metrics.contains("gateway_limit_exceeded_total{limit=\"admin_time\"} 1"), "{metrics}");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.len() < 32 << 20, "{} bytes", answer.len());
    assert!(begun.elapsed() < Duration::from_secs(61));
}

#[tokio::test(start_paused = true)]
async fn connections_are_bounded_and_idle_ones_make_room() {
    let (state, ..) = state();
    let telemetry = state.telemetry.clone();
    let serving = served(state);
    let address = serving.addresses().status;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let answer =
        rest(send(address, "GET /healthz/ready HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n").await).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let metrics = String::from_utf8(telemetry.render_prometheus()).unwrap();
    assert!(metrics.contains("gateway_limit_exceeded_total{limit=\"admin_connections\"}"), "{metrics}");
    drop(idle);
}

#[tokio::test]
async fn heads_are_bounded() {
    let (state, ..) = state();
    let telemetry = state.telemetry.clone();
    let serving = served(state);
    let many = "x: y\r\n".repeat(100);
    let long = format!("x: {}\r\n", "y".repeat(64 << 10));
    for extra in [many, long] {
        let request = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{extra}\r\n");
        let answer = rest(send(serving.addresses().admin, &request).await).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    // The answer is there a moment before its connection is over.
    let counted = || {
        let metrics = String::from_utf8(telemetry.render_prometheus()).unwrap();
        metrics.contains("gateway_limit_exceeded_total{limit=\"admin_head_bytes\"} 2")
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !counted() {
        assert!(tokio::time::Instant::now() < deadline, "not counted");
        tokio::task::yield_now().await;
    }
}
