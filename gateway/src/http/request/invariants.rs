//! What holds for every head that is let in, whatever a client sends: for property tests here and for the fuzzers in
//! `tests/fuzz`.

use heads::HeaderList;
use http::{Method, header, uri::PathAndQuery};

use super::{clean, host, limits, normalise, tokens, upgrade};
use crate::{
    http1::{self, request::Head},
    snapshot::{Conditions, HostPattern, HostTable, RequestView, RouteId, RouteTable, Rule, StringMatch, UriMatch},
};

/// Hosts of the routes in [`head`].
const HOSTS: [&str; 4] = ["a.example.dev", "*.example.dev", "*.b.example.dev", "*"];
/// Routes of one host are numbered from its place in [`HOSTS`] times this.
const PER_HOST: u32 = 100;

/// Headers that end at us.
const ONE_HOP: [&str; 8] = [
    "connection",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
];

/// Normalises a target.
///
/// # Panics
/// The form is not normal, not the same when it is normalised again, or not what RFC 3986 says.
pub(crate) fn path(bytes: &[u8]) {
    let Ok(target) = PathAndQuery::try_from(bytes) else { return };
    let Ok(normal) = normalise(target.clone()) else { return };
    assert_normal(&normal);
    assert_eq!(normal.query(), target.query());
    assert_eq!(normal.path(), by_rfc(target.path()), "{target}");
    assert_eq!(normalise(normal.clone()).ok().as_ref(), Some(&normal), "{target}: normalised again");
}

fn assert_normal(target: &PathAndQuery) {
    let text = target.as_str();
    assert!(text.starts_with('/'), "{text}");
    assert!(text.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b'#'), "{text}");
    assert!(!text.contains("%00"), "{text}");
    assert!(!target.path().contains('\\'), "{text}");
    assert!(!target.path().split('/').any(|segment| segment == "." || segment == ".."), "{text}");
    // An upstream that decodes finds neither dots nor anything else that a policy has not seen.
    assert_eq!(decoded(target.path()), target.path(), "{text}");
}

/// The path without escapes of characters that need none (RFC 3986 6.2.2.2).
fn decoded(path: &str) -> String {
    let mut pieces = path.split('%');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece.get(..2).filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()).map(char::from) {
            Some(code) if code.is_ascii_alphanumeric() || "-._~".contains(code) => {
                out.push(code);
                out.push_str(&piece[2..]);
            }
            _ => {
                out.push('%');
                out.push_str(piece);
            }
        }
    }
    out
}

/// RFC 3986 5.2.4, word by word.
fn by_rfc(path: &str) -> String {
    let mut input = decoded(path).replace('\\', "/");
    let mut output = String::new();
    while !input.is_empty() {
        if input.starts_with("/./") || input == "/." {
            input = format!("/{}", input.get(3..).unwrap_or_default());
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", input.get(4..).unwrap_or_default());
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output.push_str(&input[..end]);
            input.drain(..end);
        }
    }
    output
}

/// Lets requests in and looks for their routes. The lines up to an empty one are rules, see [`rule`]; the rest is what a
/// client sends.
///
/// # Panics
/// Something is left in a head that must not go on, or the route is not the one that a plain search finds.
pub(crate) fn head(bytes: &[u8]) {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\n\n") else { return };
    let Ok(text) = str::from_utf8(&bytes[..end]) else { return };
    let rules: Vec<Rule> = (0..).zip(text.lines().take(20)).map_while(|(route, line)| rule(line, route)).collect();
    let mut table = HostTable::default();
    for (place, pattern) in (0..).zip(HOSTS) {
        let Some(name) = HostPattern::parse(pattern) else { return };
        let rules = rules.iter().map(|rule| Rule { route: place * PER_HOST + rule.route, ..rule.clone() });
        let routes = RouteTable::new(rules.collect());
        table.insert(crate::snapshot::VirtualHost { name, domain: "".into(), routes, https_redirect: None });
    }
    for head in http1::heads(&bytes[end + 2..]) {
        let Some((method, target, headers)) = let_in(head) else { continue };
        let authority = headers[header::HOST].to_str().unwrap_or_default();
        let (path, query) = (target.path(), target.query());
        let view = RequestView { path, query, method: method.as_str(), authority, scheme: "http", headers: &headers };
        let found = table.find(authority).and_then(|host| host.routes.find(&view));
        assert_eq!(found, plainly(&rules, authority, &view), "{authority} {target}");
    }
}

/// `= /path METHOD`: how the path is compared (`=` exact, `^` prefix, `=i` and `^i` without regard to case, `~` regular
/// expression), with what, and with which method, if not with any.
fn rule(line: &str, route: RouteId) -> Option<Rule> {
    let mut words = line.split(' ');
    let (how, path) = (words.next()?, words.next()?);
    let uri = match how {
        "=" => UriMatch::Exact(path.to_owned()),
        "^" => UriMatch::Prefix(path.to_owned()),
        "=i" => UriMatch::ExactIgnoreCase(path.to_ascii_lowercase()),
        "^i" => UriMatch::PrefixIgnoreCase(path.to_ascii_lowercase()),
        "~" if path.len() < 32 => UriMatch::regex(path).ok()?,
        _ => return None,
    };
    let mut conditions = Conditions::default();
    if let Some(method) = words.next() {
        assert!(conditions.require(":method", StringMatch::exact(method)));
    }
    Some(Rule { uri, conditions, route })
}

/// What `admit` does without a connection; `None` if the request is refused.
fn let_in(head: Head) -> Option<(Method, PathAndQuery, HeaderList)> {
    let Head { method, uri, version, mut headers, .. } = head;
    super::check_method(&method).ok()?;
    let uri = uri.into_parts();
    host::set(&mut headers, uri.authority.as_ref(), version).ok()?;
    let target = match uri.path_and_query {
        Some(target) => normalise(target).ok()?,
        None => PathAndQuery::from_static("/"),
    };
    let named: Vec<Vec<u8>> =
        headers.get_all(header::CONNECTION).flat_map(tokens).map(<[u8]>::to_ascii_lowercase).collect();
    let (_, upgrades) = clean(&mut headers, &method, version, false).ok()?;
    assert_normal(&target);
    assert_eq!(headers.get_all(header::HOST).count(), 1);
    assert!(headers.len() <= limits::MAX_HEADERS + 2, "{}", headers.len());
    assert_eq!(upgrades, upgrade::is_marked(&headers));
    if upgrades {
        upgrade::unmark(&mut headers);
    }
    for (name, value) in &headers {
        let name = name.as_str();
        let protected =
            ["host", "content-length", "authorization", "te", "x-forwarded-for", "x-request-id"].contains(&name);
        assert!(protected || !named.iter().any(|named| named == name.as_bytes()), "{name} is named by Connection");
        assert!(!ONE_HOP.contains(&name) && !name.starts_with("x-envoy-"), "{name} goes on");
        assert!(name != "te" || value == "trailers", "{value:?}");
    }
    assert!(headers.get_all(header::COOKIE).count() <= 1, "cookies are one");
    Some((method, target, headers))
}

/// The route as a person would look for it.
fn plainly(rules: &[Rule], authority: &str, view: &RequestView<'_>) -> Option<RouteId> {
    let name = authority.to_ascii_lowercase();
    let name = match name.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => &name,
    };
    let fits = |pattern: &str| match pattern.strip_prefix('*') {
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => name == pattern,
    };
    let host = HOSTS.iter().enumerate().filter(|(_, pattern)| fits(pattern)).max_by_key(|(_, pattern)| {
        let wild = pattern.starts_with('*');
        (!wild, pattern.len())
    });
    let lower = view.path.to_ascii_lowercase();
    let rule = rules.iter().find(|rule| {
        let path = match &rule.uri {
            UriMatch::Exact(path) => view.path == path,
            UriMatch::Prefix(path) => view.path.starts_with(path.as_str()),
            UriMatch::ExactIgnoreCase(path) => lower == *path,
            UriMatch::PrefixIgnoreCase(path) => lower.starts_with(path.as_str()),
            other => other.matches(view.path),
        };
        let method = rule.conditions.iter().all(|(_, _, wanted)| wanted.matches(view.method.as_bytes()));
        path && method
    });
    Some(host?.0 as u32 * PER_HOST + rule?.route)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn paths_are_normal(bytes in r"/([a/.?;~]|%|%2e|%2F|%5[cC]|%00|\\|[2eE30]){0,16}") {
            path(bytes.as_bytes());
        }

        #[test]
        fn routes_are_found(
            rules in prop::collection::vec("(=|\\^|=i|\\^i) /[abA/{}*.]{0,4}( GET| PUT)?", 0..8),
            requests in prop::collection::vec(
                ("(GET|PUT|POST|FOO)", "/[abA/{}*.%2e]{0,6}", "(a.example.dev|B.example.dev|c.b.example.dev:80|other|)",
                 "(|TE: trailers, x\r\n|Connection: x-a, te, host\r\nX-A: 1\r\n|Cookie: a=b\r\ncookie: c=d\r\n)"),
                0..4,
            ),
        ) {
            let mut bytes = rules.join("\n") + "\n\n";
            for (method, target, host, fields) in requests {
                bytes += &format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
            }
            head(bytes.as_bytes());
        }
    }
}
