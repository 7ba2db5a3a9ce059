//! Header edits → compiled edits, as Istio's `TranslateHeadersOperations` orders them.

use heads::Key;
use http::{HeaderName, HeaderValue};

use super::matching::Fail;
use crate::{
    config::path::Path,
    istio,
    snapshot::{HeaderOps, HeaderTemplate, HeaderWrite, Side},
};

/// The edits of one level (route or destination).
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) request: HeaderOps,
    pub(crate) response: HeaderOps,
    /// `Host` or `:authority` among the request's `set` or `add` replaces the authority.
    pub(crate) authority: Option<HeaderValue>,
}

/// Translates `headers`; what cannot be translated is reported and left out.
pub(crate) fn edits(headers: &istio::Headers, path: &Path<'_>, fail: &mut Fail<'_>) -> Edits {
    let request_path = path.key("request");
    let authority = headers
        .request
        .set
        .iter()
        .map(|entry| ("set", entry))
        .chain(headers.request.add.iter().map(|entry| ("add", entry)))
        .filter(|(_, (name, _))| is_authority(name))
        .map(|(list, (name, value))| {
            let path = request_path.key(list);
            authority(value, &path.key(name), fail)
        })
        .collect::<Vec<_>>();
    if authority.len() > 1 {
        fail(&request_path, "authority header cannot be set multiple times".to_owned());
    }
    Edits {
        request: one_head(&headers.request, Side::Request, &request_path, fail),
        response: one_head(&headers.response, Side::Response, &path.key("response"), fail),
        authority: authority.into_iter().flatten().next(),
    }
}

/// A new value for `:authority`.
pub(crate) fn authority(value: &str, path: &Path<'_>, fail: &mut Fail<'_>) -> Option<HeaderValue> {
    let usable = value.parse::<http::uri::Authority>().is_ok_and(|authority| !authority.as_str().contains('@'));
    if !usable {
        fail(path, format!("{value:?} is not a host name with or without a port"));
    }
    HeaderValue::from_str(value).ok().filter(|_| usable)
}

/// Whether a header stands for the authority.
pub(crate) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// The edits of `second` after those of `first`, in one list (Istio: a lone destination's after the route's).
pub(crate) fn append(first: &mut HeaderOps, second: HeaderOps) {
    first.remove.extend(second.remove);
    first.write.extend(second.write);
}

fn one_head(edits: &istio::HeaderEdits, side: Side, path: &Path<'_>, fail: &mut Fail<'_>) -> HeaderOps {
    let mut ops = HeaderOps::default();
    for (at, name) in edits.remove.iter().enumerate() {
        ops.remove.extend(self::name(name, side, &path.key("remove").index(at), fail));
    }
    // Maps are sorted by name, which is the order that Istio gives them.
    for (list, values, append) in [("set", &edits.set, false), ("add", &edits.add, true)] {
        let path = path.key(list);
        for (name, value) in values {
            if side == Side::Request && is_authority(name) {
                continue;
            }
            let path = path.key(name);
            let Some(name) = self::name(name, side, &path, fail) else { continue };
            match HeaderTemplate::parse(value, side) {
                Ok(value) => ops.write.push(HeaderWrite { name, value, append }),
                Err(error) => fail(&path, error.to_string()),
            }
        }
    }
    ops
}

fn name(text: &str, side: Side, path: &Path<'_>, fail: &mut Fail<'_>) -> Option<Key> {
    if text.starts_with(':') || text.eq_ignore_ascii_case("host") {
        let hint = if side == Side::Request { "; only set and add of Host or :authority are possible" } else { "" };
        fail(path, format!("invalid header {text:?}: header cannot have ':' prefix or be 'host'{hint}"));
        return None;
    }
    if is_framing(text) {
        fail(path, format!("{text:?} belongs to the connection and cannot be edited"));
        return None;
    }
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        fail(path, format!("{text:?} is not a valid header name"));
    }
    name.map(Key::from)
}

/// Headers that say where a message ends or what the connection does: editing them would let one request
/// be read as two.
fn is_framing(name: &str) -> bool {
    ["content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive", "proxy-connection"]
        .iter()
        .any(|framing| name.eq_ignore_ascii_case(framing))
}
