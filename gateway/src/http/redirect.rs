//! Redirects and path rewrites (istio.md section 2, items 10 and 13).

use std::borrow::Cow;

use heads::{RequestHead, header};
use http::{HeaderValue, uri::PathAndQuery};

use super::{reply::Reply, route::authority};
use crate::{
    snapshot::{PathRewrite, Redirect, RedirectPort},
    telemetry::ResponseFlags,
};

/// The path of `target` after `rewrite`, without query.
fn rewritten<'a>(path: &'a str, rewrite: &'a PathRewrite) -> Cow<'a, str> {
    match rewrite {
        PathRewrite::Prefix { matched, replacement } => {
            format!("{replacement}{}", path.get(*matched..).unwrap_or_default()).into()
        }
        PathRewrite::Whole(whole) => Cow::Borrowed(whole),
        PathRewrite::Regex { pattern, replacement } => pattern.replace_all(path, &**replacement),
    }
}

/// The target with its path rewritten; the query stays. `None` if what results is no legal target.
pub(super) fn rewrite(target: &PathAndQuery, rewrite: &PathRewrite) -> Option<PathAndQuery> {
    let path = rewritten(target.path(), rewrite);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let text = match target.query() {
        Some(query) => format!("{slash}{path}?{query}"),
        None => format!("{slash}{path}"),
    };
    PathAndQuery::try_from(text).ok()
}

/// The answer of a redirect route.
pub(super) fn reply(redirect: &Redirect, head: &RequestHead, listener_port: u16) -> Box<Reply> {
    let mut reply = Reply::new(redirect.status, "direct_response", ResponseFlags::NONE);
    match HeaderValue::try_from(location(redirect, head, listener_port)) {
        Ok(location) => {
            reply.headers.insert(&header::LOCATION, location);
            reply
        }
        Err(_) => Reply::bad_request("redirect_location_invalid"),
    }
}

fn location(redirect: &Redirect, head: &RequestHead, listener_port: u16) -> String {
    let from = head.scheme.as_str();
    let scheme = redirect.scheme.unwrap_or(from);
    let requested = authority(head);
    let host = redirect.authority.as_deref().unwrap_or(requested);
    let bare = crate::snapshot::without_port(host);
    let with_port =
        |port: u16| if Some(port) == default_port(scheme) { bare.to_owned() } else { format!("{bare}:{port}") };
    let host = match redirect.port {
        RedirectPort::Number(port) => with_port(port),
        RedirectPort::Listener => with_port(listener_port),
        // The port of the scheme that is left behind would be wrong for the new one.
        RedirectPort::Keep if scheme != from && (host.ends_with(":80") || host.ends_with(":443")) => bare.to_owned(),
        RedirectPort::Keep => host.to_owned(),
    };
    let path =
        redirect.path.as_ref().map_or(Cow::Borrowed(head.target.path()), |path| rewritten(head.target.path(), path));
    let slash = if path.starts_with('/') { "" } else { "/" };
    match head.target.query() {
        Some(query) if !path.contains('?') => format!("{scheme}://{host}{slash}{path}?{query}"),
        _ => format!("{scheme}://{host}{slash}{path}"),
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use heads::HeaderList;
    use http::{Method, StatusCode};
    use proxy_wasm_host::Scheme;

    use super::*;

    fn head(host: &'static str, target: &'static str) -> RequestHead {
        let mut headers = HeaderList::new();
        headers.insert(&header::HOST, HeaderValue::from_static(host));
        RequestHead { method: Method::GET, target: PathAndQuery::from_static(target), scheme: Scheme::Http, headers }
    }

    fn redirect() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            path: None,
            authority: None,
            port: RedirectPort::Keep,
            scheme: None,
        }
    }

    #[test]
    fn locations_are_built_as_in_istio() {
        let https = Redirect { scheme: Some("https"), ..redirect() };
        let whole = |path: &str| Some(PathRewrite::Whole(path.into()));
        for (redirect, host, target, expected) in [
            (https, "main.com:1234", "/p?q=1", "https://main.com:1234/p?q=1"),
            (Redirect { scheme: Some("https"), ..redirect() }, "main.com:80", "/", "https://main.com/"),
            (redirect(), "main.com:8080", "/a?b", "http://main.com:8080/a?b"),
            (Redirect { path: whole("/new"), ..redirect() }, "a", "/old?q", "http://a/new?q"),
            (Redirect { path: whole("/new?x=1"), ..redirect() }, "a", "/old?q", "http://a/new?x=1"),
            (Redirect { authority: Some("b.com".into()), ..redirect() }, "a:99", "/", "http://b.com/"),
            (Redirect { port: RedirectPort::Number(8443), ..redirect() }, "a:1", "/", "http://a:8443/"),
            (Redirect { port: RedirectPort::Number(80), ..redirect() }, "a:1", "/", "http://a/"),
            (Redirect { port: RedirectPort::Listener, ..redirect() }, "a:1", "/", "http://a:15000/"),
            (
                Redirect { path: Some(PathRewrite::Prefix { matched: 4, replacement: "/new".into() }), ..redirect() },
                "a",
                "/old/x?q",
                "http://a/new/x?q",
            ),
        ] {
            assert_eq!(location(&redirect, &head(host, target), 15000), expected);
        }
    }

    #[test]
    fn rewrites_replace_what_matched() {
        let target = |text: &'static str| PathAndQuery::from_static(text);
        let prefix = |matched, text: &str| PathRewrite::Prefix { matched, replacement: text.into() };
        assert_eq!(rewrite(&target("/foo/bar"), &prefix(4, "/")).unwrap(), "//bar");
        assert_eq!(rewrite(&target("/foo?x=1"), &prefix(4, "/")).unwrap(), "/?x=1");
        assert_eq!(rewrite(&target("/foo/bar"), &prefix(4, "/x")).unwrap(), "/x/bar");
        assert_eq!(rewrite(&target("/a/b?q"), &PathRewrite::Whole("/z".into())).unwrap(), "/z?q");
        let regex = PathRewrite::Regex {
            pattern: regex::Regex::new("/v([0-9])").unwrap(),
            replacement: "/version/${1}".into(),
        };
        assert_eq!(rewrite(&target("/v1/v2"), &regex).unwrap(), "/version/1/version/2");
    }
}
