//! VirtualServices, as Istio's `pkg/config/validation` checks them.

use std::collections::HashSet;

use super::{Report, export_to, host_pattern_error, http_route, is_label, is_subdomain, tcp_route};
use crate::{
    config::{compile::matching, path::Path, resources::Resource},
    istio::{HttpMatch, VirtualService},
};

/// Checks a VirtualService.
pub(crate) fn virtual_service(resource: &Resource<VirtualService>, report: &mut Report<'_, VirtualService>) {
    let spec = &resource.spec;
    // Without hosts it is a delegate: it has no meaning of its own, another one refers to it.
    let delegate = spec.hosts.is_empty();
    // Without a list it is for the mesh, which no ingress gateway is part of.
    if !delegate && spec.gateways.iter().all(|name| name == "mesh") {
        report.acts_elsewhere();
    }
    let hosts = Path::SPEC.key("hosts");
    let mut seen = HashSet::new();
    for (at, host) in spec.hosts.iter().enumerate() {
        let path = hosts.index(at);
        if let Some(error) = host_pattern_error(host) {
            report.reject(&path, format!("{host:?} {error}"));
        } else if !seen.insert(host.to_ascii_lowercase()) {
            report.reject(&path, format!("duplicate hosts in virtual service: {host}"));
        }
    }
    gateway_names(&spec.gateways, &Path::SPEC.key("gateways"), report);
    if delegate && !spec.gateways.is_empty() {
        report.reject(&hosts, "virtual service must have at least one host");
    }
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        report.reject(&Path::SPEC, "http, tcp or tls must be provided in virtual service");
    }
    if !spec.tls.is_empty() {
        report.unsupported(
            &Path::SPEC.key("tls"),
            "routing of TLS that is passed through",
            "these routes have no effect",
        );
    }
    let tcp = Path::SPEC.key("tcp");
    for (at, route) in spec.tcp.iter().enumerate() {
        tcp_route::check(route, &tcp.index(at), report);
    }
    let http = Path::SPEC.key("http");
    for (at, route) in spec.http.iter().enumerate() {
        http_route::check(route, delegate, &http.index(at), report);
    }
    http_route::ignored(&spec.http, report);
    unreachable_rules(resource, report);
    export_to(&spec.export_to, report);
}

/// Checks `gateways`, here or in a match block.
pub(super) fn gateway_names(names: &[String], path: &Path<'_>, report: &mut Report<'_, VirtualService>) {
    for (at, name) in names.iter().enumerate() {
        let good = match name.split_once('/') {
            Some((namespace, name)) => (namespace == "." || is_label(namespace)) && is_subdomain(name),
            None => is_subdomain(name),
        };
        if !good {
            report.reject(&path.index(at), format!("{name:?} must be the name of a Gateway, or namespace/name"));
        }
    }
}

/// Rules that no request can reach (IST0130), and match blocks that repeat an earlier one (IST0131).
fn unreachable_rules(resource: &Resource<VirtualService>, report: &mut Report<'_, VirtualService>) {
    let http = Path::SPEC.key("http");
    let mut everything: Option<usize> = None;
    let mut seen: Vec<(usize, &HttpMatch)> = Vec::new();
    for (at, route) in resource.spec.http.iter().enumerate() {
        let path = http.index(at);
        let label = if route.name.is_empty() { format!("#{at}") } else { format!("{:?}", route.name) };
        if let Some(first) = everything {
            let reason = format!("only the last rule can have no matches; rule #{first} takes every request");
            report.warn("IST0130", &path, format!("VirtualService rule {label} not used ({reason})."));
            continue;
        }
        if route.matches.is_empty() || route.matches.iter().any(matches_everything) {
            everything = Some(at);
        }
        let mut repeated = 0;
        for (block_at, block) in route.matches.iter().enumerate() {
            // Quadratic, so only for lists that people write by hand.
            if seen.len() > 500 {
                return;
            }
            match seen.iter().find(|(_, earlier)| same_match(earlier, block)) {
                Some((earlier, _)) => {
                    repeated += 1;
                    let matches = path.key("match");
                    let message = format!(
                        "VirtualService rule {label} match #{block_at} is not used (duplicate/overlapping match in rule #{earlier})."
                    );
                    report.info("IST0131", &matches.index(block_at), message);
                }
                None => seen.push((at, block)),
            }
        }
        if repeated > 0 && repeated == route.matches.len() {
            report.warn(
                "IST0130",
                &path,
                format!("VirtualService rule {label} not used (all matches used by prior rules)."),
            );
        }
    }
}

/// Whether a block takes every request: what comes after it is not even compiled.
fn matches_everything(block: &HttpMatch) -> bool {
    let (_, conditions) = matching::conditions(block, &Path::Root, &mut |_, _| {});
    matching::is_catch_all(block, &conditions)
        && block.port.is_none()
        && block.gateways.is_empty()
        && block.source_labels.is_empty()
        && block.source_namespace.is_empty()
        && !matching::needs_claims(block)
}

/// Whether two blocks match the same requests; their names do not count.
fn same_match(one: &HttpMatch, two: &HttpMatch) -> bool {
    one.uri == two.uri
        && one.scheme == two.scheme
        && one.method == two.method
        && one.authority == two.authority
        && one.headers == two.headers
        && one.port == two.port
        && one.source_labels == two.source_labels
        && one.gateways == two.gateways
        && one.query_params == two.query_params
        && one.ignore_uri_case == two.ignore_uri_case
        && one.without_headers == two.without_headers
        && one.source_namespace == two.source_namespace
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::{assert_problems, problems};

    const HEAD: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: ";

    #[test]
    fn the_resource_is_checked() {
        let route = "http: [{route: [{destination: {host: a}}]}]";
        let cases = [
            (format!("{{hosts: [a.com], {route}}}"), ""),
            (format!("{{hosts: ['*'], gateways: [mesh, g, ns/g], {route}}}"), ""),
            (format!("{{{route}}}"), ""),
            (format!("{{gateways: [g], {route}}}"), "must have at least one host"),
            (format!("{{hosts: ['a:80'], {route}}}"), "spec.hosts[0]"),
            (format!("{{hosts: [a, A], {route}}}"), "duplicate hosts"),
            (format!("{{hosts: [a], gateways: ['a b'], {route}}}"), "spec.gateways[0]"),
            (format!("{{hosts: [a], exportTo: ['a b'], {route}}}"), "spec.exportTo[0]"),
            ("{hosts: [a]}".to_owned(), "http, tcp or tls must be provided"),
            ("{hosts: [a], gateways: [g], tcp: [{}]}".to_owned(), "TCP route is required"),
            ("{hosts: [a], gateways: [g], tcp: [{route: [{destination: {host: b}}]}]}".to_owned(), ""),
            // For the mesh only: of no interest here.
            ("{hosts: [a], tcp: [{route: [{destination: {host: b}}]}]}".to_owned(), ""),
        ];
        for (snippet, expected) in &cases {
            assert_problems(&format!("{HEAD}$$\n"), &[(snippet.as_str(), *expected)]);
        }
    }

    #[test]
    fn a_catch_all_block_hides_what_follows() {
        let rules = |block: &str| {
            let route = "directResponse: {status: 200}";
            problems(&format!(
                "{HEAD}{{hosts: [a], http: [{{match: [{block}], {route}}}, {{match: [{{uri: {{prefix: /x}}}}], {route}}}]}}\n"
            ))
        };
        for hiding in
            ["{uri: {prefix: /}}", "{uri: {regex: '.*'}}", "{name: n}", "{uri: {exact: /a}}, {uri: {prefix: /}}"]
        {
            let found = rules(hiding);
            assert!(found.len() == 1 && found[0].contains("Warning [IST0130]"), "{hiding}: {found:#?}");
        }
        for open in [
            "{uri: {prefix: /}, port: 80}",
            "{uri: {prefix: /}, headers: {a: {}}}",
            "{uri: {prefix: ''}}",
            "{gateways: [g]}",
        ] {
            assert!(rules(open).is_empty(), "{open}: {:#?}", rules(open));
        }
    }

    #[test]
    fn rules_that_cannot_be_reached() {
        let found = problems(&format!(
            "{HEAD}\n  hosts: [a]\n  http:\n  - match: [{{uri: {{prefix: /a}}}}]\n    route: [{{destination: {{host: a}}}}]\n  - match: [{{name: x, uri: {{prefix: /a}}}}]\n    route: [{{destination: {{host: a}}}}]\n  - route: [{{destination: {{host: a}}}}]\n  - name: last\n    route: [{{destination: {{host: a}}}}]\n"
        ));
        assert_eq!(
            found,
            [
                "Info [IST0131] (VirtualService default/v f.yaml:9) spec.http[1].match[0]: VirtualService rule #1 match #0 is not used (duplicate/overlapping match in rule #0).",
                "Warning [IST0130] (VirtualService default/v f.yaml:9) spec.http[1]: VirtualService rule #1 not used (all matches used by prior rules).",
                "Warning [IST0130] (VirtualService default/v f.yaml:12) spec.http[3]: VirtualService rule \"last\" not used (only the last rule can have no matches; rule #2 takes every request).",
            ]
        );
    }
}
