//! The gateway as a process of its own: for what only a process has, such as signals, an exit code and a log.

use crate::client::RawClient;
use crate::metrics::Metrics;
use crate::{START_PATIENCE, eventually, eventually_in};
use anyhow::{Context as _, ensure};
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A running `gateway run`. Dropping it kills it.
pub struct Process {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// What a process has printed so far.
#[derive(Clone, Default)]
struct Output(Arc<(Mutex<Printed>, Condvar)>);

#[derive(Default)]
struct Printed {
    bytes: Vec<u8>,
    /// Nobody reads on: the pipe fills.
    ignored: bool,
}

impl Output {
    fn follow(mut from: impl Read + Send + 'static) -> Output {
        let output = Output::default();
        let into = output.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                let (printed, changed) = &*into.0;
                let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
                printed.bytes.extend_from_slice(&buffer[..read]);
                drop(changed.wait_while(printed, |printed| printed.ignored));
            }
        });
        output
    }

    fn printed(&self) -> MutexGuard<'_, Printed> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ignore(&self, ignored: bool) {
        self.printed().ignored = ignored;
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.printed().bytes).into_owned()
    }
}

impl Process {
    /// Runs the program (`env!("CARGO_BIN_EXE_gateway-command")`) with this folder; returns when it serves. Port 80 of
    /// the configuration and all addresses are ports of 127.0.0.1 that the kernel chooses.
    pub async fn start(program: &str, folder: &Path, arguments: &[&str]) -> anyhow::Result<Process> {
        Process::start_under(&[], program, folder, arguments).await
    }

    /// The same under a command that runs the one behind it: `env`, `prlimit`, `sh -c '… exec "$0" "$@"'`.
    pub async fn start_under(
        under: &[&str],
        program: &str,
        folder: &Path,
        arguments: &[&str],
    ) -> anyhow::Result<Process> {
        Process::start_through(&[under, &[program]].concat(), folder, arguments).await
    }

    /// The same with the words that run the program, in some other way perhaps.
    pub async fn start_through(words: &[&str], folder: &Path, arguments: &[&str]) -> anyhow::Result<Process> {
        let (program, rest) = words.split_first().context("no program")?;
        let mut command = Command::new(program);
        command.args(rest).arg("run");
        let says = |flag: &str| arguments.iter().any(|argument| argument.starts_with(flag));
        if !says("--workers=") {
            command.arg("--workers=2");
        }
        if !says("--data-dir=") {
            command.arg("--data-dir").arg(folder.join("data"));
        }
        if !says("--bind=80=") {
            command.arg("--bind=80=127.0.0.1:0");
        }
        command.arg("-f").arg(folder).args(arguments);
        for address in ["admin", "agent", "status", "metrics"] {
            command.arg(format!("--{address}-address=127.0.0.1:0"));
        }
        command.env_remove("GATEWAY_LOG").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        let stdout = Output::follow(child.stdout.take().context("no standard output")?);
        let stderr = Output::follow(child.stderr.take().context("no standard error")?);
        let mut process = Process { child, stdout, stderr };
        eventually_in(START_PATIENCE, "the process to serve", async || {
            if let Some(status) = process.child.try_wait()? {
                anyhow::bail!("it ended with {status}: {}", process.stderr.text());
            }
            Ok(process.stdout.text().contains("/stats/prometheus\n").then_some(()))
        })
        .await?;
        Ok(process)
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where port 80 listens.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.address_of(80)
    }

    /// Where this port listens.
    pub fn address_of(&self, declared_port: u16) -> anyhow::Result<SocketAddr> {
        let text = self.stdout.text();
        let row = text.lines().find_map(|line| line.strip_prefix(&format!("{declared_port} ")));
        let row = row.with_context(|| format!("no row for port {declared_port}"))?;
        Ok(row.split_whitespace().next().context("no address")?.parse()?)
    }

    /// Where operators are answered.
    pub fn admin(&self) -> anyhow::Result<SocketAddr> {
        self.announced("admin")
    }

    /// Where readiness is answered.
    pub fn status(&self) -> anyhow::Result<SocketAddr> {
        self.announced("ready")
    }

    fn announced(&self, what: &str) -> anyhow::Result<SocketAddr> {
        let text = self.stdout.text();
        let (_, rest) = text.split_once(&format!("{what} http://")).with_context(|| format!("{what} is not said"))?;
        Ok(rest.split(['/', ' ', '\n']).next().context("no address")?.parse()?)
    }

    /// CPU time that it has used.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("no such process")?;
        // utime and stime (proc(5)), in hundredths of a second on every Linux.
        let times: Result<Vec<u64>, _> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect();
        Ok(Duration::from_millis(times?.iter().sum::<u64>() * 10))
    }

    /// Scrapes the metrics.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        let address = self.admin()?;
        let response = RawClient::connect(address).await?.get(&address.to_string(), "/stats/prometheus").await?;
        ensure!(response.status == 200, "/stats/prometheus: {}", response.status);
        Metrics::parse(&response.text())
    }

    /// Does not read any more what it prints and logs, so that the pipes fill; or reads on.
    pub fn ignore_output(&self, ignored: bool) {
        self.stdout.ignore(ignored);
        self.stderr.ignore(ignored);
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.stderr.text()
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        self.stdout.text()
    }

    /// Sends a signal: `TERM`, `INT`, `HUP`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status()?;
        ensure!(status.success(), "cannot send SIG{name}");
        Ok(())
    }

    /// [`memory_of`] it.
    pub fn memory(&self) -> anyhow::Result<u64> {
        memory_of(self.id())
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.id()))?.count())
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        eventually("the process to end", async || Ok(child.try_wait()?)).await
    }
}

/// How much memory a process has of its own, in bytes: what it shares with others counts in part (`Pss`).
///
/// # Errors
/// There is no such process, or it is somebody else's.
pub fn memory_of(process: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
