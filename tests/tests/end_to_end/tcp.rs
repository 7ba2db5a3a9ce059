//! Connections that carry no HTTP: in clear text and inside TLS, to the end of both sides.

use gateway::telemetry::LogFormat;
use gateway_tests::certificates::Authority;
use gateway_tests::client::{RawClient, RawServer, unused_address};
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{module, wasm_plugin};
use gateway_tests::resources::{secret, service_at};
use gateway_tests::tls::TlsClient;

fn gateway(servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: gateway, namespace: default}}\nspec:\n  \
         selector: {{istio: ingressgateway}}\n  servers:\n{servers}\n---\n"
    )
}

fn route(tcp: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: raw, namespace: default}}\nspec:\n  \
         hosts: ['*']\n  gateways: [gateway]\n  tcp:\n{tcp}\n---\n"
    )
}

const TCP: &str = "  - {port: {number: 9000, name: raw, protocol: TCP}, hosts: ['*']}";
const TO_SAMPLE: &str = "  - route: [{destination: {host: sample}}]";

async fn start(resources: String) -> TestGateway {
    Setup::new().file("all.yaml", resources).access_log(LogFormat::Text).start().await.unwrap()
}

#[tokio::test]
async fn bytes_go_both_ways_until_both_sides_have_ended() {
    let server = RawServer::start().await.unwrap();
    let address = server.address().unwrap();
    let gateway = start(gateway(TCP) + &service_at("sample", "TCP", &[address]) + &route(TO_SAMPLE)).await;
    let mut client = RawClient::connect(gateway.address(9000).unwrap()).await.unwrap();
    client.send("from the client").await.unwrap();
    let mut upstream = server.accept().await.unwrap();
    assert_eq!(upstream.read(15).await.unwrap(), b"from the client");
    upstream.send("from the upstream").await.unwrap();
    assert_eq!(client.read(17).await.unwrap(), b"from the upstream");
    // The end of one side is passed on, and the other goes on.
    client.finish_sending().await.unwrap();
    upstream.closed().await.unwrap();
    upstream.send("and more").await.unwrap();
    assert_eq!(client.read(8).await.unwrap(), b"and more");
    drop(upstream);
    client.closed().await.unwrap();

    let labels = [("request_protocol", "tcp"), ("destination_service", "sample.default.svc.cluster.local")];
    gateway.metric_becomes("istio_tcp_connections_closed_total", &labels, 1.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &labels), 1.0);
    assert_eq!(metrics.sum("istio_tcp_received_bytes_total", &labels), 15.0);
    assert_eq!(metrics.sum("istio_tcp_sent_bytes_total", &labels), 25.0);
    let log = gateway.access_log(1).await.unwrap().remove(0);
    assert!(log.contains("\"- - -\" 0 - - - \"-\" 15 25 "), "{log}");
    assert!(log.contains(&format!("\"{address}\" outbound|80||sample.default.svc.cluster.local ")), "{log}");
}

#[tokio::test]
async fn tls_ends_here_and_what_was_inside_goes_on() {
    let authority = Authority::new("tests").unwrap();
    let issued = authority.server(&["a.example.dev", "b.example.dev"]).unwrap();
    let server = RawServer::start().await.unwrap();
    let servers = "
  - {port: {number: 443, name: raw, protocol: TLS}, hosts: [a.example.dev], tls: {mode: SIMPLE, credentialName: cert}}
  - {port: {number: 443, name: web, protocol: HTTPS}, hosts: [b.example.dev], tls: {mode: SIMPLE, credentialName: cert}}";
    let web = "  http:\n  - directResponse: {status: 418}";
    let resources = gateway(servers)
        + &secret("cert", &issued, None)
        + &service_at("sample", "TCP", &[server.address().unwrap()])
        + &route(&format!("{TO_SAMPLE}\n{web}"));
    let gateway = start(resources).await;
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let (address, tls) = (gateway.address(443).unwrap(), TlsClient::new(&[&authority]).unwrap());
    // No protocol is agreed on: the gateway does not know what is spoken.
    let stream = tls.connect(address, "a.example.dev", &["h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    let mut client = RawClient::over(stream);
    client.send("hello").await.unwrap();
    let mut upstream = server.accept().await.unwrap();
    assert_eq!(upstream.read(5).await.unwrap(), b"hello");
    upstream.send(vec![b'x'; 300_000]).await.unwrap();
    assert_eq!(client.read(300_000).await.unwrap(), vec![b'x'; 300_000]);
    // The other server of the same port speaks HTTP.
    let mut web = tls.http1(address, "b.example.dev").await.unwrap();
    assert_eq!(web.get("b.example.dev", "/").await.unwrap().status, 418);
}

#[tokio::test]
async fn without_somebody_to_connect_to_the_connection_is_closed() {
    let nobody = unused_address().unwrap();
    let elsewhere = "  - {match: [{port: 1}], route: [{destination: {host: sample}}]}";
    for (tcp, flags) in [(TO_SAMPLE, "UF"), (elsewhere, "NR"), ("  - route: [{destination: {host: unknown}}]", "NC")] {
        let gateway = start(gateway(TCP) + &service_at("sample", "TCP", &[nobody]) + &route(tcp)).await;
        let mut client = RawClient::connect(gateway.address(9000).unwrap()).await.unwrap();
        client.closed().await.unwrap();
        let log = gateway.access_log(1).await.unwrap().remove(0);
        assert!(log.contains(&format!("\"- - -\" 0 {flags} - - ")), "{log}");
    }
}

#[tokio::test]
async fn connections_survive_changes_and_follow_weights() {
    let (one, two) = (RawServer::start().await.unwrap(), RawServer::start().await.unwrap());
    let services =
        service_at("one", "TCP", &[one.address().unwrap()]) + &service_at("two", "TCP", &[two.address().unwrap()]);
    let to = |host: &str| route(&format!("  - route: [{{destination: {{host: {host}}}}}]"));
    let gateway = start(gateway(TCP) + &services + &to("one")).await;
    let address = gateway.address(9000).unwrap();
    let mut first = RawClient::connect(address).await.unwrap();
    let mut upstream = one.accept().await.unwrap();
    gateway.write("all.yaml", &(self::gateway(TCP) + &services + &to("two"))).await.unwrap();
    let mut second = RawClient::connect(address).await.unwrap();
    let mut other = two.accept().await.unwrap();
    first.send("still here").await.unwrap();
    assert_eq!(upstream.read(10).await.unwrap(), b"still here");
    other.send("new").await.unwrap();
    assert_eq!(second.read(3).await.unwrap(), b"new");
}

/// A plugin for TCP with this configuration, in front of one service.
async fn filtered(server: &RawServer, spec: &str) -> TestGateway {
    let address = server.address().unwrap();
    let plugin = wasm_plugin("wire", &module("wire"), &format!("type: NETWORK\n{spec}"));
    start(gateway(TCP) + &service_at("sample", "TCP", &[address]) + &route(TO_SAMPLE) + &plugin).await
}

#[tokio::test]
async fn plugins_see_and_change_what_passes() {
    let server = RawServer::start().await.unwrap();
    let gateway = filtered(&server, "").await;
    let mut client = RawClient::connect(gateway.address(9000).unwrap()).await.unwrap();
    let mut upstream = server.accept().await.unwrap();
    // The service hears nothing of it before the line is whole: what it says meanwhile goes on.
    client.send("half").await.unwrap();
    upstream.send("hello").await.unwrap();
    assert_eq!(client.read(7).await.unwrap(), b"<hello>");
    client.send(" a line\n").await.unwrap();
    assert_eq!(upstream.read(12).await.unwrap(), b"HALF A LINE\n");
    client.send("rest").await.unwrap();
    client.finish_sending().await.unwrap();
    assert_eq!(upstream.read(4).await.unwrap(), b"REST");
    upstream.closed().await.unwrap();
    upstream.send("bye").await.unwrap();
    assert_eq!(client.read(5).await.unwrap(), b"<bye>");
    drop(upstream);
    client.closed().await.unwrap();
    let events = "new_true_down_4_false_up_5_false_down_12_false_down_4_false_down_4_true_up_3_false_up_0_true_\
                  upstream_close_unknown_downstream_close_remote_done";
    gateway.metric_becomes(events, &[("plugin", "default.wire")], 1.0).await.unwrap();
    let labels = [("request_protocol", "tcp")];
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("istio_tcp_received_bytes_total", &labels), 16.0);
    assert_eq!(metrics.sum("istio_tcp_sent_bytes_total", &labels), 8.0);
}

#[tokio::test]
async fn plugins_close_refuse_and_delay_connections() {
    let server = RawServer::start().await.unwrap();
    let gateway = filtered(&server, "").await;
    let address = gateway.address(9000).unwrap();
    for line in ["close\n", "trap\n"] {
        let mut client = RawClient::connect(address).await.unwrap();
        client.send(line).await.unwrap();
        client.closed().await.unwrap();
    }
    // The next connection has a fresh instance.
    let mut client = RawClient::connect(address).await.unwrap();
    client.send("a\n").await.unwrap();
    let mut upstream = server.accept().await.unwrap();
    while upstream.read(2).await.ok().as_deref() != Some(b"A\n") {
        upstream = server.accept().await.unwrap();
    }
    drop((client, upstream, gateway));

    let gateway = filtered(&server, "pluginConfig: {refuse: true}").await;
    let mut client = RawClient::connect(gateway.address(9000).unwrap()).await.unwrap();
    client.closed().await.unwrap();
    drop(gateway);

    let gateway = filtered(&server, "pluginConfig: {wait: true}").await;
    let mut client = RawClient::connect(gateway.address(9000).unwrap()).await.unwrap();
    client.send("b\n").await.unwrap();
    let mut upstream = server.accept().await.unwrap();
    assert_eq!(upstream.read(2).await.unwrap(), b"B\n");
}

#[tokio::test]
async fn a_plugin_for_tcp_on_a_listener_for_http_is_reported() {
    let servers = "  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";
    let plugin = wasm_plugin("wire", &module("wire"), "type: NETWORK");
    let gateway = start(gateway(servers) + &plugin).await;
    let problems = gateway.problems();
    assert!(problems.iter().any(|problem| problem.message.contains("it does not run")), "{problems:?}");
}
