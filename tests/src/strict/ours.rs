//! Our gateway as it is asked: one port in front of a service for HTTP/1.1, one in front of the same for HTTP/2. Nothing
//! is configured but routes; below `/admin` everything is forbidden.

use super::{Case, Recorder};
use crate::certificates::Authority;
use crate::gateway::{Setup, TestGateway};
use crate::resources::{https_gateway, secret, service_at};
use crate::server::Protocol;
use std::net::SocketAddr;

/// Two services and the gateway in front of them.
pub struct Ours {
    gateway: TestGateway,
    /// The service for HTTP/1.1.
    pub http1: Recorder,
    /// The service for HTTP/2.
    pub http2: Recorder,
}

/// The name that every gateway has a certificate for on its port for TLS.
pub(super) const TLS_HOST: &str = super::HOST;

impl Ours {
    /// Starts all of it, in this process.
    ///
    /// # Errors
    /// The gateway does not start.
    pub async fn start() -> anyhow::Result<Ours> {
        let (http1, http2) = (Recorder::start(Protocol::Http1)?, Recorder::start(Protocol::Http2)?);
        let all = in_front_of(80, &service_at("http1", "HTTP", &[http1.address()]))
            + &in_front_of(81, &service_at("http2", "HTTP2", &[http2.address()]))
            + &https_gateway("tls", &["*"], "mode: SIMPLE, credentialName: cert")
            + &secret("cert", &Authority::new("strict")?.server(&[TLS_HOST])?, None);
        let gateway = Setup::new().file("all.yaml", all).start().await?;
        anyhow::ensure!(gateway.problems().is_empty(), "{:?}", gateway.problems());
        Ok(Ours { gateway, http1, http2 })
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
        if case.into_tls { self.tls() } else { self.over(upstream) }
    }

    /// The gateway itself.
    pub fn gateway(&self) -> &TestGateway {
        &self.gateway
    }
}

fn in_front_of(port: u16, service: &str) -> String {
    let name = if port == 80 { "http1" } else { "http2" };
    format!(
        "{service}
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
  - route: [{{destination: {{host: {name}.default.svc.cluster.local}}}}]
---
"
    )
}
