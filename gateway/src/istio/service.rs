//! Kubernetes `Service` (v1), as far as a gateway reads it.

use serde::Deserialize;

use super::Labels;

/// `spec` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Service {
    /// Labels of its pods.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its virtual address; `None` for a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// ClusterIP (default), NodePort, LoadBalancer or ExternalName.
    #[serde(rename = "type")]
    pub service_type: String,
}

/// A port of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// Name; may be empty if it is the only one.
    pub name: String,
    /// 1-65535.
    pub port: u32,
    /// TCP (default), UDP or SCTP.
    pub protocol: String,
    /// Port of the pods.
    pub target_port: Option<PortReference>,
    /// `http`, `kubernetes.io/h2c`, `grpc`, …
    pub app_protocol: String,
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PortReference {
    /// Number.
    Number(u32),
    /// Name of a container port.
    Name(String),
}
