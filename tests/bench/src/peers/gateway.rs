//! Ours, as it is shipped: metrics on, no access log, every limit and check at its default.

use std::{fmt::Write as _, path::Path, process::Command};

use super::{Doors, GRPC_HOST, HOST, Site, Variant, first_line};
use crate::process::{PROXY_CPU, command};

pub(super) fn version(binary: &Path) -> anyhow::Result<String> {
    first_line(binary, "--version")
}

pub(super) fn prepare(
    binary: &Path,
    variant: Variant,
    site: &Site,
    doors: &Doors,
    folder: &Path,
) -> anyhow::Result<Command> {
    let (certificate, key) = (site.certificate.display(), site.key.display());
    let mut servers = String::new();
    let mut plugins = String::new();
    let mut binds = Vec::new();
    match variant {
        Variant::Plain | Variant::Fresh | Variant::AccessLog => {
            write!(
                servers,
                "
    - port: {{number: 80, name: http, protocol: HTTP}}
      hosts: ['*']
    - port: {{number: 443, name: https, protocol: HTTPS}}
      hosts: ['*']
      tls: {{mode: SIMPLE, minProtocolVersion: TLSV1_3, serverCertificate: {certificate}, privateKey: {key}}}
    - port: {{number: 81, name: grpc, protocol: GRPC}}
      hosts: ['*']"
            )?;
            binds.extend([(80, doors.http), (443, doors.https), (81, doors.grpc)]);
        }
        Variant::Plugins | Variant::TenPlugins => {
            for (n, chain) in variant.chains() {
                let port = doors.chains[n];
                let declared = 100 + n as u16;
                binds.push((declared, port));
                write!(
                    servers,
                    "
    - port: {{number: {declared}, name: http-{declared}, protocol: HTTP}}
      hosts: ['*']"
                )?;
                for (position, (module, configuration)) in chain.plugins().into_iter().enumerate() {
                    let module = site.plugins.join(module);
                    write!(
                        plugins,
                        "---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {{name: plugin-{n}-{position}, namespace: default}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  url: file://{}.wasm
  priority: {}
  match: [{{ports: [{{number: {port}}}]}}]
  pluginConfig: {configuration}
",
                        module.display(),
                        1000 - position,
                    )?;
                }
            }
        }
    }
    let (http, grpc) = (site.origin.http, site.origin.grpc);
    let address = http.ip();
    let text = format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: bench, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:{servers}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: origin, namespace: default}}
spec:
  hosts: [origin.default.svc.cluster.local]
  location: MESH_INTERNAL
  ports:
    - {{number: 80, name: http, protocol: HTTP, targetPort: {}}}
    - {{number: 81, name: grpc, protocol: GRPC, targetPort: {}}}
  resolution: STATIC
  endpoints: [{{address: {address}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: bench, namespace: default}}
spec:
  hosts: [{HOST}]
  gateways: [bench]
  http:
    - route: [{{destination: {{host: origin, port: {{number: 80}}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: grpc, namespace: default}}
spec:
  hosts: [{GRPC_HOST}]
  gateways: [bench]
  http:
    - route: [{{destination: {{host: origin, port: {{number: 81}}}}}}]
{plugins}",
        http.port(),
        grpc.port()
    );
    let file = folder.join("resources.yaml");
    std::fs::write(&file, text)?;
    let mut command = command(binary, PROXY_CPU);
    command.arg("run").arg("--filename").arg(&file).args(["--workers", "1"]);
    command.arg("--data-dir").arg(folder.join("data"));
    for (flag, port) in
        ["--admin-address", "--agent-address", "--status-address", "--metrics-address"].iter().zip(doors.own)
    {
        command.arg(flag).arg(format!("127.0.0.1:{port}"));
    }
    if variant == Variant::AccessLog {
        command.args(["--access-log", "json"]);
    }
    for (declared, port) in binds {
        command.arg("--bind").arg(format!("{declared}=127.0.0.1:{port}"));
    }
    Ok(command)
}
