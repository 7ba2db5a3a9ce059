//! Endpoints that are known by name: DNS, off the workers.
//!
//! Every name has a task of its own that looks it up, waits as long as the answer is valid, and looks again. Whatever
//! goes wrong, the last good answer stays; it is logged, counted, and tried again later and later.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use prometheus::IntCounter;
use tokio::{
    sync::{Semaphore, mpsc},
    task::AbortHandle,
};

use crate::{
    snapshot::{Cluster, Endpoint},
    telemetry::{Limit, Telemetry, TelemetryError},
};

/// Names that are looked up at the same time; the others wait.
const LOOKUPS: usize = 32;
/// Addresses of one name that are used.
const ADDRESSES: usize = 256;
/// An answer is used for at least and at most so long, whatever it says.
const VALID: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// The first and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Time for one query to one name server; it is made twice.
const QUERY: Duration = Duration::from_secs(3);
/// How long a new configuration waits for the first answers of names that it brings.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);

/// The names of the current configuration.
pub(super) struct Names {
    lookup: Lookup,
    known: BTreeMap<Arc<str>, Known>,
    inbox: mpsc::UnboundedReceiver<Report>,
    outbox: mpsc::UnboundedSender<Report>,
}

/// One name.
struct Known {
    task: AbortHandle,
    /// The last good answer.
    addresses: Vec<IpAddr>,
    /// Whether the first look-up has ended, well or not.
    settled: bool,
}

/// What a look-up found; `None`: nothing.
type Report = (Arc<str>, Option<Vec<IpAddr>>);

/// What all look-ups share.
#[derive(Clone)]
struct Lookup {
    /// `None`: there is no name server that could be asked.
    resolver: Option<TokioResolver>,
    slots: Arc<Semaphore>,
    telemetry: Telemetry,
    answers: IntCounter,
    failures: IntCounter,
}

impl Names {
    /// Asks `server`, or whom the system asks (`/etc/resolv.conf`). Call it on a runtime.
    pub(super) fn new(server: Option<SocketAddr>, telemetry: &Telemetry) -> Result<Self, TelemetryError> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, TelemetryError> {
            let counter = IntCounter::new(name, help)?;
            telemetry.add_collector(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let resolver = resolver(server).inspect_err(|error| {
            tracing::warn!(%error, "there is no name server: services with the resolution DNS have no endpoints");
        });
        let lookup = Lookup {
            resolver: resolver.ok(),
            slots: Arc::new(Semaphore::new(LOOKUPS)),
            telemetry: telemetry.clone(),
            answers: counter("gateway_dns_answers_total", "Names of endpoints that were found.")?,
            failures: counter("gateway_dns_failures_total", "Times that a name of an endpoint was not found.")?,
        };
        let (outbox, inbox) = mpsc::unbounded_channel();
        Ok(Self { lookup, known: BTreeMap::new(), inbox, outbox })
    }

    /// Looks up the names of these clusters from now on, too. Waits a moment for the first answers, so that a new service
    /// does not begin without endpoints.
    pub(super) async fn follow<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<Cluster>>) {
        for name in names(clusters) {
            if !self.known.contains_key(&name) {
                let task = tokio::spawn(follow(self.lookup.clone(), Arc::clone(&name), self.outbox.clone()));
                let known = Known { task: task.abort_handle(), addresses: Vec::new(), settled: false };
                self.known.insert(name, known);
            }
        }
        let settled = async {
            while self.known.values().any(|known| !known.settled) {
                self.changed().await;
            }
        };
        // Whoever has not answered by then is taken over later.
        let _ = tokio::time::timeout(FIRST_ANSWERS, settled).await;
    }

    /// Looks up the names of these clusters only, and forgets what it knows of others.
    pub(super) fn retain<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<Cluster>>) {
        let wanted = names(clusters);
        for (_, known) in self.known.extract_if(.., |name, _| !wanted.contains(name)) {
            known.task.abort();
        }
    }

    /// Waits until something is known that was not known before. May be dropped at any time.
    pub(super) async fn changed(&mut self) {
        // The channel cannot end: one of its ends is here.
        while let Some((name, found)) = self.inbox.recv().await {
            let Some(known) = self.known.get_mut(&name) else { continue };
            let first = !std::mem::replace(&mut known.settled, true);
            let news = found.filter(|found| !same(found, &known.addresses));
            let changed = news.is_some();
            if let Some(news) = news {
                tracing::debug!(%name, addresses = ?news, "DNS answered");
                known.addresses = news;
            }
            if changed || first {
                return;
            }
        }
    }

    /// The endpoints of a cluster: its addresses, and those of its names as far as they are known.
    pub(super) fn endpoints(&self, cluster: &Cluster) -> Arc<[Endpoint]> {
        let named = cluster.names.iter().flat_map(|named| {
            let known = self.known.get(&named.name);
            named.endpoints(known.map_or(&[], |known| &known.addresses))
        });
        let mut all: Vec<Endpoint> = Vec::new();
        for endpoint in cluster.endpoints.iter().cloned().chain(named) {
            // Several names may lead to one address.
            if !all.iter().any(|known| known.address == endpoint.address) {
                all.push(endpoint);
            }
        }
        all.into()
    }
}

fn names<'a>(clusters: impl Iterator<Item = &'a Arc<Cluster>>) -> BTreeSet<Arc<str>> {
    clusters.flat_map(|cluster| cluster.names.iter()).map(|named| Arc::clone(&named.name)).collect()
}

/// The order of an answer means nothing; name servers turn it.
fn same(one: &[IpAddr], other: &[IpAddr]) -> bool {
    one.len() == other.len() && one.iter().all(|address| other.contains(address))
}

/// Looks a name up for as long as the task lives.
async fn follow(lookup: Lookup, name: Arc<str>, outbox: mpsc::UnboundedSender<Report>) {
    let mut pause = PAUSE.0;
    loop {
        let wait = match lookup.find(&name).await {
            Ok((addresses, valid)) => {
                lookup.answers.inc();
                pause = PAUSE.0;
                let _ = outbox.send((Arc::clone(&name), Some(addresses)));
                valid
            }
            Err(error) => {
                lookup.failures.inc();
                tracing::warn!(%name, error, "cannot look a name up; the last answer stays in use");
                let _ = outbox.send((Arc::clone(&name), None));
                let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                pause = (pause * 2).min(PAUSE.1);
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

impl Lookup {
    /// The addresses of a name, at least one, and how long they are valid.
    async fn find(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        let resolver = self.resolver.as_ref().ok_or("there is no name server")?;
        // It is never closed.
        let _slot = self.slots.acquire().await;
        // A name with a dot is complete; one without is one of the domains that the system searches.
        let complete = if name.contains('.') { format!("{name}.") } else { name.to_owned() };
        let answer = resolver.lookup_ip(complete).await.map_err(|error| error.to_string())?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in answer.iter() {
            if addresses.len() == ADDRESSES {
                self.telemetry.limit_exceeded(Limit::DnsAddresses);
                break;
            }
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err("the answer has no address".to_owned());
        }
        let valid = answer.valid_until().saturating_duration_since(Instant::now());
        Ok((addresses, valid.clamp(VALID.0, VALID.1)))
    }
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio().map_err(|error| error.to_string())?,
        Some(address) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            let server = NameServerConfig::new(address.ip(), true, connections.into());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options.timeout = QUERY;
    options.attempts = 1;
    // Answers are kept here, as long as they are valid and beyond.
    options.cache_size = 0;
    builder.build().map_err(|error| error.to_string())
}
