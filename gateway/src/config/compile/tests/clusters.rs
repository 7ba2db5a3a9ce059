//! What DestinationRules make of clusters.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use super::*;
use crate::snapshot::{Balance, Cluster, Take, Transport, UpstreamProtocol};

fn rule(metadata: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{{metadata}}}\nspec: {{{spec}}}\n")
}

fn balance(how: &str) -> String {
    format!("trafficPolicy: {{loadBalancer: {{simple: {how}}}}}")
}

impl Picture {
    fn cluster(&self, name: &str) -> &Cluster {
        let found = self.snapshot.clusters.iter().find(|cluster| *cluster.name == *name);
        found.unwrap_or_else(|| {
            let names: Vec<_> = self.snapshot.clusters.iter().map(|cluster| &cluster.name).collect();
            panic!("no {name} in {names:?}; {:#?}", self.problems)
        })
    }
}

/// A service `s` of the namespace `shop` with two versions.
const SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: s, namespace: shop}
spec:
  hosts: [s.shop.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: http-b, protocol: HTTP}]
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}, weight: 3}
  - {address: 10.0.0.2, labels: {version: v2, extra: x}}
";

#[test]
fn the_nearest_and_most_specific_rule_decides() {
    let root = rule("name: r, namespace: istio-system", &format!("host: '*', {}", balance("RANDOM")));
    let wide = rule("name: w, namespace: shop", &format!("host: '*.local', {}", balance("RANDOM")));
    let wider = rule("name: x, namespace: shop", &format!("host: '*', {}", balance("LEAST_CONN")));
    let exact = rule("name: e, namespace: shop", &format!("host: s, {}", balance("ROUND_ROBIN")));
    let own = rule("name: o", &format!("host: '*.svc.cluster.local', {}", balance("RANDOM")));
    let hidden = rule("name: h, namespace: shop", &format!("host: s, exportTo: ['.'], {}", balance("RANDOM")));
    let elsewhere = rule("name: q, namespace: far", &format!("host: s.shop.svc.cluster.local, {}", balance("RANDOM")));
    let selects = |labels: &str, how: &str| {
        let selector = format!("workloadSelector: {{matchLabels: {labels}}}");
        rule("name: sel", &format!("host: s.shop.svc.cluster.local, {selector}, {}", balance(how)))
    };
    use Balance::{LeastRequest, Random, RoundRobin};
    let chosen = selects("{istio: ingressgateway}", "ROUND_ROBIN");
    let not_chosen = selects("{app: x}", "RANDOM");
    for (rules, expected) in [
        (&[][..], LeastRequest),
        (&[&root], Random),
        (&[&root, &exact], RoundRobin),
        (&[&wider, &exact, &wide], RoundRobin),
        (&[&wider, &wide], Random),
        (&[&exact, &own], Random),
        (&[&hidden], LeastRequest),
        (&[&elsewhere], LeastRequest),
        (&[&own, &chosen], RoundRobin),
        (&[&exact, &not_chosen], RoundRobin),
    ] {
        let documents: Vec<&str> = std::iter::once(SERVICE).chain(rules.iter().map(|rule| rule.as_str())).collect();
        let picture = Picture::clean(&documents);
        assert_eq!(picture.cluster("outbound|80||s.shop.svc.cluster.local").balance, expected, "{rules:#?}");
    }
}

#[test]
fn rules_of_one_host_are_merged_and_subsets_override_block_by_block() {
    let documents = [
        SERVICE,
        &rule(
            "name: a, namespace: shop",
            "host: s, subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]",
        ),
        &rule(
            "name: b, namespace: shop",
            "host: S.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {connectTimeout: 3s, maxConnections: 7}}, \
             portLevelSettings: [{port: {number: 81}, connectionPool: {http: {http2MaxRequests: 9}}}]}",
        ),
        &rule(
            "name: c, namespace: shop",
            "host: s, trafficPolicy: {loadBalancer: {simple: RANDOM}}, \
             subsets: [{name: v1, labels: {version: v2}}, {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}, {name: all}]",
        ),
    ];
    let picture = Picture::clean(&documents);
    let cluster = |port, subset| picture.cluster(&format!("outbound|{port}|{subset}|s.shop.svc.cluster.local"));
    let addresses = |cluster: &Cluster| cluster.endpoints.iter().map(|e| e.address.to_string()).collect::<Vec<_>>();
    // Of all three the subsets are united, and the first with a traffic policy decides.
    let whole = cluster(80, "");
    assert_eq!((whole.balance, whole.connections.connect_timeout), (Balance::RoundRobin, Duration::from_secs(3)));
    assert_eq!(whole.thresholds.connections, Some(7));
    assert_eq!(addresses(whole), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(whole.endpoints[0].weight, 3);
    // Settings of a port replace everything.
    let port = cluster(81, "");
    assert_eq!(
        (port.balance, port.thresholds.connections, port.thresholds.requests),
        (Balance::LeastRequest, None, Some(9))
    );
    // A subset replaces the blocks that it has.
    let v1 = cluster(80, "v1");
    assert_eq!(
        (v1.balance, v1.thresholds.connections, addresses(v1)),
        (Balance::Random, Some(7), vec!["10.0.0.1:80".to_owned()])
    );
    assert_eq!(addresses(cluster(80, "v2")), ["10.0.0.2:80"]);
    assert_eq!((cluster(81, "v2").balance, cluster(81, "v2").thresholds.requests), (Balance::Random, Some(9)));
    assert_eq!(addresses(cluster(80, "all")), ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[test]
fn routes_lead_to_subsets() {
    let rule = rule(
        "name: d, namespace: shop",
        "host: s, subsets: [{name: v1, labels: {version: v1}}, {name: v9, labels: {version: v9}}]",
    );
    let route = |subset: &str| {
        let spec = format!(
            "  hosts: [a]\n  gateways: [default/g]\n  http: [{{route: [{{destination: {{host: s, port: {{number: 80}}, subset: {subset}}}}}]}}]"
        );
        let picture = Picture::of(&[GATEWAY, SERVICE, &rule, &virtual_service("name: v, namespace: shop", &spec)]);
        (picture.answer("a/"), picture.problems)
    };
    assert_eq!(route("v1"), ("s.shop.svc.cluster.local:80 [10.0.0.1:80]".to_owned(), Vec::new()));
    let (answer, problems) = route("v9");
    assert_eq!(answer, "s.shop.svc.cluster.local:80 []");
    assert!(problems.len() == 1 && problems[0].contains("none of its 2 has the labels of subset v9"), "{problems:#?}");
    let (answer, problems) = route("v2");
    assert_eq!(answer, "NC outbound|80|v2|s.shop.svc.cluster.local");
    assert!(problems.len() == 1 && problems[0].contains("\"s+v2\" (it has [\"v1\", \"v9\"])"), "{problems:#?}");
}

#[test]
fn slices_have_labels_for_all_their_endpoints() {
    let slice = |name: &str, version: &str, address: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: k, version: {version}}}}}\n\
             addressType: IPv4\nendpoints: [{{addresses: [{address}]}}]\nports: [{{port: 8080}}]\n"
        )
    };
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: k}\nspec: {ports: [{port: 80}]}\n";
    let rule = rule("name: d", "host: k, subsets: [{name: v2, labels: {version: v2}}]");
    let picture = Picture::clean(&[service, &slice("a", "v1", "10.0.0.1"), &slice("b", "v2", "10.0.0.2"), &rule]);
    let found = &picture.cluster("outbound|80|v2|k.default.svc.cluster.local").endpoints;
    assert_eq!(found.iter().map(|e| e.address.to_string()).collect::<Vec<_>>(), ["10.0.0.2:8080"]);
}

#[test]
fn rules_choose_the_version_of_http() {
    let service = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: s}
spec:
  hosts: [s.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 90, name: tcp, protocol: TCP}, {number: 91, name: g, protocol: GRPC}]
";
    for (http, expected) in [
        ("h2UpgradePolicy: UPGRADE", [(true, false), (false, false), (true, false)]),
        ("useClientProtocol: true", [(false, true), (false, false), (true, false)]),
        ("h2UpgradePolicy: DO_NOT_UPGRADE", [(false, false), (false, false), (true, false)]),
    ] {
        let rule = rule("name: d", &format!("host: s.com, trafficPolicy: {{connectionPool: {{http: {{{http}}}}}}}"));
        let picture = Picture::clean(&[service, &rule]);
        let found: Vec<_> = picture
            .snapshot
            .clusters
            .iter()
            .map(|cluster| (cluster.protocol == UpstreamProtocol::Http2, cluster.follow_client))
            .collect();
        assert_eq!(found, expected, "{http}");
        let first = picture.snapshot.clusters.first().unwrap();
        let both = [true, false].map(|client| first.protocol_for(client) == UpstreamProtocol::Http2);
        assert_eq!(both, if expected[0].1 { [true, false] } else { [expected[0].0; 2] });
    }
}

#[test]
fn names_are_left_to_dns() {
    let entry = |resolution: &str, rest: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s}}\nspec: {{hosts: [Ext.example.com], resolution: {resolution}, \
             ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]{rest}}}\n"
        )
    };
    let names = |entry: String| {
        let picture = Picture::clean(&[&entry]);
        let cluster = picture.cluster("outbound|80||ext.example.com");
        let names = cluster.names.iter().map(|n| (format!("{}:{}*{}", n.name, n.port, n.weight), n.take));
        (names.collect::<Vec<_>>(), cluster.endpoints.len())
    };
    assert_eq!(names(entry("DNS", "")), (vec![("ext.example.com:8080*1".to_owned(), Take::All)], 0));
    assert_eq!(names(entry("DNS_ROUND_ROBIN", "")), (vec![("ext.example.com:8080*1".to_owned(), Take::First)], 0));
    let endpoints = ", endpoints: [{address: B.example.com., weight: 5}, {address: 10.0.0.1, ports: {http: 1}}]";
    assert_eq!(names(entry("DNS", endpoints)), (vec![("b.example.com:8080*5".to_owned(), Take::All)], 1));
}

#[test]
fn unknown_hosts_are_looked_up_only_if_that_was_asked_for() {
    let route = virtual_service(
        "name: v",
        "  hosts: [a]\n  gateways: [g]\n  http:\n  - {match: [{uri: {prefix: /p}}], route: [{destination: {host: Far.example.com, port: {number: 8080}}}]}\n  - {route: [{destination: {host: far.example.com}}]}",
    );
    let documents = [GATEWAY, route.as_str()];
    assert_eq!(Picture::of(&documents).answer("a/"), "NC outbound|80||far.example.com");
    let options = Options { resolve_unknown_hosts: true, ..Options::default() };
    let picture = Picture::with(&documents, &options, &[]);
    assert!(picture.problems.is_empty(), "{:#?}", picture.problems);
    assert_eq!(
        (picture.answer("a/"), picture.answer("a/p")),
        ("far.example.com:80 []".to_owned(), "far.example.com:8080 []".to_owned())
    );
    let taken: Vec<_> = picture.cluster("outbound|80||far.example.com").names.iter().map(|name| name.take).collect();
    assert_eq!(taken, [Take::Foreign]);
}

#[test]
fn tls_that_cannot_be_had_is_never_clear_text() {
    let plain = service("s");
    for (tls, expected) in [
        ("mode: DISABLE", None),
        (
            "mode: SIMPLE, credentialName: none",
            Some("spec.trafficPolicy.tls.credentialName: Referenced credentialName not found: \"default/none\""),
        ),
        ("mode: SIMPLE, caCertificates: none.pem", Some("spec.trafficPolicy.tls.caCertificates: file dir/none.pem")),
        (
            "mode: MUTUAL, clientCertificate: a, privateKey: b",
            Some("spec.trafficPolicy.tls.clientCertificate: file dir/a"),
        ),
        (
            "mode: SIMPLE, insecureSkipVerify: true, sni: 'a b'",
            Some("spec.trafficPolicy.tls.sni: \"a b\" is not a host name"),
        ),
    ] {
        let picture = Picture::of(&[&plain, &rule("name: d", &format!("host: s, trafficPolicy: {{tls: {{{tls}}}}}"))]);
        let transport = &picture.cluster("outbound|80||s").transport;
        match expected {
            None => assert_eq!((transport, picture.problems.len()), (&Transport::Plain, 0)),
            Some(expected) => {
                assert!(matches!(transport, Transport::Unusable(_)), "{tls}: {transport:?}");
                assert!(transport.server_name("a").is_err());
                let problem = picture.problems.first().unwrap();
                assert!(picture.problems.len() == 1 && problem.contains(expected), "{tls}: {:#?}", picture.problems);
                assert!(problem.ends_with("no connection is made, requests are answered 503"), "{problem}");
            }
        }
    }
}

#[test]
fn clusters_with_the_same_tls_share_it() {
    let rule = rule(
        "name: d",
        "host: s, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}, subsets: [{name: all}, {name: own, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true, sni: b.com}}}]",
    );
    let picture = Picture::clean(&[&service("s"), &rule]);
    let of = |subset: &str| match &picture.cluster(&format!("outbound|80|{subset}|s")).transport {
        Transport::Tls(tls) => Arc::clone(tls),
        other => panic!("{subset}: {other:?}"),
    };
    assert!(Arc::ptr_eq(&of(""), &of("all")));
    assert_ne!(of(""), of("own"));
    let again = Picture::clean(&[&service("s"), &rule]);
    assert_eq!(picture.snapshot.clusters, again.snapshot.clusters, "what is the same stays in use");
}
