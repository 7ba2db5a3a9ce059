//! The handshake itself: protocols, names, hellos of all kinds.

use super::{ask, refusal, says, setup};
use gateway::telemetry::LogFormat;
use gateway_tests::certificates::Authority;
use gateway_tests::gateway::Setup;
use gateway_tests::resources::{https_gateway, secret, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::tls::{ONLY_TLS12, ONLY_TLS13, Settings, TlsClient};
use gateway_tests::upstream::Upstream;
use gateway_tests::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SIMPLE: &str = "mode: SIMPLE, credentialName: cert";

#[tokio::test]
async fn requests_inside_tls_reach_the_upstream_in_both_protocols() {
    let (authority, server) = setup();
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &["a.example.dev"], SIMPLE))
        .file("secret.yaml", secret("cert", &server, None))
        .file("service.yaml", service("sample", &[&upstream]))
        .file("route.yaml", virtual_service("all", &["*"], "  - route: [{destination: {host: sample}}]"))
        .access_log(LogFormat::Json)
        .start()
        .await
        .unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let (address, client) = (gateway.address(443).unwrap(), TlsClient::new(&[&authority]).unwrap());
    let mut http1 = client.http1(address, "a.example.dev").await.unwrap();
    assert_eq!(http1.get("a.example.dev", "/one").await.unwrap().status, 200);
    assert_eq!(http1.get("a.example.dev:443", "/two").await.unwrap().status, 200, "the connection stays open");
    let mut http2 = client.http2(address, "a.example.dev").await.unwrap();
    assert_eq!(http2.get("a.example.dev", "/three").await.unwrap().status, 200);
    for request in upstream.received(3).await.unwrap() {
        assert_eq!(request.header("x-forwarded-proto"), Some("https"), "{}", request.target);
        assert_eq!(request.header("x-forwarded-client-cert"), None);
    }
    let lines = gateway.access_log(3).await.unwrap();
    assert!(lines.iter().all(|line| line.contains(r#""requested_server_name":"a.example.dev""#)), "{lines:#?}");
    gateway.metric_becomes("gateway_tls_handshakes_total", &[], 2.0).await.unwrap();
}

#[tokio::test]
async fn the_name_in_the_hello_chooses_the_server_or_there_is_none() {
    let (authority, wild) = setup();
    let exact = authority.server(&["a.example.dev"]).unwrap();
    let files = https_gateway("exact", &["a.example.dev"], SIMPLE)
        + &https_gateway("wild", &["*.example.dev"], "mode: SIMPLE, credentialName: wild")
        + &says("exact", "exact", &["*"])
        + &says("wild", "wild", &["*"]);
    let gateway = Setup::new()
        .file("all.yaml", files)
        .file("secrets.yaml", secret("cert", &exact, None) + &secret("wild", &wild, None))
        .start()
        .await
        .unwrap();
    let (address, client) = (gateway.address(443).unwrap(), TlsClient::new(&[&authority]).unwrap());
    for (name, server) in [("a.example.dev", "exact"), ("b.example.dev", "wild"), ("A.EXAMPLE.dev", "exact")] {
        assert_eq!(ask(&client, address, name, name).await.unwrap(), (200, server.to_owned()), "{name}");
    }
    let nameless = Settings { authorities: &[&authority], sends_name: false, ..Settings::DEFAULT }.client().unwrap();
    for (client, name) in [(&client, "example.org"), (&nameless, "a.example.dev")] {
        let heard = refusal(client, &gateway, name).await;
        assert!(heard.contains("reset"), "{name}: {heard}");
    }
    gateway.metric_becomes("gateway_tls_unserved_total", &[], 2.0).await.unwrap();

    // `*` needs no name; its certificate must still be for the name that the client has in mind.
    let any = https_gateway("any", &["*"], "mode: SIMPLE, credentialName: wild") + &says("any", "any", &["*"]);
    gateway.write("any.yaml", &any).await.unwrap();
    assert_eq!(ask(&nameless, address, "c.example.dev", "c.example.dev").await.unwrap().1, "any");
}

#[tokio::test]
async fn alpn_decides_and_without_a_common_protocol_it_is_http_1() {
    let (authority, server) = setup();
    let gateway = Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &["*"], SIMPLE) + &says("all", "gateway", &["*"]))
        .file("secret.yaml", secret("cert", &server, None))
        .start()
        .await
        .unwrap();
    let (address, client) = (gateway.address(443).unwrap(), TlsClient::new(&[&authority]).unwrap());
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&["acme-tls/1", "spdy/3"], None),
        (&[], None),
    ] {
        let stream = client.connect(address, "a.example.dev", offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{offered:?}");
        if agreed != Some(b"h2") {
            let mut http = gateway_tests::client::RawClient::over(stream);
            assert_eq!(http.get("a.example.dev", "/").await.unwrap().status, 200, "{offered:?}");
        }
    }
    // HTTP/2 without having agreed on it, as in clear text.
    let stream = client.connect(address, "a.example.dev", &[]).await.unwrap();
    let mut http = gateway_tests::client::H2Client::over(stream).await.unwrap();
    assert_eq!(http.get("a.example.dev", "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn versions_and_certificates_are_what_the_server_says() {
    let (authority, ecdsa) = setup();
    let rsa_authority = Authority::rsa("tests-rsa").unwrap();
    let rsa = rsa_authority.rsa_server(&["*.example.dev"]).unwrap();
    let old =
        "mode: SIMPLE, credentialName: rsa, maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]";
    let files = https_gateway("both", &["both.example.dev"], "mode: SIMPLE, credentialNames: [cert, rsa]")
        + &https_gateway("ecdsa", &["ecdsa.example.dev"], SIMPLE)
        + &https_gateway("old", &["old.example.dev"], old)
        + &https_gateway(
            "new",
            &["new.example.dev"],
            "mode: SIMPLE, credentialName: cert, minProtocolVersion: TLSV1_3, ecdhCurves: [P-256]",
        );
    let gateway = Setup::new()
        .file("gateways.yaml", files)
        .file("secrets.yaml", secret("cert", &ecdsa, None) + &secret("rsa", &rsa, None))
        .start()
        .await
        .unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let address = gateway.address(443).unwrap();
    let authorities = &[&authority, &rsa_authority];
    let only = |versions| Settings { authorities, versions, ..Settings::DEFAULT }.client().unwrap();
    for (versions, name, works) in [
        (ONLY_TLS12, "both.example.dev", true),
        (ONLY_TLS13, "both.example.dev", true),
        (ONLY_TLS12, "old.example.dev", true),
        (ONLY_TLS13, "old.example.dev", false),
        (ONLY_TLS12, "new.example.dev", false),
        (ONLY_TLS13, "new.example.dev", true),
    ] {
        let shaken = only(versions).connect(address, name, &[]).await;
        assert_eq!(shaken.is_ok(), works, "{name} {versions:?}: {shaken:?}");
        if let Err(error) = shaken {
            assert!(error.to_string().contains("ProtocolVersion"), "{name}: {error}");
        }
    }
    // A client gets the certificate whose signatures it understands, the ECDSA one if both.
    for (only_rsa, shown) in [(true, &rsa), (false, &ecdsa)] {
        for versions in [ONLY_TLS12, ONLY_TLS13] {
            let authorities = &[&authority, &rsa_authority];
            let client = Settings { authorities, only_rsa, versions, ..Settings::DEFAULT }.client().unwrap();
            let stream = client.connect(address, "both.example.dev", &[]).await.unwrap();
            assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], shown.der().unwrap());
        }
    }
    // One that understands none of them hears what every TLS server says then.
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        let client = Settings { authorities, only_rsa: true, versions, ..Settings::DEFAULT }.client().unwrap();
        let error = client.connect(address, "ecdsa.example.dev", &[]).await.unwrap_err().to_string();
        assert!(error.contains("HandshakeFailure"), "{versions:?}: {error}");
    }
}

/// A ClientHello for `a.example.dev` as a record, in a version that the gateway does not have, or too long.
fn hello(version: u8, padding: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    let name = b"a.example.dev";
    let length = name.len() as u8;
    extensions.extend([0, 0, 0, length + 5, 0, length + 3, 0, 0, length]);
    extensions.extend(name);
    if padding > 0 {
        extensions.extend([0, 21, (padding >> 8) as u8, padding as u8]);
        extensions.extend(vec![0; padding]);
    }
    let mut body = vec![3, version];
    body.extend([7; 32]);
    // No session, one suite, no compression.
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0, (extensions.len() >> 8) as u8, extensions.len() as u8]);
    body.extend(extensions);
    let mut message = vec![1, 0, (body.len() >> 8) as u8, body.len() as u8];
    message.extend(body);
    message
}

/// Cut into records.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |piece: &[u8]| [&[22, 3, 1, (piece.len() >> 8) as u8, piece.len() as u8][..], piece].concat();
    message.chunks(size).flat_map(record).collect()
}

#[tokio::test]
async fn hellos_of_all_kinds_are_survived() {
    let (authority, server) = setup();
    let gateway = Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &["a.example.dev"], SIMPLE) + &says("all", "gateway", &["*"]))
        .file("secret.yaml", secret("cert", &server, None))
        .start()
        .await
        .unwrap();
    let address = gateway.address(443).unwrap();
    // What is sent, and what comes back before the end: an alert's level and description.
    let fatal = |description: u8| Some([2, description]);
    let cases = [
        ("TLS 1.1", records(&hello(2, 0), 10_000), fatal(70)),
        ("TLS 1.1 in records of one byte", records(&hello(2, 0), 1), fatal(70)),
        ("clear text", b"GET / HTTP/1.1\r\nhost: a.example.dev\r\n\r\n".to_vec(), fatal(50)),
        ("more than 16 KiB", records(&hello(3, 17_000), 16_000), None),
    ];
    for (what, bytes, expected) in cases {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        // The gateway may have closed before it got everything.
        let _ = tcp.write_all(&bytes).await;
        let mut heard = Vec::new();
        let _ = within("the end of a connection", tcp.read_to_end(&mut heard)).await.unwrap();
        match expected {
            Some(alert) => {
                assert_eq!((heard.first(), &heard[heard.len() - 2..]), (Some(&21), &alert[..]), "{what}: {heard:?}")
            }
            None => assert!(heard.is_empty(), "{what}: {heard:?}"),
        }
    }
    let limits = [("limit", "tls_hello_bytes")];
    gateway.metric_becomes("gateway_limit_exceeded_total", &limits, 1.0).await.unwrap();
    gateway.metric_becomes("gateway_tls_handshake_failures_total", &[], 4.0).await.unwrap();

    // A good hello may come byte by byte.
    let client = TlsClient::new(&[&authority]).unwrap();
    let (mut near, far) = tokio::io::duplex(1);
    let slow = tokio::spawn(async move {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut tcp).await
    });
    let stream = client.connect_over(far, "a.example.dev", &[]).await.unwrap();
    let mut http = gateway_tests::client::RawClient::over(stream);
    assert_eq!(http.get("a.example.dev", "/").await.unwrap().text(), "all");
    slow.abort();
}
