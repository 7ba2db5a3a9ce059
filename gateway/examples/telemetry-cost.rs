//! What counting and logging cost per request, in nanoseconds: `cargo run --release -p gateway --example telemetry-cost`.

use std::{
    hint::black_box,
    time::{Duration, Instant, SystemTime},
};

use gateway::telemetry::{
    AccessLogOptions, Captured, Entry, LogFormat, LogSink, Observation, RequestProtocol, ResponseFlags, Telemetry,
    TelemetryOptions,
};

const ROUNDS: u32 = 1_000_000;

fn main() -> anyhow::Result<()> {
    let counting = Telemetry::new(&TelemetryOptions::default())?.worker();
    let destination = counting.destination(None);
    measure("counting", |n| {
        destination.observe(&Observation {
            protocol: RequestProtocol::Http,
            code: if n % 16 == 0 { 404 } else { 200 },
            flags: ResponseFlags::NONE,
            grpc_status: None,
            duration: Duration::from_micros(u64::from(n % 5000)),
            request_bytes: 300,
            response_bytes: u64::from(n % 20_000),
        });
    });
    for (what, format) in [("a line of text", LogFormat::Text), ("a line of JSON", LogFormat::Json)] {
        let sink = LogSink::at("/dev/null".as_ref());
        let access_log = Some(AccessLogOptions { format, sink, ..AccessLogOptions::default() });
        let logging = Telemetry::new(&TelemetryOptions { access_log, ..TelemetryOptions::default() })?.worker();
        let Some(log) = logging.access_log() else { continue };
        let values: [&[u8]; 3] = [b"192.0.2.2", b"curl/7.88.1", b"af8f7f2a-31a8-4da7-a773-9f514df442a3"];
        measure(what, |_| {
            let mut headers = Captured::default();
            for ((slot, _), value) in log.wanted().request.iter().zip(values) {
                headers.set(*slot, Some(value));
            }
            log.log(black_box(&entry(&headers)));
        });
    }
    Ok(())
}

fn measure(what: &str, mut request: impl FnMut(u32)) {
    (0..ROUNDS / 10).for_each(&mut request);
    let begin = Instant::now();
    (0..ROUNDS).for_each(&mut request);
    println!("{what:<16} {:>6} ns", (begin.elapsed() / ROUNDS).as_nanos());
}

fn entry(headers: &Captured) -> Entry<'_> {
    Entry {
        start: SystemTime::UNIX_EPOCH,
        duration: Duration::from_micros(1900),
        method: "GET",
        path: b"/foo/bar",
        protocol: "HTTP/1.1",
        code: 200,
        flags: ResponseFlags::NONE,
        code_details: "via_upstream",
        connection_termination_details: "",
        upstream_transport_failure_reason: "",
        request_head_bytes: 300,
        response_head_bytes: 200,
        bytes_received: 0,
        bytes_sent: 358,
        upstream_service_time: Some(1),
        authority: Some(b"main.com"),
        upstream_host: Some(([127, 0, 0, 1], 28811).into()),
        upstream_cluster: "outbound|80||sample.default.svc.cluster.local",
        upstream_attempts: 1,
        headers,
        grpc_status: None,
        connection_id: 7,
        upstream_local_address: Some(([127, 0, 0, 1], 51116).into()),
        downstream_local_address: Some(([127, 0, 0, 1], 28800).into()),
        downstream_remote_address: Some(([127, 0, 0, 1], 43708).into()),
        requested_server_name: None,
        tls: None,
        route_name: "sample",
    }
}
