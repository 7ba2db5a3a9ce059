//! Certificates made when a test runs: an authority, and what it issues to servers and clients.
//!
//! ```
//! # use gateway_tests::certificates::Authority;
//! let authority = Authority::new("tests")?;
//! let server = authority.server(&["a.example.dev", "*.b.example.dev"])?;
//! let client = authority.client("client", &["spiffe://example.dev/client"])?;
//! assert!(server.chain.contains("BEGIN CERTIFICATE") && client.key.contains("PRIVATE KEY"));
//! # anyhow::Ok(())
//! ```

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, RsaKeySize,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Somebody who issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Issued {
    /// The certificate as PEM text.
    pub chain: String,
    /// Its key as PEM text.
    pub key: String,
    serial: SerialNumber,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issued({})", self.serial)
    }
}

impl Authority {
    /// A new authority with an ECDSA key.
    pub fn new(name: &str) -> anyhow::Result<Authority> {
        Authority::with_key(name, KeyPair::generate()?)
    }

    /// The same with an RSA key.
    pub fn rsa(name: &str) -> anyhow::Result<Authority> {
        Authority::with_key(name, rsa_key()?)
    }

    fn with_key(name: &str, key: KeyPair) -> anyhow::Result<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), pem })
    }

    /// Its certificate as PEM text.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate of a server for these names (ECDSA).
    pub fn server(&self, names: &[&str]) -> anyhow::Result<Issued> {
        self.issue(names, &KeyPair::generate()?, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// The same with an RSA key.
    pub fn rsa_server(&self, names: &[&str]) -> anyhow::Result<Issued> {
        self.issue(names, &rsa_key()?, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// A certificate of a client with these alternative names; those with `://` are URIs.
    pub fn client(&self, name: &str, names: &[&str]) -> anyhow::Result<Issued> {
        self.issue(names, &KeyPair::generate()?, |params| {
            params.distinguished_name = common_name(name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    /// Any certificate.
    pub fn issue(
        &self,
        names: &[&str],
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> anyhow::Result<Issued> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for name in names {
            let name = (*name).to_owned();
            params.subject_alt_names.push(if name.contains("://") {
                SanType::URI(name.try_into()?)
            } else {
                SanType::DnsName(name.try_into()?)
            });
        }
        let serial = SerialNumber::from(fresh_serial());
        params.serial_number = Some(serial.clone());
        change(&mut params);
        let chain = params.signed_by(key, &self.issuer)?.pem();
        Ok(Issued { chain, key: key.serialize_pem(), serial })
    }

    /// A revocation list with these certificates.
    pub fn revoke(&self, revoked: &[&Issued]) -> anyhow::Result<String> {
        let revoked = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: issued.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

impl Issued {
    /// The certificate as bytes.
    ///
    /// # Errors
    /// The text was changed.
    pub fn der(&self) -> anyhow::Result<CertificateDer<'static>> {
        Ok(CertificateDer::from_pem_slice(self.chain.as_bytes())?)
    }

    /// The key as bytes.
    pub fn key_der(&self) -> anyhow::Result<PrivateKeyDer<'static>> {
        Ok(PrivateKeyDer::from_pem_slice(self.key.as_bytes())?)
    }
}

fn rsa_key() -> anyhow::Result<KeyPair> {
    Ok(KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)?)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Every certificate of a test run has its own.
fn fresh_serial() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1000);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
