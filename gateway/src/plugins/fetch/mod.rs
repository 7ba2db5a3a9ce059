//! Modules that are somewhere else: fetched, unpacked, checked and kept, off the control task.
//!
//! [`Fetcher`] belongs to the control task and answers at once; every module has a task of its own that fetches it, and
//! tries again as long as the plugin is wanted. What came is on disk under the name of its content:
//!
//! ```text
//! DATA_DIR/fetched/SHA256.wasm   a module
//! DATA_DIR/fetched/SHA256.json   which module came from a place; the name is the digest of the place
//! ```
//!
//! `client` speaks HTTP within limits, `address` says whom it may speak to, `registry` knows the OCI distribution
//! protocol, `unpack` finds the module in what came. Nothing here compiles or runs anything.

mod address;
mod client;
mod credentials;
mod image;
mod kept;
mod registry;
mod unpack;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use prometheus::{IntCounter, IntCounterVec, Opts};
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::{Semaphore, mpsc},
    task::AbortHandle,
};

use self::{address::Listed, client::Client, image::Image, kept::Kept};
use super::{Digest, Limits, Remote, resolve::Key, store::Blob};

/// Modules that are fetched at the same time.
const FETCHES: usize = 4;
/// The longest time between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Why a module could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchError {
    /// Stable name: `module-…`.
    code: &'static str,
    /// Field of the spec it is about.
    pub(crate) field: &'static str,
    message: String,
    limit: Option<FetchLimit>,
}

/// A limit of fetching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchLimit {
    /// An answer, or what is packed in it, is too large.
    Bytes,
    /// It takes too long.
    Time,
    /// A server redirects too often.
    Redirects,
}

impl FetchError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, field: "url", message: message.into(), limit: None }
    }

    fn beyond(limit: FetchLimit, message: impl Into<String>) -> Self {
        let code = match limit {
            FetchLimit::Bytes => "module-too-large",
            FetchLimit::Time => "module-fetch-time",
            FetchLimit::Redirects => "module-redirects",
        };
        Self { limit: Some(limit), ..Self::new(code, message) }
    }

    fn at(self, field: &'static str) -> Self {
        Self { field, ..self }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// Checks the URL of a module that has to be fetched; without a scheme it is an image.
///
/// # Errors
/// What is wrong with it, for operators.
pub fn check_url(url: &str) -> Result<(), String> {
    match url.split_once("://") {
        Some(("http" | "https", _)) => client::parse(url).map(drop).map_err(|error| error.message),
        _ => url.strip_prefix("oci://").unwrap_or(url).parse::<Image>().map(drop),
    }
}

/// Whom modules may come from.
#[derive(Debug, Default)]
pub struct Sources {
    /// Servers, as `host` or `host:port`, that are spoken to without TLS and that may be on this machine; with `https://` in
    /// front they may only be on this machine.
    pub insecure: Vec<String>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Sources {
    /// Those that this system trusts, and those whose certificates come from an authority in this file (PEM).
    ///
    /// # Errors
    /// Why the file cannot be used.
    pub fn new(insecure: Vec<String>, authorities: Option<&Path>) -> Result<Self, String> {
        Ok(Self { insecure, authorities: authorities.map(client::authorities).transpose()?.unwrap_or_default() })
    }
}

/// What fetching has come to, for metrics. Cloning shares it.
#[derive(Debug, Clone)]
pub struct FetchCounters {
    results: IntCounterVec,
    succeeded: IntCounter,
    failed: IntCounter,
    limits: Arc<[AtomicU64; 3]>,
}

impl FetchCounters {
    fn new() -> Self {
        let opts =
            Opts::new("gateway_plugin_fetches_total", "Times that a plugin's module was fetched, or could not be.");
        // Constant and legal.
        #[allow(clippy::unwrap_used, reason = "name and labels are constants")]
        let results = IntCounterVec::new(opts, &["result"]).unwrap();
        let [succeeded, failed] = ["success", "failure"].map(|result| results.with_label_values(&[result]));
        Self { results, succeeded, failed, limits: Arc::default() }
    }

    /// What Prometheus collects.
    #[must_use]
    pub fn collector(&self) -> IntCounterVec {
        self.results.clone()
    }

    /// How often each limit was hit.
    #[must_use]
    pub fn limits(&self) -> [(FetchLimit, u64); 3] {
        [FetchLimit::Bytes, FetchLimit::Time, FetchLimit::Redirects]
            .map(|limit| (limit, self.limit(limit).load(Ordering::Relaxed)))
    }

    fn limit(&self, limit: FetchLimit) -> &AtomicU64 {
        let [bytes, time, redirects] = &*self.limits;
        match limit {
            FetchLimit::Bytes => bytes,
            FetchLimit::Time => time,
            FetchLimit::Redirects => redirects,
        }
    }

    fn count<T>(&self, result: &Result<T, FetchError>) {
        match result {
            Ok(_) => self.succeeded.inc(),
            Err(error) => {
                self.failed.inc();
                if let Some(limit) = error.limit {
                    self.limit(limit).fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// What there is of a module.
#[derive(Debug, Clone)]
pub(crate) enum Availability {
    /// It was fetched.
    Here(Digest, Blob),
    /// It is on its way for the first time.
    Fetching,
    /// It could not be fetched. That is tried again.
    Failed(FetchError),
}

/// All modules that are wanted from elsewhere.
pub(crate) struct Fetcher {
    context: Arc<Context>,
    runs: HashMap<Key, Run>,
    next: u64,
    reports: mpsc::UnboundedSender<Report>,
    inbox: mpsc::UnboundedReceiver<Report>,
}

/// What the tasks share.
struct Context {
    client: Client,
    kept: Kept,
    slots: Arc<Semaphore>,
    counters: FetchCounters,
    retry: Duration,
}

/// A plugin's module.
struct Run {
    number: u64,
    remote: Remote,
    state: Availability,
    /// The task that fetches; it ends with us.
    task: Option<AbortHandle>,
}

/// How a try ended.
struct Report {
    plugin: Key,
    number: u64,
    result: Result<(Digest, Blob), FetchError>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Fetcher {
    /// Nothing is wanted yet. `data_dir`: where modules are kept.
    pub(crate) fn new(data_dir: Option<&Path>, limits: &Limits, sources: Sources) -> Self {
        let (reports, inbox) = mpsc::unbounded_channel();
        let context = Context {
            client: Client::new(limits, Listed::new(sources.insecure), sources.authorities),
            kept: Kept::new(data_dir, limits.fetched_bytes),
            slots: Arc::new(Semaphore::new(FETCHES)),
            counters: FetchCounters::new(),
            retry: limits.fetch_retry,
        };
        Self { context: Arc::new(context), runs: HashMap::new(), next: 0, reports, inbox }
    }

    pub(crate) fn counters(&self) -> FetchCounters {
        self.context.counters.clone()
    }

    /// What there is of the module that `plugin` wants. If it has to be fetched, that begins.
    pub(crate) fn want(&mut self, plugin: &Key, remote: &Remote) -> Availability {
        if let Some(run) = self.runs.get(plugin).filter(|run| run.remote == *remote) {
            return run.state.clone();
        }
        let kept = self.kept(remote).filter(|_| remote.revision.is_none());
        self.next += 1;
        let (number, remote) = (self.next, remote.clone());
        let run = match kept {
            Some((digest, blob)) => Run { number, remote, state: Availability::Here(digest, blob), task: None },
            None => {
                tracing::info!(plugin = %format_args!("{}/{}", plugin.1, plugin.2), url = remote.shown(), "fetching the module");
                let task =
                    fetch(Arc::clone(&self.context), plugin.clone(), number, remote.clone(), self.reports.clone());
                let task = tokio::spawn(task).abort_handle();
                Run { number, remote, state: Availability::Fetching, task: Some(task) }
            }
        };
        let state = run.state.clone();
        self.runs.insert(plugin.clone(), run);
        state
    }

    /// What was fetched from the same place before, by this process or an earlier one.
    pub(crate) fn kept(&self, remote: &Remote) -> Option<(Digest, Blob)> {
        let (digest, path) = self.context.kept.find(remote)?;
        Some((digest, Blob::File(path)))
    }

    /// What was kept for `plugin` is gone: it will be fetched again.
    pub(crate) fn lost(&mut self, plugin: &Key) {
        if let Some(run) = self.runs.remove(plugin) {
            self.context.kept.forget(&run.remote);
            self.want(plugin, &run.remote);
        }
    }

    /// Whether something is fetched for the first time.
    pub(crate) fn is_busy(&self) -> bool {
        self.runs.values().any(|run| matches!(run.state, Availability::Fetching))
    }

    /// Returns when what [`Fetcher::want`] says has changed.
    pub(crate) async fn changed(&mut self) {
        // We have a sender, so this never ends.
        while let Some(report) = self.inbox.recv().await {
            if self.note(report) {
                return;
            }
        }
        std::future::pending().await
    }

    fn note(&mut self, report: Report) -> bool {
        let Report { plugin, number, result } = report;
        // Meanwhile another module may be wanted.
        let Some(run) = self.runs.get_mut(&plugin).filter(|run| run.number == number) else { return false };
        let same = matches!((&run.state, &result), (Availability::Failed(before), Err(error)) if before == error);
        run.state = match result {
            Ok((digest, blob)) => Availability::Here(digest, blob),
            Err(error) => Availability::Failed(error),
        };
        !same
    }

    /// Forgets, and stops to fetch, what nobody wants any more.
    pub(crate) fn retain(&mut self, plugins: impl Iterator<Item = Key>) {
        let wanted: HashSet<Key> = plugins.collect();
        self.runs.retain(|plugin, _| wanted.contains(plugin));
    }

    /// Removes from the disk what nobody has wanted for a day. Looks once an hour.
    pub(crate) fn sweep(&self) {
        self.context.kept.sweep(|| self.runs.values().map(|run| &run.remote));
    }
}

/// Fetches until it is there.
async fn fetch(
    context: Arc<Context>,
    plugin: Key,
    number: u64,
    remote: Remote,
    reports: mpsc::UnboundedSender<Report>,
) {
    let mut wait = context.retry;
    loop {
        let result = once(&context, &remote).await;
        context.counters.count(&result);
        let done = result.is_ok();
        // Fails only while everything is shutting down.
        let told = reports.send(Report { plugin: plugin.clone(), number, result });
        if done || told.is_err() {
            return;
        }
        // Many gateways that lost one registry should not come back to it at the same moment.
        tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        wait = (wait * 2).min(LONGEST_RETRY);
    }
}

async fn once(context: &Arc<Context>, remote: &Remote) -> Result<(Digest, Blob), FetchError> {
    // Never closed. The slot is taken until the work is over, also if nobody waits for it any more.
    let slot = Arc::clone(&context.slots).acquire_owned().await;
    let (context, remote) = (Arc::clone(context), remote.clone());
    let work = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        let module = context.client.module(&remote)?;
        let digest = Digest::of(&module);
        let blob = match context.kept.keep(&remote, digest, &module) {
            Ok(Some(path)) => Blob::File(path),
            Ok(None) => Blob::Memory(Some(Bytes::from(module))),
            Err(error) => {
                tracing::warn!(%error, url = remote.shown(), "a fetched module cannot be kept and has to be fetched again after a restart");
                Blob::Memory(Some(Bytes::from(module)))
            }
        };
        Ok((digest, blob))
    });
    work.await.unwrap_or_else(|error| Err(FetchError::new("module-unreachable", error.to_string())))
}

impl Client {
    /// Fetches, unpacks and checks a module. Blocks, for [`Limits::fetch`] at most.
    fn module(&self, remote: &Remote) -> Result<Vec<u8>, FetchError> {
        let deadline = Instant::now() + self.limits().whole;
        if let Some(image) = remote.url.strip_prefix("oci://") {
            let image: Image = image.parse().map_err(|why| FetchError::new("module-url", why))?;
            return registry::pull(self, &image, remote, deadline);
        }
        let answer = self.get(&client::parse(&remote.url)?, &client::Ask::default(), deadline)?.success()?;
        let module = unpack::module(answer.read(self.limits().bytes)?.as_slice(), unpack::Wanted::Any, self.limits())?;
        match &remote.sha256 {
            Some(expected) if *expected != Digest::of(&module).to_string() => {
                let message = format!("the module's sha256 is {}, not {expected}", Digest::of(&module));
                Err(FetchError::new("module-digest", message).at("sha256"))
            }
            _ => Ok(module),
        }
    }
}
