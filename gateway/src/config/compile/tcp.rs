//! The route of a TCP server: the first that applies of the VirtualServices that share a host with it.

use super::{
    Output, routes,
    routes::Context,
    server_hosts::{ServerHosts, parse},
    virtual_hosts::Bindings,
};
use crate::{
    config::resources::Resource,
    istio::{Gateway, Server},
    snapshot::TcpRoute,
};

/// The route for connections to one of `servers`, which are older before younger. Nowhere if there is none: their
/// connections are closed.
pub(super) fn build(
    servers: &[(&Resource<Gateway>, &Server)],
    bindings: &Bindings<'_>,
    context: Context<'_>,
    out: &mut Output,
) -> TcpRoute {
    for (gateway, server) in servers {
        let hosts = ServerHosts::new(server, &gateway.namespace);
        let name = gateway.full_name();
        for service in bindings.get(&name).into_iter().flatten() {
            let shared = service.spec.hosts.iter().filter_map(|host| parse(host));
            if shared.into_iter().all(|host| hosts.intersect(&host, &service.namespace, true).is_empty()) {
                continue;
            }
            if let Some(route) = routes::tcp(service, &name, context, out) {
                return route;
            }
        }
    }
    TcpRoute::default()
}
