//! The gateway beside nginx, HAProxy and Envoy: the same work in the same run. `make bench` calls it.

mod load;
mod origin;
mod peers;
mod process;
mod report;
mod rounds;
mod statistics;
mod workloads;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;

use load::{h2load::H2load, wrk::Wrk};
use peers::{CHAINS, Kind, Peer, Site, Variant};
use rounds::{Contender, Rounds};
use workloads::{WORKLOADS, Work, Workload};

/// Measures processor time per request, of the gateway and its peers.
#[derive(Debug, Parser)]
struct Args {
    /// Only these workloads, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of each.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let mut known: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
    known.push("plugins");
    if let Some(unknown) = args.only.iter().find(|only| !known.contains(&only.as_str())) {
        anyhow::bail!("there is no workload {unknown:?}, only {}", known.join(", "));
    }
    let cores = std::thread::available_parallelism()?.get();
    anyhow::ensure!(cores >= 2, "this needs two processors: one for the proxy, one for everybody else");

    process::pin(process::LOAD_CPU)?;
    let site = site()?;
    for kind in Kind::ALL {
        eprintln!("{kind}: {}", kind.version()?);
    }
    let chosen: Vec<&Workload> = WORKLOADS.iter().filter(|workload| args.wants(workload.name)).collect();
    if !chosen.is_empty() {
        let peers = start(&Kind::ALL, Variant::Plain, &site)?;
        for workload in chosen {
            eprint!("{} ", workload.name);
            let rounds = compare(workload, &peers, &site, args.rounds)?;
            print!("{}", report::against_peers(workload, &rounds));
        }
    }
    if args.wants("plugins") {
        eprint!("plugins ");
        let peers = start(&[Kind::Gateway, Kind::Envoy], Variant::Plugins, &site)?;
        print!("{}", report::plugins(&plugins(&peers, &site, args.rounds)?));
    }
    Ok(())
}

fn site() -> anyhow::Result<Site> {
    let folder = std::path::absolute("target/bench/run")?;
    // What an earlier run has left would be read by this one.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (certificate, key, certificate_and_key) = peers::certificate(&folder)?;
    let plugins: PathBuf = std::path::absolute("target/plugins")?;
    Ok(Site { origin: origin::start()?, folder, certificate, key, certificate_and_key, plugins })
}

fn start(kinds: &[Kind], variant: Variant, site: &Site) -> anyhow::Result<Vec<Peer>> {
    kinds.iter().map(|kind| Peer::start(*kind, variant, site)).collect()
}

fn compare(workload: &Workload, peers: &[Peer], site: &Site, rounds: usize) -> anyhow::Result<Rounds> {
    let mut contenders = Vec::new();
    for peer in peers {
        let load: Box<dyn FnMut() -> anyhow::Result<u64>> = match workload.work {
            Work::Wrk(request) => {
                let port = if request.tls { peer.doors.https } else { peer.doors.http };
                let wrk = Wrk::new(request, workload.name, &site.folder)?;
                Box::new(move || wrk.run(port))
            }
            Work::H2load(path, connections, streams) => {
                let port = peer.doors.https;
                let h2load = H2load::new(path, connections, streams, &site.folder)?;
                Box::new(move || h2load.run(port))
            }
        };
        contenders.push(Contender { name: peer.kind.to_string(), server: &peer.server, load });
    }
    rounds::run(&mut contenders, rounds)
}

/// Every chain of the gateway, then every chain of Envoy.
fn plugins(peers: &[Peer], site: &Site, rounds: usize) -> anyhow::Result<Rounds> {
    let mut contenders = Vec::new();
    for peer in peers {
        for (chain, port) in CHAINS.iter().zip(peer.doors.chains) {
            let wrk = Wrk::new(workloads::GET, "plugins", &site.folder)?;
            let load = Box::new(move || wrk.run(port));
            contenders.push(Contender { name: format!("{} {chain:?}", peer.kind), server: &peer.server, load });
        }
    }
    rounds::run(&mut contenders, rounds)
}
