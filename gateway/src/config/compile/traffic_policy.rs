//! Blocks of a DestinationRule's traffic policy → what a cluster is told.
//!
//! Validation runs the same code, so that what is accepted there and what is served cannot differ. TLS has a file of
//! its own.

use std::time::Duration;

use super::matching::Fail;
use crate::{
    config::{duration, path::Path},
    istio,
    snapshot::{Balance, ConnectionSettings, Http2Keepalive, TcpKeepalive, Thresholds},
};

/// Names of `loadBalancer.simple`. PASSTHROUGH means the address that a client had in mind, which at a gateway is the
/// gateway's own.
pub(crate) const BALANCERS: [&str; 6] =
    ["UNSPECIFIED", "LEAST_REQUEST", "LEAST_CONN", "ROUND_ROBIN", "RANDOM", "PASSTHROUGH"];
/// Names of `http.h2UpgradePolicy`.
const UPGRADES: [&str; 3] = ["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"];
/// Time that an answer to a PING may take, if only the interval is given.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What `connectionPool` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) connections: ConnectionSettings,
    pub(crate) thresholds: Thresholds,
    /// Speak HTTP/2 to ports that are declared as HTTP.
    pub(crate) upgrade: bool,
    /// Speak what the client speaks.
    pub(crate) follow_client: bool,
}

/// Translates `loadBalancer`. What this version cannot do becomes Istio's default.
pub(crate) fn balance(balancer: &istio::LoadBalancer) -> Balance {
    match balancer.simple.as_deref() {
        Some("ROUND_ROBIN") => Balance::RoundRobin,
        Some("RANDOM") => Balance::Random,
        _ => Balance::LeastRequest,
    }
}

/// Translates `connectionPool`; what cannot be translated is reported.
pub(crate) fn pool(pool: &istio::ConnectionPool, path: &Path<'_>, fail: &mut Fail<'_>) -> Pool {
    let mut out = Pool::default();
    if pool.tcp.is_none() && pool.http.is_none() {
        fail(path, "connection pool must have at least one of tcp and http".to_owned());
    }
    if let Some(tcp) = &pool.tcp {
        tcp_settings(tcp, &path.key("tcp"), &mut out, fail);
    }
    if let Some(http) = &pool.http {
        http_settings(http, &path.key("http"), &mut out, fail);
    }
    out
}

fn tcp_settings(tcp: &istio::TcpSettings, path: &Path<'_>, out: &mut Pool, fail: &mut Fail<'_>) {
    out.thresholds.connections = count(tcp.max_connections, &path.key("maxConnections"), fail);
    if let Some(timeout) = time(tcp.connect_timeout.as_deref(), &path.key("connectTimeout"), fail) {
        out.connections.connect_timeout = timeout;
    }
    out.connections.max_duration =
        time(tcp.max_connection_duration.as_deref(), &path.key("maxConnectionDuration"), fail);
    time(tcp.idle_timeout.as_deref(), &path.key("idleTimeout"), fail);
    if let Some(keepalive) = &tcp.tcp_keepalive {
        let path = path.key("tcpKeepalive");
        out.connections.keepalive = TcpKeepalive {
            time: time(keepalive.time.as_deref(), &path.key("time"), fail).unwrap_or(out.connections.keepalive.time),
            interval: time(keepalive.interval.as_deref(), &path.key("interval"), fail),
            probes: count(keepalive.probes, &path.key("probes"), fail).filter(|probes| *probes > 0),
        };
    }
}

fn http_settings(http: &istio::HttpSettings, path: &Path<'_>, out: &mut Pool, fail: &mut Fail<'_>) {
    let thresholds = &mut out.thresholds;
    thresholds.pending = count(http.http1_max_pending_requests, &path.key("http1MaxPendingRequests"), fail);
    thresholds.requests = count(http.http2_max_requests, &path.key("http2MaxRequests"), fail);
    thresholds.retries = count(http.max_retries, &path.key("maxRetries"), fail);
    let requests = count(http.max_requests_per_connection, &path.key("maxRequestsPerConnection"), fail);
    out.connections.max_requests = requests;
    out.connections.max_streams = count(http.max_concurrent_streams, &path.key("maxConcurrentStreams"), fail);
    if let Some(timeout) = time(http.idle_timeout.as_deref(), &path.key("idleTimeout"), fail) {
        out.connections.idle_timeout = timeout;
    }
    let policy = http.h2_upgrade_policy.as_deref().unwrap_or("DEFAULT");
    if !UPGRADES.contains(&policy) {
        fail(&path.key("h2UpgradePolicy"), format!("{policy:?} is not one of {}", UPGRADES.join(", ")));
    }
    out.upgrade = policy == "UPGRADE";
    let follow = http.use_client_protocol == Some(true);
    if follow && out.upgrade {
        fail(
            &path.key("useClientProtocol"),
            "use client protocol must not be true when H2UpgradePolicy is UPGRADE".to_owned(),
        );
    }
    out.follow_client = follow;
    if let Some(pings) = &http.http2_keep_alive {
        let path = path.key("http2KeepAlive");
        let timeout = time(pings.timeout.as_deref(), &path.key("timeout"), fail).unwrap_or(PING_TIMEOUT);
        let interval = time(pings.interval.as_deref(), &path.key("interval"), fail);
        out.connections.http2_keepalive = interval.map(|interval| Http2Keepalive { interval, timeout });
    }
}

/// 0 is Istio's way to write "unset".
fn count(value: Option<i64>, path: &Path<'_>, fail: &mut Fail<'_>) -> Option<u32> {
    let value = value?;
    match u32::try_from(value) {
        Ok(value) if value <= i32::MAX as u32 => (value > 0).then_some(value),
        _ => {
            fail(path, format!("{value} must be in the range 0..{}", i32::MAX));
            None
        }
    }
}

fn time(text: Option<&str>, path: &Path<'_>, fail: &mut Fail<'_>) -> Option<Duration> {
    duration::parse(text?).map_err(|error| fail(path, error)).ok()
}
