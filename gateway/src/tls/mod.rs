//! TLS: certificates, keys and settings → what rustls needs, on both sides of the gateway.
//!
//! | file | what it owns |
//! |---|---|
//! | `pem` | PEM text → certificates, keys, authorities, revocation lists |
//! | `certificate` | what a certificate says, for people, headers and plugins |
//! | `credential` | a certificate chain with its key |
//! | `parameters` | protocol versions, cipher suites and curves |
//! | `tickets` | the keys of session tickets, which outlive a configuration |
//! | `clients` | how client certificates are checked |
//! | `server` | everything of one server, ready for handshakes |
//! | `client` | the same towards services: whom to believe, what to show, which name to ask for |
//! | `peer` | what a finished handshake told about the client |
//!
//! Nothing here knows resources, sockets or HTTP. Keys are never printed: no type that holds one shows it.

mod certificate;
mod client;
mod clients;
mod credential;
pub mod limits;
mod parameters;
mod peer;
mod pem;
mod server;
mod tickets;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use certificate::Certificate;
pub use client::{ClientError, ClientSettings, ClientTls, Inside, InvalidHost, Trust};
pub use clients::{ClientPolicy, Verification};
pub use credential::{Credential, CredentialError};
pub use parameters::{Parameters, ParametersError, Version};
pub use peer::{Peer, version_name};
pub use pem::{Authorities, PemError, RevocationLists};
pub use server::{ServerError, ServerSettings, ServerTls};
pub use tickets::TicketKeys;

/// The cryptography that every configuration is built with: aws-lc-rs with rustls' safe defaults.
#[must_use]
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

/// ALPN name of HTTP/2 (RFC 9113 3.2).
pub const ALPN_HTTP2: &[u8] = b"h2";
/// ALPN name of HTTP/1.1 (RFC 7301 6).
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
