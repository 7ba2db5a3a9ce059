//! Protocol versions, cipher suites and curves, by the names that OpenSSL and Envoy use.

use std::sync::Arc;

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{ALL_KX_GROUPS, cipher_suite as suites},
    },
    version::{TLS12, TLS13},
};
use sha2::{Digest, Sha256};

use super::provider;

/// The cipher suites of TLS 1.2 that rustls has, by OpenSSL's name. Those of TLS 1.3 cannot be chosen, as in Envoy.
const SUITES: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Curves by the names that Envoy accepts, with rustls' own.
const CURVES: [(&str, &str); 4] =
    [("X25519", "X25519"), ("P-256", "secp256r1"), ("P-384", "secp384r1"), ("X25519MLKEM768", "X25519MLKEM768")];

/// A protocol version that rustls has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// Versions and cryptography of one server or client.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
}

/// Why parameters leave nothing to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    /// The range of versions is empty.
    #[error("the lowest protocol version is above the highest")]
    Versions,
    /// TLS 1.2 only, and no suite for it.
    #[error("none of the cipher suites can be used, and TLS 1.3, which has its own, is excluded")]
    Suites,
    /// No curve.
    #[error("none of the curves can be used")]
    Curves,
}

impl Default for Parameters {
    /// TLS 1.2 and 1.3 with everything that rustls considers safe.
    fn default() -> Self {
        Self { provider: Arc::clone(provider()), versions: vec![&TLS13, &TLS12] }
    }
}

impl Parameters {
    /// Versions from `lowest` to `highest`. An empty list of suites (of TLS 1.2) or curves means all; with `Some` of
    /// nothing known, TLS 1.2 is left out, because nobody asked for what it could be spoken with.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn new(
        lowest: Version,
        highest: Version,
        suites: Option<&[SupportedCipherSuite]>,
        curves: Option<&[&'static dyn SupportedKxGroup]>,
    ) -> Result<Self, ParametersError> {
        if lowest > highest {
            return Err(ParametersError::Versions);
        }
        let mut provider = CryptoProvider::clone(provider());
        let mut versions = Vec::new();
        if highest == Version::Tls13 {
            versions.push(&TLS13);
        }
        if lowest == Version::Tls12 && suites.is_none_or(|suites| !suites.is_empty()) {
            versions.push(&TLS12);
        }
        if versions.is_empty() {
            return Err(ParametersError::Suites);
        }
        if let Some(suites) = suites {
            provider.cipher_suites.retain(|suite| suite.tls13().is_some());
            provider.cipher_suites.extend_from_slice(suites);
        }
        if let Some(curves) = curves {
            provider.kx_groups = curves.to_vec();
        }
        if provider.kx_groups.is_empty() {
            return Err(ParametersError::Curves);
        }
        Ok(Self { provider: Arc::new(provider), versions })
    }

    /// The suite with OpenSSL's name, if rustls has it.
    #[must_use]
    pub fn cipher_suite(name: &str) -> Option<SupportedCipherSuite> {
        SUITES.iter().find(|(known, _)| *known == name).map(|(_, suite)| *suite)
    }

    /// The curve with this name, if rustls has it.
    #[must_use]
    pub fn curve(name: &str) -> Option<&'static dyn SupportedKxGroup> {
        let (_, known) = CURVES.iter().find(|(known, _)| *known == name)?;
        ALL_KX_GROUPS.iter().copied().find(|group| format!("{:?}", group.name()) == *known)
    }

    /// The names that [`Self::cipher_suite`] knows, for messages.
    #[must_use]
    pub fn known_cipher_suites() -> String {
        SUITES.map(|(name, _)| name).join(", ")
    }

    /// The names that [`Self::curve`] knows, for messages.
    #[must_use]
    pub fn known_curves() -> String {
        CURVES.map(|(name, _)| name).join(", ")
    }

    /// The same for the same parameters.
    pub(super) fn digest(&self) -> [u8; 32] {
        let versions: Vec<_> = self.versions.iter().map(|version| version.version).collect();
        let suites: Vec<_> = self.provider.cipher_suites.iter().map(SupportedCipherSuite::suite).collect();
        let groups: Vec<_> = self.provider.kx_groups.iter().map(|group| group.name()).collect();
        Sha256::digest(format!("{versions:?} {suites:?} {groups:?}")).into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_name_is_known_to_rustls() {
        assert!(SUITES.iter().all(|(name, _)| Parameters::cipher_suite(name).is_some()));
        assert!(CURVES.iter().all(|(name, _)| Parameters::curve(name).is_some()));
        assert!(Parameters::cipher_suite("AES128-SHA").is_none() && Parameters::curve("P-521").is_none());
    }

    #[test]
    fn what_is_left_is_what_was_asked_for() {
        let new = |lowest, highest, suites| Parameters::new(lowest, highest, suites, None);
        let (old, new_one) = (Version::Tls12, Version::Tls13);
        assert_eq!(new(new_one, old, None).unwrap_err(), ParametersError::Versions);
        assert_eq!(new(old, old, Some(&[])).unwrap_err(), ParametersError::Suites);
        assert_eq!(new(old, new_one, Some(&[])).unwrap().versions, [&TLS13]);
        assert_eq!(new(old, new_one, None).unwrap().versions, Parameters::default().versions);
        let one = Parameters::cipher_suite("ECDHE-RSA-AES128-GCM-SHA256").unwrap();
        let limited = new(old, old, Some(&[one])).unwrap();
        assert_eq!(limited.versions, [&TLS12]);
        assert_eq!(limited.provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count(), 1);
        assert_ne!(limited.digest(), Parameters::default().digest());
        assert!(matches!(Parameters::new(old, old, None, Some(&[])), Err(ParametersError::Curves)));
    }
}
