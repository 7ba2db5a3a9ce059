//! The other gateways: real processes with the smallest configuration that does what ours does in [`super::ours`].

use super::certificates::{Certificates, MUTUAL_HOST};
use super::secured::{SERVICE_HOST, Secured};
use super::{Case, Door, HOST, Recorder};
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
    _secured: Secured,
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
        if case.door == Door::Clear { self.over(case.client, upstream) } else { Some((self.tls, &self.http1)) }
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
        certificates(&home)?;
        let path = home.path().display();
        let secured = Secured::start().await?;
        let locations: String = (secured.each())
            .map(|(name, address)| format!("    location /secured/{name} {{ proxy_pass https://{address}; }}\n"))
            .collect();
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
  ssl_certificate {path}/chain.pem;
  ssl_certificate_key {path}/key.pem;
  proxy_http_version 1.1;
  proxy_request_buffering off;
  proxy_set_header Host $http_host;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection $connection_upgrade;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_ssl_verify on;
  proxy_ssl_trusted_certificate {path}/servers.pem;
  proxy_ssl_server_name on;
  proxy_ssl_name {SERVICE_HOST};
  server {{
    listen {};
    listen {} http2;
    listen {tls} ssl;
    location /admin {{ return 403; }}
{locations}    location / {{ proxy_pass http://service; }}
  }}
  server {{
    listen {tls} ssl;
    server_name {MUTUAL_HOST};
    ssl_client_certificate {path}/clients.pem;
    ssl_crl {path}/revoked.pem;
    ssl_verify_client on;
    location / {{ proxy_pass http://service; }}
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
        Peer {
            name: "nginx",
            version,
            fronts,
            tls,
            process: spawn(&mut command)?,
            http1,
            http2,
            _secured: secured,
            _home: home,
        }
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
        certificates(&home)?;
        let path = home.path().display();
        let list = format!(
            "{path}/both.pem {HOST}\n{path}/both.pem [ca-file {path}/clients.pem crl-file {path}/revoked.pem verify required] {MUTUAL_HOST}\n"
        );
        write(&home, "crt-list", &list)?;
        let secured = Secured::start().await?;
        let (mut choices, mut backends) = (String::new(), String::new());
        for (name, address) in secured.each() {
            choices += &format!("  use_backend {name} if {{ path_beg /secured/{name} }}\n");
            backends += &format!(
                "backend {name}\n  server one {address} ssl verify required ca-file {path}/servers.pem sni str({SERVICE_HOST}) verifyhost {SERVICE_HOST}\n"
            );
        }
        let frontend = |name: &str, front: String, server: String| {
            format!(
                "frontend {name}
  bind {front}
  option forwardfor
  http-request deny deny_status 403 if {{ path_beg /admin }}
{choices}  default_backend {name}
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
            + &frontend(
                "tls",
                format!("{tls} ssl crt-list {path}/crt-list alpn h2,http/1.1"),
                http1.address().to_string(),
            )
            + &backends;
        let file = write(&home, "haproxy.cfg", &config)?;
        let version = version("haproxy", "-v")?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f", &file]);
        let process = spawn(&mut command)?;
        Peer {
            name: "HAProxy",
            version,
            fronts: either(one, two),
            tls,
            process,
            http1,
            http2,
            _secured: secured,
            _home: home,
        }
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
        certificates(&home)?;
        let path = home.path().display().to_string();
        let secured = Secured::start().await?;
        let routes: String = (secured.each())
            .map(|(name, _)| {
                format!(
                    "              - {{match: {{prefix: /secured/{name}}}, route: {{cluster: {name}, timeout: 0s}}}}\n"
                )
            })
            .collect();
        let address = |address: SocketAddr| {
            format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
        };
        let context = |validation: &str| {
            format!(
                "
      transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{{certificate_chain: {{filename: '{path}/chain.pem'}}, private_key: {{filename: '{path}/key.pem'}}}}]
{validation}"
            )
        };
        let mutual = context(&format!(
            "            validation_context: {{trusted_ca: {{filename: '{path}/clients.pem'}}, crl: {{filename: '{path}/revoked.pem'}}}}
          require_client_certificate: true
"
        ));
        let chain = |name: &str, cluster: &str, matching: &str, inside: &str| {
            format!(
                "    - filter_chain_match: {{{matching}}}
      filters:
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
{routes}              - {{match: {{prefix: /}}, route: {{cluster: {cluster}, timeout: 0s}}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}{inside}
"
            )
        };
        let listener = |name: &str, front: SocketAddr, chains: &str| {
            format!("  - name: {name}\n    address: {}\n    filter_chains:\n{chains}", address(front))
        };
        // Names are what its chains are chosen by.
        let inspector = "    listener_filters:
    - name: tls
      typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}
";
        let named = format!("server_names: [{MUTUAL_HOST}]");
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
        let behind_tls = format!(
            "    transport_socket:
      name: tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {SERVICE_HOST}
        common_tls_context:
          validation_context:
            trusted_ca: {{filename: '{path}/servers.pem'}}
            match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {SERVICE_HOST}}}}}]
"
        );
        let secured_clusters: String = (secured.each())
            .map(|(name, address)| cluster(name, address, "http_protocol_options") + &behind_tls)
            .collect();
        let config = "static_resources:\n  listeners:\n".to_owned()
            + &listener("http1", one, &chain("http1", "http1", "", ""))
            + &listener("http2", two, &chain("http2", "http2", "", ""))
            + &listener(
                "tls",
                tls,
                &(chain("mutual", "http1", &named, &mutual) + &chain("tls", "http1", "", &context(""))),
            )
            + inspector
            + "  clusters:\n"
            + &cluster("http1", http1.address(), "http_protocol_options")
            + &cluster("http2", http2.address(), "http2_protocol_options")
            + &secured_clusters;
        let file = write(&home, "envoy.yaml", &config)?;
        let version = version(program, "--version")?;
        let mut command = Command::new(program);
        command.args(["-c", &file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "off"]);
        let process = spawn(&mut command)?;
        Peer {
            name: "Envoy",
            version,
            fronts: either(one, two),
            tls,
            process,
            http1,
            http2,
            _secured: secured,
            _home: home,
        }
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

/// Writes the certificate of the servers (`chain.pem` and `key.pem`; `both.pem`), the authority of the clients
/// (`clients.pem`) with its list (`revoked.pem`), and that of services (`servers.pem`).
fn certificates(home: &TempDir) -> anyhow::Result<()> {
    let all = Certificates::get()?;
    write(home, "chain.pem", &all.server.chain)?;
    write(home, "key.pem", &all.server.key)?;
    write(home, "both.pem", &(all.server.chain.clone() + &all.server.key))?;
    write(home, "clients.pem", all.clients.pem())?;
    write(home, "servers.pem", all.servers.pem())?;
    write(home, "revoked.pem", &all.revoked).map(drop)
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
