//! One run: the origin, the client, and each kind of measurement.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use tokio_rustls::TlsConnector;

use crate::{
    load::{
        Client, fixed_rate, grpc_stream,
        h2load::H2load,
        handshakes::{self, Handshakes},
        websocket::WebSockets,
        wrk::{self, Wrk},
    },
    memory, metrics, origin,
    peers::{self, CHAINS, Chain, Kind, Peer, SMALL_CHAINS, Site, Variant},
    process,
    rounds::{self, Contender, Rounds},
    statistics::{Median, median, quantile},
    syscalls, workloads,
    workloads::{Work, Workload},
};

/// What all measurements share.
pub(crate) struct Run {
    pub(crate) site: Site,
    pub(crate) rounds: usize,
    client: Client,
}

/// What is known of one workload.
pub(crate) struct Row {
    pub(crate) workload: &'static Workload,
    pub(crate) rounds: Rounds,
    /// System calls per operation, of each contender; or why they could not be counted.
    pub(crate) syscalls: Vec<Result<f64, String>>,
    pub(crate) latency: Option<Latency>,
}

/// Microseconds at a fixed rate, of the gateway and of nginx.
pub(crate) struct Latency {
    pub(crate) rate: f64,
    pub(crate) p50: [f64; 2],
    pub(crate) p99: [f64; 2],
    /// Ours divided by nginx's.
    pub(crate) p99_ratio: Median,
}

impl Run {
    pub(crate) fn new(envoy: &Path, baseline: Option<&Path>, rounds: usize) -> anyhow::Result<Run> {
        let cores = std::thread::available_parallelism()?.get();
        anyhow::ensure!(cores >= 2, "this needs two processors: one for the proxy, one for everybody else");
        process::raise_descriptor_limit()?;
        process::pin(process::LOAD_CPU)?;
        let folder = std::path::absolute("target/bench/run")?;
        // What an earlier run has left would be read by this one.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let (certificate, key, certificate_and_key) = peers::certificate(&folder)?;
        let site = Site {
            // Cargo puts both binaries into one folder.
            gateway: std::env::current_exe()?.with_file_name("gateway"),
            baseline: baseline.map(std::path::absolute).transpose()?,
            envoy: std::path::absolute(envoy)?,
            origin: origin::start()?,
            plugins: std::path::absolute("target/plugins")?,
            folder,
            certificate,
            key,
            certificate_and_key,
        };
        Ok(Run { site, rounds, client: Client::new()? })
    }

    pub(crate) fn start(&self, kind: Kind, variant: Variant) -> anyhow::Result<Peer> {
        Peer::start(kind, variant, &self.site)
    }

    /// Every peer at one workload.
    pub(crate) fn compare(&self, workload: &'static Workload, peers: &[Peer]) -> anyhow::Result<Row> {
        eprint!("{} ", workload.name);
        let mut contenders = Vec::new();
        for peer in peers {
            let load = self.load(workload, peer).with_context(|| peer.kind.to_string())?;
            contenders.push(Contender { name: peer.kind.to_string(), server: &peer.server, load });
        }
        let rounds = rounds::run(&mut contenders, self.rounds)?;
        let count =
            |contender: &mut Contender<'_>| syscalls::per_operation(contender).map_err(|error| format!("{error:#}"));
        let syscalls = contenders.iter_mut().map(count).collect();
        drop(contenders);
        let latency = match &workload.work {
            Work::Wrk(request) => self.latency(request, peers, &rounds)?,
            _ => None,
        };
        Ok(Row { workload, rounds, syscalls, latency })
    }

    fn load<'a>(
        &'a self,
        workload: &Workload,
        peer: &'a Peer,
    ) -> anyhow::Result<Box<dyn FnMut() -> anyhow::Result<u64> + 'a>> {
        let doors = &peer.doors;
        Ok(match workload.work {
            Work::Wrk(request) => {
                let port = if request.tls { doors.https } else { doors.http };
                let wrk = Wrk::new(request, workload.name, &self.site.folder)?;
                Box::new(move || wrk.run(port))
            }
            Work::H2load(request) => {
                let port = match request {
                    crate::load::h2load::Request::Get { .. } => doors.https,
                    crate::load::h2load::Request::Grpc { .. } => doors.grpc,
                };
                let h2load = H2load::new(request, &self.site.folder)?;
                Box::new(move || h2load.run(port))
            }
            Work::Handshakes { resume } => {
                let handshakes = Handshakes::new(&self.site.certificate, resume)?;
                Box::new(move || handshakes.run(&self.client, doors.https))
            }
            Work::GrpcStream => Box::new(|| grpc_stream::run(&self.client, doors.grpc)),
            Work::WebSockets(count) => {
                let mut open = WebSockets::open(&self.client, doors.http, count)?;
                Box::new(move || open.run(&self.client))
            }
        })
    }

    /// Ours against nginx at a third of what the slowest peer could do, half as many rounds.
    fn latency(&self, request: &wrk::Request, peers: &[Peer], rounds: &Rounds) -> anyhow::Result<Option<Latency>> {
        let find = |kind| peers.iter().find(|peer| peer.kind == kind);
        let (Some(ours), Some(nginx)) = (find(Kind::Gateway), find(Kind::Nginx)) else { return Ok(None) };
        let slowest = (0..peers.len()).map(|peer| median(&mut rounds.of(peer))).fold(0.0, f64::max);
        // The client and the origin on the other processor must have time, too.
        let rate = (0.33 * 1e9 / slowest).min(5_000.0);
        let tls = match request.tls {
            true => Some(TlsConnector::from(Arc::new(handshakes::configuration(&self.site.certificate, false)?))),
            false => None,
        };
        let mut seen: [Vec<[f64; 2]>; 2] = Default::default();
        for round in 0..self.rounds.div_ceil(2) {
            let mut order = [0, 1];
            order.rotate_left(round % 2);
            for which in order {
                let doors = &[ours, nginx][which].doors;
                let port = if request.tls { doors.https } else { doors.http };
                let latencies = fixed_rate::run(&self.client, request, tls.as_ref(), port, rate)?;
                seen[which].push([quantile(&latencies, 0.5), quantile(&latencies, 0.99)]);
            }
        }
        let middle = |which: usize, of: usize| median(&mut seen[which].iter().map(|both| both[of]).collect::<Vec<_>>());
        let ratios: Vec<f64> = seen[0].iter().zip(&seen[1]).map(|(ours, nginx)| ours[1] / nginx[1]).collect();
        Ok(Some(Latency {
            rate,
            p50: [middle(0, 0), middle(1, 0)],
            p99: [middle(0, 1), middle(1, 1)],
            p99_ratio: Median::of(&ratios),
        }))
    }

    fn small_get<'a>(&'a self, name: String, peer: &'a Peer, port: u16) -> anyhow::Result<Contender<'a>> {
        let wrk = Wrk::new(workloads::GET, "small-get", &self.site.folder)?;
        Ok(Contender { name, server: &peer.server, load: Box::new(move || wrk.run(port)) })
    }

    /// Every chain of the gateway, then every chain of Envoy.
    pub(crate) fn plugins(&self) -> anyhow::Result<Rounds> {
        eprint!("plugins ");
        let peers = [self.start(Kind::Gateway, Variant::Plugins)?, self.start(Kind::Envoy, Variant::Plugins)?];
        let mut contenders = Vec::new();
        for peer in &peers {
            for (chain, port) in SMALL_CHAINS.iter().zip(peer.doors.chains) {
                contenders.push(self.small_get(format!("{} {chain}", peer.kind), peer, port)?);
            }
        }
        rounds::run(&mut contenders, self.rounds)
    }

    /// What rewriting a body of 64 KB takes: the gateway without and with the plugin, and Envoy.
    pub(crate) fn bodies(&self) -> anyhow::Result<Rounds> {
        eprint!("plugins-body ");
        let peers = [self.start(Kind::Gateway, Variant::Plugins)?, self.start(Kind::Envoy, Variant::Plugins)?];
        let request = wrk::Request { path: "/64k", answer: 64 << 10, ..workloads::GET };
        let mut contenders = Vec::new();
        for peer in &peers {
            for (chain, port) in CHAINS.iter().zip(peer.doors.chains) {
                if matches!(chain, Chain::AddHeader(0) | Chain::RewriteBody) {
                    let wrk = Wrk::new(request, "get-64k", &self.site.folder)?;
                    let name = format!("{} {chain}", peer.kind);
                    contenders.push(Contender { name, server: &peer.server, load: Box::new(move || wrk.run(port)) });
                }
            }
        }
        rounds::run(&mut contenders, self.rounds)
    }

    /// Bytes that ten plugins take, of the gateway and of Envoy, each with one worker: a process with them, less one
    /// without, after some thousand requests.
    pub(crate) fn plugin_memory(&self) -> anyhow::Result<[f64; 2]> {
        eprintln!("plugins-memory");
        let of = |kind| -> anyhow::Result<f64> {
            let mut bytes = [0.0; 2];
            for (variant, bytes) in [Variant::Fresh, Variant::TenPlugins].into_iter().zip(&mut bytes) {
                let peer = self.start(kind, variant)?;
                let port = if variant == Variant::Fresh { peer.doors.http } else { peer.doors.chains[Chain::TEN] };
                Wrk::new(workloads::GET, "small-get", &self.site.folder)?.run(port)?;
                *bytes = peer.server.memory()? as f64;
            }
            Ok(bytes[1] - bytes[0])
        };
        Ok([of(Kind::Gateway)?, of(Kind::Envoy)?])
    }

    /// Without an access log, and with one.
    pub(crate) fn access_log(&self) -> anyhow::Result<Rounds> {
        eprint!("access-log ");
        let (off, on) = (self.start(Kind::Gateway, Variant::Plain)?, self.start(Kind::Gateway, Variant::AccessLog)?);
        let mut contenders = [
            self.small_get("off".to_owned(), &off, off.doors.http)?,
            self.small_get("JSON".to_owned(), &on, on.doors.http)?,
        ];
        rounds::run(&mut contenders, self.rounds)
    }

    /// Microseconds per small GET that are metrics' work.
    pub(crate) fn metrics(&self) -> anyhow::Result<f64> {
        eprintln!("metrics");
        let peer = self.start(Kind::Gateway, Variant::Plain)?;
        let mut contender = self.small_get("gateway".to_owned(), &peer, peer.doors.http)?;
        let rounds = rounds::run(std::slice::from_mut(&mut contender), 3)?;
        let share = metrics::share(&mut contender, &self.site.gateway, &self.site.folder)?;
        Ok(share * median(&mut rounds.of(0)) / 1e3)
    }

    /// Bytes of an idle connection, plain and TLS, of every peer.
    pub(crate) fn memory(&self) -> anyhow::Result<Vec<(Kind, [f64; 2])>> {
        eprint!("memory ");
        let mut found = Vec::new();
        for kind in Kind::ALL {
            if kind == Kind::Baseline && self.site.baseline.is_none() {
                continue;
            }
            let of = |tls| {
                eprint!(".");
                memory::per_connection(&self.client, kind, tls, &self.site).with_context(|| kind.to_string())
            };
            found.push((kind, [of(false)?, of(true)?]));
        }
        eprintln!();
        Ok(found)
    }
}
