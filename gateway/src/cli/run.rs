//! `gateway run`: serve until told to stop.

use std::{
    io::{IsTerminal, Write},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args as ClapArgs, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::options::ConfigArgs;
use crate::{
    admin::Addresses,
    app::{self, BoundListener, DrainTimes, Gateway, Stop},
    config::{
        mesh::MeshConfig,
        topology::{ForwardClientCert, GatewayTopology},
    },
    http::{ForwardClientCertificate, Identity, Limits as ClientLimits, Topology},
    overload::{self, MemoryLimit, OverloadOptions},
    telemetry::{
        AccessLogOptions, LastLines, LogFilter, LogFormat, LogSink, LostLines, SourceIdentity, TelemetryOptions,
        log_writer,
    },
};

/// Arguments of `gateway run`. Every flag is also an environment variable.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Worker threads; default: one per core.
    #[arg(long, env = "GATEWAY_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Where operators are answered and plugins are uploaded.
    #[arg(long, env = "GATEWAY_ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
    admin_address: SocketAddr,
    /// File with a token that everything needs which changes something through the admin address, as
    /// `Authorization: Bearer`. Read again for every change. Without it an admin address off the loopback interface
    /// refuses changes.
    #[arg(long, env = "GATEWAY_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Metrics and readiness as Istio's agent serves them.
    #[arg(long, env = "GATEWAY_AGENT_ADDRESS", default_value = "0.0.0.0:15020")]
    agent_address: SocketAddr,
    /// Readiness: /healthz/ready.
    #[arg(long, env = "GATEWAY_STATUS_ADDRESS", default_value = "0.0.0.0:15021")]
    status_address: SocketAddr,
    /// Metrics: /stats/prometheus.
    #[arg(long, env = "GATEWAY_METRICS_ADDRESS", default_value = "0.0.0.0:15090")]
    metrics_address: SocketAddr,
    /// Where uploaded plugins are kept; default: $XDG_STATE_HOME/gateway or /var/lib/gateway.
    #[arg(long, env = "GATEWAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Take over from the gateway that runs on the same data directory: with its listening sockets, so that no client
    /// notices. It finishes what it has and ends. If none runs, this one starts as usual.
    #[arg(long, env = "GATEWAY_TAKEOVER")]
    takeover: bool,
    /// Registries and other servers of plugin modules that are spoken to without TLS and that may be on this machine;
    /// with https:// in front they may be on this machine, but speak TLS. Several are separated by commas.
    #[arg(long, env = "GATEWAY_INSECURE_REGISTRIES", value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = server_name)]
    insecure_registries: Vec<String>,
    /// Authorities (PEM) whose certificates servers of plugin modules may show, besides those that this system trusts. Read
    /// at the start.
    #[arg(long, env = "GATEWAY_PLUGIN_SOURCE_CA", value_name = "FILE")]
    plugin_source_ca: Option<PathBuf>,
    /// Start without uploaded plugins.
    #[arg(long, env = "GATEWAY_SAFE_MODE")]
    safe_mode: bool,
    /// Istio's MeshConfig (accessLogFile, accessLogEncoding, defaultConfig.gatewayTopology), bare or as the `istio`
    /// ConfigMap. Read once, at the start.
    #[arg(long, env = "GATEWAY_MESH_CONFIG")]
    mesh_config: Option<PathBuf>,
    /// Write an access log to standard output.
    #[arg(long, env = "GATEWAY_ACCESS_LOG")]
    access_log: Option<AccessLogFormat>,
    /// Seconds from SIGTERM until requests that are still in flight are cut off.
    #[arg(long, env = "GATEWAY_DRAIN_SECONDS", default_value = "25", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    drain_seconds: u64,
    /// Seconds that new connections are served at least after SIGTERM, while load balancers notice it.
    #[arg(long, env = "GATEWAY_MINIMUM_DRAIN_SECONDS", default_value = "5", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    minimum_drain_seconds: u64,
    /// Seconds until a client's connection without a request is closed.
    #[arg(long, env = "GATEWAY_IDLE_TIMEOUT_SECONDS", default_value = "3600", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle_timeout_seconds: u64,
    /// Memory at which the kernel would end the gateway, so that it sheds load before: `cgroup` (its own, if that has a
    /// limit), an amount such as 512Mi for the process alone, or `off`.
    #[arg(long, env = "GATEWAY_MEMORY_LIMIT", value_name = "AMOUNT", default_value_t)]
    memory_limit: MemoryLimit,
    /// Connections from clients at the same time; default: two thirds of the open files that are allowed (ulimit -n).
    #[arg(long, env = "GATEWAY_MAX_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// Serve HTTP/1.0, too; without it such requests are answered 426.
    #[arg(long, env = "GATEWAY_HTTP10")]
    http10: bool,
    /// Name server for the names of endpoints, instead of those of /etc/resolv.conf.
    #[arg(long, env = "GATEWAY_DNS_SERVER", value_name = "ADDRESS:PORT")]
    dns_server: Option<SocketAddr>,
    /// Address of this pod, for x-forwarded-for of clients on the loopback interface.
    #[arg(long, env = "INSTANCE_IP")]
    instance_ip: Option<IpAddr>,
}

/// A host with or without a port.
fn server_name(text: &str) -> Result<String, String> {
    let authority: Result<http::uri::Authority, _> = text.strip_prefix("https://").unwrap_or(text).parse();
    let is_name = authority.is_ok_and(|authority| !authority.host().is_empty()) && !text.contains(['@', '*']);
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| "must be a host, or host:port, such as registry.local:5000".to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AccessLogFormat {
    /// Istio's default text format.
    Text,
    /// Istio's JSON fields.
    Json,
}

/// Serves until a signal or `/quitquitquit`. 0 after an orderly end, 1 if it could not start.
pub(super) fn run(args: Args) -> ExitCode {
    let Log { filter, lost, flush: _flush } = init_log();
    if let Err(error) = overload::raise_open_files() {
        tracing::warn!(%error, "cannot raise the limit of open files (ulimit -n) to its maximum");
    }
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")
        .and_then(|runtime| runtime.block_on(serve(args, filter, lost)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args, filter: LogFilter, lost: LostLines) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    // As Envoy.
    let mut reopen = signal(SignalKind::user_defined1()).context("cannot listen for SIGUSR1")?;
    let log = app::Options { log_filter: Some(filter), lost_log_lines: Some(lost), ..options(args)? };
    let gateway = app::start(log).await?;
    announce(&gateway);
    loop {
        tokio::select! {
            _ = reopen.recv() => {
                tracing::info!("SIGUSR1: opening the access log anew");
                gateway.reopen_access_log();
                continue;
            }
            _ = terminate.recv() => tracing::info!("SIGTERM: asking clients to leave"),
            _ = interrupt.recv() => tracing::info!("SIGINT: asking clients to leave; once more ends at once"),
            stop = gateway.stopped() => match stop {
                Stop::Asked => tracing::info!("/quitquitquit: asking clients to leave"),
                Stop::TakenOver => tracing::info!("taken over: asking clients to leave"),
            },
        }
        break;
    }
    tokio::select! {
        () = gateway.shutdown() => {}
        _ = terminate.recv() => tracing::warn!("second signal: requests in flight are cut off"),
        _ = interrupt.recv() => tracing::warn!("second signal: requests in flight are cut off"),
    }
    Ok(())
}

fn options(args: Args) -> anyhow::Result<app::Options> {
    let config = args.config.options();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let label = |names: &[&str]| names.iter().find_map(|name| config.labels.get(*name)).cloned().unwrap_or_default();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let workload = std::env::var("ISTIO_META_WORKLOAD_NAME").unwrap_or_default();
    let identity = SourceIdentity {
        workload: workload.clone(),
        namespace: config.namespace.clone(),
        canonical_service: match label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]) {
            name if name.is_empty() => workload,
            name => name,
        },
        canonical_revision: label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]),
        app: label(&["app"]),
        version: label(&["version"]),
        cluster: std::env::var("ISTIO_META_CLUSTER_ID").unwrap_or_default(),
    };
    let mesh = args.mesh_config.as_deref().map(MeshConfig::read).transpose()?.unwrap_or_default();
    let access_log = access_log(&args, &mesh);
    Ok(app::Options {
        files: args.config.files.clone(),
        workers: args.workers.map_or(cores, usize::from),
        addresses: Addresses {
            admin: args.admin_address,
            agent: args.agent_address,
            status: args.status_address,
            metrics: args.metrics_address,
        },
        admin_token_file: args.admin_token_file,
        data_dir: Some(args.data_dir.unwrap_or_else(default_data_dir)),
        takeover: args.takeover,
        insecure_registries: args.insecure_registries,
        plugin_source_ca: args.plugin_source_ca,
        safe_mode: args.safe_mode,
        drain: DrainTimes {
            shortest: Duration::from_secs(args.minimum_drain_seconds),
            longest: Duration::from_secs(args.drain_seconds),
        },
        telemetry: TelemetryOptions { identity, build_tag: String::new(), hostname: hostname.clone(), access_log },
        log_filter: None,
        lost_log_lines: None,
        identity: Identity {
            instance_ip: args.instance_ip,
            topology: topology(&mesh.gateway_topology),
            ..Identity::new(hostname, args.instance_ip, &config.namespace, &config.labels)
        },
        config,
        dns_server: args.dns_server,
        limits: crate::plugins::Limits::default(),
        client_limits: ClientLimits {
            idle_timeout: Duration::from_secs(args.idle_timeout_seconds),
            http10: args.http10,
            ..ClientLimits::default()
        },
        overload: OverloadOptions {
            memory: args.memory_limit,
            max_connections: args.max_connections.map(|most| most as usize),
        },
    })
}

/// The flag wins over the mesh's configuration; without either there is no access log, as in Istio.
fn access_log(args: &Args, mesh: &MeshConfig) -> Option<AccessLogOptions> {
    let mut log = mesh.access_log();
    if let Some(format) = args.access_log {
        let format = match format {
            AccessLogFormat::Text => LogFormat::Text,
            AccessLogFormat::Json => LogFormat::Json,
        };
        let sink = log.map_or(LogSink::Stdout, |log: AccessLogOptions| log.sink);
        log = Some(AccessLogOptions { format, sink, ..AccessLogOptions::default() });
    }
    log
}

fn topology(mesh: &GatewayTopology) -> Topology {
    Topology {
        trusted_proxies: mesh.num_trusted_proxies,
        proxy_protocol: mesh.proxy_protocol,
        client_certificate: match mesh.forward_client_cert {
            ForwardClientCert::SanitizeSet => ForwardClientCertificate::SanitizeSet,
            ForwardClientCert::Sanitize => ForwardClientCertificate::Sanitize,
            ForwardClientCert::ForwardOnly => ForwardClientCertificate::ForwardOnly,
            ForwardClientCert::AppendForward => ForwardClientCertificate::AppendForward,
            ForwardClientCert::AlwaysForwardOnly => ForwardClientCertificate::AlwaysForwardOnly,
        },
    }
}

fn default_data_dir() -> PathBuf {
    match std::env::var_os("XDG_STATE_HOME").filter(|home| !home.is_empty()) {
        Some(home) => PathBuf::from(home).join("gateway"),
        None => PathBuf::from("/var/lib/gateway"),
    }
}

/// The log of the process.
struct Log {
    filter: LogFilter,
    lost: LostLines,
    /// Writes the last lines when it is dropped.
    flush: LastLines,
}

/// The log goes to standard error.
fn init_log() -> Log {
    let (writer, flush, lost) = log_writer(std::io::stderr());
    let wanted = std::env::var("GATEWAY_LOG").ok().filter(|text| !text.is_empty());
    let (filter, layer, wrong) = LogFilter::new(wanted.as_deref().unwrap_or("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(writer);
    tracing_subscriber::registry().with(layer).with(lines).init();
    if let Some(error) = wrong {
        tracing::warn!(%error, "GATEWAY_LOG is not a filter such as info,gateway::http=debug; info is used");
    }
    Log { filter, lost, flush }
}

/// Hosts or plugins of a listener that are shown at the start.
const SHOWN: usize = 8;

/// Some names in a cell of a table. A cell must not be wider than a screen by orders of magnitude, nor than 65,535
/// characters, which is all that formatting can pad.
fn list(items: &[String]) -> String {
    match items.len().checked_sub(SHOWN) {
        _ if items.is_empty() => "-".to_owned(),
        None | Some(0) => items.join(", "),
        Some(more) => format!("{} and {more} more", items.get(..SHOWN).unwrap_or_default().join(", ")),
    }
}

/// What is bound to what: declared port → real port → hosts → plugins.
fn announce(gateway: &Gateway) {
    let mut rows = vec![["PORT", "LISTENS ON", "HOSTS", "PLUGINS"].map(str::to_owned)];
    for BoundListener { declared_port, address, hosts, plugins } in gateway.listeners() {
        rows.push([declared_port.to_string(), address.to_string(), list(&hosts), list(&plugins)]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (port, address, hosts) = (width(0), width(1), width(2));
    let admin = gateway.admin();
    let mut out = std::io::stdout().lock();
    // Without a reader there is nobody to tell.
    for [a, b, c, d] in &rows {
        let _ = writeln!(out, "{a:port$}   {b:address$}   {c:hosts$}   {d}");
    }
    let _ = writeln!(
        out,
        "\nadmin http://{}   ready http://{}/healthz/ready   metrics http://{}/stats/prometheus",
        admin.admin, admin.status, admin.metrics
    );
}
