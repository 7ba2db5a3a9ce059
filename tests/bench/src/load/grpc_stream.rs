//! gRPC streams of a thousand messages: each waits for its echo before the next is sent.

use std::{cell::Cell, rc::Rc};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{net::TcpStream, time::Instant};

use super::{Client, WINDOW};
use crate::{origin::grpc_message, peers::GRPC_HOST};

const MESSAGES: usize = 1000;
const CONNECTIONS: usize = 4;
const STREAMS: usize = 8;

/// Messages that came back.
pub(crate) fn run(client: &Client, port: u16) -> anyhow::Result<u64> {
    client.run(async {
        let end = Instant::now() + WINDOW;
        let count = Rc::new(Cell::new(0));
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let socket = TcpStream::connect(("127.0.0.1", port)).await?;
            socket.set_nodelay(true)?;
            let (send, connection) = h2::client::handshake(socket).await?;
            tokio::task::spawn_local(connection);
            for _ in 0..STREAMS {
                streams.spawn_local(stream(send.clone(), end, count.clone()));
            }
        }
        while let Some(ended) = streams.join_next().await {
            ended?.context("a gRPC stream")?;
        }
        Ok(count.get())
    })
}

/// One stream after the other, until the end.
async fn stream(mut send: SendRequest<Bytes>, end: Instant, count: Rc<Cell<u64>>) -> anyhow::Result<()> {
    let message = grpc_message();
    while Instant::now() < end {
        let request = http::Request::post(format!("http://{GRPC_HOST}/bench.Echo/Stream"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        send = send.ready().await?;
        let (response, mut requests) = send.send_request(request, false)?;
        requests.send_data(message.clone(), false)?;
        let response = response.await?;
        ensure!(response.status() == 200, "answered {}", response.status());
        let mut echoes = response.into_body();
        for n in 1..=MESSAGES {
            let mut missing = message.len();
            while missing > 0 {
                let piece = echoes.data().await.context("ended early")??;
                echoes.flow_control().release_capacity(piece.len())?;
                missing = missing.checked_sub(piece.len()).context("more came back than was sent")?;
            }
            count.set(count.get() + 1);
            if n == MESSAGES || Instant::now() >= end {
                break;
            }
            requests.send_data(message.clone(), false)?;
        }
        requests.send_data(Bytes::new(), true)?;
        // An empty piece before the end is no message.
        while let Some(piece) = echoes.data().await {
            ensure!(piece?.is_empty(), "more came back than was sent");
        }
        let trailers = echoes.trailers().await?.context("no trailers")?;
        ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "trailers: {trailers:?}");
    }
    Ok(())
}
