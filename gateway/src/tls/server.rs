//! Everything that the handshakes of one server need, built once per configuration.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig, SignatureScheme,
    pki_types::{CertificateDer, UnixTime},
    server::{ClientHello, ResolvesServerCert, VerifierBuilderError, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};

use super::{ALPN_HTTP1, ALPN_HTTP2, ClientPolicy, Credential, Parameters, TicketKeys};

/// What a server is built from.
#[derive(Debug)]
pub struct ServerSettings {
    /// Certificates of different kinds of keys, the preferred first. At least one.
    pub credentials: Vec<Arc<Credential>>,
    /// Versions and cryptography.
    pub parameters: Parameters,
    /// What clients have to prove.
    pub clients: ClientPolicy,
}

/// Why a server cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No certificate.
    #[error("it has no certificate")]
    NoCredential,
    /// The authorities or revocation lists for client certificates cannot be used.
    #[error("client certificates cannot be verified: {0}")]
    Clients(#[from] VerifierBuilderError),
    /// What rustls says.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

/// A server that is ready for handshakes.
pub struct ServerTls {
    http: Arc<ServerConfig>,
    /// For clients that offer other protocols only, and servers that are not for HTTP: the handshake goes on without ALPN.
    foreign: Arc<ServerConfig>,
    credentials: Vec<Arc<Credential>>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    required: bool,
    policy: [u8; 32],
    settings: [u8; 32],
}

impl ServerTls {
    /// Builds a server. Tickets of a configuration before stay good if its clients were checked in the same way.
    ///
    /// # Errors
    /// Something of the settings cannot be used.
    pub fn new(settings: ServerSettings, tickets: &TicketKeys) -> Result<Self, ServerError> {
        let ServerSettings { credentials, parameters, clients } = settings;
        if credentials.is_empty() {
            return Err(ServerError::NoCredential);
        }
        let policy = clients.digest();
        let verifier = clients.verifier()?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&parameters.provider))
            .with_protocol_versions(&parameters.versions)?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut foreign = builder.with_cert_resolver(Arc::new(Resolver(keys(&credentials))));
        foreign.ticketer = tickets.of(policy)?;
        // One is enough for the next connection; each costs a client a write and a place in its cache.
        foreign.send_tls13_tickets = 1;
        let mut http = foreign.clone();
        http.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        let mut digest = Sha256::new_with_prefix(policy);
        digest.update(parameters.digest());
        for credential in &credentials {
            digest.update(credential.certificate().sha256);
        }
        Ok(Self {
            http: Arc::new(http),
            foreign: Arc::new(foreign),
            credentials,
            verifier,
            required: clients.is_required(),
            policy,
            settings: digest.finalize().into(),
        })
    }

    /// What a handshake that begins with this hello goes on with.
    #[must_use]
    pub fn config(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let ours = |name: &[u8]| name == ALPN_HTTP2 || name == ALPN_HTTP1;
        let speaks_http = hello.alpn().is_none_or(|mut offered| offered.any(ours));
        if speaks_http { &self.http } else { &self.foreign }
    }

    /// The same for a server that is not for HTTP: no protocol is agreed on.
    #[must_use]
    pub fn foreign(&self) -> &Arc<ServerConfig> {
        &self.foreign
    }

    /// The certificate that a client with these signature schemes gets.
    #[must_use]
    pub fn credential(&self, schemes: &[SignatureScheme]) -> Option<&Arc<Credential>> {
        self.credentials.iter().find(|credential| credential.key().key.choose_scheme(schemes).is_some())
    }

    /// All certificates.
    #[must_use]
    pub fn credentials(&self) -> &[Arc<Credential>] {
        &self.credentials
    }

    /// The way clients are checked: the same for servers that do it alike.
    #[must_use]
    pub fn policy(&self) -> [u8; 32] {
        self.policy
    }

    /// Whether another server has the same certificates, parameters and way of checking clients.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.settings == other.settings
    }

    /// Whether a client with this certificate chain (empty: none) may use this server now. For connections that were
    /// opened when clients were checked in another way.
    #[must_use]
    pub fn admits(&self, chain: &[CertificateDer<'_>]) -> bool {
        match (&self.verifier, chain.split_first()) {
            (None, _) => true,
            (Some(_), None) => !self.required,
            (Some(verifier), Some((own, intermediates))) => {
                verifier.verify_client_cert(own, intermediates, UnixTime::now()).is_ok()
            }
        }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// Chooses among certificates by the signatures that the client can check. A client that can check none of them gets the
/// first, for then rustls finds that nothing fits and says `handshake_failure`; for no certificate it would say
/// `access_denied`, which clients take for a decision about them.
struct Resolver(Vec<Arc<CertifiedKey>>);

fn keys(credentials: &[Arc<Credential>]) -> Vec<Arc<CertifiedKey>> {
    credentials.iter().map(|credential| Arc::clone(credential.key())).collect()
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(fits).or(self.0.first()).cloned()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolver({})", self.0.len())
    }
}
