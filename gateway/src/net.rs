//! Sockets: binding listeners and passing them on, the adapter between tokio's streams and hyper's, and streams that are
//! only copied.

pub(crate) mod descriptors;
pub(crate) mod frames;
mod pipe;
pub(crate) mod reading;
mod tunnel;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::ReadBufCursor;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub(crate) use pipe::Pipe;
pub(crate) use tunnel::{End, Ended, Tunnel};

/// Silence after which the kernel asks whether a peer that need not say anything is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connections the kernel may hold before we accept them.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Binds one listening socket per worker to the same address (`SO_REUSEPORT`): the kernel spreads
/// connections over them and no worker waits for another. A plain bind comes first, because
/// `SO_REUSEPORT` would hide that another process of this user already listens there.
///
/// With port 0 the kernel chooses one port for all. The first error is returned.
pub fn bind(address: SocketAddr, sockets: usize) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    if address.port() != 0 {
        try_bind(address)?;
    }
    let listeners = join(address, sockets.max(1))?;
    let address = listeners.first().map_or(Ok(address), std::net::TcpListener::local_addr)?;
    Ok((address, listeners))
}

/// Finds out whether nobody listens on an address and we may; nobody does afterwards either.
pub fn try_bind(address: SocketAddr) -> io::Result<()> {
    let probe = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // As every server does, so that connections of a predecessor in TIME_WAIT do not count as taken.
    probe.set_reuse_address(true)?;
    probe.bind(&address.into())?;
    probe.listen(1)
}

/// Binds so many more sockets to an address on which this user may already listen in the same way.
pub fn join(mut address: SocketAddr, sockets: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let mut listeners = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        let listener = std::net::TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// A connection's bytes, in clear text or inside TLS (either side of it).
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket below.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// The socket, if its bytes are those of the stream.
    pub(crate) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }

    /// Lets the kernel ask a silent peer from time to time whether it is still there: one that has vanished is noticed
    /// after [`KEEPALIVE`] and some unanswered questions more.
    pub(crate) fn keep_alive(&self) -> io::Result<()> {
        let probes = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4).with_retries(4);
        socket2::SockRef::from(self.tcp()).set_tcp_keepalive(&probes)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

/// A tokio stream as hyper wants to read and write it.
#[derive(Debug)]
pub struct Io<T>(pub T);

impl<T: AsyncRead + Unpin> hyper::rt::Read for Io<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        poll_read(Pin::new(&mut self.0), cx, buffer).map_ok(|_| ())
    }
}

/// Reads into hyper's buffer and says how many bytes came; 0 is the end of the stream.
pub(crate) fn poll_read<T: AsyncRead>(
    stream: Pin<&mut T>,
    cx: &mut Context<'_>,
    mut buffer: ReadBufCursor<'_>,
) -> Poll<io::Result<usize>> {
    // SAFETY: `ReadBuf` never de-initialises bytes, and only what it says was filled is advanced over.
    let filled = unsafe {
        let mut target = ReadBuf::uninit(buffer.as_mut());
        match stream.poll_read(cx, &mut target) {
            Poll::Ready(Ok(())) => target.filled().len(),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
    };
    // SAFETY: these bytes were just filled.
    unsafe { buffer.advance(filled) };
    Poll::Ready(Ok(filled))
}

impl<T: AsyncWrite + Unpin> hyper::rt::Write for Io<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Spawns hyper's background work on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
