//! The services that requests can be sent to: ServiceEntries, and Services with their EndpointSlices → ports with
//! the places where they run.
//!
//! * A Service without any EndpointSlice is reached at its ClusterIP, if it has one.
//! * Two ServiceEntries of one namespace with the same host are one service with the endpoints of both, as
//!   in Istio; if the namespaces differ the older one stands.
//! * Labels, which subsets choose by, are those of a ServiceEntry's endpoint. An EndpointSlice carries none of its
//!   pods, so the labels of the slice itself stand for all its endpoints.
//! * Names that DNS has to find are only noted here; the control side resolves them.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    config::{
        Options, SERVICE_NAME_LABEL,
        path::Path,
        problem::{Level, Problem},
        resources::{Resource, Resources},
        validate::without_endpoints,
    },
    istio::{EndpointSlice, EntryPort, Labels, PortReference, Service, ServiceEntry, ServicePort, WorkloadEntry},
    snapshot::{Endpoint, NamedEndpoint, Take, UpstreamProtocol},
};

/// Index of a [`Port`].
pub(super) type PortId = usize;

/// All services that this gateway sees.
#[derive(Debug, Default)]
pub(super) struct Services {
    services: Vec<KnownService>,
    /// Lower-case host to services, the oldest first.
    by_host: HashMap<String, Vec<usize>>,
    ports: Vec<Port>,
}

/// A service under one host name.
#[derive(Debug)]
pub(super) struct KnownService {
    /// Its name, as the registry knows it.
    pub(super) host: Arc<str>,
    namespace: Arc<str>,
    /// Port numbers.
    pub(super) ports: Vec<(u16, PortId)>,
    /// Why it can have no endpoints, if so.
    pub(super) without_endpoints: Option<String>,
}

/// A port of a service.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) host: Arc<str>,
    pub(super) number: u16,
    /// Short name of the service.
    pub(super) service_name: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) protocol: UpstreamProtocol,
    /// Whether it is declared as HTTP, so that a DestinationRule may choose the version.
    pub(super) plain_http: bool,
    pub(super) places: Vec<Place>,
    /// Names that the service's certificate may have, if its DestinationRule names none.
    pub(super) subject_alt_names: Vec<String>,
}

/// Where a port runs.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) to: To,
    pub(super) labels: Labels,
}

/// An address or a name.
#[derive(Debug)]
pub(super) enum To {
    Address(Endpoint),
    Name(NamedEndpoint),
}

impl To {
    pub(super) fn address(&self) -> Option<&Endpoint> {
        match self {
            Self::Address(endpoint) => Some(endpoint),
            Self::Name(_) => None,
        }
    }

    pub(super) fn name(&self) -> Option<&NamedEndpoint> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl KnownService {
    /// A port by its number.
    pub(super) fn port(&self, number: u16) -> Option<PortId> {
        self.ports.iter().find(|(known, _)| *known == number).map(|(_, port)| *port)
    }
}

impl Services {
    /// Reads all services.
    pub(super) fn new(resources: &Resources, options: &Options, problems: &mut Vec<Problem>) -> Self {
        let mut services = Self::default();
        for entry in resources.service_entries.iter().filter(|e| options.sees(&e.spec.export_to, &e.namespace)) {
            services.service_entry(entry, problems);
        }
        let mut slices: HashMap<(&str, &str), Vec<&Resource<EndpointSlice>>> = HashMap::new();
        for slice in &resources.endpoint_slices {
            if let Some(name) = slice.labels.get(SERVICE_NAME_LABEL) {
                slices.entry((&slice.namespace, name)).or_default().push(slice);
            }
        }
        for service in &resources.services {
            services.service(service, slices.get(&(service.namespace.as_str(), service.name.as_str())));
        }
        services
    }

    /// All ports, in the order of their ids.
    pub(super) fn all_ports(&self) -> &[Port] {
        &self.ports
    }

    /// Makes a host that is no service one that DNS has to find, with these ports.
    pub(super) fn add_unknown(&mut self, host: &str, ports: &[u16]) {
        let host = host.strip_suffix('.').unwrap_or(host);
        let ports = ports.iter().map(|number| {
            let named = NamedEndpoint { name: host.into(), port: *number, weight: 1, take: Take::Foreign };
            let place = Place { to: To::Name(named), labels: Labels::new() };
            NewPort {
                number: *number,
                protocol: UpstreamProtocol::Http1,
                plain_http: true,
                places: vec![place],
                subject_alt_names: Vec::new(),
            }
        });
        self.add(host, host, "", ports.collect(), None);
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
            let ports = entry.spec.ports.iter().filter_map(|port| entry_port(&entry.spec, port, &host)).collect();
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

    fn service(&mut self, service: &Resource<Service>, slices: Option<&Vec<&Resource<EndpointSlice>>>) {
        let spec = &service.spec;
        let usable = spec.ports.iter().filter(|port| matches!(port.protocol.as_str(), "" | "TCP"));
        let ports: Vec<NewPort> = usable
            .filter_map(|port| {
                let number = u16::try_from(port.port).ok()?;
                let places = match slices {
                    _ if spec.service_type == "ExternalName" => Vec::new(),
                    Some(slices) => slices.iter().flat_map(|slice| slice_places(slice, port)).collect(),
                    None => {
                        let ip = spec.cluster_ip.parse().ok();
                        let endpoint = ip.map(|ip| Endpoint { address: SocketAddr::new(ip, number), weight: 1 });
                        endpoint.map(|to| Place { to: To::Address(to), labels: Labels::new() }).into_iter().collect()
                    }
                };
                Some(NewPort::new(number, &port.app_protocol, &port.name, places))
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
                known.iter().filter_map(|at| self.services.get(*at)).find_map(|s| Some((s, s.port(port.number)?)));
            match older {
                Some((service, id)) if &*service.namespace == namespace => {
                    if let Some(known) = self.ports.get_mut(id) {
                        known.places.extend(port.places);
                    }
                    added.push((port.number, id));
                }
                Some((service, id)) => {
                    taken = Some(Arc::clone(&service.namespace));
                    added.push((port.number, id));
                }
                None => {
                    added.push((port.number, self.ports.len()));
                    self.ports.push(Port {
                        host: host.into(),
                        number: port.number,
                        service_name: name.into(),
                        namespace: namespace.into(),
                        protocol: port.protocol,
                        plain_http: port.plain_http,
                        places: port.places,
                        subject_alt_names: port.subject_alt_names,
                    });
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
}

/// A port on its way into [`Services`].
struct NewPort {
    number: u16,
    protocol: UpstreamProtocol,
    plain_http: bool,
    places: Vec<Place>,
    subject_alt_names: Vec<String>,
}

impl NewPort {
    fn new(number: u16, declared: &str, name: &str, places: Vec<Place>) -> Self {
        let (protocol, plain_http) = protocol(declared, name);
        Self { number, protocol, plain_http, places, subject_alt_names: Vec::new() }
    }
}

/// A port of a ServiceEntry under one of its hosts.
fn entry_port(entry: &ServiceEntry, port: &EntryPort, host: &str) -> Option<NewPort> {
    let number = u16::try_from(port.number).ok()?;
    let default = u16::try_from(port.target_port.unwrap_or(port.number)).ok()?;
    let resolution = entry.resolution.as_deref().unwrap_or("NONE");
    let take = if resolution == "DNS_ROUND_ROBIN" { Take::First } else { Take::All };
    let dns = matches!(resolution, "DNS" | "DNS_ROUND_ROBIN");
    let named = |name: &str, port, weight| {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into();
        To::Name(NamedEndpoint { name, port, weight, take })
    };
    let place = |endpoint: &WorkloadEntry| {
        let port = match endpoint.ports.get(&port.name) {
            Some(own) => u16::try_from(*own).ok()?,
            None => default,
        };
        let weight = endpoint.weight.unwrap_or(1).max(1);
        let to = match endpoint.address.parse::<IpAddr>() {
            Ok(ip) => To::Address(Endpoint { address: SocketAddr::new(ip, port), weight }),
            Err(_) if dns => named(&endpoint.address, port, weight),
            Err(_) => return None,
        };
        Some(Place { to, labels: endpoint.labels.clone() })
    };
    let mut places: Vec<Place> = entry.endpoints.iter().filter_map(place).collect();
    if dns && entry.endpoints.is_empty() && entry.workload_selector.is_none() {
        places.push(Place { to: named(host, default, 1), labels: Labels::new() });
    }
    let subject_alt_names = entry.subject_alt_names.clone();
    Some(NewPort { subject_alt_names, ..NewPort::new(number, &port.protocol, &port.name, places) })
}

/// `NAME.NAMESPACE.svc.cluster.local`
pub(super) fn qualified(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.cluster.local")
}

/// The ready endpoints of a slice for a port of its Service.
fn slice_places<'a>(slice: &'a Resource<EndpointSlice>, port: &'a ServicePort) -> impl Iterator<Item = Place> + 'a {
    let spec = &slice.spec;
    let matching = spec
        .ports
        .iter()
        .find(|candidate| candidate.name == port.name && matches!(candidate.protocol.as_str(), "" | "TCP"));
    let number = matching.and_then(|found| match found.port {
        Some(PortReference::Number(number)) => u16::try_from(number).ok(),
        _ => None,
    });
    let ready = spec.endpoints.iter().filter(|endpoint| endpoint.conditions.ready != Some(false));
    ready.filter_map(move |endpoint| {
        // All addresses of one endpoint are the same pod; Kubernetes says that consumers take the first.
        let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let to = To::Address(Endpoint { address: SocketAddr::new(ip, number?), weight: 1 });
        Some(Place { to, labels: slice.labels.clone() })
    })
}

/// What is spoken to a port, and whether it is declared as HTTP: by its protocol (ServiceEntry) or appProtocol
/// (Service), else by its name up to the first `-` (Istio's protocol selection). Whatever is not HTTP/2 is spoken to in
/// HTTP/1.1.
fn protocol(declared: &str, name: &str) -> (UpstreamProtocol, bool) {
    let lower = declared.to_ascii_lowercase();
    let declared = lower.strip_prefix("kubernetes.io/").unwrap_or(&lower);
    let name = name.to_ascii_lowercase();
    let by_name = if name.starts_with("grpc-web") { "grpc-web" } else { name.split('-').next().unwrap_or_default() };
    match if declared.is_empty() { by_name } else { declared } {
        "http2" | "h2c" | "grpc" | "grpc-web" => (UpstreamProtocol::Http2, false),
        other => (UpstreamProtocol::Http1, other == "http"),
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
            assert_eq!(protocol(declared, name).0 == UpstreamProtocol::Http2, http2, "{declared:?} {name:?}");
        }
    }
}
