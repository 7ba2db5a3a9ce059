//! ServiceEntries, Services and EndpointSlices.

use std::{collections::HashSet, net::IpAddr};

use super::{Report, export_to, host_pattern_error, is_host_name, selector_labels};
use crate::{
    config::{path::Path, resources::Resource},
    istio::{EndpointSlice, PortReference, Service, ServiceEntry, WorkloadEntry},
};

const RESOLUTIONS: [&str; 5] = ["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"];
const PROTOCOLS: [&str; 8] = ["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS"];

/// Checks a ServiceEntry.
pub(crate) fn service_entry(resource: &Resource<ServiceEntry>, report: &mut Report<'_, ServiceEntry>) {
    let spec = &resource.spec;
    let resolution = spec.resolution.as_deref().unwrap_or("NONE");
    report.one_of(&Path::SPEC.key("resolution"), resolution, &RESOLUTIONS);
    if let Some(location) = &spec.location {
        report.one_of(&Path::SPEC.key("location"), location, &["MESH_EXTERNAL", "MESH_INTERNAL"]);
    }
    check_hosts(&spec.hosts, resolution, report);
    check_ports(spec, report);
    check_endpoints(spec, resolution, report);
    check_resolution(spec, report);
    if resolution.contains("DNS") {
        let path = Path::SPEC.key("addresses");
        for (at, _) in spec.addresses.iter().enumerate().filter(|(_, address)| address.contains('/')) {
            report.reject(&path.index(at), "CIDR addresses are allowed only for NONE/STATIC resolution types");
        }
    }
    if let Some(selector) = &spec.workload_selector {
        selector_labels(&selector.labels, &Path::SPEC.key("workloadSelector").key("labels"), report);
    }
    export_to(&spec.export_to, report);
}

fn check_hosts(hosts: &[String], resolution: &str, report: &mut Report<'_, ServiceEntry>) {
    let path = Path::SPEC.key("hosts");
    if hosts.is_empty() {
        report.reject(&path, "service entry must have at least one host");
    }
    if hosts.len() > 256 {
        report.reject(&path, format!("service entry may have at most 256 hosts, this one has {}", hosts.len()));
    }
    let mut seen = HashSet::new();
    for (at, host) in hosts.iter().enumerate() {
        let path = path.index(at);
        if host == "*" {
            report.reject(&path, "invalid host *: full wildcard is not allowed");
        } else if let Some(error) = host_pattern_error(host) {
            report.reject(&path, format!("{host:?} {error}"));
        } else if host.starts_with('*') && !matches!(resolution, "NONE" | "DYNAMIC_DNS") {
            report.reject(&path, format!("{host:?}: a wildcard needs the resolution NONE or DYNAMIC_DNS"));
        } else if !seen.insert(host.to_ascii_lowercase()) {
            report.reject(&path, format!("duplicate host {host}"));
        }
    }
}

fn check_ports(spec: &ServiceEntry, report: &mut Report<'_, ServiceEntry>) {
    let path = Path::SPEC.key("ports");
    let mut numbers = HashSet::new();
    let mut names = HashSet::new();
    for (at, port) in spec.ports.iter().enumerate() {
        let path = path.index(at);
        report.port(&path.key("number"), port.number);
        if port.name.is_empty() {
            report.reject(&path.key("name"), "port name must be set");
        }
        if !numbers.insert(port.number) {
            report.reject(&path.key("number"), format!("service entry port {} is already defined", port.number));
        }
        if !port.name.is_empty() && !names.insert(&port.name) {
            report.reject(&path.key("name"), format!("service entry port name {:?} already defined", port.name));
        }
        if !port.protocol.is_empty() && !PROTOCOLS.contains(&port.protocol.to_ascii_uppercase().as_str()) {
            report.reject(&path.key("protocol"), format!("unsupported protocol: {}", port.protocol));
        }
        if let Some(target) = port.target_port {
            report.port(&path.key("targetPort"), target);
        }
    }
}

fn check_endpoints(spec: &ServiceEntry, resolution: &str, report: &mut Report<'_, ServiceEntry>) {
    let path = Path::SPEC.key("endpoints");
    for (at, endpoint) in spec.endpoints.iter().enumerate() {
        let path = path.index(at);
        check_address(endpoint, resolution, &path.key("address"), report);
        for (name, number) in &endpoint.ports {
            let ports = path.key("ports");
            if !spec.ports.iter().any(|port| port.name == *name) {
                report.reject(&ports.key(name), format!("endpoint port {name:?} is not defined by the service entry"));
            }
            report.port(&ports.key(name), *number);
        }
    }
    if !spec.endpoints.is_empty() {
        if spec.workload_selector.is_some() {
            report.reject(&path, "only one of workloadSelector and endpoints may be set");
        }
        if resolution == "NONE" {
            report.reject(&path, "no endpoints should be provided for resolution type none; write resolution: STATIC");
        }
        if resolution == "DNS_ROUND_ROBIN" && spec.endpoints.len() > 1 {
            report.reject(&path, "there must only be 0 or 1 endpoint for resolution mode DNS_ROUND_ROBIN");
        }
    }
}

fn check_address(endpoint: &WorkloadEntry, resolution: &str, path: &Path<'_>, report: &mut Report<'_, ServiceEntry>) {
    let address = endpoint.address.as_str();
    if address.starts_with("unix://") {
        report.unsupported(path, "a unix domain socket", "this endpoint is left out");
    } else if address.is_empty() {
        report.reject(path, "address is required");
    } else if resolution == "STATIC" && address.parse::<IpAddr>().is_err() {
        let hint = if address == "localhost" { "; write 127.0.0.1" } else { "" };
        report.reject(path, format!("{address:?} must be an IP address, because the resolution is STATIC{hint}"));
    } else if resolution.contains("DNS") && address.parse::<IpAddr>().is_err() && !is_host_name(address) {
        report.reject(path, format!("{address:?} must be an IP address or a host name"));
    }
}

/// What cannot have endpoints in this version. A warning: many ServiceEntries are for the mesh only, and a route that
/// leads to one that has none is an error of its own.
fn check_resolution(spec: &ServiceEntry, report: &mut Report<'_, ServiceEntry>) {
    if let Some(reason) = without_endpoints(spec) {
        let field = if spec.workload_selector.is_some() { "workloadSelector" } else { "resolution" };
        report.warn("GW0101", &Path::SPEC.key(field), format!("{reason}, so this service has no endpoints"));
    }
}

/// Why a service cannot have endpoints in this version, if so.
pub(crate) fn without_endpoints(spec: &ServiceEntry) -> Option<String> {
    let resolution = spec.resolution.as_deref().unwrap_or("NONE");
    if spec.workload_selector.is_some() {
        Some("workloadSelector is not supported in this version (list endpoints with IP addresses)".to_owned())
    } else if resolution == "NONE" {
        Some("resolution NONE has no meaning at a gateway (use DNS, or STATIC with IP addresses)".to_owned())
    } else if resolution == "DYNAMIC_DNS" {
        Some("resolution DYNAMIC_DNS is not supported in this version (use DNS with the names of the hosts)".to_owned())
    } else {
        None
    }
}

/// Checks a Service.
pub(crate) fn service(resource: &Resource<Service>, report: &mut Report<'_, Service>) {
    let path = Path::SPEC.key("ports");
    for (at, port) in resource.spec.ports.iter().enumerate() {
        let path = path.index(at);
        report.port(&path.key("port"), port.port);
        if let Some(PortReference::Number(number)) = &port.target_port {
            report.port(&path.key("targetPort"), *number);
        }
        if resource.spec.ports.len() > 1 && port.name.is_empty() {
            report.reject(&path.key("name"), "is required when there are several ports");
        }
    }
    if resource.spec.service_type == "ExternalName" {
        let instead = "the service has no endpoints and requests are answered 503";
        report.unsupported(&Path::SPEC.key("type"), "ExternalName", instead);
    }
}

/// Checks an EndpointSlice.
pub(crate) fn endpoint_slice(resource: &Resource<EndpointSlice>, report: &mut Report<'_, EndpointSlice>) {
    let spec = &resource.spec;
    report.one_of(&Path::Root.key("addressType"), &spec.address_type, &["IPv4", "IPv6", "FQDN"]);
    if spec.address_type == "FQDN" {
        report.unsupported(&Path::Root.key("addressType"), "FQDN", "the endpoints are left out");
    }
    if !resource.labels.contains_key(crate::config::SERVICE_NAME_LABEL) {
        let metadata = Path::Root.key("metadata");
        let message = format!(
            "Schema validation warning: without {} it belongs to no Service",
            crate::config::SERVICE_NAME_LABEL
        );
        report.warn("IST0133", &metadata.key("labels"), message);
    }
    let path = Path::Root.key("endpoints");
    for (at, endpoint) in spec.endpoints.iter().enumerate() {
        let path = path.index(at);
        let path = path.key("addresses");
        match endpoint.addresses.first() {
            None => report.reject(&path, "at least one address is required"),
            Some(address) if spec.address_type != "FQDN" && address.parse::<IpAddr>().is_err() => {
                report.reject(&path.index(0), format!("{address:?} must be an IP address"));
            }
            Some(_) => {}
        }
    }
    let path = Path::Root.key("ports");
    for (at, port) in spec.ports.iter().enumerate() {
        match &port.port {
            Some(PortReference::Number(number)) => report.port(&path.index(at).key("port"), *number),
            Some(PortReference::Name(_)) => report.reject(&path.index(at).key("port"), "must be a number"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::assert_problems;

    #[test]
    fn service_entries() {
        let template = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec: $$\n";
        let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
        let cases = [
            (
                format!(
                    "{{hosts: [a], resolution: STATIC, {ports}, endpoints: [{{address: 127.0.0.1, ports: {{http: 8080}}}}]}}"
                ),
                "",
            ),
            (format!("{{hosts: [a], resolution: DNS, {ports}, endpoints: [{{address: '::1'}}]}}"), ""),
            (format!("{{resolution: STATIC, {ports}}}"), "at least one host"),
            (format!("{{hosts: ['*'], resolution: STATIC, {ports}}}"), "full wildcard"),
            (format!("{{hosts: ['*.a'], resolution: STATIC, {ports}}}"), "a wildcard needs"),
            (format!("{{hosts: [a], resolution: static, {ports}}}"), "is not one of NONE, STATIC"),
            (format!("{{hosts: [a], {ports}}}"), "resolution NONE has no meaning"),
            (format!("{{hosts: [a], {ports}, resolution: DYNAMIC_DNS}}"), "Warning [GW0101]"),
            (format!("{{hosts: [a], {ports}, resolution: DNS}}"), ""),
            (format!("{{hosts: [a], {ports}, resolution: DNS, endpoints: [{{address: b.com}}]}}"), ""),
            (
                format!("{{hosts: [a], {ports}, resolution: STATIC, endpoints: [{{address: localhost}}]}}"),
                "must be an IP address, because the resolution is STATIC; write 127.0.0.1",
            ),
            (
                format!("{{hosts: [a], {ports}, resolution: STATIC, endpoints: [{{address: 'unix:///x'}}]}}"),
                "Error [GW0102]",
            ),
            (
                format!(
                    "{{hosts: [a], {ports}, resolution: STATIC, endpoints: [{{address: 1.2.3.4, ports: {{x: 1}}}}]}}"
                ),
                "is not defined by the service entry",
            ),
            (
                "{hosts: [a], resolution: STATIC, ports: [{number: 80, name: a}, {number: 80, name: b}]}".to_owned(),
                "already defined",
            ),
            (
                "{hosts: [a], resolution: STATIC, ports: [{number: 80, name: a, protocol: UDP}]}".to_owned(),
                "unsupported protocol: UDP",
            ),
            ("{hosts: [a], resolution: STATIC, ports: [{number: 80}]}".to_owned(), "port name must be set"),
            (format!("{{hosts: [a], {ports}, resolution: STATIC, exportTo: [A]}}"), "spec.exportTo[0]"),
        ];
        for (snippet, expected) in &cases {
            assert_problems(template, &[(snippet.as_str(), *expected)]);
        }
    }

    #[test]
    fn services_and_slices() {
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: $$\n";
        assert_problems(
            service,
            &[
                ("{ports: [{port: 80, targetPort: http}], sessionAffinity: None, clusterIP: 10.0.0.1}", ""),
                ("{ports: [{port: 0}]}", "range 1..65535"),
                ("{ports: [{port: 1}, {port: 2, name: b}]}", "spec.ports[0].name"),
                ("{type: ExternalName, externalName: a.com}", "Error [GW0102]"),
            ],
        );
        let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: s}}\n$$\n";
        assert_problems(
            slice,
            &[
                (
                    "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: true}, nodeName: n}]\nports: [{port: 80}]",
                    "",
                ),
                ("addressType: IPv5", "addressType"),
                ("addressType: IPv4\nendpoints: [{addresses: [a]}]", "endpoints[0].addresses[0]"),
                ("addressType: IPv4\nports: [{port: 70000}]", "ports[0].port"),
            ],
        );
    }
}
