//! Ours, as it is shipped: metrics on, no access log, every limit and check at its default.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{CHAINS, Doors, HOST, Site, Variant, first_line};
use crate::process::{PROXY_CPU, command};

/// Where cargo has put it: beside this program.
fn binary() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("gateway"))
}

pub(super) fn version() -> anyhow::Result<String> {
    first_line(&binary()?, "--version")
}

pub(super) fn prepare(variant: Variant, site: &Site, doors: &Doors, folder: &Path) -> anyhow::Result<Command> {
    let (certificate, key) = (site.certificate.display(), site.key.display());
    let mut servers = String::new();
    let mut plugins = String::new();
    let mut binds = Vec::new();
    match variant {
        Variant::Plain => {
            write!(
                servers,
                "
    - port: {{number: 80, name: http, protocol: HTTP}}
      hosts: ['*']
    - port: {{number: 443, name: https, protocol: HTTPS}}
      hosts: ['*']
      tls: {{mode: SIMPLE, minProtocolVersion: TLSV1_3, serverCertificate: {certificate}, privateKey: {key}}}"
            )?;
            binds.extend([(80, doors.http), (443, doors.https)]);
        }
        Variant::Plugins => {
            for (n, (chain, port)) in CHAINS.into_iter().zip(doors.chains).enumerate() {
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
    let (address, port) = (site.origin.ip(), site.origin.port());
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
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
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
{plugins}"
    );
    let file = folder.join("resources.yaml");
    std::fs::write(&file, text)?;
    let mut command = command(binary()?, PROXY_CPU);
    command.arg("run").arg("--filename").arg(&file).args(["--workers", "1"]);
    command.arg("--data-dir").arg(folder.join("data"));
    for (flag, port) in
        ["--admin-address", "--agent-address", "--status-address", "--metrics-address"].iter().zip(doors.own)
    {
        command.arg(flag).arg(format!("127.0.0.1:{port}"));
    }
    for (declared, port) in binds {
        command.arg("--bind").arg(format!("{declared}=127.0.0.1:{port}"));
    }
    Ok(command)
}
