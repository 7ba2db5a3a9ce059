//! The settings of a plugin, as they are given on the command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::ArgGroup;
use serde_json::{Map, Value};

use super::Failure;
use crate::config::yaml;

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
    /// What it may use: callbackCpu=20ms, memory=256Mi, … (README lists them). May be repeated; replaces those before, ""
    /// takes them away.
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Option<Vec<String>>,
    /// Who shares an instance: all requests of a worker, or nobody.
    #[arg(long, value_parser = ["worker", "request"], ignore_case = true)]
    isolation: Option<String>,
    /// Host functions and callbacks that it is restricted to, by name. May be repeated; replaces those before, "" takes them
    /// away.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    allowed_capabilities: Option<Vec<String>>,
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
        if let Some(limits) = &self.limits {
            let limits = limits.iter().filter(|text| !text.is_empty()).map(|text| limit(text));
            let limits = limits.collect::<Result<Map<_, _>, _>>()?;
            settings.insert("limits".into(), if limits.is_empty() { Value::Null } else { limits.into() });
        }
        let isolation = self.isolation.as_ref().map(|isolation| isolation.to_ascii_lowercase());
        settings.extend(isolation.map(|isolation| ("isolation".to_owned(), isolation.into())));
        insert_list(&mut settings, "allowedCapabilities", self.allowed_capabilities.as_deref());
        settings.extend(self.plugin_name.clone().map(|name| ("pluginName".to_owned(), name.into())));
        Ok(settings)
    }
}

/// Settings that are not called as their flags in a gateway's answers, or have parts: what to look at when one is refused.
const FLAGS: [(&str, &str); 5] = [
    ("limits", "--limit"),
    ("allowedCapabilities", "--allowed-capabilities"),
    ("hosts", "--hosts"),
    ("routes", "--routes"),
    ("overrides", "--override"),
];

/// What is refused because of a setting, with the flag that says it.
pub(super) fn name_flag(failure: Failure) -> Failure {
    let field = failure.object.as_ref().and_then(|object| object.pointer("/error/field")).and_then(Value::as_str);
    let setting = field.and_then(|field| field.split(['.', '[']).next()).unwrap_or_default();
    match FLAGS.iter().find(|(name, _)| *name == setting) {
        Some((_, flag)) => Failure { message: format!("{}; check {flag} or --settings", failure.message), ..failure },
        None => failure,
    }
}

/// `NAME=VALUE`
fn limit(text: &str) -> Result<(String, Value), Failure> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.into())),
        None => Err(Failure::usage(format!("--limit: {text:?} is not NAME=VALUE, for example memory=256Mi"))),
    }
}

/// A list that was given replaces what there was; one without entries takes it away.
pub(super) fn insert_list(settings: &mut Map<String, Value>, name: &str, list: Option<&[String]>) {
    if let Some(list) = list {
        let entries: Vec<_> = list.iter().filter(|entry| !entry.is_empty()).cloned().collect();
        settings.insert(name.to_owned(), if entries.is_empty() { Value::Null } else { entries.into() });
    }
}

/// A value, or `@` and the file that it is in.
pub(super) fn value_or_file(text: &str, flag: &str) -> Result<Value, Failure> {
    match text.strip_prefix('@') {
        Some(path) => read_text(Path::new(path), flag),
        None => value_of(text).map_err(|error| Failure::usage(format!("{flag}: {error}"))),
    }
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
