//! `DestinationRule` (networking.istio.io): how a service is talked to, and named parts of it.

use serde::Deserialize;

use super::{Labels, Opaque, PortNumber};

/// `spec` of a DestinationRule.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DestinationRule {
    /// Host of the service; wildcards are possible.
    pub host: String,
    /// Settings for all of it.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of the service.
    pub subsets: Vec<Subset>,
    /// Namespaces that see this resource; empty: all.
    pub export_to: Vec<String>,
    /// Proxies it is limited to.
    pub workload_selector: Option<super::LabelSelector>,
}

/// A named part of a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    /// What VirtualServices refer to.
    pub name: String,
    /// Labels that its endpoints have; empty: all endpoints.
    pub labels: Labels,
    /// Settings for it; each block that it has replaces the one of the whole service.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Settings for connections to a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Connections and limits.
    pub connection_pool: Option<ConnectionPool>,
    /// Not acted on yet.
    pub outlier_detection: Option<Opaque>,
    /// TLS to the service.
    pub tls: Option<ClientTls>,
    /// Settings per port.
    pub port_level_settings: Vec<PortPolicy>,
    /// Not acted on yet.
    pub tunnel: Option<Opaque>,
    /// Not acted on yet.
    pub proxy_protocol: Option<Opaque>,
    /// Not acted on yet.
    pub retry_budget: Option<Opaque>,
}

impl TrafficPolicy {
    /// Every `tls` block: of the whole, and of ports.
    pub fn all_tls(&self) -> impl Iterator<Item = &ClientTls> {
        self.tls.iter().chain(self.port_level_settings.iter().filter_map(|port| port.tls.as_ref()))
    }
}

/// Settings for one port of a service. They replace those of the whole service: what is missing is the default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortPolicy {
    /// The port.
    pub port: PortNumber,
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Connections and limits.
    pub connection_pool: Option<ConnectionPool>,
    /// Not acted on yet.
    pub outlier_detection: Option<Opaque>,
    /// TLS to it.
    pub tls: Option<ClientTls>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// UNSPECIFIED, LEAST_REQUEST (default), LEAST_CONN (its old name), ROUND_ROBIN, RANDOM or PASSTHROUGH.
    pub simple: Option<String>,
    /// Not acted on yet.
    pub consistent_hash: Option<Opaque>,
    /// Not acted on yet.
    pub backend_utilization: Option<Opaque>,
    /// Not acted on yet.
    pub locality_lb_setting: Option<Opaque>,
    /// Not acted on yet.
    pub zone_aware_lb_setting: Option<Opaque>,
    /// Not acted on yet.
    pub warmup_duration_secs: Option<Opaque>,
    /// Not acted on yet.
    pub warmup: Option<Opaque>,
}

/// Connections and limits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionPool {
    /// Of connections.
    pub tcp: Option<TcpSettings>,
    /// Of requests.
    pub http: Option<HttpSettings>,
}

/// Settings of connections.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpSettings {
    /// Connections to the whole service at once.
    pub max_connections: Option<i64>,
    /// Default 10 s.
    pub connect_timeout: Option<String>,
    /// Probes by the operating system.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// How old a connection may get.
    pub max_connection_duration: Option<String>,
    /// For TCP proxying only.
    pub idle_timeout: Option<String>,
}

/// TCP keep-alive.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// Probes without an answer until the connection counts as dead.
    pub probes: Option<i64>,
    /// Quiet time before the first.
    pub time: Option<String>,
    /// Time between them.
    pub interval: Option<String>,
}

/// Settings of requests.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpSettings {
    /// Requests that may wait for a connection.
    pub http1_max_pending_requests: Option<i64>,
    /// Requests that may be served at once, over HTTP/1.1, too.
    pub http2_max_requests: Option<i64>,
    /// Requests per connection; 0: any number.
    pub max_requests_per_connection: Option<i64>,
    /// Requests that may be sent again at once.
    pub max_retries: Option<i64>,
    /// How long an unused connection is kept; default 1 h.
    pub idle_timeout: Option<String>,
    /// DEFAULT, DO_NOT_UPGRADE or UPGRADE: speak HTTP/2 to a port that is declared as HTTP.
    pub h2_upgrade_policy: Option<String>,
    /// Speak what the client speaks.
    pub use_client_protocol: Option<bool>,
    /// Requests at once per HTTP/2 connection.
    pub max_concurrent_streams: Option<i64>,
    /// PINGs.
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// PINGs on HTTP/2 connections.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Http2KeepAlive {
    /// Time between them.
    pub interval: Option<String>,
    /// How long an answer may take.
    pub timeout: Option<String>,
}

/// TLS to a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTls {
    /// DISABLE (default), SIMPLE, MUTUAL or ISTIO_MUTUAL.
    pub mode: Option<String>,
    /// File with our certificate and its chain (MUTUAL).
    pub client_certificate: String,
    /// File with its key (MUTUAL).
    pub private_key: String,
    /// File with the authorities that may have signed the service's certificate; empty: the system's.
    pub ca_certificates: String,
    /// Secret in the gateway's namespace, instead of files.
    pub credential_name: String,
    /// Names of which the service's certificate must have one; empty: the name that was asked for.
    pub subject_alt_names: Vec<String>,
    /// Server name to ask for; empty: the request's host.
    pub sni: String,
    /// Accept any certificate.
    pub insecure_skip_verify: Option<bool>,
    /// File with revoked certificates.
    pub ca_crl: String,
}
