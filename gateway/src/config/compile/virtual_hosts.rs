//! The virtual hosts of a listener: which VirtualServices are bound to which host, and in which order.
//!
//! Istio's order: the Gateways by creation, for each its VirtualServices by creation, all routes of one
//! host one after the other, and rules that match every request moved to the end.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Output,
    routes::{self, Chunk, Context},
    server_hosts::{ServerHosts, parse},
};
use crate::{
    config::{
        Options,
        resources::{Resource, Resources},
        validate::full_gateway_name,
    },
    istio::{Gateway, Server, VirtualService},
    snapshot::{HostPattern, HostTable, RouteTable, Rule, VirtualHost},
};

/// Which VirtualServices are bound to which Gateway (`namespace/name`), each list in the order of creation.
pub(super) type Bindings<'a> = HashMap<String, Vec<&'a Arc<Resource<VirtualService>>>>;

/// Finds the VirtualServices that this gateway sees.
pub(super) fn bindings<'a>(resources: &'a Resources, options: &Options) -> Bindings<'a> {
    let mut bindings = Bindings::new();
    for service in &resources.virtual_services {
        // Without a list it is for the mesh, which no ingress gateway is part of.
        if service.spec.hosts.is_empty() || !options.sees(&service.spec.export_to, &service.namespace) {
            continue;
        }
        let names: HashSet<String> =
            service.spec.gateways.iter().map(|name| full_gateway_name(name, &service.namespace)).collect();
        for name in names {
            bindings.entry(name).or_default().push(service);
        }
    }
    bindings
}

/// What is served for one host pattern.
#[derive(Debug, Default)]
struct Served {
    /// Positions of chunks, in order.
    chunks: Vec<usize>,
    redirect: bool,
}

/// Builds the virtual hosts of servers that share them.
pub(super) fn build(
    servers: &[(&Resource<Gateway>, &Server)],
    bindings: &Bindings<'_>,
    context: Context<'_>,
    out: &mut Output,
) -> HostTable {
    let mut builder = Builder {
        context,
        out,
        chunks: Vec::new(),
        known: HashMap::new(),
        hosts: HashMap::new(),
        order: Vec::new(),
        seen: HashSet::new(),
    };
    for (gateway, server) in servers {
        let hosts = ServerHosts::new(server, &gateway.namespace);
        let redirect = server.tls.as_ref().is_some_and(|tls| tls.https_redirect && !tls.terminates());
        if redirect {
            for host in hosts.iter() {
                builder.serve(host, None, true);
            }
        }
        let name = gateway.full_name();
        for service in bindings.get(&name).into_iter().flatten() {
            builder.bind(service, &name, &hosts, redirect);
        }
    }
    builder.finish()
}

struct Builder<'a, 'b> {
    context: Context<'a>,
    out: &'b mut Output,
    chunks: Vec<Chunk>,
    /// Chunks by VirtualService, and by Gateway where that makes a difference.
    known: HashMap<(String, Option<String>), usize>,
    hosts: HashMap<HostPattern, usize>,
    order: Vec<(HostPattern, Served)>,
    /// Which chunk is in which host: a VirtualService may come through several servers.
    seen: HashSet<(usize, usize)>,
}

impl Builder<'_, '_> {
    /// Adds a host, a chunk of rules to it, and the wish to redirect.
    fn serve(&mut self, pattern: &HostPattern, chunk: Option<usize>, redirect: bool) {
        let next = self.order.len();
        let at = *self.hosts.entry(pattern.clone()).or_insert(next);
        if at == next {
            self.order.push((pattern.clone(), Served::default()));
        }
        let Some((_, served)) = self.order.get_mut(at) else { return };
        served.redirect |= redirect;
        served.chunks.extend(chunk.filter(|chunk| self.seen.insert((at, *chunk))));
    }

    /// Adds a VirtualService to the hosts that it shares with a server.
    fn bind(&mut self, service: &Resource<VirtualService>, gateway: &str, hosts: &ServerHosts, redirect: bool) {
        let patterns: Vec<HostPattern> = service
            .spec
            .hosts
            .iter()
            .filter_map(|host| parse(host))
            .flat_map(|host| hosts.intersect(&host, &service.namespace, true))
            .collect();
        if patterns.is_empty() {
            return;
        }
        let through = routes::depends_on_gateway(&service.spec).then(|| gateway.to_owned());
        let chunk = match self.known.get(&(service.full_name(), through.clone())) {
            Some(chunk) => *chunk,
            None => {
                let compiled = routes::compile(service, gateway, self.context, self.out);
                self.chunks.push(compiled);
                self.known.insert((service.full_name(), through), self.chunks.len() - 1);
                self.chunks.len() - 1
            }
        };
        // Without a rule for this port the VirtualService does not exist here.
        if self.chunks.get(chunk).is_none_or(|chunk| chunk.rules.is_empty()) {
            return;
        }
        for pattern in patterns {
            self.serve(&pattern, Some(chunk), redirect);
        }
    }

    fn finish(self) -> HostTable {
        let mut table = HostTable::default();
        for (name, served) in self.order {
            let chunks = || served.chunks.iter().filter_map(|at| self.chunks.get(*at));
            let blocked = self.context.policies.block(&name) || chunks().any(|chunk| chunk.blocked);
            let rules =
                if blocked { vec![routes::every_request(self.out.policy_not_supported())] } else { ordered(chunks()) };
            let https_redirect = (served.redirect && !blocked).then(|| self.out.https_redirect());
            let domain = format!("{name}:{}", self.context.declared_port).into();
            table.insert(VirtualHost { name, domain, routes: RouteTable::new(rules), https_redirect });
        }
        table
    }
}

/// One after the other, rules for every request last.
fn ordered<'a>(chunks: impl Iterator<Item = &'a Chunk>) -> Vec<Rule> {
    let (mut rules, mut last) = (Vec::new(), Vec::new());
    for (rule, catch_all) in chunks.flat_map(|chunk| &chunk.rules) {
        if *catch_all { &mut last } else { &mut rules }.push(rule.clone());
    }
    rules.append(&mut last);
    rules
}
