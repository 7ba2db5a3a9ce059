//! A body on its way out, in the framing that its head announces.

use std::{
    io::Write as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, header};
use http_body::Body;

use super::outbox::Outbox;

/// Why every body here ends early.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body, as far as it is not in the outbox yet.
pub(crate) struct Sending<B> {
    body: B,
    framing: Framing,
    /// The trailers that the head names; others are not sent.
    announced: Vec<HeaderName>,
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

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Sending<B> {
    pub(crate) fn new(body: B, framing: Framing, announced: Vec<HeaderName>) -> Self {
        Self { body, framing, announced }
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
pub(crate) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let names = headers.get_all(header::TRAILER).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}
