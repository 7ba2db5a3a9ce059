//! Clients with certificates: who is let in, what upstreams get to know, and that no ticket is a way around it.

use super::{ask, refusal, says, setup};
use gateway_tests::certificates::Authority;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{https_gateway, secret, secret_of, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::tls::{ONLY_TLS12, ONLY_TLS13, Settings, TlsClient};
use gateway_tests::upstream::Upstream;
use rustls::HandshakeKind;

/// A gateway whose one server for `a.example.dev` has these settings, with the Secret `cert` for server and clients.
async fn gateway(tls: &str, authority: &Authority, more: &str) -> TestGateway {
    let server = authority.server(&["a.example.dev"]).unwrap();
    Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &["a.example.dev"], tls) + &says("all", "gateway", &["*"]))
        .file("secret.yaml", secret("cert", &server, Some(authority)) + more)
        .start()
        .await
        .unwrap()
}

const NAME: &str = "a.example.dev";

#[tokio::test]
async fn a_mutual_server_lets_in_whom_its_authority_knows() {
    let (authority, _) = setup();
    let gateway = gateway("mode: MUTUAL, credentialName: cert", &authority, "").await;
    let address = gateway.address(443).unwrap();
    let known = authority.client("known", &["known.example.dev"]).unwrap();
    let foreign = Authority::new("foreign").unwrap().client("known", &["known.example.dev"]).unwrap();
    let late = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = authority.issue(&["known.example.dev"], &rcgen::KeyPair::generate().unwrap(), late).unwrap();
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        let client = |certificate| {
            Settings { authorities: &[&authority], certificate, versions, ..Settings::DEFAULT }.client().unwrap()
        };
        assert_eq!(ask(&client(Some(&known)), address, NAME, NAME).await.unwrap().0, 200);
        for (certificate, why) in
            [(None, "ertificate"), (Some(&foreign), "UnknownCA"), (Some(&expired), "CertificateExpired")]
        {
            let heard = refusal(&client(certificate), &gateway, NAME).await;
            assert!(heard.contains(why), "{why}: {heard}");
        }
    }
    let anonymous =
        Settings { authorities: &[&authority], versions: ONLY_TLS13, ..Settings::DEFAULT }.client().unwrap();
    let heard = refusal(&anonymous, &gateway, NAME).await;
    assert!(heard.contains("CertificateRequired"), "{heard}");
    let last = gateway.metrics().await.unwrap().sum("gateway_tls_handshake_failures_total", &[]);
    assert_eq!(last, 7.0);
}

#[tokio::test]
async fn an_optional_certificate_must_be_right_if_there_is_one() {
    let (authority, _) = setup();
    let gateway = gateway("mode: OPTIONAL_MUTUAL, credentialName: cert", &authority, "").await;
    let address = gateway.address(443).unwrap();
    let anonymous = TlsClient::new(&[&authority]).unwrap();
    assert_eq!(ask(&anonymous, address, NAME, NAME).await.unwrap().0, 200);
    let known = authority.client("known", &[]).unwrap();
    let known = TlsClient::with_certificate(&[&authority], &known).unwrap();
    assert_eq!(ask(&known, address, NAME, NAME).await.unwrap().0, 200);
    let foreign = Authority::new("foreign").unwrap().client("known", &[]).unwrap();
    let foreign = TlsClient::with_certificate(&[&authority], &foreign).unwrap();
    assert!(refusal(&foreign, &gateway, NAME).await.contains("UnknownCA"));
}

#[tokio::test]
async fn names_hashes_and_revocations_narrow_who_is_let_in() {
    let (authority, _) = setup();
    let one = authority.client("one", &["spiffe://example.dev/one", "one.example.dev"]).unwrap();
    let two = authority.client("two", &["two.example.dev", "one.example.dev.evil"]).unwrap();
    let list = authority.revoke(&[&two]).unwrap();
    let crl = secret_of("ca", &[("ca.crt", authority.pem()), ("ca.crl", &list)]);
    for (tls, more) in [
        ("mode: MUTUAL, credentialName: cert, subjectAltNames: [one.example.dev]", String::new()),
        ("mode: MUTUAL, credentialName: cert, subjectAltNames: [x, 'spiffe://example.dev/one']", String::new()),
        ("mode: MUTUAL, credentialName: cert, caCertCredentialName: ca", crl),
    ] {
        let gateway = gateway(tls, &authority, &more).await;
        assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
        let known = TlsClient::with_certificate(&[&authority], &one).unwrap();
        assert_eq!(ask(&known, gateway.address(443).unwrap(), NAME, NAME).await.unwrap().0, 200, "{tls}");
        let other = TlsClient::with_certificate(&[&authority], &two).unwrap();
        let heard = refusal(&other, &gateway, NAME).await;
        assert!(heard.contains("AccessDenied") || heard.contains("CertificateRevoked"), "{tls}: {heard}");
    }
}

#[tokio::test]
async fn upstreams_are_told_who_the_client_is() {
    let (authority, _) = setup();
    let server = authority.server(&[NAME]).unwrap();
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &[NAME], "mode: OPTIONAL_MUTUAL, credentialName: cert"))
        .file("secret.yaml", secret("cert", &server, Some(&authority)))
        .file("service.yaml", service("sample", &[&upstream]))
        .file("route.yaml", virtual_service("all", &["*"], "  - route: [{destination: {host: sample}}]"))
        .start()
        .await
        .unwrap();
    let address = gateway.address(443).unwrap();
    let known = authority.client("A, B", &["spiffe://example.dev/a;b", "a.client.dev", "b.client.dev"]).unwrap();
    let forged = format!("GET / HTTP/1.1\r\nhost: {NAME}\r\nx-forwarded-client-cert: Subject=\"CN=root\"\r\n\r\n");
    for client in [TlsClient::with_certificate(&[&authority], &known).unwrap(), TlsClient::new(&[&authority]).unwrap()]
    {
        let mut http = client.http1(address, NAME).await.unwrap();
        http.send(&forged).await.unwrap();
        assert_eq!(http.response().await.unwrap().status, 200);
    }
    let received = upstream.received(2).await.unwrap();
    assert_eq!(received[1].header("x-forwarded-client-cert"), None, "what a client says of itself is removed");
    let values = received[0].header_values("x-forwarded-client-cert");
    let (value, fields) = (values[0], values[0].split(';').collect::<Vec<_>>());
    assert_eq!(values.len(), 1);
    assert!(fields[0].strip_prefix("Hash=").is_some_and(|hash| hash.len() == 64), "{value}");
    let certificate = known.chain.replace("\r\n", "\n").replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B");
    let certificate = certificate.replace('/', "%2F").replace('=', "%3D");
    assert_eq!(fields[1], format!("Cert=\"{certificate}\""));
    assert_eq!(
        fields[2..],
        [r#"Subject="CN=A\, B""#, "URI=spiffe://example.dev/a%3Bb", "DNS=a.client.dev", "DNS=b.client.dev"]
    );
}

#[tokio::test]
async fn a_ticket_opens_only_what_it_was_issued_for() {
    let (authority, server) = setup();
    let files =
        https_gateway("open", &["a.example.dev"], "mode: SIMPLE, credentialName: cert") + &says("open", "open", &["*"]);
    let closed = https_gateway("open", &["a.example.dev"], "mode: MUTUAL, credentialName: cert");
    let gateway = Setup::new()
        .workers(2)
        .file("gateway.yaml", files.clone())
        .file("secret.yaml", secret("cert", &server, Some(&authority)))
        .start()
        .await
        .unwrap();
    let address = gateway.address(443).unwrap();
    let kind = async |client: &TlsClient| {
        let stream = client.connect(address, NAME, &["http/1.1"]).await?;
        let kind = stream.get_ref().1.handshake_kind();
        let mut http = gateway_tests::client::RawClient::over(stream);
        // Tickets of TLS 1.3 come with the first answer.
        http.get(NAME, "/").await.map(|_| kind)
    };
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        let client = Settings { authorities: &[&authority], versions, ..Settings::DEFAULT }.client().unwrap();
        assert_eq!(kind(&client).await.unwrap(), Some(HandshakeKind::Full));
        // Whichever worker gets it.
        for _ in 0..4 {
            assert_eq!(kind(&client).await.unwrap(), Some(HandshakeKind::Resumed));
        }
        // Another configuration, another certificate: the ticket is still good.
        let renewed = authority.server(&[NAME]).unwrap();
        gateway.write("secret.yaml", &secret("cert", &renewed, Some(&authority))).await.unwrap();
        assert_eq!(kind(&client).await.unwrap(), Some(HandshakeKind::Resumed));

        gateway.write("gateway.yaml", &(closed.clone() + &says("open", "open", &["*"]))).await.unwrap();
        let heard = kind(&client).await.unwrap_err();
        assert!(format!("{heard:#}").contains("ertificate"), "{versions:?}: {heard:#}");
        let known = authority.client("known", &[]).unwrap();
        let known = Settings { authorities: &[&authority], certificate: Some(&known), versions, ..Settings::DEFAULT };
        let known = known.client().unwrap();
        assert_eq!(kind(&known).await.unwrap(), Some(HandshakeKind::Full));
        assert_eq!(kind(&known).await.unwrap(), Some(HandshakeKind::Resumed));
        // Nor does an old ticket open the server that has been open again.
        gateway.write("gateway.yaml", &files).await.unwrap();
        let (again, fresh) = (kind(&known).await.unwrap(), kind(&client).await.unwrap());
        assert_eq!([again, fresh], [Some(HandshakeKind::Full); 2]);
    }
    assert!(gateway.metrics().await.unwrap().sum("gateway_tls_resumptions_total", &[]) >= 12.0);
}

#[tokio::test]
async fn a_connection_that_would_not_be_let_in_today_is_sent_away() {
    let (authority, server) = setup();
    let simple = https_gateway("gateway", &[NAME], "mode: SIMPLE, credentialName: cert");
    let optional = https_gateway("gateway", &[NAME], "mode: OPTIONAL_MUTUAL, credentialName: cert");
    let mutual = https_gateway("gateway", &[NAME], "mode: MUTUAL, credentialName: cert");
    let gateway = Setup::new()
        .file("gateway.yaml", optional.clone())
        .file("routes.yaml", says("all", "gateway", &["*"]))
        .file("secret.yaml", secret("cert", &server, Some(&authority)))
        .start()
        .await
        .unwrap();
    let address = gateway.address(443).unwrap();
    let known = authority.client("known", &[]).unwrap();
    let known = TlsClient::with_certificate(&[&authority], &known).unwrap();
    let anonymous = TlsClient::new(&[&authority]).unwrap();
    let mut known = known.http2(address, NAME).await.unwrap();
    let mut first = anonymous.http1(address, NAME).await.unwrap();
    let mut second = anonymous.http2(address, NAME).await.unwrap();
    for gateways in [&simple, &optional] {
        gateway.write("gateway.yaml", gateways).await.unwrap();
        assert_eq!(known.get(NAME, "/").await.unwrap().status.as_u16(), 200);
        assert_eq!(first.get(NAME, "/").await.unwrap().status, 200);
        assert_eq!(second.get(NAME, "/").await.unwrap().status.as_u16(), 200);
    }
    gateway.write("gateway.yaml", &mutual).await.unwrap();
    assert_eq!(known.get(NAME, "/").await.unwrap().status.as_u16(), 200, "its certificate is good for this as well");
    assert_eq!(first.get(NAME, "/").await.unwrap().status, 421);
    first.closed().await.unwrap();
    assert_eq!(second.get(NAME, "/").await.unwrap().status.as_u16(), 421);
    assert!(second.get(NAME, "/").await.is_err(), "the connection is at its end");
}
