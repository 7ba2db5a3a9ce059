//! Clients: one that sends exactly the bytes it is given, and one that speaks HTTP/2; and a server of the first kind.

use crate::body::Outgoing;
use crate::server::{Io, Tasks};
use crate::within;
use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An HTTP/1.1 client that knows no rules for what it sends and strict ones for what it receives.
pub struct RawClient<S = TcpStream> {
    stream: S,
    /// Received and not looked at yet.
    buffer: Vec<u8>,
}

/// A response, as it was on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawResponse {
    /// 200.
    pub status: u16,
    /// `HTTP/1.1`.
    pub version: String,
    /// Names as they were written, in order. Bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl RawResponse {
    /// The first value of a header; names are compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_values(name).into_iter().next()
    }

    /// Every value of a header, in order.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl RawClient {
    /// Opens a connection.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<RawClient> {
        let stream = within("a connection", TcpStream::connect(address)).await?;
        let stream = stream.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(RawClient::over(stream))
    }

    /// Breaks the connection off with a reset instead of an end.
    pub fn reset(self) -> anyhow::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO))?;
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawClient<S> {
    /// Speaks over a connection that is open already.
    pub fn over(stream: S) -> RawClient<S> {
        RawClient { stream, buffer: Vec::new() }
    }

    /// Sends these bytes and nothing else.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let sent = async {
            self.stream.write_all(bytes.as_ref()).await?;
            // TLS keeps what the socket did not take at once.
            self.stream.flush().await
        };
        Ok(within("bytes to be sent", sent).await??)
    }

    /// Sends as many of these bytes as the connection takes at once; waits until it takes some.
    pub async fn send_some(&mut self, bytes: &[u8]) -> anyhow::Result<usize> {
        Ok(self.stream.write(bytes).await?)
    }

    /// Says that nothing more will be sent; the other direction stays open.
    pub async fn finish_sending(&mut self) -> anyhow::Result<()> {
        within("a connection to be half-closed", self.stream.shutdown()).await??;
        Ok(())
    }

    /// Sends a plain `GET` and reads the response.
    pub async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<RawResponse> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await?;
        self.response().await
    }

    /// Reads one response, interim ones (1xx) included.
    ///
    /// # Errors
    /// The connection ends before the response does, or what comes is not a response.
    pub async fn response(&mut self) -> anyhow::Result<RawResponse> {
        let mut response = self.head().await?;
        self.body(&mut response).await?;
        Ok(response)
    }

    /// Reads the body that belongs to a head, and its trailers.
    pub async fn body(&mut self, response: &mut RawResponse) -> anyhow::Result<()> {
        let declared = Declared::of(response)?;
        match declared {
            Declared::Nothing => {}
            Declared::Length(len) => response.body = self.read(len).await?,
            Declared::Chunked => loop {
                let chunk = self.chunk().await?;
                if chunk.is_empty() {
                    response.trailers = self.fields().await?;
                    break;
                }
                response.body.extend(chunk);
            },
            Declared::UntilClosed => {
                while self.fill().await? {}
                response.body = std::mem::take(&mut self.buffer);
            }
        }
        Ok(())
    }

    /// Reads the head of a response and nothing of its body: all there is of an answer to `HEAD`, and the way to look
    /// at a body while it is on its way.
    pub async fn head(&mut self) -> anyhow::Result<RawResponse> {
        let line = self.line().await?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        let status = words.next().and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("{line:?} is no status line"))?;
        ensure!(version.starts_with("HTTP/1."), "{line:?} is no status line");
        Ok(RawResponse { status, version, headers: self.fields().await?, ..RawResponse::default() })
    }

    /// Reads the head of a request, for the side that answers: its first line and its headers.
    pub async fn request_head(&mut self) -> anyhow::Result<(String, Vec<(String, String)>)> {
        Ok((self.line().await?, self.fields().await?))
    }

    /// Reads exactly this many bytes.
    pub async fn read(&mut self, len: usize) -> anyhow::Result<Vec<u8>> {
        while self.buffer.len() < len {
            ensure!(self.fill().await?, "the connection ended {} bytes too early", len - self.buffer.len());
        }
        Ok(self.buffer.drain(..len).collect())
    }

    /// Reads one chunk of a chunked body. The last one is empty; the trailers after it are still to be read.
    pub async fn chunk(&mut self) -> anyhow::Result<Vec<u8>> {
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("{line:?} is no chunk size"))?;
        if size == 0 {
            return Ok(Vec::new());
        }
        let chunk = self.read(size).await?;
        ensure!(self.line().await?.is_empty(), "a chunk is longer than it says");
        Ok(chunk)
    }

    /// Waits until the other side has closed the connection.
    ///
    /// # Errors
    /// Something arrives before.
    pub async fn closed(&mut self) -> anyhow::Result<()> {
        let more = match self.fill().await {
            // A reset is an end, too; that nothing happens is none.
            Err(error) => {
                if error.is::<std::io::Error>() {
                    false
                } else {
                    return Err(error);
                }
            }
            Ok(more) => more,
        };
        ensure!(!more && self.buffer.is_empty(), "instead of the end came {:?}", String::from_utf8_lossy(&self.buffer));
        Ok(())
    }

    /// Header or trailer lines, up to the empty one.
    pub async fn fields(&mut self) -> anyhow::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').with_context(|| format!("{line:?} is no header"))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// One line, without the CR LF it must end with.
    async fn line(&mut self) -> anyhow::Result<String> {
        let end = loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            ensure!(
                self.fill().await?,
                "the connection ended within a line: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => bail!("a line ends without CR: {:?}", String::from_utf8_lossy(&line)),
        }
    }

    /// Reads what there is; false at the end of the connection.
    async fn fill(&mut self) -> anyhow::Result<bool> {
        Ok(within("bytes to arrive", self.stream.read_buf(&mut self.buffer)).await?? > 0)
    }
}

/// An address at which nobody listens, unless the test does. The port is below those that the kernel chooses from, so that
/// no other test is given it meanwhile; one that was free a moment ago would be somebody's now and then.
///
/// # Errors
/// There is none.
pub fn unused_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run side by side begin at different ports.
    let first = 20_000 + std::process::id() % 100 * 100;
    for _ in 0..1_000 {
        let port = u16::try_from(first)? + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("no port is free from {first} on")
}

/// A server for which the test does everything: it reads what comes and sends exactly the bytes it is given.
pub struct RawServer(TcpListener);

impl RawServer {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start() -> anyhow::Result<RawServer> {
        Ok(RawServer(TcpListener::bind("127.0.0.1:0").await?))
    }

    /// Where it listens.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    /// Waits for the next connection.
    pub async fn accept(&self) -> anyhow::Result<RawClient> {
        let (stream, _) = within("a connection at the server", self.0.accept()).await??;
        stream.set_nodelay(true)?;
        Ok(RawClient::over(stream))
    }

    /// Waits for the next connection, reads the head of a request without a body and sends these bytes.
    pub async fn answer(&self, bytes: impl AsRef<[u8]>) -> anyhow::Result<RawClient> {
        let mut connection = self.accept().await?;
        connection.request_head().await?;
        connection.send(bytes).await?;
        Ok(connection)
    }
}

/// How a response says where its body ends (RFC 9112 section 6.3).
enum Declared {
    Nothing,
    Length(usize),
    Chunked,
    UntilClosed,
}

impl Declared {
    fn of(response: &RawResponse) -> anyhow::Result<Declared> {
        let (codings, lengths) =
            (response.header_values("transfer-encoding"), response.header_values("content-length"));
        ensure!(codings.len() + lengths.len() <= 1, "a response with two framings: {:?}", response.headers);
        if response.status < 200 || [204, 304].contains(&response.status) {
            return Ok(Declared::Nothing);
        }
        if let Some(coding) = codings.first() {
            ensure!(coding.eq_ignore_ascii_case("chunked"), "transfer-encoding {coding:?}");
            return Ok(Declared::Chunked);
        }
        match lengths.first() {
            Some(length) => Ok(Declared::Length(length.parse().with_context(|| format!("content-length {length:?}"))?)),
            None => Ok(Declared::UntilClosed),
        }
    }
}

/// An HTTP/2 client: one connection, any number of requests at once. The connection ends when it is dropped.
#[derive(Clone)]
pub struct H2Client(http2::SendRequest<Outgoing>);

/// A response that has come to its end.
#[derive(Clone, Debug)]
pub struct H2Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
}

impl H2Client {
    /// Opens a connection without TLS and without an upgrade (prior knowledge, RFC 9113 section 3.3).
    pub async fn connect(address: SocketAddr) -> anyhow::Result<H2Client> {
        let stream = within("a connection", TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        H2Client::over(stream).await
    }

    /// Speaks over a connection that is open already.
    pub async fn over<S>(stream: S) -> anyhow::Result<H2Client>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http2::Builder::new(Tasks).handshake(Io::new(stream));
        let (sender, connection) = within("an HTTP/2 handshake", handshake).await??;
        // What goes wrong on it is also what its requests end with.
        tokio::spawn(connection);
        Ok(H2Client(sender))
    }

    /// Sends a request and waits for the head of the response. The URI is absolute: `http://test.example.dev/sample`.
    pub async fn send(&mut self, request: Request<Outgoing>) -> anyhow::Result<Response<Incoming>> {
        within("an HTTP/2 connection that takes a request", self.0.ready()).await??;
        Ok(within("an HTTP/2 response", self.0.send_request(request)).await??)
    }

    /// Sends a request and waits for the whole response.
    pub async fn fetch(&mut self, request: Request<Outgoing>) -> anyhow::Result<H2Response> {
        let (head, body) = self.send(request).await?.into_parts();
        let body = within("the end of an HTTP/2 response", body.collect()).await??;
        let trailers = body.trailers().cloned();
        Ok(H2Response { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
    }

    /// Sends a `GET` as far as the connection takes requests. `None`: it takes no more, and nothing was sent.
    ///
    /// # Errors
    /// The request left, and has no answer.
    pub async fn try_get(&mut self, host: &str, path: &str) -> anyhow::Result<Option<StatusCode>> {
        if within("an HTTP/2 connection to be ready or over", self.0.ready()).await?.is_err() {
            return Ok(None);
        }
        let request = Request::get(format!("http://{host}{path}")).body(Outgoing::empty())?;
        let response = match within("an HTTP/2 response", self.0.try_send_request(request)).await? {
            Ok(response) => response,
            Err(error) if error.message().is_some() => return Ok(None),
            Err(error) => {
                let error = error.into_error();
                // The server had said good-bye, and hyper learned of it between "ready" and the request; nobody has
                // looked at a stream that fails with that (RFC 9113 6.8).
                let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<h2::Error>());
                let said_goodbye =
                    |cause: &h2::Error| cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
                return if cause.is_some_and(said_goodbye) { Ok(None) } else { Err(error.into()) };
            }
        };
        let status = response.status();
        within("the end of an HTTP/2 response", response.into_body().collect()).await??;
        Ok(Some(status))
    }

    /// Sends a `GET` and waits for the whole response.
    pub async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<H2Response> {
        self.fetch(Request::get(format!("http://{host}{path}")).body(Outgoing::empty())?).await
    }
}
