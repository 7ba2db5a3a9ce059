//! `gateway plugin`: the plugin API from the command line, and what needs no gateway (`inspect`, `check`).
//!
//! Results go to stdout, everything said to people to stderr. Exit codes: 0 done, 1 it did not work,
//! 64 the command line makes no sense.

mod client;
mod preflight;
mod print;
mod push;
mod settings;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use crate::plugins::ApiError;
use client::{Client, Upload};
use preflight::Check;
use push::Push;

/// Upload, list, show and remove plugins of a running gateway; look at modules and try them out without one.
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
    /// File with the token that the gateway wants for changes.
    #[arg(long, global = true, env = "GATEWAY_ADMIN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
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
    /// Remove an uploaded plugin with all its versions.
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// Name of the plugin.
        name: String,
    },
    /// Go back to an earlier version of an uploaded plugin, module and settings.
    Rollback {
        /// Name of the plugin.
        name: String,
        /// Number or digest of the version (`show` lists them); default: the one that served before.
        #[arg(long, value_name = "NUMBER|DIGEST")]
        to: Option<String>,
    },
    /// Take a disabled upload into the chain again.
    Enable {
        /// Name of the plugin.
        name: String,
    },
    /// Take an upload out of the chain without removing it.
    Disable {
        /// Name of the plugin.
        name: String,
    },
    /// Say what a module is and why a gateway would refuse it.
    Inspect {
        /// The module (.wasm).
        file: PathBuf,
    },
    /// Start a plugin once, as an upload would be, and say what came of it.
    Check(Check),
}

/// Why a command did not work.
#[derive(Debug)]
struct Failure {
    exit: u8,
    message: String,
    /// What a gateway says, in its own form.
    object: Option<Value>,
}

impl Failure {
    /// Exit code 1.
    fn new(message: impl Into<String>) -> Self {
        Self { exit: 1, message: message.into(), object: None }
    }

    /// Exit code 64, `EX_USAGE`.
    fn usage(message: impl Into<String>) -> Self {
        Self { exit: 64, ..Self::new(message) }
    }

    /// Something that a gateway refuses.
    fn told(error: &ApiError) -> Self {
        Self { object: serde_json::to_value(error).ok(), ..Self::new(error.to_string()) }
    }
}

/// Runs the command.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    match execute(args, &mut io::stdout().lock(), &mut io::stderr()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, message, .. }) => {
            // If nobody can be told, the exit code still says it.
            let _ = writeln!(io::stderr(), "Error: {message}");
            ExitCode::from(exit)
        }
    }
}

/// Results go to `out`, for programs also what a gateway refuses.
fn execute(args: Args, out: &mut dyn Write, chatter: &mut dyn Write) -> Result<(), Failure> {
    let output = args.output;
    let (text, failure) = match answer(args, chatter) {
        Ok((text, failure)) => (text, failure),
        Err(failure) => {
            let object = failure.object.as_ref().filter(|_| output != Output::Table);
            (object.map(|object| print::one(object, output)).unwrap_or_default(), Some(failure))
        }
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has seen enough, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(format!("cannot print: {error}"))),
        _ => failure.map_or(Ok(()), Err),
    }
}

/// What is to be printed, and what is wrong besides.
fn answer(args: Args, chatter: &mut dyn Write) -> Result<(String, Option<Failure>), Failure> {
    let Args { command, admin_address, token_file, output } = args;
    let client = || Client::new(&admin_address, token_file.as_deref());
    let text = match command {
        Command::Push(push) => {
            let name = push.name()?;
            let settings = push.settings()?;
            let module = push.module()?;
            if module.is_none() && settings.is_empty() {
                return Err(Failure::usage("nothing to do: name a module, or settings to change (see --help)"));
            }
            let (created, plugin) = client()?.put(&name, Upload { module, settings }).map_err(settings::name_flag)?;
            let done = if created { "created" } else { "up to date" };
            report(chatter, &format!("{name}: {done}, {}", whereabouts(&plugin)), &plugin)?;
            print::list(&[plugin], output)
        }
        Command::Ls => {
            let plugins = client()?.list()?;
            if plugins.is_empty() {
                say(chatter, "no plugins; upload one with: gateway plugin push FILE")?;
            }
            if plugins.is_empty() && output == Output::Table { String::new() } else { print::all(&plugins, output) }
        }
        Command::Show { name } => print::one(&client()?.get(&name)?, output),
        Command::Rm { name } => {
            client()?.delete(&name)?;
            say(chatter, &format!("{name}: removed, with all versions"))?;
            String::new()
        }
        Command::Rollback { name, to } => {
            let plugin = client()?.rollback(&name, to.as_deref())?;
            report(chatter, &format!("{name}: {}, {}", version(&plugin), whereabouts(&plugin)), &plugin)?;
            print::list(&[plugin], output)
        }
        Command::Enable { name } => switched(client()?.enable(&name, true)?, &name, output, chatter)?,
        Command::Disable { name } => switched(client()?.enable(&name, false)?, &name, output, chatter)?,
        Command::Inspect { file } => return preflight::inspect(&file, output),
        Command::Check(check) => return preflight::check(&check, output),
    };
    Ok((text, None))
}

fn switched(plugin: Value, name: &str, output: Output, chatter: &mut dyn Write) -> Result<String, Failure> {
    report(chatter, &format!("{name}: {}", whereabouts(&plugin)), &plugin)?;
    Ok(print::list(&[plugin], output))
}

/// Where a plugin runs after a change.
fn whereabouts(plugin: &Value) -> String {
    if plugin.get("state").and_then(Value::as_str) == Some("disabled") {
        return "disabled: in no chain until it is enabled".to_owned();
    }
    match plugin.get("workers").and_then(Value::as_u64) {
        Some(workers) if workers > 0 => format!("live on {workers} workers"),
        _ => "but no listener has it yet".to_owned(),
    }
}

/// The version of a plugin that is in use.
fn version(plugin: &Value) -> String {
    let versions = plugin.get("versions").and_then(Value::as_array).into_iter().flatten();
    let current = versions.filter(|version| version.get("current") == Some(&Value::Bool(true)));
    let number = current.filter_map(|version| version.get("number").and_then(Value::as_u64)).next();
    number.map_or("rolled back".to_owned(), |number| format!("version {number}"))
}

/// What was done, and what about the plugin was probably not meant.
fn report(chatter: &mut dyn Write, done: &str, plugin: &Value) -> Result<(), Failure> {
    say(chatter, done)?;
    let warnings = plugin.get("warnings").and_then(Value::as_array).into_iter().flatten();
    let mut warnings = warnings.filter_map(Value::as_str);
    warnings.try_for_each(|warning| say(chatter, &format!("warning: {}", print::printable(warning))))
}

fn say(chatter: &mut dyn Write, text: &str) -> Result<(), Failure> {
    writeln!(chatter, "{text}").map_err(|error| Failure::new(format!("cannot print: {error}")))
}

#[cfg(test)]
mod tests;
