//! The ways into both gateways. Most lead through one plugin, in clear text, to a service in HTTP/1.1; what is otherwise
//! stands here.

use super::case::CHAIN;
use crate::plugins;
use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A way in, by its name: that of a module, or
///
/// | name | what is there |
/// |---|---|
/// | `chain` | three plugins: `first`, `second`, `third` |
/// | `add-header` | two configurations of that plugin, in Envoy with one VM for both |
/// | `scripted-to-http2` | a service in HTTP/2 |
/// | `refuses`, `refuses-open` | a plugin that refuses its configuration, FAIL_CLOSE and FAIL_OPEN |
/// | `traps`, `traps-open` | nobody asks the plugin what it saw, so it may trap; FAIL_CLOSE and FAIL_OPEN |
pub struct Front {
    pub(super) name: String,
    /// In the order of the request.
    pub(super) plugins: Vec<Plugin>,
    pub(super) fail_open: bool,
    /// The service behind it.
    pub(super) service: &'static str,
}

/// A plugin and its configuration.
pub(super) struct Plugin {
    pub(super) name: String,
    /// Envoy's VM for it.
    pub(super) vm: String,
    pub(super) module: PathBuf,
    /// JSON without a single quote.
    pub(super) config: String,
}

/// Service and cluster: the same address, spoken to in HTTP/1.1 and in HTTP/2.
pub(super) const SERVICES: [(&str, &str); 2] = [("sample", "HTTP"), ("sample-h2", "HTTP2")];

impl Front {
    /// The one of this name.
    ///
    /// # Errors
    /// A module is not there.
    pub(super) fn of(name: &str, home: &TempDir) -> anyhow::Result<Front> {
        let module = module(name, home)?;
        let plugin = |name: &str, script: &str| Plugin {
            name: name.to_owned(),
            vm: name.to_owned(),
            module: module.clone(),
            config: if script.is_empty() { "{}".to_owned() } else { format!("{{\"script\": \"| {script} |\"}}") },
        };
        let plugins = match name {
            "chain" => CHAIN.iter().map(|name| plugin(name, &format!("name={name}"))).collect(),
            "add-header" => ["one", "two"].map(|which| adds(which, &module)).into(),
            _ if name.starts_with("refuses") => vec![plugin(name, "configure return 0")],
            _ => vec![plugin(name, "")],
        };
        let service = if name == "scripted-to-http2" { "sample-h2" } else { "sample" };
        Ok(Front { name: name.to_owned(), plugins, fail_open: name.ends_with("-open"), service })
    }

    /// Whether Envoy listens at all: it takes no listener with a plugin that does not start, whatever its policy.
    pub(super) fn is_taken_by_envoy(&self) -> bool {
        !self.name.starts_with("refuses")
    }
}

/// A plugin on the SDK, which adds its name to both messages.
fn adds(name: &str, module: &Path) -> Plugin {
    let rules = format!("{{\"add\": {{\"x-passed\": \"{name}\"}}}}");
    Plugin {
        name: format!("adds-{name}"),
        vm: "adds".to_owned(),
        module: module.to_owned(),
        config: format!("{{\"request\": {rules}, \"response\": {rules}}}"),
    }
}

/// What a way in is made of.
fn source(name: &str) -> &str {
    match name {
        "chain" | "scripted-to-http2" | "scripted-0-2-0" | "refuses" | "refuses-open" | "traps" | "traps-open" => {
            "scripted"
        }
        _ => name,
    }
}

/// Whether its module has been compiled.
pub fn is_there(name: &str) -> bool {
    name == "lang-text"
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/plugins/{}.wasm", source(name))).is_file()
}

/// Its module. `scripted-0-2-0` is `scripted` with another marker, which has as many letters.
fn module(name: &str, home: &TempDir) -> anyhow::Result<PathBuf> {
    let module = if name == "scripted-0-2-0" {
        let mut bytes = plugins::module_bytes("scripted");
        let marker = b"proxy_abi_version_0_2_1";
        let at = bytes.windows(marker.len()).position(|window| window == marker).context("no marker")?;
        bytes[at + marker.len() - 1] = b'0';
        let path = home.path().join("scripted-0-2-0.wasm");
        std::fs::write(&path, bytes)?;
        path
    } else if name == "lang-text" {
        let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("languages/text/plugin.wat");
        let path = home.path().join("lang-text.wasm");
        std::fs::write(&path, wat::parse_file(text)?)?;
        path
    } else {
        plugins::module(source(name))
    };
    ensure!(module.is_file(), "there is no {}", module.display());
    Ok(module)
}
