//! Names of fields as one looks for them.

use http::HeaderName;

/// The name of a field: a [`HeaderName`], a [`Key`], or text in lower case.
pub trait Named {
    /// The name in lower case.
    fn text(&self) -> &str;

    /// What is compared first.
    #[inline]
    fn mark(&self) -> u32 {
        mark(self.text().as_bytes())
    }

    /// The name itself, for a field that is new. Text panics if it is not a name in lower case, so it has to be the
    /// program's own.
    fn into_name(self) -> HeaderName;
}

impl Named for HeaderName {
    #[inline]
    fn text(&self) -> &str {
        self.as_str()
    }

    #[inline]
    fn into_name(self) -> HeaderName {
        self
    }
}

impl Named for &HeaderName {
    #[inline]
    fn text(&self) -> &str {
        self.as_str()
    }

    #[inline]
    fn into_name(self) -> HeaderName {
        self.clone()
    }
}

impl Named for &'static str {
    #[inline]
    fn text(&self) -> &str {
        self
    }

    #[inline]
    fn into_name(self) -> HeaderName {
        HeaderName::from_static(self)
    }
}

/// A name that is looked for again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    name: HeaderName,
    mark: u32,
}

impl Key {
    /// The program's own. Panics if this is not a name in lower case; in a constant, when compiling.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        Self { name: HeaderName::from_static(name), mark: mark(name.as_bytes()) }
    }

    /// The name.
    #[inline]
    #[must_use]
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// Its text, in lower case.
    #[inline]
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.name.as_str()
    }
}

impl From<HeaderName> for Key {
    fn from(name: HeaderName) -> Self {
        Self { mark: mark(name.as_str().as_bytes()), name }
    }
}

impl Named for &Key {
    #[inline]
    fn text(&self) -> &str {
        self.name.as_str()
    }

    #[inline]
    fn mark(&self) -> u32 {
        self.mark
    }

    #[inline]
    fn into_name(self) -> HeaderName {
        self.name.clone()
    }
}

/// A number of the ends and the length of a name: most names differ in it. Those who choose names so that they do not
/// make a search as long as the list, which is short.
#[inline]
pub(crate) const fn mark(name: &[u8]) -> u32 {
    let ends = match (name.first_chunk(), name.last_chunk()) {
        (Some(first), Some(last)) => u64::from_le_bytes(*first).rotate_left(23) ^ u64::from_le_bytes(*last),
        _ => match (name.first_chunk(), name.last_chunk()) {
            (Some(first), Some(last)) => (u32::from_le_bytes(*first) as u64) << 32 | u32::from_le_bytes(*last) as u64,
            _ => match name {
                [a, b, c] => (*a as u64) << 16 | (*b as u64) << 8 | *c as u64,
                [a, b] => (*a as u64) << 8 | *b as u64,
                [a] => *a as u64,
                _ => 0,
            },
        },
    };
    ((ends ^ name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Whether two names are equal. Most are so short that two pairs of words are all of them.
#[inline]
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    match (one.first_chunk::<8>(), one.last_chunk::<8>(), other.first_chunk::<8>(), other.last_chunk::<8>()) {
        (Some(first), Some(last), Some(other_first), Some(other_last)) if one.len() <= 16 => {
            first == other_first && last == other_last
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_have_marks_of_their_own() {
        let names = [
            "accept",
            "accept-encoding",
            "accept-language",
            "age",
            "authorization",
            "cache-control",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "cookie",
            "date",
            "etag",
            "expect",
            "forwarded",
            "host",
            "if-modified-since",
            "if-none-match",
            "keep-alive",
            "last-modified",
            "location",
            "origin",
            "referer",
            "sec-fetch-dest",
            "sec-fetch-mode",
            "sec-fetch-site",
            "server",
            "set-cookie",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "user-agent",
            "vary",
            "via",
            "x-envoy-attempt-count",
            "x-envoy-original-path",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-request-id",
            "x-a",
            "x-b",
            "ab",
            "a",
        ];
        let mut marks: Vec<_> = names.iter().map(|name| mark(name.as_bytes())).collect();
        marks.sort_unstable();
        marks.dedup();
        assert_eq!(marks.len(), names.len());
    }

    proptest::proptest! {
        #[test]
        fn names_are_the_same_if_their_bytes_are(one in "[ab]{0,20}", other in "[ab]{0,20}", at in 0..20usize) {
            assert_eq!(same(one.as_bytes(), other.as_bytes()), one == other);
            let mut changed = one.clone().into_bytes();
            assert!(same(one.as_bytes(), &changed));
            if let Some(byte) = changed.get_mut(at) {
                *byte = b'c';
                assert!(!same(one.as_bytes(), &changed));
            }
        }
    }

    #[test]
    fn all_forms_of_a_name_have_the_same_mark() {
        for text in ["host", "x-some-long-name-of-a-header", "te", "x-a", "content-length"] {
            let name = HeaderName::from_static(text);
            let key = Key::from(name.clone());
            assert_eq!([name.mark(), (&key).mark(), Named::mark(&&name)], [text.mark(); 3]);
            assert_eq!((&key).into_name(), name);
        }
    }
}
