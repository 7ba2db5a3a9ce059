//! Opening connections.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, TlsStream};

use super::Failure;
use crate::{
    net::Stream,
    overload::descriptors,
    snapshot::{Cluster, TcpKeepalive, Transport},
    tls::Inside,
};

/// Connects, and shakes hands if a name to ask for is given, within the time that the settings give.
pub(super) async fn connect(
    address: SocketAddr,
    cluster: &Cluster,
    inside: Inside,
    server_name: Option<&ServerName<'static>>,
) -> Result<Stream, Failure> {
    let settings = &cluster.connections;
    let connected = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(no_socket)?;
        if descriptors::is_reserved(&socket) {
            return Err(Failure::Descriptors);
        }
        let stream = socket.connect(address).await.map_err(Failure::Connect)?;
        configure(&stream, settings.keepalive).map_err(Failure::Connect)?;
        let tls = match (&cluster.transport, server_name) {
            (Transport::Plain, _) => return Ok(Stream::Plain(stream)),
            (Transport::Tls(tls), Some(server_name)) => (tls, server_name),
            (Transport::Tls(_), None) => return Err(Failure::Tls("there is no name to ask for".to_owned())),
            (Transport::Unusable(reason), _) => return Err(Failure::Tls(reason.to_string())),
        };
        let config = tls.0.config(inside);
        let shaken = TlsConnector::from(Arc::clone(config)).connect(tls.1.clone(), stream).await;
        let stream = shaken.map_err(|error| Failure::Tls(error.to_string()))?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    };
    // Boxed: a handshake's state is large, and most requests do not connect.
    tokio::time::timeout(settings.connect_timeout, Box::pin(connected)).await.unwrap_or(Err(Failure::ConnectTimeout))
}

/// There is no socket: most likely somebody else has taken the last descriptors.
fn no_socket(error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => Failure::Descriptors,
        _ => Failure::Connect(error),
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
