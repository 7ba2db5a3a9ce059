//! The head of a response.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use heads::HeaderList;
use http::{HeaderValue, StatusCode};
use memchr::{memchr, memchr_iter};
use smallvec::SmallVec;

use super::{Malformed, body::Framing, names, take};

/// What a response head says about the connection; its fields are in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    /// How the body ends, if there is one: HEAD, 204 and 304 have none whatever this says.
    pub(crate) framing: Framing,
    /// Whether the connection may carry another request.
    pub(crate) keep_alive: bool,
}

/// Reads heads; knows how much of an incomplete one it has looked at.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    searched: usize,
    /// Interim answers since the last final one.
    interim: u32,
}

/// Fields of one head.
const MAX_FIELDS: usize = 100;
/// Interim answers (1xx) before a final one; they are not passed on.
const MAX_INTERIM: u32 = 64;
/// What is said of a head with more.
pub(crate) const TOO_MANY_FIELDS: Malformed = Malformed("it has more than 100 headers");

const TOO_MANY_INTERIM: Malformed = Malformed("it has more than 64 interim responses");

enum Taken {
    Final(Head),
    Interim,
    Incomplete,
}

/// Where a field stands in the head.
struct Field {
    name: (u32, u32),
    value: (u32, u32),
}

impl Reader {
    /// Takes the head of a final response out of what was read, or that of a 101, and puts its fields into `headers` in
    /// place of what is there. `None`: it is not complete; `headers` is as it was, also after an error.
    ///
    /// # Errors
    /// It is not a head, or could be read as two messages.
    pub(crate) fn take(&mut self, buffer: &mut BytesMut, headers: &mut HeaderList) -> Result<Option<Head>, Malformed> {
        loop {
            match self.take_any(buffer, headers)? {
                Taken::Final(head) => return Ok(Some(head)),
                Taken::Incomplete => return Ok(None),
                Taken::Interim => {}
            }
        }
    }

    fn take_any(&mut self, buffer: &mut BytesMut, headers: &mut HeaderList) -> Result<Taken, Malformed> {
        // What comes in drops is not parsed anew with each of them.
        if self.searched > 0 && !self.is_complete(buffer) {
            return Ok(Taken::Incomplete);
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, &mut fields);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => {
                self.searched = buffer.len();
                return Ok(Taken::Incomplete);
            }
            Err(httparse::Error::TooManyHeaders) => return Err(TOO_MANY_FIELDS),
            Err(_) => return Err(Malformed("it is not HTTP/1.1")),
        };
        self.searched = 0;
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Malformed("its status is no status"))?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            buffer.advance(length);
            self.interim += 1;
            return if self.interim > MAX_INTERIM { Err(TOO_MANY_INTERIM) } else { Ok(Taken::Interim) };
        }
        self.interim = 0;
        let (framing, keep_alive) = connection(response.version == Some(0), response.headers)?;
        let start = buffer.as_ptr() as usize;
        let place = |part: &[u8]| {
            // A head is smaller than 4 GiB by far.
            let from = (part.as_ptr() as usize - start) as u32;
            (from, from + part.len() as u32)
        };
        let places: SmallVec<[Field; 32]> = response
            .headers
            .iter()
            .map(|field| Field { name: place(field.name.as_bytes()), value: place(field.value) })
            .collect();
        let head = take(buffer, length);
        headers.clear();
        headers.reserve(places.len());
        names::reading(|names| {
            for Field { name, value } in places {
                let name = head.get(name.0 as usize..name.1 as usize).and_then(|name| names.name(name));
                let value = HeaderValue::from_maybe_shared(head.slice(value.0 as usize..value.1 as usize));
                // The parser takes only what these take.
                if let (Some(name), Ok(value)) = (name, value) {
                    headers.append(name, value);
                }
            }
        });
        Ok(Taken::Final(Head { status, framing, keep_alive }))
    }

    /// Whether an empty line has come.
    fn is_complete(&mut self, buffer: &[u8]) -> bool {
        let from = self.searched.saturating_sub(3);
        self.searched = buffer.len();
        let rest = buffer.get(from..).unwrap_or_default();
        memchr_iter(b'\n', rest).any(|at| matches!(rest.get(at + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..])))
    }
}

/// How the body ends and whether the connection goes on.
fn connection(http10: bool, fields: &[httparse::Header<'_>]) -> Result<(Framing, bool), Malformed> {
    let (mut length, mut chunked, mut close, mut keep) = (None, false, false, false);
    for field in fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            10 if is("connection") => {
                for token in field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    close |= token.eq_ignore_ascii_case(b"close");
                    keep |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if is("content-length") => {
                if length.is_some() || memchr(b',', field.value).is_some() {
                    return Err(Malformed("it has several lengths"));
                }
                length = Some(decimal(field.value).ok_or(Malformed("its length is no number"))?);
            }
            17 if is("transfer-encoding") => {
                if chunked || !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("it has a transfer coding other than chunked"));
                }
                chunked = true;
            }
            _ => {}
        }
    }
    let framing = match (chunked, length) {
        (true, Some(_)) => return Err(Malformed("it has a length and a transfer coding")),
        (true, None) if http10 => return Err(Malformed("it is HTTP/1.0 and has a transfer coding")),
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Close,
    };
    Ok((framing, !close && (keep || !http10)))
}

/// Digits only; zeros in front do no harm here, because the length that is passed on is checked against what comes.
fn decimal(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(*byte - b'0')))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn parse(text: &str) -> Result<Option<(Head, HeaderList)>, Malformed> {
        let (mut buffer, mut headers) = (BytesMut::from(text), HeaderList::new());
        Ok(Reader::default().take(&mut buffer, &mut headers)?.map(|head| (head, headers)))
    }

    #[test]
    fn heads_are_read_at_once_or_in_drops() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello";
        let (head, headers) = parse(text).unwrap().unwrap();
        assert_eq!(head, Head { status: StatusCode::OK, framing: Framing::Length(5), keep_alive: true });
        assert_eq!(headers.get_all("x-a").collect::<Vec<_>>(), ["1", "2"]);
        let (mut reader, mut buffer, mut headers) = (Reader::default(), BytesMut::new(), HeaderList::new());
        headers.insert("old", HeaderValue::from_static("1"));
        let end = text.find("hello").unwrap();
        for (at, byte) in text.bytes().enumerate() {
            buffer.extend_from_slice(&[byte]);
            let taken = reader.take(&mut buffer, &mut headers).unwrap();
            assert_eq!(taken.is_some(), at + 1 == end, "{at}");
            if taken.is_some() {
                break;
            }
            assert_eq!(headers.len(), 1, "as it was");
        }
        assert_eq!((headers.len(), headers.contains_key("old"), buffer.len()), (3, false, 0));
    }

    #[test]
    fn the_framing_is_one() {
        let of = |fields: &str| parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).map(|head| head.unwrap().0);
        assert_eq!(of("transfer-encoding: Chunked\r\n").unwrap().framing, Framing::Chunked);
        assert_eq!(of("").unwrap(), Head { status: StatusCode::OK, framing: Framing::Close, keep_alive: true });
        assert!(!of("connection: x, Close\r\n").unwrap().keep_alive);
        for bad in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length:\r\n",
            "content-length: 9999999999999999999\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "no colon\r\n",
            "x : y\r\n",
            ": y\r\n",
            "x: y\r\n z\r\n",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(parse("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(!parse("HTTP/1.0 200 OK\r\n\r\n").unwrap().unwrap().0.keep_alive);
        assert!(parse("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\n").unwrap().unwrap().0.keep_alive);
        assert!(parse("SSH-2.0-x\r\n\r\n").is_err());
        assert!(parse("HTTP/1.1 99 x\r\n\r\n").is_err());
    }
}
