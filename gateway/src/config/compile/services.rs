//! The services that requests can be sent to: ServiceEntries, and Services with their EndpointSlices → clusters.
//!
//! * A Service without any EndpointSlice is reached at its ClusterIP, if it has one.
//! * Two ServiceEntries of one namespace with the same host are one service with the endpoints of both, as
//!   in Istio; if the namespaces differ the older one stands.
//! * ServiceEntry endpoints with host names are left out (validation says so).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    config::{
        Options, SERVICE_NAME_LABEL,
        path::Path,
        problem::{Level, Problem},
        resources::{Resource, Resources},
        validate::without_endpoints,
    },
    istio::{EndpointSlice, PortReference, Service, ServiceEntry, ServicePort},
    snapshot::{Cluster, ClusterId, Endpoint, UpstreamProtocol},
};

/// Istio's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Istio's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// All services that this gateway sees.
#[derive(Debug, Default)]
pub(super) struct Services {
    services: Vec<KnownService>,
    /// Lower-case host to services, the oldest first.
    by_host: HashMap<String, Vec<usize>>,
    clusters: Vec<Cluster>,
}

/// A service under one host name.
#[derive(Debug)]
pub(super) struct KnownService {
    /// Its name, as the registry knows it.
    pub(super) host: Arc<str>,
    namespace: Arc<str>,
    /// Port numbers with their clusters.
    pub(super) ports: Vec<(u16, ClusterId)>,
    /// Why it can have no endpoints, if so.
    pub(super) without_endpoints: Option<String>,
}

impl KnownService {
    /// The cluster of a port.
    pub(super) fn cluster(&self, port: u16) -> Option<ClusterId> {
        self.ports.iter().find(|(number, _)| *number == port).map(|(_, cluster)| *cluster)
    }
}

impl Services {
    /// Reads all services.
    pub(super) fn new(resources: &Resources, options: &Options, problems: &mut Vec<Problem>) -> Self {
        let mut services = Self::default();
        for entry in resources.service_entries.iter().filter(|e| options.sees(&e.spec.export_to, &e.namespace)) {
            services.service_entry(entry, problems);
        }
        let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in &resources.endpoint_slices {
            if let Some(name) = slice.labels.get(SERVICE_NAME_LABEL) {
                slices.entry((&slice.namespace, name)).or_default().push(&slice.spec);
            }
        }
        for service in &resources.services {
            services.service(service, slices.get(&(service.namespace.as_str(), service.name.as_str())));
        }
        services
    }

    /// The clusters, in the order of their ids.
    pub(super) fn into_clusters(self) -> Vec<Arc<Cluster>> {
        self.clusters.into_iter().map(Arc::new).collect()
    }

    /// The service that `host` means in a resource of `namespace`: as written, else as
    /// `NAME.NAMESPACE.svc.cluster.local`; both forms name the same service.
    pub(super) fn find(&self, host: &str, namespace: &str) -> Option<&KnownService> {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        if let Some(found) = self.named(host, namespace) {
            return Some(found);
        }
        if !host.contains('.') {
            return self.named(&qualified(host, namespace), namespace);
        }
        let (name, owner) = host.strip_suffix(".svc.cluster.local")?.split_once('.')?;
        self.named(name, owner).filter(|found| &*found.namespace == owner)
    }

    /// Several namespaces may define a host: the own one first, then the oldest.
    fn named(&self, host: &str, namespace: &str) -> Option<&KnownService> {
        let candidates = || self.by_host.get(host).into_iter().flatten().filter_map(|at| self.services.get(*at));
        candidates().find(|service| &*service.namespace == namespace).or_else(|| candidates().next())
    }

    fn service_entry(&mut self, entry: &Resource<ServiceEntry>, problems: &mut Vec<Problem>) {
        for (at, host) in entry.spec.hosts.iter().enumerate() {
            let host = host.to_ascii_lowercase();
            let ports: Vec<NewPort> = entry
                .spec
                .ports
                .iter()
                .filter_map(|port| {
                    let number = u16::try_from(port.number).ok()?;
                    let default = port.target_port.unwrap_or(port.number);
                    let endpoints = entry.spec.endpoints.iter().filter_map(|endpoint| {
                        let ip: IpAddr = endpoint.address.parse().ok()?;
                        let port = u16::try_from(*endpoint.ports.get(&port.name).unwrap_or(&default)).ok()?;
                        Some(Endpoint {
                            address: SocketAddr::new(ip, port),
                            weight: endpoint.weight.unwrap_or(1).max(1),
                        })
                    });
                    let protocol = protocol(&port.protocol, &port.name);
                    Some(NewPort { number, protocol, endpoints: endpoints.collect() })
                })
                .collect();
            // Istio's name of such a service is its host; one that stands in for a Service has that one's name.
            let host = host.trim_end_matches('.');
            let service = host.strip_suffix(".svc.cluster.local").and_then(|rest| rest.strip_suffix(&entry.namespace));
            let name = service.and_then(|rest| rest.strip_suffix('.')).unwrap_or(host);
            let taken = self.add(host, name, &entry.namespace, ports, without_endpoints(&entry.spec));
            if let Some(owner) = taken {
                let hosts = Path::SPEC.key("hosts");
                let message = format!(
                    "host {host} is defined in namespace {owner} already, which stands for ports that both have"
                );
                problems.push(entry.problem(Level::Warning, "GW0105", &hosts.index(at), message));
            }
        }
    }

    fn service(&mut self, service: &Resource<Service>, slices: Option<&Vec<&EndpointSlice>>) {
        let spec = &service.spec;
        let usable = spec.ports.iter().filter(|port| matches!(port.protocol.as_str(), "" | "TCP"));
        let ports: Vec<NewPort> = usable
            .filter_map(|port| {
                let number = u16::try_from(port.port).ok()?;
                let endpoints = match slices {
                    _ if spec.service_type == "ExternalName" => Vec::new(),
                    Some(slices) => slices.iter().flat_map(|slice| slice_endpoints(slice, port)).collect(),
                    None => spec
                        .cluster_ip
                        .parse()
                        .map(|ip| Endpoint { address: SocketAddr::new(ip, number), weight: 1 })
                        .into_iter()
                        .collect(),
                };
                Some(NewPort { number, protocol: protocol(&port.app_protocol, &port.name), endpoints })
            })
            .collect();
        // A ServiceEntry may have taken the name; then it is more specific about where to go.
        let external = spec.service_type == "ExternalName";
        let empty = external.then(|| "type ExternalName is not supported in this version".to_owned());
        self.add(&qualified(&service.name, &service.namespace), &service.name, &service.namespace, ports, empty);
    }

    /// Adds a service; returns the namespace of an older one that has a port of the same name already.
    fn add(
        &mut self,
        host: &str,
        name: &str,
        namespace: &str,
        ports: Vec<NewPort>,
        without_endpoints: Option<String>,
    ) -> Option<Arc<str>> {
        let known = self.by_host.entry(host.to_owned()).or_default();
        let mut taken = None;
        let mut added = Vec::with_capacity(ports.len());
        for port in ports {
            let older =
                known.iter().filter_map(|at| self.services.get(*at)).find_map(|s| Some((s, s.cluster(port.number)?)));
            match older {
                Some((service, id)) if &*service.namespace == namespace => {
                    if let Some(cluster) = self.clusters.get_mut(id as usize) {
                        cluster.endpoints = cluster.endpoints.iter().cloned().chain(port.endpoints).collect();
                    }
                    added.push((port.number, id));
                }
                Some((service, id)) => {
                    taken = Some(Arc::clone(&service.namespace));
                    added.push((port.number, id));
                }
                None => {
                    let Ok(id) = ClusterId::try_from(self.clusters.len()) else { continue };
                    self.clusters.push(Cluster {
                        name: format!("outbound|{}||{host}", port.number).into(),
                        host: host.into(),
                        port: port.number,
                        service_name: name.into(),
                        service_namespace: namespace.into(),
                        protocol: port.protocol,
                        connect_timeout: CONNECT_TIMEOUT,
                        idle_timeout: IDLE_TIMEOUT,
                        endpoints: port.endpoints.into(),
                    });
                    added.push((port.number, id));
                }
            }
        }
        known.push(self.services.len());
        self.services.push(KnownService {
            host: host.into(),
            namespace: namespace.into(),
            ports: added,
            without_endpoints,
        });
        taken
    }

    /// The cluster with an id.
    pub(super) fn cluster(&self, id: ClusterId) -> Option<&Cluster> {
        self.clusters.get(id as usize)
    }
}

/// A port on its way into [`Services`].
struct NewPort {
    number: u16,
    protocol: UpstreamProtocol,
    endpoints: Vec<Endpoint>,
}

/// `NAME.NAMESPACE.svc.cluster.local`
pub(super) fn qualified(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.cluster.local")
}

/// The ready endpoints of a slice for a port of its Service.
fn slice_endpoints<'a>(slice: &'a EndpointSlice, port: &'a ServicePort) -> impl Iterator<Item = Endpoint> + 'a {
    let matching = slice
        .ports
        .iter()
        .find(|candidate| candidate.name == port.name && matches!(candidate.protocol.as_str(), "" | "TCP"));
    let number = matching.and_then(|found| match found.port {
        Some(PortReference::Number(number)) => u16::try_from(number).ok(),
        _ => None,
    });
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready != Some(false));
    ready.filter_map(move |endpoint| {
        // All addresses of one endpoint are the same pod; Kubernetes says that consumers take the first.
        let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        Some(Endpoint { address: SocketAddr::new(ip, number?), weight: 1 })
    })
}

/// What is spoken to a port: by its protocol (ServiceEntry) or appProtocol (Service), else by its name up to
/// the first `-` (Istio's protocol selection). Whatever is not HTTP/2 is spoken to in HTTP/1.1.
fn protocol(declared: &str, name: &str) -> UpstreamProtocol {
    let lower = declared.to_ascii_lowercase();
    let declared = lower.strip_prefix("kubernetes.io/").unwrap_or(&lower);
    let name = name.to_ascii_lowercase();
    let by_name = if name.starts_with("grpc-web") { "grpc-web" } else { name.split('-').next().unwrap_or_default() };
    match if declared.is_empty() { by_name } else { declared } {
        "http2" | "h2c" | "grpc" | "grpc-web" => UpstreamProtocol::Http2,
        _ => UpstreamProtocol::Http1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols() {
        for (declared, name, http2) in [
            ("HTTP", "grpc-x", false),
            ("HTTP2", "x", true),
            ("GRPC", "x", true),
            ("", "grpc", true),
            ("", "http2-a", true),
            ("", "http-2", false),
            ("", "grpc-web", true),
            ("kubernetes.io/h2c", "http", true),
            ("", "", false),
        ] {
            assert_eq!(protocol(declared, name) == UpstreamProtocol::Http2, http2, "{declared:?} {name:?}");
        }
    }
}
