//! The headers or trailers of one message, read and written in the host.

use crate::host::{Current, Host, Map, Status};
use crate::{HeaderValue, HostError};

/// The status for a map that is not there.
const BAD_ARGUMENT: Status = 2;

/// The headers of a request or a response, or its trailers.
///
/// They stay in the host: every method is one call to it, and nothing is copied that is not asked for. Names are
/// compared without regard to case and come back in lower case. The pseudo-headers of HTTP/2 (`:path`, `:status`, …)
/// are headers here for HTTP/1.1, too; `host` is `:authority`.
pub struct Headers<'a> {
    host: &'a Current,
    map: Map,
}

impl<'a> Headers<'a> {
    pub(crate) fn new(host: &'a Current, map: Map) -> Headers<'a> {
        Headers { host, map }
    }

    /// The first value of a header, or `None` if there is none. See [`get_all`](Headers::get_all) for headers that
    /// may occur several times.
    pub fn get(&self, name: &str) -> Result<Option<HeaderValue>, HostError> {
        match self.host.field(self.map, name) {
            // What hosts answer for a message without trailers.
            Err(BAD_ARGUMENT) if self.map.kind() == "trailer" => Ok(None),
            value => value.map_err(self.refused("reading", name)),
        }
    }

    /// Every value of a header in the order of arrival. Fetches all headers once.
    pub fn get_all(&self, name: &str) -> Result<Vec<HeaderValue>, HostError> {
        let all = self.host.fields(self.map).map_err(self.refused("reading", name))?;
        let values = all.into_iter().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        Ok(values.map(|(_, value)| HeaderValue::from(value)).collect())
    }

    /// All headers, pseudo-headers first, then in the order of arrival.
    pub fn all(&self) -> Result<Vec<(String, HeaderValue)>, HostError> {
        let all = self
            .host
            .fields(self.map)
            .map_err(|status| HostError::new(format!("reading all {}s", self.map.kind()), status))?;
        // Names are ASCII tokens; a host that breaks this costs replacement characters, not a panic.
        let text = |name: Vec<u8>| String::from_utf8_lossy(&name).into_owned();
        Ok(all.into_iter().map(|(name, value)| (text(name), HeaderValue::from(value))).collect())
    }

    /// Puts this value in the place of all values there are, or adds the header.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HostError> {
        self.host.set_field(self.map, name, value.as_ref()).map_err(self.refused("setting", name))
    }

    /// Adds another value and keeps those there are.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HostError> {
        self.host.add_field(self.map, name, value.as_ref()).map_err(self.refused("adding", name))
    }

    /// Removes every value of the header. Fine if there is none.
    pub fn remove(&mut self, name: &str) -> Result<(), HostError> {
        self.host.remove_field(self.map, name).map_err(self.refused("removing", name))
    }

    /// Makes an error of a status, and its text only then.
    fn refused(&self, doing: &'static str, name: &str) -> impl FnOnce(Status) -> HostError {
        let kind = self.map.kind();
        move |status| HostError::new(format!("{doing} {kind} `{name}`"), status)
    }
}

/// Whether this may be the name of a header: a token of RFC 9110 section 5.6.2. Pseudo-headers are not.
pub fn is_legal_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(token)
}

/// Whether these bytes may be the value of a header in HTTP/1.1 and HTTP/2 alike: no control characters but tab, no
/// space or tab at either end (RFC 9110 section 5.5, RFC 9113 section 8.2.1). The empty value is legal.
pub fn is_legal_value(value: &[u8]) -> bool {
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let legal = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    !blank(value.first()) && !blank(value.last()) && value.iter().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens() {
        for name in ["x-team", "X_1", "!#$%&'*+-.^_`|~"] {
            assert!(is_legal_name(name), "{name}");
        }
        for name in ["", ":path", "x team", "x:y", "a\r\nb", "caf\u{e9}", "a(b)"] {
            assert!(!is_legal_name(name), "{name:?}");
        }
    }

    #[test]
    fn values_cannot_end_the_header() {
        for value in [&b""[..], b"a b\tc", b"\xff\x80"] {
            assert!(is_legal_value(value), "{value:?}");
        }
        for value in [&b"a\r\nb"[..], b"a\nb", b"a\0", b" a", b"a\t", b"\x7f", b" "] {
            assert!(!is_legal_value(value), "{value:?}");
        }
    }
}
