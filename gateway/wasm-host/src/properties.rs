//! What `get_property` answers about an exchange, beside its heads: facts the HTTP layer fills in as it
//! learns them, and values that plugins stored with `set_property`. Plain data; how a path such as
//! `source.address` is resolved is in `host/property.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::Metadata;

/// The facts of one exchange. Everything unknown is absent ("not found" to the plugin).
#[derive(Clone, Debug, Default)]
pub struct Properties {
    /// `request.id`
    pub request_id: Option<Bytes>,
    /// `request.time`
    pub started: Option<SystemTime>,
    /// `request.protocol`: `HTTP/1.1` or `HTTP/2`.
    pub protocol: Option<&'static str>,
    /// `request.duration`, when the exchange is over.
    pub duration: Option<Duration>,
    /// `request.size`: body bytes received from the client so far.
    pub request_bytes: u64,
    /// `response.size`: body bytes sent to the client so far.
    pub response_bytes: u64,
    /// `response.code_details`
    pub response_code_details: Option<Arc<str>>,
    /// `response.flags`: Envoy's bit set.
    pub response_flags: u64,
    /// `response.grpc_status`
    pub grpc_status: Option<u32>,
    /// `source.address`, `source.port`: the client.
    pub source: Option<SocketAddr>,
    /// `destination.address`, `destination.port`: the listener's address the client reached.
    pub destination: Option<SocketAddr>,
    /// `connection.id`, `connection_id`
    pub connection_id: Option<u64>,
    /// `connection.*` of the client's TLS session, if it has one.
    pub tls: Option<Arc<TlsFacts>>,
    /// `xds.route_name`, `route_name`
    pub route_name: Option<Arc<str>>,
    /// `xds.virtual_host_name`
    pub virtual_host_name: Option<Arc<str>>,
    /// `xds.cluster_name`, `cluster_name`
    pub cluster_name: Option<Arc<str>>,
    /// `xds.route_metadata`, `route_metadata`
    pub route_metadata: Option<Arc<Metadata>>,
    /// `xds.cluster_metadata`, `cluster_metadata`: absent without [`Self::cluster_name`].
    pub cluster_metadata: Option<Arc<Metadata>>,
    /// `xds.listener_direction`, `listener_direction`
    pub listener_direction: Direction,
    /// `upstream.address`, `upstream.port`: the endpoint that was chosen.
    pub upstream: Option<SocketAddr>,
    /// `upstream.local_address`
    pub upstream_local: Option<SocketAddr>,
    /// `upstream.request_attempt_count`: how often the request was sent.
    pub upstream_attempts: u32,
    /// `response.backend_latency`: from the arrival of the request to the head of the upstream's response.
    pub backend_latency: Option<Duration>,
    /// `upstream.transport_failure_reason`
    pub upstream_failure: Option<Arc<str>>,
    /// `xds.node`, `node`: who this gateway is.
    pub node: Option<Arc<Node>>,
    pub(crate) stored: Stored,
}

/// Facts of the client's TLS session. Empty texts and lists are unknown.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// `connection.mtls`: the client proved its identity.
    pub mutual: bool,
    /// `connection.tls_version`: `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// `connection.requested_server_name`
    pub server_name: String,
    /// `connection.subject_peer_certificate`
    pub subject_peer: String,
    /// `connection.subject_local_certificate`
    pub subject_local: String,
    /// `connection.uri_san_peer_certificate`: the first one.
    pub uri_san_peer: String,
    /// `connection.uri_san_local_certificate`
    pub uri_san_local: String,
    /// `connection.dns_san_peer_certificate`: the first one.
    pub dns_san_peer: String,
    /// `connection.dns_san_local_certificate`
    pub dns_san_local: String,
    /// `connection.sha256_peer_certificate_digest`: hexadecimal.
    pub sha256_peer: String,
}

/// Which way a listener faces, as Envoy numbers it. Istio's gateways are outbound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// 0
    Unspecified = 0,
    /// 1
    Inbound = 1,
    /// 2
    #[default]
    Outbound = 2,
}

/// Who this gateway is (`node.*`).
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// `node.id`, as Istio forms it: `router~IP~NAME.NAMESPACE~DOMAIN`.
    pub id: String,
    /// `node.cluster`
    pub cluster: String,
    /// `node.metadata.KEY`: `NAME`, `NAMESPACE`, `CLUSTER_ID`, `MESH_ID` and the like.
    pub metadata: Vec<(String, String)>,
    /// `node.metadata.LABELS`
    pub labels: Vec<(String, String)>,
}

impl Properties {
    /// The value a plugin stored with `set_property` under this path (segments joined by NUL). The
    /// access log shows it as filter state `wasm.<path>`.
    pub fn stored(&self, path: &[u8]) -> Option<&[u8]> {
        self.stored.get(path)
    }
}

/// Values from `set_property`: few, so a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored(Vec<(Box<[u8]>, Bytes)>);

/// There is no room for the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Stored {
    /// Most values per exchange.
    const MAX: usize = 64;

    pub(crate) fn get(&self, path: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(stored, _)| **stored == *path).map(|(_, value)| &value[..])
    }

    pub(crate) fn set(&mut self, path: &[u8], value: &[u8], max_bytes: usize) -> Result<(), Full> {
        let others = self.0.iter().filter(|(stored, _)| **stored != *path);
        let bytes = others.fold(path.len() + value.len(), |sum, (path, value)| sum + path.len() + value.len());
        if bytes > max_bytes {
            return Err(Full);
        }
        let value = Bytes::copy_from_slice(value);
        if let Some((_, place)) = self.0.iter_mut().find(|(stored, _)| **stored == *path) {
            *place = value;
        } else if self.0.len() < Self::MAX {
            self.0.push((path.into(), value));
        } else {
            return Err(Full);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_values_are_limited() {
        let mut stored = Stored::default();
        assert_eq!(stored.set(b"abc", b"1234567", 10), Ok(()));
        assert_eq!(stored.set(b"x", b"", 10), Err(Full));
        assert_eq!(stored.set(b"abc", b"123456", 10), Ok(()), "its own old value does not count");
        assert_eq!(stored.set(b"x", b"", 10), Ok(()));
        assert_eq!(stored.get(b"abc"), Some(&b"123456"[..]));
        assert_eq!(stored.get(b"ab"), None);
        for index in 0..100u8 {
            let room = stored.0.len() < Stored::MAX;
            assert_eq!(stored.set(&[index, 0], b"", 10_000).is_ok(), room);
        }
    }
}
