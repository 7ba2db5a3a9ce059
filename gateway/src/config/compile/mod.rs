//! Resources → snapshot. Pure: no files, no sockets, no clock (what is needed of those is in [`Surroundings`]); the same
//! input gives the same picture.
//!
//! Work is linear in the number of resources, so that ten thousand VirtualServices are no matter. What is
//! wrong is reported and has a defined effect (a 503, a 403, a server that is not served); nothing that is
//! wrong keeps the rest from being compiled.

pub(crate) mod action;
mod client_tls;
mod clusters;
mod destination_rules;
pub(crate) mod headers;
mod listeners;
pub(crate) mod matching;
mod metadata;
mod plugins;
mod policies;
pub(crate) mod retry;
mod routes;
mod server_hosts;
mod services;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
pub(crate) mod traffic_policy;
mod virtual_hosts;

use std::sync::Arc;

pub use plugins::declarations;
pub(crate) use plugins::terms as plugin_terms;
pub(crate) use server_hosts::{ServerHosts, parse as parse_host};

use self::{
    client_tls::Transports, clusters::Clusters, destination_rules::DestinationRules, listeners::Kind,
    policies::Policies, routes::Context, services::Services, tls::Material,
};
use super::{Options, Surroundings, credentials::Credentials, problem::Problem, resources::Resources};
use crate::{
    plugins::Attached,
    snapshot::{CallNames, HostTable, Listener, Route, RouteId, Snapshot},
};

/// Compiles everything. `attached` are the plugins that are ready, in the order of execution.
#[must_use]
pub fn compile(
    resources: &Resources,
    options: &Options,
    attached: &[Attached],
    surroundings: &Surroundings,
) -> (Snapshot, Vec<Problem>) {
    let mut out = Output::default();
    let material = Material { credentials: Credentials::new(resources, options), surroundings };
    let mut services = Services::new(resources, options, &mut out.problems);
    if options.resolve_unknown_hosts {
        routes::add_unknown_hosts(resources, options, &mut services);
    }
    let clusters = Clusters::new(
        &services,
        &DestinationRules::new(resources, options),
        Transports::new(&material, &mut out.problems),
    );
    let policies = Policies::new(resources, options, &mut out.problems);
    let planned = listeners::plan(resources, options, &mut out.problems);
    let bindings = virtual_hosts::bindings(resources, options);
    let mut listeners = Vec::with_capacity(planned.len());
    for listener in planned {
        let declared_port = listener.declared_port;
        let context = Context { options, services: &services, clusters: &clusters, policies: &policies, declared_port };
        let mut gateways: Vec<String> = listener.servers.iter().map(|(gateway, _)| gateway.full_name()).collect();
        gateways.dedup();
        let mut served = Listener {
            declared_port,
            bind: listener.bind,
            gateways,
            hosts: HostTable::default(),
            tls: None,
            tcp: None,
            plugins: Vec::new(),
            scoped: None,
        };
        let (mut http, mut tcp) = (listener.kind == Kind::Http, listener.kind == Kind::Tcp);
        match listener.kind {
            Kind::Http => served.hosts = virtual_hosts::build(&listener.servers, &bindings, context, &mut out),
            Kind::Tcp => served.tcp = Some(tcp::build(&listener.servers, &bindings, context, &mut out)),
            Kind::Tls => {
                let contents = listener.servers.iter().map(|server| {
                    let is_http = server.1.port.protocol.eq_ignore_ascii_case("HTTPS");
                    (http, tcp) = (http || is_http, tcp || !is_http);
                    let server = std::slice::from_ref(server);
                    if is_http {
                        (virtual_hosts::build(server, &bindings, context, &mut out), None)
                    } else {
                        (HostTable::default(), Some(tcp::build(server, &bindings, context, &mut out)))
                    }
                });
                let contents = contents.collect();
                served.tls = Some(tls::build(&listener, contents, &material, &mut out.problems));
            }
        }
        (served.plugins, served.scoped) = plugins::chain(attached, listener.rule_port, &out.routes, http, tcp);
        listeners.push(Arc::new(served));
    }
    plugins::check_scopes(resources, options, attached, &listeners, &out.routes, &mut out.problems);
    plugins::report_unused(resources, &listeners, attached, &mut out.problems);
    // The same VirtualService on several ports has the same problems.
    out.problems.sort_by(Problem::by_place);
    out.problems.dedup();
    let clusters = clusters.into_snapshot();
    let call_names = Arc::new(CallNames::new(clusters.clone(), &options.namespace));
    (Snapshot { version: 0, listeners, routes: out.routes, clusters, call_names }, out.problems)
}

/// What compilation produces as it goes.
#[derive(Debug, Default)]
struct Output {
    routes: Vec<Arc<Route>>,
    problems: Vec<Problem>,
    https_redirect: Option<RouteId>,
    policy_not_supported: Option<RouteId>,
}

impl Output {
    fn add_route(&mut self, route: Route) -> RouteId {
        let id = RouteId::try_from(self.routes.len()).unwrap_or(RouteId::MAX);
        self.routes.push(Arc::new(route));
        id
    }

    /// The one route that all hosts of servers with `httpsRedirect` share.
    fn https_redirect(&mut self) -> RouteId {
        let id = self.https_redirect.unwrap_or_else(|| self.add_route(routes::https_redirect()));
        *self.https_redirect.insert(id)
    }

    /// The one route that all hosts share whose policies cannot be enforced.
    fn policy_not_supported(&mut self) -> RouteId {
        let id = self.policy_not_supported.unwrap_or_else(|| self.add_route(routes::policy_not_supported()));
        *self.policy_not_supported.insert(id)
    }
}
