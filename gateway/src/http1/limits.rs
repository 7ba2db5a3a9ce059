//! Limits of a message, in both directions where nothing else is said.

/// Headers of a request: 431.
pub const MAX_HEADERS: usize = 100;
/// Bytes of a request's head: 431.
pub const MAX_HEAD_BYTES: usize = 60 * 1024;
/// Bytes of all trailers of a chunked body.
pub const MAX_TRAILER_BYTES: usize = 8 * 1024;
/// How many trailers there may be.
pub(crate) const MAX_TRAILERS: usize = 100;
/// Bytes of all chunk extensions of a body, which nobody uses.
pub const MAX_CHUNK_EXTENSION_BYTES: usize = 8 * 1024;

/// What is said of a body whose chunk extensions are more.
pub(crate) const EXTENSIONS_TOO_LARGE: &str = "the chunk extensions of a body are too large";
/// What is said of trailers that are more.
pub(crate) const TRAILERS_TOO_LARGE: &str = "the trailers are too large or too many";
