//! A whole gateway in the process of the test: configured by a folder that the test writes, on ports that the kernel
//! chooses, with everything it keeps in a folder that goes when the test ends.
//!
//! ```
//! # use gateway_tests::{gateway::Setup, resources, server::Protocol, upstream::Upstream};
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let upstream = Upstream::start(Protocol::Http1).await?;
//! let gateway = Setup::new()
//!     .file("gateway.yaml", resources::GATEWAY)
//!     .file("sample.yaml", resources::service("sample", &[&upstream]))
//!     .file("route.yaml", resources::virtual_service("route", &["test.example.dev"], "
//!       - route: [{destination: {host: sample}}]"))
//!     .start()
//!     .await?;
//! assert_eq!(gateway.client().await?.get("test.example.dev", "/").await?.status, 200);
//! gateway.remove("route.yaml").await?; // returns when every worker has taken it over
//! assert_eq!(gateway.client().await?.get("test.example.dev", "/").await?.status, 404);
//! # anyhow::Ok(()) })?;
//! # anyhow::Ok(())
//! ```

use crate::client::{H2Client, RawClient, RawResponse};
use crate::metrics::Metrics;
use crate::{eventually, within};
use anyhow::{Context as _, ensure};
use gateway::admin::Addresses;
use gateway::app::{self, DrainTimes, Gateway, Options};
use gateway::config::problem::Problem;
use gateway::telemetry::{AccessLogOptions, LogFormat, LogSink};
use std::cell::{Cell, RefCell};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Ports that a test's Gateway resources may declare; each is bound to a free port of 127.0.0.1.
pub const PORTS: [u16; 7] = [80, 81, 82, 443, 8080, 8443, 9000];

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// What a gateway is started with.
pub struct Setup {
    files: Vec<(String, String)>,
    options: Options,
    access_log: Option<LogFormat>,
    keep: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup::new()
    }
}

impl Setup {
    /// One worker, no file, no access log; the end does not wait for load balancers, requests in flight may take 10 s.
    pub fn new() -> Setup {
        let mut options = Options {
            addresses: Addresses { admin: ANY_PORT, agent: ANY_PORT, status: ANY_PORT, metrics: ANY_PORT },
            drain: DrainTimes { shortest: Duration::ZERO, longest: Duration::from_secs(10) },
            ..Options::default()
        };
        options.config.bind = PORTS.map(|port| (port, ANY_PORT)).into();
        Setup { files: Vec::new(), options, access_log: None, keep: None }
    }

    /// A file of the configuration folder; the name may have folders in it.
    pub fn file(mut self, name: &str, text: impl Into<String>) -> Setup {
        self.files.push((name.to_owned(), text.into()));
        self
    }

    /// Worker threads.
    pub fn workers(mut self, workers: usize) -> Setup {
        self.options.workers = workers;
        self
    }

    /// Writes an access log, for [`TestGateway::access_log`].
    pub fn access_log(mut self, format: LogFormat) -> Setup {
        self.access_log = Some(format);
        self
    }

    /// Keeps uploads in this folder of the test's, so that they survive the gateway.
    pub fn data_dir(mut self, path: &Path) -> Setup {
        self.keep = Some(path.to_owned());
        self
    }

    /// Changes any other option.
    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Setup {
        change(&mut self.options);
        self
    }

    /// Starts the gateway; its first configuration serves when this returns.
    ///
    /// # Errors
    /// What [`app::start`] says.
    pub async fn start(self) -> anyhow::Result<TestGateway> {
        // Many tests run in one process.
        gateway::overload::raise_open_files()?;
        let home = tempfile::tempdir()?;
        let folder = home.path().join("config");
        fs::create_dir(&folder)?;
        for (name, text) in &self.files {
            write(&folder, name, text)?;
        }
        write(&folder, &change_name(0), CHANGE)?;
        let mut options = self.options;
        options.files.push(folder.clone());
        options.data_dir = Some(self.keep.unwrap_or_else(|| home.path().join("data")));
        let log = home.path().join("access.log");
        if let Some(format) = self.access_log {
            let sink = LogSink::File(log.clone());
            options.telemetry.access_log = Some(AccessLogOptions { format, sink, ..AccessLogOptions::default() });
        }
        let gateway = Box::pin(app::start(options)).await?;
        Ok(TestGateway { gateway, folder, log, changes: Cell::new(0), home })
    }
}

/// A gateway that serves. Dropping it ends it abruptly.
pub struct TestGateway {
    gateway: Gateway,
    folder: PathBuf,
    log: PathBuf,
    /// Changes of the folder so far.
    changes: Cell<usize>,
    /// Dropped last.
    home: TempDir,
}

/// A resource that the gateway only mentions. It is renamed with every change of the folder: once its new name is
/// mentioned, everything that was written before is in use.
const CHANGE: &str = "apiVersion: tests.example.dev/v1\nkind: Change\nmetadata: {name: change}\n";

/// Sorts before every other file, so that what is read with it is at least as new.
fn change_name(number: usize) -> String {
    format!("0-change-{number}.yaml")
}

impl TestGateway {
    /// The gateway itself.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Where the listener with this declared port listens.
    ///
    /// # Errors
    /// There is no such listener.
    pub fn address(&self, declared_port: u16) -> anyhow::Result<SocketAddr> {
        self.gateway.address(declared_port).with_context(|| format!("no listener for port {declared_port}"))
    }

    /// An HTTP/1.1 connection to port 80.
    pub async fn client(&self) -> anyhow::Result<RawClient> {
        RawClient::connect(self.address(80)?).await
    }

    /// An HTTP/2 connection to port 80.
    pub async fn h2_client(&self) -> anyhow::Result<H2Client> {
        H2Client::connect(self.address(80)?).await
    }

    /// The folder with the configuration.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder for whatever else the test needs.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file of the configuration and waits until every worker has acknowledged it.
    pub async fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.change(|folder| write(folder, name, text)).await
    }

    /// Deletes a file of the configuration and waits until every worker has acknowledged that.
    pub async fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.change(|folder| Ok(fs::remove_file(folder.join(name))?)).await
    }

    /// Changes the folder in any way and waits until every worker has acknowledged all of it.
    pub async fn change(&self, change: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut progress = self.gateway.progress();
        change(&self.folder)?;
        let number = self.changes.get();
        self.changes.set(number + 1);
        fs::rename(self.folder.join(change_name(number)), self.folder.join(change_name(number + 1)))?;
        let wanted = self.folder.join(change_name(number + 1)).display().to_string();
        // Problems are published when every worker has acknowledged, and the progress right after them.
        let taken = progress.wait_for(|_| self.gateway.problems().iter().any(|problem| problem.file == wanted));
        within("a change to be acknowledged", taken).await??;
        Ok(())
    }

    /// What is wrong with the configuration.
    pub fn problems(&self) -> Vec<Problem> {
        let ours = |problem: &Problem| problem.message.starts_with("Change:");
        self.gateway.problems().iter().filter(|problem| !ours(problem)).cloned().collect()
    }

    /// Asks the admin API.
    pub async fn admin(&self, path: &str) -> anyhow::Result<RawResponse> {
        get(self.gateway.admin().admin, path).await
    }

    /// Asks the admin API for JSON.
    ///
    /// # Errors
    /// The answer is not 200 with JSON.
    pub async fn admin_json(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let response = self.admin(path).await?;
        ensure!(response.status == 200, "{path}: {} {}", response.status, response.text());
        Ok(serde_json::from_slice(&response.body)?)
    }

    /// Scrapes the metrics.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        let response = get(self.gateway.admin().metrics, "/stats/prometheus").await?;
        ensure!(response.status == 200, "/stats/prometheus: {}", response.status);
        Metrics::parse(&response.text())
    }

    /// Waits until the series of `name` that have these labels add up to `value`. What a request leaves behind is
    /// counted when its response is over, which its client cannot see.
    pub async fn metric_becomes(&self, name: &str, labels: &[(&str, &str)], value: f64) -> anyhow::Result<()> {
        let last = RefCell::default();
        let what = format!("{name} {labels:?} to become {value}");
        let reached = eventually(&what, async || {
            let metrics = self.metrics().await?;
            let reached = metrics.sum(name, labels) == value;
            *last.borrow_mut() = metrics.series(name, &[]).map(ToString::to_string).collect::<Vec<_>>().join("\n");
            Ok(reached.then_some(()))
        });
        reached.await.with_context(|| format!("there is\n{}", last.borrow()))
    }

    /// The lines of the access log; waits until there are so many.
    ///
    /// # Errors
    /// There are more, or never so many.
    pub async fn access_log(&self, lines: usize) -> anyhow::Result<Vec<String>> {
        let look = async || Ok(Some(read_lines(&self.log)?).filter(|found| found.len() >= lines));
        let found = eventually(&format!("{lines} lines in the access log"), look).await?;
        ensure!(found.len() == lines, "more than {lines} lines: {found:#?}");
        Ok(found)
    }

    /// Ends the gateway in order and gives the lines of its access log.
    pub async fn shutdown(self) -> anyhow::Result<Vec<String>> {
        within("the gateway to end", self.gateway.shutdown()).await?;
        read_lines(&self.log)
    }
}

/// A file whose last line is complete.
fn read_lines(path: &Path) -> anyhow::Result<Vec<String>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            Ok(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n').map(str::to_owned)).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Replaces a file in one step, as everybody should.
fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    let parent = path.parent().with_context(|| format!("{name} has no folder"))?;
    fs::create_dir_all(parent)?;
    let mut fresh = tempfile::NamedTempFile::with_prefix_in(".new-", parent)?;
    std::io::Write::write_all(&mut fresh, text.as_bytes())?;
    fresh.persist(path)?;
    Ok(())
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<RawResponse> {
    RawClient::connect(address).await?.get(&address.to_string(), path).await
}
