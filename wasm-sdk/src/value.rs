//! Header values as they are on the wire: bytes, which are text most of the time.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The value of a header.
///
/// HTTP allows any byte from 0x80 on (RFC 9110 section 5.5), so a client decides whether a value is UTF-8. Compare it
/// with a `str` directly, or ask with [`to_str`](HeaderValue::to_str); nothing here panics on what a client sends.
#[derive(Clone)]
pub struct HeaderValue(Bytes);

/// Most values are short, and then nothing is allocated for them.
#[derive(Clone)]
enum Bytes {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Vec<u8>),
}

/// Makes 32 bytes of it with what else it takes.
const SHORT: usize = 30;

impl HeaderValue {
    /// The bytes as they came.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Bytes::Long(bytes) => bytes,
        }
    }

    /// The text, or `None` if the value is not UTF-8.
    pub fn to_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()).ok()
    }

    /// The bytes; long ones without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        match self.0 {
            Bytes::Short { .. } => self.as_bytes().to_vec(),
            Bytes::Long(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for HeaderValue {
    fn from(value: &[u8]) -> HeaderValue {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..value.len()) {
            Some(place) => {
                place.copy_from_slice(value);
                HeaderValue(Bytes::Short { len: value.len() as u8, bytes })
            }
            None => HeaderValue(Bytes::Long(value.to_vec())),
        }
    }
}

impl From<Vec<u8>> for HeaderValue {
    fn from(bytes: Vec<u8>) -> HeaderValue {
        HeaderValue(Bytes::Long(bytes))
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> HeaderValue {
        HeaderValue::from(text.as_bytes())
    }
}

impl PartialEq for HeaderValue {
    fn eq(&self, other: &HeaderValue) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for HeaderValue {}

impl Hash for HeaderValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for HeaderValue {
    fn partial_cmp(&self, other: &HeaderValue) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderValue {
    fn cmp(&self, other: &HeaderValue) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl AsRef<[u8]> for HeaderValue {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq<str> for HeaderValue {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for HeaderValue {
    fn eq(&self, other: &&str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

/// For logs: bytes that are not UTF-8 appear as U+FFFD.
impl fmt::Display for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(self.as_bytes()), f)
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(self.as_bytes()), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_are_carried_and_never_panic() {
        let value = HeaderValue::from(vec![b'a', 0xff]);
        assert_eq!(value.to_str(), None);
        assert_eq!(value.as_bytes(), [b'a', 0xff]);
        assert_eq!(value.to_string(), "a\u{fffd}");
        assert!(value != "a");
        assert_eq!(HeaderValue::from("edge"), "edge");
    }

    #[test]
    fn how_long_a_value_is_makes_no_difference() {
        for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, 500] {
            let text = "x".repeat(length);
            let (short, long) = (HeaderValue::from(text.as_str()), HeaderValue::from(text.clone().into_bytes()));
            assert_eq!((short.to_str(), &short, short.cmp(&long)), (Some(text.as_str()), &long, Ordering::Equal));
            assert_eq!(short.into_bytes(), text.as_bytes());
        }
        let [short, long] = ["b".to_owned(), "a".repeat(SHORT + 1)].map(|text| HeaderValue::from(text.as_str()));
        assert_eq!(short.cmp(&long), Ordering::Greater);
    }
}
