//! Our gateway as it is asked: one port in front of a service for HTTP/1.1, one in front of the same for HTTP/2. Nothing
//! is configured but routes; below `/admin` everything is forbidden.

use super::certificates::{Certificates, MUTUAL_HOST};
use super::secured::{SERVICE_HOST, Secured};
use super::{Case, Door, Recorder};
use crate::gateway::{Setup, TestGateway};
use crate::resources::{https_gateway, secret, secret_of, service_at};
use crate::server::Protocol;
use std::net::SocketAddr;

/// Two services and the gateway in front of them.
pub struct Ours {
    gateway: TestGateway,
    /// The service for HTTP/1.1.
    pub http1: Recorder,
    /// The service for HTTP/2.
    pub http2: Recorder,
    _secured: Secured,
}

impl Ours {
    /// Starts all of it, in this process.
    ///
    /// # Errors
    /// The gateway does not start.
    pub async fn start() -> anyhow::Result<Ours> {
        let (http1, http2) = (Recorder::start(Protocol::Http1)?, Recorder::start(Protocol::Http2)?);
        let (all, secured) = (Certificates::get()?, Secured::start().await?);
        let (mut services, mut routes) = (String::new(), String::new());
        for (name, address) in secured.each() {
            services += &service_at(name, "HTTP", &[address]);
            services += &rule(name);
            routes += &format!(
                "  - {{match: [{{uri: {{prefix: /secured/{name}}}}}], route: [{{destination: {{host: {name}.default.svc.cluster.local}}}}]}}\n"
            );
        }
        let files = in_front_of(80, &(service_at("http1", "HTTP", &[http1.address()]) + &services), &routes)
            + &in_front_of(81, &service_at("http2", "HTTP2", &[http2.address()]), "")
            + &https_gateway("tls", &["*"], "mode: SIMPLE, credentialName: cert")
            + &https_gateway("mutual", &[MUTUAL_HOST], "mode: MUTUAL, credentialName: cert, caCertCredentialName: ca")
            + BEHIND_TLS
            + &secret("cert", &all.server, None)
            + &secret_of("ca", &[("ca.crt", all.clients.pem()), ("ca.crl", &all.revoked)]);
        let setup = Setup::new().file("all.yaml", files).file("servers.pem", all.servers.pem().to_owned());
        let gateway = setup.start().await?;
        anyhow::ensure!(gateway.problems().is_empty(), "{:?}", gateway.problems());
        Ok(Ours { gateway, http1, http2, _secured: secured })
    }

    /// Where clients come in, and the service behind it.
    ///
    /// # Errors
    /// There is no such listener.
    pub fn over(&self, upstream: Protocol) -> anyhow::Result<(SocketAddr, &Recorder)> {
        Ok(match upstream {
            Protocol::Http2 => (self.gateway.address(81)?, &self.http2),
            _ => (self.gateway.address(80)?, &self.http1),
        })
    }

    /// The port for TLS, and the service behind all of it.
    ///
    /// # Errors
    /// There is no such listener.
    pub fn tls(&self) -> anyhow::Result<(SocketAddr, &Recorder)> {
        Ok((self.gateway.address(443)?, &self.http1))
    }

    /// Where this case is sent.
    ///
    /// # Errors
    /// There is no such listener.
    pub fn front(&self, case: &Case, upstream: Protocol) -> anyhow::Result<(SocketAddr, &Recorder)> {
        if case.door == Door::Clear { self.over(upstream) } else { self.tls() }
    }

    /// The gateway itself.
    pub fn gateway(&self) -> &TestGateway {
        &self.gateway
    }
}

/// What is behind the port for TLS.
const BEHIND_TLS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tls, namespace: default}
spec:
  hosts: ['*']
  gateways: [tls, mutual]
  http:
  - route: [{destination: {host: http1.default.svc.cluster.local}}]
---
";

/// How one of [`Secured`] is spoken to.
fn rule(name: &str) -> String {
    let tls =
        format!("mode: SIMPLE, caCertificates: servers.pem, sni: {SERVICE_HOST}, subjectAltNames: [{SERVICE_HOST}]");
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: default}}
spec: {{host: {name}.default.svc.cluster.local, trafficPolicy: {{tls: {{{tls}}}}}}}
---"
    )
}

fn in_front_of(port: u16, services: &str, routes: &str) -> String {
    let name = if port == 80 { "http1" } else { "http2" };
    format!(
        "{services}
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {port}, name: http, protocol: HTTP}}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: ['*']
  gateways: [{name}]
  http:
  - match: [{{uri: {{prefix: /admin}}}}]
    directResponse: {{status: 403}}
{routes}  - route: [{{destination: {{host: {name}.default.svc.cluster.local}}}}]
---
"
    )
}
