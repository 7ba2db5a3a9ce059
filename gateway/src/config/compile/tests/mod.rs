//! YAML in, answers out: what a request would get from the compiled picture.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod actions;
mod clusters;
mod hosts;
mod plugins;
mod policies;
mod robustness;
mod services;
mod tls;

use std::fmt::Write;

use heads::HeaderList;

use super::*;
use crate::{
    config::{PrivilegedPorts, Store, source::SourceFile},
    plugins::Declaration,
    snapshot::{Action, Forward, RequestView},
};

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
";

/// A compiled configuration.
struct Picture {
    snapshot: Snapshot,
    problems: Vec<String>,
    declarations: Vec<Declaration>,
}

impl Picture {
    fn of(documents: &[&str]) -> Self {
        Self::with(documents, &Options::default(), &[])
    }

    fn with(documents: &[&str], options: &Options, attached: &[Attached]) -> Self {
        let mut store = Store::new(options.clone());
        let text = documents.join("\n---\n");
        store.update(vec![SourceFile { path: "dir/f.yaml".to_owned(), contents: Ok(text.into_bytes().into()) }]);
        let (declarations, declared) = declarations(store.resources(), options);
        let mut surroundings = Surroundings::default();
        surroundings.refresh(store.resources(), options);
        let (snapshot, compiled) = compile(store.resources(), options, attached, &surroundings);
        let mut problems: Vec<Problem> = store.problems().to_vec();
        problems.extend(declared.into_iter().chain(compiled));
        problems.sort_by(Problem::by_place);
        Self { snapshot, problems: problems.iter().map(ToString::to_string).collect(), declarations }
    }

    /// Without any problem.
    fn clean(documents: &[&str]) -> Self {
        let picture = Self::of(documents);
        assert!(picture.problems.is_empty(), "{:#?}", picture.problems);
        picture
    }

    fn route(&self, port: u16, request: &str) -> Option<&Route> {
        let listener = self.snapshot.listeners.iter().find(|listener| listener.declared_port == port).unwrap();
        let (authority, path) = request.split_at(request.find('/').unwrap());
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let headers = HeaderList::new();
        let view = RequestView { path, query, method: "GET", authority, scheme: "http", headers: &headers };
        let host = listener.hosts.find(authority)?;
        let id = host.https_redirect.or_else(|| host.routes.find(&view))?;
        self.snapshot.route(id).map(AsRef::as_ref)
    }

    /// `404`, or what the route does.
    fn answer(&self, request: &str) -> String {
        self.answer_on(80, request)
    }

    fn answer_on(&self, port: u16, request: &str) -> String {
        match self.route(port, request).map(|route| &route.action) {
            None => "404".to_owned(),
            Some(Action::Forward(forward)) => self.forward(forward),
            Some(Action::Redirect(redirect)) => {
                let mut text = redirect.status.as_u16().to_string();
                write!(text, " {}", redirect.scheme.unwrap_or("-")).unwrap();
                write!(text, " {} {:?}", redirect.authority.as_deref().unwrap_or("-"), redirect.port).unwrap();
                text
            }
            Some(Action::Direct(direct)) => {
                format!("{} {}", direct.status.as_u16(), String::from_utf8_lossy(&direct.body))
            }
        }
    }

    fn forward(&self, forward: &Forward) -> String {
        let mut parts = Vec::new();
        for destination in &forward.destinations {
            let weight =
                if forward.destinations.len() > 1 { format!("{}*", destination.weight) } else { String::new() };
            parts.push(match destination.cluster {
                None => format!("{weight}NC {}", destination.cluster_name),
                Some(id) => {
                    let cluster = self.snapshot.cluster(id).unwrap();
                    assert_eq!(cluster.name, destination.cluster_name);
                    let endpoints: Vec<String> = cluster.endpoints.iter().map(|e| e.address.to_string()).collect();
                    format!("{weight}{}:{} [{}]", cluster.host, cluster.port, endpoints.join(" "))
                }
            });
        }
        parts.join(" + ")
    }

    fn names(&self, request: &str) -> String {
        self.route(80, request).map(|route| route.name.to_string()).unwrap_or_default()
    }
}

fn service(host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}}}\nspec: {{hosts: [{host}], \
         resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 127.0.0.1, ports: {{http: 9000}}}}]}}\n"
    )
}

fn virtual_service(metadata: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{{metadata}}}\nspec:\n{spec}\n")
}

/// A VirtualService whose routes are `name` or `name=prefix`, all direct responses with their name as body.
fn answers(metadata: &str, host: &str, routes: &[&str]) -> String {
    let mut spec = format!("  hosts: ['{host}']\n  gateways: [default/g]\n  http:\n");
    for route in routes {
        let (name, prefix) = route.split_once('=').unwrap_or((route, ""));
        writeln!(spec, "  - directResponse: {{status: 200, body: {{string: '{name}'}}}}").unwrap();
        if !prefix.is_empty() {
            writeln!(spec, "    match: [{{uri: {{prefix: '{prefix}'}}}}]").unwrap();
        }
    }
    virtual_service(metadata, &spec)
}
