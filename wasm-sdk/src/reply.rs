//! Answers that a plugin gives itself, without asking the upstream.

use crate::{Error, Result, is_legal_name, is_legal_value};

/// An answer of the plugin's own. Built by chaining:
///
/// ```
/// # use wasm_sdk::Reply;
/// let reply = Reply::new(401).header("www-authenticate", "Bearer").text("who are you?\n");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// An empty answer with this status, 200 to 599. Anything else, and headers that are not legal, are found when
    /// the answer is sent: then the client gets a 500 and the log says why.
    pub fn new(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header. Framing (`content-length`, …) is the gateway's business.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Reply {
        self.headers.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// Sets the body. Say what it is with a `content-type` header.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Reply {
        self.body = bytes.into();
        self
    }

    /// Sets the body and `content-type: text/plain`.
    pub fn text(self, text: &str) -> Reply {
        self.header("content-type", "text/plain; charset=utf-8").body(text)
    }

    /// Hosts pass on what they are given, so that an illegal status or header would reach the wire.
    pub(crate) fn check(&self) -> Result<()> {
        if !(200..=599).contains(&self.status) {
            return Err(Error::new(format!("a reply cannot have the status {}: 200 to 599", self.status)));
        }
        let illegal = |(name, value): &&(String, Vec<u8>)| !is_legal_name(name) || !is_legal_value(value);
        match self.headers.iter().find(illegal) {
            Some((name, _)) => Err(Error::new(format!("header {name:?} of a reply is not legal"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_would_break_the_wire_are_found() {
        assert!(Reply::new(204).header("X-Ok", "yes").check().is_ok());
        for reply in [
            Reply::new(0),
            Reply::new(100),
            Reply::new(600),
            Reply::new(200).header("a b", "c"),
            Reply::new(200).header("a", "b\r\nc: d"),
        ] {
            assert!(reply.check().is_err(), "{reply:?}");
        }
    }
}
