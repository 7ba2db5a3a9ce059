//! `ServiceEntry` (networking.istio.io): a service and where it runs.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Labels;

/// `spec` of a ServiceEntry.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntry {
    /// Names of the service.
    pub hosts: Vec<String>,
    /// Virtual addresses; of no use to a gateway.
    pub addresses: Vec<String>,
    /// Ports of the service.
    pub ports: Vec<EntryPort>,
    /// MESH_EXTERNAL or MESH_INTERNAL.
    pub location: Option<String>,
    /// NONE (default), STATIC, DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS.
    pub resolution: Option<String>,
    /// Where it runs.
    pub endpoints: Vec<WorkloadEntry>,
    /// Pods or WorkloadEntries as endpoints.
    pub workload_selector: Option<WorkloadSelector>,
    /// Namespaces that see this resource; empty: all.
    pub export_to: Vec<String>,
    /// Names that the service's certificate must have.
    pub subject_alt_names: Vec<String>,
}

/// A port of a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EntryPort {
    /// 1-65535, unique.
    pub number: u32,
    /// HTTP, HTTP2, GRPC, HTTPS, TLS, TCP, MONGO; empty: by name.
    pub protocol: String,
    /// Unique.
    pub name: String,
    /// Port of the endpoints, if different.
    pub target_port: Option<u32>,
}

/// An endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadEntry {
    /// IP address (STATIC) or host name (DNS).
    pub address: String,
    /// Service port name to port of this endpoint.
    pub ports: BTreeMap<String, u32>,
    /// For subsets.
    pub labels: Labels,
    /// For multi-network meshes.
    pub network: String,
    /// region/zone/subzone.
    pub locality: String,
    /// Relative weight; unset: 1.
    pub weight: Option<u32>,
    /// SPIFFE identity.
    pub service_account: String,
}

/// Labels of Pods or WorkloadEntries.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// All of them.
    pub labels: Labels,
}
