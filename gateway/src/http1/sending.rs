//! A body on its way out, in the framing that its head announces.

use std::{
    io::Write as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use heads::{HeaderList, header};
use http::{HeaderMap, HeaderName};
use http_body::Body;

use super::outbox::Outbox;
use crate::net::Pipe;

/// Why every body here ends early.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body that may be able to give its bytes without anybody having looked at them.
pub trait Piped: Body {
    /// The next bytes in a pipe, at least one. `None`: they cannot be had so now, and [`Body::poll_frame`] has them.
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, BodyError>>> {
        let _ = cx;
        Poll::Ready(None)
    }
}

/// A body, as far as it is not in the outbox yet.
pub(crate) struct Sending<B> {
    body: B,
    framing: Framing,
    /// The trailers that the head names; others are not sent.
    announced: Vec<HeaderName>,
    /// It goes to a socket as it is.
    plain: bool,
}

/// How the peer finds its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes are to come.
    Length(u64),
    /// A last chunk.
    Chunked,
    /// The end of the connection: responses to HTTP/1.0 only.
    Close,
}

/// What there is to know about a body that is being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All of it is in the outbox.
    All,
    /// There is no room for more before something was written.
    Full,
}

/// With fewer bytes to come a pipe is not worth its system calls.
const PIPED: u64 = 96 * 1024;

impl<B: Piped<Data = Bytes, Error = BodyError> + Unpin> Sending<B> {
    /// `plain`: it goes to a [socket](super::outbox::Sink::socket).
    pub(crate) fn new(body: B, framing: Framing, announced: Vec<HeaderName>, plain: bool) -> Self {
        Self { body, framing, announced, plain }
    }

    /// Puts into the outbox what the body has and the outbox has room for.
    ///
    /// # Errors
    /// The body ended early, or is not as long as was announced: the message must not look complete.
    pub(crate) fn poll(&mut self, outbox: &mut Outbox, cx: &mut Context<'_>) -> Poll<Result<Sent, BodyError>> {
        loop {
            // The end, too, has to come behind what is there.
            if !outbox.has_room() {
                return Poll::Ready(Ok(Sent::Full));
            }
            if self.body.is_end_stream() {
                return Poll::Ready(self.end(None, outbox).map(|()| Sent::All));
            }
            if let Framing::Length(left @ PIPED..) = &mut self.framing
                && self.plain
                && let Some(pipe) = ready!(self.body.poll_pipe(cx)).transpose()?
            {
                *left = left.checked_sub(pipe.len() as u64).ok_or("a body is longer than its head says")?;
                outbox.put_pipe(pipe);
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()? {
                None => return Poll::Ready(self.end(None, outbox).map(|()| Sent::All)),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.put(data, outbox)?,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Poll::Ready(self.end(Some(&trailers), outbox).map(|()| Sent::All));
                    }
                },
            }
        }
    }

    fn put(&mut self, data: Bytes, outbox: &mut Outbox) -> Result<(), BodyError> {
        if !data.has_remaining() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or("a body is longer than its head says")?;
                outbox.put_data(data, b"");
            }
            Framing::Close => outbox.put_data(data, b""),
            Framing::Chunked => {
                let mut size = [0; 18];
                let mut rest = &mut size[..];
                // A size of 64 bits fits.
                let _ = write!(rest, "{:x}\r\n", data.len());
                let length = 18 - rest.len();
                outbox.put(size.get(..length).unwrap_or_default());
                if self.body.is_end_stream() {
                    self.framing = Framing::Length(0);
                    outbox.put_data(data, b"\r\n0\r\n\r\n");
                } else {
                    outbox.put_data(data, b"\r\n");
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>, outbox: &mut Outbox) -> Result<(), BodyError> {
        match self.framing {
            Framing::Length(0) | Framing::Close => {}
            Framing::Length(_) => return Err("a body is shorter than its head says".into()),
            Framing::Chunked => {
                outbox.put(b"0\r\n");
                if let Some(trailers) = trailers {
                    for (name, value) in trailers.iter().filter(|(name, _)| self.announced.contains(name)) {
                        outbox.put_field(name, value);
                    }
                }
                outbox.put(b"\r\n");
            }
        }
        Ok(())
    }
}

/// The names in a head's `Trailer` fields.
pub(crate) fn announced(headers: &HeaderList) -> Vec<HeaderName> {
    let names = headers.get_all(&header::TRAILER).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}
