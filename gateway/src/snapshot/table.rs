//! The ordered rules of a virtual host: the first that matches wins, in the order users wrote them.
//!
//! A radix tree (`matchit`) over the literal paths finds the candidates. Each distinct literal is one
//! node; it holds the rules written for exactly that literal and points at the next shorter literal that
//! is a prefix of it. A path therefore meets one chain of nodes, longest first, and every exact and prefix
//! rule that fits the path is on that chain. Rules without a literal (regular expressions, ignored case,
//! no path at all) are one more list beside the chain. Each list is in rule order, so each is searched
//! only up to the best rule found so far. Nothing is copied into several nodes: memory is linear in the
//! number of rules.

use super::{Conditions, RequestView, RouteId, UriMatch};

/// One match block of a route.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Condition on the path.
    pub uri: UriMatch,
    /// All other conditions.
    pub conditions: Conditions,
    /// What it leads to.
    pub route: RouteId,
}

/// Position of a rule in the written order.
type RuleIndex = u32;
type NodeIndex = u32;

#[derive(Debug, Default)]
struct Node {
    /// Rules whose path must equal the literal.
    exact: Vec<RuleIndex>,
    /// Rules whose path must start with the literal.
    prefix: Vec<RuleIndex>,
    /// The node of the longest shorter literal with prefix rules that this literal starts with.
    parent: Option<NodeIndex>,
}

/// What the radix tree finds: a node, and whether the path is the literal or only starts with it.
#[derive(Debug, Clone, Copy)]
struct Hit {
    node: NodeIndex,
    whole: bool,
}

/// The rules of a virtual host with their index.
#[derive(Debug, Default)]
pub struct RouteTable {
    rules: Vec<Rule>,
    nodes: Vec<Node>,
    index: matchit::Router<Hit>,
    /// Rules that no literal leads to.
    rest: Vec<RuleIndex>,
}

impl RouteTable {
    /// Builds the table from rules in written order.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut literals: std::collections::BTreeMap<&str, Node> = std::collections::BTreeMap::new();
        let mut rest = Vec::new();
        for (position, rule) in (0..).zip(&rules) {
            match &rule.uri {
                UriMatch::Exact(literal) if is_indexable(literal) => {
                    literals.entry(literal).or_default().exact.push(position);
                }
                UriMatch::Prefix(literal) if is_indexable(literal) => {
                    literals.entry(literal).or_default().prefix.push(position);
                }
                _ => rest.push(position),
            }
        }

        let mut nodes: Vec<Node> = Vec::with_capacity(literals.len());
        let mut index = matchit::Router::new();
        // Literals arrive sorted, so those that are prefixes of the current one are the tail of a stack.
        let mut open: Vec<(&str, NodeIndex)> = Vec::new();
        for (number, (literal, mut node)) in (0..).zip(literals) {
            while open.last().is_some_and(|(shorter, _)| !literal.starts_with(shorter)) {
                open.pop();
            }
            node.parent = open.last().map(|(_, parent)| *parent);
            let pattern = escape(literal);
            let mut indexed = index.insert(pattern.as_str(), Hit { node: number, whole: true }).is_ok();
            if !node.prefix.is_empty() {
                // A catch-all does not match the empty rest, hence the two entries.
                indexed &= index.insert(format!("{pattern}{{*rest}}"), Hit { node: number, whole: false }).is_ok();
                open.push((literal, number));
            }
            if !indexed {
                // Not expected of any literal; such a rule is still found, only slower.
                rest.extend(node.exact.drain(..).chain(node.prefix.drain(..)));
            }
            nodes.push(node);
        }
        rest.sort_unstable();
        Self { rules, nodes, index, rest }
    }

    /// The route of the first rule that matches.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>) -> Option<RouteId> {
        let mut best = RuleIndex::MAX;
        if let Ok(found) = self.index.at(request.path) {
            let hit = *found.value;
            let mut next = self.nodes.get(hit.node as usize);
            if let (true, Some(node)) = (hit.whole, next) {
                best = self.first(&node.exact, best, request, false);
            }
            while let Some(node) = next {
                best = self.first(&node.prefix, best, request, false);
                next = node.parent.and_then(|parent| self.nodes.get(parent as usize));
            }
        }
        best = self.first(&self.rest, best, request, true);
        self.rules.get(best as usize).map(|rule| rule.route)
    }

    /// The first rule of `list` before `best` that matches, else `best`.
    fn first(&self, list: &[RuleIndex], best: RuleIndex, request: &RequestView<'_>, check_path: bool) -> RuleIndex {
        list.iter()
            .copied()
            .take_while(|position| *position < best)
            .find(|position| {
                self.rules.get(*position as usize).is_some_and(|rule| {
                    (!check_path || rule.uri.matches(request.path)) && rule.conditions.matches(request)
                })
            })
            .unwrap_or(best)
    }

    /// The rules in written order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// Every request path starts with `/`; a literal that does not is left to the plain comparison.
fn is_indexable(literal: &str) -> bool {
    literal.starts_with('/')
}

/// Braces are `matchit`'s syntax; doubled they stand for themselves.
fn escape(literal: &str) -> String {
    literal.replace('{', "{{").replace('}', "}}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use heads::HeaderList;
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::StringMatch;

    fn request<'a>(path: &'a str, method: &'a str, headers: &'a HeaderList) -> RequestView<'a> {
        RequestView { path, query: None, method, authority: "a", scheme: "http", headers }
    }

    /// What the index must agree with.
    fn naive(rules: &[Rule], request: &RequestView<'_>) -> Option<RouteId> {
        rules
            .iter()
            .find(|rule| rule.uri.matches(request.path) && rule.conditions.matches(request))
            .map(|rule| rule.route)
    }

    fn rules(uris: Vec<UriMatch>) -> Vec<Rule> {
        (0..).zip(uris).map(|(route, uri)| Rule { uri, conditions: Conditions::default(), route }).collect()
    }

    #[test]
    fn written_order_beats_specificity() {
        let table = RouteTable::new(rules(vec![
            UriMatch::Prefix("/a".into()),
            UriMatch::Exact("/a/b".into()),
            UriMatch::regex("/z.*").unwrap(),
            UriMatch::Prefix("/zoo".into()),
            UriMatch::Any,
        ]));
        let none = HeaderList::new();
        assert_eq!(table.find(&request("/a/b", "GET", &none)), Some(0));
        assert_eq!(table.find(&request("/zoo", "GET", &none)), Some(2));
        assert_eq!(table.find(&request("/other", "GET", &none)), Some(4));
    }

    #[test]
    fn braces_are_ordinary_characters() {
        let table = RouteTable::new(rules(vec![UriMatch::Exact("/{id}".into()), UriMatch::Prefix("/{x}/{*y}".into())]));
        let none = HeaderList::new();
        assert_eq!(table.find(&request("/{id}", "GET", &none)), Some(0));
        assert_eq!(table.find(&request("/7", "GET", &none)), None);
        assert_eq!(table.find(&request("/{x}/{*y}z", "GET", &none)), Some(1));
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        assert_eq!(RouteTable::default().find(&request("/", "GET", &HeaderList::new())), None);
    }

    /// Short paths over a tiny alphabet, so that literals are often prefixes of each other and of paths.
    fn path() -> impl Strategy<Value = String> {
        "/[ab/{}*]{0,6}"
    }

    fn uri() -> impl Strategy<Value = UriMatch> {
        prop_oneof![
            4 => path().prop_map(UriMatch::Exact),
            6 => path().prop_map(UriMatch::Prefix),
            1 => path().prop_map(|p| UriMatch::PrefixIgnoreCase(p.to_lowercase())),
            1 => path().prop_map(|p| UriMatch::ExactIgnoreCase(p.to_lowercase())),
            1 => prop_oneof![Just("/a.*"), Just("/[ab]+/?"), Just(".*")].prop_map(|p| UriMatch::regex(p).unwrap()),
            1 => Just(UriMatch::Prefix(String::new())),
            1 => Just(UriMatch::Prefix("a".into())),
            1 => Just(UriMatch::Any),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_index_agrees_with_a_naive_scan(
            uris in prop::collection::vec((uri(), prop::option::weighted(0.4, prop_oneof![Just("GET"), Just("PUT")])), 0..24),
            paths in prop::collection::vec(path(), 1..12),
        ) {
            let rules: Vec<Rule> = (0..).zip(uris).map(|(route, (uri, method))| {
                let mut conditions = Conditions::default();
                if let Some(method) = method {
                    assert!(conditions.require(":method", StringMatch::exact(method)));
                }
                Rule { uri, conditions, route }
            }).collect();
            let table = RouteTable::new(rules.clone());
            let none = HeaderList::new();
            let literals: Vec<String> = rules.iter().filter_map(|rule| match &rule.uri {
                UriMatch::Exact(text) | UriMatch::Prefix(text) if text.starts_with('/') => Some(text.clone()),
                _ => None,
            }).collect();
            for path in paths.iter().chain(&literals) {
                for method in ["GET", "PUT", "POST"] {
                    let request = request(path, method, &none);
                    prop_assert_eq!(table.find(&request), naive(&rules, &request), "{} {}", method, path);
                }
            }
        }
    }
}
