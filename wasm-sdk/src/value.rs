//! Header values as they are on the wire: bytes, which are text most of the time.

use std::fmt;

/// The value of a header.
///
/// HTTP allows any byte from 0x80 on (RFC 9110 section 5.5), so a client decides whether a value is UTF-8. Compare it
/// with a `str` directly, or ask with [`to_str`](HeaderValue::to_str); nothing here panics on what a client sends.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderValue(Vec<u8>);

impl HeaderValue {
    /// The bytes as they came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, or `None` if the value is not UTF-8.
    pub fn to_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<Vec<u8>> for HeaderValue {
    fn from(bytes: Vec<u8>) -> HeaderValue {
        HeaderValue(bytes)
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> HeaderValue {
        HeaderValue(text.as_bytes().to_vec())
    }
}

impl AsRef<[u8]> for HeaderValue {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for HeaderValue {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for HeaderValue {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

/// For logs: bytes that are not UTF-8 appear as U+FFFD.
impl fmt::Display for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
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
}
