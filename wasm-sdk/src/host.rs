//! What the SDK asks of its host: the small set of calls behind [`Request`](crate::Request),
//! [`Response`](crate::Response), [`Body`](crate::Body) and local replies.
//!
//! Two hosts exist: the real one behind the proxy-wasm ABI (`wasm.rs`) and one in memory (`testing`). Nothing above
//! this trait may know which of them it talks to.

use crate::Reply;

/// Which of the two messages of a stream a call is about. The proxy-wasm map and buffer types follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

/// What a host that refuses a call answers: `proxy_status_t` of the specification, never 0.
pub(crate) type Status = u32;

/// The headers of a message: names and values as bytes, duplicates kept.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Calls to the host, always about the stream whose callback is running. Names of headers are given as the plugin
/// wrote them; hosts compare them without regard to case.
pub(crate) trait Host {
    /// The first value of a header, `None` if there is none.
    fn header(&self, side: Side, name: &str) -> Result<Option<Vec<u8>>, Status>;
    /// All headers, pseudo-headers first.
    fn headers(&self, side: Side) -> Result<Pairs, Status>;
    /// Appends another value.
    fn add_header(&self, side: Side, name: &str, value: &[u8]) -> Result<(), Status>;
    /// Puts one value in the place of all there are.
    fn set_header(&self, side: Side, name: &str, value: &[u8]) -> Result<(), Status>;
    /// Removes all values; fine if there are none.
    fn remove_header(&self, side: Side, name: &str) -> Result<(), Status>;
    /// At most `max` bytes of the buffered body from `start` on.
    fn body(&self, side: Side, start: usize, max: usize) -> Result<Vec<u8>, Status>;
    /// Puts `bytes` in the place of the first `size` bytes of the buffered body.
    fn set_body(&self, side: Side, size: usize, bytes: &[u8]) -> Result<(), Status>;
    /// Ends the stream with this answer.
    fn reply(&self, reply: &Reply) -> Result<(), Status>;
}
