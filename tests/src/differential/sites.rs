//! The two gateways, each with one way in for each plugin and the same services behind.

use super::service::Service;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::resources::{GATEWAY, service_at, virtual_service};
use crate::server::Protocol;
use crate::upstream::{Answer, Upstream};
use crate::{START_PATIENCE, eventually_in, plugins};
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A gateway that runs.
pub struct Site {
    /// What it is called.
    pub name: &'static str,
    fronts: BTreeMap<String, SocketAddr>,
    pub(super) service: Service,
    /// Where plugins call to.
    _callee: Upstream,
    running: Running,
    /// Its files; dropped last.
    home: TempDir,
}

enum Running {
    /// One process has a way in for each plugin.
    Envoy(Child),
    /// One process for each plugin.
    Ours(BTreeMap<String, Process>),
}

/// A plugin and its configuration.
struct Plugin {
    name: String,
    module: PathBuf,
}

/// Envoy, if `tests/strict/install-peers` has installed it.
pub fn envoy_program() -> Option<PathBuf> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/lib");
    std::fs::read_dir(peers).ok()?.find_map(|entry| {
        let program = entry.ok()?.path().join("site-packages/envoy/_bin/envoy");
        program.is_file().then_some(program)
    })
}

impl Site {
    /// A real Envoy with these plugins.
    ///
    /// # Errors
    /// It does not start.
    pub async fn envoy(program: &Path, names: &[&str]) -> anyhow::Result<Site> {
        let (service, callee, home) = beginnings().await?;
        let mut fronts = BTreeMap::new();
        let mut listeners = String::new();
        for plugin in made(names, &home)? {
            let front = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            listeners.push_str(&listener(&plugin, front));
            fronts.insert(plugin.name, front);
        }
        let config = format!(
            "static_resources:
  listeners:{listeners}
  clusters:{}{}
",
            cluster("sample", service.address),
            cluster("callee", callee.address())
        );
        let file = home.path().join("envoy.yaml");
        std::fs::write(&file, config)?;
        let log = std::fs::File::create(home.path().join("envoy.log"))?;
        let mut process = Command::new(program)
            .arg("-c")
            .arg(&file)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-format", "%v"])
            .args(["--log-level", "error", "--component-log-level", "wasm:info"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot run Envoy")?;
        let all = fronts.clone();
        let said = home.path().join("envoy.log");
        eventually_in(START_PATIENCE, "Envoy to listen", async || {
            if let Some(status) = process.try_wait()? {
                anyhow::bail!("Envoy ended with {status}: {}", std::fs::read_to_string(&said)?);
            }
            Ok(all.values().all(|front| TcpStream::connect(front).is_ok()).then_some(()))
        })
        .await?;
        Ok(Site { name: "Envoy", fronts, service, _callee: callee, running: Running::Envoy(process), home })
    }

    /// Our gateway, as the program `gateway`, with these plugins.
    ///
    /// # Errors
    /// It does not start.
    pub async fn ours(program: &str, names: &[&str]) -> anyhow::Result<Site> {
        let (service, callee, home) = beginnings().await?;
        let (mut fronts, mut processes) = (BTreeMap::new(), BTreeMap::new());
        for plugin in made(names, &home)? {
            let folder = home.path().join(&plugin.name);
            std::fs::create_dir(&folder)?;
            let text = GATEWAY.to_owned()
                + &service_at("sample", "HTTP", &[service.address])
                + &service_at("callee", "HTTP", &[callee.address()])
                + &virtual_service(
                    "everything",
                    &["*"],
                    "  - {name: to-sample, route: [{destination: {host: sample}}]}",
                )
                + &plugins::wasm_plugin(&plugin.name, &plugin.module, "pluginConfig: {}\nfailStrategy: FAIL_CLOSE");
            std::fs::write(folder.join("all.yaml"), text)?;
            let process = Process::start(program, &folder, &["--workers=1"]).await?;
            fronts.insert(plugin.name.clone(), process.address()?);
            processes.insert(plugin.name, process);
        }
        Ok(Site { name: "ours", fronts, service, _callee: callee, running: Running::Ours(processes), home })
    }

    /// Where requests for this plugin come in.
    ///
    /// # Errors
    /// There is no such plugin.
    pub fn front(&self, plugin: &str) -> anyhow::Result<SocketAddr> {
        self.fronts.get(plugin).copied().with_context(|| format!("{} has no plugin {plugin}", self.name))
    }

    /// The metrics of this plugin's gateway.
    ///
    /// # Errors
    /// It is Envoy, which has no address for them here, or there is no such plugin.
    pub async fn metrics(&self, plugin: &str) -> anyhow::Result<Metrics> {
        match &self.running {
            Running::Ours(processes) => processes.get(plugin).context("no such plugin")?.metrics().await,
            Running::Envoy(_) => anyhow::bail!("Envoy is not asked for metrics"),
        }
    }

    /// What this plugin's gateway has logged so far.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self, plugin: &str) -> anyhow::Result<String> {
        match &self.running {
            Running::Envoy(_) => Ok(std::fs::read_to_string(self.home.path().join("envoy.log"))?),
            Running::Ours(processes) => Ok(processes.get(plugin).map(Process::log).unwrap_or_default()),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Running::Envoy(process) = &mut self.running {
            // It may have ended; then there is nothing to kill.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

async fn beginnings() -> anyhow::Result<(Service, Upstream, TempDir)> {
    let callee = Upstream::start(Protocol::Http1).await?;
    callee.answer_with(|request| {
        let body = format!("{} {} {}", request.method, request.target, String::from_utf8_lossy(&request.body));
        Answer::new(if request.target == "/refused" { 403 } else { 200 }).header("x-callee", "yes").text(body)
    });
    Ok((Service::start().await?, callee, tempfile::tempdir()?))
}

/// The modules of these names. `scripted-0-2-0` is `scripted` with another marker, which has as many letters.
fn made(names: &[&str], home: &TempDir) -> anyhow::Result<Vec<Plugin>> {
    let mut made = Vec::new();
    for name in names {
        let module = if *name == "scripted-0-2-0" {
            let mut bytes = plugins::module_bytes("scripted");
            let marker = b"proxy_abi_version_0_2_1";
            let at = bytes.windows(marker.len()).position(|window| window == marker).context("no marker")?;
            bytes[at + marker.len() - 1] = b'0';
            let path = home.path().join("scripted-0-2-0.wasm");
            std::fs::write(&path, bytes)?;
            path
        } else if *name == "lang-text" {
            let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("languages/text/plugin.wat");
            let path = home.path().join("lang-text.wasm");
            std::fs::write(&path, wat::parse_file(text)?)?;
            path
        } else {
            plugins::module(name)
        };
        ensure!(module.is_file(), "there is no {}", module.display());
        made.push(Plugin { name: (*name).to_owned(), module });
    }
    Ok(made)
}

/// Whether a module has been compiled.
pub fn is_there(name: &str) -> bool {
    let source = if name == "scripted-0-2-0" { "scripted" } else { name };
    name == "lang-text"
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/plugins/{source}.wasm")).is_file()
}

fn address(address: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
}

/// A listener with one plugin, configured as Istio configures its gateways where that shows. Trailers of HTTP/1, which
/// Istio leaves off, are on.
fn listener(plugin: &Plugin, front: SocketAddr) -> String {
    let (name, module) = (&plugin.name, plugin.module.display());
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "
  - name: {name}
    address: {}
    traffic_direction: OUTBOUND
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          use_remote_address: true
          normalize_path: true
          server_name: istio-envoy
          delayed_close_timeout: 0.05s
          http_protocol_options: {{enable_trailers: true}}
          upgrade_configs: [{{upgrade_type: websocket}}]
          route_config:
            name: http.8080
            virtual_hosts:
            - name: '*:80'
              domains: ['*']
              include_request_attempt_count: true
              routes: [{{name: to-sample, match: {{prefix: /}}, route: {{cluster: 'outbound|80||sample.default.svc.cluster.local', timeout: 0s}}}}]
          http_filters:
          - name: {name}
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: default.{name}
                vm_config: {{vm_id: {name}, runtime: envoy.wasm.runtime.v8, code: {{local: {{filename: '{module}'}}}}}}
                configuration: {{'@type': type.googleapis.com/google.protobuf.StringValue, value: '{{}}'}}
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}",
        address(front)
    );
    text
}

fn cluster(name: &str, endpoint: SocketAddr) -> String {
    let name = format!("outbound|80||{name}.default.svc.cluster.local");
    format!(
        "
  - name: '{name}'
    type: STATIC
    connect_timeout: 10s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http_protocol_options: {{enable_trailers: true}}}}
    load_assignment:
      cluster_name: '{name}'
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]",
        address(endpoint)
    )
}
