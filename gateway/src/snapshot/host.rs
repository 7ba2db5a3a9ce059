//! Which virtual host serves a request: exact name, else the longest wildcard, else `*`.
//!
//! There is no fall-through: when the chosen virtual host has no matching route the answer is 404 even
//! if a wider one would match (measured on Envoy; istio.md section 2, item 1).

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc};

use super::{RouteId, RouteTable};

/// A host name pattern of a Gateway or VirtualService: `a.example.com`, `*.example.com` or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// A full name, lower case.
    Exact(String),
    /// A leading wildcard label; holds the suffix with its dot, `.example.com`.
    Suffix(String),
    /// `*`.
    Any,
}

impl HostPattern {
    /// Reads a pattern; names are compared without regard to case. `None` if it is empty or has a `*`
    /// anywhere but as the whole first label.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if text == "*" {
            return Some(Self::Any);
        }
        if let Some(rest) = text.strip_prefix('*') {
            return (rest.starts_with('.') && rest.len() > 1 && !rest.contains('*'))
                .then(|| Self::Suffix(rest.to_owned()));
        }
        (!text.is_empty() && !text.contains('*')).then_some(Self::Exact(text))
    }

    /// The narrower of two overlapping patterns, `None` if no name matches both
    /// (Istio's host intersection: `*` ∩ `x` = `x`, `*.com` ∩ `*.foo.com` = `*.foo.com`, `*.foo.com` ∩ `foo.com` = ∅).
    #[must_use]
    pub fn intersect<'a>(&'a self, other: &'a Self) -> Option<&'a Self> {
        if self.contains(other) {
            Some(other)
        } else if other.contains(self) {
            Some(self)
        } else {
            None
        }
    }

    /// Whether every name that `other` matches is matched by `self`.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (Self::Suffix(suffix), Self::Exact(name) | Self::Suffix(name)) => {
                name.ends_with(suffix.as_str()) && (name.len() > suffix.len() || matches!(other, Self::Suffix(_)))
            }
            (Self::Exact(name), Self::Exact(other)) => name == other,
            (Self::Exact(_), Self::Suffix(_)) => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// The routes of one host pattern on one listener.
#[derive(Debug)]
pub struct VirtualHost {
    /// The pattern, for people and metrics.
    pub name: HostPattern,
    /// Istio's name for it, `test.example.dev:80`, as plugins know it.
    pub domain: Arc<str>,
    /// Ordered rules.
    pub routes: RouteTable,
    /// `httpsRedirect`: the route of requests that did not come over https.
    pub https_redirect: Option<RouteId>,
}

/// Values by host pattern; a name finds the value of the most specific pattern that it matches.
#[derive(Debug)]
pub(super) struct PatternIndex<T> {
    exact: HashMap<String, T>,
    suffix: HashMap<String, T>,
    any: Option<T>,
}

impl<T> Default for PatternIndex<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), suffix: HashMap::new(), any: None }
    }
}

impl<T> PatternIndex<T> {
    /// Adds a value; that of the same pattern is replaced and returned.
    pub(super) fn insert(&mut self, pattern: HostPattern, value: T) -> Option<T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.insert(name, value),
            HostPattern::Suffix(suffix) => self.suffix.insert(suffix, value),
            HostPattern::Any => self.any.replace(value),
        }
    }

    /// The value of exactly this pattern.
    pub(super) fn get(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Suffix(suffix) => self.suffix.get(suffix),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// The value for a name without port; case does not matter.
    pub(super) fn find(&self, name: &str) -> Option<&T> {
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        if let Some(host) = self.exact.get(name.as_ref()) {
            return Some(host);
        }
        if !self.suffix.is_empty() {
            // From the left, so that the longest suffix is met first. The wildcard stands for at least one character.
            for (at, _) in name.match_indices('.').filter(|(at, _)| *at > 0) {
                if let Some(host) = name.get(at..).and_then(|suffix| self.suffix.get(suffix)) {
                    return Some(host);
                }
            }
        }
        self.any.as_ref()
    }

    /// The value for names that match nothing else, or for no name.
    pub(super) fn any(&self) -> Option<&T> {
        self.any.as_ref()
    }

    fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.suffix.values()).chain(&self.any)
    }
}

/// The virtual hosts of a listener or of one TLS server, indexed by name.
#[derive(Debug, Default)]
pub struct HostTable(PatternIndex<Arc<VirtualHost>>);

impl HostTable {
    /// Adds a virtual host; one that has the same pattern is replaced and returned.
    pub fn insert(&mut self, host: VirtualHost) -> Option<Arc<VirtualHost>> {
        self.0.insert(host.name.clone(), Arc::new(host))
    }

    /// The virtual host for the authority of a request. A port is ignored, case too.
    #[must_use]
    pub fn find(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        self.0.find(without_port(authority))
    }

    /// All virtual hosts, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<VirtualHost>> {
        let mut hosts: Vec<_> = self.0.values().collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        hosts.into_iter()
    }

    /// Whether nothing is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().next().is_none()
    }
}

/// The host of an authority, without its port; the brackets of an IPv6 literal stay.
#[must_use]
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority.get(colon..).is_some_and(|rest| rest.contains(']')) => {
            authority.get(..colon).unwrap_or(authority)
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn table(patterns: &[&str]) -> HostTable {
        let mut table = HostTable::default();
        for pattern in patterns {
            table.insert(VirtualHost {
                domain: "".into(),
                name: HostPattern::parse(pattern).unwrap(),
                routes: RouteTable::default(),
                https_redirect: None,
            });
        }
        table
    }

    fn found(table: &HostTable, authority: &str) -> Option<String> {
        table.find(authority).map(|host| host.name.to_string())
    }

    #[test]
    fn exact_then_longest_wildcard_then_any() {
        let hosts = table(&["*", "*.example.com", "*.a.example.com", "a.example.com"]);
        assert_eq!(found(&hosts, "a.example.com").unwrap(), "a.example.com");
        assert_eq!(found(&hosts, "b.a.example.com").unwrap(), "*.a.example.com");
        assert_eq!(found(&hosts, "c.b.a.example.com").unwrap(), "*.a.example.com");
        assert_eq!(found(&hosts, "b.example.com").unwrap(), "*.example.com");
        assert_eq!(found(&hosts, "example.com").unwrap(), "*");
        assert_eq!(found(&hosts, "").unwrap(), "*");
    }

    #[test]
    fn case_and_port_do_not_matter() {
        let hosts = table(&["a.example.com", "*.b.com", "[::1]"]);
        assert_eq!(found(&hosts, "A.Example.COM:8080").unwrap(), "a.example.com");
        assert_eq!(found(&hosts, "X.b.com:1").unwrap(), "*.b.com");
        assert_eq!(found(&hosts, "[::1]:80").unwrap(), "[::1]");
        assert_eq!(found(&hosts, "[::1]").unwrap(), "[::1]");
        assert_eq!(found(&hosts, "c.com"), None);
    }

    #[test]
    fn a_wildcard_needs_a_label() {
        let hosts = table(&["*.foo.com"]);
        assert_eq!(found(&hosts, "foo.com"), None);
        assert_eq!(found(&hosts, ".foo.com"), None);
        assert_eq!(found(&hosts, "a.b.foo.com").unwrap(), "*.foo.com");
    }

    #[test]
    fn patterns_intersect_as_in_istio() {
        let cases = [
            ("*", "foo.bar", Some("foo.bar")),
            ("*.com", "*.foo.com", Some("*.foo.com")),
            ("*.foo.com", "foo.com", None),
            ("*.foo.com", "a.foo.com", Some("a.foo.com")),
            ("a.com", "a.com", Some("a.com")),
            ("a.com", "b.com", None),
            ("*.a.com", "*.b.com", None),
            ("*.com", "*.com", Some("*.com")),
        ];
        for (one, two, expected) in cases {
            let (a, b) = (HostPattern::parse(one).unwrap(), HostPattern::parse(two).unwrap());
            assert_eq!(a.intersect(&b).map(ToString::to_string).as_deref(), expected, "{one} and {two}");
            assert_eq!(b.intersect(&a).map(ToString::to_string).as_deref(), expected, "{two} and {one}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in ["", "*foo.com", "a.*.com", "*.", "foo*", "**"] {
            assert_eq!(HostPattern::parse(text), None, "{text}");
        }
    }
}
