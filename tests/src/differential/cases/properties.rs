//! Every property in every callback, and what plugins store themselves.

use super::Case;

/// Paths, with `.` between the segments.
const PATHS: &[&str] = &[
    "request.path",
    "request.url_path",
    "request.host",
    "request.scheme",
    "request.method",
    "request.headers.x-one",
    "request.headers.x-missing",
    "request.referer",
    "request.useragent",
    "request.time",
    "request.id",
    "request.protocol",
    "request.query",
    "request.duration",
    "request.size",
    "request.total_size",
    "request.headers_bytes",
    "request",
    "request.unknown",
    "response",
    "response.code",
    "response.code_details",
    "response.flags",
    "response.grpc_status",
    "response.headers.x-from",
    "response.headers.x-missing",
    "response.trailers.x-end",
    "response.headers_bytes",
    "response.size",
    "response.total_size",
    "response.backend_latency",
    "source.address",
    "source.port",
    "source",
    "destination.address",
    "destination.port",
    "connection.id",
    "connection.mtls",
    "connection.requested_server_name",
    "connection.tls_version",
    "connection.subject_local_certificate",
    "connection.subject_peer_certificate",
    "connection.dns_san_local_certificate",
    "connection.dns_san_peer_certificate",
    "connection.uri_san_local_certificate",
    "connection.uri_san_peer_certificate",
    "connection.sha256_peer_certificate_digest",
    "connection.peer_certificate",
    "connection.termination_details",
    "connection.transport_failure_reason",
    "connection",
    "connection_id",
    "upstream.address",
    "upstream.port",
    "upstream.tls_version",
    "upstream.local_address",
    "upstream.transport_failure_reason",
    "upstream.request_attempt_count",
    "upstream.num_endpoints",
    "upstream.locality",
    "upstream.cx_pool_ready_duration",
    "upstream",
    "metadata",
    "metadata.filter_metadata",
    "metadata.filter_metadata.unknown",
    "filter_state",
    "filter_state.unknown",
    "upstream_filter_state",
    "xds",
    "xds.cluster_name",
    "xds.cluster_metadata",
    "xds.listener_direction",
    "xds.listener_metadata",
    "xds.route_name",
    "xds.route_metadata",
    "xds.virtual_host_name",
    "xds.virtual_host_metadata",
    "xds.upstream_host_metadata",
    "xds.filter_chain_name",
    "node",
    "cluster_name",
    "cluster_metadata",
    "listener_direction",
    "listener_metadata",
    "route_name",
    "route_metadata",
    "upstream_host_metadata",
    "plugin_name",
    "plugin_root_id",
    "unknown",
    "unknown.deeper",
    "",
    "request..path",
    "request.path.deeper",
    "request.size.deeper",
];

/// Where a property is read. Whether a body's first piece comes before or after the service is connected is chance, in Envoy
/// as here.
fn callbacks(path: &str) -> &'static [&'static str] {
    if path.starts_with("upstream") {
        &["request_headers", "response_headers", "response_body", "response_trailers", "log"]
    } else {
        &["*"]
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for paths in PATHS.chunks(20) {
        let lines: Vec<_> = paths
            .iter()
            .flat_map(|path| {
                let read = format!("get_property \"{}\" >d", path.replace('.', "\\x00"));
                callbacks(path).iter().map(move |callback| format!("{callback} {read}"))
            })
            .collect();
        cases.push(
            Case::post(format!("properties: {} to {}", paths[0], paths[paths.len() - 1]), &lines.join("\n"))
                .header("x-one", "1")
                .header("referer", "http://from.example.dev/")
                .header("user-agent", "tester")
                .chunks(&["hello"])
                .trailers(&[("x-end", "here")])
                .answer_header("x-from", "service")
                .answer_chunks(&["answer"])
                .answer_trailers(&[("x-end", "there")]),
        );
    }
    let reads = |paths: &[&str]| -> String {
        paths.iter().map(|path| format!("* get_property \"{}\" >d\n", path.replace('.', "\\x00"))).collect()
    };
    cases.extend([
        Case::get(
            "properties: what is stored",
            &format!("request_headers set_property \"mine\" \"value\"\nrequest_headers set_property \"mine\\x00deeper\" \"value\"\n{}", reads(&["mine", "mine.deeper", "filter_state.wasm.mine"])),
        ),
        Case::get("properties: stored twice", &format!("request_headers set_property \"mine\" \"1\"\nresponse_headers set_property \"mine\" \"2\"\n{}", reads(&["mine"]))),
        Case::get("properties: an empty one is stored", &format!("request_headers set_property \"mine\" \"\"\nrequest_headers set_property \"\" \"x\"\n{}", reads(&["mine"]))),
        Case::get("properties: what is built in is not overridden", &format!("request_headers set_property \"request\\x00path\" \"/mine\"\nrequest_headers set_property \"plugin_name\" \"mine\"\n{}", reads(&["request.path", "plugin_name"]))),
        Case::get("properties: in the root context", "request_headers set_effective_context 1\nrequest_headers set_property \"mine\" \"1\"\nrequest_headers get_property \"mine\" >d\nrequest_headers get_property \"plugin_name\" >d\nrequest_headers get_property \"request\\x00path\" >d\nrequest_headers set_effective_context @self"),
        Case::get("properties: separated by dots", "request_headers get_property \"request.path\" >d\nrequest_headers get_property \"request\\x00path\\x00\" >d"),
        Case::get("properties: of a reply", &format!("request_headers send_local_response 403 \"some details\" \"refused\" {{}} 0xffffffff\nrequest_headers return 1\n{}", reads(&["response.code", "response.code_details", "response.flags", "upstream.address", "xds.route_name", "request.size", "response.size"]))),
        Case::get("properties: of a path with escapes", &reads(&["request.path", "request.url_path", "request.query"])).path("/a%20b/../c?d=%20&e"),
        Case::get("properties: without a query", &reads(&["request.query", "request.url_path"])).path("/plain"),
    ]);
    cases
}
