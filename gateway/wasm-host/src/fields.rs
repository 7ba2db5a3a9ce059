//! Heads and trailers as the ABI presents them: one list of names and values, with the pseudo headers
//! (`:authority :path :method :scheme`, or `:status`) in front.
//!
//! Pure. Every edit is checked here, so that what leaves a plugin is always a well-formed head: names
//! and values are those of RFC 9110 section 5, pseudo headers are the known ones with valid values,
//! and required ones stay. An edit is applied whole or not at all.

use heads::{HeaderList, RequestHead, ResponseHead, Scheme};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};
use thiserror::Error;

use crate::names::{Name, Names, Role};
use crate::pairs::Pair;

/// A map that can be read.
#[derive(Clone, Copy)]
pub(crate) enum Fields<'a> {
    Request(&'a RequestHead),
    Response(&'a ResponseHead),
    Trailers(&'a HeaderList),
}

/// A map that can be changed.
pub(crate) enum FieldsMut<'a> {
    Request(&'a mut RequestHead),
    Response(&'a mut ResponseHead),
    Trailers(&'a mut HeaderList),
}

/// Why an edit was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum EditError {
    #[error("the name is not a valid field name")]
    Name,
    #[error("the value contains a control character")]
    Value,
    #[error("this message has no such pseudo header")]
    UnknownPseudo,
    #[error("the value is not a valid one for this pseudo header")]
    PseudoValue,
    #[error("this field is required and cannot be removed")]
    Required,
    #[error("the message would have too many fields")]
    TooMany,
}

/// Whether a write adds a field beside those of the same name or takes their place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Add,
    Replace,
}

impl<'a> Fields<'a> {
    fn headers(self) -> &'a HeaderList {
        match self {
            Self::Request(head) => &head.headers,
            Self::Response(head) => &head.headers,
            Self::Trailers(map) => map,
        }
    }

    /// The first value of a name, which is read for this.
    pub(crate) fn get(self, name: &[u8]) -> Option<&'a [u8]> {
        self.value(Names::default().read(name))
    }

    /// The first value of a name. Names are compared without regard to case; the pseudo header of
    /// another kind of message is simply not there.
    pub(crate) fn value(self, name: Name<'_>) -> Option<&'a [u8]> {
        match name {
            Name::Field(known) => self.headers().get(&known.key).map(HeaderValue::as_bytes),
            Name::Pseudo(name) => {
                self.pseudo().into_iter().flatten().find(|(pseudo, _)| *pseudo == name).map(|(_, value)| value)
            }
            Name::Illegal => None,
        }
    }

    /// All pairs, duplicates included, pseudo headers first.
    pub(crate) fn iter(self) -> impl Iterator<Item = Pair<'a>> {
        let request = matches!(self, Self::Request(_));
        let rest = self.headers().iter().filter(move |(name, _)| !request || *name != header::HOST);
        self.pseudo()
            .into_iter()
            .flatten()
            .chain(rest.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
    }

    /// Number of pairs.
    pub(crate) fn count(self) -> usize {
        match self {
            // `:authority` is the `host` that the map already counts.
            Self::Request(head) => head.headers.len() + 3,
            Self::Response(head) => head.headers.len() + 1,
            Self::Trailers(map) => map.len(),
        }
    }

    fn pseudo(self) -> [Option<Pair<'a>>; 4] {
        match self {
            Self::Request(head) => [
                head.headers.get(header::HOST).map(|host| (&b":authority"[..], host.as_bytes())),
                Some((b":path", head.target.as_str().as_bytes())),
                Some((b":method", head.method.as_str().as_bytes())),
                Some((b":scheme", head.scheme.as_str().as_bytes())),
            ],
            Self::Response(head) => [Some((b":status", head.status.as_str().as_bytes())), None, None, None],
            Self::Trailers(_) => [None; 4],
        }
    }
}

impl FieldsMut<'_> {
    fn headers(&mut self) -> &mut HeaderList {
        match self {
            Self::Request(head) => &mut head.headers,
            Self::Response(head) => &mut head.headers,
            Self::Trailers(map) => map,
        }
    }

    /// Writes one field. Answers whether the map is different now: fields that frame the message on
    /// a connection are not a plugin's to write and are left as they are.
    pub(crate) fn write(&mut self, how: Write, name: Name<'_>, value: &[u8], max: usize) -> Result<bool, EditError> {
        let known = match name {
            Name::Field(known) => known,
            Name::Pseudo(name) => return self.write_pseudo(name, value).map(|()| true),
            Name::Illegal => return Err(EditError::Name),
        };
        match known.more {
            Role::Host if matches!(self, Self::Request(_)) => {
                return self.write_pseudo(b":authority", value).map(|()| true);
            }
            Role::Framing => return Ok(false),
            Role::Host | Role::Ordinary => {}
        }
        let value = HeaderValue::from_bytes(value).map_err(|_| EditError::Value)?;
        let headers = self.headers();
        if headers.len() >= max && (how == Write::Add || !headers.contains_key(&known.key)) {
            return Err(EditError::TooMany);
        }
        match how {
            Write::Add => headers.append(&known.key, value),
            Write::Replace => drop(headers.insert(&known.key, value)),
        }
        Ok(true)
    }

    /// Removes every field of a name. Answers whether there was one.
    pub(crate) fn remove(&mut self, name: Name<'_>) -> Result<bool, EditError> {
        let request = matches!(self, Self::Request(_));
        let required = match name {
            Name::Pseudo(b":authority" | b":path" | b":method" | b":scheme") => request,
            Name::Pseudo(b":status") => matches!(self, Self::Response(_)),
            Name::Field(known) => request && known.more == Role::Host,
            Name::Pseudo(_) | Name::Illegal => false,
        };
        if required {
            return Err(EditError::Required);
        }
        Ok(matches!(name, Name::Field(known) if self.headers().remove(&known.key).is_some()))
    }

    /// Replaces all fields by these pairs. Pseudo headers (and `host`) that are not among them keep
    /// their values. Nothing is changed unless every pair is valid.
    pub(crate) fn set<'p>(&mut self, pairs: impl Iterator<Item = Pair<'p>>, max: usize) -> Result<(), EditError> {
        match self {
            Self::Request(head) => {
                let mut headers = HeaderList::new();
                if let Some(host) = head.headers.get(header::HOST) {
                    headers.insert(header::HOST, host.clone());
                }
                let mut new = RequestHead {
                    method: head.method.clone(),
                    target: head.target.clone(),
                    scheme: head.scheme,
                    headers,
                };
                FieldsMut::Request(&mut new).add_all(pairs, max)?;
                **head = new;
            }
            Self::Response(head) => {
                let mut new = ResponseHead { status: head.status, headers: HeaderList::new() };
                FieldsMut::Response(&mut new).add_all(pairs, max)?;
                **head = new;
            }
            Self::Trailers(map) => {
                let mut new = HeaderList::new();
                FieldsMut::Trailers(&mut new).add_all(pairs, max)?;
                **map = new;
            }
        }
        Ok(())
    }

    fn add_all<'p>(&mut self, pairs: impl Iterator<Item = Pair<'p>>, max: usize) -> Result<(), EditError> {
        let mut names = Names::default();
        for (name, value) in pairs {
            self.write(Write::Add, names.read(name), value, max)?;
        }
        Ok(())
    }

    fn write_pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError> {
        match (self, name) {
            (Self::Request(head), b":authority") => {
                head.headers.insert(header::HOST, authority(value)?);
            }
            (Self::Request(head), b":path") => head.target = target(value)?,
            (Self::Request(head), b":method") => head.method = method(value)?,
            (Self::Request(head), b":scheme") => {
                head.scheme = match value {
                    b"http" => Scheme::Http,
                    b"https" => Scheme::Https,
                    _ => return Err(EditError::PseudoValue),
                };
            }
            (Self::Response(head), b":status") => {
                head.status = StatusCode::from_bytes(value)
                    .ok()
                    .filter(|status| (200..=599).contains(&status.as_u16()))
                    .ok_or(EditError::PseudoValue)?;
            }
            _ => return Err(EditError::UnknownPseudo),
        }
        Ok(())
    }
}

/// Fields that describe how a message is cut on one connection (RFC 9110 section 7.6.1, RFC 9112
/// section 6): the HTTP layer writes them. A plugin that writes one is ignored rather than refused,
/// because copying all fields of one message to another is common and harmless without these.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "http2-settings"
    )
}

/// A host with an optional port, without user information.
fn authority(value: &[u8]) -> Result<HeaderValue, EditError> {
    let valid = !value.contains(&b'@') && Authority::try_from(value).is_ok();
    HeaderValue::from_bytes(value).ok().filter(|_| valid).ok_or(EditError::PseudoValue)
}

/// Path and query in origin form (RFC 9112 section 3.2.1): printable ASCII, no fragment.
fn target(value: &[u8]) -> Result<PathAndQuery, EditError> {
    let printable = value.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    if value.first() != Some(&b'/') || !printable {
        return Err(EditError::PseudoValue);
    }
    PathAndQuery::try_from(value).map_err(|_| EditError::PseudoValue)
}

/// Any method but CONNECT, which would turn the request into a tunnel.
fn method(value: &[u8]) -> Result<Method, EditError> {
    Method::from_bytes(value).ok().filter(|method| *method != Method::CONNECT).ok_or(EditError::PseudoValue)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn request() -> RequestHead {
        let mut headers = HeaderList::new();
        headers.append("accept", HeaderValue::from_static("a"));
        headers.append(header::HOST, HeaderValue::from_static("test.example.dev"));
        headers.append("accept", HeaderValue::from_static("b"));
        headers.append("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        RequestHead {
            method: Method::GET,
            target: PathAndQuery::from_static("/sample?q=1"),
            scheme: Scheme::Http,
            headers,
        }
    }

    fn write(head: &mut RequestHead, name: &str, value: &[u8]) -> Result<bool, EditError> {
        FieldsMut::Request(head).write(Write::Replace, Names::default().read(name.as_bytes()), value, 100)
    }

    #[test]
    fn pseudo_headers_come_first_and_host_is_the_authority() {
        let head = request();
        let fields = Fields::Request(&head);
        let pairs: Vec<_> = fields.iter().collect();
        assert_eq!(
            pairs,
            [
                (&b":authority"[..], &b"test.example.dev"[..]),
                (b":path", b"/sample?q=1"),
                (b":method", b"GET"),
                (b":scheme", b"http"),
                (b"accept", b"a"),
                (b"accept", b"b"),
                (b"x-bytes", b"\xff\xfe"),
            ]
        );
        assert_eq!(fields.count(), pairs.len());
        assert_eq!(fields.get(b"host"), Some(&b"test.example.dev"[..]));
        assert_eq!(fields.get(b":authority"), Some(&b"test.example.dev"[..]));
        assert_eq!(fields.get(b"ACCEPT"), Some(&b"a"[..]), "first of several, any case");
        assert_eq!(fields.get(b":host"), None);
        assert_eq!(fields.get(b":status"), None);
        assert_eq!(fields.get(b"\xff"), None);
        assert_eq!(fields.get(b""), None);
    }

    #[test]
    fn pseudo_headers_are_checked() {
        let mut head = request();
        for (name, value) in [
            (":path", &b""[..]),
            (":path", b"no-slash"),
            (":path", b"*"),
            (":path", b"/a b"),
            (":path", b"/a#b"),
            (":path", b"/a\r\nx: y"),
            (":path", b"/\xc3\xa9"),
            (":method", b"G T"),
            (":method", b""),
            (":method", b"CONNECT"),
            (":scheme", b"ftp"),
            (":authority", b"user@host"),
            (":authority", b"a b"),
            (":authority", b""),
            ("host", b"a/b"),
        ] {
            assert_eq!(write(&mut head, name, value), Err(EditError::PseudoValue), "{name} {value:?}");
        }
        assert_eq!(write(&mut head, ":status", b"200"), Err(EditError::UnknownPseudo));
        assert_eq!(write(&mut head, ":protocol", b"websocket"), Err(EditError::UnknownPseudo));
        let before = request();
        assert!(Fields::Request(&head).iter().eq(Fields::Request(&before).iter()), "nothing was changed");

        assert_eq!(write(&mut head, ":path", b"/other?x=%20"), Ok(true));
        assert_eq!(write(&mut head, ":method", b"POST"), Ok(true));
        assert_eq!(write(&mut head, ":scheme", b"https"), Ok(true));
        assert_eq!(write(&mut head, "Host", b"[::1]:8080"), Ok(true));
        assert_eq!((head.target.as_str(), &head.method, head.scheme), ("/other?x=%20", &Method::POST, Scheme::Https));
        assert_eq!(head.headers.get_all(header::HOST).count(), 1);
    }

    #[test]
    fn a_second_host_replaces_the_first() {
        let mut head = request();
        FieldsMut::Request(&mut head).write(Write::Add, Names::default().read(b"host"), b"other", 100).unwrap();
        assert!(head.headers.get_all(header::HOST).eq(["other"]));
    }

    #[test]
    fn illegal_fields_are_refused() {
        let mut head = request();
        for name in ["", " ", "a b", "a:", "a\0", "\u{e9}"] {
            assert_eq!(write(&mut head, name, b"v"), Err(EditError::Name), "{name:?}");
        }
        for value in [&b"a\r\nb"[..], b"\n", b"\0", b"\x7f"] {
            assert_eq!(write(&mut head, "x", value), Err(EditError::Value), "{value:?}");
        }
        assert_eq!(write(&mut head, "X-Any", b"\x80\xff\ttext"), Ok(true));
        assert_eq!(head.headers.get("x-any").unwrap().as_bytes(), b"\x80\xff\ttext");
    }

    #[test]
    fn framing_is_not_written_but_can_be_removed() {
        let mut head = request();
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
        for name in ["content-length", "Transfer-Encoding", "connection", "keep-alive", "upgrade"] {
            assert_eq!(write(&mut head, name, b"1"), Ok(false), "{name}");
        }
        assert_eq!(head.headers.get(header::CONTENT_LENGTH).unwrap(), "5");
        assert_eq!(FieldsMut::Request(&mut head).remove(Names::default().read(b"Content-Length")), Ok(true));
        assert_eq!(FieldsMut::Request(&mut head).remove(Names::default().read(b"content-length")), Ok(false));
    }

    #[test]
    fn required_fields_stay() {
        let mut head = request();
        for name in [":authority", ":path", ":method", ":scheme", "Host"] {
            assert_eq!(
                FieldsMut::Request(&mut head).remove(Names::default().read(name.as_bytes())),
                Err(EditError::Required),
                "{name}"
            );
        }
        assert_eq!(FieldsMut::Request(&mut head).remove(Names::default().read(b":status")), Ok(false));
        let mut response = ResponseHead { status: StatusCode::OK, headers: HeaderList::new() };
        assert_eq!(
            FieldsMut::Response(&mut response).remove(Names::default().read(b":status")),
            Err(EditError::Required)
        );
    }

    #[test]
    fn a_status_is_one_that_can_be_sent() {
        let mut response = ResponseHead { status: StatusCode::OK, headers: HeaderList::new() };
        for status in ["0", "99", "100", "101", "600", "1000", "abc", ""] {
            let written = FieldsMut::Response(&mut response).write(
                Write::Replace,
                Names::default().read(b":status"),
                status.as_bytes(),
                9,
            );
            assert_eq!(written, Err(EditError::PseudoValue), "{status}");
        }
        FieldsMut::Response(&mut response).write(Write::Replace, Names::default().read(b":status"), b"404", 9).unwrap();
        assert_eq!(response.status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn setting_a_map_is_all_or_nothing() {
        let mut head = request();
        let bad = [(&b"x"[..], &b"1"[..]), (b"y", b"\n")];
        assert_eq!(FieldsMut::Request(&mut head).set(bad.into_iter(), 100), Err(EditError::Value));
        assert_eq!(head.headers.len(), request().headers.len());

        let good = [(&b":path"[..], &b"/new"[..]), (b"x", b"1"), (b"x", b"2"), (b"content-length", b"9")];
        FieldsMut::Request(&mut head).set(good.into_iter(), 100).unwrap();
        let pairs: Vec<_> = Fields::Request(&head).iter().skip(1).collect();
        assert_eq!(
            pairs,
            [(&b":path"[..], &b"/new"[..]), (b":method", b"GET"), (b":scheme", b"http"), (b"x", b"1"), (b"x", b"2")]
        );
        assert_eq!(Fields::Request(&head).get(b":authority"), Some(&b"test.example.dev"[..]));
    }

    #[test]
    fn the_number_of_fields_is_limited() {
        let mut map = HeaderList::new();
        let mut fields = FieldsMut::Trailers(&mut map);
        for _ in 0..3 {
            fields.write(Write::Add, Names::default().read(b"x"), b"1", 3).unwrap();
        }
        assert_eq!(fields.write(Write::Add, Names::default().read(b"x"), b"1", 3), Err(EditError::TooMany));
        assert_eq!(fields.write(Write::Replace, Names::default().read(b"y"), b"1", 3), Err(EditError::TooMany));
        assert_eq!(fields.write(Write::Replace, Names::default().read(b"x"), b"1", 3), Ok(true));
        assert_eq!(map.len(), 1);
    }
}
