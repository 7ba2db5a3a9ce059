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
