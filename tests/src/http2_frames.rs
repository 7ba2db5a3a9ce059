//! HTTP/2 by hand: frames exactly as the test wants them, for clients that break the rules.

use crate::within;
use anyhow::{Context as _, ensure};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Types of frames (RFC 9113 section 6).
pub mod kind {
    #![allow(missing_docs, reason = "they are the names of the standard")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// On DATA and HEADERS: the last frame of this stream.
pub const END_STREAM: u8 = 1;
/// On SETTINGS and PING: an answer.
pub const ACK: u8 = 1;
/// On HEADERS and CONTINUATION: the header block is complete.
pub const END_HEADERS: u8 = 4;

/// A frame that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// [`kind`]
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub fn error_code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        let code = self.payload.get(at..at + 4)?;
        code.try_into().ok().map(u32::from_be_bytes)
    }

    /// Whether its stream ends with it.
    pub fn is_end_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & END_STREAM != 0
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals that are not put into any table (RFC 7541 section 6.2.2).
pub fn header_block<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // An integer with a prefix of seven bits (RFC 7541 section 5.1).
            let mut length = text.len();
            if length < 127 {
                block.push(length as u8);
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push((length % 128) as u8 | 128);
                    length /= 128;
                }
                block.push(length as u8);
            }
            block.extend(text.bytes());
        }
    }
    block
}

/// The header block of a `GET /` for this host, with further fields.
pub fn get<'a>(host: &'a str, more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/")];
    header_block(pseudo.into_iter().chain(more))
}

/// One side of a connection: what is sent, and what comes.
pub struct Frames {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

impl Frames {
    /// Opens a connection and sends the preface with empty settings.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Frames> {
        let stream = within("a connection", TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let mut frames = Frames { reader, writer };
        frames.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        frames.send(frame(kind::SETTINGS, 0, 0, &[])).await?;
        Ok(frames)
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        within("frames to be sent", self.writer.write_all(bytes.as_ref())).await??;
        Ok(())
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> anyhow::Result<Option<Frame>> {
        next(&mut self.reader).await
    }

    /// The next frame for which `wanted` is true; others are dropped.
    pub async fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> anyhow::Result<Frame> {
        loop {
            let frame = self.next().await?.context("the connection ended before the frame came")?;
            if wanted(&frame) {
                return Ok(frame);
            }
        }
    }

    /// Sends the same bytes again and again, at most `times`, and gives what came until the connection ended, or until
    /// everything was sent and a PING answered.
    pub async fn flood(self, bytes: &[u8], times: usize) -> anyhow::Result<Vec<Frame>> {
        let Frames { mut reader, mut writer } = self;
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move {
            for _ in 0..times {
                // The other side may have had enough.
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            let _ = writer.write_all(&frame(kind::PING, 0, 0, b"the end!")).await;
            writer
        });
        let mut came = Vec::new();
        while let Some(frame) = next(&mut reader).await.unwrap_or(None) {
            let last = frame.kind == kind::PING && frame.payload == b"the end!";
            came.push(frame);
            if last {
                break;
            }
        }
        drop(within("a flood to end", sending).await??);
        Ok(came)
    }
}

async fn next(reader: &mut OwnedReadHalf) -> anyhow::Result<Option<Frame>> {
    let mut header = [0; 9];
    let mut have = 0;
    while have < header.len() {
        match within("a frame", reader.read(&mut header[have..])).await?? {
            0 if have == 0 => return Ok(None),
            0 => anyhow::bail!("the connection ended within a frame"),
            more => have += more,
        }
    }
    let [a, b, c, kind, flags, s, t, u, v] = header;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    ensure!(length <= 1 << 20, "a frame of {length} bytes");
    let mut payload = vec![0; length];
    within("a payload", reader.read_exact(&mut payload)).await??;
    Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes([s & 0x7f, t, u, v]), payload }))
}
