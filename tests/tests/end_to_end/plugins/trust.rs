//! Servers of modules behind TLS: whose certificates are trusted, over `https://` and `oci://`.

use super::get;
use gateway_tests::certificates::{Authority, Issued};
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{module_bytes, remote_plugin};
use gateway_tests::registry::{OCI_MANIFEST, digest};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};
use rcgen::KeyPair;
use rustls::ServerConfig;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A server that shows this certificate: the probe at `/probe.wasm`, and as the image `plugins/probe`.
async fn modules(shown: &Issued) -> Upstream {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config =
        builder.with_no_client_auth().with_single_cert(vec![shown.der().unwrap()], shown.key_der().unwrap()).unwrap();
    let server = Upstream::start_tls(Protocol::Http1, config).await.unwrap();
    let module = module_bytes("probe");
    let layer = json!({ "mediaType": "application/wasm", "digest": digest(&module), "size": module.len() });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [layer],
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2 },
    });
    let (manifest, blob) = (manifest.to_string(), format!("/v2/plugins/probe/blobs/{}", digest(&module)));
    server.answer_with(move |request| match request.target.as_str() {
        "/v2/plugins/probe/manifests/v1" => {
            Answer::new(200).header("content-type", OCI_MANIFEST).text(manifest.clone())
        }
        target if target == "/probe.wasm" || target == blob => Answer::new(200).text(module.clone()),
        _ => Answer::new(404),
    });
    server
}

/// A gateway with a plugin from there, that trusts what this file names.
async fn start(
    upstream: &Upstream,
    server: &Upstream,
    scheme: &str,
    path: &str,
    trusted: Option<&Path>,
) -> TestGateway {
    let name = format!("localhost:{}", server.address().port());
    let plugin = remote_plugin("p", &format!("{scheme}://{name}/{path}"), "pluginConfig: {name: p}");
    let setup = Setup::new().workers(1).file("all.yaml", everything_to(upstream)).file("p.yaml", &plugin);
    let setup = setup.options(|options| {
        options.insecure_registries = vec![format!("https://{name}")];
        options.plugin_source_ca = trusted.map(Path::to_owned);
        options.limits.fetch_retry = Duration::from_millis(50);
    });
    setup.start().await.unwrap()
}

/// Waits until the plugin is in this state, and gives the reason.
async fn becomes(gateway: &TestGateway, state: &str) -> String {
    let look = async || {
        let view = gateway.admin_json("/plugins/p").await?;
        Ok((view["state"] == state).then(|| view["reason"].as_str().unwrap_or_default().to_owned()))
    };
    eventually(&format!("the plugin to be {state}"), look).await.unwrap()
}

#[tokio::test]
async fn modules_come_over_tls_from_servers_that_a_named_authority_vouches_for() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let authority = Authority::new("modules").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let server = modules(&authority.server(&["localhost"]).unwrap()).await;
    for (scheme, path) in [("https", "probe.wasm"), ("oci", "plugins/probe:v1")] {
        let gateway = start(&upstream, &server, scheme, path, Some(&file)).await;
        becomes(&gateway, "live").await;
        let response = get(&mut gateway.client().await.unwrap(), "/", "").await;
        assert_eq!((response.status, response.header("x-trace")), (200, Some("p")), "{scheme}");
        gateway.shutdown().await.unwrap();

        // The same server to a gateway that was told nothing: no request, and the operator learns what to look at.
        let before = server.requests().len();
        let gateway = start(&upstream, &server, scheme, path, None).await;
        let reason = becomes(&gateway, "failed").await;
        for part in ["module-certificate", "UnknownIssuer", "--plugin-source-ca", "localhost"] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
        assert_eq!(get(&mut gateway.client().await.unwrap(), "/", "").await.status, 403);
        assert_eq!(server.requests().len(), before);
        gateway.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_or_another_time_is_refused() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let authority = Authority::new("modules").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let expired = authority.issue(&["localhost"], &KeyPair::generate().unwrap(), |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    for (shown, expected) in
        [(authority.server(&["other.example.dev"]).unwrap(), "not valid for name"), (expired.unwrap(), "expired")]
    {
        let server = modules(&shown).await;
        let gateway = start(&upstream, &server, "https", "probe.wasm", Some(&file)).await;
        let reason = becomes(&gateway, "failed").await;
        assert!(reason.contains("module-certificate") && reason.contains(expected), "{reason}");
        assert_eq!(server.requests().len(), 0);
        gateway.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_file_of_authorities_that_is_none_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let start = async |file: &Path| {
        let file = file.to_owned();
        let setup = Setup::new().workers(1).file("all.yaml", everything_to(&upstream));
        let started = setup.options(|options| options.plugin_source_ca = Some(file)).start().await;
        format!("{:#}", started.err().unwrap())
    };
    let nothing = folder.path().join("nothing.pem");
    let said = start(&nothing).await;
    assert!(said.contains("--plugin-source-ca") && said.contains("nothing.pem"), "{said}");
    std::fs::write(&nothing, "no certificate").unwrap();
    let said = start(&nothing).await;
    assert!(said.contains("--plugin-source-ca") && said.contains("has no certificate"), "{said}");
}
