//! Forwarding headers: what an upstream is told about the client, and how much of what the client says about itself is
//! believed. By default nothing; behind proxies that are trusted (`gatewayTopology.numTrustedProxies`), what the
//! outermost of them wrote (istio.md section 2, item 33).

#[cfg(any(test, fuzzing))]
pub(super) mod invariants;

use std::net::{IpAddr, SocketAddr};

use heads::{HeaderList, Key, Scheme};
use http::HeaderValue;

use super::{
    connection::Connection,
    request::{X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID},
};

static X_FORWARDED_CLIENT_CERT: Key = Key::from_static("x-forwarded-client-cert");
static X_ENVOY_EXTERNAL_ADDRESS: Key = Key::from_static("x-envoy-external-address");

/// What stands between clients and this gateway (MeshConfig `defaultConfig.gatewayTopology`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Topology {
    /// Proxies in front of us whose `x-forwarded-for` and `x-forwarded-proto` are true. Default 0.
    pub trusted_proxies: u32,
    /// Connections begin with a PROXY protocol header. Default `false`.
    pub proxy_protocol: bool,
    /// What happens to the client's `x-forwarded-client-cert`.
    pub client_certificate: ForwardClientCertificate,
}

/// What happens to `x-forwarded-client-cert`, as Envoy names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardClientCertificate {
    /// It is removed.
    Sanitize,
    /// It passes if the client has shown a certificate.
    ForwardOnly,
    /// The same, and the client's certificate is added.
    AppendForward,
    /// The client's certificate takes its place: Istio's default for gateways.
    #[default]
    SanitizeSet,
    /// It passes.
    AlwaysForwardOnly,
}

/// Whether the client's own `x-forwarded-client-cert` passes.
pub(super) fn keeps_certificate(connection: &Connection) -> bool {
    match connection.worker.identity.topology.client_certificate {
        ForwardClientCertificate::Sanitize | ForwardClientCertificate::SanitizeSet => false,
        ForwardClientCertificate::ForwardOnly | ForwardClientCertificate::AppendForward => {
            certificate(connection).is_some()
        }
        ForwardClientCertificate::AlwaysForwardOnly => true,
    }
}

/// What to say of the certificate that the client has shown.
fn certificate(connection: &Connection) -> Option<&HeaderValue> {
    connection.secured.as_ref()?.forwarded_client_cert()
}

fn set_certificate(headers: &mut HeaderList, connection: &Connection) {
    let Some(certificate) = certificate(connection) else { return };
    match connection.worker.identity.topology.client_certificate {
        ForwardClientCertificate::SanitizeSet => {
            headers.insert(&X_FORWARDED_CLIENT_CERT, certificate.clone());
        }
        // A list; more lines are more of it.
        ForwardClientCertificate::AppendForward => {
            headers.append(&X_FORWARDED_CLIENT_CERT, certificate.clone());
        }
        ForwardClientCertificate::Sanitize
        | ForwardClientCertificate::ForwardOnly
        | ForwardClientCertificate::AlwaysForwardOnly => {}
    }
}

/// What the forwarding headers say now.
pub(super) struct Forwarded {
    /// The client, if a trusted proxy named it. Its port is not known: 0.
    pub(super) client: Option<SocketAddr>,
    /// What the client speaks, to us or to the outermost trusted proxy.
    pub(super) scheme: Scheme,
}

/// Sets the forwarding headers of a request that arrived as `scheme`.
pub(super) fn set(headers: &mut HeaderList, scheme: Scheme, connection: &Connection) -> Forwarded {
    let peer = &connection.forwarded_for;
    let trusted = connection.worker.identity.topology.trusted_proxies;
    let mut forwarded = Forwarded { client: None, scheme };
    if trusted == 0 {
        headers.insert(&X_FORWARDED_PROTO, own_proto(scheme));
        headers.insert(&X_ENVOY_EXTERNAL_ADDRESS, peer.clone());
    } else {
        forwarded.client = client(headers, trusted).map(|address| SocketAddr::new(address, 0));
        forwarded.scheme = proto(headers).unwrap_or(scheme);
        if proto(headers).is_none() {
            headers.insert(&X_FORWARDED_PROTO, own_proto(scheme));
        }
        let address = forwarded.client.and_then(|client| HeaderValue::try_from(client.ip().to_string()).ok());
        headers.insert(&X_ENVOY_EXTERNAL_ADDRESS, address.unwrap_or_else(|| peer.clone()));
    }
    append_peer(headers, peer);
    set_certificate(headers, connection);
    headers.insert(&X_REQUEST_ID, request_id());
    forwarded
}

fn own_proto(scheme: Scheme) -> HeaderValue {
    HeaderValue::from_static(scheme.as_str())
}

/// What a trusted proxy says; `None` if that is not one of the two schemes.
fn proto(headers: &HeaderList) -> Option<Scheme> {
    let mut values = headers.get_all(&X_FORWARDED_PROTO);
    let value = values.next().filter(|_| values.next().is_none())?.as_bytes();
    [Scheme::Http, Scheme::Https].into_iter().find(|scheme| value.eq_ignore_ascii_case(scheme.as_str().as_bytes()))
}

/// The address that the outermost of `trusted` proxies saw: the last entry is what the proxy in front of us wrote. `None`
/// if there are not so many, or if it is no address; then only the peer is certain.
fn client(headers: &HeaderList, trusted: u32) -> Option<IpAddr> {
    let values = headers.get_all(&X_FORWARDED_FOR).rev();
    let mut entries = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let entry = entries.nth(usize::try_from(trusted - 1).ok()?)?;
    let address: IpAddr = str::from_utf8(entry.trim_ascii()).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

/// All lines of `x-forwarded-for` in one, with the peer at its end.
fn append_peer(headers: &mut HeaderList, peer: &HeaderValue) {
    let chain = match headers.get(&X_FORWARDED_FOR) {
        None => peer.clone(),
        Some(_) => {
            let mut chain = Vec::new();
            for value in headers.get_all(&X_FORWARDED_FOR) {
                chain.extend_from_slice(value.as_bytes());
                chain.push(b',');
            }
            chain.extend_from_slice(peer.as_bytes());
            HeaderValue::from_maybe_shared(bytes::Bytes::from(chain)).unwrap_or_else(|_| peer.clone())
        }
    };
    headers.insert(&X_FORWARDED_FOR, chain);
}

/// A random UUID (version 4), also when the client sent one: every request from outside gets its own, as in Envoy. It
/// need not be secret, only unique.
fn request_id() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut text);
    // A UUID is a legal header value; the fallback is never taken.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn headers(name: &'static Key, values: &[&'static str]) -> HeaderList {
        values.iter().map(|value| (name.name().clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn trusted_proxies_are_counted_from_the_right() {
        let of = |values: &[&'static str], trusted| {
            client(&headers(&X_FORWARDED_FOR, values), trusted).map(|address| address.to_string())
        };
        let three = ["1.1.1.1, 2.2.2.2, 3.3.3.3"];
        assert_eq!(of(&three, 1).as_deref(), Some("3.3.3.3"));
        // Measured on Envoy.
        assert_eq!(of(&three, 2).as_deref(), Some("2.2.2.2"));
        assert_eq!(of(&three, 3).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(&three, 4), None);
        assert_eq!(of(&["1.1.1.1,2.2.2.2", "2001:db8::1"], 1).as_deref(), Some("2001:db8::1"));
        assert_eq!(of(&["1.1.1.1,2.2.2.2", "2001:db8::1"], 2).as_deref(), Some("2.2.2.2"));
        assert_eq!(of(&["::ffff:1.2.3.4"], 1).as_deref(), Some("1.2.3.4"));
        for bad in ["", "unknown", "1.2.3.4:80", "[::1]", "1.2.3.4,", "<script>", "999.1.1.1"] {
            assert_eq!(of(&[bad], 1), None, "{bad}");
        }
        assert_eq!(of(&[], 1), None);
        assert_eq!(of(&three, u32::MAX), None);
    }

    #[test]
    fn only_one_clear_scheme_is_believed() {
        let of = |values: &[&'static str]| proto(&headers(&X_FORWARDED_PROTO, values));
        assert_eq!(of(&["https"]), Some(Scheme::Https));
        assert_eq!(of(&["HTTP"]), Some(Scheme::Http));
        for bad in [&["ftp"][..], &["https,http"], &["https", "http"], &[""], &[]] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_chain_stays_and_the_peer_comes_last() {
        let peer = HeaderValue::from_static("9.9.9.9");
        let mut several = headers(&X_FORWARDED_FOR, &["1.1.1.1, 2.2.2.2", "3.3.3.3"]);
        append_peer(&mut several, &peer);
        assert_eq!(several.get_all(&X_FORWARDED_FOR).collect::<Vec<_>>(), ["1.1.1.1, 2.2.2.2,3.3.3.3,9.9.9.9"]);
        let mut none = HeaderList::new();
        append_peer(&mut none, &peer);
        assert_eq!(none[&X_FORWARDED_FOR], "9.9.9.9");
    }

    #[test]
    fn request_ids_are_uuids() {
        let one = request_id();
        assert_eq!(uuid::Uuid::try_parse_ascii(one.as_bytes()).unwrap().get_version_num(), 4);
        assert_ne!(one, request_id());
    }
}
