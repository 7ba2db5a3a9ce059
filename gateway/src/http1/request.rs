//! The head of a request: lines of text up to an empty one (RFC 9112 2 to 5).
//!
//! Every line is looked at once, when it is complete. What is not plainly allowed is refused; RFC 9112 lets a server
//! repair some of it, but a repair is what the next server may do differently, and a gateway that reads a message in
//! another way than the server behind it is how requests are smuggled.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use heads::HeaderList;
use http::{HeaderName, HeaderValue, Method, Uri, Version, uri::PathAndQuery};
use memchr::memchr;

use super::{body::Framing, limits, names, take};

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
    /// Memory runs out, and its head is not complete: 503.
    Overload,
}

/// A head, checked.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderList,
    /// How the body ends: never with the connection.
    pub(crate) framing: Framing,
    /// Whether the client wants the connection to go on.
    pub(crate) keep_alive: bool,
    /// Whether it waits to be told to send the body.
    pub(crate) expects_continue: bool,
}

/// Follows the lines. Positions count from the first byte of the head.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Whether an empty line has come before the head (RFC 9112 2.2 asks to ignore one).
    empty_line: bool,
    /// Begin of the line that is not complete yet.
    line: usize,
    /// There is no line feed between `line` and here.
    searched: usize,
    /// The request line, once it has been accepted.
    request_line: Option<RequestLine>,
    fields: Vec<Field>,
    /// Fields that the log shows of a refused request: Host and User-Agent.
    shown: [Option<usize>; 2],
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

#[derive(Debug, Clone)]
struct RequestLine {
    method: usize,
    target: Range<usize>,
    http10: bool,
}

/// Where the parts of a field stand. A head is shorter than 64 KiB.
#[derive(Debug, Clone, Copy)]
struct Field {
    name: u16,
    colon: u16,
    end: u16,
}

/// So much behind a head is not kept with it.
const MUCH: usize = 4 * 1024;
/// Room for so many is kept.
const FIELDS: usize = 32;

const _: () = assert!(limits::MAX_HEAD_BYTES <= u16::MAX as usize);

impl Reader {
    /// Takes a head out of what was read, its fields in `headers`, which is empty. `None`: it is not complete.
    ///
    /// # Errors
    /// It is not as it must be; [`Self::stand_in`] gives what is known of it.
    pub(crate) fn take(&mut self, buffer: &mut BytesMut, headers: &mut HeaderList) -> Result<Option<Head>, Refusal> {
        if !self.empty_line && self.line == 0 {
            // One byte more tells whether it is an empty line.
            match &buffer[..] {
                [b'\r', b'\n', ..] => {
                    self.empty_line = true;
                    buffer.advance(2);
                }
                [b'\r'] => return Ok(None),
                _ => {}
            }
        }
        let Some(length) = self.scan(buffer)? else { return Ok(None) };
        let bytes = if buffer.len() - length > MUCH {
            // It may live longer than the part of the body that was read with it.
            let copy = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
            buffer.advance(length);
            copy
        } else {
            take(buffer, length)
        };
        let head = self.build(&bytes, std::mem::take(headers))?;
        self.reset();
        Ok(Some(head))
    }

    /// Looks at the lines that have become complete. `bytes` begins with the head and has grown since the last call.
    /// Gives the length of the whole head.
    fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        // Something that is no HTTP may never have a line feed: do not wait for it.
        if self.request_line.is_none() && bytes.first().is_some_and(|byte| !is_token(*byte)) {
            return Err(Refusal::Malformed("a request does not begin with a method"));
        }
        loop {
            let unseen = bytes.get(self.searched..).unwrap_or_default();
            let Some(found) = memchr(b'\n', unseen) else {
                self.searched = bytes.len();
                if bytes.len() >= limits::MAX_HEAD_BYTES {
                    return Err(Refusal::HeadTooLarge);
                }
                return Ok(None);
            };
            let end = self.searched + found;
            let from = std::mem::replace(&mut self.line, end + 1);
            self.searched = end + 1;
            if end >= limits::MAX_HEAD_BYTES {
                return Err(Refusal::HeadTooLarge);
            }
            let Some((b'\r', line)) = bytes.get(from..end).and_then(<[u8]>::split_last) else {
                return Err(Refusal::Malformed("a line ends without a carriage return"));
            };
            if self.request_line.is_none() {
                self.request_line = Some(check_request_line(line)?);
            } else if line.is_empty() {
                return self.check_framing().map(|()| Some(end + 1));
            } else {
                self.check_field(line, from)?;
            }
        }
    }

    /// The head that was found, out of its bytes.
    fn build(&self, bytes: &Bytes, mut headers: HeaderList) -> Result<Head, Refusal> {
        let malformed = Refusal::Malformed("a head is no head");
        let line = self.request_line.as_ref().ok_or(malformed)?;
        let method = bytes.get(..line.method).and_then(|method| Method::from_bytes(method).ok()).ok_or(malformed)?;
        headers.reserve(self.fields.len());
        names::reading(|names| {
            for Field { name, colon, end } in &self.fields {
                let (name, colon, end) = (usize::from(*name), usize::from(*colon), usize::from(*end));
                let value = bytes.get(colon + 1..end).map(trimmed).unwrap_or_default();
                let value = HeaderValue::from_maybe_shared(bytes.slice_ref(value)).map_err(|_| malformed)?;
                let name = bytes.get(name..colon).and_then(|name| names.name(name)).ok_or(malformed)?;
                headers.append(name, value);
            }
            Ok(())
        })?;
        Ok(Head {
            method,
            uri: uri(bytes.slice(line.target.clone()))?,
            version: if line.http10 { Version::HTTP_10 } else { Version::HTTP_11 },
            headers,
            framing: if self.chunked { Framing::Chunked } else { Framing::Length(self.length.unwrap_or(0)) },
            keep_alive: !self.close && (self.keep_alive || !line.http10),
            expects_continue: self.expects_continue && !line.http10,
        })
    }

    fn reset(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    /// Gives back memory that only an unusual head has needed.
    pub(crate) fn shrink(&mut self) {
        if self.line == 0 {
            self.fields.shrink_to(FIELDS);
        }
    }

    /// Whether a part of a head has been looked at.
    pub(crate) fn has_begun(&self) -> bool {
        self.searched > 0
    }

    /// A head that says who asked for what, as far as that is known and well-formed, and nothing else; `kept` is what has
    /// come of the refused one. Says, too, whether method and target are the request's own.
    pub(crate) fn stand_in(&self, kept: &[u8]) -> (Head, bool) {
        let mut fields = HeaderList::new();
        for at in self.shown.iter().flatten() {
            let Some(field) = self.fields.get(*at) else { continue };
            let (name, colon, end) = (usize::from(field.name), usize::from(field.colon), usize::from(field.end));
            let name = kept.get(name..colon).and_then(|name| HeaderName::from_bytes(name).ok());
            let value = kept.get(colon + 1..end).and_then(|value| HeaderValue::from_bytes(trimmed(value)).ok());
            fields.extend(name.zip(value));
        }
        let known = self.request_line.as_ref().and_then(|line| {
            let method = Method::from_bytes(kept.get(..line.method)?).ok()?;
            let target = uri(Bytes::copy_from_slice(kept.get(line.target.clone())?)).ok()?;
            Some((method, target))
        });
        let is_known = known.is_some();
        let (method, uri) = known.unwrap_or_default();
        let head = Head {
            method,
            uri,
            version: Version::HTTP_11,
            headers: fields,
            framing: Framing::Length(0),
            keep_alive: false,
            expects_continue: false,
        };
        (head, is_known)
    }

    fn check_field(&mut self, line: &[u8], at: usize) -> Result<(), Refusal> {
        let malformed = |reason| Err(Refusal::Malformed(reason));
        if self.fields.len() >= limits::MAX_HEADERS {
            return Err(Refusal::TooManyHeaders);
        }
        let Some(colon) = memchr(b':', line) else { return malformed("a header line has no colon") };
        let (name, value) = (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default());
        if name.is_empty() {
            return malformed("a header has no name");
        }
        let classes = name.iter().fold(0, |seen, byte| seen | CLASSES[usize::from(*byte)]);
        if classes & NO_TOKEN != 0 {
            // A space before the colon, and a line that begins with one (obs-fold), too.
            return malformed("a header name has a character that no name has");
        }
        if value.iter().fold(false, |bad, byte| bad | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f)) {
            return malformed("a header value has a control character");
        }
        if classes & UNDERSCORE != 0 && is_disguised(name) {
            return malformed("a header is named like one of framing but for an underscore");
        }
        self.note(name, value)?;
        // Positions in a head fit.
        self.fields.push(Field { name: at as u16, colon: (at + colon) as u16, end: (at + line.len()) as u16 });
        Ok(())
    }

    /// Remembers what decides about the framing, and what the log shows.
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        match name.len() {
            4 if is(b"host") => self.shown[0] = Some(self.fields.len()),
            6 if is(b"expect") => self.expects_continue = trimmed(value).eq_ignore_ascii_case(b"100-continue"),
            10 if is(b"user-agent") => self.shown[1] = Some(self.fields.len()),
            10 if is(b"connection") => {
                for token in value.split(|byte| *byte == b',').map(trimmed) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if is(b"content-length") => {
                if self.length.is_some() {
                    return Err(Refusal::Malformed("there are two Content-Length headers"));
                }
                let length = trimmed(value);
                self.length = Some(decimal(length).ok_or(Refusal::Malformed("a Content-Length is no plain number"))?);
            }
            17 if is(b"transfer-encoding") => {
                if self.chunked {
                    return Err(Refusal::Malformed("there are two Transfer-Encoding headers"));
                }
                if !trimmed(value).eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Malformed("a Transfer-Encoding is not `chunked`"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn check_framing(&self) -> Result<(), Refusal> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::LengthAndChunked),
            (true, None) if self.request_line.as_ref().is_some_and(|line| line.http10) => {
                Err(Refusal::Malformed("HTTP/1.0 has no Transfer-Encoding"))
            }
            _ => Ok(()),
        }
    }
}

fn check_request_line(line: &[u8]) -> Result<RequestLine, Refusal> {
    let malformed = |reason| Err(Refusal::Malformed(reason));
    let Some(space) = memchr(b' ', line) else { return malformed("a request line has no target") };
    let (method, rest) = (line.get(..space).unwrap_or_default(), line.get(space + 1..).unwrap_or_default());
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return malformed("a method has a character that no method has");
    }
    let Some((target, version)) = rest.split_at_checked(rest.len().wrapping_sub(b" HTTP/1.1".len())) else {
        return malformed("a request line has no version");
    };
    let http10 = match version {
        b" HTTP/1.1" => false,
        b" HTTP/1.0" => true,
        _ => return malformed("the version is not HTTP/1.1"),
    };
    check_target(target)?;
    Ok(RequestLine { method: space, target: space + 1..space + 1 + target.len(), http10 })
}

/// The target as a URI: a path, an absolute URI, an authority or `*`.
fn uri(target: Bytes) -> Result<Uri, Refusal> {
    let uri = if target.first() == Some(&b'/') {
        PathAndQuery::from_maybe_shared(target).ok().map(Uri::from)
    } else {
        Uri::from_maybe_shared(target).ok()
    };
    uri.ok_or(Refusal::Malformed("a target is neither a path nor a URI"))
}

/// Whether a header name would be one about framing or routing if its underscores were hyphens or not there: some
/// servers take the one for the other.
pub(crate) fn is_disguised(name: &[u8]) -> bool {
    let Some(from) = name.iter().position(|byte| *byte != b'_') else { return false };
    let to = name.iter().rposition(|byte| *byte != b'_').map_or(from, |last| last + 1);
    let core = name.get(from..to).unwrap_or_default();
    let same = |wanted: &&str| {
        let alike =
            |(ours, theirs): (&u8, u8)| ours.to_ascii_lowercase() == theirs || (*ours == b'_' && theirs == b'-');
        core.len() == wanted.len() && core.iter().zip(wanted.bytes()).all(alike)
    };
    name.contains(&b'_')
        && ["content-length", "transfer-encoding", "host", "connection", "upgrade", "te", "trailer", "expect"]
            .iter()
            .any(same)
}

/// A target that is in one of the four forms (RFC 9112 3.2).
fn check_target(target: &[u8]) -> Result<(), Refusal> {
    let classes = target.iter().fold(0, |seen, byte| seen | CLASSES[usize::from(*byte)]);
    if classes & NO_TARGET != 0 {
        return Err(Refusal::Malformed("a target has a space, `#`, a control character or one that is not ASCII"));
    }
    if target.first() == Some(&b'/') && classes & ODD_TARGET == 0 {
        return Ok(());
    }
    // Rare: an absolute form, `*`, an authority, or characters of which only the parser knows where they may stand.
    match Uri::try_from(target) {
        Ok(_) => Ok(()),
        Err(_) => Err(Refusal::Malformed("a target is neither a path nor a URI")),
    }
}

/// Not in a token (RFC 9110 5.6.2): methods and names.
const NO_TOKEN: u8 = 1;
const UNDERSCORE: u8 = 2;
/// Nowhere in a target.
const NO_TARGET: u8 = 4;
/// Only in some places of a target, or only in some forms of it.
const ODD_TARGET: u8 = 8;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        if !matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
            && !byte.is_ascii_alphanumeric()
        {
            classes[at] |= NO_TOKEN;
        }
        if byte == b'_' {
            classes[at] |= UNDERSCORE;
        }
        if !byte.is_ascii_graphic() || byte == b'#' {
            classes[at] |= NO_TARGET;
        }
        if matches!(byte, b'"' | b'<' | b'>' | b'`' | b'{' | b'}') {
            classes[at] |= ODD_TARGET;
        }
        at += 1;
    }
    classes
}

fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & NO_TOKEN == 0
}

/// Without the white space that may surround a value; no other.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether a length is one that everybody reads alike, with no white space around.
pub(crate) fn is_length(value: &[u8]) -> bool {
    decimal(value).is_some()
}

/// A number in the one form that everybody reads alike: digits, no zero in front, small enough for a signed 64-bit integer.
fn decimal(text: &[u8]) -> Option<u64> {
    match text {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] if text.len() <= 18 => text
            .iter()
            .try_fold(0u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(*byte - b'0'))),
        _ => None,
    }
}
