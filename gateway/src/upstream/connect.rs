//! Opening connections.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use super::Failure;
use crate::net::Stream;

/// Probes of an idle connection start after this long, so that a vanished upstream is noticed.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connects within `timeout`.
pub(super) async fn connect(address: SocketAddr, timeout: Duration) -> Result<Stream, Failure> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => configure(&stream).map(|()| Stream::Plain(stream)).map_err(Failure::Connect),
        Ok(Err(error)) => Err(Failure::Connect(error)),
        Err(_) => Err(Failure::ConnectTimeout),
    }
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE))
}
