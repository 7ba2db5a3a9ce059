//! Listeners, hosts, bindings and the order of routes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;

#[test]
fn the_quickstart_is_served() {
    let picture = Picture::clean(&[
        GATEWAY,
        &virtual_service(
            "name: v",
            "  hosts: [test.example.dev]\n  gateways: [g]\n  http:\n  - match: [{uri: {prefix: /sample}}]\n    route: [{destination: {host: sample-service, port: {number: 80}}}]",
        ),
        &service("sample-service"),
    ]);
    let listener = picture.snapshot.listeners.first().unwrap();
    assert_eq!((listener.declared_port, listener.bind.to_string().as_str()), (80, "0.0.0.0:8080"));
    assert_eq!(listener.gateways, ["default/g"]);
    assert_eq!(picture.answer("test.example.dev/sample?x"), "sample-service:80 [127.0.0.1:9000]");
    assert_eq!(picture.answer("TEST.example.dev:8080/samplefoo"), "sample-service:80 [127.0.0.1:9000]");
    assert_eq!(picture.answer("test.example.dev/"), "404");
    assert_eq!(picture.answer("other.dev/sample"), "404");
    let cluster = picture.snapshot.clusters.first().unwrap();
    assert_eq!((&*cluster.name, &*cluster.service_namespace), ("outbound|80||sample-service", "default"));
}

#[test]
fn the_most_specific_host_answers_alone() {
    let picture = Picture::clean(&[
        GATEWAY,
        &answers("name: a", "*", &["any"]),
        &answers("name: b", "*.foo.com", &["wide"]),
        &answers("name: c", "a.foo.com", &["exact=/only"]),
    ]);
    for (request, expected) in [
        ("a.foo.com/only", "200 exact"),
        ("a.foo.com/else", "404"),
        ("b.foo.com/else", "200 wide"),
        ("foo.com/", "200 any"),
    ] {
        assert_eq!(picture.answer(request), expected, "{request}");
    }
}

#[test]
fn virtual_services_of_one_host_are_merged_by_age_with_catch_alls_last() {
    let time = |hour: u8, name: &str| format!("name: {name}, creationTimestamp: '2024-01-01T{hour:02}:00:00Z'");
    let picture = Picture::of(&[
        GATEWAY,
        &answers("name: untimed", "a.com", &["untimed=/x"]),
        &answers(&time(9, "young"), "a.com", &["young=/x", "young-y=/y"]),
        &answers(&time(8, "old"), "a.com", &["old=/x/old", "old-all=/", "never=/z"]),
    ]);
    assert!(picture.problems.len() == 1 && picture.problems[0].contains("[IST0130]"), "{:#?}", picture.problems);
    for (request, expected) in
        [("a.com/x/old", "200 old"), ("a.com/x", "200 young"), ("a.com/y", "200 young-y"), ("a.com/z", "200 old-all")]
    {
        assert_eq!(picture.answer(request), expected, "{request}");
    }
}

#[test]
fn hosts_intersect_with_those_of_the_server() {
    let gateway = GATEWAY.replace("'*'", "'*.foo.com', './own.com', 'other/theirs.com'");
    let picture = Picture::of(&[
        &gateway,
        &answers("name: a", "*", &["any"]),
        &answers("name: b, namespace: other", "theirs.com", &["theirs"]),
        &answers("name: c", "theirs.com", &["mine"]),
        &answers("name: d", "nowhere.org", &["x"]),
    ]);
    for (request, expected) in [
        ("x.foo.com/", "200 any"),
        ("own.com/", "200 any"),
        ("theirs.com/", "200 theirs"),
        ("foo.com/", "404"),
        ("nowhere.org/", "404"),
    ] {
        assert_eq!(picture.answer(request), expected, "{request}");
    }
    assert_eq!(picture.problems.len(), 2, "{:#?}", picture.problems);
    assert!(picture.problems[0].contains("[GW0107] (VirtualService default/c"), "{:#?}", picture.problems);
    assert!(picture.problems[1].ends_with(
        "one or more host [nowhere.org] defined in VirtualService default/d not found in Gateway default/g."
    ));
}

#[test]
fn binding_follows_gateways_export_and_selector() {
    let picture = Picture::of(&[
        GATEWAY,
        &GATEWAY.replace("{name: g}", "{name: far, namespace: infra}").replace("number: 80", "number: 8888"),
        &GATEWAY
            .replace("{name: g}", "{name: egress}")
            .replace("ingressgateway", "egress")
            .replace("number: 80", "number: 99"),
        &virtual_service("name: a", "  hosts: [a]\n  gateways: [infra/far]\n  http: [{directResponse: {status: 201}}]"),
        &virtual_service("name: b", "  hosts: [b]\n  http: [{directResponse: {status: 201}}]"),
        &virtual_service(
            "name: c",
            "  hosts: [c]\n  gateways: [g]\n  exportTo: [elsewhere]\n  http: [{directResponse: {status: 201}}]",
        ),
        &virtual_service(
            "name: d",
            "  hosts: [d]\n  gateways: [g]\n  exportTo: ['.']\n  http: [{directResponse: {status: 201}}]",
        ),
        &virtual_service(
            "name: e",
            "  hosts: [e]\n  gateways: [missing, mesh]\n  http: [{directResponse: {status: 201}}]",
        ),
    ]);
    let ports: Vec<u16> = picture.snapshot.listeners.iter().map(|listener| listener.declared_port).collect();
    assert_eq!(ports, [80, 8888]);
    assert_eq!(picture.answer_on(8888, "a/"), "201 ");
    for (host, expected) in [("a", "404"), ("b", "404"), ("c", "404"), ("d", "201 "), ("e", "404")] {
        assert_eq!(picture.answer(&format!("{host}/")), expected, "{host}");
    }
    assert_eq!(picture.problems.len(), 2, "{:#?}", picture.problems);
    assert!(picture.problems[0].contains("Warning [IST0127] (Gateway default/egress"), "{:#?}", picture.problems);
    assert!(
        picture.problems[1].ends_with("spec.gateways[0]: Referenced gateway not found: \"missing\""),
        "{:#?}",
        picture.problems
    );
}

#[test]
fn match_blocks_are_for_ports_gateways_and_labels() {
    let second = GATEWAY.replace("{name: g}", "{name: h}");
    let both = GATEWAY.replace(
        "hosts: ['*']}",
        "hosts: ['*']}\n  - {port: {number: 8443, name: other, protocol: HTTP2}, hosts: ['*']}",
    );
    let spec = "  hosts: [a]\n  gateways: [g, h]\n  http:\n  - name: r\n    match:
    - {name: port, port: 8443, uri: {prefix: /}}
    - {name: gateway, gateways: [h], uri: {prefix: /h}}
    - {name: labels, sourceLabels: {istio: ingressgateway}, uri: {prefix: /l}}
    - {name: not, sourceLabels: {istio: other}, uri: {prefix: /}}
    - {name: ns, sourceNamespace: default, uri: {prefix: /n}}
    - {name: far, sourceNamespace: far, uri: {prefix: /}}
    directResponse: {status: 200}";
    let picture = Picture::of(&[&both, &second, &virtual_service("name: v", spec)]);
    // Two Gateways with the same port and host are merged, though Istio's analysis complains.
    assert!(picture.problems.iter().all(|problem| problem.contains("IST0145")), "{:#?}", picture.problems);
    for (request, expected) in [("a/h", "r.gateway"), ("a/l", "r.labels"), ("a/n", "r.ns"), ("a/x", "")] {
        assert_eq!(picture.names(request), expected, "{request}");
    }
    assert_eq!(&*picture.route(8443, "a/x").unwrap().name, "r.port");
}

#[test]
fn ports_are_bound_by_rule_service_and_override() {
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  servers:\n  - {port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}\n  - {port: {number: 8443, name: b, protocol: grpc}, hosts: ['*'], bind: 127.0.0.1}\n  - {port: {number: 443, name: c, protocol: HTTPS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: ingress}\nspec: {selector: {istio: ingressgateway}, ports: [{port: 80, targetPort: 10080}, {name: x, port: 8443}]}\n"
        .replace("{port: 80", "{name: w, port: 80");
    let binds = |options: &Options, documents: &[&str]| {
        let picture = Picture::with(documents, options, &[]);
        let listeners = &picture.snapshot.listeners;
        (listeners.iter().map(|l| format!("{}={}", l.declared_port, l.bind)).collect::<Vec<_>>(), picture.problems)
    };
    let default = Options::default();
    let (bound, problems) = binds(&default, &[gateway]);
    assert_eq!(bound, ["80=0.0.0.0:8080", "8443=127.0.0.1:8443"]);
    assert!(problems.len() == 1 && problems[0].contains("mode PASSTHROUGH is not supported"), "{problems:#?}");
    assert_eq!(binds(&default, &[gateway, &service]).0, ["80=0.0.0.0:10080", "8443=127.0.0.1:8443"]);
    let options = Options { privileged_ports: PrivilegedPorts::Bind, ..Options::default() };
    assert_eq!(binds(&options, &[gateway]).0, ["80=0.0.0.0:80", "8443=127.0.0.1:8443"]);
    let mut options = Options::default();
    options.bind.insert(80, "127.0.0.1:0".parse().unwrap());
    assert_eq!(binds(&options, &[gateway]).0, ["80=127.0.0.1:0", "8443=127.0.0.1:8443"]);
    let clash = gateway.replace("8443", "8080");
    let (bound, problems) = binds(&default, &[&clash]);
    assert_eq!(bound, ["80=0.0.0.0:8080"]);
    assert!(problems.iter().any(|problem| problem.contains("Error [GW0104]")), "{problems:#?}");
}

#[test]
fn each_host_needs_one_of_the_gateways_and_each_gateway_one_of_the_hosts() {
    let gateway = |name: &str, port: u16, host: &str| {
        GATEWAY
            .replace("{name: g}", &format!("{{name: {name}}}"))
            .replace("number: 80", &format!("number: {port}"))
            .replace("'*'", host)
    };
    let hosts = |hosts: &str| {
        let spec = format!("  hosts: [{hosts}]\n  gateways: [g, h]\n  http: [{{directResponse: {{status: 200}}}}]");
        let picture =
            Picture::of(&[&gateway("g", 80, "a.com"), &gateway("h", 81, "b.com"), &virtual_service("name: v", &spec)]);
        let named = |problem: &String| problem.rsplit_once("one or more host ").unwrap().1.to_owned();
        picture.problems.iter().map(named).collect::<Vec<_>>()
    };
    assert!(hosts("a.com, b.com").is_empty());
    assert_eq!(hosts("a.com"), ["[a.com] defined in VirtualService default/v not found in Gateway default/h."]);
    let both = "[c.com] defined in VirtualService default/v not found in Gateway default/";
    assert_eq!(hosts("a.com, b.com, c.com"), [format!("{both}g."), format!("{both}h.")]);
}

#[test]
fn https_redirect_covers_every_host_of_the_server() {
    let gateway = GATEWAY.replace("hosts: ['*']", "hosts: [a.com, '*.b.com'], tls: {httpsRedirect: true}");
    let open = GATEWAY.replace("{name: g}", "{name: h}").replace("'*'", "c.com").replace("name: http", "name: http-c");
    let picture = Picture::clean(&[
        &gateway,
        &open,
        &answers("name: v", "x.b.com", &["x"]),
        &virtual_service("name: w", "  hosts: [c.com]\n  gateways: [h]\n  http: [{directResponse: {status: 200}}]"),
    ]);
    for host in ["a.com", "y.b.com", "x.b.com"] {
        assert_eq!(picture.answer(&format!("{host}/")), "301 https - Keep", "{host}");
    }
    assert_eq!(picture.answer("c.com/"), "200 ");
    assert_eq!(picture.answer("d.com/"), "404");
}
