//! The routes of a VirtualService on one port.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use http::StatusCode;

use super::{
    Output, action,
    clusters::{Clusters, Compiled},
    headers, matching, metadata,
    policies::Policies,
    retry,
    services::{KnownService, Services},
};
use crate::{
    config::{
        Options, duration,
        path::Path,
        problem::Level,
        resources::{Resource, Resources},
        validate::full_gateway_name,
    },
    istio::{self, HttpMatch, HttpRoute, Labels, RouteDestination, VirtualService},
    snapshot::{
        Action, Conditions, Destination, DirectResponse, Forward, HeaderOps, HeaderTemplate, HeaderWrite, Metadata,
        Redirect, RedirectPort, RetryPolicy, Route, RouteId, Rule, TcpRoute, UriMatch,
    },
};

/// The rules of one VirtualService, in the order in which they are written.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Rules, each with whether it matches every request.
    pub(super) rules: Vec<(Rule, bool)>,
    /// Whether a route leads to a service that must be spoken to with TLS of a kind that this version does not have.
    pub(super) blocked: bool,
}

/// What the translation of routes needs to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) options: &'a Options,
    pub(super) services: &'a Services,
    pub(super) clusters: &'a Clusters<'a>,
    pub(super) policies: &'a Policies,
    /// Port of the Gateway's server: what `match.port` compares with, and the last resort for a destination's port.
    pub(super) declared_port: u16,
}

/// Whether some rules are only for certain Gateways.
pub(super) fn depends_on_gateway(service: &VirtualService) -> bool {
    service.http.iter().flat_map(|route| &route.matches).any(|block| !block.gateways.is_empty())
}

/// Makes every destination that is no service one that DNS has to find. Without a port in the route it is that of the
/// Gateway's server.
pub(super) fn add_unknown_hosts(resources: &Resources, options: &Options, services: &mut Services) {
    let servers = resources.gateways.iter().flat_map(|gateway| &gateway.spec.servers);
    let declared: BTreeSet<u16> = servers.filter_map(|server| u16::try_from(server.port.number).ok()).collect();
    let mut unknown: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for service in resources.virtual_services.iter().filter(|vs| options.sees(&vs.spec.export_to, &vs.namespace)) {
        for destination in service.spec.http.iter().flat_map(|route| &route.route).map(|route| &route.destination) {
            let named = destination.host.contains('.') && destination.host.parse::<std::net::IpAddr>().is_err();
            if !named || services.find(&destination.host, &service.namespace).is_some() {
                continue;
            }
            let ports = unknown.entry(destination.host.to_ascii_lowercase()).or_default();
            match &destination.port {
                Some(port) => ports.extend(u16::try_from(port.number).ok()),
                None => ports.extend(&declared),
            }
        }
    }
    for (host, ports) in unknown {
        services.add_unknown(&host, &ports.into_iter().collect::<Vec<_>>());
    }
}

/// Compiles the routes for requests that arrive through `gateway` (`namespace/name`).
pub(super) fn compile(
    service: &Resource<VirtualService>,
    gateway: &str,
    context: Context<'_>,
    out: &mut Output,
) -> Chunk {
    let mut compiler = Compiler::new(service, gateway, context, out);
    let http = Path::SPEC.key("http");
    for (at, route) in service.spec.http.iter().enumerate() {
        // What comes after a rule for every request is never reached (Istio drops it, too).
        if !compiler.route(route, &http.index(at)) {
            break;
        }
    }
    compiler.chunk
}

/// The route for connections without HTTP that arrive through `gateway`: the first of the VirtualService that applies.
pub(super) fn tcp(
    service: &Resource<VirtualService>,
    gateway: &str,
    context: Context<'_>,
    out: &mut Output,
) -> Option<TcpRoute> {
    let mut compiler = Compiler::new(service, gateway, context, out);
    let applies = |route: &&istio::TcpRoute| {
        route.matches.is_empty()
            || route.matches.iter().any(|block| {
                // Validation has said that matching by network is not supported.
                block.destination_subnets.is_empty()
                    && block.source_subnet.is_empty()
                    && compiler.concerns(block.port, &block.gateways, &block.source_labels, &block.source_namespace)
            })
    };
    let (at, route) = service.spec.tcp.iter().enumerate().find(|(_, route)| applies(route))?;
    let tcp = Path::SPEC.key("tcp");
    let path = tcp.index(at);
    let routes = path.key("route");
    let lone = route.route.len() == 1;
    let mut destinations = Vec::with_capacity(route.route.len());
    for (at, weighted) in route.route.iter().enumerate() {
        if weighted.weight != 0 || lone {
            destinations.push(compiler.destination(weighted, &routes.index(at)));
        }
    }
    let total_weight = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    // A service that must be spoken to in a way that this version cannot is not spoken to at all.
    (!compiler.chunk.blocked).then(|| TcpRoute { destinations: destinations.into(), total_weight })
}

struct Compiler<'a, 'b> {
    service: &'a Resource<VirtualService>,
    name: Arc<str>,
    metadata: Arc<Metadata>,
    gateway: &'a str,
    context: Context<'a>,
    out: &'b mut Output,
    chunk: Chunk,
}

impl<'a, 'b> Compiler<'a, 'b> {
    fn new(service: &'a Resource<VirtualService>, gateway: &'a str, context: Context<'a>, out: &'b mut Output) -> Self {
        Self {
            name: service.full_name().into(),
            metadata: Arc::new(metadata::of_route(&service.namespace, &service.name)),
            service,
            gateway,
            context,
            out,
            chunk: Chunk::default(),
        }
    }

    /// Adds the rules of a route; `false` if one of them matches every request.
    fn route(&mut self, route: &HttpRoute, path: &Path<'_>) -> bool {
        if route.matches.is_empty() {
            self.rule(route, &HttpMatch::default(), path);
            return false;
        }
        for block in &route.matches {
            if self.applies(block) && self.rule(route, block, path) {
                return false;
            }
        }
        true
    }

    /// Whether a match block is for this port and gateway. If it names gateways, they alone decide.
    fn applies(&self, block: &HttpMatch) -> bool {
        !matching::needs_claims(block)
            && self.concerns(block.port, &block.gateways, &block.source_labels, &block.source_namespace)
    }

    /// The part of that which HTTP and TCP have in common.
    fn concerns(&self, port: Option<u32>, gateways: &[String], labels: &Labels, namespace: &str) -> bool {
        if port.is_some_and(|port| port != 0 && port != u32::from(self.context.declared_port)) {
            return false;
        }
        if gateways.is_empty() {
            self.context.options.selected_by(labels)
                && (namespace.is_empty() || namespace == self.context.options.namespace)
        } else {
            gateways.iter().any(|name| full_gateway_name(name, &self.service.namespace) == self.gateway)
        }
    }

    /// Adds a rule; returns whether it matches every request.
    fn rule(&mut self, route: &HttpRoute, block: &HttpMatch, path: &Path<'_>) -> bool {
        // Validation has refused whatever fails here.
        let mut valid = true;
        let (uri, conditions) = matching::conditions(block, path, &mut |_, _| valid = false);
        if !valid {
            return false;
        }
        let catch_all = matching::is_catch_all(block, &conditions);
        let id = self.compile_route(route, block, &uri, path);
        self.chunk.rules.push((Rule { uri, conditions, route: id }, catch_all));
        catch_all
    }

    fn compile_route(&mut self, route: &HttpRoute, block: &HttpMatch, uri: &UriMatch, path: &Path<'_>) -> RouteId {
        let mut ignore = |_: &Path<'_>, _: String| {};
        let edits = headers::edits(&route.headers, path, &mut ignore);
        let mut compiled = Route {
            name: if block.name.is_empty() {
                route.name.as_str().into()
            } else {
                format!("{}.{}", route.name, block.name).into()
            },
            virtual_service: Arc::clone(&self.name),
            metadata: Some(Arc::clone(&self.metadata)),
            action: Action::Direct(unavailable()),
            request_headers: edits.request,
            response_headers: edits.response,
        };
        if let Some(redirect) = &route.redirect {
            if let Some(redirect) = action::redirect(redirect, uri, path, &mut ignore) {
                compiled.action = Action::Redirect(redirect);
            }
        } else if let Some(response) = &route.direct_response {
            if let Some(response) = action::direct_response(response, path, &mut ignore) {
                compiled.action = Action::Direct(response);
            }
        } else if !route.route.is_empty() {
            let rewrite = route.rewrite.as_ref();
            let authority = rewrite.map(|rewrite| &rewrite.authority).filter(|authority| !authority.is_empty());
            let authority = authority.and_then(|text| headers::authority(text, path, &mut ignore)).or(edits.authority);
            let mut forward = Forward {
                destinations: Box::default(),
                total_weight: 0,
                path_rewrite: rewrite.and_then(|rewrite| action::path_rewrite(rewrite, uri, path, &mut ignore)),
                authority_rewrite: authority,
                timeout: route.timeout.as_deref().and_then(|text| duration::parse(text).ok()),
                retry: route.retries.as_ref().map_or_else(RetryPolicy::default, |retries| {
                    // Validation has reported what is wrong.
                    retry::policy(retries, &path.key("retries"), &mut |_, _| {})
                }),
            };
            self.destinations(route, path, &mut forward, &mut compiled);
            compiled.action = Action::Forward(forward);
        }
        self.out.add_route(compiled)
    }

    fn destinations(&mut self, route: &HttpRoute, path: &Path<'_>, forward: &mut Forward, compiled: &mut Route) {
        let lone = route.route.len() == 1;
        let routes = path.key("route");
        let mut destinations = Vec::with_capacity(route.route.len());
        for (at, weighted) in route.route.iter().enumerate() {
            // Weight 0 is never chosen beside others; a lone destination gets everything.
            if weighted.weight == 0 && !lone {
                continue;
            }
            let mut destination = self.destination(weighted, &routes.index(at));
            let edits = headers::edits(&weighted.headers, path, &mut |_, _| {});
            if lone {
                headers::append(&mut compiled.request_headers, edits.request);
                headers::append(&mut compiled.response_headers, edits.response);
                // The route's own wins, so that one and several destinations behave alike.
                forward.authority_rewrite = forward.authority_rewrite.take().or(edits.authority);
            } else {
                destination.request_headers = edits.request;
                destination.response_headers = edits.response;
                let host = edits.authority.map(HeaderTemplate::Literal);
                let write = host.map(|value| HeaderWrite { name: http::header::HOST.into(), value, append: false });
                destination.request_headers.write.extend(write);
            }
            destinations.push(destination);
        }
        forward.total_weight = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
        forward.destinations = destinations.into();
    }

    fn destination(&mut self, weighted: &RouteDestination, path: &Path<'_>) -> Destination {
        let wanted = &weighted.destination;
        let path = path.key("destination");
        let found = self.context.services.find(&wanted.host, &self.service.namespace);
        let declared = self.context.declared_port;
        let port = match (&wanted.port, found) {
            (Some(port), _) => u16::try_from(port.number).unwrap_or_default(),
            (None, Some(service)) => match service.ports.as_slice() {
                [(only, _)] => *only,
                _ => declared,
            },
            (None, None) => declared,
        };
        let cluster = found.and_then(|service| self.context.clusters.find(service.port(port)?, &wanted.subset));
        let host = found.map_or_else(|| wanted.host.to_ascii_lowercase(), |service| service.host.to_string());
        self.check_destination(weighted, found, port, &path);
        if let Some(rule) = cluster.and_then(|(_, compiled)| compiled.unsupported_tls) {
            self.needs_tls(&host, &rule.full_name(), &path);
        }
        Destination {
            weight: u32::try_from(weighted.weight).unwrap_or_default(),
            cluster: cluster.map(|(id, _)| id),
            cluster_name: format!("outbound|{port}|{}|{host}", wanted.subset).into(),
            metadata: cluster.map(|(_, compiled)| Arc::clone(&compiled.metadata)),
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
        }
    }

    /// Says what is wrong with a destination; requests are answered all the same, by 503.
    fn check_destination(
        &mut self,
        weighted: &RouteDestination,
        found: Option<&KnownService>,
        port: u16,
        path: &Path<'_>,
    ) {
        let wanted = &weighted.destination;
        let field = path.key("host");
        let Some(service) = found else {
            let message = format!("Referenced host not found: {:?}", wanted.host);
            return self.problem(Level::Error, "IST0101", &field, message);
        };
        let ports: BTreeSet<u16> = service.ports.iter().map(|(number, _)| *number).collect();
        let Some(id) = service.port(port) else {
            let (code, message) = if wanted.port.is_none() && ports.len() > 1 {
                let message = format!(
                    "This VirtualService routes to a service {:?} that exposes multiple ports {ports:?}. Specifying a port in the destination is required to disambiguate.",
                    wanted.host
                );
                ("IST0112", message)
            } else {
                let message = format!(
                    "Referenced host:port in destination not found: \"{}:{port}\" (it has {ports:?})",
                    wanted.host
                );
                ("IST0101", message)
            };
            return self.problem(Level::Error, code, &field, message);
        };
        match self.context.clusters.find(id, &wanted.subset) {
            None => {
                let known: Vec<_> = self.context.clusters.subsets(id).collect();
                let message = format!(
                    "Referenced host+subset in destinationrule not found: \"{}+{}\" (it has {known:?}); requests are answered 503",
                    wanted.host, wanted.subset
                );
                self.problem(Level::Error, "IST0101", &path.key("subset"), message);
            }
            Some((_, compiled)) => self.check_endpoints(weighted, service, compiled, port, path),
        }
    }

    fn check_endpoints(
        &mut self,
        weighted: &RouteDestination,
        service: &KnownService,
        compiled: &Compiled<'_>,
        port: u16,
        path: &Path<'_>,
    ) {
        let cluster = &compiled.cluster;
        if !cluster.endpoints.is_empty() || !cluster.names.is_empty() {
            return;
        }
        let wanted = &weighted.destination;
        let (level, code, reason) = match &service.without_endpoints {
            Some(reason) => (Level::Error, "GW0102", reason.clone()),
            None if compiled.without_labels > 0 => {
                let reason = format!(
                    "none of its {} has the labels of subset {} (labels are those of a ServiceEntry's endpoints, and of \
                     an EndpointSlice; pods are not read)",
                    compiled.without_labels, wanted.subset
                );
                (Level::Error, "GW0106", reason)
            }
            None => (Level::Warning, "GW0106", "at present".to_owned()),
        };
        let message = format!("{}:{port} has no endpoint: {reason}; requests are answered 503", wanted.host);
        self.problem(level, code, &path.key("host"), message);
    }

    fn needs_tls(&mut self, host: &str, rule: &str, path: &Path<'_>) {
        let message = if self.context.policies.allows() {
            format!(
                "DestinationRule {rule} asks for ISTIO_MUTUAL to {host}, which this version cannot; --allow-unsupported is set, so it is spoken to in clear text"
            )
        } else {
            self.chunk.blocked = true;
            format!(
                "DestinationRule {rule} asks for ISTIO_MUTUAL to {host}, which this version cannot: the hosts of this VirtualService \
                 are answered 403 `policy not supported`; --allow-unsupported serves them in clear text"
            )
        };
        self.problem(Level::Error, "GW0103", path, message);
    }

    fn problem(&mut self, level: Level, code: &'static str, field: &Path<'_>, message: String) {
        self.out.problems.push(self.service.problem(level, code, field, message));
    }
}

/// For routes that this version cannot serve (delegates).
fn unavailable() -> DirectResponse {
    DirectResponse { status: StatusCode::SERVICE_UNAVAILABLE, body: Bytes::new() }
}

/// The rule of a server with `httpsRedirect`: 301 to https for every request.
pub(super) fn https_redirect() -> Route {
    plain(Action::Redirect(Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        path: None,
        authority: None,
        port: RedirectPort::Keep,
        scheme: Some("https"),
    }))
}

/// The rule of a host whose policies cannot be enforced.
pub(super) fn policy_not_supported() -> Route {
    let body = Bytes::from_static(b"policy not supported");
    plain(Action::Direct(DirectResponse { status: StatusCode::FORBIDDEN, body }))
}

fn plain(action: Action) -> Route {
    Route {
        name: "".into(),
        virtual_service: "".into(),
        metadata: None,
        action,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
    }
}

/// A rule for every request.
pub(super) fn every_request(route: RouteId) -> Rule {
    Rule { uri: UriMatch::Any, conditions: Conditions::default(), route }
}
