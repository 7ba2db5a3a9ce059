//! The service behind the proxies: answers known before the request comes, so that it takes as little as possible of
//! the processor that it shares with the client.
//!
//! It understands just what the benchmark sends. Anything else is answered 400, which every client here treats as the
//! end of the run.

mod grpc;

use std::{net::SocketAddr, rc::Rc, time::Duration};

pub(crate) use grpc::message as grpc_message;

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{load::websocket, process};

/// Bytes of the small answer.
pub(crate) const SMALL: usize = 128;

/// Where it listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// HTTP/1.1 and WebSockets.
    pub(crate) http: SocketAddr,
    /// gRPC, HTTP/2 in clear text.
    pub(crate) grpc: SocketAddr,
}

/// Starts the origin on a thread of its own.
pub(crate) fn start() -> anyhow::Result<Origin> {
    let listen = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>((listener.local_addr()?, listener))
    };
    let ((http, http_listener), (grpc, grpc_listener)) = (listen()?, listen()?);
    std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
        if let Err(error) = serve(http_listener, grpc_listener) {
            eprintln!("the origin ended: {error:#}");
            std::process::exit(1);
        }
    })?;
    Ok(Origin { http, grpc })
}

fn serve(http: std::net::TcpListener, grpc: std::net::TcpListener) -> anyhow::Result<()> {
    process::pin(process::LOAD_CPU).context("cannot choose a processor")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answers = Rc::new(Answers::new());
    // A proxy that closes a connection is no error of the origin: what a connection ends with is of no interest.
    let http = accept(http, move |stream| {
        let answers = answers.clone();
        tokio::task::spawn_local(async move {
            let _ = Connection { stream, buffer: Vec::with_capacity(READ) }.serve(&answers).await;
        });
    });
    let grpc = accept(grpc, |stream| {
        tokio::task::spawn_local(async move {
            let _ = grpc::serve(stream).await;
        });
    });
    tokio::task::LocalSet::new().block_on(&runtime, async { tokio::try_join!(http, grpc) })?;
    Ok(())
}

async fn accept(listener: std::net::TcpListener, each: impl Fn(TcpStream)) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: the connections that hold them will end.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true)?;
        each(stream);
    }
}

/// One whole response for each path.
struct Answers {
    small: Vec<u8>,
    headers: Vec<u8>,
    large: Vec<u8>,
    huge: Vec<u8>,
}

impl Answers {
    fn new() -> Answers {
        Answers {
            small: answer("content-type: text/plain\r\n", SMALL),
            headers: answer(
                "content-type: application/json; charset=utf-8\r\n\
                 cache-control: private, max-age=0, must-revalidate\r\n\
                 etag: W/\"5f2c-9b1e7d3a4c\"\r\n\
                 last-modified: Thu, 26 Nov 2026 08:12:31 GMT\r\n\
                 vary: accept-encoding, accept-language\r\n\
                 content-language: en\r\n\
                 x-content-type-options: nosniff\r\n\
                 x-frame-options: SAMEORIGIN\r\n\
                 set-cookie: session=4b7ad2f0c1e94a5f8d3e6b7c9a0f1e2d; Path=/; HttpOnly; Secure; SameSite=Lax\r\n",
                SMALL,
            ),
            large: answer("content-type: application/octet-stream\r\n", 64 << 10),
            huge: answer("content-type: application/octet-stream\r\n", 1 << 20),
        }
    }

    fn to(&self, path: &[u8]) -> Option<&[u8]> {
        match path {
            b"/small" | b"/" => Some(&self.small),
            b"/headers" => Some(&self.headers),
            b"/64k" => Some(&self.large),
            b"/1m" => Some(&self.huge),
            _ => None,
        }
    }
}

fn answer(headers: &str, length: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nserver: origin\r\ndate: Fri, 27 Nov 2026 10:00:00 GMT\r\n{headers}content-length: {length}\r\n\r\n"
    );
    let body = b"0123456789abcdef".iter().cycle().take(length);
    head.bytes().chain(body.copied()).collect()
}

/// The answer to the one key that the client here sends, that of RFC 6455.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const READ: usize = 64 << 10;

struct Connection {
    stream: TcpStream,
    /// What was read and does not belong to a finished request.
    buffer: Vec<u8>,
}

impl Connection {
    async fn serve(mut self, answers: &Answers) -> std::io::Result<()> {
        loop {
            let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") else {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Ok(());
                }
                continue;
            };
            let head = &self.buffer[..end + 2];
            let mut words = head.split(|byte| *byte == b' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if path == b"/websocket" {
                self.stream.write_all(SWITCHING).await?;
                self.buffer.drain(..end + 4);
                return self.echo().await;
            }
            let found = answers.to(path);
            let body = if method == b"POST" { body_length(head) } else { Some(0) };
            let (Some(answer), Some(body)) = (found, body) else {
                return self.stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            };
            self.skip(end + 4 + body).await?;
            self.stream.write_all(answer).await?;
        }
    }

    /// Sends the client's messages back, as a server has to: without the mask that a client's frames have.
    async fn echo(mut self) -> std::io::Result<()> {
        let frame = websocket::MASKED_HEAD + websocket::MESSAGE;
        let mut answer = Vec::with_capacity(READ);
        loop {
            answer.clear();
            let whole = self.buffer.len() / frame * frame;
            for frame in self.buffer[..whole].chunks_exact(frame) {
                let (head, message) = frame.split_at(websocket::MASKED_HEAD);
                let mask = &head[websocket::HEAD..];
                answer.extend_from_slice(&websocket::head(false));
                answer.extend(message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            }
            self.buffer.drain(..whole);
            self.stream.write_all(&answer).await?;
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Takes so many bytes away, most of which may still have to come.
    async fn skip(&mut self, mut length: usize) -> std::io::Result<()> {
        while length > self.buffer.len() {
            length -= self.buffer.len();
            self.buffer.clear();
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.buffer.drain(..length);
        Ok(())
    }
}

/// The value of Content-Length; nothing for a chunked body, which no peer makes of what the clients here send.
fn body_length(head: &[u8]) -> Option<usize> {
    let line = head
        .split(|byte| *byte == b'\n')
        .find(|line| line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case(b"content-length:")))?;
    std::str::from_utf8(&line[15..]).ok()?.trim().parse().ok()
}
