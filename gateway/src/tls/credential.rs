//! A certificate chain with its key: what a server or a client shows.

use std::{fmt, sync::Arc};

use rustls::{Error, InconsistentKeys, sign::CertifiedKey};

use super::{Certificate, PemError, pem, provider};

/// A certificate chain with the key that belongs to it.
pub struct Credential {
    key: Arc<CertifiedKey>,
    certificate: Certificate,
}

/// Why a chain and a key cannot be used together.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The chain's text.
    #[error("the certificate {0}")]
    Chain(PemError),
    /// The key's text.
    #[error("the key {0}")]
    Key(PemError),
    /// The first certificate of the chain is malformed.
    #[error("the first certificate cannot be read; check that it is an X.509 certificate")]
    Certificate,
    /// They are not a pair.
    #[error("the key does not belong to the first certificate of the chain; check that both are of the same issue")]
    Mismatch,
    /// A kind of key that cannot be used.
    #[error("the key cannot be used ({0}); RSA (2048 to 8192 bits), ECDSA (P-256, P-384, P-521) and Ed25519 can")]
    KeyKind(Error),
}

impl CredentialError {
    /// Whether the certificate is at fault, not the key.
    #[must_use]
    pub fn is_about_certificate(&self) -> bool {
        matches!(self, Self::Chain(_) | Self::Certificate)
    }
}

impl Credential {
    /// Reads a chain (the server's own certificate first) and its key.
    ///
    /// # Errors
    /// One of them is malformed or missing, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CredentialError> {
        let chain = pem::chain(chain).map_err(CredentialError::Chain)?;
        let key = pem::key(key).map_err(CredentialError::Key)?;
        let certificate = chain.first().and_then(Certificate::parse).ok_or(CredentialError::Certificate)?;
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => CredentialError::Mismatch,
            Error::InvalidCertificate(_) => CredentialError::Certificate,
            error => CredentialError::KeyKind(error),
        })?;
        Ok(Self { key: Arc::new(key), certificate })
    }

    /// As rustls wants it.
    #[must_use]
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// What the first certificate says.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({} {})", self.certificate.subject, self.certificate.serial)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_pair_must_belong_together() {
        let one = rcgen::generate_simple_self_signed(["one.example.com".to_owned()]).unwrap();
        let two = rcgen::generate_simple_self_signed(["two.example.com".to_owned()]).unwrap();
        let (chain, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let good = Credential::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(good.certificate().dns_names, ["one.example.com"]);
        assert!(!format!("{good:?}").contains(key.lines().nth(1).unwrap()));

        let wrong = Credential::from_pem(chain.as_bytes(), two.signing_key.serialize_pem().as_bytes()).unwrap_err();
        assert!(matches!(wrong, CredentialError::Mismatch) && !wrong.is_about_certificate(), "{wrong}");
        let swapped = Credential::from_pem(key.as_bytes(), chain.as_bytes()).unwrap_err();
        assert!(matches!(swapped, CredentialError::Chain(PemError::Missing(..))), "{swapped}");
        let cut = Credential::from_pem(chain.get(..80).unwrap().as_bytes(), key.as_bytes()).unwrap_err();
        assert!(matches!(cut, CredentialError::Chain(PemError::Malformed(_))), "{cut}");
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let garbage = Credential::from_pem(garbage.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(matches!(garbage, CredentialError::Certificate), "{garbage}");
    }
}
