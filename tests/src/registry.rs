//! A registry of images: Debian's `docker-registry` as a process of its own, and images that are pushed to it over HTTP.

use crate::client::{RawClient, RawResponse};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Whom a registry with a password lets in: `user:password` as base64, and as htpasswd has it (a published test vector).
const BASIC: &str = "VSpVOlUqVQ==";
const HTPASSWD: &str = "U*U:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";

/// A running registry. Dropping it kills it.
pub struct Registry {
    process: Child,
    address: SocketAddr,
    password: bool,
    /// What it stores; `None` once it was stopped.
    folder: Option<TempDir>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A layer of an image.
pub struct Layer<'a> {
    /// Its media type.
    pub media_type: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// `sha256:…` of something.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The kinds of manifests.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An image of Docker's.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Images for several platforms.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Registry {
    /// Starts one that anybody may use.
    pub fn start() -> anyhow::Result<Registry> {
        Registry::launch(false, "127.0.0.1:0", tempfile::tempdir()?)
    }

    /// Starts one that wants a password; [`Registry::docker_config`] has it.
    pub fn start_with_password() -> anyhow::Result<Registry> {
        Registry::launch(true, "127.0.0.1:0", tempfile::tempdir()?)
    }

    /// Ends it. What it stores stays, and it can come back at the same address.
    pub fn stop(mut self) -> Stopped {
        Stopped { password: self.password, address: self.address, folder: self.folder.take() }
    }

    fn launch(password: bool, address: &str, folder: TempDir) -> anyhow::Result<Registry> {
        let config = folder.path().join("config.yml");
        std::fs::write(&config, configuration(password, address, folder.path())?)?;
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run docker-registry: .ci/setup installs it")?;
        let mut log = BufReader::new(process.stderr.take().context("no standard error")?);
        let mut seen = String::new();
        let address = loop {
            let before = seen.len();
            ensure!(log.read_line(&mut seen)? > 0, "docker-registry ended: {seen}");
            let line = seen.get(before..).unwrap_or_default();
            if let Some((_, rest)) = line.split_once("listening on ") {
                let text: String = rest.chars().take_while(|c| !matches!(c, '"' | ' ' | '\n' | ',')).collect();
                break text.parse().with_context(|| format!("no address in {line}"))?;
            }
        };
        // It would stop when nobody reads what it says.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Registry { process, address, password, folder: Some(folder) })
    }

    /// `host:port`.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// What a pull secret for it says.
    pub fn docker_config(&self) -> String {
        json!({ "auths": { self.name(): { "auth": BASIC } } }).to_string()
    }

    /// Pushes an image with these layers and gives the digest of its manifest.
    pub async fn push(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        layers: &[Layer<'_>],
    ) -> anyhow::Result<String> {
        let mut described = Vec::new();
        for layer in layers {
            self.push_blob(repository, layer.bytes).await?;
            described.push(json!({
                "mediaType": layer.media_type, "digest": digest(layer.bytes), "size": layer.bytes.len(),
            }));
        }
        let config = b"{}";
        self.push_blob(repository, config).await?;
        let config_type = match media_type {
            DOCKER_MANIFEST => "application/vnd.docker.container.image.v1+json",
            _ => "application/vnd.oci.image.config.v1+json",
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": { "mediaType": config_type, "digest": digest(config), "size": config.len() },
            "layers": described,
        });
        self.push_manifest(repository, tag, media_type, &manifest).await
    }

    /// Pushes a manifest and gives its digest.
    pub async fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        manifest: &Value,
    ) -> anyhow::Result<String> {
        let bytes = serde_json::to_vec(manifest)?;
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.ask("PUT", &path, media_type, &bytes).await?;
        ensure!(answer.status == 201, "{path}: {} {}", answer.status, answer.text());
        Ok(digest(&bytes))
    }

    async fn push_blob(&self, repository: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let answer = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "application/json", b"").await?;
        let place = answer.header("location").with_context(|| format!("no place to upload to: {}", answer.status))?;
        let place = place.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or(place, |(_, path)| path);
        let path = format!("/{}&digest={}", place.trim_start_matches('/'), digest(bytes));
        let answer = self.ask("PUT", &path, "application/octet-stream", bytes).await?;
        ensure!(answer.status == 201, "{path}: {} {}", answer.status, answer.text());
        Ok(())
    }

    async fn ask(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> anyhow::Result<RawResponse> {
        let (host, length) = (self.name(), body.len());
        let password = if self.password { format!("authorization: Basic {BASIC}\r\n") } else { String::new() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{password}content-type: {media_type}\r\ncontent-length: \
             {length}\r\n\r\n"
        );
        let mut client = RawClient::connect(self.address).await?;
        client.send([head.as_bytes(), body].concat()).await?;
        client.response().await
    }
}

/// A registry that has ended.
pub struct Stopped {
    password: bool,
    address: SocketAddr,
    folder: Option<TempDir>,
}

impl Stopped {
    /// Starts it again, where it was and with what it had.
    pub fn start(self) -> anyhow::Result<Registry> {
        let folder = self.folder.context("it has no folder")?;
        Registry::launch(self.password, &self.address.to_string(), folder)
    }
}

fn configuration(password: bool, address: &str, folder: &Path) -> anyhow::Result<String> {
    let storage = folder.join("images");
    let mut text = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
        storage.display()
    );
    if password {
        let file = folder.join("htpasswd");
        std::fs::write(&file, HTPASSWD)?;
        text.push_str(&format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", file.display()));
    }
    Ok(text)
}
