//! Envoy: one worker thread, configured as Istio configures its gateways where that is more than Envoy's own default.

use std::{fmt::Write as _, net::SocketAddr, path::Path, process::Command};

use super::{Chain, Doors, GRPC_HOST, HOST, Site, Variant, first_line};
use crate::process::{PROXY_CPU, command};

pub(super) fn version(site: &Site) -> anyhow::Result<String> {
    first_line(&site.envoy, "--version")
}

pub(super) fn prepare(variant: Variant, site: &Site, doors: &Doors, folder: &Path) -> anyhow::Result<Command> {
    let mut listeners = String::new();
    match variant {
        Variant::Plain | Variant::Fresh | Variant::AccessLog => {
            listener(&mut listeners, "http", doors.http, None, "")?;
            listener(&mut listeners, "https", doors.https, Some(site), "")?;
            listener(&mut listeners, "grpc", doors.grpc, None, "")?;
        }
        Variant::Plugins | Variant::TenPlugins => {
            for (place, chain) in variant.chains() {
                listener(&mut listeners, &format!("{chain:?}"), doors.chains[place], None, &filters(chain, site)?)?;
            }
        }
    }
    let (http, grpc) = (site.origin.http, site.origin.grpc);
    let text = format!(
        "static_resources:
  listeners:{listeners}
  clusters:{}{}
",
        cluster("http", http, ""),
        cluster("grpc", grpc, HTTP2)
    );
    let file = folder.join("envoy.yaml");
    std::fs::write(&file, text)?;
    let mut command = command(&site.envoy, PROXY_CPU);
    command.arg("-c").arg(&file).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]);
    Ok(command)
}

/// Speaks HTTP/2 to the cluster.
const HTTP2: &str = "
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}";

fn cluster(name: &str, address: SocketAddr, protocol: &str) -> String {
    format!(
        "
  - name: {name}
    type: STATIC
    connect_timeout: 10s
    circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}]}}{protocol}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]",
        address.ip(),
        address.port()
    )
}

/// One `http.wasm` filter for each plugin, all in V8, each with a VM of its own as Istio gives each plugin.
fn filters(chain: Chain, site: &Site) -> anyhow::Result<String> {
    let mut text = String::new();
    for (position, (module, configuration)) in chain.plugins().into_iter().enumerate() {
        let module = site.plugins.join(module);
        let module = module.display();
        write!(
            text,
            "
          - name: plugin-{position}
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: plugin-{position}
                root_id: plugin-{position}
                vm_config: {{vm_id: plugin-{position}, runtime: envoy.wasm.runtime.v8, code: {{local: {{filename: {module}.wasm}}}}}}
                configuration: {{'@type': type.googleapis.com/google.protobuf.StringValue, value: '{configuration}'}}"
        )?;
    }
    Ok(text)
}

/// `tls` has the certificate; `filters` come before the router.
fn listener(text: &mut String, name: &str, port: u16, tls: Option<&Site>, filters: &str) -> std::fmt::Result {
    let transport = tls.map(|site| {
        format!(
            "
      transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
            tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]",
            site.certificate.display(),
            site.key.display()
        )
    });
    let transport = transport.unwrap_or_default();
    write!(
        text,
        "
  - name: '{name}'
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          codec_type: AUTO
          use_remote_address: true
          normalize_path: true
          server_name: istio-envoy
          upgrade_configs: [{{upgrade_type: websocket}}]
          route_config:
            virtual_hosts:
            - {{name: http, domains: [{HOST}], routes: [{{match: {{prefix: /}}, route: {{cluster: http, timeout: 0s}}}}]}}
            - {{name: grpc, domains: [{GRPC_HOST}], routes: [{{match: {{prefix: /}}, route: {{cluster: grpc, timeout: 0s}}}}]}}
          http_filters:{filters}
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}{transport}"
    )
}
