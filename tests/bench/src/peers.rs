//! The proxies that are compared. Each file writes one configuration and starts one real binary with one worker.
//!
//! They do the same: everything to one origin, kept connections to it, `x-forwarded-for`, `x-forwarded-proto` and
//! `x-request-id` added, TLS 1.3 with the same certificate, no access log. What differs is in RESULTS.md.

mod envoy;
mod gateway;
mod haproxy;
mod nginx;

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{origin::Origin, process::Server};

/// The name that clients ask for.
pub(crate) const HOST: &str = "bench.example.dev";
/// The same for gRPC.
pub(crate) const GRPC_HOST: &str = "grpc.bench.example.dev";

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Gateway,
    /// Another build of the gateway, to see what a change brings.
    Baseline,
    Nginx,
    Haproxy,
    Envoy,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] = [Kind::Gateway, Kind::Nginx, Kind::Haproxy, Kind::Envoy, Kind::Baseline];

    /// What the binary says of its version.
    pub(crate) fn version(self, site: &Site) -> anyhow::Result<String> {
        match self {
            Kind::Gateway => gateway::version(&site.gateway),
            Kind::Baseline => gateway::version(site.baseline()?),
            Kind::Nginx => nginx::version(),
            Kind::Haproxy => haproxy::version(),
            Kind::Envoy => envoy::version(site),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Gateway => "gateway",
            Kind::Baseline => "baseline",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "HAProxy",
            Kind::Envoy => "Envoy",
        })
    }
}

/// What all proxies of a run are given.
#[derive(Debug)]
pub(crate) struct Site {
    /// Configurations and logs are written here.
    pub(crate) folder: PathBuf,
    /// The binary that is measured, and the one that it is compared with.
    pub(crate) gateway: PathBuf,
    pub(crate) baseline: Option<PathBuf>,
    /// Envoy's binary; the others are on the path.
    pub(crate) envoy: PathBuf,
    pub(crate) origin: Origin,
    /// Chain and key, and both in one file.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) certificate_and_key: PathBuf,
    /// The folder of compiled plugins.
    pub(crate) plugins: PathBuf,
}

impl Site {
    fn baseline(&self) -> anyhow::Result<&Path> {
        self.baseline.as_deref().context("no baseline was named")
    }
}

/// What a proxy is to have beside plain forwarding. One process per variant, so that nothing here costs the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Plain,
    /// The same for processes that are new for each measurement of memory.
    Fresh,
    /// A door for each of [`CHAINS`].
    Plugins,
    /// One door with ten plugins, to see what memory they take.
    TenPlugins,
    /// An access log in JSON; ours only.
    AccessLog,
}

/// Plugins on the doors of [`Variant::Plugins`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chain {
    /// So many times `add-header`, each adding one header to the request.
    AddHeader(usize),
    /// Once `host-calls`, which adds, reads and removes twenty headers.
    HostCalls,
    /// Once `rewrite-body`, which holds the whole body of the response and replaces its first letter.
    RewriteBody,
}

pub(crate) const CHAINS: [Chain; 6] = [
    Chain::AddHeader(0),
    Chain::AddHeader(1),
    Chain::AddHeader(3),
    Chain::AddHeader(10),
    Chain::HostCalls,
    Chain::RewriteBody,
];

/// Those that are measured with a small answer: all but the last.
pub(crate) const SMALL_CHAINS: &[Chain] = CHAINS.split_at(CHAINS.len() - 1).0;

impl Chain {
    /// Where ten plugins stand in [`CHAINS`].
    pub(crate) const TEN: usize = 3;

    /// Module and configuration of each plugin, in order.
    fn plugins(self) -> Vec<(&'static str, String)> {
        match self {
            Chain::AddHeader(count) => (0..count)
                .map(|n| ("add-header", format!(r#"{{"request":{{"add":{{"x-plugin-{n}":"added by a plugin"}}}}}}"#)))
                .collect(),
            Chain::HostCalls => vec![("host-calls", "{}".to_owned())],
            Chain::RewriteBody => {
                let settings = r#"{"response":{"contentTypes":["*/*"],"rules":[{"regex":"^0","replace":"y"}]}}"#;
                vec![("rewrite-body", settings.to_owned())]
            }
        }
    }
}

impl Variant {
    /// The doors with plugins that there are: their place in [`CHAINS`], and what is behind them.
    fn chains(self) -> impl Iterator<Item = (usize, Chain)> {
        let all = CHAINS.into_iter().enumerate();
        all.filter(move |(place, _)| self == Variant::Plugins || *place == Chain::TEN)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chain::AddHeader(count) => write!(f, "{count} × add-header"),
            Chain::HostCalls => f.write_str("60 host calls"),
            Chain::RewriteBody => f.write_str("rewrite-body"),
        }
    }
}

/// Ports of a proxy.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) grpc: u16,
    /// As [`CHAINS`].
    pub(crate) chains: [u16; CHAINS.len()],
    /// What the proxy itself wants: readiness, administration.
    own: [u16; 4],
}

/// A proxy that serves.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) doors: Doors,
    pub(crate) server: Server,
}

impl Peer {
    /// Starts it and waits until it answers.
    pub(crate) fn start(kind: Kind, variant: Variant, site: &Site) -> anyhow::Result<Peer> {
        let doors = free_doors()?;
        let folder = site.folder.join(format!("{kind}-{variant:?}").to_lowercase());
        std::fs::create_dir_all(&folder)?;
        let command = match kind {
            Kind::Gateway => gateway::prepare(&site.gateway, variant, site, &doors, &folder),
            Kind::Baseline => gateway::prepare(site.baseline()?, variant, site, &doors, &folder),
            Kind::Nginx => nginx::prepare(site, &doors, &folder),
            Kind::Haproxy => haproxy::prepare(site, &doors, &folder),
            Kind::Envoy => envoy::prepare(variant, site, &doors, &folder),
        }?;
        let mut peer = Peer { kind, server: Server::start(command, &folder.join("log"))?, doors };
        peer.wait(variant).with_context(|| format!("{kind} does not serve"))?;
        Ok(peer)
    }

    fn wait(&mut self, variant: Variant) -> anyhow::Result<()> {
        let ports = match variant {
            Variant::Plain | Variant::Fresh | Variant::AccessLog => vec![self.doors.http],
            Variant::Plugins => self.doors.chains.to_vec(),
            Variant::TenPlugins => vec![self.doors.chains[Chain::TEN]],
        };
        let start = Instant::now();
        for port in ports {
            while let Err(error) = answers(port) {
                self.server.check()?;
                if start.elapsed() > Duration::from_secs(60) {
                    bail!("{error:#} for a minute; {}", self.server.last_words());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

fn answers(port: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("refuses connections")?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET /small HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("does not answer")?;
    let line = answer.lines().next().unwrap_or_default();
    anyhow::ensure!(line == "HTTP/1.1 200 OK", "answers {line:?}");
    Ok(())
}

/// Ports that nobody has. All are held until the last is found.
fn free_doors() -> anyhow::Result<Doors> {
    let mut held = Vec::new();
    let mut next = || -> anyhow::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    let mut chains = [0; CHAINS.len()];
    let (http, https, grpc) = (next()?, next()?, next()?);
    for port in &mut chains {
        *port = next()?;
    }
    let mut own = [0; 4];
    for port in &mut own {
        *port = next()?;
    }
    Ok(Doors { http, https, grpc, chains, own })
}

/// Self-signed for [`HOST`], with an ECDSA key on P-256.
pub(crate) fn certificate(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf, PathBuf)> {
    let issued = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let (chain, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let paths = (folder.join("tls.crt"), folder.join("tls.key"), folder.join("tls.pem"));
    std::fs::write(&paths.0, &chain)?;
    std::fs::write(&paths.1, &key)?;
    std::fs::write(&paths.2, chain + &key)?;
    Ok(paths)
}

/// The first line that a program prints when it is asked for its version.
fn first_line(program: &Path, argument: &str) -> anyhow::Result<String> {
    let output = std::process::Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("cannot run {}: `make bench` installs it", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned())
}

/// Debian puts servers where the path of an ordinary user does not lead.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}
