//! The headers of HTTP/2 frames (RFC 9113 4.1) in a stream of bytes, and an account of what the other side may cost.

/// Length of a frame's header.
const HEADER: usize = 9;

/// Kinds of frames that somebody asks about.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const CONTINUATION: u8 = 9;
}
/// On DATA and HEADERS: the last frame of its stream.
pub(crate) const END_STREAM: u8 = 1;
/// On HEADERS and CONTINUATION: the head is complete.
pub(crate) const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
/// With padding, so many bytes may be nothing else.
const MAY_BE_PADDING: u64 = 256;

/// The header of a frame, as far as anybody looks at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    length: u64,
}

impl Header {
    /// Whether it is DATA that may have no data in it.
    pub(crate) fn is_empty_data(self) -> bool {
        self.kind == kind::DATA && (self.length == 0 || self.flags & PADDED != 0 && self.length <= MAY_BE_PADDING)
    }
}

/// Follows the bytes of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Bytes until the next frame begins.
    skip: u64,
    header: [u8; HEADER],
    /// So many bytes of `header` have come.
    have: usize,
}

impl Walk {
    /// `preface`: what comes before the first frame.
    pub(crate) fn new(preface: u64) -> Self {
        Self { skip: preface, header: [0; HEADER], have: 0 }
    }

    /// Shows `look` every header that ends in these bytes, with the place where it began, if that is in them, too.
    ///
    /// # Errors
    /// The first of `look`.
    pub(crate) fn over<E>(
        &mut self,
        bytes: &[u8],
        mut look: impl FnMut(Header, Option<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.skip > 0 {
                let here = rest.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= here as u64;
                at += here;
                continue;
            }
            let here = rest.len().min(HEADER - self.have);
            if let (Some(to), Some(from)) = (self.header.get_mut(self.have..self.have + here), rest.get(..here)) {
                to.copy_from_slice(from);
            }
            let begin = (self.have == 0).then_some(at);
            self.have += here;
            at += here;
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                let length = u64::from(u32::from_be_bytes([0, a, b, c]));
                self.skip = length;
                look(Header { kind, flags, length }, begin)?;
            }
        }
        Ok(())
    }
}

/// What somebody may still cost: it is spent by what they send, and filled up by time and by what is done for them.
#[derive(Debug)]
pub(crate) struct Account {
    left: u32,
    most: u32,
    /// When it was last filled up, in ticks.
    filled: u64,
}

impl Account {
    pub(crate) fn new(most: u32, now: u64) -> Self {
        Self { left: most, most, filled: now }
    }

    pub(crate) fn earn(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(self.most);
    }

    /// Takes one. False: there is none.
    pub(crate) fn pay(&mut self, now: u64, per_tick: u32) -> bool {
        if now != self.filled {
            let ticks = u32::try_from(now.saturating_sub(self.filled)).unwrap_or(u32::MAX);
            self.filled = now;
            self.earn(ticks.saturating_mul(per_tick));
        }
        let paid = self.left > 0;
        self.left = self.left.saturating_sub(1);
        paid
    }
}
