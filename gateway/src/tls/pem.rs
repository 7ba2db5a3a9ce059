//! PEM text (RFC 7468) → what it stands for. Bounded, and clear about what is missing.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use sha2::{Digest, Sha256};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{certificate, limits};

/// Why PEM text cannot be used. No message quotes the text: it may be a key.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// More than is read.
    #[error("is larger than {} MiB", limits::PEM_BYTES >> 20)]
    TooLarge,
    /// Something between BEGIN and END is not base64, or END is missing.
    #[error("is not PEM text: {0}")]
    Malformed(String),
    /// None of the wanted kind.
    #[error("has no {0}; it must be PEM text with \"-----BEGIN {1}-----\"")]
    Missing(&'static str, &'static str),
    /// More than are accepted.
    #[error("has more than {0} certificates")]
    TooMany(usize),
    /// A revocation list that is malformed.
    #[error("revocation list {0} cannot be read")]
    RevocationList(usize),
    /// A certificate that rustls does not accept as an authority.
    #[error("certificate {0} cannot be used as an authority: {1}")]
    Authority(usize, rustls::Error),
}

fn malformed(error: &pem::Error) -> PemError {
    let reason = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be read",
    };
    PemError::Malformed(reason.to_owned())
}

/// The items of one kind in PEM text; whatever else is in it is skipped.
fn items<T: PemObject>(text: &[u8], most: usize) -> Result<Vec<T>, PemError> {
    if text.len() > limits::PEM_BYTES {
        return Err(PemError::TooLarge);
    }
    let mut found = Vec::new();
    for item in T::pem_slice_iter(text) {
        if found.len() == most {
            return Err(PemError::TooMany(most));
        }
        found.push(item.map_err(|error| malformed(&error))?);
    }
    Ok(found)
}

/// A certificate chain, the end-entity's certificate first. At least one.
pub(super) fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let chain = items::<CertificateDer<'static>>(text, limits::CHAIN_CERTIFICATES)?;
    if chain.is_empty() { Err(PemError::Missing("certificate", "CERTIFICATE")) } else { Ok(chain) }
}

/// A private key: PKCS #8, PKCS #1 or SEC 1.
pub(super) fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    if text.len() > limits::PEM_BYTES {
        return Err(PemError::TooLarge);
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => PemError::Missing("private key", "PRIVATE KEY"),
        error => malformed(&error),
    })
}

/// Authorities that certificates are verified with.
#[derive(Clone)]
pub struct Authorities {
    store: Arc<RootCertStore>,
    digest: [u8; 32],
}

impl Authorities {
    /// Reads a bundle of certificates; every one of them is trusted.
    ///
    /// # Errors
    /// There is none, one cannot be used, or there are too many.
    pub fn from_pem(text: &[u8]) -> Result<Self, PemError> {
        let mut certificates = items::<CertificateDer<'static>>(text, limits::AUTHORITIES)?;
        if certificates.is_empty() {
            return Err(PemError::Missing("certificate", "CERTIFICATE"));
        }
        // The order means nothing, so it must not change the digest.
        certificates.sort_unstable_by(|one, two| one.as_ref().cmp(two.as_ref()));
        certificates.dedup();
        let mut store = RootCertStore::empty();
        let mut digest = Sha256::new();
        for (at, certificate) in certificates.into_iter().enumerate() {
            digest.update(Sha256::digest(&certificate));
            store.add(certificate).map_err(|error| PemError::Authority(at + 1, error))?;
        }
        Ok(Self { store: Arc::new(store), digest: digest.finalize().into() })
    }

    /// Those that are read already.
    pub(super) fn of(store: RootCertStore, digest: [u8; 32]) -> Self {
        Self { store: Arc::new(store), digest }
    }

    /// As rustls wants them.
    #[must_use]
    pub fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }

    /// The same for the same set of certificates.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.store.len())
    }
}

/// Lists of certificates that their issuers have revoked (RFC 5280 5).
#[derive(Debug, Clone)]
pub struct RevocationLists {
    pub(super) lists: Vec<CertificateRevocationListDer<'static>>,
    pub(super) digest: [u8; 32],
    expires: Option<SystemTime>,
}

impl RevocationLists {
    /// Reads one list or several.
    ///
    /// # Errors
    /// There is none, or one is malformed.
    pub fn from_pem(text: &[u8]) -> Result<Self, PemError> {
        let lists = items::<CertificateRevocationListDer<'static>>(text, limits::AUTHORITIES)?;
        if lists.is_empty() {
            return Err(PemError::Missing("revocation list", "X509 CRL"));
        }
        let mut digest = Sha256::new();
        let mut expires: Option<SystemTime> = None;
        for (at, list) in lists.iter().enumerate() {
            let (_, parsed) =
                CertificateRevocationList::from_der(list).map_err(|_| PemError::RevocationList(at + 1))?;
            let next = parsed.next_update().map(|next| certificate::time(next.timestamp()));
            expires = [expires, next].into_iter().flatten().min();
            digest.update(Sha256::digest(list));
        }
        Ok(Self { lists, digest: digest.finalize().into(), expires })
    }

    /// When the first of them expires; from then on it lets nobody in.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_wrong_is_said_without_quoting_the_text() {
        let secret = "c2VjcmV0";
        for (text, expected) in [
            (String::new(), "has no private key"),
            (secret.to_owned(), "has no private key"),
            (format!("-----BEGIN PRIVATE KEY-----\n{secret}\n"), "a section has no END line"),
            (format!("-----BEGIN PRIVATE KEY-----\n{secret}*\n-----END PRIVATE KEY-----\n"), "is not base64"),
        ] {
            let message = key(text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(expected) && !message.contains(secret), "{text}: {message}");
        }
        assert!(matches!(key(&vec![b'-'; limits::PEM_BYTES + 1]), Err(PemError::TooLarge)));
        assert!(matches!(chain(b""), Err(PemError::Missing(..))));
    }

    #[test]
    fn authorities_are_the_same_in_any_order() {
        let one = rcgen::generate_simple_self_signed(["one".to_owned()]).unwrap().cert.pem();
        let two = rcgen::generate_simple_self_signed(["two".to_owned()]).unwrap().cert.pem();
        let read = |text: String| Authorities::from_pem(text.as_bytes()).unwrap();
        let both = read(format!("{one}\n{two}"));
        assert_eq!(both.digest(), read(format!("{two}{one}{two}")).digest());
        assert_ne!(both.digest(), read(one).digest());
        assert_eq!(format!("{both:?}"), "Authorities(2)");
    }
}
