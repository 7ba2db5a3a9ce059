//! TLS towards services: who they must be, who we are, and the name that is asked for.

use std::sync::{Arc, LazyLock};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, DnsName, ServerName, UnixTime},
    sign::SingleCertAndKey,
};
use sha2::{Digest, Sha256};

use super::{
    ALPN_HTTP1, ALPN_HTTP2, Authorities, Certificate, Credential, Parameters, RevocationLists, limits, provider,
};

/// What a client is told.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Whom to believe.
    pub trust: Trust,
    /// One of these must be among the subject alternative names of the service's certificate; empty: the name that is
    /// asked for must.
    pub names: Vec<String>,
    /// The name to ask for (SNI). `None`: the host of the request.
    pub server_name: Option<DnsName<'static>>,
    /// What we show when the service wants to know who we are.
    pub credential: Option<Arc<Credential>>,
}

/// Whose certificates are believed.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Those of these authorities, without those that are revoked.
    Authorities(Authorities, Option<RevocationLists>),
    /// Everybody's: the connection is only private, it may be with anybody.
    Anybody,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The authorities or revocation lists.
    #[error("certificates cannot be verified with these authorities and revocation lists: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// rustls refuses the combination.
    #[error("the TLS settings cannot be used: {0}")]
    Settings(#[from] Error),
}

/// The name of a host that no certificate can be for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a host name nor an address, so no certificate can be for it")]
pub struct InvalidHost(String);

/// What is spoken inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Anything else: nothing is agreed on.
    Other,
}

/// Everything that connections of a cluster need. Two are equal if they were made of the same.
#[derive(Debug)]
pub struct ClientTls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    other: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    credential: Option<Arc<Credential>>,
    digest: [u8; 32],
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ClientTls {}

impl ClientTls {
    /// Prepares TLS 1.2 and 1.3 with these settings. Sessions are resumed; how many are kept is limited.
    ///
    /// # Errors
    /// The settings do not go together.
    pub fn new(settings: ClientSettings) -> Result<Self, ClientError> {
        let digest = settings.digest();
        let ClientSettings { trust, names, server_name, credential } = settings;
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Anybody => Arc::new(Unverified),
            Trust::Authorities(authorities, revocations) => {
                let roots = Arc::clone(authorities.store());
                let mut builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider()));
                if let Some(revocations) = revocations {
                    builder = builder.with_crls(revocations.lists).enforce_revocation_expiration();
                }
                let chain = builder.build()?;
                if names.is_empty() { chain } else { Arc::new(Named { chain, names }) }
            }
        };
        let Parameters { provider, versions } = Parameters::default();
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut other = match credential {
            Some(ref credential) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(credential.key()))))
            }
            None => builder.with_no_client_auth(),
        };
        other.resumption = Resumption::in_memory_sessions(limits::CLIENT_SESSIONS);
        let mut http1 = other.clone();
        http1.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        let mut http2 = http1.clone();
        http2.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        let server_name = server_name.map(ServerName::DnsName);
        Ok(Self {
            http1: Arc::new(http1),
            http2: Arc::new(http2),
            other: Arc::new(other),
            server_name,
            credential,
            digest,
        })
    }

    /// For connections that speak one of the protocols that ALPN can name, or another one.
    #[must_use]
    pub fn config(&self, inside: Inside) -> &Arc<ClientConfig> {
        match inside {
            Inside::Http1 => &self.http1,
            Inside::Http2 => &self.http2,
            Inside::Other => &self.other,
        }
    }

    /// What we show when the service wants to know who we are.
    #[must_use]
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_deref()
    }

    /// The name to ask for, and that the certificate has to be for, when a request is for `host` (without a port).
    ///
    /// # Errors
    /// The host decides, and is no name.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, InvalidHost> {
        if let Some(fixed) = &self.server_name {
            return Ok(fixed.clone());
        }
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let bare = bare.strip_suffix('.').unwrap_or(bare);
        let name = ServerName::try_from(bare.to_ascii_lowercase());
        name.map_err(|_| InvalidHost(host.chars().take(100).collect()))
    }
}

impl ClientSettings {
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        match &self.trust {
            Trust::Anybody => digest.update([0; 64]),
            Trust::Authorities(authorities, revocations) => {
                digest.update(authorities.digest());
                digest.update(revocations.as_ref().map_or([1; 32], |lists| lists.digest));
            }
        }
        digest.update(self.credential.as_ref().map_or([0; 32], |credential| credential.certificate().sha256));
        let name = self.server_name.as_ref().map_or("", |name| name.as_ref());
        // Hashed one by one, so that nothing can be moved from one to the next.
        for name in std::iter::once(name).chain(self.names.iter().map(String::as_str)) {
            digest.update(Sha256::digest(name));
        }
        digest.finalize().into()
    }
}

impl Authorities {
    /// Those that the operating system trusts, read once. `None`: it has none.
    pub fn system() -> Option<&'static Self> {
        static SYSTEM: LazyLock<Option<Authorities>> = LazyLock::new(|| {
            let loaded = rustls_native_certs::load_native_certs();
            for error in &loaded.errors {
                tracing::warn!(%error, "an authority of the system cannot be read");
            }
            let mut store = RootCertStore::empty();
            let mut digest = Sha256::new();
            for certificate in loaded.certs {
                let hash = Sha256::digest(&certificate);
                if store.add(certificate).is_ok() {
                    digest.update(hash);
                }
            }
            (!store.is_empty()).then(|| Authorities::of(store, digest.finalize().into()))
        });
        SYSTEM.as_ref()
    }
}

/// A good chain, whose certificate must also have one of these names.
#[derive(Debug)]
struct Named {
    chain: Arc<WebPkiServerVerifier>,
    names: Vec<String>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is looked at last: if that is all that is wrong, the chain is good.
        match self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => return Err(error),
        }
        let certificate = Certificate::parse(end_entity).ok_or(CertificateError::BadEncoding)?;
        match self.names.iter().any(|name| is_for(&certificate, name)) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Whether a certificate has a subject alternative name. Among DNS names a wildcard stands for one label, as Envoy's
/// exact match of DNS names has it.
fn is_for(certificate: &Certificate, name: &str) -> bool {
    let dns = |own: &String| match own.strip_prefix("*.") {
        Some(suffix) => {
            name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
        }
        None => own.eq_ignore_ascii_case(name),
    };
    certificate.dns_names.iter().any(dns) || certificate.names().any(|own| own == name)
}

/// Believes every certificate, but not that somebody has a key who does not.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn authority(name: &str) -> Authorities {
        let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Authorities::from_pem(signed.cert.pem().as_bytes()).unwrap()
    }

    fn settings(trust: Trust) -> ClientSettings {
        ClientSettings { trust, names: Vec::new(), server_name: None, credential: None }
    }

    #[test]
    fn every_setting_counts() {
        let plain = settings(Trust::Authorities(authority("one"), None));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let name = |name: &str| Some(DnsName::try_from(name.to_owned()).unwrap());
        let all = [
            settings(Trust::Anybody),
            settings(Trust::Authorities(authority("two"), None)),
            ClientSettings { names: names(&["ab"]), ..plain.clone() },
            ClientSettings { names: names(&["a", "b"]), ..plain.clone() },
            ClientSettings { server_name: name("ab"), ..plain.clone() },
            plain.clone(),
        ];
        let mut built: Vec<ClientTls> = all.into_iter().map(|settings| ClientTls::new(settings).unwrap()).collect();
        assert!(built.last().unwrap() == &ClientTls::new(plain).unwrap());
        while let Some(one) = built.pop() {
            assert!(built.iter().all(|other| *other != one));
        }
    }

    #[test]
    fn names_to_ask_for() {
        let automatic = ClientTls::new(settings(Trust::Anybody)).unwrap();
        let asked = |host: &str| automatic.server_name(host).map(|name| name.to_str().into_owned());
        assert_eq!(asked("A.example.com."), Ok("a.example.com".to_owned()));
        assert_eq!(asked("10.0.0.1"), Ok("10.0.0.1".to_owned()));
        assert_eq!(asked("[::1]"), Ok("::1".to_owned()));
        assert!(asked("a b").is_err() && asked("").is_err());
        let name = Some(DnsName::try_from("fixed.example.com".to_owned()).unwrap());
        let fixed = ClientTls::new(ClientSettings { server_name: name, ..settings(Trust::Anybody) }).unwrap();
        assert_eq!(fixed.server_name("other").unwrap().to_str(), "fixed.example.com");
    }

    #[test]
    fn subject_alternative_names() {
        let names = ["*.example.com".to_owned(), "one.example.dev".to_owned(), "10.0.0.1".to_owned()];
        let signed = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate = Certificate::parse(signed.cert.der()).unwrap();
        for good in ["a.example.com", "ONE.example.dev", "10.0.0.1"] {
            assert!(is_for(&certificate, good), "{good}");
        }
        for bad in ["example.com", "a.b.example.com", ".example.com", "two.example.dev", "10.0.0.2"] {
            assert!(!is_for(&certificate, bad), "{bad}");
        }
    }
}
