//! YAML in, answers out: what a request would get from the compiled picture.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::{
    config::{PrivilegedPorts, Store, source::SourceFile},
    plugins::{Declaration, ModuleSource},
    snapshot::{
        Action, Code, FailStrategy, Forward, PathRewrite, Phase, Plugin, PluginId, RedirectPort, RequestView,
        TemplateContext, UpstreamProtocol,
    },
};

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
";

/// A compiled configuration.
struct Picture {
    snapshot: Snapshot,
    problems: Vec<String>,
    declarations: Vec<Declaration>,
}

impl Picture {
    fn of(documents: &[&str]) -> Self {
        Self::with(documents, &Options::default(), &[])
    }

    fn with(documents: &[&str], options: &Options, attached: &[Attached]) -> Self {
        let mut store = Store::new(options.clone());
        let text = documents.join("\n---\n");
        store.update(vec![SourceFile { path: "dir/f.yaml".to_owned(), contents: Ok(text.into_bytes().into()) }]);
        let (declarations, declared) = declarations(store.resources(), options);
        let (snapshot, compiled) = compile(store.resources(), options, attached);
        let mut problems: Vec<Problem> = store.problems().to_vec();
        problems.extend(declared.into_iter().chain(compiled));
        problems.sort_by(Problem::by_place);
        Self { snapshot, problems: problems.iter().map(ToString::to_string).collect(), declarations }
    }

    /// Without any problem.
    fn clean(documents: &[&str]) -> Self {
        let picture = Self::of(documents);
        assert!(picture.problems.is_empty(), "{:#?}", picture.problems);
        picture
    }

    fn route(&self, port: u16, request: &str) -> Option<&Route> {
        let listener = self.snapshot.listeners.iter().find(|listener| listener.declared_port == port).unwrap();
        let (authority, path) = request.split_at(request.find('/').unwrap());
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let headers = HeaderMap::new();
        let view = RequestView { path, query, method: "GET", authority, scheme: "http", headers: &headers };
        let id = listener.hosts.find(authority)?.routes.find(&view)?;
        self.snapshot.route(id).map(AsRef::as_ref)
    }

    /// `404`, or what the route does.
    fn answer(&self, request: &str) -> String {
        self.answer_on(80, request)
    }

    fn answer_on(&self, port: u16, request: &str) -> String {
        match self.route(port, request).map(|route| &route.action) {
            None => "404".to_owned(),
            Some(Action::Forward(forward)) => self.forward(forward),
            Some(Action::Redirect(redirect)) => {
                let mut text = redirect.status.as_u16().to_string();
                write!(text, " {}", redirect.scheme.unwrap_or("-")).unwrap();
                write!(text, " {} {:?}", redirect.authority.as_deref().unwrap_or("-"), redirect.port).unwrap();
                text
            }
            Some(Action::Direct(direct)) => {
                format!("{} {}", direct.status.as_u16(), String::from_utf8_lossy(&direct.body))
            }
        }
    }

    fn forward(&self, forward: &Forward) -> String {
        let mut parts = Vec::new();
        for destination in &forward.destinations {
            let weight =
                if forward.destinations.len() > 1 { format!("{}*", destination.weight) } else { String::new() };
            parts.push(match destination.cluster {
                None => format!("{weight}NC {}", destination.cluster_name),
                Some(id) => {
                    let cluster = self.snapshot.cluster(id).unwrap();
                    assert_eq!(cluster.name, destination.cluster_name);
                    let endpoints: Vec<String> = cluster.endpoints.iter().map(|e| e.address.to_string()).collect();
                    format!("{weight}{}:{} [{}]", cluster.host, cluster.port, endpoints.join(" "))
                }
            });
        }
        parts.join(" + ")
    }

    fn names(&self, request: &str) -> String {
        self.route(80, request).map(|route| route.name.to_string()).unwrap_or_default()
    }
}

fn service(host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}}}\nspec: {{hosts: [{host}], \
         resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 127.0.0.1, ports: {{http: 9000}}}}]}}\n"
    )
}

fn virtual_service(metadata: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{{metadata}}}\nspec:\n{spec}\n")
}

/// A VirtualService whose routes are `name` or `name=prefix`, all direct responses with their name as body.
fn answers(metadata: &str, host: &str, routes: &[&str]) -> String {
    let mut spec = format!("  hosts: ['{host}']\n  gateways: [default/g]\n  http:\n");
    for route in routes {
        let (name, prefix) = route.split_once('=').unwrap_or((route, ""));
        writeln!(spec, "  - directResponse: {{status: 200, body: {{string: '{name}'}}}}").unwrap();
        if !prefix.is_empty() {
            writeln!(spec, "    match: [{{uri: {{prefix: '{prefix}'}}}}]").unwrap();
        }
    }
    virtual_service(metadata, &spec)
}

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
    assert!(picture.problems.is_empty(), "{:#?}", picture.problems);
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
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  servers:\n  - {port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}\n  - {port: {number: 8443, name: b, protocol: grpc}, hosts: ['*'], bind: 127.0.0.1}\n  - {port: {number: 443, name: c, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE}}\n";
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
    assert!(problems.len() == 1 && problems[0].contains("protocol HTTPS is not supported"), "{problems:#?}");
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
        ("entry", ", subset: v1", "NC outbound|80|v1|entry", "a subset of a DestinationRule is not supported"),
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
    use UpstreamProtocol::{Http1, Http2};
    assert_eq!(protocols, [(8000, Http1), (9000, Http2), (5000, Http2)]);
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

#[test]
fn redirects_responses_rewrites_and_timeouts() {
    let spec = "  hosts: [a]\n  gateways: [g]\n  http:
  - {match: [{uri: {prefix: /r1}}], redirect: {uri: /new, scheme: https, authority: b.com, redirectCode: 308}}
  - {match: [{uri: {prefix: /r2}}], redirect: {prefixRewrite: /p, derivePort: FROM_REQUEST_PORT}}
  - {match: [{uri: {prefix: /r3}}], redirect: {port: 8443}}
  - {match: [{uri: {exact: /w}}], rewrite: {uri: /whole, authority: c.com}, timeout: 1.5s, route: [{destination: {host: s}}]}
  - {match: [{uri: {prefix: /pre}}], rewrite: {uri: /}, route: [{destination: {host: s}}]}
  - {match: [{uri: {prefix: /x}}], rewrite: {uriRegexRewrite: {match: '^/x/(.*)$', rewrite: '/\\1'}}, route: [{destination: {host: s}}]}
  - {match: [{uri: {prefix: /d}}], delegate: {name: other}}
";
    let picture = Picture::of(&[GATEWAY, &virtual_service("name: v", spec), &service("s")]);
    assert!(picture.problems.len() == 1 && picture.problems[0].contains("delegate"), "{:#?}", picture.problems);
    assert_eq!(picture.answer("a/r1"), "308 https b.com Keep");
    assert_eq!(picture.answer("a/r2"), "301 - - Listener");
    assert_eq!(picture.answer("a/r3"), "301 - - Number(8443)");
    assert_eq!(picture.answer("a/d"), "503 ");
    let path = |request: &str| match &picture.route(80, request).unwrap().action {
        Action::Redirect(redirect) => format!("{:?}", redirect.path),
        Action::Forward(forward) => {
            format!("{:?} {:?} {:?}", forward.path_rewrite, forward.authority_rewrite, forward.timeout)
        }
        Action::Direct(_) => panic!("{request}"),
    };
    assert_eq!(path("a/r1"), "Some(Whole(\"/new\"))");
    assert_eq!(path("a/r2"), "Some(Prefix { matched: 3, replacement: \"/p\" })");
    assert_eq!(path("a/r3"), "None");
    assert_eq!(path("a/w"), "Some(Whole(\"/whole\")) Some(\"c.com\") Some(1.5s)");
    assert_eq!(path("a/pre"), "Some(Prefix { matched: 4, replacement: \"/\" }) None None");
    let Action::Forward(forward) = &picture.route(80, "a/x/1").unwrap().action else { panic!() };
    let Some(PathRewrite::Regex { pattern, replacement }) = &forward.path_rewrite else { panic!() };
    assert_eq!(pattern.replace_all("/x/1/2", &**replacement), "/1/2");
    assert_eq!(
        picture.route(80, "a/r2").map(|route| match &route.action {
            Action::Redirect(redirect) => redirect.port,
            _ => panic!(),
        }),
        Some(RedirectPort::Listener)
    );
}

/// The request head after all edits of a route, in the order in which a request meets them.
fn edited(route: &Route, destination: usize) -> Vec<String> {
    let context = TemplateContext {
        remote: "192.0.2.1:5".parse().unwrap(),
        local: "192.0.2.2:80".parse().unwrap(),
        protocol: "HTTP/1.1",
        method: "GET",
        path: "/",
        authority: "a",
        route_name: "",
        upstream: None,
        hostname: "",
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [("x-a", "client"), ("x-gone", "1")] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let Action::Forward(forward) = &route.action else { panic!("{route:?}") };
    forward.destinations[destination].request_headers.apply(&mut headers, &context);
    route.request_headers.apply(&mut headers, &context);
    if let Some(authority) = &forward.authority_rewrite {
        headers.insert(http::header::HOST, authority.clone());
    }
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn header_edits_of_route_and_destination() {
    let edits = "headers: {request: {set: {x-l: LEVEL, Host: LEVEL.com}, add: {x-a: LEVEL}, remove: [x-gone]}}";
    let level = |name: &str| edits.replace("LEVEL", name);
    let spec = format!(
        "  hosts: [a]\n  gateways: [g]\n  http:\n  - {{match: [{{uri: {{prefix: /one}}}}], route: [{{destination: {{host: s}}, {d}}}], {r}}}\n  - {{match: [{{uri: {{prefix: /two}}}}], route: [{{destination: {{host: s}}, weight: 3, {d}}}, {{destination: {{host: s}}, weight: 1}}, {{destination: {{host: s}}, weight: 0}}], {r}}}\n  - {{match: [{{uri: {{prefix: /three}}}}], route: [{{destination: {{host: s}}, weight: 1, {d}}}, {{destination: {{host: s}}, weight: 1}}]}}\n",
        d = level("destination"),
        r = level("route"),
    );
    let picture = Picture::clean(&[GATEWAY, &virtual_service("name: v", &spec), &service("s")]);
    // One destination: its edits come after the route's, so its `set` wins; the route's authority stands.
    let one = picture.route(80, "a/one").unwrap();
    assert_eq!(
        edited(one, 0),
        ["host: route.com", "x-a: client", "x-a: destination", "x-a: route", "x-l: destination"]
    );
    // Several: the destination's come first, so the route's `set` wins.
    let two = picture.route(80, "a/two").unwrap();
    assert_eq!(edited(two, 0), ["host: route.com", "x-a: client", "x-a: destination", "x-a: route", "x-l: route"]);
    assert_eq!(edited(two, 1), ["host: route.com", "x-a: client", "x-a: route", "x-l: route"]);
    let three = picture.route(80, "a/three").unwrap();
    assert_eq!(edited(three, 0), ["host: destination.com", "x-a: client", "x-a: destination", "x-l: destination"]);
    assert_eq!(picture.answer("a/two"), "3*s:80 [127.0.0.1:9000] + 1*s:80 [127.0.0.1:9000]");
    let Action::Forward(forward) = &two.action else { panic!() };
    assert_eq!(forward.total_weight, 4);
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

#[test]
fn hosts_whose_policies_cannot_be_enforced_are_closed() {
    let hosts = [answers("name: a", "a.com", &["a"]), answers("name: b", "b.com", &["b"])];
    let policy = |kind: &str, spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: istio-system}}\nspec: {spec}\n"
        )
    };
    let closed = "403 policy not supported";
    for (kind, spec, a, b) in [
        (
            "AuthorizationPolicy",
            "{selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: [{operation: {hosts: [a.com]}}]}]}",
            closed,
            "200 b",
        ),
        ("AuthorizationPolicy", "{action: DENY, rules: [{to: [{operation: {hosts: ['*.com']}}]}]}", closed, closed),
        ("AuthorizationPolicy", "{action: DENY, rules: [{to: [{operation: {hosts: ['a.com:*']}}]}]}", closed, closed),
        ("AuthorizationPolicy", "{action: DENY, rules: [{from: [{source: {}}]}]}", closed, closed),
        ("AuthorizationPolicy", "{action: DENY}", "200 a", "200 b"),
        ("AuthorizationPolicy", "{action: AUDIT, rules: [{}]}", "200 a", "200 b"),
        ("AuthorizationPolicy", "{rules: [{to: [{operation: {hosts: [a.com]}}]}]}", closed, closed),
        ("AuthorizationPolicy", "{selector: {matchLabels: {app: reviews}}}", "200 a", "200 b"),
        ("AuthorizationPolicy", "{targetRefs: [{kind: Gateway, name: g}]}", "200 a", "200 b"),
        ("RequestAuthentication", "{jwtRules: [{issuer: me}]}", closed, closed),
        ("PeerAuthentication", "{mtls: {mode: STRICT}}", "200 a", "200 b"),
    ] {
        let policy = policy(kind, spec);
        let documents = [GATEWAY, &hosts[0], &hosts[1], &policy];
        let picture = Picture::of(&documents);
        assert_eq!((picture.answer("a.com/"), picture.answer("b.com/")), (a.to_owned(), b.to_owned()), "{kind} {spec}");
        let reported = picture.problems.iter().filter(|problem| problem.contains("Error [GW0103]")).count();
        assert_eq!(reported, usize::from(a == closed), "{:#?}", picture.problems);
        let options = Options { allow_unsupported: true, ..Options::default() };
        let picture = Picture::with(&documents, &options, &[]);
        assert_eq!(picture.answer("a.com/"), "200 a");
        assert_eq!(picture.problems.iter().filter(|problem| problem.contains("GW0103")).count(), reported);
    }
}

#[test]
fn hosts_that_need_tls_to_their_service_are_closed() {
    let rule = |host: &str, policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\nspec: {{host: '{host}', trafficPolicy: {policy}}}\n"
        )
    };
    let route = "  hosts: [a]\n  gateways: [g]\n  http:\n  - {match: [{uri: {prefix: /x}}], route: [{destination: {host: s}}]}\n  - {directResponse: {status: 200}}";
    for (host, policy, expected) in [
        ("s", "{tls: {mode: SIMPLE}}", "403 policy not supported"),
        ("*", "{portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]}", "403 policy not supported"),
        ("s", "{tls: {mode: DISABLE}}", "200 "),
        ("other", "{tls: {mode: SIMPLE}}", "200 "),
    ] {
        let picture = Picture::of(&[GATEWAY, &virtual_service("name: v", route), &service("s"), &rule(host, policy)]);
        assert_eq!(picture.answer("a/y"), expected, "{host} {policy}");
        let reported = picture.problems.iter().filter(|problem| problem.contains("GW0103")).count();
        assert_eq!(reported, usize::from(expected.starts_with("403")), "{:#?}", picture.problems);
    }
}

#[test]
fn plugins_are_declared_and_attached() {
    let plugin = |metadata: &str, spec: &str| {
        format!("apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{{metadata}}}\nspec: {spec}\n")
    };
    let picture = Picture::of(&[
        &plugin(
            "name: a",
            "{url: 'file://m/a.wasm', phase: AUTHN, priority: 7, failStrategy: FAIL_OPEN, pluginName: root, pluginConfig: {z: 1, a: [x, 1.5]}, match: [{ports: [{number: 8080}]}, {mode: SERVER}], vmConfig: {env: [{name: K, value: v}, {name: SURELY_UNSET, valueFrom: HOST}]}}",
        ),
        &plugin(
            "name: b, namespace: istio-system, creationTimestamp: '2024-01-01T00:00:00Z'",
            "{url: 'file:///b.wasm', pluginConfig: {}, selector: {matchLabels: {istio: ingressgateway}}}",
        ),
        &plugin("name: c, namespace: elsewhere", "{url: 'file:///c.wasm'}"),
        &plugin("name: d", "{url: 'file:///d.wasm', selector: {matchLabels: {app: other}}}"),
        &plugin("name: e", "{url: 'file:///e.wasm', match: [{mode: SERVER}]}"),
        &plugin("name: f", "{url: 'oci://r/f:1', match: [{mode: CLIENT}]}"),
        &plugin("name: h", "{url: 'file:///h.wasm', targetRefs: [{kind: Gateway, name: g}]}"),
    ]);
    let names: Vec<&str> = picture.declarations.iter().map(|declaration| declaration.name.as_str()).collect();
    // With a time before without; `f` is there so that its failStrategy decides.
    assert_eq!(names, ["b", "a", "f"]);
    let [b, a, f] = picture.declarations.as_slice() else { panic!() };
    assert_eq!(a.source, ModuleSource::File("dir/m/a.wasm".into()));
    assert_eq!(a.configuration, r#"{"z":1,"a":["x",1.5]}"#);
    assert_eq!(
        (a.phase, a.priority, a.fail_strategy, a.ports.as_slice()),
        (Phase::Authn, Some(7), FailStrategy::Open, &[8080][..])
    );
    assert_eq!((a.root_id.as_str(), a.root_namespace), ("root", false));
    assert_eq!(a.environment, [("K".to_owned(), "v".to_owned())]);
    assert_eq!((b.configuration.len(), b.root_namespace, b.created.as_str()), (0, true, "2024-01-01T00:00:00Z"));
    assert!(b.created < a.created && a.created < f.created);
    assert_eq!(f.source, ModuleSource::Unsupported("oci://r/f:1".to_owned()));
    for expected in ["SURELY_UNSET", "oci:// is not supported", "targetRefs attach"] {
        assert!(picture.problems.iter().any(|problem| problem.contains(expected)), "{:#?}", picture.problems);
    }

    let attached: Vec<Attached> = [("a", vec![8080]), ("b", vec![]), ("c", vec![80])]
        .into_iter()
        .map(|(name, ports)| {
            let plugin = Plugin {
                id: PluginId(1),
                namespace: "default".to_owned(),
                name: name.to_owned(),
                digest: String::new(),
                phase: Phase::Unspecified,
                priority: None,
                fail_strategy: FailStrategy::Close,
                code: Code::Unavailable { reason: String::new() },
            };
            Attached { plugin: Arc::new(plugin), ports }
        })
        .collect();
    // `match.ports` is the bound port, also where a test binds elsewhere.
    let mut options = Options::default();
    options.bind.insert(80, "127.0.0.1:0".parse().unwrap());
    for options in [Options::default(), options] {
        let picture = Picture::with(&[GATEWAY], &options, &attached);
        let chain: Vec<&str> =
            picture.snapshot.listeners[0].plugins.iter().map(|plugin| plugin.name.as_str()).collect();
        assert_eq!(chain, ["a", "b"]);
    }
}

#[test]
fn ten_thousand_virtual_services_are_no_matter() {
    let mut text = String::from(GATEWAY);
    write!(text, "---\n{}", service("s")).unwrap();
    for number in 0..10_000 {
        writeln!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{number}}}\nspec: {{hosts: [h{number}.com, '*.w{number}.com'], gateways: [g], http: [{{match: [{{uri: {{prefix: /a}}}}], route: [{{destination: {{host: s}}}}]}}]}}"
        )
        .unwrap();
    }
    let start = std::time::Instant::now();
    let picture = Picture::clean(&[&text]);
    let took = start.elapsed();
    assert_eq!(picture.answer("h9999.com/a"), "s:80 [127.0.0.1:9000]");
    assert_eq!(picture.answer("x.w5000.com/a"), "s:80 [127.0.0.1:9000]");
    // Without optimisation and beside other tests; a quadratic algorithm would take minutes.
    assert!(took.as_secs() < 60, "{took:?}");
}
