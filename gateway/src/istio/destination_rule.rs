//! `DestinationRule` (networking.istio.io), read only for what must not be ignored: TLS to the service.

use serde::Deserialize;

use super::{Opaque, PortNumber};

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
    pub workload_selector: Option<Opaque>,
}

/// A named part of a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    /// What VirtualServices refer to.
    pub name: String,
    /// Settings for it.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Settings for connections to a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// TLS to the service.
    pub tls: Option<ClientTls>,
    /// Settings per port.
    pub port_level_settings: Vec<PortPolicy>,
    /// Not acted on yet.
    pub load_balancer: Option<Opaque>,
    /// Not acted on yet.
    pub connection_pool: Option<Opaque>,
    /// Not acted on yet.
    pub outlier_detection: Option<Opaque>,
    /// Not acted on yet.
    pub tunnel: Option<Opaque>,
    /// Not acted on yet.
    pub proxy_protocol: Option<Opaque>,
    /// Not acted on yet.
    pub retry_budget: Option<Opaque>,
}

/// Settings for one port of a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortPolicy {
    /// The port.
    pub port: PortNumber,
    /// TLS to it.
    pub tls: Option<ClientTls>,
}

/// TLS to a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTls {
    /// DISABLE (default), SIMPLE, MUTUAL or ISTIO_MUTUAL.
    pub mode: Option<String>,
}
