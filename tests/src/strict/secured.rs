//! Services that are spoken to over TLS, most of which are not who they should be: [`Secured`] is what is behind
//! `/secured/` of every gateway.

use super::certificates::Certificates;
use crate::certificates::Issued;
use crate::server::Protocol::Http1;
use crate::upstream::Upstream;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;

/// Who each of them should be.
pub(super) const SERVICE_HOST: &str = "service.example.dev";

/// The services, by name: `/secured/right` is the first one's.
pub(super) struct Secured(Vec<(&'static str, Upstream)>);

impl Secured {
    /// Starts them.
    ///
    /// # Errors
    /// There is no port, or a certificate cannot be made.
    pub(super) async fn start() -> anyhow::Result<Secured> {
        let all = Certificates::get()?;
        let expired = all.servers.issue(&[SERVICE_HOST], &KeyPair::generate()?, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        })?;
        let mut services = Vec::new();
        for (name, issued) in [
            ("right", all.servers.server(&[SERVICE_HOST])?),
            ("of-another", all.strangers.server(&[SERVICE_HOST])?),
            ("other-name", all.servers.server(&["other.example.dev"])?),
            ("for-clients", all.servers.client(SERVICE_HOST, &[SERVICE_HOST])?),
            ("expired", expired),
        ] {
            services.push((name, Upstream::start_tls(Http1, config(&issued)?).await?));
        }
        services.push(("in-clear", Upstream::start(Http1).await?));
        Ok(Secured(services))
    }

    /// Names and addresses.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        self.0.iter().map(|(name, service)| (*name, service.address()))
    }
}

fn config(issued: &Issued) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth().with_single_cert(vec![issued.der()?], issued.key_der()?)?)
}
