//! Opening connections.

use std::{io, net::SocketAddr};

use tokio::net::TcpStream;

use super::Failure;
use crate::{
    net::Stream,
    snapshot::{ConnectionSettings, TcpKeepalive},
};

/// Connects within the time that the settings give.
pub(super) async fn connect(address: SocketAddr, settings: &ConnectionSettings) -> Result<Stream, Failure> {
    match tokio::time::timeout(settings.connect_timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            configure(&stream, settings.keepalive).map(|()| Stream::Plain(stream)).map_err(Failure::Connect)
        }
        Ok(Err(error)) => Err(Failure::Connect(error)),
        Err(_) => Err(Failure::ConnectTimeout),
    }
}

fn configure(stream: &TcpStream, keepalive: TcpKeepalive) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut probes = socket2::TcpKeepalive::new().with_time(keepalive.time);
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval);
    }
    if let Some(retries) = keepalive.probes {
        probes = probes.with_retries(retries);
    }
    socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
}
