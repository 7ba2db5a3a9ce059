//! Match blocks → conditions of the snapshot.

use crate::{
    config::path::Path,
    istio,
    snapshot::{Conditions, PatternError, StringMatch, UriMatch},
};

/// Where translation says what cannot be translated: field and message.
pub(crate) type Fail<'a> = dyn FnMut(&Path<'_>, String) + 'a;

/// Header names that stand for claims of a JSON web token.
const CLAIMS: &str = "@request.auth.claims";

/// Translates a match block; what cannot be translated is reported and left out.
pub(crate) fn conditions(block: &istio::HttpMatch, path: &Path<'_>, fail: &mut Fail<'_>) -> (UriMatch, Conditions) {
    let uri = match &block.uri {
        Some(pattern) => uri(pattern, block.ignore_uri_case, &path.key("uri"), fail),
        None => UriMatch::Any,
    };
    let mut conditions = Conditions::default();
    for (key, name, pattern) in [
        (":method", "method", &block.method),
        (":authority", "authority", &block.authority),
        (":scheme", "scheme", &block.scheme),
    ] {
        let Some(pattern) = pattern else { continue };
        let field = path.key(name);
        if pattern.prefix.as_deref() == Some("") {
            fail(&field, "prefix string match should not be empty".to_owned());
        }
        // A pseudo-header is always there, so `{}` is no condition.
        if let Some(matcher) = string(pattern, &field, fail).filter(|matcher| !matches!(matcher, StringMatch::Present))
        {
            require(&mut conditions, key, matcher, &field, fail);
        }
    }
    for (name, pattern) in &block.headers {
        let field = path.key("headers");
        let field = field.key(name);
        if let Some(matcher) = header(name, pattern, &field, fail) {
            require(&mut conditions, name, matcher, &field, fail);
        }
    }
    for (name, pattern) in &block.without_headers {
        let field = path.key("withoutHeaders");
        let field = field.key(name);
        if let Some(matcher) = header(name, pattern, &field, fail)
            && !conditions.forbid(&name.to_ascii_lowercase(), matcher)
        {
            fail(&field, format!("{name:?} is not a valid header name"));
        }
    }
    for (name, pattern) in &block.query_params {
        let field = path.key("queryParams");
        if let Some(matcher) = string(pattern, &field.key(name), fail) {
            conditions.require_query(name, matcher);
        }
    }
    (uri, conditions)
}

/// Whether a match block is about claims of a JSON web token: never true without authentication.
pub(crate) fn needs_claims(block: &istio::HttpMatch) -> bool {
    block.headers.keys().chain(block.without_headers.keys()).any(|name| name.starts_with(CLAIMS))
}

/// Whether a rule matches every request, in the words of Istio: path `/` or `.*` and nothing else.
pub(crate) fn is_catch_all(block: &istio::HttpMatch, conditions: &Conditions) -> bool {
    let every_path = match &block.uri {
        None => true,
        Some(uri) => match (&uri.exact, &uri.prefix, &uri.regex) {
            (None, Some(prefix), None) => prefix == "/",
            (None, None, Some(regex)) => regex == ".*",
            (None, None, None) => true,
            _ => false,
        },
    };
    every_path && conditions.is_empty()
}

fn require(conditions: &mut Conditions, key: &str, matcher: StringMatch, field: &Path<'_>, fail: &mut Fail<'_>) {
    if !conditions.require(&key.to_ascii_lowercase(), matcher) {
        fail(field, format!("{key:?} is not a valid header name"));
    }
}

/// A header condition; `None` for claims, which [`needs_claims`] reports.
fn header(name: &str, pattern: &istio::StringMatch, field: &Path<'_>, fail: &mut Fail<'_>) -> Option<StringMatch> {
    if name.starts_with(CLAIMS) {
        return None;
    }
    string(pattern, field, fail)
}

/// A condition on a value. Nothing set, or the regular expression `*`, means that there is a value (Istio's
/// `canBeConvertedToPresentMatch`).
fn string(pattern: &istio::StringMatch, field: &Path<'_>, fail: &mut Fail<'_>) -> Option<StringMatch> {
    match (&pattern.exact, &pattern.prefix, &pattern.regex) {
        (None, None, None) => Some(StringMatch::Present),
        (Some(exact), None, None) => Some(StringMatch::exact(exact)),
        (None, Some(prefix), None) => Some(StringMatch::prefix(prefix)),
        (None, None, Some(regex)) if regex == "*" => Some(StringMatch::Present),
        (None, None, Some(regex)) => report(StringMatch::regex(regex), regex, field, fail),
        _ => several(field, fail),
    }
}

fn uri(pattern: &istio::StringMatch, ignore_case: bool, field: &Path<'_>, fail: &mut Fail<'_>) -> UriMatch {
    match (&pattern.exact, &pattern.prefix, &pattern.regex) {
        (None, None, None) => UriMatch::Any,
        (Some(exact), None, None) if ignore_case => UriMatch::ExactIgnoreCase(exact.to_ascii_lowercase()),
        (Some(exact), None, None) => UriMatch::Exact(exact.clone()),
        (None, Some(prefix), None) if ignore_case => UriMatch::PrefixIgnoreCase(prefix.to_ascii_lowercase()),
        (None, Some(prefix), None) => UriMatch::Prefix(prefix.clone()),
        (None, None, Some(regex)) => report(UriMatch::regex(regex), regex, field, fail).unwrap_or(UriMatch::Any),
        _ => several(field, fail).unwrap_or(UriMatch::Any),
    }
}

fn report<T>(compiled: Result<T, PatternError>, regex: &str, field: &Path<'_>, fail: &mut Fail<'_>) -> Option<T> {
    // The library draws the pattern and the place over several lines; its last one says what is wrong.
    compiled
        .map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            fail(&field.key("regex"), format!("regular expression invalid: {regex:?} ({reason})"));
        })
        .ok()
}

fn several<T>(field: &Path<'_>, fail: &mut Fail<'_>) -> Option<T> {
    fail(field, "only one of exact, prefix and regex may be set".to_owned());
    None
}
