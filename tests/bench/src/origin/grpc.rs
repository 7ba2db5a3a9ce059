//! gRPC without protobuf: a message is five bytes of frame and [`MESSAGE`] bytes that nobody looks into.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;

/// Bytes of a message.
pub(crate) const MESSAGE: usize = 128;

/// One message as it is sent.
pub(crate) fn message() -> Bytes {
    let head = [0, 0, 0, 0, MESSAGE as u8];
    head.into_iter().chain((0..MESSAGE).map(|n| n as u8)).collect()
}

/// Answers `/bench.Echo/Unary` with one message and `/bench.Echo/Stream` with every byte that comes.
pub(super) async fn serve(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(1000)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake(stream)
        .await?;
    let answer = message();
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        let answer = answer.clone();
        tokio::task::spawn_local(async move {
            // The client sees its stream broken off.
            let _ = call(request, respond, answer).await;
        });
    }
    Ok(())
}

async fn call(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    answer: Bytes,
) -> Result<(), h2::Error> {
    let streaming = request.uri().path() == "/bench.Echo/Stream";
    let mut body = request.into_body();
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut send = None;
    if streaming {
        send = Some(respond.send_response(response.clone(), false)?);
    }
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        // An empty frame that ends the request is not sent back: Envoy closes a connection with two of them in a row.
        if let Some(send) = send.as_mut().filter(|_| !piece.is_empty()) {
            send.send_data(piece, false)?;
        }
    }
    let mut send = match send {
        Some(send) => send,
        None => {
            let mut send = respond.send_response(response, false)?;
            send.send_data(answer, false)?;
            send
        }
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers)
}
