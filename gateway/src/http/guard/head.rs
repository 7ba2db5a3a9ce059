//! One head, or the trailers of a chunked body: lines of text up to an empty one (RFC 9112 2 to 5 and 7.1.2).
//!
//! Every line is looked at once, when it is complete. What is not plainly allowed is refused; RFC 9112 lets a server
//! repair some of it, but a repair is what the next server may do differently.

use std::ops::Range;

use memchr::memchr;

use super::{Refusal, limits};

/// How the body behind a head ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
}

/// Which lines are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    /// A request line and header fields.
    Head,
    /// Fields that are not about framing or routing.
    Trailers,
}

/// Follows the lines. Positions count from the first byte of the section.
#[derive(Debug)]
pub(super) struct Head {
    section: Section,
    /// Begin of the line that is not complete yet.
    line: usize,
    /// There is no line feed between `line` and here.
    searched: usize,
    /// The request line, once it has been accepted.
    request_line: Option<Range<usize>>,
    fields: usize,
    /// Fields that the log shows of a refused request: Host and User-Agent.
    shown: [Option<Range<usize>>; 2],
    is_http10: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// What a look at the bytes has shown.
#[derive(Debug)]
pub(super) enum Scan {
    /// The end has not come yet.
    Incomplete,
    /// The section has so many bytes, the empty line included.
    Complete(usize),
}

impl Head {
    pub(super) fn request() -> Self {
        Self::new(Section::Head)
    }

    pub(super) fn trailers() -> Self {
        Self::new(Section::Trailers)
    }

    fn new(section: Section) -> Self {
        Self {
            section,
            line: 0,
            searched: 0,
            request_line: None,
            fields: 0,
            shown: [None, None],
            is_http10: false,
            length: None,
            chunked: false,
            upgrade: false,
        }
    }

    /// Looks at the lines that have become complete. `bytes` begins with the section and has grown since the last call.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<Scan, Refusal> {
        let (limit, too_large) = match self.section {
            Section::Head => (limits::MAX_HEAD_BYTES, Refusal::HeadTooLarge),
            Section::Trailers => (limits::MAX_TRAILER_BYTES, Refusal::Malformed("the trailers are too large")),
        };
        // Something that is no HTTP may never have a line feed: do not wait for it.
        if self.expects_request_line() && bytes.first().is_some_and(|byte| !is_token(*byte)) {
            return Err(Refusal::Malformed("a request does not begin with a method"));
        }
        loop {
            let unseen = bytes.get(self.searched..).unwrap_or_default();
            let Some(found) = memchr(b'\n', unseen) else {
                self.searched = bytes.len();
                if bytes.len() >= limit {
                    return Err(too_large);
                }
                return Ok(Scan::Incomplete);
            };
            let end = self.searched + found;
            let from = std::mem::replace(&mut self.line, end + 1);
            self.searched = end + 1;
            if end >= limit {
                return Err(too_large);
            }
            let Some((b'\r', line)) = bytes.get(from..end).and_then(<[u8]>::split_last) else {
                return Err(Refusal::Malformed("a line ends without a carriage return"));
            };
            if self.expects_request_line() {
                self.check_request_line(line)?;
                self.request_line = Some(from..end + 1);
            } else if line.is_empty() {
                return self.check_framing().map(|()| Scan::Complete(end + 1));
            } else {
                self.check_field(line, from)?;
            }
        }
    }

    /// How the body ends.
    pub(super) fn framing(&self) -> Framing {
        if self.chunked { Framing::Chunked } else { Framing::Length(self.length.unwrap_or(0)) }
    }

    /// Whether the client wants to speak another protocol after this request.
    pub(super) fn asks_for_upgrade(&self) -> bool {
        self.upgrade
    }

    /// Whether a line or more of it have been accepted.
    pub(super) fn has_request_line(&self) -> bool {
        self.request_line.is_some()
    }

    /// A head that says who asked for what, as far as that is known and well-formed, and nothing else.
    pub(super) fn stand_in(&self, bytes: &[u8]) -> Vec<u8> {
        let of = |range: &Option<Range<usize>>| range.clone().and_then(|range| bytes.get(range));
        let mut head = Vec::new();
        head.extend_from_slice(of(&self.request_line).unwrap_or(b"GET / HTTP/1.1\r\n"));
        for line in self.shown.iter().filter_map(of) {
            head.extend_from_slice(line);
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    fn expects_request_line(&self) -> bool {
        self.section == Section::Head && self.request_line.is_none()
    }

    fn check_request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let malformed = |reason| Err(Refusal::Malformed(reason));
        let Some(space) = memchr(b' ', line) else { return malformed("a request line has no target") };
        let (method, rest) = (line.get(..space).unwrap_or_default(), line.get(space + 1..).unwrap_or_default());
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return malformed("a method has a character that no method has");
        }
        let Some((target, version)) = rest.split_at_checked(rest.len().wrapping_sub(b" HTTP/1.1".len())) else {
            return malformed("a request line has no version");
        };
        self.is_http10 = match version {
            b" HTTP/1.1" => false,
            b" HTTP/1.0" => true,
            _ => return malformed("the version is not HTTP/1.1"),
        };
        check_target(target)
    }

    fn check_field(&mut self, line: &[u8], at: usize) -> Result<(), Refusal> {
        let malformed = |reason| Err(Refusal::Malformed(reason));
        self.fields += 1;
        if self.fields > limits::MAX_HEADERS {
            return Err(match self.section {
                Section::Head => Refusal::TooManyHeaders,
                Section::Trailers => Refusal::Malformed("there are too many trailers"),
            });
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
        match self.section {
            Section::Head => self.note(name, value, at..at + line.len() + b"\r\n".len()),
            Section::Trailers if is_forbidden_trailer(name) => malformed("a trailer is none that may be one"),
            Section::Trailers => Ok(()),
        }
    }

    /// Remembers what decides about the framing, and what the log shows.
    fn note(&mut self, name: &[u8], value: &[u8], line: Range<usize>) -> Result<(), Refusal> {
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        match name.len() {
            4 if is(b"host") => self.shown[0] = Some(line),
            7 if is(b"upgrade") => self.upgrade = true,
            10 if is(b"user-agent") => self.shown[1] = Some(line),
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
            (true, None) if self.is_http10 => Err(Refusal::Malformed("HTTP/1.0 has no Transfer-Encoding")),
            _ => Ok(()),
        }
    }
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

/// Fields that would make another message of it. Others that do not belong there are dropped later on.
fn is_forbidden_trailer(name: &[u8]) -> bool {
    ["content-length", "transfer-encoding", "host"].iter().any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
}

/// A target that is in one of the four forms (RFC 9112 3.2) and that hyper takes as it is.
fn check_target(target: &[u8]) -> Result<(), Refusal> {
    let classes = target.iter().fold(0, |seen, byte| seen | CLASSES[usize::from(*byte)]);
    if classes & NO_TARGET != 0 {
        return Err(Refusal::Malformed("a target has a space, `#`, a control character or one that is not ASCII"));
    }
    if target.first() == Some(&b'/') && classes & ODD_TARGET == 0 {
        return Ok(());
    }
    // Rare: an absolute form, `*`, an authority, or characters of which only the parser knows where they may stand.
    match http::Uri::try_from(target) {
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
