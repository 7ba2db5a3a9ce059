//! How a server checks the certificates of its clients.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use sha2::{Digest, Sha256};

use super::{Authorities, Certificate, RevocationLists, provider};

/// Whether clients have to prove who they are.
#[derive(Debug, Clone)]
pub enum ClientPolicy {
    /// Nobody is asked.
    Ignore,
    /// They may; what they show must be right.
    Optional(Verification),
    /// They must.
    Required(Verification),
}

/// What a client certificate must satisfy.
#[derive(Debug, Clone)]
pub struct Verification {
    /// Who may have issued it.
    pub authorities: Authorities,
    /// What has been revoked. With lists, every certificate of the chain needs one that has not expired (as Envoy).
    pub revocations: Option<RevocationLists>,
    /// One of these must be among its subject alternative names; empty: any.
    pub names: Vec<String>,
    /// SHA-256 of accepted public keys. Together with `certificates`; both empty: any.
    pub keys: Vec<[u8; 32]>,
    /// SHA-256 of accepted certificates.
    pub certificates: Vec<[u8; 32]>,
}

impl ClientPolicy {
    /// The same for the same policy: what session tickets are kept by.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let verification = match self {
            Self::Ignore => return Sha256::digest(b"ignore").into(),
            Self::Optional(verification) => {
                digest.update(b"optional");
                verification
            }
            Self::Required(verification) => {
                digest.update(b"required");
                verification
            }
        };
        digest.update(verification.authorities.digest());
        digest.update(verification.revocations.as_ref().map_or([0; 32], |lists| lists.digest));
        // What has no fixed length is hashed on its own, so that nothing can be moved from one list to the next.
        let mut names = verification.names.clone();
        names.sort();
        let mut list = Sha256::new();
        for name in &names {
            list.update(Sha256::digest(name));
        }
        digest.update(list.finalize());
        for hashes in [&verification.keys, &verification.certificates] {
            let mut hashes = hashes.clone();
            hashes.sort_unstable();
            digest.update(Sha256::digest(hashes.concat()));
        }
        digest.finalize().into()
    }

    /// Whether a client without a certificate is turned away.
    pub(super) fn is_required(&self) -> bool {
        matches!(self, Self::Required(_))
    }

    /// As rustls wants it; `None`: nobody is asked.
    pub(super) fn verifier(&self) -> Result<Option<Arc<dyn ClientCertVerifier>>, VerifierBuilderError> {
        let (verification, required) = match self {
            Self::Ignore => return Ok(None),
            Self::Optional(verification) => (verification, false),
            Self::Required(verification) => (verification, true),
        };
        let roots = Arc::clone(verification.authorities.store());
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()));
        if let Some(revocations) = &verification.revocations {
            builder = builder.with_crls(revocations.lists.iter().cloned()).enforce_revocation_expiration();
        }
        if !required {
            builder = builder.allow_unauthenticated();
        }
        let chain = builder.build()?;
        let Verification { names, keys, certificates, .. } = verification;
        if names.is_empty() && keys.is_empty() && certificates.is_empty() {
            return Ok(Some(chain));
        }
        let (names, keys, certificates) = (names.clone(), keys.clone(), certificates.clone());
        Ok(Some(Arc::new(Narrowed { chain, names, keys, certificates })))
    }
}

/// A certificate with a good chain, which must also be one of those that are expected.
#[derive(Debug)]
struct Narrowed {
    chain: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
    keys: Vec<[u8; 32]>,
    certificates: Vec<[u8; 32]>,
}

impl Narrowed {
    fn expects(&self, certificate: &Certificate) -> bool {
        let named = self.names.is_empty() || certificate.names().any(|name| self.names.iter().any(|own| own == name));
        let hashed = self.keys.is_empty() && self.certificates.is_empty()
            || self.keys.contains(&certificate.spki_sha256)
            || self.certificates.contains(&certificate.sha256);
        named && hashed
    }
}

impl ClientCertVerifier for Narrowed {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match Certificate::parse(end_entity) {
            Some(certificate) if self.expects(&certificate) => Ok(verified),
            Some(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
            None => Err(CertificateError::BadEncoding.into()),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_part_of_a_policy_counts() {
        let authority = |name: &str| {
            let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            Authorities::from_pem(signed.cert.pem().as_bytes()).unwrap()
        };
        let plain = Verification {
            authorities: authority("one"),
            revocations: None,
            names: Vec::new(),
            keys: Vec::new(),
            certificates: Vec::new(),
        };
        let policies = [
            ClientPolicy::Ignore,
            ClientPolicy::Optional(plain.clone()),
            ClientPolicy::Required(plain.clone()),
            ClientPolicy::Required(Verification { authorities: authority("two"), ..plain.clone() }),
            ClientPolicy::Required(Verification { names: vec!["ab".to_owned()], ..plain.clone() }),
            ClientPolicy::Required(Verification { names: vec!["a".to_owned(), "b".to_owned()], ..plain.clone() }),
            ClientPolicy::Required(Verification { keys: vec![[1; 32]], ..plain.clone() }),
            ClientPolicy::Required(Verification { certificates: vec![[1; 32]], ..plain }),
        ];
        let mut digests: Vec<_> = policies.iter().map(ClientPolicy::digest).collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), policies.len());
        assert!(policies.iter().all(|policy| policy.verifier().is_ok()));
    }
}
