//! Certificates that change while clients come and requests are on their way.

use super::{ask, says};
use gateway_tests::certificates::{Authority, Issued};
use gateway_tests::gateway::Setup;
use gateway_tests::resources::{https_gateway, secret};
use gateway_tests::tls::TlsClient;
use gateway_tests::{eventually, within};
use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const NAME: &str = "a.example.dev";

/// Which certificate a new client is shown.
async fn shown(client: &TlsClient, address: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let stream = client.connect(address, NAME, &["http/1.1"]).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(certificates.first().map(|certificate| certificate.to_vec()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_and_nobody_notices() {
    let authority = Arc::new(Authority::new("tests").unwrap());
    let issue = || authority.server(&[NAME]).unwrap();
    let first = issue();
    let gateway = Setup::new()
        .workers(2)
        .file(
            "gateway.yaml",
            https_gateway("gateway", &[NAME], "mode: SIMPLE, credentialName: cert") + &says("all", "gateway", &["*"]),
        )
        .file("secret.yaml", secret("cert", &first, None))
        .start()
        .await
        .unwrap();
    let address = gateway.address(443).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let handshakes = Arc::new(AtomicUsize::new(0));
    let mut load = Vec::new();
    for _ in 0..3 {
        let (authority, stop, handshakes) = (Arc::clone(&authority), Arc::clone(&stop), Arc::clone(&handshakes));
        load.push(tokio::spawn(async move {
            let mut kept = TlsClient::new(&[&authority])?.http2(address, NAME).await?;
            while !stop.load(Ordering::Relaxed) {
                // A client that has no session to resume sees the certificate.
                let (status, _) = ask(&TlsClient::new(&[&authority])?, address, NAME, NAME).await?;
                let response = kept.get(NAME, "/").await?;
                anyhow::ensure!((status, response.status.as_u16()) == (200, 200), "{status} {}", response.status);
                handshakes.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }));
    }
    let client = TlsClient::new(&[&authority]).unwrap();
    let mut seen = HashSet::new();
    for round in 0..20 {
        let next = issue();
        gateway.write("secret.yaml", &secret("cert", &next, None)).await.unwrap();
        let now = shown(&TlsClient::new(&[&authority]).unwrap(), address).await.unwrap();
        assert_eq!(now, next.der().unwrap().to_vec(), "round {round}");
        seen.insert(now);
        // Some handshakes have been done with each.
        let before = handshakes.load(Ordering::Relaxed);
        eventually("handshakes", async || Ok((handshakes.load(Ordering::Relaxed) >= before + 3).then_some(())))
            .await
            .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        within("the load to end", task).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(seen.len(), 20);
    assert_eq!(ask(&client, address, NAME, NAME).await.unwrap().0, 200);
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_tls_handshake_failures_total", &[]), 0.0);
}

#[tokio::test]
async fn certificate_files_are_read_again_when_they_change() {
    let authority = Authority::new("tests").unwrap();
    let (first, second) = (authority.server(&[NAME]).unwrap(), authority.server(&[NAME]).unwrap());
    let outside = tempfile::tempdir().unwrap();
    let write = |issued: &Issued, part: &str| {
        let text = if part == "tls.crt" { &issued.chain } else { &issued.key };
        fs::write(outside.path().join(part), text).unwrap();
    };
    write(&first, "tls.crt");
    write(&first, "tls.key");
    fs::write(outside.path().join("ca.crt"), authority.pem()).unwrap();
    let folder = outside.path().display();
    // One path is absolute, the other starts at the folder of the YAML file.
    let tls = format!(
        "mode: OPTIONAL_MUTUAL, serverCertificate: {folder}/tls.crt, privateKey: certs/tls.key, caCertificates: {folder}/ca.crt"
    );
    let gateway = Setup::new()
        .file("certs/tls.key", first.key.clone())
        .file("gateway.yaml", https_gateway("gateway", &[NAME], &tls) + &says("all", "gateway", &["*"]))
        .start()
        .await
        .unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let address = gateway.address(443).unwrap();
    let fresh = || TlsClient::new(&[&authority]).unwrap();
    assert_eq!(shown(&fresh(), address).await.unwrap(), first.der().unwrap().to_vec());

    // The certificate without its key: the pair before stays, and that is said.
    write(&second, "tls.crt");
    eventually("the change to be seen", async || {
        let problems = gateway.problems();
        Ok(problems.iter().any(|problem| problem.message.contains("the version before stays in use")).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(shown(&fresh(), address).await.unwrap(), first.der().unwrap().to_vec());
    fs::write(gateway.folder().join("certs/tls.key"), &second.key).unwrap();
    let renewed = second.der().unwrap().to_vec();
    eventually("the new certificate", async || Ok((shown(&fresh(), address).await? == renewed).then_some(())))
        .await
        .unwrap();
    eventually("no problem", async || Ok(gateway.problems().is_empty().then_some(()))).await.unwrap();
}
