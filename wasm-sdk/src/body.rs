//! A body as it passes: what the host holds of it now.

use crate::host::{Current, Host, Side};
use crate::{Error, Headers, HostError, Result};

/// The part of a body that the host holds at this moment: the chunk that has just arrived, after everything that was
/// held back by [`BodyFlow::Wait`](crate::BodyFlow::Wait) before.
pub struct Body<'a> {
    host: &'a Current,
    side: Side,
    len: usize,
    complete: bool,
    may_change_length: bool,
}

impl<'a> Body<'a> {
    pub(crate) fn new(host: &'a Current, side: Side, len: usize, complete: bool, may_change_length: bool) -> Body<'a> {
        Body { host, side, len, complete, may_change_length }
    }

    /// Bytes held now. May be 0, also at the end of a body.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held now.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this is the end: no more of this body will come. True exactly once for each body.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// A copy of what is held now.
    pub fn bytes(&self) -> Result<Vec<u8>, HostError> {
        self.read(0, self.len)
    }

    /// A copy of at most `max` bytes from `start` on; empty if there is nothing.
    pub fn read(&self, start: usize, max: usize) -> Result<Vec<u8>, HostError> {
        let max = max.min(self.len.saturating_sub(start));
        // An empty read needs no host, and some hosts have no buffer to read from at the end of a message.
        if max == 0 {
            return Ok(Vec::new());
        }
        self.host.body(self.side, start, max).map_err(|status| HostError::new("reading the body", status))
    }

    /// The whole body, or `None` while it is not complete: then return [`BodyFlow::Wait`](crate::BodyFlow::Wait).
    ///
    /// It is whole only if the handler waited from the first chunk on. The host limits how much it holds and answers
    /// 413 for more (500 for a response).
    pub fn whole(&self) -> Result<Option<Vec<u8>>, HostError> {
        if self.complete { self.bytes().map(Some) } else { Ok(None) }
    }

    /// Puts `bytes` in the place of everything that is held now.
    ///
    /// An error if the length changes and the headers handler did not announce it with
    /// [`Request::edit_body`](crate::Request::edit_body) or [`Response::edit_body`](crate::Response::edit_body).
    pub fn replace(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        if bytes.len() != self.len && !self.may_change_length {
            return Err(Error::new(
                "the length of the body changes and its content-length has already gone out: \
                 call edit_body() in the headers handler",
            ));
        }
        if bytes.is_empty() && self.len == 0 {
            return Ok(());
        }
        let set = self.host.set_body(self.side, self.len, bytes);
        set.map_err(|status| HostError::new("replacing the body", status))?;
        self.len = bytes.len();
        Ok(())
    }

    /// The trailers of the message, to read, to change, or to give it some: only when the body
    /// [is complete](Body::is_complete), an error before. Over HTTP/1.1 only those arrive that the
    /// head's `trailer` names: add their names to it in the headers handler.
    pub fn trailers(&mut self) -> Headers<'_> {
        Headers::new(self.host, self.side.trailers())
    }
}
