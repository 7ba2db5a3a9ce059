//! wrk: HTTP/1.1 on connections that stay open, each with one request at a time.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::number_after;
use crate::{
    peers::HOST,
    process::{LOAD_CPU, command},
};

/// One kind of request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) path: &'static str,
    pub(crate) connections: u16,
    pub(crate) tls: bool,
    /// A POST with so many bytes; 0: a GET.
    pub(crate) body: usize,
    /// Bytes of the answer's body, at least.
    pub(crate) answer: usize,
    /// As a browser's, beside `host`.
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

/// What wrk is told by a script, for one kind of request.
#[derive(Debug)]
pub(crate) struct Wrk {
    request: Request,
    script: PathBuf,
    /// The same cipher and key exchange for every peer: the client offers no other.
    openssl: PathBuf,
}

impl Wrk {
    pub(crate) fn new(request: Request, name: &str, folder: &Path) -> anyhow::Result<Wrk> {
        let mut script = format!("wrk.headers['Host'] = '{HOST}'\n");
        for (name, value) in request.headers {
            script += &format!("wrk.headers['{name}'] = '{value}'\n");
        }
        if request.body > 0 {
            script += &format!("wrk.method = 'POST'\nwrk.body = string.rep('x', {})\n", request.body);
        }
        // The numbers for a program; errors of a connection and other answers than 2xx and 3xx.
        script += "done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('requests %d bytes %d errors %d\\n', summary.requests, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout))
end\n";
        let path = folder.join(format!("{name}.lua"));
        std::fs::write(&path, script)?;
        Ok(Wrk { request, script: path, openssl: openssl(folder)? })
    }

    /// Requests that were answered in a second.
    pub(crate) fn run(&self, port: u16) -> anyhow::Result<u64> {
        let Request { path, connections, tls, answer, .. } = self.request;
        let scheme = if tls { "https" } else { "http" };
        let mut wrk = command("wrk", LOAD_CPU);
        wrk.env("OPENSSL_CONF", &self.openssl);
        wrk.args(["-t", "1", "-d", "1s", "-c"]).arg(connections.to_string()).arg("-s").arg(&self.script);
        let output = wrk.arg(format!("{scheme}://127.0.0.1:{port}{path}")).output().context("cannot run wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |before| number_after(&text, before).with_context(|| format!("wrk says: {text}"));
        let (requests, bytes, errors) = (number("\nrequests ")?, number(" bytes ")?, number(" errors ")?);
        ensure!(output.status.success() && requests > 0 && errors == 0, "wrk has seen errors: {text}");
        ensure!(bytes / requests >= answer as u64, "answers of {} bytes are too short", bytes / requests);
        Ok(requests)
    }
}

/// A configuration for clients that use OpenSSL.
pub(super) fn openssl(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("openssl.cnf");
    std::fs::write(
        &path,
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n[tls]\n\
         Ciphersuites = TLS_AES_128_GCM_SHA256\nGroups = X25519\n",
    )?;
    Ok(path)
}
