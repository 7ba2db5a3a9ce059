//! What can only be seen by looking at several resources: references, hosts that no Gateway has, Gateways
//! that want the same. Destinations are checked where they are looked up, in `compile/`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    config::{
        Options,
        compile::{ServerHosts, parse_host},
        path::Path,
        problem::{Level, Problem},
        resources::{Resource, Resources},
    },
    istio::{Gateway, VirtualService},
};

/// So many others are named when Gateways conflict.
const SHOWN: usize = 5;

type GatewayHosts<'a> = HashMap<String, (&'a Arc<Resource<Gateway>>, ServerHosts)>;

/// Checks references between resources.
pub(crate) fn references(resources: &Resources, options: &Options) -> Vec<Problem> {
    let mut problems = Vec::new();
    let gateways: GatewayHosts<'_> = resources
        .gateways
        .iter()
        .map(|gateway| {
            let mut hosts = ServerHosts::default();
            for server in &gateway.spec.servers {
                hosts.extend(server, &gateway.namespace);
            }
            (gateway.full_name(), (gateway, hosts))
        })
        .collect();
    for service in &resources.virtual_services {
        virtual_service(service, &gateways, &mut problems);
    }
    selectors(&resources.gateways, options, &mut problems);
    conflicting_gateways(&resources.gateways, &mut problems);
    problems
}

fn virtual_service(service: &Resource<VirtualService>, gateways: &GatewayHosts<'_>, problems: &mut Vec<Problem>) {
    let lists = std::iter::once((None, &service.spec.gateways)).chain(service.spec.http.iter().enumerate().flat_map(
        |(route, http)| http.matches.iter().enumerate().map(move |(block, m)| (Some((route, block)), &m.gateways)),
    ));
    for (place, names) in lists {
        for (at, name) in names.iter().enumerate().filter(|(_, name)| *name != "mesh") {
            let full = full_name(name, &service.namespace);
            let http = Path::SPEC.key("http");
            let route = http.index(place.map_or(0, |(route, _)| route));
            let matches = route.key("match");
            let block = matches.index(place.map_or(0, |(_, block)| block));
            let list = if place.is_some() { block.key("gateways") } else { Path::SPEC.key("gateways") };
            match gateways.get(&full) {
                None => {
                    let message = format!("Referenced gateway not found: {name:?}");
                    problems.push(service.problem(Level::Error, "IST0101", &list.index(at), message));
                }
                Some((gateway, hosts)) if place.is_none() => hosts_in_gateway(service, gateway, hosts, problems),
                Some(_) => {}
            }
        }
    }
}

/// Hosts that the Gateway does not have (IST0132), or has only for other namespaces.
fn hosts_in_gateway(
    service: &Resource<VirtualService>,
    gateway: &Resource<Gateway>,
    hosts: &ServerHosts,
    problems: &mut Vec<Problem>,
) {
    let path = Path::SPEC.key("hosts");
    let mut missing = Vec::new();
    for (at, text) in service.spec.hosts.iter().enumerate() {
        let Some(host) = parse_host(text) else { continue };
        if !hosts.intersect(&host, &service.namespace, true).is_empty() {
            continue;
        }
        if hosts.intersect(&host, &service.namespace, false).is_empty() {
            missing.push((at, text.as_str()));
        } else {
            let message = format!(
                "Gateway {} has host {text} only for other namespaces than {}, so nothing is served for it",
                gateway.full_name(),
                service.namespace
            );
            problems.push(service.problem(Level::Error, "GW0107", &path.index(at), message));
        }
    }
    if let Some((first, _)) = missing.first() {
        let names: Vec<&str> = missing.iter().map(|(_, text)| *text).collect();
        let message = format!(
            "one or more host [{}] defined in VirtualService {} not found in Gateway {}.",
            names.join(" "),
            service.full_name(),
            gateway.full_name()
        );
        problems.push(service.problem(Level::Warning, "IST0132", &path.index(*first), message));
    }
}

/// Gateways that no gateway can be: their selector does not choose this one.
fn selectors(gateways: &[Arc<Resource<Gateway>>], options: &Options, problems: &mut Vec<Problem>) {
    for gateway in gateways.iter().filter(|gateway| !options.selected_by(&gateway.spec.selector)) {
        let message = format!(
            "No matching workloads for this resource with the following labels: {} (this gateway has {})",
            labels(&gateway.spec.selector),
            labels(&options.labels)
        );
        problems.push(gateway.problem(Level::Warning, "IST0127", &Path::SPEC.key("selector"), message));
    }
}

/// Gateways with the same selector, port and host (IST0145).
fn conflicting_gateways(gateways: &[Arc<Resource<Gateway>>], problems: &mut Vec<Problem>) {
    type Place<'a> = (String, u32, &'a str, String);
    let mut seen: BTreeMap<Place<'_>, Vec<(&Resource<Gateway>, usize)>> = BTreeMap::new();
    for gateway in gateways {
        let selector = labels(&gateway.spec.selector);
        for (at, server) in gateway.spec.servers.iter().enumerate() {
            for host in &server.hosts {
                let place = (selector.clone(), server.port.number, server.bind.as_str(), host.to_ascii_lowercase());
                seen.entry(place).or_default().push((gateway, at));
            }
        }
    }
    for ((selector, port, _, host), places) in seen {
        for (gateway, at) in &places {
            let other = places.iter().filter(|(other, _)| !std::ptr::eq(*other, *gateway));
            let mut others: Vec<String> = other.take(SHOWN).map(|(other, _)| other.full_name()).collect();
            others.dedup();
            // Several plain servers that share `*` are merged and harm nobody, but Istio reports them too.
            if !others.is_empty() {
                let message = format!(
                    "Conflict with gateways {} (workload selector {selector}, port {port}, hosts {host}).",
                    others.join(",")
                );
                let servers = Path::SPEC.key("servers");
                problems.push(gateway.problem(Level::Error, "IST0145", &servers.index(*at), message));
            }
        }
    }
}

/// `namespace/name` of a Gateway named in a VirtualService.
pub(crate) fn full_name(name: &str, namespace: &str) -> String {
    match name.split_once('/') {
        Some((".", name)) => format!("{namespace}/{name}"),
        Some(_) => name.to_owned(),
        None => format!("{namespace}/{name}"),
    }
}

fn labels(labels: &crate::istio::Labels) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}
