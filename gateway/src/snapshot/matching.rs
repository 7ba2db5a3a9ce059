//! Conditions of a route: strings, paths, headers, query parameters.
//!
//! Values are bytes and are compared as they arrive: nothing is percent-decoded, header values need not
//! be UTF-8. Regular expressions are linear time and match the whole value, as RE2 in Istio.

use std::borrow::Cow;

use heads::{HeaderList, Key};
use http::HeaderName;

/// What a route may look at in a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// Path without query.
    pub path: &'a str,
    /// Query without `?`.
    pub query: Option<&'a str>,
    /// Method token.
    pub method: &'a str,
    /// Host with the port if the client sent one.
    pub authority: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// All headers.
    pub headers: &'a HeaderList,
}

/// Why a pattern cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// Longer than Istio accepts.
    #[error("regular expression has {0} characters, at most {max} are allowed", max = StringMatch::MAX_REGEX)]
    TooLong(usize),
    /// Not valid, or too large once compiled.
    #[error("regular expression cannot be used: {0}")]
    Invalid(#[from] regex::Error),
}

/// How a value is compared.
#[derive(Debug, Clone)]
pub enum StringMatch {
    /// Equal, case-sensitive.
    Exact(Box<[u8]>),
    /// Starts with.
    Prefix(Box<[u8]>),
    /// The whole value matches.
    Regex(regex::bytes::Regex),
    /// There is a value, whatever it is.
    Present,
}

impl StringMatch {
    /// Longest regular expression in characters (Istio's validation).
    pub const MAX_REGEX: usize = 1024;

    /// Equal to `text`.
    #[must_use]
    pub fn exact(text: &str) -> Self {
        Self::Exact(text.as_bytes().into())
    }

    /// Starts with `text`.
    #[must_use]
    pub fn prefix(text: &str) -> Self {
        Self::Prefix(text.as_bytes().into())
    }

    /// The whole value matches `pattern` (RE2 syntax).
    pub fn regex(pattern: &str) -> Result<Self, PatternError> {
        Ok(Self::Regex(compile_regex(&format!("^(?:{pattern})$"), pattern.chars().count())?))
    }

    /// Whether `value` satisfies the condition.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == &**exact,
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }
}

/// Compiles `pattern` byte-wise, as RE2 does for classes such as `\w`; falls back to Unicode for patterns
/// that need it. `length` is what the user wrote, for the limit.
pub(crate) fn compile_regex(pattern: &str, length: usize) -> Result<regex::bytes::Regex, PatternError> {
    if length > StringMatch::MAX_REGEX {
        return Err(PatternError::TooLong(length));
    }
    let build = |unicode| regex::bytes::RegexBuilder::new(pattern).unicode(unicode).size_limit(1 << 20).build();
    Ok(build(false).or_else(|_| build(true))?)
}

/// Condition on the path.
#[derive(Debug, Clone)]
pub enum UriMatch {
    /// No condition.
    Any,
    /// The whole path.
    Exact(String),
    /// Raw string prefix: `/sample` matches `/samplefoo`, as in Istio.
    Prefix(String),
    /// The whole path, ASCII case ignored; holds lower case.
    ExactIgnoreCase(String),
    /// Prefix, ASCII case ignored; holds lower case.
    PrefixIgnoreCase(String),
    /// The whole path matches.
    Regex(regex::bytes::Regex),
}

impl UriMatch {
    /// The whole path matches `pattern` (RE2 syntax).
    pub fn regex(pattern: &str) -> Result<Self, PatternError> {
        Ok(Self::Regex(compile_regex(&format!("^(?:{pattern})$"), pattern.chars().count())?))
    }

    /// Whether the path satisfies the condition.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Self::ExactIgnoreCase(exact) => path.eq_ignore_ascii_case(exact),
            Self::PrefixIgnoreCase(prefix) => {
                path.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

/// Which value of a request a condition is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    Header(Key),
    Method,
    Authority,
    Scheme,
    Path,
}

impl Field {
    /// A key of `match.headers`: a header name or a pseudo-header.
    fn parse(key: &str) -> Option<Self> {
        match key {
            ":method" => Some(Self::Method),
            ":authority" | "host" => Some(Self::Authority),
            ":scheme" => Some(Self::Scheme),
            ":path" => Some(Self::Path),
            _ => HeaderName::from_bytes(key.as_bytes()).ok().map(|name| Self::Header(name.into())),
        }
    }

    /// The key as users write it.
    fn name(&self) -> &str {
        match self {
            Self::Header(name) => name.as_str(),
            Self::Method => ":method",
            Self::Authority => ":authority",
            Self::Scheme => ":scheme",
            Self::Path => ":path",
        }
    }

    /// The value, `None` if absent. Several headers of one name count as one, joined with a comma (Envoy).
    fn value<'a>(&self, request: &RequestView<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Method => Some(Cow::Borrowed(request.method.as_bytes())),
            Self::Authority => Some(Cow::Borrowed(request.authority.as_bytes())),
            Self::Scheme => Some(Cow::Borrowed(request.scheme.as_bytes())),
            Self::Path => Some(match request.query {
                None => Cow::Borrowed(request.path.as_bytes()),
                Some(query) => Cow::Owned(format!("{}?{query}", request.path).into_bytes()),
            }),
            Self::Header(name) => {
                let mut values = request.headers.get_all(name);
                let first = values.next()?.as_bytes();
                let mut joined = Cow::Borrowed(first);
                for value in values {
                    let joined = joined.to_mut();
                    joined.push(b',');
                    joined.extend_from_slice(value.as_bytes());
                }
                Some(joined)
            }
        }
    }
}

/// All conditions of one match block besides the path; every one must hold.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    fields: Vec<(Field, StringMatch)>,
    without: Vec<(Field, StringMatch)>,
    query: Vec<(String, StringMatch)>,
}

impl Conditions {
    /// The value of a header or pseudo-header must match. `false` if `key` is not a header name.
    #[must_use]
    pub fn require(&mut self, key: &str, matcher: StringMatch) -> bool {
        Field::parse(key).map(|field| self.fields.push((field, matcher))).is_some()
    }

    /// The value of a header must not match; an absent header counts as empty, so it satisfies any
    /// condition on a value (istio.md section 2, item 7). `false` if `key` is not a header name.
    #[must_use]
    pub fn forbid(&mut self, key: &str, matcher: StringMatch) -> bool {
        Field::parse(key).map(|field| self.without.push((field, matcher))).is_some()
    }

    /// The undecoded value of a query parameter must match.
    pub fn require_query(&mut self, name: &str, matcher: StringMatch) {
        self.query.push((name.to_owned(), matcher));
    }

    /// Every condition, for people: `headers`, `withoutHeaders` or `queryParams`; the name; how it is compared.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str, &StringMatch)> {
        let fields = self.fields.iter().map(|(field, matcher)| ("headers", field.name(), matcher));
        let without = self.without.iter().map(|(field, matcher)| ("withoutHeaders", field.name(), matcher));
        let query = self.query.iter().map(|(name, matcher)| ("queryParams", name.as_str(), matcher));
        fields.chain(without).chain(query)
    }

    /// Whether there is no condition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.without.is_empty() && self.query.is_empty()
    }

    /// Whether the request satisfies every condition.
    #[must_use]
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.fields.iter().all(|(field, matcher)| field.value(request).is_some_and(|value| matcher.matches(&value)))
            && self.without.iter().all(|(field, matcher)| match (field.value(request), matcher) {
                (None, StringMatch::Present) => true,
                (None, matcher) => !matcher.matches(b""),
                (Some(value), matcher) => !matcher.matches(&value),
            })
            && self.query.iter().all(|(name, matcher)| {
                query_value(request.query, name).is_some_and(|value| matcher.matches(value.as_bytes()))
            })
    }
}

/// The first value of a query parameter, undecoded; a parameter without `=` has the empty value.
fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderList {
        let mut map = HeaderList::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn view<'a>(headers: &'a HeaderList, query: Option<&'a str>) -> RequestView<'a> {
        RequestView { path: "/p", query, method: "GET", authority: "a.com:8080", scheme: "http", headers }
    }

    fn requires(key: &str, matcher: StringMatch) -> Conditions {
        let mut conditions = Conditions::default();
        assert!(conditions.require(key, matcher));
        conditions
    }

    fn forbids(key: &str, matcher: StringMatch) -> Conditions {
        let mut conditions = Conditions::default();
        assert!(conditions.forbid(key, matcher));
        conditions
    }

    #[test]
    fn regex_matches_the_whole_value() {
        let digits = UriMatch::regex("/re/[0-9]+").unwrap();
        assert!(digits.matches("/re/12"));
        assert!(!digits.matches("/re/12x"));
        assert!(UriMatch::regex("a|b").unwrap().matches("b"));
        assert!(!UriMatch::regex("a|b").unwrap().matches("ab"));
        assert!(StringMatch::regex(&"a".repeat(1025)).is_err());
        assert!(StringMatch::regex("(").is_err());
        assert!(StringMatch::regex(r"\pL+").unwrap().matches("é".as_bytes()));
    }

    #[test]
    fn prefix_is_a_raw_string_prefix() {
        assert!(UriMatch::Prefix("/sample".into()).matches("/samplefoo"));
        assert!(!UriMatch::Prefix("/sample/".into()).matches("/sample"));
        assert!(UriMatch::PrefixIgnoreCase("/sample".into()).matches("/SAMPLE/x"));
        assert!(!UriMatch::ExactIgnoreCase("/sample".into()).matches("/SAMPLE/x"));
    }

    #[test]
    fn headers_are_compared_joined() {
        let map = headers(&[("x-role", "user"), ("x-role", "admin")]);
        assert!(requires("x-role", StringMatch::exact("user,admin")).matches(&view(&map, None)));
        assert!(!requires("x-role", StringMatch::exact("user")).matches(&view(&map, None)));
        assert!(requires("x-role", StringMatch::Present).matches(&view(&map, None)));
        assert!(!requires("x-other", StringMatch::Present).matches(&view(&map, None)));
    }

    #[test]
    fn pseudo_headers_and_host_are_fields() {
        let map = HeaderList::new();
        assert!(requires(":method", StringMatch::exact("GET")).matches(&view(&map, None)));
        assert!(requires("host", StringMatch::exact("a.com:8080")).matches(&view(&map, None)));
        assert!(requires(":path", StringMatch::exact("/p?x=1")).matches(&view(&map, Some("x=1"))));
        assert!(!Conditions::default().require("bad name", StringMatch::Present));
    }

    #[test]
    fn an_absent_header_satisfies_a_negated_value() {
        let none = HeaderList::new();
        let some = headers(&[("x-a", "1")]);
        assert!(forbids("x-a", StringMatch::exact("1")).matches(&view(&none, None)));
        assert!(!forbids("x-a", StringMatch::exact("1")).matches(&view(&some, None)));
        assert!(forbids("x-a", StringMatch::exact("2")).matches(&view(&some, None)));
        assert!(forbids("x-a", StringMatch::Present).matches(&view(&none, None)));
        assert!(!forbids("x-a", StringMatch::Present).matches(&view(&some, None)));
        // Absent counts as empty, which `.*` matches: such a rule can never hold.
        assert!(!forbids("x-a", StringMatch::regex(".*").unwrap()).matches(&view(&none, None)));
    }

    #[test]
    fn query_values_are_not_decoded() {
        let map = HeaderList::new();
        let mut conditions = Conditions::default();
        conditions.require_query("k", StringMatch::exact("a b"));
        assert!(!conditions.matches(&view(&map, Some("k=a%20b"))));
        assert!(!conditions.matches(&view(&map, Some("k=a+b"))));
        let mut conditions = Conditions::default();
        conditions.require_query("k", StringMatch::exact(""));
        assert!(conditions.matches(&view(&map, Some("x=1&k"))));
        assert!(!conditions.matches(&view(&map, None)));
    }
}
