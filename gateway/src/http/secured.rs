//! A client connection inside TLS: which server it belongs to, who the client is, and what it may ask for.
//!
//! Every server of a listener has hosts of its own. A request for a host that another server has with other TLS
//! settings is answered 421 (RFC 9110 15.5.20), so that the client comes again on a connection of its own; otherwise a
//! client could get around the check of its certificate by asking for one name and using another.

use std::{cell::Cell, fmt::Write, sync::Arc};

use heads::RequestHead;
use http::{HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use proxy_wasm_host::TlsFacts;
use rustls::{ProtocolVersion, server::ClientHello};

use super::{connection::Connection, reply::Reply, route::authority, serving::Serving};
use crate::{
    snapshot::{HostTable, TcpRoute, TlsServer, TlsServers},
    telemetry::{ResponseFlags, TlsEntry},
    tls::{Certificate, Peer, ServerTls, version_name},
};

/// What is known of a TLS connection.
pub(super) struct Secured {
    /// [`TlsServer::name`] of the server that the client asked for.
    server: Arc<str>,
    /// How the client was checked, or would be: the policy that it is known to satisfy.
    policy: Cell<[u8; 32]>,
    peer: Option<Peer>,
    facts: Arc<TlsFacts>,
    /// `x-forwarded-client-cert` of its requests.
    forwarded: Option<HeaderValue>,
    /// Where the server is in this version of the configuration; `None`: not there, or not for this client any more.
    place: Cell<(u64, Option<usize>)>,
}

/// A connection whose handshake goes on.
pub(super) struct Beginning {
    server: Arc<str>,
    policy: [u8; 32],
    place: (u64, Option<usize>),
    facts: TlsFacts,
}

impl Secured {
    /// The hello has chosen a server.
    pub(super) fn begin(
        serving: &Serving,
        place: usize,
        server: &TlsServer,
        tls: &ServerTls,
        hello: &ClientHello<'_>,
    ) -> Beginning {
        let mut facts =
            TlsFacts { server_name: hello.server_name().unwrap_or_default().to_owned(), ..TlsFacts::default() };
        if let Some(credential) = tls.credential(hello.signature_schemes()) {
            let own = credential.certificate();
            facts.subject_local.clone_from(&own.subject);
            facts.uri_san_local = own.uris.first().cloned().unwrap_or_default();
            facts.dns_san_local = own.dns_names.first().cloned().unwrap_or_default();
        }
        let place = (serving.config.snapshot.version, Some(place));
        Beginning { server: Arc::clone(&server.name), policy: tls.policy(), place, facts }
    }

    /// What plugins and the access log want to know.
    pub(super) fn facts(&self) -> &Arc<TlsFacts> {
        &self.facts
    }

    /// The name that the client asked for.
    pub(super) fn server_name(&self) -> Option<&str> {
        Some(self.facts.server_name.as_str()).filter(|name| !name.is_empty())
    }

    /// What the access log may show of it.
    pub(super) fn log_entry(&self) -> TlsEntry<'_> {
        let facts = &*self.facts;
        TlsEntry {
            version: facts.version,
            peer_subject: &facts.subject_peer,
            peer_uri: &facts.uri_san_peer,
            peer_dns: &facts.dns_san_peer,
            peer_sha256: &facts.sha256_peer,
            local_subject: &facts.subject_local,
            local_uri: &facts.uri_san_local,
            local_dns: &facts.dns_san_local,
        }
    }

    /// Envoy's `x-forwarded-client-cert` for this client; `None` if it has no certificate.
    pub(super) fn forwarded_client_cert(&self) -> Option<&HeaderValue> {
        self.forwarded.as_ref()
    }

    /// The server in the configuration of now.
    fn server<'a>(&self, serving: &Serving, servers: &'a TlsServers) -> Option<&'a TlsServer> {
        let version = serving.config.snapshot.version;
        if self.place.get().0 != version {
            self.place.set((version, self.find(servers)));
        }
        servers.get(self.place.get().1?)
    }

    /// Looks the server up in a configuration that the connection has not seen. Where clients are checked in another way
    /// than when it was opened, this one is checked again.
    fn find(&self, servers: &TlsServers) -> Option<usize> {
        let (place, server) = servers.named(&self.server)?;
        let tls = server.tls.as_ref()?;
        if tls.policy() != self.policy.get() {
            if !tls.admits(self.peer.as_ref().map_or(&[], |peer| &peer.chain)) {
                return None;
            }
            self.policy.set(tls.policy());
        }
        Some(place)
    }
}

impl Beginning {
    /// The handshake is over.
    pub(super) fn finish(self, version: Option<ProtocolVersion>, peer: Option<Peer>) -> Secured {
        let Self { server, policy, place, mut facts } = self;
        facts.version = version_name(version);
        let mut forwarded = None;
        if let Some(peer) = &peer {
            let theirs = &peer.certificate;
            facts.mutual = true;
            facts.subject_peer.clone_from(&theirs.subject);
            facts.uri_san_peer = theirs.uris.first().cloned().unwrap_or_default();
            facts.dns_san_peer = theirs.dns_names.first().cloned().unwrap_or_default();
            facts.sha256_peer = peer.digest();
            forwarded = client_cert(peer, &facts.uri_san_local);
        }
        let (policy, place) = (Cell::new(policy), Cell::new(place));
        Secured { server, policy, peer, facts: Arc::new(facts), forwarded, place }
    }
}

/// The virtual hosts for the requests of a connection; `None` if the connection belongs nowhere any more.
pub(super) fn hosts<'a>(connection: &Connection, serving: &'a Serving) -> Option<&'a HostTable> {
    match (&connection.secured, &serving.listener.tls) {
        (None, None) => Some(&serving.listener.hosts),
        (Some(secured), Some(servers)) => secured.server(serving, servers).map(|server| &server.hosts),
        _ => None,
    }
}

/// Where the connection goes if its listener or server is not for HTTP. `secured`: it is inside TLS.
pub(super) fn tcp_route<'a>(secured: Option<&Secured>, serving: &'a Serving) -> Option<&'a TcpRoute> {
    match (secured, &serving.listener.tls) {
        (Some(secured), Some(servers)) => secured.server(serving, servers)?.tcp.as_ref(),
        (None, None) => serving.listener.tcp.as_ref(),
        _ => None,
    }
}

/// The answer to a request that should have come on another connection.
pub(super) fn misdirected(connection: &Connection, serving: &Serving, head: &RequestHead) -> Option<Box<Reply>> {
    let servers = match (&connection.secured, &serving.listener.tls) {
        (None, None) => return None,
        (Some(secured), Some(servers)) => secured.server(serving, servers).map(|own| (own, servers)),
        // The listener has begun, or ceased, to speak TLS under the connection.
        _ => None,
    };
    let Some((own, servers)) = servers else {
        connection.activity.say_goodbye();
        return Some(refusal());
    };
    let authority = authority(head);
    let owner = servers.owner(authority).filter(|owner| !std::ptr::eq(*owner, own))?;
    owner.hosts.find(authority)?;
    let alike = matches!((&own.tls, &owner.tls), (Some(own), Some(other)) if own.is_like(other));
    // Behind the same door it makes no difference who answers, if the server that was asked for can.
    if alike && own.hosts.find(authority).is_some() { None } else { Some(refusal()) }
}

fn refusal() -> Box<Reply> {
    Reply::new(StatusCode::MISDIRECTED_REQUEST, "misdirected_request", ResponseFlags::NO_ROUTE).closing()
}

/// What would end or begin a field of the header, or is no text.
const SEPARATORS: &AsciiSet = &CONTROLS.add(b';').add(b',').add(b'"').add(b' ');
/// A subject is in quotes, and escapes its own.
const UNPRINTABLE: &AsciiSet = CONTROLS;
/// Envoy's set for a certificate: what a URL leaves alone stays.
const PEM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The header as Envoy writes it with Istio's settings: `Hash`, then `Cert`, `Subject`, `URI` and `DNS`.
fn client_cert(peer: &Peer, own_uri: &str) -> Option<HeaderValue> {
    let Certificate { subject, uris, dns_names, .. } = &peer.certificate;
    let mut text = String::new();
    if !own_uri.is_empty() {
        push(&mut text, "By=", utf8_percent_encode(own_uri, SEPARATORS));
        text.push(';');
    }
    push(&mut text, "Hash=", peer.digest());
    push(&mut text, ";Cert=\"", percent_encode(peer.pem().as_bytes(), PEM));
    push(&mut text, "\";Subject=\"", utf8_percent_encode(subject, UNPRINTABLE));
    text.push('"');
    if uris.is_empty() {
        text.push_str(";URI=");
    }
    for uri in uris {
        push(&mut text, ";URI=", utf8_percent_encode(uri, SEPARATORS));
    }
    for name in dns_names {
        push(&mut text, ";DNS=", utf8_percent_encode(name, SEPARATORS));
    }
    HeaderValue::try_from(text).ok()
}

fn push(text: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{name}{value}");
}
