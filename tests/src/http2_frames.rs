//! HTTP/2 by hand: frames exactly as the test wants them, for clients that break the rules.

use crate::within;
use anyhow::{Context as _, ensure};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Types of frames (RFC 9113 section 6).
pub mod kind {
    #![allow(missing_docs, reason = "they are the names of the standard")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
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
/// On DATA and HEADERS: the payload is padded.
pub const PADDED: u8 = 8;
/// On HEADERS: the payload has a priority in front.
pub const PRIORITY: u8 = 32;

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

/// Without its padding (RFC 9113 6.1).
pub fn unpadded(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if flags & PADDED == 0 {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
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
    reader: Reader,
    writer: OwnedWriteHalf,
}

impl Frames {
    /// Opens a connection and sends the preface with empty settings.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Frames> {
        let stream = within("a connection", TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let mut frames = Frames { reader: Reader { half: reader, buffer: Vec::new() }, writer };
        frames.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        frames.send(frame(kind::SETTINGS, 0, 0, &[])).await?;
        Ok(frames)
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        within("frames to be sent", self.writer.write_all(bytes.as_ref())).await??;
        Ok(())
    }

    /// Says that nothing more will be sent; the other direction stays open.
    pub async fn finish_sending(&mut self) -> anyhow::Result<()> {
        within("a connection to be half-closed", self.writer.shutdown()).await??;
        Ok(())
    }

    /// Sends the same bytes again and again while it reads, at most `times`. Gives what came, and how it ended: `closed`
    /// by the other side, or `silent` if that takes nothing more; `None` if everything was sent.
    pub async fn pour(&mut self, bytes: &[u8], times: usize, patience: Duration) -> (Vec<Frame>, Option<&'static str>) {
        let Frames { reader, writer } = self;
        let mut came = Vec::new();
        let end = {
            let sending = async {
                for _ in 0..times {
                    if timeout(patience, writer.write_all(bytes)).await.map_or(true, |sent| sent.is_err()) {
                        return Some("silent");
                    }
                }
                None
            };
            let reading = async {
                while let Ok(Some(frame)) = reader.next().await {
                    came.push(frame);
                }
            };
            let mut reading = std::pin::pin!(reading);
            tokio::select! {
                () = &mut reading => Some("closed"),
                end = sending => match end {
                    // What is left to read tells why nothing more is taken.
                    Some(_) if timeout(patience, reading).await.is_ok() => Some("closed"),
                    end => end,
                },
            }
        };
        (came, end)
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> anyhow::Result<Option<Frame>> {
        self.reader.next().await
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
        while let Some(frame) = reader.next().await.unwrap_or(None) {
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

/// The side that reads. What it has read stays, also if nobody waits for the rest any more.
struct Reader {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Reader {
    async fn next(&mut self) -> anyhow::Result<Option<Frame>> {
        loop {
            if let Some(&[a, b, c, kind, flags, s, t, u, v]) = self.buffer.first_chunk() {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                ensure!(length <= 1 << 20, "a frame of {length} bytes");
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    return Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes([s & 0x7f, t, u, v]), payload }));
                }
            }
            if within("a frame", self.half.read_buf(&mut self.buffer)).await?? == 0 {
                ensure!(self.buffer.is_empty(), "the connection ended within a frame");
                return Ok(None);
            }
        }
    }
}
