//! DestinationRules.

use std::collections::HashSet;

use super::{Report, export_to, host_pattern_error, is_label, selector_labels};
use crate::{
    config::{compile::traffic_policy, path::Path, resources::Resource},
    istio::{ClientTls, ConnectionPool, DestinationRule, LoadBalancer, TrafficPolicy},
};

type DrReport<'a> = Report<'a, DestinationRule>;

/// Checks a DestinationRule.
pub(crate) fn destination_rule(resource: &Resource<DestinationRule>, report: &mut DrReport<'_>) {
    let spec = &resource.spec;
    let path = Path::SPEC.key("host");
    if spec.host.is_empty() {
        report.reject(&path, "is required");
    } else if let Some(error) = host_pattern_error(&spec.host) {
        report.reject(&path, format!("{:?} {error}", spec.host));
    }
    if let Some(policy) = &spec.traffic_policy {
        check_policy(policy, &Path::SPEC.key("trafficPolicy"), report);
    }
    let path = Path::SPEC.key("subsets");
    let mut names = HashSet::new();
    for (at, subset) in spec.subsets.iter().enumerate() {
        let path = path.index(at);
        if !is_label(&subset.name) {
            let message = format!("subset name {:?} must be lower-case letters, digits and '-'", subset.name);
            report.reject(&path.key("name"), message);
        } else if !names.insert(&subset.name) {
            report.reject(&path.key("name"), format!("duplicate subset name {:?}", subset.name));
        }
        if let Some(policy) = &subset.traffic_policy {
            check_policy(policy, &path.key("trafficPolicy"), report);
        }
    }
    if let Some(selector) = &spec.workload_selector {
        selector_labels(&selector.match_labels, &Path::SPEC.key("workloadSelector").key("matchLabels"), report);
    }
    export_to(&spec.export_to, report);
}

fn check_policy(policy: &TrafficPolicy, path: &Path<'_>, report: &mut DrReport<'_>) {
    check_blocks(policy.load_balancer.as_ref(), policy.connection_pool.as_ref(), policy.tls.as_ref(), path, report);
    let ports = path.key("portLevelSettings");
    let mut numbers = HashSet::new();
    for (at, port) in policy.port_level_settings.iter().enumerate() {
        let path = ports.index(at);
        let number = path.key("port");
        report.port(&number.key("number"), port.port.number);
        if !numbers.insert(port.port.number) {
            report.warn("GW0101", &number, format!("port {} is set twice; the first stands", port.port.number));
        }
        check_blocks(port.load_balancer.as_ref(), port.connection_pool.as_ref(), port.tls.as_ref(), &path, report);
        if port.outlier_detection.is_some() {
            report.ignored(&path.key("outlierDetection"), "outlierDetection");
        }
    }
    for (name, value) in [
        ("outlierDetection", policy.outlier_detection),
        ("tunnel", policy.tunnel),
        ("proxyProtocol", policy.proxy_protocol),
        ("retryBudget", policy.retry_budget),
    ] {
        if value.is_some() {
            report.ignored(&path.key(name), name);
        }
    }
}

fn check_blocks(
    balancer: Option<&LoadBalancer>,
    pool: Option<&ConnectionPool>,
    tls: Option<&ClientTls>,
    path: &Path<'_>,
    report: &mut DrReport<'_>,
) {
    if let Some(balancer) = balancer {
        check_balancer(balancer, &path.key("loadBalancer"), report);
    }
    if let Some(pool) = pool {
        let path = path.key("connectionPool");
        traffic_policy::pool(pool, &path, &mut |field, message| report.reject(field, message));
    }
    if let Some(tls) = tls {
        check_tls(tls, &path.key("tls"), report);
    }
}

fn check_balancer(balancer: &LoadBalancer, path: &Path<'_>, report: &mut DrReport<'_>) {
    let simple = balancer.simple.as_deref().unwrap_or("UNSPECIFIED");
    report.one_of(&path.key("simple"), simple, &traffic_policy::BALANCERS);
    if simple == "PASSTHROUGH" {
        let instead = "a gateway has no other address for a request than its endpoints; LEAST_REQUEST is used";
        report.unsupported(&path.key("simple"), "PASSTHROUGH", instead);
    }
    if balancer.simple.is_some() && balancer.consistent_hash.is_some() {
        report.reject(path, "only one of simple and consistentHash may be set");
    }
    for (name, value) in [
        ("consistentHash", balancer.consistent_hash),
        ("backendUtilization", balancer.backend_utilization),
        ("localityLbSetting", balancer.locality_lb_setting),
        ("zoneAwareLbSetting", balancer.zone_aware_lb_setting),
        ("warmupDurationSecs", balancer.warmup_duration_secs),
        ("warmup", balancer.warmup),
    ] {
        if value.is_some() {
            report.ignored(&path.key(name), name);
        }
    }
}

fn check_tls(tls: &ClientTls, path: &Path<'_>, report: &mut DrReport<'_>) {
    let mode = tls.mode.as_deref().unwrap_or("DISABLE");
    report.one_of(&path.key("mode"), mode, &["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]);
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
    ];
    if mode == "ISTIO_MUTUAL" {
        for (name, _) in files.iter().filter(|(_, file)| !file.is_empty()) {
            report.reject(&path.key(name), "must not be set with ISTIO_MUTUAL, which has certificates of its own");
        }
    }
    if !tls.credential_name.is_empty() {
        for (name, _) in files.iter().filter(|(_, file)| !file.is_empty()) {
            report.reject(&path.key(name), "must not be set together with credentialName");
        }
    } else if mode == "MUTUAL" {
        for (name, file) in files.iter().take(2) {
            if file.is_empty() {
                report.reject(&path.key(name), "is required for MUTUAL without credentialName");
            }
        }
    }
    if tls.subject_alt_names.iter().any(String::is_empty) {
        report.reject(&path.key("subjectAltNames"), "must not contain an empty name");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::assert_problems;

    #[test]
    fn destination_rules() {
        let template =
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, $$}\n";
        assert_problems(
            template,
            &[
                ("trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, tls: {mode: SIMPLE, sni: b.com}}", ""),
                ("subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]", ""),
                ("subsets: [{name: v1}, {name: v1}]", "duplicate subset name"),
                ("subsets: [{name: V1}]", "spec.subsets[0].name"),
                ("exportTo: [A]", "spec.exportTo[0]"),
                ("host: 'a:80'", "not YAML"),
                ("trafficPolicy: {loadBalancer: {simple: FASTEST}}", "\"FASTEST\" is not one of"),
                ("trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}", "Error [GW0102]"),
                ("trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}", "ignored: consistentHash"),
                ("trafficPolicy: {loadBalancer: {localityLbSetting: {enabled: true}}}", "ignored: localityLbSetting"),
                ("trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1}}", "ignored: outlierDetection"),
                ("trafficPolicy: {connectionPool: {}}", "at least one of tcp and http"),
                ("trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}", "tcp.maxConnections"),
                ("trafficPolicy: {connectionPool: {tcp: {connectTimeout: soon}}}", "tcp.connectTimeout"),
                (
                    "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s, tcpKeepalive: {time: 7200s, probes: 3}}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRequestsPerConnection: 3, maxRetries: 4, idleTimeout: 1m, h2UpgradePolicy: UPGRADE}}}",
                    "",
                ),
                ("trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: SOMETIMES}}}", "h2UpgradePolicy"),
                (
                    "trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}",
                    "useClientProtocol",
                ),
                ("trafficPolicy: {connectionPool: {http: {maxConcurrentStreams: 5}}}", ""),
                ("trafficPolicy: {connectionPool: {http: {maxPending: 5}}}", "unknown field"),
                ("trafficPolicy: {tls: {mode: MUTUAL, privateKey: k}}", "tls.clientCertificate"),
                ("trafficPolicy: {tls: {mode: MUTUAL, credentialName: c}}", ""),
                ("trafficPolicy: {tls: {mode: SIMPLE, credentialName: c, caCertificates: f}}", "tls.caCertificates"),
                ("trafficPolicy: {tls: {mode: simple}}", "\"simple\" is not one of"),
                ("trafficPolicy: {portLevelSettings: [{port: {number: 0}}]}", "portLevelSettings[0].port.number"),
            ],
        );
    }
}
