//! The servers of a listener that speaks TLS: which one a client gets, and what each serves.

use std::sync::Arc;

use super::{
    HostPattern, HostTable, TcpRoute,
    host::{PatternIndex, without_port},
};
use crate::tls::{Certificate, ServerTls};

/// One server of a Gateway.
#[derive(Debug)]
pub struct TlsServer {
    /// Stays the same as long as the Gateway and the server's port have their names: `https.443.NAME.GATEWAY.NAMESPACE`,
    /// as Istio calls its routes.
    pub name: Arc<str>,
    /// The names by which clients ask for it.
    pub server_names: Vec<HostPattern>,
    /// What is served there. Other servers of the listener serve other hosts.
    pub hosts: HostTable,
    /// Instead of hosts, for a server whose protocol is not HTTP.
    pub tcp: Option<TcpRoute>,
    /// Certificates and settings; `None` if they cannot be used, then nobody gets in.
    pub tls: Option<ServerTls>,
}

impl TlsServer {
    pub(super) fn certificates(&self, port: u16) -> impl Iterator<Item = CertificateInUse<'_>> {
        let credentials = self.tls.iter().flat_map(ServerTls::credentials);
        credentials.map(move |credential| CertificateInUse {
            port: Some(port),
            server: &self.name,
            certificate: credential.certificate(),
        })
    }
}

/// A certificate that clients are shown.
#[derive(Debug, Clone, Copy)]
pub struct CertificateInUse<'a> {
    /// Declared port of the listener; `None`: it is shown to a service.
    pub port: Option<u16>,
    /// [`TlsServer::name`], or [`Cluster::name`](super::Cluster::name).
    pub server: &'a str,
    /// What it says.
    pub certificate: &'a Certificate,
}

/// The servers of one listener.
#[derive(Debug, Default)]
pub struct TlsServers {
    servers: Vec<TlsServer>,
    names: PatternIndex<usize>,
}

impl TlsServers {
    /// A name of `server` that another server has already.
    #[must_use]
    pub fn conflict(&self, server_names: &[HostPattern]) -> Option<(&TlsServer, HostPattern)> {
        server_names.iter().find_map(|name| Some((self.servers.get(*self.names.get(name)?)?, name.clone())))
    }

    /// Adds a server. Names that another one has already stay with that.
    pub fn insert(&mut self, server: TlsServer) {
        let at = self.servers.len();
        for name in &server.server_names {
            if self.names.get(name).is_none() {
                self.names.insert(name.clone(), at);
            }
        }
        self.servers.push(server);
    }

    /// The server for the name in a client's hello: exact, else the longest wildcard, else `*`. Without a name only `*`.
    /// With its place.
    #[must_use]
    pub fn select(&self, server_name: Option<&str>) -> Option<(usize, &TlsServer)> {
        let at = match server_name {
            Some(name) => self.names.find(name),
            None => self.names.any(),
        };
        let at = *at?;
        Some((at, self.servers.get(at)?))
    }

    /// The server that a client would get if it asked for the host of this authority.
    #[must_use]
    pub fn owner(&self, authority: &str) -> Option<&TlsServer> {
        self.select(Some(without_port(authority))).map(|(_, server)| server)
    }

    /// The server with this name, and its place.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<(usize, &TlsServer)> {
        self.servers.iter().enumerate().find(|(_, server)| &*server.name == name)
    }

    /// The server at a place that [`Self::named`] gave.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&TlsServer> {
        self.servers.get(place)
    }

    /// All servers, in the order of their Gateways' creation.
    pub fn iter(&self) -> impl Iterator<Item = &TlsServer> {
        self.servers.iter()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn server(name: &str, patterns: &[&str]) -> TlsServer {
        let server_names = patterns.iter().map(|pattern| HostPattern::parse(pattern).unwrap()).collect();
        TlsServer { name: name.into(), server_names, hosts: HostTable::default(), tcp: None, tls: None }
    }

    #[test]
    fn the_most_specific_name_chooses() {
        let mut servers = TlsServers::default();
        servers.insert(server("exact", &["a.example.com"]));
        servers.insert(server("wild", &["*.example.com", "*.a.example.com"]));
        let name =
            |servers: &TlsServers, asked: Option<&str>| servers.select(asked).map(|(_, found)| found.name.to_string());
        assert_eq!(name(&servers, Some("A.example.com")).as_deref(), Some("exact"));
        assert_eq!(name(&servers, Some("x.a.example.com")).as_deref(), Some("wild"));
        assert_eq!(name(&servers, Some("example.com")), None);
        assert_eq!(name(&servers, None), None);
        let taken = HostPattern::parse("*.example.com").unwrap();
        assert_eq!(&*servers.conflict(&[HostPattern::Any, taken]).unwrap().0.name, "wild");
        servers.insert(server("any", &["*"]));
        assert_eq!(name(&servers, Some("example.com")).as_deref(), Some("any"));
        assert_eq!(name(&servers, None).as_deref(), Some("any"));
        assert_eq!(&*servers.owner("a.example.com:443").unwrap().name, "exact");
        assert_eq!(servers.named("wild").unwrap().0, 1);
    }
}
