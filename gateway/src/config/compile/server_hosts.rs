//! The hosts of a Gateway's server, indexed for their intersection with the hosts of VirtualServices.
//!
//! The index makes the usual case, thousands of full names on both sides, linear.

use std::collections::HashMap;

use crate::{istio::Server, snapshot::HostPattern};

/// Which namespaces may bind VirtualServices to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Any,
    Namespace(String),
}

/// Hosts with the namespaces that may use them.
#[derive(Debug, Default)]
pub(crate) struct ServerHosts {
    hosts: HashMap<HostPattern, Vec<Scope>>,
    /// The same in the order in which they are written.
    order: Vec<HostPattern>,
}

impl ServerHosts {
    /// The hosts of a server of a Gateway in `namespace`. Malformed ones are left out: validation refuses them.
    pub(crate) fn new(server: &Server, namespace: &str) -> Self {
        let mut index = Self::default();
        index.extend(server, namespace);
        index
    }

    /// Adds the hosts of another server.
    pub(crate) fn extend(&mut self, server: &Server, namespace: &str) {
        for text in &server.hosts {
            let (scope, name) = match text.split_once('/') {
                None | Some(("*", _)) => (Scope::Any, text.split_once('/').map_or(text.as_str(), |(_, name)| name)),
                Some((".", name)) => (Scope::Namespace(namespace.to_owned()), name),
                Some((other, name)) => (Scope::Namespace(other.to_owned()), name),
            };
            let Some(pattern) = parse(name) else { continue };
            let scopes = self.hosts.entry(pattern.clone()).or_default();
            if scopes.is_empty() {
                self.order.push(pattern);
            }
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
    }

    /// All hosts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &HostPattern> {
        self.order.iter()
    }

    /// What a VirtualService of `namespace` with `host` serves here (istio.md: `*` ∩ `x` = `x` and so on). `scoped`
    /// is false to leave namespaces out of account.
    pub(crate) fn intersect(&self, host: &HostPattern, namespace: &str, scoped: bool) -> Vec<HostPattern> {
        let open = |pattern: &HostPattern| {
            self.hosts.get(pattern).is_some_and(|scopes| {
                !scoped
                    || scopes.iter().any(|scope| match scope {
                        Scope::Any => true,
                        Scope::Namespace(only) => only == namespace,
                    })
            })
        };
        let mut found = Vec::new();
        if containing(host).iter().any(open) {
            found.push(host.clone());
        }
        // A full name contains nothing else; a wildcard may contain hosts of the server.
        if !matches!(host, HostPattern::Exact(_)) {
            found.extend(
                self.order
                    .iter()
                    .filter(|pattern| *pattern != host && host.contains(pattern) && open(pattern))
                    .cloned(),
            );
        }
        found
    }
}

/// A host as the snapshot compares it: without the dot that may stand at the end.
pub(crate) fn parse(text: &str) -> Option<HostPattern> {
    HostPattern::parse(text.strip_suffix('.').filter(|text| !text.is_empty()).unwrap_or(text))
}

/// Every pattern that contains `host`: itself, the wildcards above it, `*`.
fn containing(host: &HostPattern) -> Vec<HostPattern> {
    let mut all = vec![host.clone()];
    let name = match host {
        HostPattern::Exact(name) => name.as_str(),
        // `.foo.com`: the first dot is its own.
        HostPattern::Suffix(suffix) => suffix.get(1..).unwrap_or_default(),
        HostPattern::Any => return all,
    };
    let above = name.match_indices('.').filter_map(|(at, _)| name.get(at..));
    all.extend(above.filter(|suffix| suffix.len() > 1).map(|suffix| HostPattern::Suffix(suffix.to_owned())));
    all.push(HostPattern::Any);
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn intersect(server: &[&str], host: &str, namespace: &str) -> Vec<String> {
        let server = Server { hosts: server.iter().map(ToString::to_string).collect(), ..Server::default() };
        let hosts = ServerHosts::new(&server, "gw-ns");
        let mut found: Vec<_> =
            hosts.intersect(&parse(host).unwrap(), namespace, true).iter().map(ToString::to_string).collect();
        found.sort();
        found
    }

    #[test]
    fn intersections_are_istios() {
        for (server, host, expected) in [
            (&["*"][..], "a.com", &["a.com"][..]),
            (&["foo.bar"], "*", &["foo.bar"]),
            (&["*.foo.com"], "*.com", &["*.foo.com"]),
            (&["foo.com"], "*.foo.com", &[]),
            (&["*.foo.com", "foo.com", "b.org"], "*.com", &["*.foo.com", "foo.com"]),
            (&["*.com", "*.foo.com"], "*.foo.com", &["*.foo.com"]),
            (&["A.com."], "a.COM", &["a.com"]),
            (&["a.com"], "b.com", &[]),
            (&["*"], "*", &["*"]),
        ] {
            assert_eq!(intersect(server, host, "x"), expected, "{server:?} and {host}");
        }
    }

    #[test]
    fn namespaces_are_tested_against_the_virtual_service() {
        for (server, namespace, allowed) in [
            ("a.com", "x", true),
            ("*/a.com", "x", true),
            ("./a.com", "x", false),
            ("./a.com", "gw-ns", true),
            ("x/*.com", "x", true),
            ("x/*.com", "y", false),
        ] {
            assert_eq!(intersect(&[server], "a.com", namespace) == ["a.com"], allowed, "{server} and {namespace}");
        }
        assert_eq!(intersect(&["x/a.com", "y/a.com"], "a.com", "y"), ["a.com"]);
    }
}
