//! The framing of a chunked body (RFC 9112 7.1): sizes and extensions are looked at, data is skipped by count.

use super::{Refusal, limits};

/// Follows the chunks up to the last one; the trailers after it are a section of lines (`head`).
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
}

/// What a look at the bytes has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    /// The body goes on.
    Open,
    /// The last chunk's line has ended after so many of the bytes.
    Last(usize),
    /// The byte at this place does not belong there.
    Broken(usize, Refusal),
}

const BEGIN: Place = Place::Size { digits: 0, size: 0 };
/// Digits of a size: enough for any, and zeros in front are bounded.
const MAX_DIGITS: u8 = 15;

impl Chunks {
    pub(super) fn new() -> Self {
        Self { place: BEGIN, extensions: 0 }
    }

    /// Follows further bytes of the body.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Chunked {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if let Place::Data(left) = &mut self.place {
                let here = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                at += here;
                *left -= here as u64;
                if *left == 0 {
                    self.place = Place::DataCarriageReturn;
                }
                continue;
            }
            match self.step(*byte) {
                Ok(Some(place)) => self.place = place,
                Ok(None) => return Chunked::Last(at + 1),
                Err(reason) => return Chunked::Broken(at, Refusal::Malformed(reason)),
            }
            at += 1;
        }
        Chunked::Open
    }

    /// The place after this byte, which is not data; `None` is the end of the last chunk's line.
    fn step(&mut self, byte: u8) -> Result<Option<Place>, &'static str> {
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
            (Place::SizeEnd { size: 0 }, b'\n') => return Ok(None),
            (Place::SizeEnd { size }, b'\n') => Place::Data(size),
            (Place::DataCarriageReturn, b'\r') => Place::DataLineFeed,
            (Place::DataLineFeed, b'\n') => BEGIN,
            (Place::SizeEnd { .. }, _) => return Err("the line of a chunk size does not end with CR LF"),
            // The other place, `Data`, is skipped by count and never comes here.
            _ => return Err("a chunk is not followed by CR LF"),
        };
        Ok(Some(next))
    }

    fn extension(&mut self, size: u64) -> Result<Place, &'static str> {
        self.extensions += 1;
        if self.extensions > limits::MAX_CHUNK_EXTENSION_BYTES {
            return Err("the chunk extensions of a body are too large");
        }
        Ok(Place::Extension { size })
    }
}
