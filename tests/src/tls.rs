//! A TLS client as real ones are: it checks the server, may show a certificate, and resumes sessions.
//!
//! ```no_run
//! # use gateway_tests::{certificates::Authority, gateway::TestGateway, tls::TlsClient};
//! # async fn example(gateway: TestGateway, authority: Authority) -> anyhow::Result<()> {
//! let client = TlsClient::new(&[&authority])?;
//! let mut http = client.http1(gateway.address(443)?, "a.example.dev").await?;
//! assert_eq!(http.get("a.example.dev", "/").await?.status, 200);
//! # Ok(()) }
//! ```

use crate::certificates::{Authority, Issued};
use crate::client::{H2Client, RawClient};
use crate::within;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client with its settings. Clones share the sessions that may be resumed.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

/// What a client is made of.
pub struct Settings<'a> {
    /// Whom it trusts.
    pub authorities: &'a [&'a Authority],
    /// What it shows when it is asked.
    pub certificate: Option<&'a Issued>,
    /// What it speaks.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Whether it says for which name it comes.
    pub sends_name: bool,
    /// Whether it understands RSA signatures only.
    pub only_rsa: bool,
}

/// TLS 1.2 only.
pub const ONLY_TLS12: &[&SupportedProtocolVersion] = &[&TLS12];
/// TLS 1.3 only.
pub const ONLY_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

type Schemes = Vec<(SignatureScheme, &'static [&'static dyn SignatureVerificationAlgorithm])>;

/// Lives as long as the process, because rustls wants it so.
static ONLY_RSA: OnceLock<Schemes> = OnceLock::new();

impl Settings<'_> {
    /// Nobody is trusted, nothing is shown, TLS 1.2 and 1.3, the name is sent.
    pub const DEFAULT: Settings<'static> = Settings {
        authorities: &[],
        certificate: None,
        versions: &[&TLS12, &TLS13],
        sends_name: true,
        only_rsa: false,
    };

    /// The client, which has seen no server yet.
    pub fn client(&self) -> anyhow::Result<TlsClient> {
        let mut roots = RootCertStore::empty();
        for authority in self.authorities {
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
        }
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if self.only_rsa {
            let schemes = &mut provider.signature_verification_algorithms.mapping;
            *schemes = ONLY_RSA.get_or_init(|| {
                let rsa = |scheme: &SignatureScheme| format!("{scheme:?}").starts_with("RSA_");
                schemes.iter().filter(|(scheme, _)| rsa(scheme)).copied().collect()
            });
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(self.versions)?
            .with_root_certificates(roots);
        let mut config = match self.certificate {
            Some(issued) => builder.with_client_auth_cert(vec![issued.der()?], issued.key_der()?)?,
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.sends_name;
        Ok(TlsClient(Arc::new(config)))
    }
}

impl TlsClient {
    /// A client that trusts these authorities and has no certificate.
    pub fn new(authorities: &[&Authority]) -> anyhow::Result<TlsClient> {
        Settings { authorities, ..Settings::DEFAULT }.client()
    }

    /// The same with a certificate.
    pub fn with_certificate(authorities: &[&Authority], certificate: &Issued) -> anyhow::Result<TlsClient> {
        Settings { authorities, certificate: Some(certificate), ..Settings::DEFAULT }.client()
    }

    /// Does a handshake and offers these protocols (ALPN).
    ///
    /// # Errors
    /// The connection or the handshake fails. In TLS 1.3 the server's opinion of the client's certificate comes later:
    /// with the first reading.
    pub async fn connect(&self, address: SocketAddr, name: &str, alpn: &[&str]) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        self.connect_over(tcp, name, alpn).await
    }

    /// The same over a connection that is open already.
    pub async fn connect_over<S>(&self, stream: S, name: &str, alpn: &[&str]) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let shaking = TlsConnector::from(Arc::new(config)).connect(name, stream);
        within("a TLS handshake", shaking).await.map_err(io::Error::other)?
    }

    /// An HTTP/1.1 connection to the server with this name.
    pub async fn http1(&self, address: SocketAddr, name: &str) -> anyhow::Result<RawClient<TlsStream<TcpStream>>> {
        Ok(RawClient::over(self.connect(address, name, &["http/1.1"]).await?))
    }

    /// An HTTP/2 connection to the server with this name.
    pub async fn http2(&self, address: SocketAddr, name: &str) -> anyhow::Result<H2Client> {
        let stream = self.connect(address, name, &["h2", "http/1.1"]).await?;
        anyhow::ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "the server did not agree on HTTP/2");
        H2Client::over(stream).await
    }
}
