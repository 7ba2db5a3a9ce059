//! What a certificate says: for `/certs`, the access log, `x-forwarded-client-cert` and plugins.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    prelude::FromDer,
    x509::X509Name,
};

/// The public parts of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Subject as OpenSSL's RFC 2253 form: `CN=name,O=organisation`. Often empty.
    pub subject: String,
    /// Issuer in the same form.
    pub issuer: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Subject alternative names: DNS names.
    pub dns_names: Vec<String>,
    /// Subject alternative names: URIs.
    pub uris: Vec<String>,
    /// Subject alternative names: addresses and e-mail addresses.
    pub others: Vec<String>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// SHA-256 of the whole certificate.
    pub sha256: [u8; 32],
    /// SHA-256 of the public key with its algorithm (SubjectPublicKeyInfo).
    pub spki_sha256: [u8; 32],
}

impl Certificate {
    /// Reads a certificate; `None` if it is malformed.
    #[must_use]
    pub fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let mut certificate = Self {
            subject: distinguished_name(parsed.subject()),
            issuer: distinguished_name(parsed.issuer()),
            serial: hex(parsed.raw_serial()),
            dns_names: Vec::new(),
            uris: Vec::new(),
            others: Vec::new(),
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
            sha256: Sha256::digest(der).into(),
            spki_sha256: Sha256::digest(parsed.public_key().raw).into(),
        };
        let names = parsed.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => certificate.dns_names.push((*name).to_owned()),
                GeneralName::URI(uri) => certificate.uris.push((*uri).to_owned()),
                GeneralName::RFC822Name(address) => certificate.others.push((*address).to_owned()),
                GeneralName::IPAddress(bytes) => certificate.others.extend(address(bytes).map(|ip| ip.to_string())),
                _ => {}
            }
        }
        Some(certificate)
    }

    /// Whether it is valid at this time.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Time until it expires; `None` if it has.
    #[must_use]
    pub fn expires_in(&self, now: SystemTime) -> Option<Duration> {
        self.not_after.duration_since(now).ok()
    }

    /// All subject alternative names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.dns_names.iter().chain(&self.uris).chain(&self.others).map(String::as_str)
    }
}

/// Bytes as hexadecimal digits, lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Certificates may lie before 1970; that is the same as 1970 to us.
pub(super) fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

/// RFC 2253: the most specific part first, separators escaped.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| {
            let attributes = part.iter().map(|attribute| {
                let kind = match oid2abbrev(attribute.attr_type(), oid_registry()) {
                    Ok(name) => name.to_owned(),
                    Err(_) => attribute.attr_type().to_id_string(),
                };
                match attribute.as_str() {
                    Ok(value) => format!("{kind}={}", escaped(value)),
                    // A type of text that is not read, as RFC 2253 2.4 writes it.
                    Err(_) => format!("{kind}=#{}", hex(attribute.as_slice())),
                }
            });
            attributes.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for (at, char) in value.char_indices() {
        let edge = at == 0 && matches!(char, '#' | ' ') || at + char.len_utf8() == value.len() && char == ' ';
        match char {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => text.extend(['\\', char]),
            ' ' | '#' if edge => text.extend(['\\', char]),
            // As OpenSSL: control and non-ASCII characters by their bytes.
            char if char.is_ascii_control() || !char.is_ascii() => {
                for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
            char => text.push(char),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn certificates_are_read() {
        let mut params = CertificateParams::new(["a.example.com".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "DE");
        params.distinguished_name.push(DnType::OrganizationName, "A, \"B\" + caf\u{e9}");
        params.distinguished_name.push(DnType::CommonName, "#name ");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        params.serial_number = Some(vec![1, 0xab].into());
        let signed = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Certificate::parse(signed.der()).unwrap();
        assert_eq!(read.subject, r#"CN=\#name\ ,O=A\, \"B\" \+ caf\C3\A9,C=DE"#);
        assert_eq!(read.subject, read.issuer);
        assert_eq!(read.serial, "01ab");
        assert_eq!(read.names().collect::<Vec<_>>(), ["a.example.com", "spiffe://td/ns/a/sa/b", "10.0.0.1"]);
        assert_eq!(read.not_before, UNIX_EPOCH + Duration::from_secs(1_577_836_800));
        assert!(read.is_valid_at(read.not_before) && !read.is_valid_at(SystemTime::now()));
        assert_eq!(read.expires_in(SystemTime::now()), None);
        assert_eq!(hex(&read.sha256).len(), 64);
        assert_eq!(Certificate::parse(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
