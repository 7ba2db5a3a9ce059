//! Which service a destination means, and its endpoints.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;
use crate::snapshot::UpstreamProtocol::{Http1, Http2};

#[test]
fn destinations_are_found_by_every_name() {
    let kubernetes = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.1.1.1, ports: [{name: http, port: 8000, targetPort: web}, {name: grpc-api, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: single, namespace: shop}
spec: {clusterIP: None, ports: [{port: 5000, appProtocol: kubernetes.io/h2c}, ]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: single-1, namespace: shop, labels: {kubernetes.io/service-name: single}}
addressType: IPv4
endpoints:
- {addresses: [10.2.0.1], conditions: {ready: true}}
- {addresses: [10.2.0.2], conditions: {ready: false}}
- {addresses: [10.2.0.3]}
ports: [{name: '', port: 5001}]
";
    let destination = |host: &str, port: &str| {
        let spec = format!(
            "  hosts: [a]\n  gateways: [default/g]\n  http: [{{route: [{{destination: {{host: {host}{port}}}}}]}}]"
        );
        let entry = service("entry").replace("{name: entry}", "{name: entry, namespace: shop}");
        let picture = Picture::of(&[GATEWAY, &virtual_service("name: v, namespace: shop", &spec), kubernetes, &entry]);
        (picture.answer("a/"), picture.problems)
    };
    for (host, port, expected, problem) in [
        ("reviews", ", port: {number: 8000}", "reviews.shop.svc.cluster.local:8000 [10.1.1.1:8000]", ""),
        (
            "Reviews.shop.svc.cluster.local",
            ", port: {number: 9000}",
            "reviews.shop.svc.cluster.local:9000 [10.1.1.1:9000]",
            "",
        ),
        ("single", "", "single.shop.svc.cluster.local:5000 [10.2.0.1:5001 10.2.0.3:5001]", ""),
        ("entry", "", "entry:80 [127.0.0.1:9000]", ""),
        ("entry.shop.svc.cluster.local", "", "entry:80 [127.0.0.1:9000]", ""),
        (
            "entry.elsewhere.svc.cluster.local",
            "",
            "NC outbound|80||entry.elsewhere.svc.cluster.local",
            "Referenced host not found",
        ),
        ("reviews.shop", "", "NC outbound|80||reviews.shop", "Referenced host not found: \"reviews.shop\""),
        ("reviews", "", "NC outbound|80||reviews.shop.svc.cluster.local", "[IST0112]"),
        (
            "reviews",
            ", port: {number: 1}",
            "NC outbound|1||reviews.shop.svc.cluster.local",
            "not found: \"reviews:1\" (it has {8000, 9000})",
        ),
        (
            "entry",
            ", subset: v1",
            "NC outbound|80|v1|entry",
            "Referenced host+subset in destinationrule not found: \"entry+v1\"",
        ),
    ] {
        let (answer, problems) = destination(host, port);
        assert_eq!(answer, expected, "{host}{port}");
        if problem.is_empty() {
            assert!(problems.is_empty(), "{host}{port}: {problems:#?}");
        } else {
            assert!(problems.len() == 1 && problems[0].contains(problem), "{host}{port}: {problems:#?}");
        }
    }
    let picture = Picture::of(&[kubernetes]);
    let protocols: Vec<_> = picture.snapshot.clusters.iter().map(|cluster| (cluster.port, cluster.protocol)).collect();
    assert_eq!(protocols, [(8000, Http1), (9000, Http2), (5000, Http2)]);
}

#[test]
fn a_route_to_a_service_without_endpoints_is_reported() {
    let route =
        virtual_service("name: v", "  hosts: [a]\n  gateways: [g]\n  http: [{route: [{destination: {host: s.com}}]}]");
    let entry = |rest: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s}}\nspec: {{hosts: [s.com], ports: [{{number: 80, name: http}}], {rest}}}\n"
        )
    };
    for (rest, level) in [
        ("resolution: DYNAMIC_DNS", "Error [GW0102]"),
        ("resolution: NONE", "Error [GW0102]"),
        ("resolution: STATIC, workloadSelector: {labels: {a: b}}", "Error [GW0102]"),
        ("resolution: STATIC", "Warning [GW0106]"),
    ] {
        let picture = Picture::of(&[GATEWAY, &route, &entry(rest)]);
        assert_eq!(picture.answer("a/"), "s.com:80 []", "{rest}");
        let found: Vec<_> = picture.problems.iter().filter(|problem| problem.contains("VirtualService")).collect();
        assert!(found.len() == 1 && found[0].starts_with(level), "{rest}: {:#?}", picture.problems);
        assert!(found[0].contains("spec.http[0].route[0].destination.host: s.com:80 has no endpoint"), "{found:#?}");
    }
    // Nobody goes there: no error.
    let picture = Picture::of(&[&entry("resolution: DYNAMIC_DNS")]);
    assert!(
        picture.problems.len() == 1 && picture.problems[0].starts_with("Warning [GW0101]"),
        "{:#?}",
        picture.problems
    );
}

#[test]
fn service_entries_of_one_host() {
    let other = service("a").replace("{name: a}", "{name: b}").replace("127.0.0.1", "127.0.0.2");
    let far = service("a").replace("{name: a}", "{name: c, namespace: far}").replace("127.0.0.1", "127.0.0.3");
    let hidden = service("z").replace("hosts:", "exportTo: [far], hosts:");
    let picture = Picture::of(&[&service("a"), &other, &far, &hidden]);
    let cluster = picture.snapshot.clusters.first().unwrap();
    let endpoints: Vec<String> = cluster.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(endpoints, ["127.0.0.1:9000", "127.0.0.2:9000"]);
    assert_eq!(picture.snapshot.clusters.len(), 1);
    assert_eq!(picture.problems.len(), 1);
    assert!(picture.problems[0].contains("Warning [GW0105] (ServiceEntry far/c"), "{:#?}", picture.problems);
}
