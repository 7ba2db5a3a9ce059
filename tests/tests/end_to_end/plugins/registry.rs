//! Modules from a registry: Debian's `docker-registry`, with and without a password.

use super::get;
use flate2::{Compression, write::GzEncoder};
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{module_bytes, remote_plugin, variant};
use gateway_tests::registry::{DOCKER_MANIFEST, Layer, OCI_INDEX, OCI_MANIFEST, Registry, digest};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};
use serde_json::json;
use std::io::Write;
use std::time::Duration;

const RAW: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
const CONFIG: &str = "application/vnd.module.wasm.config.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn setup(upstream: &Upstream, registry: &str) -> Setup {
    let registry = registry.to_owned();
    Setup::new().workers(2).file("all.yaml", everything_to(upstream)).options(|options| {
        options.insecure_registries = vec![registry];
        options.limits.fetch_retry = Duration::from_millis(50);
    })
}

fn plugin(url: &str, spec: &str) -> String {
    remote_plugin("p", url, &format!("pluginConfig: {{name: p}}\n{spec}"))
}

async fn trace(gateway: &TestGateway) -> Vec<String> {
    let response = get(&mut gateway.client().await.unwrap(), "/", "").await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.header_values("x-trace").into_iter().rev().map(str::to_owned).collect()
}

/// Waits until the plugin is in this state, with a reason that has these words, and gives the digest of its module.
async fn becomes(gateway: &TestGateway, state: &str, reason: &str) -> String {
    let look = async || {
        let view = gateway.admin_json("/plugins/p").await?;
        let told = view["reason"].as_str().unwrap_or_default();
        let same = if reason.is_empty() { told.is_empty() } else { told.contains(reason) };
        Ok((view["state"] == state && same).then(|| view["digest"].as_str().unwrap_or_default().to_owned()))
    };
    eventually(&format!("the plugin to be {state} ({reason})"), look).await.unwrap()
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    let mut encoder = builder.into_inner().unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn every_layout_is_understood_by_tag_and_by_digest() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let registry = Registry::start().unwrap();
    let module = |name: &str| variant(&module_bytes("probe"), name);
    let packed = |name: &str| archive(&[("README", b"read me"), ("./plugin.wasm", &module(name))]);
    let (docker, compat, artifact, single) = (packed("docker"), packed("compat"), module("artifact"), module("single"));
    let base = archive(&[("plugin.wasm", b"not this one")]);
    let images = [
        ("docker", DOCKER_MANIFEST, vec![(DOCKER_LAYER, &base), (DOCKER_LAYER, &docker)]),
        ("compat", OCI_MANIFEST, vec![(OCI_LAYER, &compat)]),
        ("artifact", OCI_MANIFEST, vec![(CONFIG, &base), (RAW, &artifact)]),
        ("single", OCI_MANIFEST, vec![("application/wasm", &single)]),
    ];
    let gateway = setup(&upstream, &registry.name()).start().await.unwrap();
    for (name, kind, layers) in &images {
        let layers: Vec<_> = layers.iter().map(|(media_type, bytes)| Layer { media_type, bytes }).collect();
        let manifest = registry.push("team/plugins", name, kind, &layers).await.unwrap();
        let image = format!("{}/team/plugins", registry.name());
        let hex = manifest.replace("sha256:", "sha256: ");
        for (url, spec) in [
            (format!("oci://{image}:{name}"), String::new()),
            // Without a scheme it is an image; and sha256 is that of the manifest.
            (format!("{image}:{name}"), hex),
            (format!("oci://{image}@{manifest}"), String::new()),
            (format!("oci://{image}:whatever@{manifest}"), "imagePullPolicy: Always".to_owned()),
        ] {
            gateway.write("p.yaml", &plugin(&url, &spec)).await.unwrap();
            assert_eq!(becomes(&gateway, "live", "").await, digest(&module(name)), "{url}");
            assert_eq!(trace(&gateway).await, ["p"], "{url}");
            gateway.remove("p.yaml").await.unwrap();
        }
    }

    // Several platforms: linux/amd64 if there is one.
    let described = |digest: &str, os: &str, architecture: &str| json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "platform": {"os": os, "architecture": architecture}});
    let one =
        registry.push("multi", "one", OCI_MANIFEST, &[Layer { media_type: RAW, bytes: &artifact }]).await.unwrap();
    let two = registry.push("multi", "two", OCI_MANIFEST, &[Layer { media_type: RAW, bytes: &single }]).await.unwrap();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [described(&one, "linux", "arm64"), described(&two, "linux", "amd64")]});
    let whole = registry.push_manifest("multi", "all", OCI_INDEX, &index).await.unwrap();
    for sha256 in [whole, two] {
        let spec = sha256.replace("sha256:", "sha256: ");
        gateway.write("p.yaml", &plugin(&format!("{}/multi:all", registry.name()), &spec)).await.unwrap();
        assert_eq!(becomes(&gateway, "live", "").await, digest(&single));
        gateway.remove("p.yaml").await.unwrap();
    }

    let page = archive(&[("index.html", b"<html>")]);
    let html = archive(&[("plugin.wasm", b"<html>")]);
    for (tag, media_type, bytes) in
        [("page", OCI_LAYER, &page), ("html", OCI_LAYER, &html), ("other", "text/plain", &page)]
    {
        registry.push("bad", tag, OCI_MANIFEST, &[Layer { media_type, bytes }]).await.unwrap();
    }
    let wrong = format!("sha256: {}", "0".repeat(64));
    for (image, spec, words) in [
        ("bad:page", "", "no file plugin.wasm"),
        ("bad:html", "", "not a WebAssembly module"),
        ("bad:other", "", "no layer that can be a module"),
        ("bad:none", "", "404"),
        ("nowhere:1", "", "404"),
        ("multi:one", wrong.as_str(), "module-digest"),
    ] {
        gateway.write("p.yaml", &plugin(&format!("{}/{image}", registry.name()), spec)).await.unwrap();
        becomes(&gateway, "failed", words).await;
        assert_eq!(get(&mut gateway.client().await.unwrap(), "/", "").await.status, 403, "{image}");
        gateway.remove("p.yaml").await.unwrap();
    }
}

/// A pull secret.
fn secret(namespace: &str, docker_config: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: pull, namespace: {namespace}}}\n\
         type: kubernetes.io/dockerconfigjson\nstringData: {{.dockerconfigjson: '{docker_config}'}}\n---\n"
    )
}

#[tokio::test]
async fn a_registry_with_a_password_wants_the_pull_secret() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let registry = Registry::start_with_password().unwrap();
    let module = module_bytes("probe");
    registry.push("private", "1", OCI_MANIFEST, &[Layer { media_type: RAW, bytes: &module }]).await.unwrap();
    let url = format!("oci://{}/private:1", registry.name());
    let gateway = setup(&upstream, &registry.name()).file("p.yaml", plugin(&url, "")).start().await.unwrap();
    becomes(&gateway, "failed", "401").await;

    let with_secret = plugin(&url, "imagePullSecret: pull");
    gateway.write("p.yaml", &with_secret).await.unwrap();
    becomes(&gateway, "failed", "Secret default/pull does not exist").await;
    let problems = gateway.problems();
    assert!(problems.iter().any(|problem| problem.field == "spec.imagePullSecret"), "{problems:#?}");

    gateway.write("secret.yaml", &secret("other", &registry.docker_config())).await.unwrap();
    becomes(&gateway, "failed", "Secret default/pull does not exist").await;
    gateway
        .write("secret.yaml", &secret("default", r#"{"auths": {"elsewhere.example": {"auth": "YTpi"}}}"#))
        .await
        .unwrap();
    becomes(&gateway, "failed", "401").await;
    gateway.write("secret.yaml", &secret("default", "not JSON")).await.unwrap();
    becomes(&gateway, "failed", "module-pull-secret").await;
    gateway.write("secret.yaml", &secret("default", &registry.docker_config())).await.unwrap();
    becomes(&gateway, "live", "").await;
    assert_eq!(trace(&gateway).await, ["p"]);
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
}

#[tokio::test]
async fn a_tag_is_looked_at_again_as_the_pull_policy_says() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let registry = Registry::start().unwrap();
    let (one, two) = (variant(&module_bytes("probe"), "one"), variant(&module_bytes("probe"), "two"));
    let push = async |bytes: &[u8]| {
        for tag in ["latest", "v1"] {
            registry.push("moving", tag, OCI_MANIFEST, &[Layer { media_type: RAW, bytes }]).await.unwrap();
        }
    };
    push(&one).await;
    let image = format!("{}/moving", registry.name());
    let gateway = setup(&upstream, &registry.name()).start().await.unwrap();
    for (tag, policy, again) in [
        ("", "", true),
        (":latest", "", true),
        (":v1", "imagePullPolicy: Always", true),
        (":v1", "", false),
        (":latest", "imagePullPolicy: IfNotPresent", false),
    ] {
        push(&one).await;
        let of = |priority: u8| plugin(&format!("{image}{tag}"), &format!("priority: {priority}\n{policy}"));
        gateway.write("p.yaml", &of(1)).await.unwrap();
        // Also what was kept before under that name.
        let first = becomes(&gateway, "live", "").await;
        push(&two).await;
        gateway.write("p.yaml", &of(1)).await.unwrap();
        assert_eq!(becomes(&gateway, "live", "").await, first, "the resource is the same");
        gateway.write("p.yaml", &of(2)).await.unwrap();
        let expected = if again { digest(&two) } else { first };
        assert_eq!(becomes(&gateway, "live", "").await, expected, "{tag} {policy}");
        gateway.remove("p.yaml").await.unwrap();
    }
}

#[tokio::test]
async fn a_registry_that_is_down_is_no_reason_to_be_without_what_was_there() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let registry = Registry::start().unwrap();
    let name = registry.name();
    let (one, two) = (variant(&module_bytes("probe"), "one"), variant(&module_bytes("probe"), "two"));
    registry.push("p", "latest", OCI_MANIFEST, &[Layer { media_type: RAW, bytes: &one }]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let start = async || {
        let file = plugin(&format!("{name}/p"), "");
        setup(&upstream, &name).data_dir(folder.path()).file("p.yaml", file).start().await.unwrap()
    };
    // Down at the start, with nothing from before.
    let stopped = registry.stop();
    let gateway = start().await;
    assert_eq!(get(&mut gateway.client().await.unwrap(), "/", "").await.status, 403);
    let registry = stopped.start().unwrap();
    assert_eq!(becomes(&gateway, "live", "").await, digest(&one));
    gateway.shutdown().await.unwrap();

    // `latest` should be looked at with every start, but an old module is better than none.
    let stopped = registry.stop();
    let gateway = start().await;
    assert_eq!(becomes(&gateway, "live", "module-unreachable").await, digest(&one));
    assert_eq!(trace(&gateway).await, ["p"]);
    let registry = stopped.start().unwrap();
    becomes(&gateway, "live", "").await;
    registry.push("p", "latest", OCI_MANIFEST, &[Layer { media_type: RAW, bytes: &two }]).await.unwrap();
    gateway.shutdown().await.unwrap();
    let gateway = start().await;
    assert_eq!(becomes(&gateway, "live", "").await, digest(&two));
}

#[tokio::test]
async fn a_registry_may_send_us_for_a_token_but_not_anywhere() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let module = module_bytes("probe");
    let layer = json!({"mediaType": RAW, "digest": digest(&module), "size": module.len()});
    let manifest = json!({"schemaVersion": 2, "layers": [layer]}).to_string();
    let registry = Upstream::start(Protocol::Http1).await.unwrap();
    let tokens = Upstream::start(Protocol::Http1).await.unwrap();
    tokens.answer_with(|_| Answer::new(200).text(r#"{"token": "open-sesame"}"#));
    let realm = tokens.address();
    registry.answer_with(move |request| {
        let challenge = |realm: &str| {
            let value = format!("Bearer realm=\"{realm}\",service=\"tests\",scope=\"repository:a/b:pull\"");
            Answer::new(401).header("www-authenticate", value)
        };
        match request.target.as_str() {
            "/v2/metadata/manifests/1" => challenge("http://169.254.169.254/token"),
            "/v2/file/manifests/1" => challenge("file:///etc/passwd"),
            "/v2/here/manifests/1" => challenge("http://127.0.0.1:1/token"),
            "/v2/plain/manifests/1" => challenge("http://tokens.example/token"),
            _ if request.header("authorization") != Some("Bearer open-sesame") => {
                challenge(&format!("http://{realm}/token?a=b"))
            }
            "/v2/a/b/manifests/1" => Answer::new(200).text(manifest.clone()),
            _ => Answer::new(200).text(module.clone()),
        }
    });
    let name = registry.address().to_string();
    let config = json!({"auths": {&name: {"username": "me", "password": "secret"}}}).to_string();
    let gateway = setup(&upstream, &name)
        .options(|options| options.insecure_registries.push(realm.to_string()))
        .file("secret.yaml", secret("default", &config))
        .file("p.yaml", plugin(&format!("{name}/a/b:1"), "imagePullSecret: pull"))
        .start()
        .await
        .unwrap();
    assert_eq!(trace(&gateway).await, ["p"]);
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "one token for all of it");
    assert_eq!(asked[0].target, "/token?a=b&service=tests&scope=repository%3Aa%2Fb%3Apull");
    assert_eq!(asked[0].header("authorization"), Some("Basic bWU6c2VjcmV0"));
    let seen: Vec<_> =
        registry.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    assert!(!format!("{seen:?}").contains("Basic"), "the password goes to the realm only: {seen:?}");
    gateway.remove("p.yaml").await.unwrap();

    for (image, words) in [
        ("metadata", "169.254.169.254 is without TLS"),
        ("file", "must begin with http"),
        ("here", "127.0.0.1 is without TLS"),
        ("plain", "tokens.example is without TLS"),
    ] {
        gateway.write("p.yaml", &plugin(&format!("{name}/{image}:1"), "imagePullSecret: pull")).await.unwrap();
        becomes(&gateway, "failed", words).await;
        gateway.remove("p.yaml").await.unwrap();
    }
}
