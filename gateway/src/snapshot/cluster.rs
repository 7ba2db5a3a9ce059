//! Upstream clusters: a service port and the endpoints behind it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

/// A service port that requests can be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Envoy's name for it, `outbound|80||reviews.default.svc.cluster.local`; unique in a snapshot.
    pub name: Arc<str>,
    /// Host of the service, as the registry knows it.
    pub host: Arc<str>,
    /// Port of the service (not of the endpoints).
    pub port: u16,
    /// Short name of the service, the metric label `destination_service_name`.
    pub service_name: Arc<str>,
    /// Namespace of the service, the metric label `destination_service_namespace`.
    pub service_namespace: Arc<str>,
    /// What is spoken to the endpoints.
    pub protocol: UpstreamProtocol,
    /// How long a TCP connect may take. Default 10 s, as Istio.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Default 1 h, as Istio.
    pub idle_timeout: Duration,
    /// Where the service runs. Empty: requests are answered 503 (UH). Replaced on a path of its own
    /// when only endpoints change.
    pub endpoints: Arc<[Endpoint]>,
}

/// One address of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port to connect to.
    pub address: SocketAddr,
    /// Relative weight, at least 1.
    pub weight: u32,
}

/// The protocol of connections to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 in clear text with prior knowledge (service ports named or declared http2 or grpc).
    Http2,
}
