//! The gateway beside nginx, HAProxy and Envoy: the same work in the same run. `make bench` calls it.

mod load;
mod memory;
mod metrics;
mod origin;
mod peers;
mod process;
mod report;
mod rounds;
mod run;
mod statistics;
mod syscalls;
mod workloads;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use peers::{Kind, Variant};
use run::Run;
use workloads::WORKLOADS;

/// Measures processor time per request, of the gateway and its peers.
#[derive(Debug, Parser)]
struct Args {
    /// Only these workloads, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of each.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Envoy's binary.
    #[arg(long)]
    envoy: PathBuf,
    /// Another build of the gateway, which becomes one more peer.
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Where a full run writes its report.
    #[arg(long, default_value = "tests/bench/RESULTS.md")]
    results: PathBuf,
}

/// What is measured beside [`WORKLOADS`].
const OTHERS: [&str; 6] = ["plugins", "plugins-body", "plugins-memory", "access-log", "metrics", "memory"];

impl Args {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> anyhow::Result<()> {
    let known: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).chain(OTHERS).collect();
    if let Some(unknown) = args.only.iter().find(|only| !known.contains(&only.as_str())) {
        anyhow::bail!("there is no workload {unknown:?}, only {}", known.join(", "));
    }
    let run = Run::new(&args.envoy, args.baseline.as_deref(), args.rounds)?;
    let mut report = report::Report::begin(&run)?;

    let chosen: Vec<_> = WORKLOADS.iter().filter(|workload| args.wants(workload.name)).collect();
    if !chosen.is_empty() {
        let mut peers = Vec::new();
        for kind in Kind::ALL {
            if kind != Kind::Baseline || args.baseline.is_some() {
                peers.push(run.start(kind, Variant::Plain)?);
            }
        }
        for workload in chosen {
            report.add_row(run.compare(workload, &peers)?);
        }
    }
    if args.wants("plugins") {
        report.add_plugins(&run.plugins()?);
    }
    if args.wants("plugins-body") {
        report.add_bodies(&run.bodies()?);
    }
    if args.wants("plugins-memory") {
        report.add_plugin_memory(run.plugin_memory()?);
    }
    if args.wants("access-log") {
        report.add_access_log(&run.access_log()?);
    }
    if args.wants("metrics") {
        report.add_metrics(run.metrics()?);
    }
    if args.wants("memory") {
        report.add_memory(&run.memory()?);
    }
    if args.only.is_empty() && args.baseline.is_none() {
        std::fs::write(&args.results, report.markdown(&run))?;
        eprintln!("written: {}", args.results.display());
    }
    Ok(())
}
