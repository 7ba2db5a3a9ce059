//! What is remembered of a request until it is over: then it is counted and logged, whatever way it ended.

use std::{
    borrow::Cow,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use heads::{HeaderList, RequestHead, ResponseHead, header};
use http::{HeaderMap, HeaderValue, Method};
use proxy_wasm_host::Properties;

use super::{
    activity::Activity, body::ClientBytes, connection::Connection, grpc_messages::GrpcMessages, plugins::Filters,
    progress::Watched, request::Arrived, secured::Secured,
};
use crate::telemetry::{Captured, Destination, Entry, Limit, Observation, RequestProtocol, ResponseFlags, Span};

/// Follows a request; dropping it is the end of the request.
pub(super) struct Record {
    connection: Rc<Connection>,
    started: Instant,
    grpc: bool,
    /// The client's address; behind trusted proxies not that of the connection.
    pub(super) client: SocketAddr,
    /// Status sent to the client; 0 as long as none was.
    pub(super) code: u16,
    pub(super) flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`
    pub(super) details: Cow<'static, str>,
    pub(super) destination: Rc<Destination>,
    pub(super) request_head_bytes: u64,
    pub(super) request_body: Option<Rc<ClientBytes>>,
    pub(super) response_head_bytes: u64,
    pub(super) response_body_bytes: u64,
    pub(super) grpc_status: Option<u16>,
    /// Messages of the response, if the request is gRPC.
    messages: GrpcMessages,
    /// Messages of both directions that the destination knows of.
    reported: (u64, u64),
    /// Whether the whole response was handed to the connection.
    pub(super) complete: bool,
    /// Told that the stream has ended.
    pub(super) filters: Option<Rc<Filters>>,
    /// Only if there is an access log.
    pub(super) log: Option<Box<LogFields>>,
}

/// Copies of what the access log prints. Copies, because a kept header value would keep what was read with it.
#[derive(Default)]
pub(super) struct LogFields {
    wall: Option<SystemTime>,
    method: Option<Method>,
    path: Span,
    protocol: &'static str,
    authority: Option<Span>,
    headers: Captured,
    pub(super) route: Option<Arc<str>>,
    pub(super) cluster: Option<Arc<str>>,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) upstream_local: Option<SocketAddr>,
    /// How often the request was sent.
    pub(super) attempts: u32,
    pub(super) upstream_time: Option<Duration>,
    pub(super) upstream_failure: Option<String>,
}

impl Record {
    /// A request has arrived.
    pub(super) fn start(connection: &Rc<Connection>, arrived: &Arrived, grpc: bool) -> Self {
        connection.activity.begin();
        connection.worker.telemetry.counters().requests_in_flight.inc();
        let log = connection.worker.log_headers.as_ref().map(|wanted| {
            let mut log = Box::<LogFields>::default();
            log.wall = Some(SystemTime::now());
            log.headers.make_slots(wanted.slots());
            log.method = Some(arrived.method.clone());
            log.protocol = protocol(arrived.version);
            if let Some(path) = arrived.uri.path_and_query() {
                log.path = log.headers.keep(path.as_str().as_bytes());
            }
            let authority = arrived.uri.authority().map(|authority| authority.as_str().as_bytes());
            let authority = authority.or_else(|| arrived.headers.get(&header::HOST).map(HeaderValue::as_bytes));
            log.authority = authority.map(|authority| log.headers.keep(authority));
            log
        });
        Self {
            started: Instant::now(),
            grpc,
            client: connection.remote,
            code: 0,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(""),
            destination: Rc::clone(&connection.worker.nowhere),
            request_head_bytes: 0,
            request_body: None,
            response_head_bytes: 0,
            response_body_bytes: 0,
            grpc_status: None,
            messages: GrpcMessages::default(),
            reported: (0, 0),
            complete: false,
            filters: None,
            log,
            connection: Rc::clone(connection),
        }
    }

    /// The head was not accepted; this is what was in it.
    pub(super) fn rejected(&mut self, headers: &HeaderList) {
        self.copy_request(headers);
    }

    fn copy_request(&mut self, headers: &HeaderList) {
        if let (Some(log), Some(wanted)) = (&mut self.log, &self.connection.worker.log_headers) {
            wanted.copy_request(headers, &mut log.headers);
        }
    }

    /// The head was accepted: the forwarding headers are in it now. `bytes` is the size of the client's headers.
    pub(super) fn admitted(&mut self, head: &RequestHead, bytes: u64, client: Option<SocketAddr>) {
        let line = head.method.as_str().len() + head.target.as_str().len() + "  HTTP/1.1\r\n".len();
        self.request_head_bytes = bytes + (line + 2) as u64;
        self.client = client.unwrap_or(self.client);
        self.copy_request(&head.headers);
    }

    /// The head of the response is what the client gets.
    pub(super) fn responded(&mut self, head: &ResponseHead) {
        self.code = head.status.as_u16();
        self.response_head_bytes = head_bytes(head);
        if let (Some(log), Some(wanted)) = (&mut self.log, &self.connection.worker.log_headers) {
            wanted.copy_response(&head.headers, &mut log.headers);
        }
    }

    /// The response has trailers.
    pub(super) fn ended_with(&mut self, trailers: &HeaderMap) {
        if let (Some(log), Some(wanted)) = (&mut self.log, &self.connection.worker.log_headers) {
            wanted.copy_trailers(trailers, &mut log.headers);
        }
    }

    /// A piece of the response's body is on its way to the client.
    pub(super) fn received(&mut self, data: &[u8]) {
        self.response_body_bytes += data.len() as u64;
        if self.grpc {
            self.messages.feed(data);
            self.report_messages();
        }
    }

    /// Whether [`Self::received`] has to see them: messages of gRPC are counted in them.
    pub(super) fn looks_at_bytes(&self) -> bool {
        self.grpc
    }

    /// A piece of the response's body that nobody has looked at is on its way to the client.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.response_body_bytes += bytes as u64;
    }

    /// Tells the destination of gRPC messages as they come: streams may last for hours.
    fn report_messages(&mut self) {
        let request = self.request_body.as_ref().and_then(|body| body.messages.get()).map_or(0, GrpcMessages::count);
        let (known_request, known_response) = std::mem::replace(&mut self.reported, (request, self.messages.count()));
        let new = (request.saturating_sub(known_request), self.reported.1.saturating_sub(known_response));
        if new != (0, 0) {
            self.destination.messages(new.0, new.1);
        }
    }

    /// Nobody knows what was asked for: what stands for it was not sent by the client.
    pub(super) fn forget_request(&mut self) {
        if let Some(log) = &mut self.log {
            log.method = None;
            log.path = Span::default();
        }
    }

    /// Watches the body of this request, unless it may take as long as it likes.
    pub(super) fn watch(&self, body: &ClientBytes) -> Option<Watched> {
        let worker = &self.connection.worker;
        (!self.grpc).then(|| worker.bodies.watch(Rc::clone(&body.waiting), worker.clock.clone()))
    }

    pub(super) fn activity(&self) -> &Rc<Activity> {
        &self.connection.activity
    }

    /// Since the request arrived.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Whether the client broke its request off.
    pub(super) fn is_broken_off(&self) -> bool {
        self.request_body.as_ref().is_some_and(|body| body.broken.get())
    }

    pub(super) fn limit_exceeded(&self, limit: Limit) {
        self.connection.worker.telemetry.counters().limit_exceeded(limit);
    }

    /// Notes what plugins may ask for, if there are any.
    pub(super) fn note(&self, fact: impl FnOnce(&mut Properties)) {
        if let Some(filters) = &self.filters {
            filters.note(fact);
        }
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete && self.flags.is_empty() {
            self.flags = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
            self.details = Cow::Borrowed("downstream_remote_disconnect");
        }
        if self.grpc {
            self.report_messages();
        }
        let duration = self.started.elapsed();
        let worker = &self.connection.worker;
        let request_body = self.request_body.as_ref().map_or(0, |body| body.count.get());
        self.destination.observe(&Observation {
            protocol: if self.grpc { RequestProtocol::Grpc } else { RequestProtocol::Http },
            code: self.code,
            flags: self.flags,
            grpc_status: self.grpc_status,
            duration,
            request_bytes: self.request_head_bytes + request_body,
            response_bytes: self.response_head_bytes + self.response_body_bytes,
        });
        if let Some(filters) = self.filters.take() {
            let bytes = (request_body, self.response_body_bytes);
            filters.close(self.code, self.flags, &self.details, duration, bytes);
            if let (Some(log), Some(wanted)) = (&mut self.log, &worker.log_headers) {
                wanted.copy_filter_state(&filters, &mut log.headers);
            }
        }
        worker.telemetry.counters().requests_in_flight.dec();
        self.connection.activity.end(self.complete);
        if let (Some(log), Some(writer)) = (&self.log, worker.telemetry.access_log()) {
            writer.log(&Entry {
                start: log.wall.unwrap_or(SystemTime::UNIX_EPOCH),
                duration,
                method: log.method.as_ref().map_or("", Method::as_str),
                path: log.headers.kept(log.path),
                protocol: log.protocol,
                code: self.code,
                flags: self.flags,
                code_details: &self.details,
                connection_termination_details: "",
                upstream_transport_failure_reason: log.upstream_failure.as_deref().unwrap_or_default(),
                request_head_bytes: self.request_head_bytes,
                response_head_bytes: self.response_head_bytes,
                bytes_received: request_body,
                bytes_sent: self.response_body_bytes,
                upstream_service_time: log.upstream_time.map(|time| time.as_millis() as u64),
                upstream_attempts: log.attempts,
                headers: &log.headers,
                grpc_status: self.grpc_status,
                connection_id: self.connection.id,
                authority: log.authority.map(|authority| log.headers.kept(authority)),
                upstream_host: log.upstream,
                upstream_cluster: log.cluster.as_deref().unwrap_or_default(),
                upstream_local_address: log.upstream_local,
                downstream_local_address: Some(self.connection.local),
                downstream_remote_address: Some(self.client),
                requested_server_name: self
                    .connection
                    .secured
                    .as_ref()
                    .and_then(Secured::server_name)
                    .map(str::as_bytes),
                tls: self.connection.secured.as_ref().map(Secured::log_entry),
                route_name: log.route.as_deref().unwrap_or_default(),
            });
        }
    }
}

/// Size of a response's head as HTTP/1.1 writes it; HTTP/2 compresses it, so there it is what a client makes of it.
fn head_bytes(head: &ResponseHead) -> u64 {
    let line = "HTTP/1.1 200 ".len() + head.status.canonical_reason().map_or(0, str::len) + 2;
    // The connection adds the date.
    let date = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len();
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    (line + fields + date + 2) as u64
}

/// As Envoy's `%PROTOCOL%`.
pub(super) fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
