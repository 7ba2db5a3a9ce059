//! Connections that carry no HTTP: for each one to an endpoint, and bytes copied both ways.
//!
//! Knows clusters and their counters; which route and cluster it is to be is `http`'s listener's business, and so is TLS
//! towards the client. Nothing is read from the client before the endpoint is connected.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    net::{End, Ended, Tunnel},
    telemetry::{Captured, Destination, Entry, Limit, ResponseFlags, TcpConnection, TlsEntry, WorkerTelemetry},
    upstream::{Cluster, Failure, RequestBody},
};

/// How often bytes are added to the metrics while a connection is open (Istio's interval).
const REPORT: Duration = Duration::from_secs(5);
/// A connection on which nothing has moved for this long is closed (Envoy's default).
const IDLE: Duration = Duration::from_secs(60 * 60);
/// After one side is done, the other may be silent for this long.
const HALF_CLOSED: Duration = Duration::from_secs(60);

/// The client's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) id: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// SNI, of a connection inside TLS.
    pub(crate) server_name: Option<&'a str>,
    /// The rest of what the log shows of TLS.
    pub(crate) tls: Option<TlsEntry<'a>>,
}

/// Where a connection goes.
pub(crate) struct Target<'a, B: RequestBody> {
    /// `outbound|9000||host`
    pub(crate) name: &'a str,
    /// Or why there is none.
    pub(crate) cluster: Result<&'a Cluster<B>, ResponseFlags>,
    pub(crate) destination: &'a Rc<Destination>,
}

/// What copies the bytes of two connections that have become one.
pub(crate) trait Relay {
    /// Bytes that the client has sent so far.
    fn received(&self) -> u64;
    /// Bytes that the service has sent so far.
    fn sent(&self) -> u64;
    /// Copies until the end; see [`Tunnel::run`].
    async fn run(&mut self, half_closed: Duration) -> Ended;
}

impl Relay for Tunnel {
    fn received(&self) -> u64 {
        self.received()
    }

    fn sent(&self) -> u64 {
        self.sent()
    }

    async fn run(&mut self, half_closed: Duration) -> Ended {
        self.run(half_closed).await
    }
}

/// Serves a client's connection until it ends; `connect` makes one of the client and the service. Dropped in the middle,
/// it is counted and logged all the same.
pub(crate) async fn proxy<B: RequestBody, R: Relay>(
    end: End,
    client: Client<'_>,
    target: Target<'_, B>,
    telemetry: &WorkerTelemetry,
    connect: impl FnOnce(End, End, SocketAddr) -> R,
) {
    let mut session = Session::begin(client, target.name, telemetry);
    let cluster = match target.cluster {
        Ok(cluster) => cluster,
        Err(flags) => return session.fail(target.destination, flags),
    };
    let Some(endpoint) = cluster.pick() else {
        return session.fail(target.destination, ResponseFlags::NO_HEALTHY_UPSTREAM);
    };
    session.upstream = Some(endpoint.address());
    let (stream, _permit) = match cluster.open(&endpoint).await {
        Ok(opened) => opened,
        Err(failure) => {
            session.failure = Some(failure.to_string());
            telemetry.counters().upstream_connect_failures.inc();
            match failure {
                Failure::Overflow(_) => telemetry.counters().limit_exceeded(Limit::UpstreamConnections),
                Failure::Descriptors => telemetry.counters().limit_exceeded(Limit::OpenFiles),
                _ => {}
            }
            return session.fail(target.destination, flags(&failure));
        }
    };
    telemetry.counters().upstream_connections_total.inc();
    session.upstream_local = stream.tcp().local_addr().ok();
    let counted = TcpConnection::open(Rc::clone(target.destination), ResponseFlags::NONE);
    let counted = &*session.counted.insert(counted);
    let tunnel =
        session.relay.insert(connect(end, End { stream, read_ahead: bytes::Bytes::new() }, endpoint.address()));
    let mut quiet = Duration::ZERO;
    let ended = loop {
        match tokio::time::timeout(REPORT, tunnel.run(HALF_CLOSED)).await {
            Ok(ended) => break ended,
            Err(_) if session.reported.report(tunnel, counted) => quiet = Duration::ZERO,
            Err(_) => quiet += REPORT,
        }
        if quiet >= IDLE {
            telemetry.counters().limit_exceeded(Limit::TcpIdleTime);
            session.flags = ResponseFlags::STREAM_IDLE_TIMEOUT;
            return;
        }
    };
    match ended {
        Ended::Closed | Ended::Filtered => {}
        Ended::HalfClosed => telemetry.counters().limit_exceeded(Limit::TcpHalfClosedTime),
        Ended::Client(_) => session.flags = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
        Ended::Upstream(_) => session.flags = ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
    }
}

fn flags(failure: &Failure) -> ResponseFlags {
    match failure {
        Failure::Overflow(_) | Failure::Descriptors => ResponseFlags::UPSTREAM_OVERFLOW,
        _ => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
    }
}

/// What has been added to the metrics already.
#[derive(Default)]
struct Reported {
    received: u64,
    sent: u64,
}

impl Reported {
    /// Returns whether there was anything new.
    fn report(&mut self, tunnel: &impl Relay, counted: &TcpConnection) -> bool {
        let (received, sent) = (tunnel.received(), tunnel.sent());
        counted.received(received - self.received);
        counted.sent(sent - self.sent);
        let moved = (received, sent) != (self.received, self.sent);
        *self = Self { received, sent };
        moved
    }
}

/// A connection while it is open; dropping it is its end.
struct Session<'a, R: Relay> {
    client: Client<'a>,
    cluster_name: &'a str,
    counted: Option<TcpConnection>,
    telemetry: &'a WorkerTelemetry,
    start: SystemTime,
    started: Instant,
    flags: ResponseFlags,
    failure: Option<String>,
    upstream: Option<SocketAddr>,
    upstream_local: Option<SocketAddr>,
    relay: Option<R>,
    reported: Reported,
}

impl<'a, R: Relay> Session<'a, R> {
    fn begin(client: Client<'a>, cluster_name: &'a str, telemetry: &'a WorkerTelemetry) -> Self {
        Self {
            client,
            cluster_name,
            counted: None,
            telemetry,
            start: SystemTime::now(),
            started: Instant::now(),
            flags: ResponseFlags::NONE,
            failure: None,
            upstream: None,
            upstream_local: None,
            relay: None,
            reported: Reported::default(),
        }
    }

    /// There is nothing to connect the client with.
    fn fail(&mut self, destination: &Rc<Destination>, flags: ResponseFlags) {
        self.counted = Some(TcpConnection::open(Rc::clone(destination), flags));
        self.flags = flags;
    }
}

impl<R: Relay> Drop for Session<'_, R> {
    fn drop(&mut self) {
        if let (Some(tunnel), Some(counted)) = (&self.relay, &self.counted) {
            self.reported.report(tunnel, counted);
        }
        let Some(log) = self.telemetry.access_log() else { return };
        log.log(&Entry {
            start: self.start,
            duration: self.started.elapsed(),
            method: "",
            path: b"",
            protocol: "",
            code: 0,
            flags: self.flags,
            code_details: "",
            connection_termination_details: "",
            upstream_transport_failure_reason: self.failure.as_deref().unwrap_or_default(),
            request_head_bytes: 0,
            response_head_bytes: 0,
            bytes_received: self.reported.received,
            bytes_sent: self.reported.sent,
            upstream_service_time: None,
            upstream_attempts: 1,
            headers: &Captured::default(),
            grpc_status: None,
            authority: None,
            upstream_host: self.upstream,
            upstream_cluster: self.cluster_name,
            upstream_local_address: self.upstream_local,
            downstream_local_address: Some(self.client.local),
            downstream_remote_address: Some(self.client.remote),
            connection_id: self.client.id,
            requested_server_name: self.client.server_name.map(str::as_bytes),
            route_name: "",
            tls: self.client.tls,
        });
    }
}
