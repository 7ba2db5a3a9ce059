//! Memory of connections on which nothing happens: each has had one request, and waits for the next.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    load::{Client, handshakes},
    origin::SMALL,
    peers::{HOST, Kind, Peer, Site, Variant},
};

/// How many there are when the proxy's memory is looked at.
const STEPS: [usize; 4] = [500, 2_500, 5_000, 10_000];

/// How many are opened at the same time: some proxies answer a first request only after 40 ms (delayed acknowledgement).
const AT_ONCE: usize = 20;

/// Bytes of the proxy's own memory for each idle connection: the slope over [`STEPS`], in a process that is new.
/// (The first 500 are there before, so that pools and caches that have nothing to do with the number are filled.)
pub(crate) fn per_connection(client: &Client, kind: Kind, tls: bool, site: &Site) -> anyhow::Result<f64> {
    let peer = Peer::start(kind, Variant::Fresh, site)?;
    let connector = tls.then(|| connector(&site.certificate)).transpose()?;
    let port = if tls { peer.doors.https } else { peer.doors.http };
    let mut open: Vec<Box<dyn std::any::Any>> = Vec::new();
    let mut points = Vec::new();
    for count in STEPS {
        while open.len() < count {
            let opened = client.run(try_join_all((0..AT_ONCE.min(count - open.len())).map(|_| async {
                let socket = TcpStream::connect(("127.0.0.1", port)).await.context("cannot connect")?;
                Ok(match &connector {
                    None => Box::new(asked(socket).await?) as Box<dyn std::any::Any>,
                    Some(tls) => Box::new(asked(tls.connect(ServerName::try_from(HOST)?, socket).await?).await?),
                })
            })));
            open.extend(opened.with_context(|| format!("after {} connections", open.len()))?);
        }
        // Whatever a proxy does later for connections that have become idle.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        points.push((count as f64, peer.server.memory()? as f64));
    }
    Ok(slope(&points))
}

fn connector(certificate: &Path) -> anyhow::Result<TlsConnector> {
    Ok(TlsConnector::from(Arc::new(handshakes::configuration(certificate, false)?)))
}

async fn asked<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> anyhow::Result<S> {
    stream.write_all(format!("GET /small HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(1024);
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed without an answer");
        if let Some(end) = memchr::memmem::find(&answer, b"\r\n\r\n")
            && answer.len() >= end + 4 + SMALL
        {
            return Ok(stream);
        }
    }
}

/// Of the line with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let together: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    together / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}
