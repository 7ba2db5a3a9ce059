//! h2load: HTTP/2, many streams on each of some connections.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::{number_after, wrk};
use crate::{
    peers::HOST,
    process::{LOAD_CPU, command},
};

/// What is sent.
#[derive(Debug)]
pub(crate) struct H2load {
    path: &'static str,
    connections: u16,
    streams: u16,
    openssl: PathBuf,
}

impl H2load {
    pub(crate) fn new(path: &'static str, connections: u16, streams: u16, folder: &Path) -> anyhow::Result<H2load> {
        Ok(H2load { path, connections, streams, openssl: wrk::openssl(folder)? })
    }

    /// Requests that were answered in about a second.
    pub(crate) fn run(&self, port: u16) -> anyhow::Result<u64> {
        let mut h2load = command("h2load", LOAD_CPU);
        h2load.env("OPENSSL_CONF", &self.openssl);
        h2load.arg("-c").arg(self.connections.to_string()).arg("-m").arg(self.streams.to_string());
        // Windows that leave it to the proxy how much it sends at once.
        h2load.args(["-t", "1", "-D", "1", "-w", "20", "-W", "24"]);
        h2load.arg("--ciphers=ECDHE-ECDSA-AES128-GCM-SHA256");
        h2load.arg("-H").arg(format!(":authority: {HOST}"));
        let output =
            h2load.arg(format!("https://127.0.0.1:{port}{}", self.path)).output().context("cannot run h2load")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |before| number_after(&text, before).with_context(|| format!("h2load says: {text}"));
        let answered = number("status codes:")?;
        let failed = text.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
        ensure!(
            output.status.success() && answered > 0 && failed.contains(" 0 failed, 0 errored, 0 timeout"),
            "h2load has seen errors: {text}"
        );
        Ok(answered)
    }
}
