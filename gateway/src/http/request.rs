//! The head of a request: checked and brought into one normal form.
//!
//! The form that leaves here is what routes match, plugins see and upstreams get: path normalised, `host`
//! always present and among the fields, hop-by-hop and internal headers gone. How an
//! HTTP/1 head has to be written is the business of [`crate::http1`], which has read it.

#[cfg(any(test, fuzzing))]
pub(super) mod invariants;

use std::net::SocketAddr;

use bytes::Bytes;
use heads::{HeaderList, Key, RequestHead, Scheme, header};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version, uri::PathAndQuery};
use smallvec::SmallVec;

use super::{
    connection::Connection,
    forwarded, host, limits,
    reply::Reply,
    upgrade::{self, Asked},
};
use crate::{
    http1::request::{is_disguised, is_length},
    telemetry::ResponseFlags,
};

pub(super) static X_FORWARDED_FOR: Key = Key::from_static("x-forwarded-for");
pub(super) static X_FORWARDED_PROTO: Key = Key::from_static("x-forwarded-proto");
pub(super) static X_REQUEST_ID: Key = Key::from_static("x-request-id");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Methods that are passed on (those that Envoy's HTTP/1 codec knows). TRACE and CONNECT are answered.
const EXTENSION_METHODS: &[&str] = &[
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "M-SEARCH",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// A head as it came.
pub(super) struct Arrived {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) headers: HeaderList,
}

/// A head in its normal form.
pub(super) struct Admitted {
    pub(super) head: RequestHead,
    /// Size of the header fields as they arrived.
    pub(super) bytes: u64,
    /// Whether the client wants a WebSocket; the head says so, too.
    pub(super) upgrade: bool,
    /// The client's address, if a trusted proxy named it.
    pub(super) client: Option<SocketAddr>,
}

/// Checks and normalises a head, which it takes unless it is refused.
pub(super) fn admit(arrived: &mut Arrived, connection: &Connection) -> Result<Admitted, Box<Reply>> {
    let Arrived { method, uri, version, headers } = arrived;
    let version = *version;
    if version < Version::HTTP_11 && !connection.worker.limits.http10 {
        return Err(Reply::new(StatusCode::UPGRADE_REQUIRED, "low_version", ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
            .with_body("Upgrade Required")
            .closing());
    }
    check_method(method)?;
    let uri = std::mem::take(uri).into_parts();
    host::set(headers, uri.authority.as_ref(), version)?;
    let target = match uri.path_and_query {
        Some(target) if *method == Method::OPTIONS && target.as_str() == "*" => {
            drop(target);
            return Err(Reply::new(StatusCode::NOT_FOUND, "absolute_path_rejected", ResponseFlags::NONE));
        }
        // Absolute form with a query and no path (RFC 9112 3.2.2). HTTP/2 has no such form.
        Some(target) if version < Version::HTTP_2 && target.as_str().starts_with('?') => {
            // Displaying it adds the slash.
            let target = PathAndQuery::try_from(target.to_string());
            normalise(target.map_err(|_| Reply::bad_request("path_normalization_failed"))?)?
        }
        Some(target) => normalise(target)?,
        // Absolute form without a path.
        None if uri.scheme.is_some() => PathAndQuery::from_static("/"),
        // Authority form, which is for CONNECT only (RFC 9112 3.2.3).
        None => return Err(Reply::bad_request("http1.codec_error")),
    };
    let own = if connection.secured.is_some() { Scheme::Https } else { Scheme::Http };
    let (bytes, upgrade) = clean(headers, method, version, forwarded::keeps_certificate(connection))?;
    // Over HTTP/1 it has been counted.
    if version == Version::HTTP_2 && bytes as usize + target.as_str().len() > limits::MAX_HEAD_BYTES {
        return Err(Reply::too_large("http2.headers_too_large"));
    }
    let forwarded::Forwarded { client, scheme } = forwarded::set(headers, own, connection);
    let (method, headers) = (std::mem::take(method), std::mem::take(headers));
    Ok(Admitted { head: RequestHead { method, target, scheme, headers }, bytes, upgrade, client })
}

fn check_method(method: &Method) -> Result<(), Box<Reply>> {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE | Method::OPTIONS | Method::PATCH => {
            Ok(())
        }
        Method::CONNECT => Err(Reply::not_found()),
        Method::TRACE => {
            Err(Reply::new(StatusCode::METHOD_NOT_ALLOWED, "trace_rejected", ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR))
        }
        _ if EXTENSION_METHODS.contains(&method.as_str()) => Ok(()),
        _ => Err(Reply::bad_request("http1.codec_error")),
    }
}

/// Istio's BASE normalisation: dot segments resolved, `\` becomes `/`, escapes of unreserved characters are
/// decoded, `%2F` and `//` stay. `%00` and bytes that do not belong into a target are refused. One pass
/// decides whether there is anything to do; for almost every request there is not.
fn normalise(target: PathAndQuery) -> Result<PathAndQuery, Box<Reply>> {
    let bytes = target.as_str().as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(Reply::bad_request("path_normalization_failed"));
    }
    let mut work = false;
    let mut in_path = true;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'?' => in_path = false,
            0..=0x20 | 0x7f.. | b'#' => return Err(Reply::bad_request("path_normalization_failed")),
            // A NUL has no meaning anywhere, and many a server ends the text there.
            b'%' if bytes.get(at + 1..at + 3) == Some(b"00") => {
                return Err(Reply::bad_request("path_normalization_failed"));
            }
            b'%' | b'\\' if in_path => work = true,
            b'.' if in_path && bytes.get(at.wrapping_sub(1)) == Some(&b'/') => work = true,
            _ => {}
        }
    }
    if !work {
        return Ok(target);
    }
    let path = normal_path(target.path()).ok_or_else(|| Reply::bad_request("path_normalization_failed"))?;
    let text = match target.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    PathAndQuery::try_from(text).map_err(|_| Reply::bad_request("path_normalization_failed"))
}

/// `None` if the path has an escaped NUL, or an escape within an escape.
fn normal_path(path: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = || {
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            Some((digit(bytes.get(at + 1)?)? * 16 + digit(bytes.get(at + 2)?)?) as u8)
        };
        match byte {
            b'\\' => plain.push(b'/'),
            b'%' => match escape() {
                Some(0) => return None,
                Some(code) if code.is_ascii_alphanumeric() || b"-._~".contains(&code) => {
                    plain.push(code);
                    // `%%32e` would become `%2e`: a new escape, which the upstream decodes and no policy has seen.
                    if matches!(&plain[..], [.., b'%', _] | [.., b'%', _, _]) {
                        return None;
                    }
                    at += 2;
                }
                _ => plain.push(byte),
            },
            _ => plain.push(byte),
        }
        at += 1;
    }
    let plain = String::from_utf8(plain).ok()?;
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = plain.strip_prefix('/').unwrap_or(&plain).split('/').peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            _ => segments.push(segment),
        }
    }
    Some(format!("/{}", segments.join("/")))
}

/// Removes headers that belong to one connection or that only we may set, in one pass over the names.
/// Returns the size of all fields as they arrived, and whether a WebSocket is wanted. An upgrade that we do not do is
/// answered.
fn clean(
    headers: &mut HeaderList,
    method: &Method,
    version: Version,
    keep_certificate: bool,
) -> Result<(u64, bool), Box<Reply>> {
    if headers.len() > limits::MAX_HEADERS {
        return Err(Reply::too_large("http2.too_many_headers"));
    }
    let mut bytes = 0;
    let mut gone: SmallVec<[HeaderName; 8]> = SmallVec::new();
    let (mut upgrades, mut named, mut cookies, mut te_trailers, mut has_length) = (false, 0, 0, false, false);
    for (name, value) in headers.iter() {
        bytes += name.as_str().len() + value.len() + 4;
        // HTTP/1 has no such values; who forwards one to HTTP/1 changes it behind the back of every policy (RFC 9113 8.2.1).
        if version == Version::HTTP_2 && is_padded(value.as_bytes()) {
            return Err(Reply::bad_request("http2.invalid.header.field"));
        }
        match name.as_str() {
            "connection" => {
                named += tokens(value).count();
                if named > limits::MAX_HEADERS {
                    return Err(Reply::too_large("http1.too_many_headers"));
                }
                upgrades |= named_by_connection(value, headers, &mut gone);
            }
            // Over HTTP/1 it has been seen; h2 compares it with the body, but takes it in other forms, too.
            "content-length" => {
                if has_length || !is_length(value.as_bytes()) {
                    return Err(Reply::bad_request("http2.invalid.header.field"));
                }
                has_length = true;
                continue;
            }
            "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "http2-settings" => {}
            // It is answered with 100 as soon as somebody wants the body.
            "expect" if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {}
            "expect" => return Err(expectation_failed()),
            "x-forwarded-client-cert" if keep_certificate => continue,
            "x-forwarded-client-cert" => {}
            // One hop only, but for this.
            "te" => te_trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers")),
            "cookie" => {
                cookies += 1;
                continue;
            }
            "referer" if is_private_referer(value.as_bytes()) => {}
            name if name.starts_with("x-envoy-") => {}
            // Over HTTP/1 it has been seen.
            name if name.contains('_') && is_disguised(name.as_bytes()) => {
                return Err(Reply::bad_request("http2.invalid.header.field"));
            }
            _ => continue,
        }
        gone.push(name.clone());
    }
    // HTTP/1.0 has no upgrades (RFC 9110 7.8).
    let asked = if upgrades && version >= Version::HTTP_11 { upgrade::asked(method, headers) } else { Asked::Nothing };
    if asked == Asked::Foreign {
        return Err(Reply::new(StatusCode::FORBIDDEN, "upgrade_failed", ResponseFlags::NONE).closing());
    }
    for name in gone {
        headers.remove(name);
    }
    if te_trailers {
        headers.insert(&header::TE, TRAILERS);
    }
    if cookies > 1 {
        join_cookies(headers);
    }
    if asked == Asked::WebSocket {
        upgrade::mark(headers);
    }
    Ok((bytes as u64, asked == Asked::WebSocket))
}

/// Adds those of the headers that a `Connection` value names, except those a client must not be able to remove.
/// Returns whether it asks for an upgrade.
pub(super) fn named_by_connection(
    value: &HeaderValue,
    headers: &HeaderList,
    gone: &mut SmallVec<[HeaderName; 8]>,
) -> bool {
    let mut upgrades = false;
    for token in tokens(value) {
        if token.eq_ignore_ascii_case(b"upgrade") {
            upgrades = true;
        } else if let Ok(name) = HeaderName::from_bytes(token)
            && !matches!(
                name.as_str(),
                "host" | "content-length" | "authorization" | "te" | "x-forwarded-for" | "x-request-id"
            )
            && headers.contains_key(&name)
            && !gone.contains(&name)
        {
            gone.push(name);
        }
    }
    upgrades
}

fn is_padded(value: &[u8]) -> bool {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t');
    value.first().is_some_and(space) || value.last().is_some_and(space)
}

/// The members of a list.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// HTTP/2 may send a cookie in crumbs, which only together are the header that everybody else knows (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderList) {
    let mut whole = Vec::new();
    for crumb in headers.get_all(&header::COOKIE) {
        if !whole.is_empty() {
            whole.extend_from_slice(b"; ");
        }
        whole.extend_from_slice(crumb.as_bytes());
    }
    // Parts of header values make a header value; were it not so, the first would stay.
    if let Ok(whole) = HeaderValue::from_maybe_shared(Bytes::from(whole)) {
        headers.insert(&header::COOKIE, whole);
    }
}

fn expectation_failed() -> Box<Reply> {
    Reply::new(StatusCode::EXPECTATION_FAILED, "unknown_expectation", ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
        .with_body("Expectation Failed")
        .closing()
}

/// User information or a fragment does not belong into a referer (Envoy drops the header).
fn is_private_referer(value: &[u8]) -> bool {
    let authority = value.splitn(4, |byte| *byte == b'/').nth(2).unwrap_or_default();
    value.contains(&b'#') || authority.contains(&b'@')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn normal(path: &'static str) -> Option<String> {
        normalise(PathAndQuery::from_static(path)).ok().map(|target| target.to_string())
    }

    #[test]
    fn paths_are_normalised_as_base() {
        for (path, expected) in [
            ("/plain/path?x=/../y", "/plain/path?x=/../y"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/../../x", "/x"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/a//b", "/a//b"),
            ("/a\\b", "/a/b"),
            ("/a\\..\\b", "/b"),
            ("/%41%2d%7E", "/A-~"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/%252e", "/%252e"),
            ("/a%zz%4", "/a%zz%4"),
            ("/.hidden", "/.hidden"),
            ("/a/..b", "/a/..b"),
            ("/a/...?q", "/a/...?q"),
        ] {
            assert_eq!(normal(path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(normal("/a%00b"), None);
        // Decoded once they would be `%2e%2e` and `%00`, which whoever decodes again takes for dots and the end.
        for path in ["/a/%%32e%%32e/b", "/a/%2%65%2%65/b", "/a/%%32%65/b", "/a%%300"] {
            assert_eq!(normal(path), None, "{path}");
        }
        assert_eq!(normal("/a?b=%00"), None);
        assert!(normalise(PathAndQuery::try_from("/caf\u{e9}").unwrap()).is_err());
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for path in ["/a/../b", "/%2e%2e/x", "/a/./.././b//", "/\\..\\", "/a/%2e./"] {
            let once = normal(path).unwrap();
            let twice = normalise(PathAndQuery::try_from(once.clone()).unwrap()).ok().unwrap().to_string();
            assert_eq!(once, twice, "{path}");
        }
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderList {
        let mut map = HeaderList::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn hop_by_hop_and_internal_headers_go() {
        let mut headers = map(&[
            ("host", "a"),
            ("connection", "x-mine, Host, keep-alive"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("x-envoy-internal", "true"),
            ("x-envoy-retry-on", "5xx"),
            ("x-forwarded-client-cert", "By=x"),
            ("x-forwarded-host", "b"),
            ("referer", "http://u:p@c/"),
            ("accept", "*/*"),
        ]);
        clean(&mut headers, &Method::GET, Version::HTTP_11, false).unwrap();
        let mut names: Vec<_> = headers.names().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host", "x-forwarded-host"]);
    }

    #[test]
    fn upgrades_are_answered_but_h2c_is_ignored() {
        assert!(
            clean(&mut map(&[("connection", "upgrade"), ("upgrade", "foo")]), &Method::GET, Version::HTTP_11, false)
                .is_err()
        );
        let mut h2c = map(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "x")]);
        clean(&mut h2c, &Method::GET, Version::HTTP_11, false).unwrap();
        assert!(h2c.is_empty());
        let mut old = map(&[("connection", "upgrade"), ("upgrade", "foo")]);
        clean(&mut old, &Method::GET, Version::HTTP_10, false).unwrap();
        assert!(old.is_empty(), "HTTP/1.0 has no upgrades");
    }

    #[test]
    fn crumbs_make_a_cookie() {
        let mut headers = map(&[("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; c=3"), ("cookie", "d")]);
        clean(&mut headers, &Method::GET, Version::HTTP_11, false).unwrap();
        assert_eq!(headers.get_all(&header::COOKIE).collect::<Vec<_>>(), ["a=1; b=2; c=3; d"]);
    }

    #[test]
    fn only_trailers_may_be_wanted_of_the_next_hop() {
        for (value, expected) in
            [("trailers", Some("trailers")), ("gzip, Trailers;q=0.5, trailers", Some("trailers")), ("deflate", None)]
        {
            let mut headers = map(&[("te", value), ("connection", "te")]);
            clean(&mut headers, &Method::GET, Version::HTTP_11, false).unwrap();
            assert_eq!(headers.get("te").map(|value| value.to_str().unwrap()), expected, "{value}");
        }
    }

    #[test]
    fn values_have_no_space_around_them_over_http2() {
        let of = |value: &'static str, version| {
            clean(&mut map(&[("x-role", value)]), &Method::GET, version, false).map_err(|reply| reply.status)
        };
        for value in [" admin", "admin\t", "\tadmin", " "] {
            assert_eq!(of(value, Version::HTTP_2), Err(StatusCode::BAD_REQUEST), "{value:?}");
        }
        for value in ["", "a", "a b", "a\tb"] {
            assert!(of(value, Version::HTTP_2).is_ok(), "{value:?}");
        }
    }

    #[test]
    fn expectations_are_known_ones() {
        let of = |value: &'static str| {
            let mut headers = map(&[("expect", value)]);
            clean(&mut headers, &Method::POST, Version::HTTP_11, false).map(|_| headers.is_empty())
        };
        assert!(of("100-Continue").unwrap());
        assert_eq!(of("200-maybe").unwrap_err().status, 417);
    }

    #[test]
    fn too_many_headers_are_refused() {
        let mut headers = HeaderList::new();
        for number in 0..101 {
            headers.append(HeaderName::try_from(format!("x-{number}")).unwrap(), HeaderValue::from_static("v"));
        }
        assert_eq!(clean(&mut headers, &Method::GET, Version::HTTP_11, false).unwrap_err().status, 431);
    }

    #[test]
    fn a_connection_names_no_more_than_there_may_be() {
        for (names, status) in [(100, None), (101, Some(431)), (30_000, Some(431))] {
            let mut headers = map(&[("host", "a"), ("a", "1"), ("b", "2")]);
            headers.append("connection", HeaderValue::try_from(vec!["a"; names].join(",")).unwrap());
            let refused = clean(&mut headers, &Method::GET, Version::HTTP_11, false).err();
            assert_eq!(refused.map(|reply| reply.status.as_u16()), status, "{names}");
            assert_eq!(headers.contains_key("a"), status.is_some());
        }
    }
}
