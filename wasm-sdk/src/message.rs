//! The two messages of a stream as a plugin sees them: the client's request, the upstream's response, and both at the end.

use crate::host::{Current, Host, Map, Side};
use crate::{HeaderValue, Headers, HostError};
use std::cell::Cell;

/// The header [`Request::edit_body`] and [`Response::edit_body`] take away.
const CONTENT_LENGTH: &str = "content-length";

/// A request on its way to the upstream: what the client sent, with the changes of the plugins before this one.
pub struct Request<'a>(Message<'a>);

impl<'a> Request<'a> {
    pub(crate) fn new(host: &'a Current, has_body: bool, edits: &'a Cell<bool>) -> Request<'a> {
        Request(Message { host, side: Side::Request, has_body, edits })
    }

    /// The headers, to read and to change.
    pub fn headers(&mut self) -> Headers<'_> {
        self.0.headers()
    }

    /// The method: `GET`.
    pub fn method(&self) -> Result<HeaderValue, HostError> {
        self.0.pseudo(":method")
    }

    /// The path with its query: `/sample?page=2`.
    pub fn path(&self) -> Result<HeaderValue, HostError> {
        self.0.pseudo(":path")
    }

    /// Sends the request to another path (with query). The gateway chooses the route by the new one.
    pub fn set_path(&mut self, path: impl AsRef<[u8]>) -> Result<(), HostError> {
        self.headers().set(":path", path)
    }

    /// The host the client asked for, with the port if it sent one.
    pub fn authority(&self) -> Result<HeaderValue, HostError> {
        self.0.pseudo(":authority")
    }

    /// `http` or `https`, as the client reached the gateway.
    pub fn scheme(&self) -> Result<HeaderValue, HostError> {
        self.0.pseudo(":scheme")
    }

    /// Whether a body follows. If not, [`on_request_body`](crate::Plugin::on_request_body) is not called.
    pub fn has_body(&self) -> bool {
        self.0.has_body
    }

    /// What the gateway knows about the stream, `None` if nothing: `["source", "address"]` is the client, `IP:PORT`;
    /// README.md of the gateway names the others. Texts are UTF-8, numbers eight bytes, little-endian.
    pub fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        property(self.0.host, path)
    }

    /// Announces that [`Body::replace`](crate::Body::replace) will change the length of the body: takes
    /// `content-length` away, so that no host forwards a length that is not true. A wrong one makes the next server
    /// read the rest of this body as another request (request smuggling).
    pub fn edit_body(&mut self) -> Result<(), HostError> {
        self.0.edit_body()
    }
}

/// A response on its way to the client: what the upstream sent or the gateway answered itself, with the changes of
/// the plugins after this one.
///
/// Proxy-wasm hosts do not promise that the request's headers can still be read now: keep what is needed from them
/// in the plugin's [`Context`](crate::Plugin::Context).
pub struct Response<'a>(Message<'a>);

impl<'a> Response<'a> {
    pub(crate) fn new(host: &'a Current, has_body: bool, edits: &'a Cell<bool>) -> Response<'a> {
        Response(Message { host, side: Side::Response, has_body, edits })
    }

    /// The headers, to read and to change.
    pub fn headers(&mut self) -> Headers<'_> {
        self.0.headers()
    }

    /// The status code. 0 if the host gave none that is a number.
    pub fn status(&self) -> Result<u16, HostError> {
        let status = self.0.pseudo(":status")?;
        Ok(status.to_str().and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// Changes the status code; the body stays as it is.
    pub fn set_status(&mut self, status: u16) -> Result<(), HostError> {
        self.headers().set(":status", status.to_string())
    }

    /// Whether a body follows. If not, [`on_response_body`](crate::Plugin::on_response_body) is not called.
    pub fn has_body(&self) -> bool {
        self.0.has_body
    }

    /// As [`Request::property`].
    pub fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        property(self.0.host, path)
    }

    /// As [`Request::edit_body`], for the response.
    pub fn edit_body(&mut self) -> Result<(), HostError> {
        self.0.edit_body()
    }
}

/// A stream that is over, with everything that is known of both messages. Nothing of it can be changed any more.
pub struct Finished<'a> {
    host: &'a Current,
    maps: [Headers<'a>; 4],
}

impl<'a> Finished<'a> {
    pub(crate) fn new(host: &'a Current) -> Finished<'a> {
        let maps = [Map::RequestHeaders, Map::RequestTrailers, Map::ResponseHeaders, Map::ResponseTrailers];
        Finished { host, maps: maps.map(|map| Headers::new(host, map)) }
    }

    /// The headers of the request, as they were sent on.
    pub fn request_headers(&self) -> &Headers<'a> {
        let [request, ..] = &self.maps;
        request
    }

    /// The trailers of the request.
    pub fn request_trailers(&self) -> &Headers<'a> {
        let [_, trailers, ..] = &self.maps;
        trailers
    }

    /// The headers of the response, as they were sent.
    pub fn response_headers(&self) -> &Headers<'a> {
        let [.., response, _] = &self.maps;
        response
    }

    /// The trailers of the response.
    pub fn response_trailers(&self) -> &Headers<'a> {
        let [.., trailers] = &self.maps;
        trailers
    }

    /// As [`Request::property`]; now also `["response", "code"]`, `["response", "flags"]`, `["request", "duration"]`.
    pub fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        property(self.host, path)
    }
}

fn property(host: &Current, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
    host.property(path).map_err(|status| HostError::new(format!("reading property `{}`", path.join(".")), status))
}

/// What both have in common.
struct Message<'a> {
    host: &'a Current,
    side: Side,
    has_body: bool,
    /// Outlives this view: the body handler asks it.
    edits: &'a Cell<bool>,
}

impl Message<'_> {
    fn headers(&self) -> Headers<'_> {
        Headers::new(self.host, self.side.headers())
    }

    /// A pseudo-header, empty if the host has none (never for a well-formed message).
    fn pseudo(&self, name: &str) -> Result<HeaderValue, HostError> {
        Ok(self.headers().get(name)?.unwrap_or_else(|| HeaderValue::from("")))
    }

    fn edit_body(&self) -> Result<(), HostError> {
        self.headers().remove(CONTENT_LENGTH)?;
        self.edits.set(true);
        Ok(())
    }
}
