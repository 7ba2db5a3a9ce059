//! A module with its place in the chain, as they are given on the command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    Failure,
    settings::{SettingsArgs, insert_list, value_or_file},
};

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
    /// Hosts whose requests it sees: a name, *.example.com or *. May be repeated; replaces those before, "" takes them away.
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    hosts: Option<Vec<String>>,
    /// Routes whose requests it sees, as NAMESPACE/VIRTUALSERVICE or, for one of its http routes, with /NAME behind. May be
    /// repeated; replaces those before, "" takes them away.
    #[arg(long, value_name = "ROUTE,…", value_delimiter = ',')]
    routes: Option<Vec<String>>,
    /// Another configuration, as JSON or YAML or in a file, for the requests of some hosts (as in --hosts) or routes (with a
    /// slash, as in --routes). May be repeated, the first that fits counts; replaces those before, "" takes them away.
    #[arg(long = "override", value_name = "HOST|ROUTE,…=JSON|@FILE")]
    overrides: Option<Vec<String>>,
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
        insert_list(&mut settings, "hosts", self.hosts.as_deref());
        insert_list(&mut settings, "routes", self.routes.as_deref());
        if let Some(overrides) = &self.overrides {
            let overrides = overrides.iter().filter(|text| !text.is_empty()).map(|text| an_override(text));
            let overrides = overrides.collect::<Result<Vec<_>, _>>()?;
            settings.insert("overrides".into(), if overrides.is_empty() { Value::Null } else { overrides.into() });
        }
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

/// `HOST|ROUTE,…=JSON|@FILE` in the form of the setting. Only routes have slashes.
fn an_override(text: &str) -> Result<Value, Failure> {
    let Some((scope, configuration)) = text.split_once('=') else {
        return Err(Failure::usage(format!(
            "--override: {text:?} is not WHERE=JSON or WHERE=@FILE, for example 'a.example.com={{\"token\": \"x\"}}'"
        )));
    };
    let (routes, hosts): (Vec<_>, Vec<_>) =
        scope.split(',').map(ToOwned::to_owned).partition(|name| name.contains('/'));
    let mut entry = Map::new();
    insert_list(&mut entry, "hosts", Some(&hosts).filter(|hosts| !hosts.is_empty()).map(Vec::as_slice));
    insert_list(&mut entry, "routes", Some(&routes).filter(|routes| !routes.is_empty()).map(Vec::as_slice));
    entry.insert("pluginConfig".into(), value_or_file(configuration, "--override")?);
    Ok(Value::Object(entry))
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
