//! Plugins for tests: the modules that `plugins/build` compiled, WasmPlugin resources that use them, and uploads.

use crate::client::RawClient;
use crate::gateway::TestGateway;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The module of a plugin of this repository, by the name of its folder.
///
/// # Panics
/// It has not been compiled.
#[allow(clippy::panic, reason = "without it the test cannot begin, and must not pass")]
pub fn module(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/plugins/{name}.wasm"));
    assert!(path.is_file(), "there is no {}: run plugins/build", path.display());
    path
}

/// The bytes of [`module`].
///
/// # Panics
/// It cannot be read.
#[allow(clippy::panic, reason = "as for `module`")]
pub fn module_bytes(name: &str) -> Vec<u8> {
    std::fs::read(module(name)).unwrap_or_else(|error| panic!("{name}.wasm: {error}"))
}

/// The example in the README of a plugin: the WasmPlugin that its readers copy, with the module in its place.
///
/// # Panics
/// There is none, or the module has not been compiled.
#[allow(clippy::panic, reason = "as for `module`")]
pub fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../plugins/{name}/README.md"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let example = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let example = example.unwrap_or_else(|| panic!("{} has no example", path.display()));
    let (place, module) = (format!("file:///path/to/{name}.wasm"), format!("file://{}", module(name).display()));
    assert!(example.contains(&place), "the example does not name {place}");
    example.replace(&place, &module)
}

/// The same module with other bytes: a custom section with this text at its end.
pub fn variant(module: &[u8], text: &str) -> Vec<u8> {
    let name = b"variant";
    let length = 1 + name.len() + text.len();
    assert!(length < 128, "its length must fit into one byte");
    let mut bytes = module.to_vec();
    bytes.extend([0, length as u8, name.len() as u8]);
    bytes.extend(name);
    bytes.extend(text.as_bytes());
    bytes
}

/// A WasmPlugin in the gateway's namespace. `spec` holds further lines of YAML, of which none is indented but by what
/// stands above it.
pub fn wasm_plugin(name: &str, module: &Path, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {{name: {name}, namespace: default}}
spec:
  url: file://{}
{spec}---
",
        module.display()
    )
}

/// A WasmPlugin like [`wasm_plugin`] whose module has to be fetched.
pub fn remote_plugin(name: &str, url: &str, spec: &str) -> String {
    wasm_plugin(name, Path::new("/instead"), spec).replace("file:///instead", url)
}

/// The probe under this name: the request header `x-probe-NAME` says what it does (tests/plugins/probe), `always` what
/// it does without being asked.
pub fn probe(name: &str, always: &str, spec: &str) -> String {
    let spec = format!("pluginConfig: {{name: {name}, always: '{always}'}}\n{spec}");
    wasm_plugin(name, &module("probe"), &spec)
}

/// Asks the plugin API: the status of the answer and its JSON, `null` if it has no body.
///
/// # Errors
/// There is no answer, or it is not JSON.
pub async fn ask(
    gateway: &TestGateway,
    method: &str,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> anyhow::Result<(u16, Value)> {
    ask_at(gateway.gateway().admin().admin, method, path, content_type, body).await
}

/// The same at an admin address.
///
/// # Errors
/// As [`ask`].
pub async fn ask_at(
    address: SocketAddr,
    method: &str,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> anyhow::Result<(u16, Value)> {
    let mut client = RawClient::connect(address).await?;
    let kind = if content_type.is_empty() { String::new() } else { format!("content-type: {content_type}\r\n") };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{kind}content-length: {}\r\n\r\n", body.len());
    client.send([head.as_bytes(), body].concat()).await?;
    let response = client.response().await?;
    let json = if response.body.is_empty() { Value::Null } else { serde_json::from_slice(&response.body)? };
    Ok((response.status, json))
}

/// The content type of a module.
pub const WASM: &str = "application/wasm";

/// The content type of [`form`].
pub const FORM: &str = "multipart/form-data; boundary=frontier";

/// A form with these parts, as browsers and curl send it.
pub fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in parts {
        body.extend(format!("--frontier\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n").into_bytes());
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--frontier--\r\n");
    body
}
