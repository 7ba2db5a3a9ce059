//! Istio resources as YAML, for tests that are about something else.

use crate::certificates::{Authority, Issued};
use crate::server::Protocol;
use crate::upstream::Upstream;
use std::fmt::Write;

/// A Gateway named `gateway` that serves every host on port 80.
pub const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
---
";

/// A ServiceEntry: the service `name` is on these upstreams, spoken to in the protocol of the first.
pub fn service(name: &str, upstreams: &[&Upstream]) -> String {
    let http2 = upstreams.first().is_some_and(|upstream| upstream.protocol() == Protocol::Http2);
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address()).collect();
    service_at(name, if http2 { "HTTP2" } else { "HTTP" }, &addresses)
}

/// A ServiceEntry: the service `name`, port 80, is at these addresses.
pub fn service_at(name: &str, protocol: &str, addresses: &[std::net::SocketAddr]) -> String {
    let mut text = format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 80, name: http, protocol: {protocol}}}
  endpoints:"
    );
    for address in addresses {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  - {{address: '{}', ports: {{http: {}}}}}", address.ip(), address.port());
    }
    text + "\n---\n"
}

/// A VirtualService of [`GATEWAY`] for these hosts; `http` is the YAML list below `spec.http`, however it is indented.
pub fn virtual_service(name: &str, hosts: &[&str], http: &str) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| format!("'{host}'")).collect();
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{}]
  gateways: [gateway]
  http:
{}
---
",
        hosts.join(", "),
        http.trim_matches('\n')
    )
}

/// [`GATEWAY`], one upstream as the service `sample`, and one route that sends every path of every host there.
pub fn everything_to(upstream: &Upstream) -> String {
    GATEWAY.to_owned()
        + &service("sample", &[upstream])
        + &virtual_service("everything", &["*"], "  - route: [{destination: {host: sample}}]")
}

/// A Gateway `name` that serves these hosts on port 443; `tls` are the settings, in YAML's flow style without braces.
pub fn https_gateway(name: &str, hosts: &[&str], tls: &str) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| format!("'{host}'")).collect();
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 443, name: https, protocol: HTTPS}}
    hosts: [{}]
    tls: {{{tls}}}
---
",
        hosts.join(", ")
    )
}

/// A Secret with a certificate and its key, and with the authority that client certificates are checked with.
pub fn secret(name: &str, issued: &Issued, authority: Option<&Authority>) -> String {
    let mut entries = vec![("tls.crt", issued.chain.as_str()), ("tls.key", issued.key.as_str())];
    entries.extend(authority.map(|authority| ("ca.crt", authority.pem())));
    secret_of(name, &entries)
}

/// A Secret with any entries.
pub fn secret_of(name: &str, entries: &[(&str, &str)]) -> String {
    let mut text =
        format!("\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\nstringData:\n");
    for (name, value) in entries {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name}: |");
        for line in value.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text + "---\n"
}
