//! Requests and responses of a test.

use crate::{HeaderValue, Reply};

/// The fields of a map: names in the form of [`canonical`], and values.
pub(super) type Fields = Vec<(String, HeaderValue)>;

/// A `GET` request for this path, to `test.example.dev` over `https`.
pub fn get(path: &str) -> Message {
    request("GET", path)
}

/// A `POST` request with this body in one chunk.
pub fn post(path: &str, body: impl AsRef<[u8]>) -> Message {
    request("POST", path).with_body(body)
}

/// A request with any method.
pub fn request(method: &str, path: &str) -> Message {
    Message::default()
        .header(":authority", "test.example.dev")
        .header(":path", path)
        .header(":method", method)
        .header(":scheme", "https")
}

/// A response with this status and nothing else.
pub fn response(status: u16) -> Message {
    Message::default().header(":status", status.to_string())
}

/// A request or a response: built for a test by chaining, and looked at afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub(super) headers: Fields,
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) trailers: Fields,
}

impl Message {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Message {
        self.headers.push((canonical(name), HeaderValue::from(value.as_ref().to_vec())));
        self
    }

    /// Adds a chunk of the body. The plugin's handler is called once for each.
    pub fn chunk(mut self, bytes: impl AsRef<[u8]>) -> Message {
        self.chunks.push(bytes.as_ref().to_vec());
        self
    }

    /// A body in one chunk, with its `content-length`.
    pub fn with_body(self, bytes: impl AsRef<[u8]>) -> Message {
        let len = bytes.as_ref().len();
        self.header("content-length", len.to_string()).chunk(bytes)
    }

    /// Adds a trailer, as gRPC has them: the last chunk then is not known to be the last.
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Message {
        self.trailers.push((canonical(name), HeaderValue::from(value.as_ref().to_vec())));
        self
    }

    /// The first value of a header.
    pub fn header_value(&self, name: &str) -> Option<&HeaderValue> {
        self.header_values(name).into_iter().next()
    }

    /// The first value of a header, if it is UTF-8.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        self.header_value(name)?.to_str()
    }

    /// Every value of a header, in order.
    pub fn header_values(&self, name: &str) -> Vec<&HeaderValue> {
        values(&self.headers, name).collect()
    }

    /// The first value of a trailer, if it is UTF-8.
    pub fn trailer_text(&self, name: &str) -> Option<&str> {
        values(&self.trailers, name).next()?.to_str()
    }

    /// The status of a response, 0 for a request.
    pub fn status(&self) -> u16 {
        self.header_text(":status").and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The whole body.
    pub fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    pub(super) fn from_reply(reply: &Reply) -> Message {
        let mut message = response(reply.status);
        for (name, value) in &reply.headers {
            message = message.header(name, value);
        }
        if reply.body.is_empty() { message } else { message.with_body(&reply.body) }
    }
}

fn values<'a>(fields: &'a Fields, name: &str) -> impl Iterator<Item = &'a HeaderValue> {
    let name = canonical(name);
    fields.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value)
}

/// The form in which names are compared; `host` is the HTTP/1.1 name of `:authority`.
pub(super) fn canonical(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name == "host" { ":authority".to_owned() } else { name }
}
