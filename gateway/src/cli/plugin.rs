//! `gateway plugin push|ls|show|rm`: the plugin API from the command line.
//!
//! Results go to stdout, everything said to people to stderr. Exit codes: 0 done, 1 it did not work,
//! 64 the command line makes no sense.

mod client;
mod print;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgGroup, Subcommand, ValueEnum};
use serde_json::{Map, Value};

use crate::config::yaml;
use client::{Client, Upload};

/// Upload, list, show and remove plugins of a running gateway.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Where the gateway's admin API listens.
    #[arg(
        long,
        global = true,
        env = "GATEWAY_ADMIN_ADDRESS",
        default_value = "127.0.0.1:15000",
        value_name = "HOST:PORT"
    )]
    admin_address: String,
    /// How to print results.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Upload a plugin, replace its module, or change its settings.
    Push(Push),
    /// List all plugins in the order in which requests pass them.
    #[command(visible_alias = "list")]
    Ls,
    /// Show everything about one plugin.
    Show {
        /// Name of the plugin.
        name: String,
    },
    /// Remove an uploaded plugin.
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// Name of the plugin.
        name: String,
    },
}

/// What is not given keeps its value; for a new plugin it has WasmPlugin's default.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("configuration").args(["config", "config_json"]))]
struct Push {
    /// The module (.wasm). Without it only settings change.
    file: Option<PathBuf>,
    /// Name of the plugin; default: the file's name without .wasm, with hyphens for underscores.
    #[arg(long, required_unless_present = "file")]
    name: Option<String>,
    /// File with the plugin's configuration, YAML or JSON.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The plugin's configuration.
    #[arg(long, value_name = "JSON")]
    config_json: Option<String>,
    /// Where in the chain it runs.
    #[arg(long, value_parser = ["AUTHN", "AUTHZ", "STATS", "UNSPECIFIED_PHASE"], ignore_case = true)]
    phase: Option<String>,
    /// Order within the phase: higher runs earlier, none last.
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// What happens to requests when the plugin cannot do its work.
    #[arg(long, value_parser = ["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"], ignore_case = true)]
    fail_strategy: Option<String>,
    /// proxy-wasm's root id, for modules that hold several plugins.
    #[arg(long)]
    plugin_name: Option<String>,
}

/// Why a command did not work.
#[derive(Debug)]
struct Failure {
    exit: u8,
    message: String,
}

impl Failure {
    /// Exit code 1.
    fn new(message: impl Into<String>) -> Self {
        Self { exit: 1, message: message.into() }
    }

    /// Exit code 64, `EX_USAGE`.
    fn usage(message: impl Into<String>) -> Self {
        Self { exit: 64, message: message.into() }
    }
}

/// Runs the command.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    match execute(args, &mut io::stdout().lock(), &mut io::stderr()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, message }) => {
            // If nobody can be told, the exit code still says it.
            let _ = writeln!(io::stderr(), "Error: {message}");
            ExitCode::from(exit)
        }
    }
}

fn execute(args: Args, out: &mut dyn Write, chatter: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(&args.admin_address)?;
    let text = match args.command {
        Command::Push(push) => {
            let name = push.name()?;
            let settings = push.settings()?;
            let module = push.file.as_deref().map(read_module).transpose()?;
            if module.is_none() && settings.is_empty() {
                return Err(Failure::usage("nothing to do: name a module, or settings to change (see --help)"));
            }
            let (created, plugin) = client.put(&name, Upload { module, settings })?;
            let done = if created { "created" } else { "up to date" };
            let runs = match plugin.get("workers").and_then(Value::as_u64) {
                Some(workers) if workers > 0 => format!("live on {workers} workers"),
                _ => "but no listener has it yet".to_owned(),
            };
            say(chatter, &format!("{name}: {done}, {runs}"))?;
            print::list(&[plugin], args.output)
        }
        Command::Ls => {
            let plugins = client.list()?;
            if plugins.is_empty() {
                say(chatter, "no plugins; upload one with: gateway plugin push FILE")?;
            }
            if plugins.is_empty() && args.output == Output::Table {
                String::new()
            } else {
                print::all(&plugins, args.output)
            }
        }
        Command::Show { name } => print::one(&client.get(&name)?, args.output),
        Command::Rm { name } => {
            client.delete(&name)?;
            say(chatter, &format!("{name}: removed"))?;
            String::new()
        }
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has seen enough, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(format!("cannot print: {error}"))),
        _ => Ok(()),
    }
}

fn say(chatter: &mut dyn Write, text: &str) -> Result<(), Failure> {
    writeln!(chatter, "{text}").map_err(|error| Failure::new(format!("cannot print: {error}")))
}

impl Push {
    fn name(&self) -> Result<String, Failure> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let stem = self.file.as_deref().and_then(Path::file_stem).and_then(|stem| stem.to_str()).unwrap_or_default();
        let name = stem.to_ascii_lowercase().replace(['_', '.'], "-");
        let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if name.is_empty() || !fits {
            return Err(Failure::usage("the file's name does not make a plugin's name; give one with --name"));
        }
        Ok(name)
    }

    /// In the form of WasmPlugin's spec.
    fn settings(&self) -> Result<Map<String, Value>, Failure> {
        let mut settings = Map::new();
        let configuration = match (&self.config, &self.config_json) {
            (Some(path), _) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    Failure::new(format!("cannot read {}: {error}; check --config", path.display()))
                })?;
                Some((text, path.display().to_string()))
            }
            (None, Some(text)) => Some((text.clone(), "--config-json".to_owned())),
            (None, None) => None,
        };
        if let Some((text, place)) = configuration {
            let value = configuration_of(&text).map_err(|error| Failure::usage(format!("{place}: {error}")))?;
            settings.insert("pluginConfig".into(), value);
        }
        let texts = [("phase", &self.phase), ("failStrategy", &self.fail_strategy)];
        for (key, value) in texts {
            settings.extend(value.as_ref().map(|value| (key.to_owned(), Value::from(value.to_ascii_uppercase()))));
        }
        settings.extend(self.priority.map(|priority| ("priority".to_owned(), priority.into())));
        settings.extend(self.plugin_name.clone().map(|name| ("pluginName".to_owned(), name.into())));
        Ok(settings)
    }
}

/// YAML, of which JSON is a part.
fn configuration_of(text: &str) -> Result<Value, String> {
    let mut documents = yaml::documents(text).into_iter();
    match (documents.next(), documents.next()) {
        (Some(Ok(document)), None) => serde_json::to_value(document.value).map_err(|error| error.to_string()),
        (Some(Err(error)), _) => Err(format!("line {}: {}", error.line, error.message)),
        (None, _) => Err("is empty".to_owned()),
        (_, Some(_)) => Err("has more than one document".to_owned()),
    }
}

fn read_module(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = fs::read(path).map_err(|error| {
        Failure::new(format!("cannot read {}: {error}; check the path of the module", path.display()))
    })?;
    if !bytes.starts_with(b"\0asm") {
        return Err(Failure::new(format!("{} is not a WebAssembly module; compile the plugin first", path.display())));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
