//! What a client may say, checked byte by byte before hyper sees it.
//!
//! hyper repairs some of what it reads: it drops a Content-Length beside Transfer-Encoding, takes a bare line feed for
//! the end of a line, cuts a `#` off the target. What it has repaired nobody can refuse any more, and a gateway that
//! reads a message in another way than the server behind it is how requests are smuggled. So these state machines
//! follow the bytes of a connection in front of hyper:
//!
//! | file | what it follows |
//! |---|---|
//! | `http1` | where HTTP/1 messages begin and end; no head passes that is not checked completely |
//! | `head` | one head, or the trailers of a body: request line, fields, framing |
//! | `chunks` | the framing of a chunked body |
//! | `http2` | the headers of HTTP/2 frames, for floods |
//! | `verdict` | how `service` learns that a request is refused |
//!
//! They are pure: bytes in, decisions out. They know nothing of sockets, hyper, or answers (`client_io` feeds them).
//! That they and hyper agree on the end of every message is what `agreement` checks, for a property test here and for
//! the fuzzer in `tests/fuzz`.

#[cfg(any(test, fuzzing))]
mod agreement;
mod chunks;
mod head;
mod http1;
mod http2;
#[cfg(test)]
mod tests;
mod verdict;

pub(crate) use head::{is_disguised, is_length};
pub(crate) use http1::Http1;
pub(crate) use http2::{Flood, Http2};
pub(crate) use verdict::Verdict;

#[cfg(fuzzing)]
pub(crate) use agreement::check as fuzz;

use super::limits;

/// Why a request is refused. The text of [`Refusal::Malformed`] is for the log, in plain words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It breaks the protocol: 400.
    Malformed(&'static str),
    /// It has a Content-Length and a Transfer-Encoding: 400.
    LengthAndChunked,
    /// Its head has more than [`limits::MAX_HEAD_BYTES`]: 431.
    HeadTooLarge,
    /// It has more than [`limits::MAX_HEADERS`]: 431.
    TooManyHeaders,
    /// Its head did not come in time: 408.
    HeadTimeout,
}
