//! What one worker counts about itself: connections, requests in flight, limits that were hit.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Instant};

use super::{
    AccessLog, Destination, PluginStats, Process,
    cells::{Cells, Counter, Gauge},
    destination::ServiceLabels,
    directory::Handles,
    plugin::PluginLabels,
};
use crate::snapshot::Cluster;

/// Everything of one worker. Lives on the worker's thread; what it hands out does too.
#[derive(Debug)]
pub struct WorkerTelemetry {
    process: Arc<Process>,
    counters: Arc<WorkerCounters>,
    destinations: RefCell<Handles<ServiceLabels, Destination>>,
    plugins: RefCell<Handles<PluginLabels, PluginStats>>,
    access_log: Option<AccessLog>,
}

impl WorkerTelemetry {
    pub(super) fn new(process: &Arc<Process>) -> Self {
        Self {
            counters: process.workers.join(),
            destinations: RefCell::default(),
            plugins: RefCell::default(),
            access_log: process.access_log.as_ref().map(AccessLog::new),
            process: Arc::clone(process),
        }
    }

    /// The handle for requests to a cluster's service; `None` for requests that go nowhere (404, redirect, …).
    ///
    /// Costs a few allocations and perhaps a lock: ask when a route is first used and keep it as long as the
    /// route. All askers on this worker share one handle per service.
    #[must_use]
    pub fn destination(&self, cluster: Option<&Cluster>) -> Rc<Destination> {
        self.destinations.borrow_mut().get(ServiceLabels::of(cluster), |labels| {
            Destination::new(self.process.destinations.open(labels, Instant::now(), Default::default))
        })
    }

    /// The handle for one version of a plugin. Costs as [`Self::destination`]; keep it as long as the version runs here.
    #[must_use]
    pub fn plugin(&self, namespace: &str, name: &str, digest: &str) -> Rc<PluginStats> {
        self.plugins.borrow_mut().get(PluginLabels::new(namespace, name, digest), |labels| {
            PluginStats::new(self.process.plugins.open(labels, Instant::now(), Default::default))
        })
    }

    /// This worker's counters.
    #[must_use]
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Where requests are logged; `None` if nobody asked for an access log.
    #[must_use]
    pub fn access_log(&self) -> Option<&AccessLog> {
        self.access_log.as_ref()
    }
}

impl Drop for WorkerTelemetry {
    fn drop(&mut self) {
        self.process.workers.leave(&self.counters);
    }
}

/// A number of [`WorkerCounters`] at export.
pub(super) enum Sample {
    /// Of a [`Counter`].
    Counter(u64),
    /// Of a [`Gauge`].
    Gauge(u64),
}

impl From<&Counter> for Sample {
    fn from(counter: &Counter) -> Self {
        Self::Counter(counter.get())
    }
}

impl From<&Gauge> for Sample {
    fn from(gauge: &Gauge) -> Self {
        Self::Gauge(gauge.get())
    }
}

macro_rules! worker_counters {
    ($($field:ident: $kind:ident $name:literal $help:literal;)*) => {
        /// What one worker counts that has no labels. Only that worker's thread writes.
        #[derive(Debug, Default)]
        pub struct WorkerCounters {
            $(#[doc = concat!($help, " `", $name, "`.")] pub $field: $kind,)*
            limits: LimitCounters,
        }

        impl WorkerCounters {
            /// Name and help of every number without labels.
            pub(super) const NAMES: &[(&str, &str)] = &[$(($name, $help)),*];

            /// Every number without labels, as in [`Self::NAMES`].
            pub(super) fn samples(&self) -> Vec<Sample> {
                vec![$(Sample::from(&self.$field)),*]
            }
        }

        impl Cells for WorkerCounters {
            fn absorb(&self, other: &Self) {
                $(self.$field.absorb(&other.$field);)*
                self.limits.absorb(&other.limits);
            }

            fn settle(&self) {
                $(self.$field.settle();)*
            }
        }
    };
}

worker_counters! {
    downstream_connections: Gauge "gateway_downstream_connections" "Connections from clients that are open.";
    downstream_connections_total: Counter "gateway_downstream_connections_total" "Connections from clients that were accepted.";
    downstream_connections_refused: Counter "gateway_downstream_connections_refused_total" "Connections from clients that were closed at once because there were too many, or no descriptors or memory left.";
    downstream_protocol_errors: Counter "gateway_downstream_protocol_errors_total" "Requests and connections from clients that broke the protocol.";
    tls_handshakes: Counter "gateway_tls_handshakes_total" "TLS handshakes with clients that came to their end.";
    tls_resumptions: Counter "gateway_tls_resumptions_total" "TLS handshakes with clients that resumed a session.";
    tls_handshake_failures: Counter "gateway_tls_handshake_failures_total" "TLS handshakes with clients that failed, whoever was at fault.";
    tls_unserved: Counter "gateway_tls_unserved_total" "TLS handshakes that were reset because no server has the name, or its certificate cannot be used.";
    accept_errors: Counter "gateway_accept_errors_total" "Times that accepting a connection failed, for example because there were no file descriptors left.";
    requests_in_flight: Gauge "gateway_requests_in_flight" "Requests that are being served.";
    tasks: Gauge "gateway_worker_tasks" "Tasks of the workers: connections, HTTP/2 streams, listeners.";
    panics: Counter "gateway_panics_total" "Connections that were lost to an error in the gateway itself.";
    upstream_connections: Gauge "gateway_upstream_connections" "Connections to upstreams that are open, idle ones included.";
    upstream_connections_total: Counter "gateway_upstream_connections_total" "Connections to upstreams that were established.";
    upstream_connections_reused: Counter "gateway_upstream_connections_reused_total" "Requests that went over an upstream connection that had been used before.";
    upstream_connect_failures: Counter "gateway_upstream_connect_failures_total" "Connections to upstreams that could not be established.";
    upstream_retries: Counter "gateway_upstream_retries_total" "Times that a request was sent again.";
}

impl WorkerCounters {
    /// A limit was hit.
    #[inline]
    pub fn limit_exceeded(&self, limit: Limit) {
        self.limit_exceeded_times(limit, 1);
    }

    /// A limit was hit so many times.
    #[inline]
    pub fn limit_exceeded_times(&self, limit: Limit, times: u64) {
        if let Some(counter) = self.limits.0.get(limit as usize) {
            counter.add(times);
        }
    }

    /// Every limit with how often it was hit.
    pub(super) fn limits(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.iter().copied().zip(self.limits.0.iter().map(Counter::get))
    }
}

/// One counter per limit.
#[derive(Debug)]
struct LimitCounters([Counter; LIMITS]);

impl Default for LimitCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Cells for LimitCounters {
    fn absorb(&self, other: &Self) {
        for (mine, theirs) in self.0.iter().zip(&other.0) {
            mine.absorb(theirs);
        }
    }
}

macro_rules! limits {
    ($($name:ident $label:literal $meaning:literal;)*) => {
        /// Every limit that can be hit; the label `limit` of `gateway_limit_exceeded_total`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Limit {
            $(#[doc = concat!($meaning, ": `", $label, "`.")] $name,)*
        }

        impl Limit {
            /// Every limit.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Value of the label `limit`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }
        }
    };
}

limits! {
    DownstreamConnections "downstream_connections" "Too many connections from clients";
    OpenFiles "open_files" "The file descriptors that are left are kept for others";
    WorkerQueueTime "worker_queue_time" "A worker has more to do than it can: a request that waited was answered 503";
    MemoryKeepAlive "memory_keep_alive" "Memory runs out: an answer ended its connection";
    MemoryRequests "memory_requests" "Memory runs out: a request was answered 503";
    MemoryConnections "memory_connections" "Memory runs out: a connection was closed at once";
    RequestHeadBytes "request_head_bytes" "The head of a request is too large";
    RequestHeaders "request_headers" "A request has too many headers";
    IdleTime "idle_time" "A client's connection had no request for too long";
    DrainHeadTime "drain_head_time" "The gateway or its listener ends, and a connection had no request";
    RequestHeadTime "request_head_time" "The head of a request did not arrive in time";
    TlsHandshakeTime "tls_handshake_time" "A TLS handshake with a client did not end in time";
    TlsHelloBytes "tls_hello_bytes" "The first message of a TLS handshake is too large";
    RequestBodyTime "request_body_time" "The body of a request made no progress";
    ResponseWriteTime "response_write_time" "The client does not read the response";
    RequestTime "request_time" "The request exceeded the timeout of its route";
    ProxyHeaderBytes "proxy_header_bytes" "A PROXY protocol header is too long";
    ChunkExtensionBytes "chunk_extension_bytes" "The chunk extensions of a request body are too large";
    RequestTrailerBytes "request_trailer_bytes" "The trailers of a request are too large or too many";
    UpgradeHalfClosedTime "upgrade_half_closed_time" "One side of an upgraded connection has ended and the other was silent";
    TcpIdleTime "tcp_idle_time" "Nothing moved on a TCP connection";
    TcpHalfClosedTime "tcp_half_closed_time" "One side of a TCP connection has ended and the other was silent";
    Http2Streams "http2_streams" "Too many concurrent streams on one connection";
    Http2Frames "http2_frames" "A client floods a connection with frames";
    Http2Resets "http2_resets" "A client resets too many streams of one connection";
    Http2StreamErrors "http2_stream_errors" "A client made a connection reset too many streams";
    ResponseHeadBytes "response_head_bytes" "The head of an upstream's response is too large or has too many headers";
    UpstreamConnectTime "upstream_connect_time" "An upstream did not accept a connection in time";
    UpstreamConnections "upstream_connections" "Too many connections to a cluster";
    UpstreamIdleTime "upstream_idle_time" "A connection to an upstream was unused for too long";
    UpstreamIdleConnections "upstream_idle_connections" "A connection to an upstream had to give way to others that nobody uses";
    UpstreamHttp2Frames "upstream_http2_frames" "A service floods a connection with frames";
    UpstreamPendingRequests "upstream_pending_requests" "Too many requests wait for a cluster";
    UpstreamRequests "upstream_requests" "Too many requests are being served by a cluster";
    UpstreamRetries "upstream_retries" "Too many requests are being sent to a cluster again";
    RetryBufferBytes "retry_buffer_bytes" "A request body is too large to be kept for a retry";
    PluginBodyBytes "plugin_body_bytes" "A body that a plugin wants whole is too large";
    PluginWorkerBytes "plugin_worker_bytes" "All bodies held for plugins on one worker are too large together";
    PluginPauseTime "plugin_pause_time" "A plugin kept a stream paused for too long";
    PluginMemory "plugin_memory" "A plugin wanted more memory than its limit";
    PluginCpuTime "plugin_cpu_time" "A callback used more CPU time than its limit";
    PluginWallTime "plugin_wall_time" "A callback took longer than its limit";
    PluginInstances "plugin_instances" "Crashed instances were not replaced at once because there were too many";
    PluginStartTime "plugin_start_time" "A plugin took too long to start";
    PluginHeaderBytes "plugin_header_bytes" "A plugin writes too many or too large headers";
    PluginPropertyBytes "plugin_property_bytes" "A plugin sets too large properties";
    PluginLogLines "plugin_log_lines" "A plugin logs more than its limit";
    PluginSharedData "plugin_shared_data" "A plugin wanted more shared data than its limit";
    PluginCalls "plugin_calls" "A plugin has made more calls to services than it may, or sends too fast on one";
    PluginCallTime "plugin_call_time" "A call of a plugin without a time-out of its own took too long";
    PluginQueueItems "plugin_queue_items" "A shared queue of a plugin is full";
    PluginMetrics "plugin_metrics" "A plugin defined more metrics than its limit";
    DnsAddresses "dns_addresses" "A name of an endpoint has more addresses than are used";
    AdminConnections "admin_connections" "Too many connections to the admin API";
    AdminHeadBytes "admin_head_bytes" "The head of an admin request is too large or has too many headers";
    AdminTime "admin_time" "A client of the admin API did not send a head, or did not read, in time";
    AdminBodyBytes "admin_body_bytes" "The body of an admin request is too large";
    PluginUploads "plugin_uploads" "Too many uploaded plugins, or too many bytes of them";
    ModuleCompileTime "module_compile_time" "Compiling an uploaded module took too long";
    ModuleFetchBytes "module_fetch_bytes" "What was fetched for a module is too large, packed or unpacked";
    ModuleFetchTime "module_fetch_time" "Fetching a module took too long";
    ModuleFetchRedirects "module_fetch_redirects" "A server of modules redirects too often";
    ModuleDeclarations "module_declarations" "An uploaded module declares too much";
    Configuration "configuration" "A file, document or Secret is more than is read";
    AccessLogBytes "access_log_bytes" "Lines of the access log were lost";
    LogLines "log_lines" "Lines of the log were lost";
}

/// How many limits there are.
pub(super) const LIMITS: usize = Limit::ALL.len();
