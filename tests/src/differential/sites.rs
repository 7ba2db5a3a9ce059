//! The two gateways, each with the same ways in and the same services behind.

use super::front::{Front, Plugin, SERVICES};
use super::service::Service;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::resources::{GATEWAY, service_at, virtual_service};
use crate::server::Protocol;
use crate::upstream::{Answer, Upstream};
use crate::{START_PATIENCE, eventually_in, plugins};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
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
    /// One process has all ways in.
    Envoy(Child),
    /// One process for each way in.
    Ours(BTreeMap<String, Process>),
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
        let (mut fronts, mut all) = (BTreeMap::new(), Vec::new());
        let mut listeners = String::new();
        for front in names.iter().map(|name| Front::of(name, &home)) {
            let front = front?;
            let at = crate::client::unused_address()?;
            listeners.push_str(&listener(&front, at));
            all.extend(front.is_taken_by_envoy().then_some(at));
            fronts.insert(front.name, at);
        }
        // One that Envoy refuses costs only itself in this way; among static ones it would cost the process.
        let followed = home.path().join("listeners.yaml");
        std::fs::write(&followed, format!("resources:{listeners}\n"))?;
        // The name of a cluster is also the authority of what plugins call with gRPC there; one with bars in it is refused
        // by the h2 crate, so there is one by the name of its host.
        let host = "sample-h2.default.svc.cluster.local";
        let services =
            SERVICES.map(|(name, protocol)| cluster(&cluster_name(name), protocol, service.address)).concat()
                + &cluster(host, "HTTP2", service.address);
        let config = format!(
            "node: {{id: gateway, cluster: gateway}}
dynamic_resources:
  lds_config: {{path_config_source: {{path: '{}'}}}}
static_resources:
  clusters:{services}{}
",
            followed.display(),
            cluster(&cluster_name("callee"), "HTTP", callee.address())
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
        let said = home.path().join("envoy.log");
        eventually_in(START_PATIENCE, "Envoy to listen", async || {
            if let Some(status) = process.try_wait()? {
                anyhow::bail!("Envoy ended with {status}: {}", std::fs::read_to_string(&said)?);
            }
            Ok(all.iter().all(|front| TcpStream::connect(front).is_ok()).then_some(()))
        })
        .await
        .with_context(|| std::fs::read_to_string(&said).unwrap_or_default())?;
        Ok(Site { name: "Envoy", fronts, service, _callee: callee, running: Running::Envoy(process), home })
    }

    /// Our gateway, as the program `gateway`, with these plugins.
    ///
    /// # Errors
    /// It does not start.
    pub async fn ours(program: &str, names: &[&str]) -> anyhow::Result<Site> {
        let (service, callee, home) = beginnings().await?;
        let (mut fronts, mut processes) = (BTreeMap::new(), BTreeMap::new());
        let starting = names.iter().map(|name| Front::of(name, &home)).map(async |front| {
            let front = front?;
            let folder = home.path().join(&front.name);
            std::fs::create_dir(&folder)?;
            std::fs::write(folder.join("all.yaml"), resources(&front, &service, &callee))?;
            anyhow::Ok((front.name, Process::start(program, &folder, &["--workers=1"]).await?))
        });
        for started in futures_util::future::join_all(starting).await {
            let (name, process) = started?;
            fronts.insert(name.clone(), process.address()?);
            processes.insert(name, process);
        }
        Ok(Site { name: "ours", fronts, service, _callee: callee, running: Running::Ours(processes), home })
    }

    /// Where requests for this way come in.
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

/// What our gateway is configured with for a way in.
fn resources(front: &Front, service: &Service, callee: &Upstream) -> String {
    let to = format!("  - {{name: to-sample, route: [{{destination: {{host: {}}}}}]}}", front.service);
    let mut text = GATEWAY.to_owned()
        + &service_at("callee", "HTTP", &[callee.address()])
        + &virtual_service("everything", &["*"], &to);
    for (name, protocol) in SERVICES {
        text += &service_at(name, protocol, &[service.address]);
    }
    let strategy = if front.fail_open { "FAIL_OPEN" } else { "FAIL_CLOSE" };
    for (place, plugin) in front.plugins.iter().enumerate() {
        let priority = front.plugins.len() - place;
        let spec = format!("pluginConfig: {}\nfailStrategy: {strategy}\npriority: {priority}", plugin.config);
        text += &plugins::wasm_plugin(&plugin.name, &plugin.module, &spec);
    }
    text
}

async fn beginnings() -> anyhow::Result<(Service, Upstream, TempDir)> {
    let callee = Upstream::start(Protocol::Http1).await?;
    callee.answer_with(|request| {
        let body = format!("{} {} {}", request.method, request.target, String::from_utf8_lossy(&request.body));
        Answer::new(if request.target == "/refused" { 403 } else { 200 }).header("x-callee", "yes").text(body)
    });
    Ok((Service::start().await?, callee, tempfile::tempdir()?))
}

fn address(address: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
}

/// A listener with its plugins, configured as Istio configures its gateways where that shows. Trailers of HTTP/1, which
/// Istio leaves off, are on.
fn listener(front: &Front, at: SocketAddr) -> String {
    let failing = if front.fail_open { "FAIL_OPEN" } else { "FAIL_CLOSED" };
    let filters: String = front.plugins.iter().map(|plugin| filter(plugin, failing)).collect();
    format!(
        "
- '@type': type.googleapis.com/envoy.config.listener.v3.Listener
  name: {}
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
            routes: [{{name: to-sample, match: {{prefix: /}}, route: {{cluster: '{}', timeout: 0s}}}}]
        http_filters:{filters}
        - name: router
          typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}",
        front.name,
        address(at),
        cluster_name(front.service)
    )
}

fn filter(Plugin { name, vm, module, config }: &Plugin, failing: &str) -> String {
    let module = module.display();
    format!(
        "
        - name: {name}
          typed_config:
            '@type': type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
            config:
              name: default.{name}
              failure_policy: {failing}
              vm_config: {{vm_id: {vm}, runtime: envoy.wasm.runtime.v8, code: {{local: {{filename: '{module}'}}}}}}
              configuration: {{'@type': type.googleapis.com/google.protobuf.StringValue, value: '{config}'}}"
    )
}

fn cluster_name(service: &str) -> String {
    format!("outbound|80||{service}.default.svc.cluster.local")
}

fn cluster(name: &str, protocol: &str, endpoint: SocketAddr) -> String {
    let options = if protocol == "HTTP2" {
        "http2_protocol_options: {}"
    } else {
        "http_protocol_options: {enable_trailers: true}"
    };
    format!(
        "
  - name: '{name}'
    type: STATIC
    connect_timeout: 10s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{options}}}
    load_assignment:
      cluster_name: '{name}'
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]",
        address(endpoint)
    )
}
