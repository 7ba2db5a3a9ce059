//! Which ports this gateway opens, where they are bound, and which servers of which Gateways meet there.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use crate::{
    config::{
        Options, PrivilegedPorts,
        path::Path,
        problem::{Level, Problem},
        resources::{Resource, Resources},
    },
    istio::{Gateway, PortReference, Server, ServerTls, Service},
};

/// A listener before its routes.
#[derive(Debug)]
pub(super) struct PlannedListener<'a> {
    /// Port in the Gateway.
    pub(super) declared_port: u16,
    /// Where it is bound.
    pub(super) bind: SocketAddr,
    /// Bound port as the rules give it, also where an override says otherwise: what plugins' `match.ports` means.
    pub(super) rule_port: u16,
    /// What is spoken here.
    pub(super) kind: Kind,
    /// The servers that meet here, in the order of their Gateways' creation.
    pub(super) servers: Vec<(&'a Resource<Gateway>, &'a Server)>,
}

/// What a port speaks; servers of different kinds cannot share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// HTTP in clear text.
    Http,
    /// TLS that ends here; inside is HTTP or, with the protocol TLS, any other.
    Tls,
    /// Connections of any protocol.
    Tcp,
}

impl Kind {
    /// `None` for what this version cannot serve, which validation reports.
    fn of(server: &Server) -> Option<Self> {
        match server.port.protocol.to_ascii_uppercase().as_str() {
            "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Some(Self::Http),
            "HTTPS" | "TLS" if server.tls.as_ref().is_some_and(ServerTls::terminates) => Some(Self::Tls),
            "TCP" | "MONGO" => Some(Self::Tcp),
            _ => None,
        }
    }
}

/// Plans the listeners, by declared port and address.
pub(super) fn plan<'a>(
    resources: &'a Resources,
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Vec<PlannedListener<'a>> {
    let mut planned: BTreeMap<(u16, String), PlannedListener<'a>> = BTreeMap::new();
    let selected = resources.gateways.iter().filter(|gateway| options.selected_by(&gateway.spec.selector));
    // In the order of creation, so that of two that collide the older stands.
    let mut taken: Vec<(SocketAddr, u16)> = Vec::new();
    for gateway in selected {
        for (at, server) in gateway.spec.servers.iter().enumerate() {
            let Some(kind) = Kind::of(server) else { continue };
            let Ok(declared_port) = u16::try_from(server.port.number) else { continue };
            let key = (declared_port, server.bind.clone());
            let servers = Path::SPEC.key("servers");
            let path = servers.index(at);
            if let Some(listener) = planned.get_mut(&key) {
                if listener.kind == kind {
                    listener.servers.push((gateway, server));
                } else {
                    let other = listener.servers.first().map(|(gateway, _)| gateway.full_name()).unwrap_or_default();
                    let message = format!(
                        "port {declared_port} has the protocol of Gateway {other}, which is older: HTTP, TLS and TCP \
                         cannot share a port; this server is not served"
                    );
                    problems.push(gateway.problem(Level::Error, "GW0104", &path.key("port").key("protocol"), message));
                }
                continue;
            }
            let Some((bind, rule_port)) = address(server, declared_port, resources, options) else { continue };
            if let Some((_, other)) = taken.iter().find(|(used, _)| collide(*used, bind)) {
                let message = format!(
                    "port {declared_port} would be bound to {bind}, as port {other} is already; this server is not served \
                     (--bind {declared_port}=ADDRESS gives it another address)"
                );
                problems.push(gateway.problem(Level::Error, "GW0104", &path.key("port").key("number"), message));
                continue;
            }
            taken.push((bind, declared_port));
            let servers = vec![(Arc::as_ref(gateway), server)];
            planned.insert(key, PlannedListener { declared_port, bind, rule_port, kind, servers });
        }
    }
    planned.into_values().collect()
}

/// Where a declared port is bound, and the bound port as the rules give it. `None` for what cannot be bound.
fn address(server: &Server, declared: u16, resources: &Resources, options: &Options) -> Option<(SocketAddr, u16)> {
    let rule_port = service_port(declared, &resources.services, options).unwrap_or(match options.privileged_ports {
        PrivilegedPorts::Offset if declared < 1024 => declared + 8000,
        _ => declared,
    });
    if let Some(bind) = options.bind.get(&declared) {
        let rule_port = if bind.port() == 0 { rule_port } else { bind.port() };
        return Some((*bind, rule_port));
    }
    let ip = match server.bind.as_str() {
        "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        text => text.parse().ok()?,
    };
    Some((SocketAddr::new(ip, rule_port), rule_port))
}

/// The port that the first Service for this gateway's pods maps `declared` to. Ports by name are of the
/// pods, which are not known here.
fn service_port(declared: u16, services: &[Arc<Resource<Service>>], options: &Options) -> Option<u16> {
    services
        .iter()
        .filter(|service| service.namespace == options.namespace)
        .filter(|service| !service.spec.selector.is_empty() && options.selected_by(&service.spec.selector))
        .flat_map(|service| &service.spec.ports)
        .find(|port| port.port == u32::from(declared))
        .and_then(|port| match &port.target_port {
            Some(PortReference::Number(number)) => u16::try_from(*number).ok(),
            Some(PortReference::Name(_)) => None,
            None => Some(declared),
        })
}

/// Whether two addresses cannot be bound together. Port 0 never collides: the kernel chooses.
fn collide(one: SocketAddr, two: SocketAddr) -> bool {
    one.port() == two.port()
        && one.port() != 0
        && (one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified())
}
