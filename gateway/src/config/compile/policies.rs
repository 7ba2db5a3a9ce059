//! Policies that this version cannot enforce, and the hosts that are therefore not served: better a 403
//! than an open door. `--allow-unsupported` serves them anyway.
//!
//! An AuthorizationPolicy that denies only certain hosts blocks those; one that allows (and so denies the
//! rest) and every RequestAuthentication blocks all hosts of the gateway. A DestinationRule that asks for TLS of a
//! kind that this version does not have blocks the hosts with a route there; `routes` sees to that.

use crate::{
    config::{
        Options,
        path::Path,
        problem::{Level, Problem},
        resources::{Resource, Resources},
    },
    istio::{AuthorizationPolicy, LabelSelector, Labels},
    snapshot::HostPattern,
};

/// Which label says that a pod is a gateway of the Kubernetes Gateway API.
pub(super) const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// What cannot be enforced.
#[derive(Debug, Default)]
pub(super) struct Policies {
    everything: bool,
    hosts: Vec<HostPattern>,
    allow: bool,
}

impl Policies {
    /// Reads all policies; each that blocks something is a problem.
    pub(super) fn new(resources: &Resources, options: &Options, problems: &mut Vec<Problem>) -> Self {
        let mut policies = Self { allow: options.allow_unsupported, ..Self::default() };
        let targets = |references: usize| references > 0;
        for policy in &resources.authorization_policies {
            let spec = &policy.spec;
            let targeted = targets(spec.target_refs.len() + usize::from(spec.target_ref.is_some()));
            if !applies(policy, spec.selector.as_ref(), targeted, options) {
                continue;
            }
            match blocked_hosts(policy) {
                Blocked::Nothing => continue,
                Blocked::Hosts(hosts) => policies.hosts.extend(hosts),
                Blocked::Everything => policies.everything = true,
            }
            problems.push(policy.problem(Level::Error, "GW0103", &Path::SPEC, policies.effect("AuthorizationPolicy")));
        }
        for policy in &resources.request_authentications {
            let spec = &policy.spec;
            let targeted = targets(spec.target_refs.len() + usize::from(spec.target_ref.is_some()));
            if applies(policy, spec.selector.as_ref(), targeted, options) && !spec.jwt_rules.is_empty() {
                policies.everything = true;
                problems.push(policy.problem(
                    Level::Error,
                    "GW0103",
                    &Path::SPEC,
                    policies.effect("RequestAuthentication"),
                ));
            }
        }
        policies
    }

    fn effect(&self, kind: &str) -> String {
        if self.allow {
            format!("{kind} is not supported in this version and is NOT enforced: --allow-unsupported is set")
        } else {
            format!(
                "{kind} is not supported in this version: the hosts it protects are answered 403 `policy not supported`; \
                 --allow-unsupported serves them without it"
            )
        }
    }

    /// Whether a virtual host must not be served.
    pub(super) fn block(&self, host: &HostPattern) -> bool {
        !self.allow && (self.everything || self.hosts.iter().any(|blocked| blocked.intersect(host).is_some()))
    }

    /// Whether policies that block are overridden.
    pub(super) fn allows(&self) -> bool {
        self.allow
    }
}

/// Whether a policy or plugin acts at this gateway (Istio's `policyattachment.go`).
pub(super) fn applies<T>(
    resource: &Resource<T>,
    selector: Option<&LabelSelector>,
    has_targets: bool,
    options: &Options,
) -> bool {
    // Only gateways of the Kubernetes Gateway API look at targets, and those are not served here.
    if has_targets {
        return false;
    }
    let none = Labels::new();
    let labels = selector.map_or(&none, |selector| &selector.match_labels);
    (resource.namespace == options.namespace || resource.namespace == options.root_namespace)
        && options.selected_by(labels)
}

enum Blocked {
    Nothing,
    Hosts(Vec<HostPattern>),
    Everything,
}

fn blocked_hosts(policy: &Resource<AuthorizationPolicy>) -> Blocked {
    let dry_run = policy.annotations.get("istio.io/dry-run").is_some_and(|value| value == "true");
    match policy.spec.action.as_deref().unwrap_or("ALLOW") {
        "AUDIT" => Blocked::Nothing,
        _ if dry_run => Blocked::Nothing,
        "DENY" | "CUSTOM" => {
            let mut hosts = Vec::new();
            for rule in &policy.spec.rules {
                if rule.to.is_empty() {
                    return Blocked::Everything;
                }
                for to in &rule.to {
                    // A port in the pattern, or a wildcard that is no host pattern: rather too much than too little.
                    let patterns = to.operation.hosts.iter().map(|host| HostPattern::parse(host));
                    match patterns.collect::<Option<Vec<_>>>() {
                        Some(patterns)
                            if !patterns.is_empty() && !to.operation.hosts.iter().any(|h| h.contains(':')) =>
                        {
                            hosts.extend(patterns);
                        }
                        _ => return Blocked::Everything,
                    }
                }
            }
            // Without rules it matches nothing.
            if hosts.is_empty() { Blocked::Nothing } else { Blocked::Hosts(hosts) }
        }
        _ => Blocked::Everything,
    }
}
