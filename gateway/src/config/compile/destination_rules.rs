//! Which DestinationRule is for a service: Istio's order, and the merging of several for one host.
//!
//! 1. Rules in the gateway's own namespace, then those in the service's, then those in the root namespace; the first
//!    namespace that has a rule for the host decides.
//! 2. In a namespace the most specific host, and of those a rule with a `workloadSelector` that means this gateway.
//! 3. Rules of one namespace for the same host are one: the oldest traffic policy, the subsets of all, the first of
//!    a name.

use std::collections::HashMap;

use super::services::qualified;
use crate::{
    config::{
        Options,
        path::Path,
        resources::{Resource, Resources},
    },
    istio::{ClientTls, ConnectionPool, DestinationRule, LoadBalancer, Subset, TrafficPolicy},
    snapshot::HostPattern,
};

/// All rules that this gateway sees.
#[derive(Debug, Default)]
pub(super) struct DestinationRules<'a> {
    by_namespace: HashMap<&'a str, Vec<Merged<'a>>>,
    /// The gateway's namespace and the root namespace.
    own: &'a str,
    root: &'a str,
}

/// The rules of one namespace for one host.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    /// In the long form, see [`long`].
    host: String,
    selected: bool,
    rules: Vec<&'a Resource<DestinationRule>>,
}

/// The settings that are in force for a port, each from where it is decided.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Policy<'a> {
    pub(super) balancer: Option<&'a LoadBalancer>,
    pub(super) pool: Option<&'a ConnectionPool>,
    pub(super) tls: Option<TlsBlock<'a>>,
}

/// A `tls` block and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct TlsBlock<'a> {
    pub(super) settings: &'a ClientTls,
    pub(super) rule: &'a Resource<DestinationRule>,
    subset: Option<usize>,
    port: Option<usize>,
}

/// A subset and the rule it stands in.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundSubset<'a> {
    pub(super) subset: &'a Subset,
    rule: &'a Resource<DestinationRule>,
    at: usize,
}

impl<'a> DestinationRules<'a> {
    pub(super) fn new(resources: &'a Resources, options: &'a Options) -> Self {
        let mut rules = Self { own: &options.namespace, root: &options.root_namespace, ..Self::default() };
        for rule in &resources.destination_rules {
            let selector = rule.spec.workload_selector.as_ref();
            let selected = selector.is_some_and(|selector| !selector.match_labels.is_empty());
            let meant = selector.is_none_or(|selector| {
                !selected || (rule.namespace == options.namespace && options.selected_by(&selector.match_labels))
            });
            if !meant || !options.sees(&rule.spec.export_to, &rule.namespace) {
                continue;
            }
            let host = long(&rule.spec.host.to_ascii_lowercase(), &rule.namespace);
            let known = rules.by_namespace.entry(&rule.namespace).or_default();
            match known.iter_mut().find(|merged| merged.host == host && merged.selected == selected) {
                Some(merged) => merged.rules.push(rule),
                None => known.push(Merged { host, selected, rules: vec![rule] }),
            }
        }
        rules
    }

    /// The rules for a service. `host` is lower case, as the registry knows it.
    pub(super) fn find(&self, host: &str, namespace: &str) -> Option<&Merged<'a>> {
        if self.by_namespace.is_empty() {
            return None;
        }
        let host = &long(host, namespace);
        [self.own, namespace, self.root]
            .into_iter()
            .find_map(|place| {
                let rules = self.by_namespace.get(place)?.iter();
                rules.filter_map(|rule| Some((rule.specificity(host)?, rule))).max_by_key(|(key, _)| *key)
            })
            .map(|(_, rule)| rule)
    }
}

/// A host as rules are compared by: a name without a dot is a service of the namespace, in both forms.
fn long(host: &str, namespace: &str) -> String {
    match host.strip_suffix('.').unwrap_or(host) {
        short if !short.contains(['.', '*']) => qualified(short, namespace),
        full => full.to_owned(),
    }
}

impl<'a> Merged<'a> {
    /// How well the host fits: exactly, else by the length of the wildcard; then by the selector.
    fn specificity(&self, host: &str) -> Option<(usize, bool)> {
        if self.host == host {
            return Some((usize::MAX, self.selected));
        }
        if !self.host.starts_with('*') {
            return None;
        }
        let pattern = HostPattern::parse(&self.host)?;
        pattern.contains(&HostPattern::parse(host)?).then_some((self.host.len(), self.selected))
    }

    /// The one that the others are merged into, whose name counts.
    pub(super) fn first(&self) -> Option<&'a Resource<DestinationRule>> {
        self.rules.first().copied()
    }

    /// All subsets, the first of each name.
    pub(super) fn subsets(&self) -> Vec<FoundSubset<'a>> {
        let mut found: Vec<FoundSubset<'a>> = Vec::new();
        for rule in &self.rules {
            for (at, subset) in rule.spec.subsets.iter().enumerate() {
                if !found.iter().any(|known| known.subset.name == subset.name) {
                    found.push(FoundSubset { subset, rule, at });
                }
            }
        }
        found
    }

    /// What is in force for a port of the whole service.
    pub(super) fn policy(&self, port: u16) -> Policy<'a> {
        let owner = self.rules.iter().find_map(|rule| Some((*rule, rule.spec.traffic_policy.as_ref()?)));
        owner.map_or_else(Policy::default, |(rule, policy)| Policy::default().overridden(policy, rule, None, port))
    }

    /// What is in force for a port of a subset: each block that it has replaces the one of the whole.
    pub(super) fn subset_policy(&self, found: FoundSubset<'a>, port: u16) -> Policy<'a> {
        let whole = self.policy(port);
        match &found.subset.traffic_policy {
            Some(policy) => whole.overridden(policy, found.rule, Some(found.at), port),
            None => whole,
        }
    }
}

impl<'a> Policy<'a> {
    /// This policy with what `policy` says for a port. Settings of a port replace everything: what they leave out is
    /// the default.
    fn overridden(
        self,
        policy: &'a TrafficPolicy,
        rule: &'a Resource<DestinationRule>,
        subset: Option<usize>,
        port: u16,
    ) -> Self {
        let block = |settings, port| TlsBlock { settings, rule, subset, port };
        let of_port = policy.port_level_settings.iter().enumerate().find(|(_, of)| of.port.number == u32::from(port));
        match of_port {
            Some((at, of)) => Self {
                balancer: of.load_balancer.as_ref(),
                pool: of.connection_pool.as_ref(),
                tls: of.tls.as_ref().map(|tls| block(tls, Some(at))),
            },
            None => Self {
                balancer: policy.load_balancer.as_ref().or(self.balancer),
                pool: policy.connection_pool.as_ref().or(self.pool),
                tls: policy.tls.as_ref().map(|tls| block(tls, None)).or(self.tls),
            },
        }
    }
}

impl TlsBlock<'_> {
    /// Whether it asks for TLS of a kind that this version does not have.
    pub(super) fn is_unsupported(&self) -> bool {
        self.settings.mode.as_deref() == Some("ISTIO_MUTUAL")
    }

    /// Calls `with` with the path of a field of the block.
    pub(super) fn field<T>(&self, name: &str, with: impl FnOnce(&Path<'_>) -> T) -> T {
        let subsets = Path::SPEC.key("subsets");
        let subset = subsets.index(self.subset.unwrap_or_default());
        let policy = if self.subset.is_some() { subset.key("trafficPolicy") } else { Path::SPEC.key("trafficPolicy") };
        let ports = policy.key("portLevelSettings");
        let port = ports.index(self.port.unwrap_or_default());
        let tls = if self.port.is_some() { port.key("tls") } else { policy.key("tls") };
        with(&if name.is_empty() { tls } else { tls.key(name) })
    }
}
