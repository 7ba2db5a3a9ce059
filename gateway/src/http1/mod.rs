//! HTTP/1.1 as bytes (RFC 9112): what both sides of a connection need to read and write messages.
//!
//! The gateway reads and writes HTTP/1 itself. A proxy that leaves it to a library reads every message twice (once to
//! be sure that nobody else reads it in another way, once to have it), hands it through channels and tasks, and cannot
//! take a request back that was written to a connection which turned out to be closed.
//!
//! | file | what it is about |
//! |---|---|
//! | `request` | the head of a request, checked byte by byte |
//! | `response` | the head of a response |
//! | `names` | names of fields that were read lately |
//! | `body` | where a body ends, and its pieces |
//! | `chunks` | the framing of a chunked body |
//! | `trailers` | what may follow it |
//! | `outbox` | what is to be written, in as few system calls as possible |
//! | `sending` | a message's body on its way out |
//!
//! Nothing here knows routes, clusters or answers. That hyper, which others use, ends every message in the same place is
//! what `agreement` checks, for a property test here and for the fuzzer in `tests/fuzz`.

#[cfg(any(test, fuzzing))]
mod agreement;
pub(crate) mod body;
mod chunks;
pub(crate) mod limits;
mod names;
pub(crate) mod outbox;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod sending;
#[cfg(test)]
mod tests;
mod trailers;

use bytes::{Bytes, BytesMut};

#[cfg(fuzzing)]
pub(crate) use agreement::check as fuzz;
#[cfg(any(test, fuzzing))]
pub(crate) use agreement::heads;

/// Takes the first bytes out of what was read. If that is all, nothing keeps the memory behind it.
fn take(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length == buffer.len() { std::mem::take(buffer).freeze() } else { buffer.split_to(length).freeze() }
}

/// Why bytes are no message, in plain words for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);
