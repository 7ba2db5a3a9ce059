//! What operators and plugins see of TLS.

use super::{says, setup};
use gateway_tests::gateway::Setup;
use gateway_tests::plugins::probe;
use gateway_tests::resources::{GATEWAY, https_gateway, secret, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::tls::{ONLY_TLS12, Settings, TlsClient};
use gateway_tests::upstream::Upstream;
use gateway_tests::{client::RawClient, within};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const NAME: &str = "a.example.dev";

#[tokio::test]
async fn plugins_know_the_connection() {
    let (authority, server) = setup();
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let properties = [
        "tls_version",
        "requested_server_name",
        "subject_peer_certificate",
        "uri_san_peer_certificate",
        "dns_san_peer_certificate",
        "dns_san_local_certificate",
    ];
    let script: Vec<_> = properties.iter().map(|name| format!("request_headers=property:connection.{name}")).collect();
    let gateway = Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &[NAME], "mode: OPTIONAL_MUTUAL, credentialName: cert"))
        .file("secret.yaml", secret("cert", &server, Some(&authority)))
        .file("service.yaml", service("sample", &[&upstream]))
        .file("route.yaml", virtual_service("all", &["*"], "  - route: [{destination: {host: sample}}]"))
        .file("plugins.yaml", probe("a", &(script.join(";") + ";request_headers=property:request.scheme"), ""))
        .start()
        .await
        .unwrap();
    let address = gateway.address(443).unwrap();
    let known = authority.client("known", &["spiffe://example.dev/known", "known.example.dev"]).unwrap();
    let known = TlsClient::with_certificate(&[&authority], &known).unwrap();
    let anonymous =
        Settings { authorities: &[&authority], versions: ONLY_TLS12, ..Settings::DEFAULT }.client().unwrap();
    for client in [&known, &anonymous] {
        assert_eq!(client.http1(address, NAME).await.unwrap().get(NAME, "/").await.unwrap().status, 200);
    }
    let received = upstream.received(2).await.unwrap();
    let own = "connection.dns_san_local_certificate=a.example.dev";
    assert_eq!(
        received[0].header_values("x-property"),
        [
            "connection.tls_version=TLSv1.3",
            "connection.requested_server_name=a.example.dev",
            "connection.subject_peer_certificate=CN=known",
            "connection.uri_san_peer_certificate=spiffe://example.dev/known",
            "connection.dns_san_peer_certificate=known.example.dev",
            own,
            "request.scheme=https",
        ]
    );
    assert_eq!(
        received[1].header_values("x-property"),
        [
            "connection.tls_version=TLSv1.2",
            "connection.requested_server_name=a.example.dev",
            "connection.subject_peer_certificate=none",
            "connection.uri_san_peer_certificate=none",
            "connection.dns_san_peer_certificate=none",
            own,
            "request.scheme=https",
        ]
    );
}

#[tokio::test]
async fn operators_see_certificates_and_servers_but_no_key() {
    let (_, server) = setup();
    let files = https_gateway("good", &[NAME], "mode: SIMPLE, credentialName: cert")
        + &https_gateway("bad", &["b.example.dev"], "mode: SIMPLE, credentialName: missing")
        + &says("all", "good", &["*"]);
    let gateway =
        Setup::new().file("all.yaml", files).file("secret.yaml", secret("cert", &server, None)).start().await.unwrap();
    let certs = gateway.admin_json("/certs").await.unwrap();
    let shown = &certs["certificates"][0]["cert_chain"][0];
    assert_eq!(certs["certificates"].as_array().unwrap().len(), 1, "{certs}");
    assert_eq!(shown["name"], "https.443.https.good.default");
    assert_eq!(shown["subject_alt_names"][0]["dns"], NAME);
    let dump = gateway.admin_json("/config_dump").await.unwrap();
    let servers = &dump["listeners"][0]["tlsServers"];
    assert_eq!((&servers[0]["usable"], &servers[1]["usable"]), (&true.into(), &false.into()), "{dump:#}");
    assert_eq!(servers[0]["certificates"][0], shown["serial_number"]);
    let key = server.key.lines().nth(1).unwrap();
    assert!(!dump.to_string().contains(key) && !certs.to_string().contains(key));
}

#[tokio::test]
async fn a_listener_may_begin_and_cease_to_speak_tls() {
    let (authority, server) = setup();
    let plain = GATEWAY.replace("number: 80", "number: 443") + &says("all", "gateway", &["*"]);
    let secure =
        https_gateway("gateway", &[NAME], "mode: SIMPLE, credentialName: cert") + &says("all", "gateway", &["*"]);
    let gateway = Setup::new()
        .file("all.yaml", plain.clone())
        .file("secret.yaml", secret("cert", &server, None))
        .start()
        .await
        .unwrap();
    let address = gateway.address(443).unwrap();
    let mut clear = RawClient::connect(address).await.unwrap();
    assert_eq!(clear.get(NAME, "/").await.unwrap().status, 200);
    gateway.write("all.yaml", &secure).await.unwrap();
    assert_eq!(gateway.address(443).unwrap(), address);
    let response = clear.get(NAME, "/").await.unwrap();
    assert_eq!((response.status, response.header("connection")), (421, Some("close")));
    let mut inside = TlsClient::new(&[&authority]).unwrap().http1(address, NAME).await.unwrap();
    assert_eq!(inside.get(NAME, "/").await.unwrap().status, 200);
    gateway.write("all.yaml", &plain).await.unwrap();
    assert_eq!(inside.get(NAME, "/").await.unwrap().status, 421);
    assert_eq!(RawClient::connect(address).await.unwrap().get(NAME, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_handshake_has_an_end() {
    let (_, server) = setup();
    let gateway = Setup::new()
        .file("all.yaml", https_gateway("gateway", &["*"], "mode: SIMPLE, credentialName: cert"))
        .file("secret.yaml", secret("cert", &server, None))
        .start()
        .await
        .unwrap();
    let mut silent = TcpStream::connect(gateway.address(443).unwrap()).await.unwrap();
    let mut half = TcpStream::connect(gateway.address(443).unwrap()).await.unwrap();
    // The beginning of a record of 512 bytes.
    tokio::io::AsyncWriteExt::write_all(&mut half, &[22, 3, 1, 2, 0, 1, 0]).await.unwrap();
    for stream in [&mut silent, &mut half] {
        let mut heard = Vec::new();
        let _ = within("the end of a connection", stream.read_to_end(&mut heard)).await.unwrap();
        assert!(heard.is_empty());
    }
    let limit = [("limit", "tls_handshake_time")];
    gateway.metric_becomes("gateway_limit_exceeded_total", &limit, 2.0).await.unwrap();
}
