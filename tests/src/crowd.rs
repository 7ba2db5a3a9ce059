//! Many clients at once, as a process of their own (`tests/src/bin/crowd.rs`).

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// What became of the clients.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Outcome {
    /// Requests that were answered 200.
    pub answered: u64,
    /// Those that were answered something else.
    pub shed: u64,
    /// Connections that were closed instead of an answer, or could not be made.
    pub closed: u64,
    /// Requests that were not answered in time.
    pub late: u64,
    /// How long all of it took.
    pub millis: u64,
}

impl Outcome {
    /// Requests a second that were answered 200.
    pub fn goodput(&self) -> f64 {
        self.answered as f64 * 1000.0 / self.millis.max(1) as f64
    }
}

/// A crowd that runs. It goes when it is dropped.
pub struct Crowd {
    _child: Child,
    _stay: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Crowd {
    /// Starts one: the program (`env!("CARGO_BIN_EXE_crowd")`), and how, how many, and for how long, as it takes them;
    /// `headers` are `NAME=VALUE`.
    pub fn start(
        program: &str,
        how: &str,
        address: SocketAddr,
        numbers: [u64; 2],
        headers: &[&str],
    ) -> anyhow::Result<Crowd> {
        let mut command = Command::new(program);
        command.arg(how).arg(address.to_string()).args(numbers.map(|number| number.to_string())).args(headers);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        let stay = child.stdin.take().context("no standard input")?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Crowd { _child: child, _stay: stay, lines })
    }

    /// Waits until every client has had its turn. Those of a storm stay connected until the crowd is dropped.
    pub async fn outcome(&mut self) -> anyhow::Result<Outcome> {
        let line = self.lines.next_line().await?;
        ensure!(line.is_some(), "the crowd has ended without a word");
        Ok(serde_json::from_str(&line.unwrap_or_default())?)
    }
}
