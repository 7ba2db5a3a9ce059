//! What a finished handshake told about the client.

use rustls::{ProtocolVersion, pki_types::CertificateDer};

use super::{Certificate, certificate::hex};

/// A client that showed a certificate, which was verified.
#[derive(Debug)]
pub struct Peer {
    /// The chain as it was sent, its own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// What its own certificate says.
    pub certificate: Certificate,
}

impl Peer {
    /// From rustls' `peer_certificates`; `None` if there is none.
    #[must_use]
    pub fn new(chain: Option<&[CertificateDer<'static>]>) -> Option<Self> {
        let chain = chain?;
        let certificate = Certificate::parse(chain.first()?)?;
        Some(Self { chain: chain.to_vec(), certificate })
    }

    /// Its own certificate as PEM text (RFC 7468).
    #[must_use]
    pub fn pem(&self) -> String {
        self.chain.first().map(pem_text).unwrap_or_default()
    }

    /// SHA-256 of its certificate, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&self.certificate.sha256)
    }
}

/// The name of a version as Envoy's logs and properties have it.
#[must_use]
pub fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "",
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Lines of 64 characters between BEGIN and END.
fn pem_text(der: &CertificateDer<'_>) -> String {
    let mut text = String::with_capacity(der.len() * 3 / 2 + 64);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let mut bits = 0;
            for at in 0..3 {
                bits = bits << 8 | u32::from(group.get(at).copied().unwrap_or(0));
            }
            for at in 0..4 {
                let digit = BASE64.get((bits >> (18 - 6 * at)) as usize & 63);
                text.push(if at <= group.len() { digit.copied().map_or('=', char::from) } else { '=' });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn certificates_are_written_as_they_are_read() {
        let signed = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
        let peer = Peer::new(Some(std::slice::from_ref(signed.cert.der()))).unwrap();
        assert_eq!(peer.pem(), signed.cert.pem().replace("\r\n", "\n"));
        for length in 0..100 {
            let der = CertificateDer::from(vec![0xa5; length]);
            let text = pem_text(&der);
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap(), der);
        }
        assert!(Peer::new(None).is_none());
    }
}
