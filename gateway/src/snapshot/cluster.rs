//! Upstream clusters: a service port, or a subset of it, with the endpoints behind it and how they are used.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::pki_types::ServerName;

use super::without_port;
use crate::tls::ClientTls;

/// A service port that requests can be sent to, as a whole or in part (a DestinationRule's subset).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// Envoy's name for it, `outbound|80|v1|reviews.default.svc.cluster.local`; unique in a snapshot.
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
    /// Whether a client's own protocol is spoken instead (`useClientProtocol`).
    pub follow_client: bool,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// How connections are made and kept.
    pub connections: ConnectionSettings,
    /// How much may go on at once, over all workers.
    pub thresholds: Thresholds,
    /// What lies between the protocol and TCP.
    pub transport: Transport,
    /// Where the service runs. Empty: requests are answered 503 (UH). Of [`Self::names`] it has the addresses that
    /// were known when the snapshot was published; later ones come on a path of their own.
    pub endpoints: Arc<[Endpoint]>,
    /// Endpoints that are known by name only.
    pub names: Arc<[NamedEndpoint]>,
}

/// One address of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port to connect to.
    pub address: SocketAddr,
    /// Relative weight, at least 1.
    pub weight: u32,
}

/// An endpoint that DNS has to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEndpoint {
    /// The name, lower case, without a dot at its end.
    pub name: Arc<str>,
    /// Port to connect to.
    pub port: u16,
    /// Relative weight of each address, at least 1.
    pub weight: u32,
    /// Which addresses of an answer are used.
    pub take: Take,
}

/// Which addresses of a DNS answer are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Each is an endpoint (Istio's resolution DNS, Envoy's STRICT_DNS).
    All,
    /// The first (DNS_ROUND_ROBIN, Envoy's LOGICAL_DNS).
    First,
    /// Each that is not this host or its surroundings: the name was never registered as a service, so that whoever
    /// controls it must not reach loopback, link-local (which is where clouds answer instances) and the like.
    Foreign,
}

/// How an endpoint is chosen. All of them go by weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// Of two drawn at random the one with fewer requests; Istio's default.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
}

/// How connections to endpoints are made and kept (`connectionPool`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// How long a connect may take, TLS handshake included. Default 10 s, as Istio.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Default 1 h, as Istio.
    pub idle_timeout: Duration,
    /// How old a connection may get. Requests on it finish. Default: any age.
    pub max_duration: Option<Duration>,
    /// How many requests a connection may carry. Default: any number.
    pub max_requests: Option<u32>,
    /// How many requests an HTTP/2 connection may carry at once, besides what the service allows. Default: any number.
    pub max_streams: Option<u32>,
    /// Probes by the operating system.
    pub keepalive: TcpKeepalive,
    /// PINGs on HTTP/2 connections. Default: none.
    pub http2_keepalive: Option<Http2Keepalive>,
}

/// TCP keep-alive. What is `None` is the operating system's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Quiet time before the first probe. Default 60 s, so that a vanished upstream is noticed.
    pub time: Duration,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Probes without an answer until the connection counts as dead.
    pub probes: Option<u32>,
}

/// PINGs on an HTTP/2 connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// Time between them.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// How much may go on in a cluster at once, over all workers. `None`: any number, Istio's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thresholds {
    /// Connections. One per endpoint and worker is always allowed, as in Envoy: nobody waits forever.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending: Option<u32>,
    /// Requests that are being served.
    pub requests: Option<u32>,
    /// Requests that are being sent again.
    pub retries: Option<u32>,
}

/// What lies between the protocol and TCP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Transport {
    /// Nothing.
    #[default]
    Plain,
    /// TLS.
    Tls(Arc<ClientTls>),
    /// TLS that cannot be had, and why: no connection is made. Never clear text instead.
    Unusable(Arc<str>),
}

/// The protocol of connections to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1 with keep-alive.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge, or by ALPN inside TLS (service ports named or declared http2 or grpc).
    Http2,
}

impl Cluster {
    /// What is spoken for a client that speaks HTTP/2 or does not.
    #[must_use]
    pub fn protocol_for(&self, http2_client: bool) -> UpstreamProtocol {
        match self.follow_client {
            false => self.protocol,
            true if http2_client => UpstreamProtocol::Http2,
            true => UpstreamProtocol::Http1,
        }
    }
}

impl Transport {
    /// The name to ask for in handshakes when a request is for this authority; `None`: there is no TLS.
    ///
    /// # Errors
    /// There can be no TLS; the text says why.
    pub fn server_name(&self, authority: &str) -> Result<Option<ServerName<'static>>, String> {
        match self {
            Self::Plain => Ok(None),
            Self::Tls(tls) => tls.server_name(without_port(authority)).map(Some).map_err(|error| error.to_string()),
            Self::Unusable(reason) => Err(reason.to_string()),
        }
    }
}

impl NamedEndpoint {
    /// The endpoints that an answer of DNS makes of it.
    pub fn endpoints(&self, addresses: &[IpAddr]) -> impl Iterator<Item = Endpoint> {
        let most = if self.take == Take::First { 1 } else { usize::MAX };
        let usable = addresses.iter().filter(|ip| self.take != Take::Foreign || is_foreign(**ip));
        let endpoint = |ip: &IpAddr| Endpoint { address: SocketAddr::new(*ip, self.port), weight: self.weight };
        usable.take(most).map(endpoint)
    }
}

/// Whether an address is neither this host's own nor one of its surroundings.
fn is_foreign(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            // Besides 169.254.169.254, which is link-local, clouds answer instances here.
            let metadata = [[100, 100, 100, 200], [168, 63, 129, 16], [192, 0, 0, 192]];
            let this_network = ip.octets().first() == Some(&0);
            let none = ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast();
            !none && !this_network && !metadata.contains(&ip.octets())
        }
        IpAddr::V6(ip) => {
            let metadata = ip.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
            // `::a.b.c.d`, NAT64 and 6to4 lead to IPv4 addresses.
            let embeds_v4 = matches!(ip.segments(), [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, ..] | [0x2002, ..]);
            !(ip.is_unicast_link_local() || ip.is_multicast() || metadata || embeds_v4)
        }
    }
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            max_duration: None,
            max_requests: None,
            max_streams: None,
            keepalive: TcpKeepalive { time: Duration::from_secs(60), interval: None, probes: None },
            http2_keepalive: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_that_nobody_registered_do_not_lead_home() {
        let endpoint = |take| NamedEndpoint { name: "a".into(), port: 80, weight: 2, take };
        for (address, foreign) in [
            ("127.0.0.1", false),
            ("127.8.8.8", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("100.100.100.200", false),
            ("::1", false),
            ("::", false),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
            ("10.0.0.1", true),
            ("93.184.216.34", true),
            ("2606:2800:220:1::1", true),
        ] {
            let addresses = [address.parse().unwrap()];
            assert_eq!(endpoint(Take::Foreign).endpoints(&addresses).count(), usize::from(foreign), "{address}");
            assert_eq!(endpoint(Take::All).endpoints(&addresses).count(), 1, "{address}");
        }
        let two = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let found: Vec<_> = endpoint(Take::First).endpoints(&two).collect();
        assert_eq!(found, [Endpoint { address: "10.0.0.1:80".parse().unwrap(), weight: 2 }]);
    }
}
