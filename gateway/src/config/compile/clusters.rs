//! Services × DestinationRules → clusters: one per port, and one more per port and subset.

use std::sync::Arc;

use super::{
    client_tls::Transports,
    destination_rules::{DestinationRules, Merged, Policy, TlsBlock},
    metadata,
    services::{Place, Port, PortId, Services},
    traffic_policy,
};
use crate::{
    config::{path::Path, resources::Resource},
    istio::{DestinationRule, Labels},
    snapshot::{Cluster, ClusterId, Endpoint, Metadata, NamedEndpoint, UpstreamProtocol},
};

/// All clusters.
#[derive(Debug, Default)]
pub(super) struct Clusters<'a> {
    clusters: Vec<Compiled<'a>>,
    /// In the order of [`PortId`]s.
    ports: Vec<PortClusters>,
}

/// A cluster and what has to be said about it to whoever routes there.
#[derive(Debug)]
pub(super) struct Compiled<'a> {
    pub(super) cluster: Cluster,
    /// What plugins are told of it.
    pub(super) metadata: Arc<Metadata>,
    /// The rule that asks for TLS of a kind that this version does not have.
    pub(super) unsupported_tls: Option<&'a Resource<DestinationRule>>,
    /// Endpoints that do not have the labels of the subset.
    pub(super) without_labels: usize,
}

/// The clusters of one port.
#[derive(Debug, Default)]
struct PortClusters {
    whole: ClusterId,
    subsets: Vec<(String, ClusterId)>,
}

impl<'a> Clusters<'a> {
    /// Builds all clusters, in the order of services and subsets.
    pub(super) fn new(services: &Services, rules: &DestinationRules<'a>, mut transports: Transports<'_>) -> Self {
        let mut clusters = Self::default();
        for port in services.all_ports() {
            let rule = rules.find(&port.host, &port.namespace);
            let policy = rule.map(|rule| rule.policy(port.number)).unwrap_or_default();
            let whole = clusters.add(port, rule, "", &Labels::new(), policy, &mut transports);
            let mut subsets = Vec::new();
            for (rule, found) in rule.iter().flat_map(|rule| rule.subsets().into_iter().map(move |found| (rule, found)))
            {
                let policy = rule.subset_policy(found, port.number);
                let (name, labels) = (&found.subset.name, &found.subset.labels);
                let id = clusters.add(port, Some(rule), name, labels, policy, &mut transports);
                subsets.push((found.subset.name.clone(), id));
            }
            clusters.ports.push(PortClusters { whole, subsets });
        }
        clusters
    }

    /// The cluster of a port, or of its subset of that name.
    pub(super) fn find(&self, port: PortId, subset: &str) -> Option<(ClusterId, &Compiled<'a>)> {
        let port = self.ports.get(port)?;
        let id = match subset {
            "" => port.whole,
            name => port.subsets.iter().find(|(known, _)| known == name)?.1,
        };
        Some((id, self.clusters.get(id as usize)?))
    }

    /// The names of a port's subsets.
    pub(super) fn subsets(&self, port: PortId) -> impl Iterator<Item = &str> {
        self.ports.get(port).into_iter().flat_map(|port| &port.subsets).map(|(name, _)| name.as_str())
    }

    /// The clusters, in the order of their ids.
    pub(super) fn into_snapshot(self) -> Vec<Arc<Cluster>> {
        self.clusters.into_iter().map(|compiled| Arc::new(compiled.cluster)).collect()
    }

    fn add(
        &mut self,
        port: &Port,
        rule: Option<&Merged<'a>>,
        subset: &str,
        labels: &Labels,
        policy: Policy<'a>,
        transports: &mut Transports<'_>,
    ) -> ClusterId {
        // Validation has reported what cannot be translated.
        let pool = policy.pool.map(|pool| traffic_policy::pool(pool, &Path::Root, &mut |_, _| {})).unwrap_or_default();
        let has = |place: &Place| labels.iter().all(|(name, value)| place.labels.get(name) == Some(value));
        let places = || port.places.iter().filter(|place| has(place));
        let endpoints: Vec<Endpoint> = places().filter_map(|place| place.to.address().cloned()).collect();
        let names: Vec<NamedEndpoint> = places().filter_map(|place| place.to.name().cloned()).collect();
        let upgraded = pool.upgrade && port.plain_http;
        let compiled = Compiled {
            metadata: Arc::new(metadata::of_cluster(port, rule.and_then(Merged::first), subset)),
            unsupported_tls: policy.tls.filter(TlsBlock::is_unsupported).map(|block| block.rule),
            without_labels: port.places.iter().filter(|place| !has(place)).count(),
            cluster: Cluster {
                name: format!("outbound|{}|{subset}|{}", port.number, port.host).into(),
                host: Arc::clone(&port.host),
                port: port.number,
                service_name: Arc::clone(&port.service_name),
                service_namespace: Arc::clone(&port.namespace),
                protocol: if upgraded { UpstreamProtocol::Http2 } else { port.protocol },
                follow_client: pool.follow_client && port.plain_http,
                balance: policy.balancer.map(traffic_policy::balance).unwrap_or_default(),
                connections: pool.connections,
                thresholds: pool.thresholds,
                transport: policy.tls.map(|block| transports.of(&block, &port.subject_alt_names)).unwrap_or_default(),
                endpoints: endpoints.into(),
                names: names.into(),
            },
        };
        let id = ClusterId::try_from(self.clusters.len()).unwrap_or(ClusterId::MAX);
        self.clusters.push(compiled);
        id
    }
}
