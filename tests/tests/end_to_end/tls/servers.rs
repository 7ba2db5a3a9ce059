//! Every server has its own hosts; redirects to https; what becomes of servers without a certificate.

use super::{ask, refusal, says, setup};
use gateway_tests::certificates::Authority;
use gateway_tests::gateway::Setup;
use gateway_tests::resources::{GATEWAY, https_gateway, secret};
use gateway_tests::tls::TlsClient;

#[tokio::test]
async fn a_host_of_another_server_is_misdirected() {
    let (authority, wild) = setup();
    let own = authority.server(&["own.example.dev"]).unwrap();
    let simple = |name: &str| format!("mode: SIMPLE, credentialName: {name}");
    let files = https_gateway("wild", &["*.example.dev"], &simple("wild"))
        + &https_gateway("own", &["own.example.dev"], &simple("own"))
        + &https_gateway("alike", &["alike.example.dev", "only.example.dev"], &simple("wild"))
        + &https_gateway("empty", &["empty.example.dev"], &simple("own"))
        // A rule for every host, at both Gateways: the wildcard's must not answer for the other's.
        + &says("wild", "wild", &["*"])
        + &says("own", "own", &["own.example.dev"])
        + &says("alike", "alike", &["*"])
        + &GATEWAY.replace("'*'", "plain.example.dev");
    let gateway = Setup::new()
        .file("all.yaml", files)
        .file("secrets.yaml", secret("wild", &wild, None) + &secret("own", &own, None))
        .start()
        .await
        .unwrap();
    let (address, client) = (gateway.address(443).unwrap(), TlsClient::new(&[&authority]).unwrap());
    let mut http2 = client.http2(address, "b.example.dev").await.unwrap();
    for (host, status, body) in [
        ("b.example.dev", 200, "wild"),
        ("c.example.dev", 200, "wild"),
        // Another certificate.
        ("own.example.dev", 421, ""),
        // The same settings: the server that was asked for answers.
        ("alike.example.dev", 200, "wild"),
        // A server without routes serves nothing that could be meant.
        ("empty.example.dev", 200, "wild"),
        ("example.org", 404, ""),
        ("b.example.dev", 200, "wild"),
    ] {
        let response = http2.get(host, "/").await.unwrap();
        assert_eq!((response.status.as_u16(), &response.body[..]), (status, body.as_bytes()), "{host}");
    }
    let mut http1 = client.http1(address, "alike.example.dev").await.unwrap();
    assert_eq!(http1.get("alike.example.dev", "/").await.unwrap().text(), "alike");
    // The wildcard's, which has the same settings; but this server does not have it.
    let response = http1.get("b.example.dev", "/").await.unwrap();
    assert_eq!((response.status, response.header("connection")), (421, Some("close")));
    http1.closed().await.unwrap();
    gateway.metric_becomes("istio_requests_total", &[("response_code", "421")], 2.0).await.unwrap();
}

#[tokio::test]
async fn clear_text_is_sent_to_https() {
    let (_, server) = setup();
    let redirect = GATEWAY.replace("hosts: ['*']", "hosts: ['*.example.dev']\n    tls: {httpsRedirect: true}");
    let gateway = Setup::new()
        .file("clear.yaml", redirect + &says("all", "gateway", &["a.example.dev"]))
        .file("tls.yaml", https_gateway("secure", &["a.example.dev"], "mode: SIMPLE, credentialName: cert"))
        .file("secret.yaml", secret("cert", &server, None))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    for (host, location) in [
        ("a.example.dev", "https://a.example.dev/p?q=1"),
        ("a.example.dev:8080", "https://a.example.dev:8080/p?q=1"),
        // No VirtualService has it.
        ("b.example.dev", "https://b.example.dev/p?q=1"),
    ] {
        let response = client.get(host, "/p?q=1").await.unwrap();
        assert_eq!((response.status, response.header("location")), (301, Some(location)), "{host}");
    }
    assert_eq!(client.get("example.org", "/").await.unwrap().status, 404);
    client.send("GET / HTTP/1.1\r\nhost: a.example.dev\r\nx-forwarded-proto: https\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 301, "a client cannot say that it came over https");
}

#[tokio::test]
async fn a_server_without_a_usable_certificate_is_alone_in_that() {
    let (authority, server) = setup();
    let stranger = Authority::new("other").unwrap().server(&["b.example.dev"]).unwrap();
    let files = https_gateway("good", &["a.example.dev"], "mode: SIMPLE, credentialName: cert")
        + &https_gateway("bad", &["b.example.dev"], "mode: SIMPLE, credentialName: missing")
        + &says("good", "good", &["*"])
        + &says("bad", "bad", &["*"]);
    let gateway =
        Setup::new().file("all.yaml", files).file("secret.yaml", secret("cert", &server, None)).start().await.unwrap();
    let (address, client) = (gateway.address(443).unwrap(), TlsClient::new(&[&authority]).unwrap());
    assert_eq!(ask(&client, address, "a.example.dev", "a.example.dev").await.unwrap().1, "good");
    assert!(refusal(&client, &gateway, "b.example.dev").await.contains("reset"));
    let found = gateway.problems();
    assert!(found.len() == 1 && found[0].to_string().contains("IST0101"), "{found:#?}");
    assert_eq!(found[0].field, "spec.servers[0].tls.credentialName");

    // A Secret that does not fit together is as good as none, until it does.
    let mut broken = server.clone();
    broken.key = stranger.key.clone();
    gateway.write("missing.yaml", &secret("missing", &broken, None)).await.unwrap();
    assert!(refusal(&client, &gateway, "b.example.dev").await.contains("reset"));
    assert!(gateway.problems().iter().any(|problem| problem.to_string().contains("does not belong to")));
    gateway.write("missing.yaml", &secret("missing", &server, None)).await.unwrap();
    assert_eq!(ask(&client, address, "b.example.dev", "b.example.dev").await.unwrap().1, "bad");
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    // And from then on a broken one does not take it away.
    gateway.write("missing.yaml", &secret("missing", &broken, None)).await.unwrap();
    assert_eq!(ask(&client, address, "b.example.dev", "b.example.dev").await.unwrap().1, "bad");

    let shown = gateway.admin("/config_dump").await.unwrap().text();
    for key in [&server.key, &stranger.key] {
        let line = key.lines().nth(1).unwrap();
        assert!(!shown.contains(line) && gateway.problems().iter().all(|problem| !problem.message.contains(line)));
    }
}
