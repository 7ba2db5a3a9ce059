//! Connections of the admin API: bounded in number, in patience and in what they may send.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Sleep,
};

use super::guard::Ends;
use crate::telemetry::{Limit, Telemetry};

/// Connections at the same time, per address. More wait in the kernel's queue until one ends.
const CONNECTIONS: usize = 64;
/// From accept, or from the end of the answer before, to the end of a request's head. It also ends idle connections.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of a head and of the buffer it is read into.
const HEAD_BYTES: usize = 32 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// How long a client may not read while there is something to send.
const WRITE_STALL: Duration = Duration::from_secs(15);

/// Accepts and serves until the future is dropped, which also ends all connections, or `closing` turns: then the socket is
/// left to others and connections end with their next answer.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    telemetry: Telemetry,
    mut closing: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let place = match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => place,
                Err(_) => {
                    telemetry.limit_exceeded(Limit::AdminConnections);
                    Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?
                }
            };
            listener.accept().await.map(|(stream, peer)| (stream, peer, place))
        };
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let (router, telemetry, closing) = (router.clone(), telemetry.clone(), closing.clone());
                connections.spawn(async move {
                    // A connection that fails concerns its client only.
                    if let Err(error) = serve(stream, peer, router, closing).await {
                        if let Some(limit) = limit_of(&*error) {
                            telemetry.limit_exceeded(limit);
                        }
                        tracing::debug!(%peer, %error, "admin connection ended early");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors or memory: others must finish first.
                tracing::warn!(%error, "cannot accept an admin connection; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The limit that has ended a connection.
fn limit_of(error: &(dyn std::error::Error + 'static)) -> Option<Limit> {
    let http = error.downcast_ref::<hyper::Error>();
    if http.is_some_and(hyper::Error::is_parse_too_large) {
        return Some(Limit::AdminHeadBytes);
    }
    let stalled = std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::TimedOut);
    (stalled || http.is_some_and(hyper::Error::is_timeout)).then_some(Limit::AdminTime)
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    mut closing: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let ends = Ends { peer, local: stream.local_addr()? };
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ends);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Patient { stream, stalled: None }), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

/// A stream that fails when its peer does not read.
struct Patient {
    stream: TcpStream,
    /// Runs while there is something to send and no room for it.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Patient {
    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
