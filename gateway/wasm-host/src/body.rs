//! The bytes of a body that a plugin can see: what arrived and is not forwarded yet.
//!
//! Most bodies pass through a plugin chunk by chunk and are never edited, so one incoming chunk is
//! held as it came, without copying. Only accumulating (the plugin pauses) and editing copy.

use bytes::{Bytes, BytesMut};

/// A body buffer: one chunk as it arrived, or several joined or edited ones.
#[derive(Debug, Default)]
pub struct Body(Content);

#[derive(Debug, Default)]
enum Content {
    #[default]
    Empty,
    Chunk(Bytes),
    Joined(BytesMut),
}

impl Body {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self(Content::Empty)
    }

    /// Adds bytes at the end. The first chunk is kept without copying.
    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        if self.is_empty() {
            self.0 = Content::Chunk(chunk);
        } else {
            self.append(&chunk);
        }
    }

    /// Takes everything out and leaves the buffer empty. Does not copy.
    pub fn take(&mut self) -> Bytes {
        match std::mem::take(&mut self.0) {
            Content::Empty => Bytes::new(),
            Content::Chunk(bytes) => bytes,
            Content::Joined(bytes) => bytes.freeze(),
        }
    }

    /// Moves everything to another buffer, which loses what it held; most of the time neither holds anything.
    pub fn move_to(&mut self, other: &mut Self) {
        if !matches!((&self.0, &other.0), (Content::Empty, Content::Empty)) {
            *other = std::mem::take(self);
        }
    }

    /// What the buffer holds.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Content::Empty => &[],
            Content::Chunk(bytes) => bytes,
            Content::Joined(bytes) => bytes,
        }
    }

    /// Number of bytes held.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length after [`Body::splice`] with the same arguments.
    pub(crate) fn len_after_splice(&self, start: usize, size: usize, data: usize) -> usize {
        let (from, to) = self.range(start, size);
        (self.len() - (to - from)).saturating_add(data)
    }

    /// Replaces `size` bytes from `start` on with `data`.
    ///
    /// Positions beyond the end mean the end, which makes this the one operation behind the ABI's
    /// prepend (`0, 0`), replace (`0, length`) and append (`start ≥ length`).
    pub(crate) fn splice(&mut self, start: usize, size: usize, data: &[u8]) {
        let (from, to) = self.range(start, size);
        if from == self.len() {
            self.append(data);
            return;
        }
        let old = self.as_slice();
        let mut new = BytesMut::with_capacity(self.len_after_splice(start, size, data.len()));
        new.extend_from_slice(&old[..from]);
        new.extend_from_slice(data);
        new.extend_from_slice(&old[to..]);
        self.0 = Content::Joined(new);
    }

    fn range(&self, start: usize, size: usize) -> (usize, usize) {
        let from = start.min(self.len());
        (from, start.saturating_add(size).min(self.len()).max(from))
    }

    /// Adds bytes at the end of a buffer that is not empty, or that is about to be edited.
    fn append(&mut self, data: &[u8]) {
        let mut buffer = match std::mem::take(&mut self.0) {
            Content::Empty => BytesMut::new(),
            Content::Chunk(bytes) => match bytes.try_into_mut() {
                Ok(unshared) => unshared,
                Err(shared) => {
                    let mut copy = BytesMut::with_capacity(shared.len() + data.len());
                    copy.extend_from_slice(&shared);
                    copy
                }
            },
            Content::Joined(bytes) => bytes,
        };
        buffer.extend_from_slice(data);
        self.0 = Content::Joined(buffer);
    }
}

impl From<Bytes> for Body {
    fn from(chunk: Bytes) -> Self {
        let mut body = Self::new();
        body.push(chunk);
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(start: usize, size: usize, data: &str) -> String {
        let mut body = Body::from(Bytes::from_static(b"abcdef"));
        let expected = body.len_after_splice(start, size, data.len());
        body.splice(start, size, data.as_bytes());
        assert_eq!(body.len(), expected);
        String::from_utf8_lossy(body.as_slice()).into_owned()
    }

    #[test]
    fn one_chunk_is_not_copied() {
        let chunk = Bytes::from(vec![7u8; 100]);
        let address = chunk.as_ptr();
        let mut body = Body::from(chunk);
        assert_eq!(body.take().as_ptr(), address);
        assert!(body.is_empty());
    }

    #[test]
    fn chunks_are_joined_in_order() {
        let mut body = Body::new();
        for chunk in ["one ", "", "two ", "three"] {
            body.push(Bytes::from(chunk));
        }
        assert_eq!(body.take(), "one two three");
    }

    #[test]
    fn every_form_of_the_abi_is_a_splice() {
        assert_eq!(spliced(0, 0, "12"), "12abcdef", "prepend");
        assert_eq!(spliced(0, 6, "12"), "12", "replace");
        assert_eq!(spliced(0, usize::MAX, "12"), "12", "replace, size too large");
        assert_eq!(spliced(0, 2, "12"), "12cdef", "drop the beginning");
        assert_eq!(spliced(6, 0, "12"), "abcdef12", "append");
        assert_eq!(spliced(usize::MAX, usize::MAX, "12"), "abcdef12", "append far away");
        assert_eq!(spliced(2, 2, "12"), "ab12ef", "middle");
        assert_eq!(spliced(4, 100, "12"), "abcd12", "middle to end");
        assert_eq!(spliced(0, 6, ""), "", "empty");
    }
}
