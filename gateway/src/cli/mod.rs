//! The command line: one file per command.

mod analyze;
mod options;
pub mod plugin;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An ingress gateway that is configured with Istio resources and extended by uploading WebAssembly plugins.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve.
    Run(Box<run::Args>),
    /// Check Istio resources without serving them.
    Analyze(analyze::Args),
    /// Upload, list, roll back and remove plugins of a running gateway; look at modules and try them out.
    Plugin(Box<plugin::Args>),
}

/// Reads the command line and does what it says. Usage errors exit with 64, as istioctl's.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // If nobody can be told, the exit code still says it.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Analyze(args) => analyze::run(args),
        Command::Plugin(args) => plugin::run(*args),
    }
}
