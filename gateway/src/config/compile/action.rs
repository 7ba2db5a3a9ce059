//! What routes do besides forwarding: redirects, fixed responses, changes of the path.

use bytes::Bytes;
use http::StatusCode;

use super::matching::Fail;
use crate::{
    config::{base64, path::Path},
    istio,
    snapshot::{DirectResponse, PathRewrite, Redirect, RedirectPort, UriMatch},
};

/// Largest body of a fixed response (Istio's validation).
const MAX_BODY: usize = 1 << 20;
/// Longest substitution of a pattern.
const MAX_SUBSTITUTION: usize = 4096;

/// Translates `redirect`; what cannot be translated is reported.
pub(crate) fn redirect(
    redirect: &istio::Redirect,
    uri: &UriMatch,
    path: &Path<'_>,
    fail: &mut Fail<'_>,
) -> Option<Redirect> {
    let code = redirect.redirect_code.unwrap_or(301);
    // Istio accepts other 3xx codes and then gives the route no action; that helps nobody.
    let status = matches!(code, 301 | 302 | 303 | 307 | 308).then(|| u16::try_from(code).ok()).flatten();
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    if status.is_none() {
        fail(&path.key("redirectCode"), format!("{code} is not one of 301, 302, 303, 307, 308"));
    }
    let scheme = match redirect.scheme.as_str() {
        "" => None,
        "http" => Some("http"),
        "https" => Some("https"),
        other => {
            fail(&path.key("scheme"), format!("invalid redirect scheme, must be \"http\" or \"https\", not {other:?}"));
            None
        }
    };
    if !redirect.authority.is_empty() && redirect.authority.parse::<http::uri::Authority>().is_err() {
        fail(&path.key("authority"), format!("{:?} is not a host name with or without a port", redirect.authority));
    }
    let location_path = match &redirect.prefix_rewrite {
        Some(_) if !redirect.uri.is_empty() => {
            fail(path, "only one of uri and prefixRewrite may be set".to_owned());
            None
        }
        Some(prefix) => Some(replace_match(uri, &location(prefix, &path.key("prefixRewrite"), fail))),
        None if redirect.uri.is_empty() => None,
        None => Some(PathRewrite::Whole(location(&redirect.uri, &path.key("uri"), fail).into())),
    };
    let port = redirect_port(redirect, path, fail);
    let authority = (!redirect.authority.is_empty()).then(|| redirect.authority.as_str().into());
    Some(Redirect { status: status?, path: location_path, authority, port, scheme })
}

fn redirect_port(redirect: &istio::Redirect, path: &Path<'_>, fail: &mut Fail<'_>) -> RedirectPort {
    match (redirect.port, redirect.derive_port.as_deref()) {
        (Some(_), Some(_)) => fail(path, "only one of port and derivePort may be set".to_owned()),
        (Some(port), None) => match u16::try_from(port) {
            Ok(port) if port > 0 => return RedirectPort::Number(port),
            _ => fail(&path.key("port"), format!("port number {port} must be in the range 1..65535")),
        },
        (None, Some("FROM_REQUEST_PORT")) => return RedirectPort::Listener,
        (None, None | Some("FROM_PROTOCOL_DEFAULT")) => {}
        (None, Some(other)) => {
            fail(&path.key("derivePort"), format!("{other:?} is not one of FROM_PROTOCOL_DEFAULT, FROM_REQUEST_PORT"));
        }
    }
    RedirectPort::Keep
}

/// Text that ends up in a `location` header or a request line.
fn location(text: &str, path: &Path<'_>, fail: &mut Fail<'_>) -> String {
    if !text.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        fail(path, format!("{text:?} must be printable ASCII without spaces; percent-encode other characters"));
    }
    text.to_owned()
}

/// Translates `directResponse`; what cannot be translated is reported.
pub(crate) fn direct_response(
    response: &istio::DirectResponse,
    path: &Path<'_>,
    fail: &mut Fail<'_>,
) -> Option<DirectResponse> {
    let status = u16::try_from(response.status).ok().filter(|status| (200..=599).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    if status.is_none() {
        fail(&path.key("status"), format!("{} is not a status in the range 200..599", response.status));
    }
    let field = path.key("body");
    let body = match response.body.as_ref().map(|body| (&body.string, &body.bytes)) {
        None | Some((None, None)) => Bytes::new(),
        Some((Some(text), None)) => Bytes::from(text.clone()),
        Some((None, Some(encoded))) => base64::decode(encoded).map(Bytes::from).unwrap_or_else(|| {
            fail(&field.key("bytes"), "is not base64".to_owned());
            Bytes::new()
        }),
        Some((Some(_), Some(_))) => {
            fail(&field, "only one of string and bytes may be set".to_owned());
            Bytes::new()
        }
    };
    if body.len() > MAX_BODY {
        fail(&field, format!("response body may be at most 1MB, this one has {} bytes", body.len()));
    }
    Some(DirectResponse { status: status?, body })
}

/// Translates the path part of `rewrite`; what cannot be translated is reported.
pub(crate) fn path_rewrite(
    rewrite: &istio::Rewrite,
    uri: &UriMatch,
    path: &Path<'_>,
    fail: &mut Fail<'_>,
) -> Option<PathRewrite> {
    match (&rewrite.uri_regex_rewrite, rewrite.uri.as_str()) {
        (Some(_), uri) if !uri.is_empty() => {
            fail(path, "rewrite may only contain one of uri and uriRegexRewrite".to_owned());
            None
        }
        (Some(regex), _) => regex_rewrite(regex, &path.key("uriRegexRewrite"), fail),
        (None, "") => None,
        (None, replacement) => Some(replace_match(uri, &location(replacement, &path.key("uri"), fail))),
    }
}

/// A prefix match has its prefix replaced, any other the whole path (Envoy's `prefix_rewrite`).
fn replace_match(uri: &UriMatch, replacement: &str) -> PathRewrite {
    match uri {
        // Without a condition on the path Istio matches the prefix `/`.
        UriMatch::Any => PathRewrite::Prefix { matched: 1, replacement: replacement.into() },
        UriMatch::Prefix(prefix) | UriMatch::PrefixIgnoreCase(prefix) => {
            PathRewrite::Prefix { matched: prefix.len(), replacement: replacement.into() }
        }
        UriMatch::Exact(_) | UriMatch::ExactIgnoreCase(_) | UriMatch::Regex(_) => {
            PathRewrite::Whole(replacement.into())
        }
    }
}

fn regex_rewrite(rewrite: &istio::RegexRewrite, path: &Path<'_>, fail: &mut Fail<'_>) -> Option<PathRewrite> {
    if rewrite.pattern.is_empty() {
        fail(&path.key("match"), "requires a regular expression".to_owned());
        return None;
    }
    if rewrite.rewrite.is_empty() {
        fail(&path.key("rewrite"), "requires a substitution".to_owned());
        return None;
    }
    // The same limits as for patterns that match.
    let pattern = crate::snapshot::StringMatch::regex(&rewrite.pattern)
        .map_err(|error| error.to_string())
        .and_then(|_| regex::Regex::new(&rewrite.pattern).map_err(|error| error.to_string()))
        .map_err(|error| {
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            fail(&path.key("match"), format!("regular expression invalid: {:?} ({reason})", rewrite.pattern));
        })
        .ok()?;
    let replacement = substitution(&rewrite.rewrite, pattern.captures_len())
        .map_err(|error| fail(&path.key("rewrite"), error))
        .ok()?;
    Some(PathRewrite::Regex { pattern, replacement: replacement.into() })
}

/// RE2's `\1` → `${1}` of the `regex` crate.
fn substitution(text: &str, groups: usize) -> Result<String, String> {
    if text.len() > MAX_SUBSTITUTION {
        return Err(format!("longer than {MAX_SUBSTITUTION} characters"));
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '$' => out.push_str("$$"),
            '\\' => match characters.next() {
                Some('\\') => out.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    if digit.to_digit(10).is_none_or(|group| group as usize >= groups) {
                        return Err(format!("\\{digit} refers to a group that the pattern does not have"));
                    }
                    out.push_str(&format!("${{{digit}}}"));
                }
                _ => return Err("a backslash must be followed by a digit or a second backslash".to_owned()),
            },
            '!'..='~' => out.push(character),
            _ => return Err("must be printable ASCII without spaces; percent-encode other characters".to_owned()),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn substitutions() {
        assert_eq!(substitution(r"/x/\2/\1", 3).as_deref(), Ok("/x/${2}/${1}"));
        assert_eq!(substitution(r"\0$1\\", 1).as_deref(), Ok(r"${0}$$1\"));
        for bad in [r"\3", r"\x", "\\", "/a b"] {
            assert!(substitution(bad, 3).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rewrite_depends_on_the_match() {
        let rewrite = istio::Rewrite { uri: "/".to_owned(), ..istio::Rewrite::default() };
        let mut fail = |field: &Path<'_>, message: String| panic!("{field}: {message}");
        let mut of = |uri: UriMatch| path_rewrite(&rewrite, &uri, &Path::Root, &mut fail);
        assert!(matches!(of(UriMatch::Prefix("/foo".into())), Some(PathRewrite::Prefix { matched: 4, .. })));
        assert!(matches!(of(UriMatch::Any), Some(PathRewrite::Prefix { matched: 1, .. })));
        assert!(matches!(of(UriMatch::Exact("/foo".into())), Some(PathRewrite::Whole(_))));
    }
}
