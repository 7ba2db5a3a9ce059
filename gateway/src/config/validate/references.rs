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
    let mut bound = Vec::new();
    for (at, name) in named_gateways(&service.spec.gateways) {
        match gateways.get(&full_name(name, &service.namespace)) {
            Some(gateway) => bound.push(gateway),
            None => problems.push(not_found(service, name, &Path::SPEC.key("gateways").index(at))),
        }
    }
    hosts_in_gateways(service, &bound, problems);
    let http = Path::SPEC.key("http");
    for (at, route) in service.spec.http.iter().enumerate() {
        let path = http.index(at);
        let path = path.key("match");
        for (at, block) in route.matches.iter().enumerate() {
            let path = path.index(at);
            let path = path.key("gateways");
            for (at, name) in named_gateways(&block.gateways) {
                if !gateways.contains_key(&full_name(name, &service.namespace)) {
                    problems.push(not_found(service, name, &path.index(at)));
                }
            }
        }
    }
}

/// The Gateways of a list: `mesh` is none.
fn named_gateways(names: &[String]) -> impl Iterator<Item = (usize, &String)> {
    names.iter().enumerate().filter(|(_, name)| *name != "mesh")
}

fn not_found(service: &Resource<VirtualService>, name: &str, path: &Path<'_>) -> Problem {
    service.problem(Level::Error, "IST0101", path, format!("Referenced gateway not found: {name:?}"))
}

/// Hosts that none of the Gateways has, Gateways that have none of the hosts (both IST0132), and hosts that
/// are there, but only for other namespaces.
fn hosts_in_gateways(
    service: &Resource<VirtualService>,
    bound: &[&(&Arc<Resource<Gateway>>, ServerHosts)],
    problems: &mut Vec<Problem>,
) {
    let hosts: Vec<_> = service.spec.hosts.iter().filter_map(|text| Some((text.as_str(), parse_host(text)?))).collect();
    let has = |server: &ServerHosts, host, scoped| !server.intersect(host, &service.namespace, scoped).is_empty();
    let path = Path::SPEC.key("hosts");
    for (gateway, server) in bound {
        let gateway_name = gateway.full_name();
        let none = hosts.iter().all(|(_, host)| !has(server, host, false));
        let mut missing = Vec::new();
        for (at, (text, host)) in hosts.iter().enumerate() {
            if none || bound.iter().all(|(_, server)| !has(server, host, false)) {
                missing.push((at, *text));
            } else if has(server, host, false) && !has(server, host, true) {
                let message = format!(
                    "Gateway {gateway_name} has host {text} only for other namespaces than {}, so nothing is served for it",
                    service.namespace
                );
                problems.push(service.problem(Level::Error, "GW0107", &path.index(at), message));
            }
        }
        if let Some((first, _)) = missing.first() {
            let names: Vec<&str> = missing.iter().map(|(_, text)| *text).collect();
            let message = format!(
                "one or more host [{}] defined in VirtualService {} not found in Gateway {gateway_name}.",
                names.join(" "),
                service.full_name(),
            );
            problems.push(service.problem(Level::Warning, "IST0132", &path.index(*first), message));
        }
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
