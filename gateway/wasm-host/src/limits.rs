//! How much of everything one plugin may use. Plain numbers with defaults; the places that enforce
//! them say what happens at the limit, and every refusal is counted
//! ([`Quota`](crate::Quota)).

use std::time::Duration;

/// The limits of one plugin. Per instance where nothing else is said.
#[derive(Clone, Debug)]
pub struct Limits {
    /// CPU time of one callback. Checked every 5 ms of wall time, so the cut comes up to 10 ms
    /// late, never early. Default 50 ms.
    pub callback_cpu: Duration,
    /// Wall time of one callback, for the case that the thread gets no CPU. Default 1 s.
    pub callback_wall: Duration,
    /// CPU time of the whole start-up (instantiation to `on_configure`). Default 2 s.
    pub start_cpu: Duration,
    /// Wall time of the whole start-up. Default 20 s.
    pub start_wall: Duration,
    /// Linear memory. `memory.grow` beyond it fails inside the plugin; a module that needs more to
    /// begin with does not start. At most the engine's `max_memory_bytes`. Default 64 MiB.
    pub memory_bytes: usize,
    /// Elements in tables. Default 100,000.
    pub table_elements: usize,
    /// How long a stream may stay paused; it fails then. Kept by the HTTP layer. Default 30 s.
    pub pause: Duration,
    /// Longest body a plugin may hold back or create. Default 1 MiB.
    pub body_bytes: usize,
    /// Bytes of names and values that plugins write into the heads and trailers of one exchange,
    /// counted over all edits. Default 256 KiB.
    pub header_edit_bytes: usize,
    /// Fields in one header map after an edit. Default 200.
    pub header_fields: usize,
    /// A longer log line is cut. Default 8 KiB.
    pub log_line_bytes: usize,
    /// Log lines per second; more are dropped and counted. Default 100.
    pub log_lines_per_second: u32,
    /// Log bytes per second; more are dropped and counted. Default 256 KiB.
    pub log_bytes_per_second: usize,
    /// Different metrics, per plugin and process. More work but are not exported. Default 1,000.
    pub metrics: usize,
    /// Longest name of a metric. Default 256 bytes.
    pub metric_name_bytes: usize,
    /// Keys of shared data, per `vm_id` and process. More are refused as a CAS mismatch, the only
    /// refusal that SDKs survive. Default 10,000.
    pub shared_data_keys: usize,
    /// Bytes of keys and values of shared data, per `vm_id` and process. Default 16 MiB.
    pub shared_data_bytes: usize,
    /// Queues, per `vm_id` and process, with names of at most 1 KiB. Default 100.
    pub queues: usize,
    /// Items in one queue; more are refused as "not found". Default 10,000.
    pub queue_items: usize,
    /// Bytes in one queue. Default 4 MiB.
    pub queue_bytes: usize,
    /// Bytes of names and values that `set_property` keeps per exchange. Default 64 KiB.
    pub property_bytes: usize,
    /// Outbound calls that one stream may have going at a time; the root context, which ticks and queues run on, may have
    /// as many as the plugin. More are refused as an internal failure. Default 16.
    pub calls_per_stream: usize,
    /// Outbound calls of the plugin that are going at a time, per process. Default 1,000.
    pub calls_in_flight: usize,
    /// How long an outbound call may take that has no time-out of its own. Kept by the HTTP layer. Default 5 min.
    pub call_time: Duration,
    /// Shortest tick period; a shorter one is raised to it. Default 10 ms.
    pub tick_period: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            callback_cpu: Duration::from_millis(50),
            callback_wall: Duration::from_secs(1),
            start_cpu: Duration::from_secs(2),
            start_wall: Duration::from_secs(20),
            memory_bytes: 64 << 20,
            table_elements: 100_000,
            pause: Duration::from_secs(30),
            body_bytes: 1 << 20,
            header_edit_bytes: 256 << 10,
            header_fields: 200,
            log_line_bytes: 8 << 10,
            log_lines_per_second: 100,
            log_bytes_per_second: 256 << 10,
            metrics: 1_000,
            metric_name_bytes: 256,
            shared_data_keys: 10_000,
            shared_data_bytes: 16 << 20,
            queues: 100,
            queue_items: 10_000,
            queue_bytes: 4 << 20,
            property_bytes: 64 << 10,
            calls_per_stream: 16,
            calls_in_flight: 1_000,
            call_time: Duration::from_secs(300),
            tick_period: Duration::from_millis(10),
        }
    }
}
