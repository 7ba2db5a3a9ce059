//! h2load: HTTP/2, many streams on each of some connections.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::{number_after, wrk};
use crate::{
    origin::{SMALL, grpc_message},
    peers::{GRPC_HOST, HOST},
    process::{LOAD_CPU, command},
};

/// One kind of request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    /// The small answer, over TLS.
    Get { connections: u16, streams: u16 },
    /// A unary call in clear text.
    Grpc { connections: u16, streams: u16 },
}

/// What h2load is told.
#[derive(Debug)]
pub(crate) struct H2load {
    request: Request,
    openssl: PathBuf,
    message: PathBuf,
}

impl H2load {
    pub(crate) fn new(request: Request, folder: &Path) -> anyhow::Result<H2load> {
        let message = folder.join("message");
        std::fs::write(&message, grpc_message())?;
        Ok(H2load { request, openssl: wrk::openssl(folder)?, message })
    }

    /// Requests that were answered in about a second.
    pub(crate) fn run(&self, port: u16) -> anyhow::Result<u64> {
        let mut h2load = command("h2load", LOAD_CPU);
        h2load.env("OPENSSL_CONF", &self.openssl);
        // Windows that leave it to the proxy how much it sends at once.
        h2load.args(["-t", "1", "-D", "1", "-w", "20", "-W", "24"]);
        let (connections, streams, answer) = match self.request {
            Request::Get { connections, streams } => {
                h2load.arg("-H").arg(format!(":authority: {HOST}"));
                h2load.arg(format!("https://127.0.0.1:{port}/small"));
                (connections, streams, SMALL)
            }
            Request::Grpc { connections, streams } => {
                h2load.arg("-H").arg(format!(":authority: {GRPC_HOST}")).arg("-d").arg(&self.message);
                h2load.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
                h2load.arg(format!("http://127.0.0.1:{port}/bench.Echo/Unary"));
                (connections, streams, grpc_message().len())
            }
        };
        h2load.arg("-c").arg(connections.to_string()).arg("-m").arg(streams.to_string());
        let output = h2load.output().context("cannot run h2load")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |before| number_after(&text, before).with_context(|| format!("h2load says: {text}"));
        let answered = number("status codes:")?;
        let failed = text.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
        ensure!(
            output.status.success() && answered > 0 && failed.contains(" 0 failed, 0 errored, 0 timeout"),
            "h2load has seen errors: {text}"
        );
        // "… (space savings 90.00%), 1.22MB (1280000) data"
        let traffic = text.lines().find(|line| line.starts_with("traffic:")).unwrap_or_default();
        let data = traffic.rsplit_once('(').and_then(|(_, rest)| number_after(rest, ""));
        let data = data.with_context(|| format!("h2load says: {text}"))?;
        // Of those that are going on when the time is over, it may have seen the status and not the data.
        let whole = answered.saturating_sub((connections * streams) as u64);
        ensure!(data >= whole * answer as u64, "answers are too short: {data} bytes in {answered} of them");
        Ok(answered)
    }
}
