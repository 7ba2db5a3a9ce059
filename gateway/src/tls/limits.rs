//! Limits of TLS. What rustls itself bounds (64 KiB for one handshake message, 16 KiB for a record, the work of checking a
//! chain of certificates) is not repeated here.

use std::time::Duration;

/// From the start of a connection to the end of its handshake: the connection is closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a ClientHello, as Envoy: the connection is closed. Real ones have about 2 KiB.
pub const CLIENT_HELLO_BYTES: usize = 16 * 1024;
/// Bytes that may wait for a client that reads slowly, inside TLS; more are not taken from the response.
pub const SEND_BUFFER_BYTES: usize = 32 * 1024;
/// PEM text of one certificate chain, key, list of authorities or list of revocations: larger ones are refused.
pub const PEM_BYTES: usize = 4 * 1024 * 1024;
/// Certificates of one chain: longer ones are refused.
pub const CHAIN_CERTIFICATES: usize = 32;
/// Certificates of authorities that one server trusts: more are refused.
pub const AUTHORITIES: usize = 4096;
/// Sessions that are kept per cluster, to be resumed with its service: the oldest are forgotten.
pub const CLIENT_SESSIONS: usize = 128;
/// A certificate that expires within this time is reported.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);
