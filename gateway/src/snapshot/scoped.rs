//! Which plugins a request passes, on a listener where some are limited to hosts or routes.
//!
//! Everything that depends on the host is decided when this is made: there is one chain for each pattern that some plugin
//! names, and a request looks its own up once. A name matches a pattern exactly if the most specific of all patterns that
//! it matches is within it. Only where routes are named, too, is there something left to ask for each request.

use smallvec::SmallVec;

use super::{
    HostPattern, RouteId,
    host::{PatternIndex, without_port},
};

/// The chains of a listener, by host.
#[derive(Debug)]
pub struct ScopedChain(PatternIndex<HostChain>);

/// One of several versions of a plugin, and where it may run: within all of the scopes.
#[derive(Debug)]
pub struct ScopedPlugin {
    /// Its place in the listener's list of plugins.
    pub plugin: usize,
    /// Hosts and routes; no hosts: every host, `None`: every route, and requests without one.
    pub scopes: Vec<(Vec<HostPattern>, Option<Vec<RouteId>>)>,
}

/// What requests of a host pass.
#[derive(Debug, Default)]
pub struct HostChain {
    /// In execution order; of each the first choice that the route allows runs.
    steps: Vec<Vec<Choice>>,
    by_route: bool,
}

#[derive(Debug)]
struct Choice {
    plugin: usize,
    /// Sorted. `None`: every route, and requests without one.
    routes: Option<Vec<RouteId>>,
}

impl ScopedChain {
    /// `steps` are the plugins in execution order, each with the versions of which the first that fits runs.
    #[must_use]
    pub fn new(steps: &[Vec<ScopedPlugin>]) -> Self {
        let mut chains = PatternIndex::default();
        let named = steps.iter().flatten().flat_map(|plugin| &plugin.scopes).flat_map(|(hosts, _)| hosts);
        for pattern in named.chain([&HostPattern::Any]) {
            if chains.get(pattern).is_none() {
                chains.insert(pattern.clone(), HostChain::new(steps, pattern));
            }
        }
        Self(chains)
    }

    /// What a request with this authority passes.
    #[must_use]
    pub fn find(&self, authority: &str) -> Option<&HostChain> {
        self.0.find(without_port(authority))
    }
}

impl HostChain {
    fn new(steps: &[Vec<ScopedPlugin>], pattern: &HostPattern) -> Self {
        let mut chain = Self::default();
        for step in steps {
            let mut choices = Vec::new();
            for plugin in step {
                let fits = |(hosts, _): &(Vec<HostPattern>, _)| {
                    hosts.is_empty() || hosts.iter().any(|host| host.contains(pattern))
                };
                if !plugin.scopes.iter().all(fits) {
                    continue;
                }
                let mut routes: Option<Vec<RouteId>> = None;
                for wanted in plugin.scopes.iter().filter_map(|(_, routes)| routes.as_ref()) {
                    routes = Some(match routes {
                        None => wanted.clone(),
                        Some(found) => found.into_iter().filter(|route| wanted.contains(route)).collect(),
                    });
                }
                if let Some(routes) = &mut routes {
                    routes.sort_unstable();
                    chain.by_route = true;
                }
                let last = routes.is_none();
                choices.push(Choice { plugin: plugin.plugin, routes });
                if last {
                    break;
                }
            }
            if !choices.is_empty() {
                chain.steps.push(choices);
            }
        }
        chain
    }

    /// Whether the route of the request has to be known.
    #[must_use]
    pub fn by_route(&self) -> bool {
        self.by_route
    }

    /// Places in the listener's list of plugins, in execution order.
    #[must_use]
    pub fn plugins(&self, route: Option<RouteId>) -> SmallVec<[usize; 8]> {
        let fits = |choice: &&Choice| match (&choice.routes, route) {
            (None, _) => true,
            (Some(routes), Some(route)) => routes.binary_search(&route).is_ok(),
            (Some(_), None) => false,
        };
        self.steps.iter().filter_map(|choices| choices.iter().find(fits)).map(|choice| choice.plugin).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn scope(hosts: &[&str], routes: Option<&[RouteId]>) -> (Vec<HostPattern>, Option<Vec<RouteId>>) {
        (hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(), routes.map(<[_]>::to_vec))
    }

    fn plugin(plugin: usize, scopes: Vec<(Vec<HostPattern>, Option<Vec<RouteId>>)>) -> ScopedPlugin {
        ScopedPlugin { plugin, scopes }
    }

    #[test]
    fn hosts_decide_and_then_routes() {
        let chain = ScopedChain::new(&[
            vec![plugin(0, vec![scope(&["a.example.com", "*.b.example.com"], None)])],
            vec![plugin(1, vec![])],
            vec![
                plugin(2, vec![scope(&["*.example.com"], None), scope(&["a.example.com"], Some(&[7, 3]))]),
                plugin(3, vec![scope(&["*.example.com"], None)]),
            ],
        ]);
        let passes = |authority: &str, route| chain.find(authority).unwrap().plugins(route).to_vec();
        assert_eq!(passes("a.example.com", None), [0, 1, 3]);
        assert_eq!(passes("A.Example.com:8080", Some(3)), [0, 1, 2]);
        assert_eq!(passes("a.example.com", Some(4)), [0, 1, 3]);
        assert_eq!(passes("x.b.example.com", Some(3)), [0, 1, 3]);
        assert_eq!(passes("b.example.com", Some(3)), [1, 3]);
        assert_eq!(passes("example.com", Some(3)), [1]);
        assert_eq!(passes("", None), [1]);
        let by_route = |authority: &str| chain.find(authority).unwrap().by_route();
        assert!(by_route("a.example.com") && !by_route("b.example.com") && !by_route("other"));
    }

    #[test]
    fn a_plugin_that_fits_nothing_is_in_no_chain() {
        let chain = ScopedChain::new(&[vec![plugin(0, vec![scope(&["a"], None), scope(&["b"], None)])]]);
        assert!(["a", "b", "c"].iter().all(|host| chain.find(host).unwrap().plugins(Some(0)).is_empty()));
    }
}
