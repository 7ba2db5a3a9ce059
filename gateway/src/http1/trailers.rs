//! Trailers: the fields behind a chunked body (RFC 9112 7.1.2), up to an empty line.

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::{memchr_iter, memmem};

use super::{Malformed, limits, request::is_disguised};

/// Takes the trailers and the empty line behind them. `None`: they are not complete yet.
///
/// # Errors
/// They are not as they must be, or more than the limits allow.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    let end = match &buffer[..] {
        [b'\r', b'\n', ..] => {
            buffer.advance(2);
            return Ok(Some(HeaderMap::new()));
        }
        [] | [b'\r'] => return Ok(None),
        bytes => match memmem::find(bytes, b"\r\n\r\n") {
            Some(at) if at < limits::MAX_TRAILER_BYTES => at + 4,
            None if bytes.len() < limits::MAX_TRAILER_BYTES => {
                // What is wrong already does not have to wait for its end.
                return check_lines(bytes).map(|()| None);
            }
            _ => return Err(Malformed(limits::TRAILERS_TOO_LARGE)),
        },
    };
    let section = buffer.get(..end).unwrap_or_default();
    check_lines(section)?;
    let mut fields = [httparse::EMPTY_HEADER; limits::MAX_TRAILERS];
    let fields = match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed(limits::TRAILERS_TOO_LARGE)),
        _ => return Err(Malformed("the trailers are no header fields")),
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value))
        else {
            return Err(Malformed("a trailer is no header field"));
        };
        if is_forbidden(&name) || is_disguised(field.name.as_bytes()) {
            return Err(Malformed("a trailer is none that may be one"));
        }
        trailers.append(name, value);
    }
    buffer.advance(end);
    Ok(Some(trailers))
}

/// Every line ends with both characters.
fn check_lines(bytes: &[u8]) -> Result<(), Malformed> {
    let ended = |feed: usize| feed.checked_sub(1).and_then(|before| bytes.get(before)) == Some(&b'\r');
    if memchr_iter(b'\n', bytes).all(ended) { Ok(()) } else { Err(Malformed("a line ends without a carriage return")) }
}

/// Fields that would make another message of it. Others that do not belong there are dropped later on.
fn is_forbidden(name: &HeaderName) -> bool {
    matches!(name.as_str(), "content-length" | "transfer-encoding" | "host")
}
