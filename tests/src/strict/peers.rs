//! The other gateways: real processes with the smallest configuration that does what ours does in [`super::ours`].

use super::ours::TLS_HOST;
use super::{Case, Recorder};
use crate::certificates::Authority;
use crate::eventually;
use crate::server::Protocol::{self, Http1, Http2};
use anyhow::{Context as _, ensure};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A gateway that runs, and the services behind it.
pub struct Peer {
    /// How it is called.
    pub name: &'static str,
    /// Which one it is.
    pub version: String,
    /// What the client speaks, what the service speaks, and where such a client comes in.
    fronts: Vec<(Protocol, Protocol, SocketAddr)>,
    /// Its port for TLS.
    tls: SocketAddr,
    http1: Recorder,
    http2: Recorder,
    process: Child,
    /// Its files; dropped last.
    _home: TempDir,
}

impl Peer {
    /// Where such a client comes in, and the service behind it; `None` if the gateway cannot do that.
    pub fn over(&self, client: Protocol, upstream: Protocol) -> Option<(SocketAddr, &Recorder)> {
        let (_, _, front) = self.fronts.iter().find(|(own, behind, _)| (*own, *behind) == (client, upstream))?;
        Some((*front, if upstream == Http2 { &self.http2 } else { &self.http1 }))
    }

    /// Where this case is sent, and the service behind it; `None` if the gateway cannot do that.
    pub fn front(&self, case: &Case, upstream: Protocol) -> Option<(SocketAddr, &Recorder)> {
        if case.into_tls { Some((self.tls, &self.http1)) } else { self.over(case.client, upstream) }
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// nginx. Its port in clear text speaks one version of HTTP, and towards services it speaks HTTP/1.1 only.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub async fn nginx() -> anyhow::Result<Peer> {
        let home = tempfile::tempdir()?;
        let (http1, http2) = (Recorder::start(Http1)?, Recorder::start(Http2)?);
        let fronts = vec![(Http1, Http1, free()?), (Http2, Http1, free()?)];
        let tls = free()?;
        certificate(&home)?;
        let path = home.path().display();
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;
  fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
  client_max_body_size 0;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream service {{ server {}; keepalive 4; }}
  server {{
    listen {};
    listen {} http2;
    listen {tls} ssl;
    ssl_certificate {path}/chain.pem;
    ssl_certificate_key {path}/key.pem;
    location /admin {{ return 403; }}
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
}}
",
            http1.address(),
            fronts[0].2,
            fronts[1].2,
        );
        let file = write(&home, "nginx.conf", &config)?;
        let version = version("nginx", "-v")?;
        let mut command = Command::new("nginx");
        command.arg("-e").arg(home.path().join("error.log")).arg("-p").arg(home.path()).args(["-c", &file]);
        Peer { name: "nginx", version, fronts, tls, process: spawn(&mut command)?, http1, http2, _home: home }
            .started()
            .await
    }

    /// HAProxy.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub async fn haproxy() -> anyhow::Result<Peer> {
        let home = tempfile::tempdir()?;
        let (http1, http2) = (Recorder::start(Http1)?, Recorder::start(Http2)?);
        let (one, two, tls) = (free()?, free()?, free()?);
        let both = certificate(&home)?;
        let frontend = |name: &str, front: String, server: String| {
            format!(
                "frontend {name}
  bind {front}
  option forwardfor
  http-request deny deny_status 403 if {{ path_beg /admin }}
  default_backend {name}
backend {name}
  server one {server}
"
            )
        };
        let config = "global
  maxconn 2000
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout http-request 10s
"
        .to_owned()
            + &frontend("http1", one.to_string(), http1.address().to_string())
            + &frontend("http2", two.to_string(), format!("{} proto h2", http2.address()))
            + &frontend("tls", format!("{tls} ssl crt {both} alpn h2,http/1.1"), http1.address().to_string());
        let file = write(&home, "haproxy.cfg", &config)?;
        let version = version("haproxy", "-v")?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f", &file]);
        let process = spawn(&mut command)?;
        Peer { name: "HAProxy", version, fronts: either(one, two), tls, process, http1, http2, _home: home }
            .started()
            .await
    }

    /// Envoy, as Istio's gateway configures it: forwarding headers, path normalisation BASE, WebSockets.
    ///
    /// # Errors
    /// The program is not there, or does not start.
    pub async fn envoy(program: &str) -> anyhow::Result<Peer> {
        let home = tempfile::tempdir()?;
        let (http1, http2) = (Recorder::start(Http1)?, Recorder::start(Http2)?);
        let (one, two, tls) = (free()?, free()?, free()?);
        certificate(&home)?;
        let path = home.path().display().to_string();
        let address = |address: SocketAddr| {
            format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
        };
        let context = format!(
            "      transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{{certificate_chain: {{filename: '{path}/chain.pem'}}, private_key: {{filename: '{path}/key.pem'}}}}]
"
        );
        let listener = |name: &str, cluster: &str, front: SocketAddr, inside: &str| {
            format!(
                "  - name: {name}
    address: {}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          use_remote_address: true
          delayed_close_timeout: 0.05s
          normalize_path: true
          path_with_escaped_slashes_action: KEEP_UNCHANGED
          upgrade_configs: [{{upgrade_type: websocket}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - {{match: {{prefix: /admin}}, direct_response: {{status: 403}}}}
              - {{match: {{prefix: /}}, route: {{cluster: {cluster}, timeout: 0s}}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
{inside}",
                address(front)
            )
        };
        let cluster = |name: &str, service: SocketAddr, protocol: &str| {
            format!(
                "  - name: {name}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{protocol}: {{}}}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]
",
                address(service)
            )
        };
        let config = "static_resources:\n  listeners:\n".to_owned()
            + &listener("http1", "http1", one, "")
            + &listener("http2", "http2", two, "")
            + &listener("tls", "http1", tls, &context)
            + "  clusters:\n"
            + &cluster("http1", http1.address(), "http_protocol_options")
            + &cluster("http2", http2.address(), "http2_protocol_options");
        let file = write(&home, "envoy.yaml", &config)?;
        let version = version(program, "--version")?;
        let mut command = Command::new(program);
        command.args(["-c", &file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "off"]);
        let process = spawn(&mut command)?;
        Peer { name: "Envoy", version, fronts: either(one, two), tls, process, http1, http2, _home: home }
            .started()
            .await
    }

    /// Waits until it accepts connections.
    async fn started(mut self) -> anyhow::Result<Peer> {
        let (name, fronts, tls) = (self.name, self.fronts.clone(), self.tls);
        eventually(&format!("{name} to listen"), async || {
            ensure!(self.is_alive(), "{name} has ended; its configuration is what to look at first");
            Ok((fronts.iter().map(|(_, _, front)| front).chain([&tls]))
                .all(|front| TcpStream::connect(front).is_ok())
                .then_some(()))
        })
        .await?;
        Ok(self)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Writes a certificate, `chain.pem` and `key.pem`, and both in one file, whose path it gives.
fn certificate(home: &TempDir) -> anyhow::Result<String> {
    let issued = Authority::new("strict")?.server(&[TLS_HOST])?;
    write(home, "chain.pem", &issued.chain)?;
    write(home, "key.pem", &issued.key)?;
    write(home, "both.pem", &(issued.chain + &issued.key))
}

/// A gateway whose ports take clients of both versions.
fn either(http1: SocketAddr, http2: SocketAddr) -> Vec<(Protocol, Protocol, SocketAddr)> {
    vec![(Http1, Http1, http1), (Http2, Http1, http1), (Http1, Http2, http2), (Http2, Http2, http2)]
}

/// A port that was free a moment ago.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn write(home: &TempDir, name: &str, text: &str) -> anyhow::Result<String> {
    let path = home.path().join(name);
    fs::write(&path, text)?;
    // Of a process that gives its rights away.
    open_to_all(home.path())?;
    Ok(path.display().to_string())
}

fn open_to_all(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
        .spawn()
        .with_context(|| format!("cannot run {}; `make strict` installs it", command.get_program().display()))
}

/// The first line of what it says about itself.
fn version(program: &str, flag: &str) -> anyhow::Result<String> {
    let said = Command::new(program)
        .arg(flag)
        .output()
        .with_context(|| format!("cannot run {program}; `make strict` installs it"))?;
    let said = [said.stdout, said.stderr].concat();
    let line = String::from_utf8_lossy(&said);
    let line = line.lines().find(|line| line.contains(|letter: char| letter.is_ascii_digit())).unwrap_or_default();
    let number = line
        .split([' ', '/'])
        .find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()) && word.contains('.'));
    let number = number.with_context(|| format!("{program} {flag} says no version: {line}"))?;
    Ok(number.to_owned())
}
