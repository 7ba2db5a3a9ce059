//! Which virtual host serves a request, and which Gateways and VirtualServices meet in it.

use gateway_tests::client::RawClient;
use gateway_tests::gateway::Setup;
use gateway_tests::resources::{GATEWAY, everything_to, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};

#[tokio::test]
async fn a_request_goes_to_its_service_and_the_answer_comes_back() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_next(Answer::new(201).header("x-from", "service").text("hello"));
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let response = gateway.client().await.unwrap().get("test.example.dev", "/sample?q=1").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (201, "hello"));
    assert_eq!(response.header("x-from"), Some("service"));
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((request.target.as_str(), request.header("host")), ("/sample?q=1", Some("test.example.dev")));
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
}

/// A VirtualService whose every answer is its own name.
fn says(name: &str, hosts: &[&str]) -> String {
    virtual_service(name, hosts, &format!("  - directResponse: {{status: 200, body: {{string: {name}}}}}"))
}

/// Asks each host for `/` and compares the body; an empty one stands for a 404 without a body.
async fn expect(client: &mut RawClient, cases: &[(&str, &str)]) {
    for (host, body) in cases {
        let response = client.get(host, "/").await.unwrap();
        let status = if body.is_empty() { 404 } else { 200 };
        assert_eq!((response.status, response.text().as_str()), (status, *body), "{host}");
    }
}

#[tokio::test]
async fn the_most_specific_host_wins_and_there_is_no_falling_through() {
    let narrow = "  - match: [{uri: {exact: /one}}]\n    directResponse: {status: 204}";
    let gateway = Setup::new()
        .file("gateway.yaml", GATEWAY)
        .file(
            "hosts.yaml",
            says("exact", &["a.example.com"])
                + &says("long", &["*.b.example.com"])
                + &says("short", &["*.example.com"])
                + &virtual_service("narrow", &["narrow.example.com"], narrow),
        )
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    let cases = [
        ("a.example.com", "exact"),
        ("A.Example.COM", "exact"),
        ("a.example.com:8080", "exact"),
        ("x.b.example.com", "long"),
        ("x.y.b.example.com:1", "long"),
        ("b.example.com", "short"),
        ("other.example.com", "short"),
        ("example.com", ""),
        ("example.org", ""),
        ("narrow.example.com", ""),
    ];
    expect(&mut client, &cases).await;
    assert_eq!(client.get("narrow.example.com", "/one").await.unwrap().status, 204);

    gateway.write("z.yaml", &says("any", &["*"])).await.unwrap();
    expect(&mut client, &[("example.org", "any"), ("narrow.example.com", "")]).await;
}

#[tokio::test]
async fn an_unknown_host_is_counted_without_its_name() {
    let gateway = Setup::new().file("gateway.yaml", GATEWAY).start().await.unwrap();
    let response = gateway.client().await.unwrap().get("attacker.example", "/").await.unwrap();
    assert_eq!((response.status, response.body.len()), (404, 0));
    let labels = [("response_code", "404"), ("response_flags", "NR"), ("destination_service", "unknown")];
    gateway.metric_becomes("istio_requests_total", &labels, 1.0).await.unwrap();
}

#[tokio::test]
async fn virtual_services_meet_servers_where_their_hosts_and_namespaces_do() {
    let gateway = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [./own.example.com, team/team.example.com, '*.shared.example.com', '*/any.example.com']
---
";
    let foreign = says("foreign", &["own.example.com", "team.example.com", "any.example.com"])
        .replace("namespace: default", "namespace: team")
        .replace("gateways: [gateway]", "gateways: [default/gateway]");
    let gateway = Setup::new()
        .file("gateway.yaml", gateway)
        .file("own.yaml", says("own", &["own.example.com", "a.shared.example.com", "else.example.com"]))
        .file("team.yaml", foreign)
        .file("wide.yaml", says("wide", &["*.example.com"]))
        .start()
        .await
        .unwrap();
    let cases = [
        ("own.example.com", "own"),
        ("team.example.com", "foreign"),
        ("any.example.com", "foreign"),
        ("a.shared.example.com", "own"),
        // `*.example.com` serves no more than the server's hosts.
        ("b.shared.example.com", "wide"),
        ("else.example.com", ""),
        ("shared.example.com", ""),
    ];
    expect(&mut gateway.client().await.unwrap(), &cases).await;
}

#[tokio::test]
async fn routes_of_several_virtual_services_for_one_host_are_one_list() {
    let one = "
  - match: [{uri: {prefix: /both}}]
    directResponse: {status: 200, body: {string: first}}
  - directResponse: {status: 200, body: {string: rest}}";
    let two = "
  - match: [{uri: {prefix: /both}}]
    directResponse: {status: 200, body: {string: never}}
  - match: [{uri: {prefix: /two}}]
    directResponse: {status: 200, body: {string: second}}";
    let gateway = Setup::new()
        .file("gateway.yaml", GATEWAY)
        .file("1.yaml", virtual_service("one", &["a.example.com"], one))
        .file("2.yaml", virtual_service("two", &["a.example.com"], two))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    for (path, body) in [("/both", "first"), ("/two/x", "second"), ("/other", "rest")] {
        assert_eq!(client.get("a.example.com", path).await.unwrap().text(), body, "{path}");
    }
}

#[tokio::test]
async fn the_authority_of_http2_chooses_as_the_host_of_http1() {
    let gateway = Setup::new()
        .file("gateway.yaml", GATEWAY)
        .file("hosts.yaml", says("exact", &["a.example.com"]) + &says("wild", &["*.example.com"]))
        .start()
        .await
        .unwrap();
    let mut client = gateway.h2_client().await.unwrap();
    for (host, body) in [("a.example.com", "exact"), ("A.EXAMPLE.com:80", "exact"), ("b.example.com", "wild")] {
        assert_eq!(client.get(host, "/").await.unwrap().body, body.as_bytes(), "{host}");
    }
    let missing = client.get("example.org", "/").await.unwrap();
    assert_eq!((missing.status.as_u16(), missing.body.len()), (404, 0));
}
