//! A module and its settings, as they are given on the command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::ArgGroup;
use serde_json::{Map, Value};

use super::Failure;
use crate::config::yaml;

/// What is not given keeps its value; for a new plugin it has WasmPlugin's default.
#[derive(Debug, clap::Args)]
pub(super) struct Push {
    /// The module (.wasm). Without it only settings change.
    file: Option<PathBuf>,
    /// Name of the plugin; default: the file's name without .wasm, with hyphens for underscores.
    #[arg(long, required_unless_present = "file")]
    name: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Where in the chain it runs.
    #[arg(long, value_parser = ["AUTHN", "AUTHZ", "STATS", "UNSPECIFIED_PHASE"], ignore_case = true)]
    phase: Option<String>,
    /// Order within the phase: higher runs earlier, none last.
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// What happens to requests when the plugin cannot do its work.
    #[arg(long, value_parser = ["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"], ignore_case = true)]
    fail_strategy: Option<String>,
}

/// What a plugin is started with.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("configuration").args(["config", "config_json"]))]
pub(super) struct SettingsArgs {
    /// File with the plugin's configuration, YAML or JSON.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The plugin's configuration.
    #[arg(long, value_name = "JSON")]
    config_json: Option<String>,
    /// proxy-wasm's root id, for modules that hold several plugins.
    #[arg(long)]
    plugin_name: Option<String>,
    /// File with any settings in the form of WasmPlugin's spec (vmConfig, match, …), YAML or JSON. Other flags win.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

impl Push {
    pub(super) fn name(&self) -> Result<String, Failure> {
        match (&self.name, &self.file) {
            (Some(name), _) => Ok(name.clone()),
            (None, file) => name_of(file.as_deref().unwrap_or(Path::new(""))),
        }
    }

    /// In the form of WasmPlugin's spec.
    pub(super) fn settings(&self) -> Result<Map<String, Value>, Failure> {
        let mut settings = self.settings.read()?;
        let texts = [("phase", &self.phase), ("failStrategy", &self.fail_strategy)];
        for (key, value) in texts {
            settings.extend(value.as_ref().map(|value| (key.to_owned(), Value::from(value.to_ascii_uppercase()))));
        }
        settings.extend(self.priority.map(|priority| ("priority".to_owned(), priority.into())));
        Ok(settings)
    }

    pub(super) fn module(&self) -> Result<Option<Vec<u8>>, Failure> {
        let module = self.file.as_deref().map(|file| read_file(file).map(|bytes| (file, bytes))).transpose()?;
        module.map_or(Ok(None), |(file, bytes)| {
            if bytes.starts_with(b"\0asm") {
                return Ok(Some(bytes));
            }
            Err(Failure::new(format!("{} is not a WebAssembly module; compile the plugin first", file.display())))
        })
    }
}

impl SettingsArgs {
    /// In the form of WasmPlugin's spec.
    pub(super) fn read(&self) -> Result<Map<String, Value>, Failure> {
        let mut settings = match &self.settings {
            None => Map::new(),
            Some(path) => match read_text(path, "--settings")? {
                Value::Object(settings) => settings,
                _ => return Err(Failure::usage(format!("{}: settings must be an object", path.display()))),
            },
        };
        match (&self.config, &self.config_json) {
            (Some(path), _) => {
                settings.insert("pluginConfig".into(), read_text(path, "--config")?);
            }
            (None, Some(text)) => {
                let value = value_of(text).map_err(|error| Failure::usage(format!("--config-json: {error}")))?;
                settings.insert("pluginConfig".into(), value);
            }
            (None, None) => {}
        }
        settings.extend(self.plugin_name.clone().map(|name| ("pluginName".to_owned(), name.into())));
        Ok(settings)
    }
}

/// The name that a plugin in this file gets.
pub(super) fn name_of(file: &Path) -> Result<String, Failure> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = stem.to_ascii_lowercase().replace(['_', '.'], "-");
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if name.is_empty() || !fits {
        return Err(Failure::usage("the file's name does not make a plugin's name; give one with --name"));
    }
    Ok(name)
}

/// A module's file.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}; check the path of the module", path.display())))
}

fn read_text(path: &Path, flag: &str) -> Result<Value, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}; check {flag}", path.display())))?;
    value_of(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// YAML, of which JSON is a part.
fn value_of(text: &str) -> Result<Value, String> {
    let mut documents = yaml::documents(text).into_iter();
    match (documents.next(), documents.next()) {
        (Some(Ok(document)), None) => serde_json::to_value(document.value).map_err(|error| error.to_string()),
        (Some(Err(error)), _) => Err(format!("line {}: {}", error.line, error.message)),
        (None, _) => Err("is empty".to_owned()),
        (_, Some(_)) => Err("has more than one document".to_owned()),
    }
}
