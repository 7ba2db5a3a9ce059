//! `Gateway` (networking.istio.io): ports, protocols and hosts that a gateway serves.

use serde::Deserialize;

use super::{Labels, Opaque};

/// `spec` of a Gateway.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Gateway {
    /// At least one.
    pub servers: Vec<Server>,
    /// Labels of the gateway's pods; empty: every gateway.
    pub selector: Labels,
}

/// One port with the hosts that are served there.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Server {
    /// Number, name and protocol.
    pub port: ServerPort,
    /// IP address to listen on; empty: all.
    pub bind: String,
    /// `[namespace/]name`: the hosts served, and which namespaces may bind VirtualServices to them.
    pub hosts: Vec<String>,
    /// TLS settings.
    pub tls: Option<ServerTls>,
    /// Not implemented by Istio either.
    pub default_endpoint: Option<Opaque>,
    /// Optional unique name.
    pub name: String,
}

/// The port of a server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServerPort {
    /// 1-65535, as clients of the Kubernetes Service see it.
    pub number: u32,
    /// HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP or MONGO; case does not matter.
    pub protocol: String,
    /// Unique in the Gateway.
    pub name: String,
    /// Deprecated; refused for Gateways.
    pub target_port: Option<u32>,
}

/// TLS settings of a server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServerTls {
    /// Answer every clear-text request with a redirect to https.
    pub https_redirect: bool,
    /// PASSTHROUGH (default), SIMPLE, MUTUAL, OPTIONAL_MUTUAL, ISTIO_MUTUAL, AUTO_PASSTHROUGH.
    pub mode: Option<String>,
    /// Path of the certificate chain.
    pub server_certificate: String,
    /// Path of the key.
    pub private_key: String,
    /// Path of the CA that client certificates are verified with.
    pub ca_certificates: String,
    /// Path of a revocation list for client certificates.
    pub ca_crl: String,
    /// Name of a Secret in the gateway's namespace.
    pub credential_name: String,
    /// One or two Secrets, RSA and ECDSA.
    pub credential_names: Vec<String>,
    /// Secret or ConfigMap with the CA only.
    pub ca_cert_credential_name: String,
    /// One or two certificates as files.
    pub tls_certificates: Vec<TlsCertificate>,
    /// Names that a client certificate must have.
    pub subject_alt_names: Vec<String>,
    /// Hashes of the public keys of accepted client certificates.
    pub verify_certificate_spki: Vec<String>,
    /// Hashes of accepted client certificates.
    pub verify_certificate_hash: Vec<String>,
    /// Lowest TLS version.
    pub min_protocol_version: String,
    /// Highest TLS version.
    pub max_protocol_version: String,
    /// OpenSSL names of cipher suites.
    pub cipher_suites: Vec<String>,
    /// Names of curves.
    pub ecdh_curves: Vec<String>,
    /// Accept client certificates that cannot be verified.
    pub insecure_skip_verify: bool,
}

impl ServerTls {
    /// Whether TLS ends at the gateway. Without a mode it passes through, as in Istio.
    #[must_use]
    pub fn terminates(&self) -> bool {
        self.mode.as_deref().is_some_and(|mode| matches!(mode, "SIMPLE" | "MUTUAL" | "OPTIONAL_MUTUAL"))
    }
}

/// A certificate as files.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsCertificate {
    /// Path of the certificate chain.
    pub server_certificate: String,
    /// Path of the key.
    pub private_key: String,
    /// Refused by Istio's validation.
    pub ca_certificates: String,
}
