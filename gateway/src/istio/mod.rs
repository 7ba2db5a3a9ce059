//! Resources as users write them: serde types that mirror Istio's and Kubernetes' schemas, no logic.
//!
//! Every field has a default, so that a missing one is never a decoding error: what is required is said
//! by `config/validate`. Fields that exist in Istio but that this version does not look into are
//! [`Opaque`]: known, so that nobody is told they do not exist, but without contents.
//! This module depends on nothing else of ours.

mod destination_rule;
mod endpoint_slice;
mod gateway;
mod metadata;
mod secret;
mod security;
mod service;
mod service_entry;
mod virtual_service;
mod wasm_plugin;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};

pub use destination_rule::{
    ClientTls, ConnectionPool, DestinationRule, Http2KeepAlive, HttpSettings, LoadBalancer, PortPolicy, Subset,
    TcpKeepalive, TcpSettings, TrafficPolicy,
};
pub use endpoint_slice::{EndpointPort, EndpointSlice, SliceConditions, SliceEndpoint};
pub use gateway::{Gateway, Server, ServerPort, ServerTls, TlsCertificate};
pub use metadata::{Metadata, Object};
pub use secret::{ConfigMap, Secret, Text};
pub use security::{
    AuthorizationOperation, AuthorizationPolicy, AuthorizationRule, AuthorizationTo, RequestAuthentication,
};
pub use service::{PortReference, Service, ServicePort};
pub use service_entry::{EntryPort, ServiceEntry, WorkloadEntry, WorkloadSelector};
pub use virtual_service::{
    Body, Delegate, Destination, DirectResponse, HeaderEdits, Headers, HttpMatch, HttpRoute, PortSelector, Redirect,
    RegexRewrite, Retries, Rewrite, RouteDestination, StringMatch, TcpMatch, TcpRoute, VirtualService,
};
pub use wasm_plugin::{EnvVar, PluginMatch, PortNumber, TrafficExtension, VmConfig, WasmModule, WasmPlugin};

/// Label and annotation maps.
pub type Labels = BTreeMap<String, String>;

/// A field that exists in Istio but that this version does not look into: it accepts anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opaque;

impl<'de> Deserialize<'de> for Opaque {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// `selector.matchLabels` of policies and plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that a workload must have.
    pub match_labels: Labels,
}

/// `targetRef` and `targetRefs[]` of policies and plugins: attaches to a Kubernetes Gateway API object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TargetRef {
    /// API group of the target.
    pub group: String,
    /// Kind of the target.
    pub kind: String,
    /// Name of the target.
    pub name: String,
    /// Namespace of the target; must be empty.
    pub namespace: String,
}

impl fmt::Display for TargetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}
