//! TLS towards services, as DestinationRules ask for it.

use gateway::telemetry::LogFormat;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, service, virtual_service};
use gateway_tests::server::Protocol::{Http1, Http2};
use gateway_tests::upstream::Upstream;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;

const HOST: &str = "test.example.dev";

/// An authority, as PEM text and as what it issues with.
struct Authority(String, Issuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
    }

    /// A certificate and its key as PEM text.
    fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(names).unwrap().signed_by(&key, &self.1).unwrap().pem(), key.serialize_pem())
    }

    /// A server with a certificate of this authority; `clients` are those that it asks for certificates of.
    fn server(&self, names: &[&str], clients: Option<&Authority>) -> ServerConfig {
        let (chain, key) = self.issue(names);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = match clients {
            None => builder.unwrap().with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.0.as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.unwrap().with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
        let mut config =
            builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

fn rule(tls: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: sample, namespace: default}}
spec: {{host: sample, trafficPolicy: {{tls: {{{tls}}}}}}}
"
    )
}

fn secret(name: &str, entries: &[(&str, &str)]) -> String {
    let mut text =
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\nstringData:\n");
    for (name, value) in entries {
        text += &format!("  {name}: |\n    {}\n", value.trim_end().replace('\n', "\n    "));
    }
    text + "---\n"
}

/// A gateway in front of a TLS server, with a route that rewrites the host.
async fn start(upstream: &Upstream, authority: &Authority, rest: &str) -> TestGateway {
    let resources = GATEWAY.to_owned()
        + &service("sample", &[upstream])
        + &virtual_service(
            "everything",
            &["*"],
            "  - {rewrite: {authority: inner.example.dev}, route: [{destination: {host: sample}}]}",
        );
    let setup = Setup::new().access_log(LogFormat::Text).file("all.yaml", resources).file("rule.yaml", rest);
    setup.file("ca.pem", authority.0.clone()).start().await.unwrap()
}

async fn get(gateway: &TestGateway, host: &str) -> u16 {
    gateway.client().await.unwrap().get(host, "/").await.unwrap().status
}

#[tokio::test]
async fn the_service_must_be_who_was_asked_for() {
    let authority = Authority::new();
    for protocol in [Http1, Http2] {
        let upstream =
            Upstream::start_tls(protocol, authority.server(&[HOST, "10.0.0.1", "*.wild.dev"], None)).await.unwrap();
        let gateway = start(&upstream, &authority, &rule("mode: SIMPLE, caCertificates: ca.pem")).await;
        assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
        for host in [HOST, "TEST.example.dev:8080", "a.wild.dev", "10.0.0.1"] {
            assert_eq!(get(&gateway, host).await, 200, "{protocol:?} {host}");
        }
        for host in ["other.example.dev", "a.b.wild.dev", "10.0.0.2"] {
            assert_eq!(get(&gateway, host).await, 503, "{protocol:?} {host}");
        }
        let requests = upstream.requests();
        assert_eq!(requests.len(), 4, "nothing was sent to who it is not");
        let names: Vec<_> = requests.iter().map(|r| r.tls.as_ref().unwrap().server_name.clone()).collect();
        // No name is asked for when the host is an address; the certificate has to be for it all the same.
        assert_eq!(names, [Some(HOST.to_owned()), Some(HOST.to_owned()), Some("a.wild.dev".to_owned()), None]);
        let alpn = if protocol == Http2 { "h2" } else { "http/1.1" };
        assert!(requests.iter().all(|r| r.tls.as_ref().unwrap().alpn.as_deref() == Some(alpn)));
        assert!(requests.iter().all(|r| r.header("host") == Some("inner.example.dev")), "asked for before the rewrite");
        let connections: Vec<_> = requests.iter().map(|request| request.connection).collect();
        assert_eq!(connections[0], connections[1], "the same name: the same connection");
        assert!(connections[1] != connections[2] && connections[2] != connections[3], "a connection is for one name");

        let log = gateway.access_log(7).await.unwrap();
        let refused = log.iter().find(|line| line.contains("other.example.dev")).unwrap();
        assert!(
            refused.contains(" 503 UF,URX upstream_reset_before_response_started{remote_connection_failure}"),
            "{refused}"
        );
        assert!(refused.contains("\"TLS_error|invalid peer certificate"), "{refused}");
    }
}

#[tokio::test]
async fn the_certificate_must_be_of_an_authority_that_is_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let upstream = Upstream::start_tls(Http1, authority.server(&[HOST], None)).await.unwrap();
    let gateway = start(&upstream, &other, &rule("mode: SIMPLE, caCertificates: ca.pem")).await;
    assert_eq!(get(&gateway, HOST).await, 503, "another authority");
    // Authorities of the system do not know it either, if there are any.
    gateway.write("rule.yaml", &rule("mode: SIMPLE")).await.unwrap();
    assert_eq!(get(&gateway, HOST).await, 503, "the system's");
    gateway.write("rule.yaml", &rule("mode: SIMPLE, insecureSkipVerify: true")).await.unwrap();
    assert_eq!(get(&gateway, HOST).await, 200, "anybody");
    let from_secret = rule("mode: SIMPLE, credentialName: trust");
    gateway.write("rule.yaml", &(secret("trust", &[("ca.crt", &authority.0)]) + &from_secret)).await.unwrap();
    assert_eq!(get(&gateway, HOST).await, 200, "a Secret");
    let requests = upstream.requests();
    assert_ne!(requests[0].connection, requests[1].connection, "one that was not verified is not used any more");
    gateway.write("rule.yaml", &from_secret).await.unwrap();
    assert_eq!(get(&gateway, HOST).await, 503, "no Secret: no connection, and no clear text");
    assert!(gateway.problems().iter().any(|problem| problem.code == "IST0101"), "{:#?}", gateway.problems());
    assert_eq!(upstream.requests().len(), 2);

    // The file changes: it is read again.
    gateway.write("rule.yaml", &rule("mode: SIMPLE, caCertificates: ca.pem")).await.unwrap();
    assert_eq!(get(&gateway, HOST).await, 503);
    gateway.write("ca.pem", &authority.0).await.unwrap();
    assert_eq!(get(&gateway, HOST).await, 200);
}

#[tokio::test]
async fn other_names_can_be_asked_for_and_accepted() {
    let authority = Authority::new();
    let upstream = Upstream::start_tls(Http1, authority.server(&["inner.dev", "*.alt.dev"], None)).await.unwrap();
    let gateway = start(&upstream, &authority, &rule("mode: SIMPLE, caCertificates: ca.pem, sni: inner.dev")).await;
    assert_eq!(get(&gateway, HOST).await, 200);
    assert_eq!(get(&gateway, "10.0.0.1").await, 200);
    let requests = upstream.received(2).await.unwrap();
    assert!(requests.iter().all(|r| r.tls.as_ref().unwrap().server_name.as_deref() == Some("inner.dev")));
    for (names, status) in [("a.alt.dev, x", 200), ("a.b.alt.dev", 503), ("inner.dev", 200), (HOST, 503)] {
        let tls = format!("mode: SIMPLE, caCertificates: ca.pem, subjectAltNames: [{names}]");
        gateway.write("rule.yaml", &rule(&tls)).await.unwrap();
        assert_eq!(get(&gateway, HOST).await, status, "{names}");
    }
}

#[tokio::test]
async fn we_show_who_we_are() {
    let authority = Authority::new();
    let upstream = Upstream::start_tls(Http1, authority.server(&[HOST], Some(&authority))).await.unwrap();
    let (chain, key) = authority.issue(&["client"]);
    let pair = secret("us", &[("tls.crt", &chain), ("tls.key", &key), ("ca.crt", &authority.0)]);
    let gateway = start(&upstream, &authority, &(pair + &rule("mode: MUTUAL, credentialName: us"))).await;
    assert_eq!(get(&gateway, HOST).await, 200);
    gateway.write("rule.yaml", &rule("mode: SIMPLE, caCertificates: ca.pem")).await.unwrap();
    assert_eq!(get(&gateway, HOST).await, 503, "without a certificate");
    gateway
        .change(|folder| {
            std::fs::write(folder.join("us.pem"), &chain)?;
            std::fs::write(folder.join("us.key"), &key)?;
            let mutual = "mode: MUTUAL, caCertificates: ca.pem, clientCertificate: us.pem, privateKey: us.key";
            Ok(std::fs::write(folder.join("rule.yaml"), rule(mutual))?)
        })
        .await
        .unwrap();
    assert_eq!(get(&gateway, HOST).await, 200, "{:#?}", gateway.problems());
    let requests = upstream.requests();
    assert!(requests.len() == 2 && requests.iter().all(|request| request.tls.as_ref().unwrap().certificate));
    let certificates = gateway.admin("/certs").await.unwrap().text();
    assert!(certificates.contains("outbound|80||sample.default.svc.cluster.local"), "{certificates}");
    let dump = gateway.admin("/config_dump").await.unwrap().text();
    assert!(!dump.contains("PRIVATE KEY") && dump.contains("\"tls\""), "{dump}");
}

#[tokio::test]
async fn handshakes_are_resumed_and_have_to_end_in_time() {
    let authority = Authority::new();
    let upstream = Upstream::start_tls(Http1, authority.server(&[HOST], None)).await.unwrap();
    let gateway = start(&upstream, &authority, &rule("mode: SIMPLE, caCertificates: ca.pem")).await;
    for _ in 0..2 {
        assert_eq!(get(&gateway, HOST).await, 200);
        upstream.close_connections().await.unwrap();
    }
    let resumed: Vec<_> = upstream.requests().iter().map(|request| request.tls.as_ref().unwrap().resumed).collect();
    assert_eq!(resumed, [false, true]);

    // Somebody who accepts and says nothing.
    let silent = gateway_tests::client::RawServer::start().await.unwrap();
    let address = silent.address().unwrap();
    let entry = gateway_tests::resources::service_at("sample", "HTTP", &[address]);
    let rule = rule("mode: SIMPLE, caCertificates: ca.pem")
        .replace("trafficPolicy: {", "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 50ms}}, ");
    let routes =
        virtual_service("everything", &["*"], "  - {retries: {attempts: 0}, route: [{destination: {host: sample}}]}");
    gateway.write("rule.yaml", &rule).await.unwrap();
    gateway.write("all.yaml", &(GATEWAY.to_owned() + &entry + &routes)).await.unwrap();
    assert_eq!(get(&gateway, HOST).await, 503);
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "upstream_connect_time")], 1.0).await.unwrap();
}

/// CVE-2026-1642: what comes in clear text where TLS was agreed on is nobody's answer.
#[tokio::test]
async fn clear_text_of_a_service_never_reaches_a_client() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let clear = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nplaintext";
    // Before the client has said anything; after its hello; as a record of data in the handshake; and before a
    // handshake that is in order.
    for (what, bytes, waits, shakes_hands) in [
        ("before the hello", clear.to_vec(), false, false),
        ("after the hello", clear.to_vec(), true, false),
        ("a record of data", [&[23, 3, 3, 0, clear.len() as u8][..], clear].concat(), true, false),
        ("before a handshake", clear.to_vec(), false, true),
    ] {
        let authority = Authority::new();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(authority.server(&[HOST], None)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                if waits {
                    let mut hello = [0; 4096];
                    // The gateway may be gone, then there is nothing to tell it.
                    let _ = stream.read(&mut hello).await;
                }
                let _ = stream.write_all(&bytes).await;
                if shakes_hands && let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        });
        let resources = GATEWAY.to_owned()
            + &gateway_tests::resources::service_at("sample", "HTTP", &[address])
            + &virtual_service("everything", &["*"], "  - route: [{destination: {host: sample}}]");
        let gateway = Setup::new()
            .file("all.yaml", resources)
            .file("rule.yaml", rule("mode: SIMPLE, caCertificates: ca.pem"))
            .file("ca.pem", authority.0.clone())
            .start()
            .await
            .unwrap();
        let answer = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
        assert_eq!(answer.status, 503, "{what}");
        assert!(!answer.text().contains("plaintext"), "{what}: {}", answer.text());
    }
}
