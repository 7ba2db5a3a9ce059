//! Kubernetes `EndpointSlice` (discovery.k8s.io/v1). It has no `spec`: its fields stand at the top.

use serde::Deserialize;

use super::{Metadata, PortReference};

/// A whole EndpointSlice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name, namespace and the label `kubernetes.io/service-name`.
    pub metadata: Metadata,
    /// IPv4, IPv6 or FQDN.
    pub address_type: String,
    /// Endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports of every endpoint.
    pub ports: Vec<EndpointPort>,
}

/// One endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// Addresses that mean the same endpoint; the first is used.
    pub addresses: Vec<String>,
    /// Its state.
    pub conditions: SliceConditions,
}

/// State of an endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SliceConditions {
    /// Unset counts as ready.
    pub ready: Option<bool>,
}

/// A port of a slice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointPort {
    /// Name of the Service's port.
    pub name: String,
    /// Number at the endpoint.
    pub port: Option<PortReference>,
    /// TCP (default), UDP or SCTP.
    pub protocol: String,
}
