//! The certificates of a comparison, which are the same for every gateway, and clients that show one.
//!
//! On its port for TLS a gateway has two servers, told apart by name: [`HOST`] lets everybody in, [`MUTUAL_HOST`] those who
//! show a certificate of the clients' authority that is not on its list.

use super::{HOST, PROBE};
use crate::certificates::{Authority, Issued};
use crate::client::RawClient;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, NamedGroup, RootCertStore, client::Tls13ClientSessionValue};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The server that asks for certificates.
pub(super) const MUTUAL_HOST: &str = "mutual.example.dev";

/// What a client shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A certificate that is right.
    Right,
    /// None.
    Nothing,
    /// One of an authority that nobody knows.
    OfAnother,
    /// One whose time is over.
    Expired,
    /// One whose time has not come.
    Early,
    /// One that is for servers.
    ForServers,
    /// One on the list of those that are no longer good.
    Revoked,
    /// None, but a ticket of the server that lets everybody in.
    Ticket,
}

/// Who issues what.
pub(super) struct Certificates {
    /// Of everybody who is asked.
    pub(super) servers: Authority,
    /// The certificate of both servers.
    pub(super) server: Issued,
    /// Whose certificates are let in.
    pub(super) clients: Authority,
    /// The list, as PEM text.
    pub(super) revoked: String,
    /// Whom nobody trusts.
    pub(super) strangers: Authority,
    revoked_client: Issued,
}

impl Certificates {
    /// Those of this process.
    ///
    /// # Errors
    /// They cannot be made.
    pub(super) fn get() -> anyhow::Result<&'static Certificates> {
        static ALL: OnceLock<Certificates> = OnceLock::new();
        if ALL.get().is_none() {
            let (servers, clients) = (Authority::new("servers")?, Authority::new("clients")?);
            let server = servers.server(&[HOST, MUTUAL_HOST])?;
            let revoked_client = clients.client("revoked", &[])?;
            let revoked = clients.revoke(&[&revoked_client])?;
            let strangers = Authority::new("strangers")?;
            // Whoever is first.
            let _ = ALL.set(Certificates { servers, server, clients, revoked, strangers, revoked_client });
        }
        ALL.get().ok_or_else(|| anyhow::anyhow!("there are none"))
    }

    fn shown(&self, shown: Shown) -> anyhow::Result<Option<Issued>> {
        let client = |years: [i32; 2]| {
            self.clients.issue(&[], &KeyPair::generate()?, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                [params.not_before, params.not_after] = years.map(|year| date_time_ymd(year, 1, 1));
            })
        };
        Ok(Some(match shown {
            Shown::Nothing | Shown::Ticket => return Ok(None),
            Shown::Right => self.clients.client("right", &[])?,
            Shown::OfAnother => self.strangers.client("right", &[])?,
            Shown::Expired => client([2020, 2021])?,
            Shown::Early => client([3000, 3001])?,
            Shown::ForServers => self.clients.server(&["right"])?,
            Shown::Revoked => self.revoked_client.clone(),
        }))
    }

    fn config(&self, shown: Shown) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.servers.pem().as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match self.shown(shown)? {
            Some(issued) => builder.with_client_auth_cert(vec![issued.der()?], issued.key_der()?)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::store(Arc::new(OneForAll(ClientSessionMemoryCache::new(8))));
        Ok(config)
    }
}

/// What comes of a request to [`MUTUAL_HOST`]: its status, or `refused`. Why it is refused may be lost with the connection.
///
/// # Errors
/// The gateway cannot be connected to.
pub(super) async fn ask(shown: Shown, front: SocketAddr, patience: Duration) -> anyhow::Result<Vec<String>> {
    let config = Arc::new(Certificates::get()?.config(shown)?);
    if shown == Shown::Ticket {
        let status = status(&config, front, HOST, PROBE, patience).await?;
        anyhow::ensure!(status == "200", "{HOST} answers {status}");
    }
    let answer = status(&config, front, MUTUAL_HOST, "/", patience).await?;
    Ok(vec![answer])
}

async fn status(
    config: &Arc<ClientConfig>,
    front: SocketAddr,
    host: &str,
    path: &str,
    patience: Duration,
) -> anyhow::Result<String> {
    let tcp = TcpStream::connect(front).await?;
    let name = ServerName::try_from(host.to_owned())?;
    let asked = async {
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
        RawClient::over(stream).get(host, path).await
    };
    Ok(match timeout(patience, asked).await {
        Ok(Ok(response)) => response.status.to_string(),
        Ok(Err(_)) => "refused".to_owned(),
        Err(_) => "silent".to_owned(),
    })
}

/// Sessions without regard to the server's name: a client that tries what it has everywhere.
#[derive(Debug)]
struct OneForAll(ClientSessionMemoryCache);

fn everywhere() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())
}

impl ClientSessionStore for OneForAll {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(everywhere(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&everywhere())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(everywhere(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&everywhere())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&everywhere());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(everywhere(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&everywhere())
    }
}
