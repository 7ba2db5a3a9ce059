//! The framing of a chunked body (RFC 9112 7.1): sizes and extensions, byte by byte; data is skipped by count.

use super::{Malformed, limits};

/// Follows the chunks up to the last one.
#[derive(Debug)]
pub(super) struct Chunks {
    place: Place,
    /// Bytes of extensions in the whole body.
    extensions: usize,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// So many digits of a size have come, which make this number.
    Size {
        digits: u8,
        size: u64,
    },
    Extension {
        size: u64,
    },
    /// The line feed that ends the line of a size.
    SizeEnd {
        size: u64,
    },
    /// So many bytes of data are to come, at least one.
    Data(u64),
    DataCarriageReturn,
    DataLineFeed,
    /// The last chunk's line is over.
    Last,
}

/// What comes behind the framing that was followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// More framing, which is not there yet.
    Framing,
    /// So many bytes of data.
    Data(u64),
    /// Trailers.
    Trailers,
}

const BEGIN: Place = Place::Size { digits: 0, size: 0 };
/// Digits of a size: enough for any, and zeros in front are bounded.
const MAX_DIGITS: u8 = 15;

impl Chunks {
    pub(super) fn new() -> Self {
        Self { place: BEGIN, extensions: 0 }
    }

    /// Follows framing as far as it goes. Gives the number of its bytes, and what comes behind it.
    ///
    /// # Errors
    /// A byte that does not belong there.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<(usize, Next), Malformed> {
        for (at, byte) in bytes.iter().enumerate() {
            match self.place {
                Place::Data(left) => return Ok((at, Next::Data(left))),
                Place::Last => return Ok((at, Next::Trailers)),
                _ => self.place = self.step(*byte).map_err(Malformed)?,
            }
        }
        let next = match self.place {
            Place::Data(left) => Next::Data(left),
            Place::Last => Next::Trailers,
            _ => Next::Framing,
        };
        Ok((bytes.len(), next))
    }

    /// So many bytes of data have been taken.
    pub(super) fn took(&mut self, data: u64) {
        if let Place::Data(left) = self.place {
            self.place = match left.saturating_sub(data) {
                0 => Place::DataCarriageReturn,
                left => Place::Data(left),
            };
        }
    }

    /// The place after this byte, which is framing.
    fn step(&mut self, byte: u8) -> Result<Place, &'static str> {
        let next = match (self.place, byte) {
            (Place::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Place::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (Place::Size { digits: 1.., size }, b'\r') => Place::SizeEnd { size },
            (Place::Size { digits: 1.., size }, b';') => self.extension(size)?,
            (Place::Size { .. }, _) => return Err("a chunk size is no plain hexadecimal number"),
            (Place::Extension { size }, b'\r') => Place::SizeEnd { size },
            (Place::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => self.extension(size)?,
            (Place::Extension { .. }, _) => return Err("a chunk extension has a control character"),
            (Place::SizeEnd { size: 0 }, b'\n') => Place::Last,
            (Place::SizeEnd { size }, b'\n') => Place::Data(size),
            (Place::DataCarriageReturn, b'\r') => Place::DataLineFeed,
            (Place::DataLineFeed, b'\n') => BEGIN,
            (Place::SizeEnd { .. }, _) => return Err("the line of a chunk size does not end with CR LF"),
            // The other places, data and the end, are not framing.
            _ => return Err("a chunk is not followed by CR LF"),
        };
        Ok(next)
    }

    fn extension(&mut self, size: u64) -> Result<Place, &'static str> {
        self.extensions += 1;
        if self.extensions > limits::MAX_CHUNK_EXTENSION_BYTES {
            return Err(limits::EXTENSIONS_TOO_LARGE);
        }
        Ok(Place::Extension { size })
    }
}
