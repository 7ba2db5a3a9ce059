//! The compiled, immutable picture of the configuration that requests read.
//!
//! A [`Snapshot`] is built on the control side, published to every worker and never changed afterwards.
//! Everything that can be decided once is decided here: hosts are indexed, routes are ordered, regular
//! expressions are compiled, header values are parsed. A request only looks things up.
//!
//! This module knows neither the resources that users write (`istio`) nor sockets. It names
//! `proxy-wasm-host` because a plugin that is ready to run is part of the picture.

mod call_names;
mod cluster;
mod header_ops;
mod host;
mod matching;
mod plugin;
mod retry;
mod route;
mod scoped;
mod table;
mod tcp;
mod tls;

pub use call_names::CallNames;
pub use cluster::{
    Balance, Cluster, ConnectionSettings, Endpoint, Http2Keepalive, NamedEndpoint, Take, TcpKeepalive, Thresholds,
    Transport, UpstreamProtocol,
};
pub use header_ops::{HeaderOps, HeaderTemplate, HeaderWrite, Operator, Side, TemplateContext, TemplateError};
pub(crate) use host::without_port;
pub use host::{HostPattern, HostTable, VirtualHost};
pub use matching::{Conditions, PatternError, RequestView, StringMatch, UriMatch};
pub use plugin::{Code, FailStrategy, Phase, Plugin, PluginId};
pub use retry::{RetryOn, RetryPolicy};
pub use route::{Action, Destination, DirectResponse, Forward, PathRewrite, Redirect, RedirectPort, Route};
pub use scoped::{HostChain, ScopedChain, ScopedPlugin};
pub use table::{RouteTable, Rule};
pub use tcp::TcpRoute;
pub use tls::{CertificateInUse, TlsServer, TlsServers};

/// What plugins are told of routes and clusters.
pub use proxy_wasm_host::{Metadata, MetadataValue};
use std::{net::SocketAddr, sync::Arc};

/// Index of a route in [`Snapshot::routes`].
pub type RouteId = u32;
/// Index of a cluster in [`Snapshot::clusters`].
pub type ClusterId = u32;

/// One version of the whole compiled configuration.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Increases with every publication; 0 is the empty picture before the first configuration.
    pub version: u64,
    /// One per socket address that accepts connections.
    pub listeners: Vec<Arc<Listener>>,
    /// All routes of all virtual hosts; [`Rule::route`] indexes it.
    pub routes: Vec<Arc<Route>>,
    /// All upstream clusters; [`Destination::cluster`] indexes it.
    pub clusters: Vec<Arc<Cluster>>,
    /// How plugins name the clusters.
    pub call_names: Arc<CallNames>,
}

/// A listener: a port as users declared it, the address it is bound to, and what is served there.
#[derive(Debug)]
pub struct Listener {
    /// The port number in the Gateway resource (what `match.port` compares with).
    pub declared_port: u16,
    /// The address to bind; port 0 lets the kernel choose (tests).
    pub bind: SocketAddr,
    /// `namespace/name` of the Gateways whose servers meet here, for people.
    pub gateways: Vec<String>,
    /// Which virtual host serves which host name. Empty with `tls`, where every server has its own.
    pub hosts: HostTable,
    /// The servers of a listener that speaks TLS.
    pub tls: Option<TlsServers>,
    /// For a listener that proxies connections, whatever they carry.
    pub tcp: Option<TcpRoute>,
    /// The plugins that requests of this listener pass, in execution order, and behind them those that connections pass
    /// that are not HTTP.
    pub plugins: Vec<Arc<Plugin>>,
    /// Which of them a request passes; `None`: all, whatever it is.
    pub scoped: Option<ScopedChain>,
}

impl Listener {
    /// The virtual hosts of every server, each server's most specific first.
    pub fn virtual_hosts(&self) -> impl Iterator<Item = &Arc<VirtualHost>> {
        let servers = self.tls.iter().flat_map(TlsServers::iter);
        self.hosts.iter().chain(servers.flat_map(|server| server.hosts.iter()))
    }
}

impl Snapshot {
    /// The route a [`Rule`] points at. `None` only if the snapshot was built wrongly.
    #[must_use]
    pub fn route(&self, id: RouteId) -> Option<&Arc<Route>> {
        self.routes.get(id as usize)
    }

    /// The cluster a [`Destination`] points at. `None` only if the snapshot was built wrongly.
    #[must_use]
    pub fn cluster(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id as usize)
    }

    /// The certificates that clients and services are shown, with the servers and clusters that show them.
    pub fn certificates(&self) -> impl Iterator<Item = CertificateInUse<'_>> {
        let to_clients = self.listeners.iter().flat_map(|listener| {
            let servers = listener.tls.iter().flat_map(TlsServers::iter);
            servers.flat_map(|server| server.certificates(listener.declared_port))
        });
        let to_services = self.clusters.iter().filter_map(|cluster| match &cluster.transport {
            Transport::Tls(tls) => {
                let certificate = tls.credential()?.certificate();
                Some(CertificateInUse { port: None, server: &cluster.name, certificate })
            }
            Transport::Plain | Transport::Unusable(_) => None,
        });
        to_clients.chain(to_services)
    }

    /// Every plugin that some listener uses, each once, in the order of first use.
    #[must_use]
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        let mut found: Vec<Arc<Plugin>> = Vec::new();
        for plugin in self.listeners.iter().flat_map(|listener| &listener.plugins) {
            if !found.iter().any(|known| known.id == plugin.id) {
                found.push(Arc::clone(plugin));
            }
        }
        found
    }
}
