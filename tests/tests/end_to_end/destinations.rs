//! What DestinationRules do to requests: subsets, choice of an endpoint, connections and their limits.

use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, everything_to, service, virtual_service};
use gateway_tests::server::Protocol::{self, Either, Http1};
use gateway_tests::upstream::{Answer, Gate, Upstream};
use http::Version;

const HOST: &str = "test.example.dev";

/// A DestinationRule for the service `sample`.
fn rule(spec: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: sample, namespace: default}}
spec: {{host: sample, {spec}}}
---
"
    )
}

fn pool(settings: &str) -> String {
    rule(&format!("trafficPolicy: {{connectionPool: {{{settings}}}}}"))
}

async fn start(protocol: Protocol, rule: &str) -> (TestGateway, Upstream) {
    let upstream = Upstream::start(protocol).await.unwrap();
    let setup = Setup::new().file("all.yaml", everything_to(&upstream)).file("rule.yaml", rule);
    let gateway = setup.start().await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    (gateway, upstream)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")
}

async fn limit_becomes(gateway: &TestGateway, limit: &str, value: f64) {
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", limit)], value).await.unwrap();
}

#[tokio::test]
async fn subsets_are_chosen_by_labels_and_may_change() {
    let (one, two) = (Upstream::start(Http1).await.unwrap(), Upstream::start(Http1).await.unwrap());
    let entry = format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: sample, namespace: default}}
spec:
  hosts: [sample.default.svc.cluster.local]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
  - {{address: 127.0.0.1, ports: {{http: {}}}, labels: {{version: v1}}}}
  - {{address: 127.0.0.1, ports: {{http: {}}}, labels: {{version: v2}}}}
---
",
        one.address().port(),
        two.address().port()
    );
    let routes = virtual_service(
        "routes",
        &["*"],
        "
  - {match: [{uri: {prefix: /v1}}], route: [{destination: {host: sample, subset: v1}}]}
  - {match: [{uri: {prefix: /v2}}], route: [{destination: {host: sample, subset: v2}}]}",
    );
    let subsets = |v1: &str, v2: &str| {
        let subset = |name: &str, version: &str| format!("{{name: {name}, labels: {{version: {version}}}}}");
        rule(&format!("subsets: [{}, {}]", subset("v1", v1), subset("v2", v2)))
    };
    let setup = Setup::new().file("all.yaml", GATEWAY.to_owned() + &entry + &routes);
    let gateway = setup.file("rule.yaml", subsets("v1", "v2")).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    for _ in 0..5 {
        assert_eq!(client.get(HOST, "/v1").await.unwrap().status, 200);
        assert_eq!(client.get(HOST, "/v2").await.unwrap().status, 200);
    }
    assert!(one.received(5).await.unwrap().iter().all(|request| request.target == "/v1"));
    assert!(two.received(5).await.unwrap().iter().all(|request| request.target == "/v2"));

    gateway.write("rule.yaml", &subsets("v2", "v3")).await.unwrap();
    assert_eq!(client.get(HOST, "/v1").await.unwrap().status, 200);
    assert_eq!(two.received(6).await.unwrap().last().unwrap().target, "/v1");
    let none = client.get(HOST, "/v2").await.unwrap();
    assert_eq!((none.status, none.text().as_str()), (503, "no healthy upstream"));
    gateway.remove("rule.yaml").await.unwrap();
    let gone = client.get(HOST, "/v1").await.unwrap();
    assert_eq!((gone.status, gone.text().as_str()), (503, ""));
}

#[tokio::test]
async fn round_robin_takes_one_after_the_other() {
    let upstreams = [Upstream::start(Http1).await.unwrap(), Upstream::start(Http1).await.unwrap()];
    let resources = GATEWAY.to_owned()
        + &service("sample", &upstreams.each_ref())
        + &virtual_service("everything", &["*"], "  - route: [{destination: {host: sample}}]")
        + &rule("trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}");
    let gateway = Setup::new().file("all.yaml", resources).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    for round in 1..=10 {
        for _ in 0..2 {
            assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
        }
        assert_eq!(upstreams.each_ref().map(|upstream| upstream.requests().len()), [round; 2]);
    }
}

#[tokio::test]
async fn requests_wait_for_a_connection_and_only_so_many() {
    let (gateway, upstream) = start(Http1, &pool("tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}")).await;
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate));
    let mut first = gateway.client().await.unwrap();
    first.send(get("/first")).await.unwrap();
    upstream.received(1).await.unwrap();
    // One of these waits, the other is one too many.
    let mut waiting = gateway.client().await.unwrap();
    waiting.send(get("/waiting")).await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 2.0).await.unwrap();
    let refused = gateway.client().await.unwrap().get(HOST, "/refused").await.unwrap();
    assert_eq!(refused.status, 503);
    assert_eq!(refused.text(), "upstream connect error or disconnect/reset before headers. reset reason: overflow");
    limit_becomes(&gateway, "upstream_pending_requests", 1.0).await;
    limit_becomes(&gateway, "upstream_connections", 1.0).await;
    gateway.metric_becomes("istio_requests_total", &[("response_flags", "UO")], 1.0).await.unwrap();

    gate.open();
    assert_eq!(first.response().await.unwrap().status, 200);
    assert_eq!(waiting.response().await.unwrap().status, 200);
    let targets: Vec<_> = upstream.received(2).await.unwrap().iter().map(|request| request.target.clone()).collect();
    assert_eq!(targets, ["/first", "/waiting"]);
    assert_eq!(upstream.connections(), 1);

    // Somebody who stops waiting leaves no trace.
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate));
    first.send(get("/again")).await.unwrap();
    upstream.received(3).await.unwrap();
    waiting.send(get("/leaves")).await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 2.0).await.unwrap();
    drop(waiting);
    gateway.metric_becomes("gateway_requests_in_flight", &[], 1.0).await.unwrap();
    let mut next = gateway.client().await.unwrap();
    next.send(get("/next")).await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 2.0).await.unwrap();
    gate.open();
    assert_eq!(first.response().await.unwrap().status, 200);
    assert_eq!(next.response().await.unwrap().status, 200);
    assert_eq!((upstream.requests().len(), upstream.connections()), (4, 1));
}

#[tokio::test]
async fn so_many_requests_are_served_at_once_by_all_workers() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new()
        .workers(2)
        .file("all.yaml", everything_to(&upstream) + &pool("http: {http2MaxRequests: 3}"))
        .start()
        .await
        .unwrap();
    let gate = Gate::shut();
    let mut clients = Vec::new();
    for count in 1..=3 {
        upstream.answer_next(Answer::new(200).after(&gate));
        let mut client = gateway.client().await.unwrap();
        client.send(get("/")).await.unwrap();
        upstream.received(count).await.unwrap();
        clients.push(client);
    }
    for _ in 0..4 {
        assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 503);
    }
    limit_becomes(&gateway, "upstream_requests", 4.0).await;
    // A new configuration does not begin to count anew.
    gateway.write("rule.yaml", "").await.unwrap();
    gateway
        .write("all.yaml", &(everything_to(&upstream) + &pool("http: {http2MaxRequests: 3, maxRetries: 1}")))
        .await
        .unwrap();
    assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 503);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_carries_so_many_requests() {
    for protocol in [Http1, Protocol::Http2] {
        let (gateway, upstream) = start(protocol, &pool("http: {maxRequestsPerConnection: 2}")).await;
        let mut client = gateway.client().await.unwrap();
        for _ in 0..6 {
            assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
        }
        let connections: Vec<_> = upstream.requests().iter().map(|request| request.connection).collect();
        assert_eq!(connections, [1, 1, 2, 2, 3, 3], "{protocol:?}");
        upstream.open_connections(0).await.unwrap();
    }
}

#[tokio::test]
async fn unused_and_old_connections_are_closed() {
    for settings in ["http: {idleTimeout: 1s}", "tcp: {maxConnectionDuration: 1s}"] {
        for protocol in [Http1, Protocol::Http2] {
            let (gateway, upstream) = start(protocol, &pool(settings)).await;
            let mut client = gateway.client().await.unwrap();
            assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
            upstream.open_connections(1).await.unwrap();
            gateway.metric_becomes("gateway_upstream_connections", &[], 1.0).await.unwrap();
            upstream.open_connections(0).await.unwrap();
            gateway.metric_becomes("gateway_upstream_connections", &[], 0.0).await.unwrap();
            assert_eq!(client.get(HOST, "/").await.unwrap().status, 200, "{settings} {protocol:?}");
        }
    }
}

#[tokio::test]
async fn the_version_of_http_follows_the_rule_or_the_client() {
    let (gateway, upstream) = start(Either, &pool("http: {h2UpgradePolicy: UPGRADE}")).await;
    assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
    gateway.write("rule.yaml", &pool("http: {useClientProtocol: true}")).await.unwrap();
    assert_eq!(gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
    assert_eq!(gateway.h2_client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
    gateway.remove("rule.yaml").await.unwrap();
    assert_eq!(gateway.h2_client().await.unwrap().get(HOST, "/").await.unwrap().status, 200);
    let versions: Vec<_> = upstream.requests().iter().map(|request| request.version).collect();
    assert_eq!(versions, [Version::HTTP_2, Version::HTTP_11, Version::HTTP_2, Version::HTTP_11]);
}

#[tokio::test]
async fn http2_connections_carry_as_many_requests_as_both_sides_allow() {
    // The service allows 200 at once, the rule allows less.
    for (settings, requests, connections) in
        [("maxConcurrentStreams: 2", 5, 3), ("maxRequestsPerConnection: 0", 210, 2)]
    {
        let (gateway, upstream) = start(Protocol::Http2, &pool(&format!("http: {{{settings}}}"))).await;
        let gate = Gate::shut();
        let mut waiting = tokio::task::JoinSet::new();
        for at in 0..requests {
            upstream.answer_next(Answer::new(200).after(&gate));
            let mut client = gateway.client().await.unwrap();
            waiting.spawn(async move { client.get(HOST, &format!("/{at}")).await.unwrap().status });
        }
        assert_eq!(upstream.received(requests).await.unwrap().len(), requests);
        gate.open();
        assert!(waiting.join_all().await.iter().all(|status| *status == 200));
        assert_eq!(upstream.connections(), connections, "{settings}");
    }
    // Where there may be one connection only, they wait for a stream.
    let limits = pool("tcp: {maxConnections: 1}, http: {maxConcurrentStreams: 1}");
    let (gateway, upstream) = start(Protocol::Http2, &limits).await;
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate));
    let mut clients =
        [gateway.client().await.unwrap(), gateway.client().await.unwrap(), gateway.client().await.unwrap()];
    for client in &mut clients {
        client.send(get("/")).await.unwrap();
    }
    gateway.metric_becomes("gateway_requests_in_flight", &[], 3.0).await.unwrap();
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    assert_eq!(upstream.connections(), 1);
}
