//! What the SDK asks of its host: the small set of calls behind [`Request`](crate::Request),
//! [`Response`](crate::Response), [`Body`](crate::Body) and local replies.
//!
//! Two hosts exist: the real one behind the proxy-wasm ABI (`wasm`) and one in memory (`testing`). Nothing above
//! this trait may know which of them it talks to. The type is chosen when compiling and not behind a pointer, so that a
//! module imports only the calls that its plugin makes; a gateway draws conclusions from them.

use crate::{HeaderValue, Reply};

#[cfg(target_arch = "wasm32")]
pub(crate) use crate::wasm::{Abi as Current, services};

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::{MemoryHost as Current, services};

/// One of the two messages of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

/// The maps of a stream, with the numbers of the specification (`proxy_map_type_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    RequestHeaders = 0,
    RequestTrailers = 1,
    ResponseHeaders = 2,
    ResponseTrailers = 3,
}

impl Side {
    pub(crate) fn headers(self) -> Map {
        match self {
            Side::Request => Map::RequestHeaders,
            Side::Response => Map::ResponseHeaders,
        }
    }

    pub(crate) fn trailers(self) -> Map {
        match self {
            Side::Request => Map::RequestTrailers,
            Side::Response => Map::ResponseTrailers,
        }
    }
}

impl Map {
    /// For messages: `header`, `trailer`.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Map::RequestHeaders | Map::ResponseHeaders => "header",
            Map::RequestTrailers | Map::ResponseTrailers => "trailer",
        }
    }
}

/// What a host that refuses a call answers: `proxy_status_t` of the specification, never 0.
pub(crate) type Status = u32;

/// The fields of a map: names and values as bytes, duplicates kept.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Calls to the host, always about the stream whose callback is running. Names of headers are given as the plugin
/// wrote them; hosts compare them without regard to case.
pub(crate) trait Host {
    /// The first value of a field, `None` if there is none.
    fn field(&self, map: Map, name: &str) -> Result<Option<HeaderValue>, Status>;
    /// All fields, pseudo-headers first.
    fn fields(&self, map: Map) -> Result<Pairs, Status>;
    /// Appends another value.
    fn add_field(&self, map: Map, name: &str, value: &[u8]) -> Result<(), Status>;
    /// Puts one value in the place of all there are.
    fn set_field(&self, map: Map, name: &str, value: &[u8]) -> Result<(), Status>;
    /// Removes all values; fine if there are none.
    fn remove_field(&self, map: Map, name: &str) -> Result<(), Status>;
    /// At most `max` bytes of the buffered body from `start` on.
    fn body(&self, side: Side, start: usize, max: usize) -> Result<Vec<u8>, Status>;
    /// Puts `bytes` in the place of the first `size` bytes of the buffered body.
    fn set_body(&self, side: Side, size: usize, bytes: &[u8]) -> Result<(), Status>;
    /// What the host knows about the stream under this path, `None` if nothing.
    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, Status>;
    /// Ends the stream with this answer.
    fn reply(&self, reply: &Reply) -> Result<(), Status>;
}
