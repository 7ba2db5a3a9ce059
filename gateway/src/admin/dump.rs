//! The snapshot as JSON: `/config_dump`, `/clusters`, `/listeners`, `/certs`.
//!
//! Nothing that may be secret is shown: of header edits the names only, of conditions on headers that
//! carry credentials not the value, of plugins not their configuration.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::plugins::rfc3339;
use crate::snapshot::{
    Action, Balance, CertificateInUse, Cluster, Code, HeaderOps, Listener, PathRewrite, Plugin, RedirectPort, Route,
    Rule, Snapshot, StringMatch, TlsServer, Transport, UpstreamProtocol, UriMatch,
};

/// Everything: listeners with their virtual hosts, rules in order, and what they lead to; clusters.
pub(super) fn config(snapshot: &Snapshot) -> Value {
    let listeners: Vec<_> = snapshot
        .listeners
        .iter()
        .map(|listener| {
            let hosts = listener.virtual_hosts().map(|host| {
                let rules: Vec<_> = host.routes.rules().iter().map(|rule| rule_json(rule, snapshot)).collect();
                let mut shown = json!({ "host": host.name.to_string(), "routes": rules });
                if let (Some(_), Value::Object(shown)) = (host.https_redirect, &mut shown) {
                    shown.insert("httpsRedirect".into(), true.into());
                }
                shown
            });
            let mut shown = listener_json(listener);
            if let Value::Object(shown) = &mut shown {
                shown.insert("virtualHosts".into(), hosts.collect());
                shown.shift_remove("hosts");
            }
            shown
        })
        .collect();
    json!({ "version": snapshot.version, "listeners": listeners, "clusters": cluster_list(snapshot) })
}

/// `/listeners`
pub(super) fn listeners(snapshot: &Snapshot) -> Value {
    let listeners: Vec<_> = snapshot.listeners.iter().map(|listener| listener_json(listener)).collect();
    json!({ "version": snapshot.version, "listeners": listeners })
}

/// `/clusters`
pub(super) fn clusters(snapshot: &Snapshot) -> Value {
    json!({ "version": snapshot.version, "clusters": cluster_list(snapshot) })
}

/// `/certs`: Envoy's shape, with the server that shows the certificate in `name`.
pub(super) fn certificates(snapshot: &Snapshot, now: SystemTime) -> Value {
    let certificates: Vec<_> = snapshot
        .certificates()
        .map(|CertificateInUse { port, server, certificate }| {
            let of = |kind: &'static str| move |name: &String| json!({ kind: name });
            let dns = certificate.dns_names.iter().map(of("dns"));
            let uris = certificate.uris.iter().map(of("uri"));
            let others = certificate.others.iter().map(of("other"));
            let days = certificate.expires_in(now).map_or(0, |left| left.as_secs() / 86_400);
            let shown = json!({
                "path": "<inline>",
                "name": server,
                "port": port,
                "serial_number": certificate.serial,
                "subject_alt_names": dns.chain(uris).chain(others).collect::<Vec<_>>(),
                "days_until_expiration": days.to_string(),
                "valid_from": rfc3339(certificate.not_before),
                "expiration_time": rfc3339(certificate.not_after),
            });
            json!({ "ca_cert": [], "cert_chain": [shown] })
        })
        .collect();
    json!({ "certificates": certificates })
}

fn listener_json(listener: &Listener) -> Value {
    let mut shown = json!({
        "declaredPort": listener.declared_port,
        "address": listener.bind.to_string(),
        "gateways": listener.gateways,
        "hosts": listener.virtual_hosts().map(|host| host.name.to_string()).collect::<Vec<_>>(),
        "plugins": listener.plugins.iter().map(|plugin| plugin_json(plugin)).collect::<Vec<_>>(),
    });
    if let (Some(servers), Value::Object(shown)) = (&listener.tls, &mut shown) {
        shown.insert("tlsServers".into(), servers.iter().map(tls_server_json).collect());
    }
    shown
}

/// Certificates by serial number; what they say is in `/certs`.
fn tls_server_json(server: &TlsServer) -> Value {
    let serials = server.tls.iter().flat_map(|tls| tls.credentials());
    json!({
        "name": &*server.name,
        "serverNames": server.server_names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "hosts": server.hosts.iter().map(|host| host.name.to_string()).collect::<Vec<_>>(),
        "usable": server.tls.is_some(),
        "certificates": serials.map(|credential| credential.certificate().serial.clone()).collect::<Vec<_>>(),
    })
}

fn plugin_json(plugin: &Plugin) -> Value {
    let mut shown = json!({
        "namespace": plugin.namespace,
        "name": plugin.name,
        "digest": plugin.digest,
        "phase": plugin.phase.as_str(),
        "priority": plugin.priority,
        "failStrategy": plugin.fail_strategy.as_str(),
    });
    if let (Code::Unavailable { reason }, Value::Object(shown)) = (&plugin.code, &mut shown) {
        shown.insert("unavailable".into(), reason.clone().into());
    }
    shown
}

fn cluster_list(snapshot: &Snapshot) -> Value {
    snapshot.clusters.iter().map(|cluster| cluster_json(cluster)).collect()
}

fn cluster_json(cluster: &Cluster) -> Value {
    let endpoints = cluster.endpoints.iter();
    json!({
        "name": &*cluster.name,
        "host": &*cluster.host,
        "port": cluster.port,
        "service": { "name": &*cluster.service_name, "namespace": &*cluster.service_namespace },
        "protocol": match cluster.protocol {
            UpstreamProtocol::Http1 => "HTTP/1.1",
            UpstreamProtocol::Http2 => "HTTP/2",
        },
        "tls": match &cluster.transport {
            Transport::Plain => Value::from(false),
            Transport::Tls(_) => Value::from(true),
            Transport::Unusable(reason) => Value::from(&**reason),
        },
        "loadBalancer": match cluster.balance {
            Balance::LeastRequest => "LEAST_REQUEST",
            Balance::RoundRobin => "ROUND_ROBIN",
            Balance::Random => "RANDOM",
        },
        "connectTimeoutMillis": u64::try_from(cluster.connections.connect_timeout.as_millis()).ok(),
        "idleTimeoutMillis": u64::try_from(cluster.connections.idle_timeout.as_millis()).ok(),
        "limits": {
            "connections": cluster.thresholds.connections,
            "pendingRequests": cluster.thresholds.pending,
            "requests": cluster.thresholds.requests,
            "retries": cluster.thresholds.retries,
        },
        "names": cluster.names.iter().map(|named| format!("{}:{}", named.name, named.port)).collect::<Vec<_>>(),
        "endpoints": endpoints
            .map(|endpoint| json!({ "address": endpoint.address.to_string(), "weight": endpoint.weight }))
            .collect::<Vec<_>>(),
    })
}

fn rule_json(rule: &Rule, snapshot: &Snapshot) -> Value {
    let mut shown = Map::new();
    shown.insert("match".into(), match_json(rule));
    if let Some(route) = snapshot.route(rule.route) {
        shown.insert("name".into(), (*route.name).into());
        shown.insert("virtualService".into(), (*route.virtual_service).into());
        shown.extend(action_json(route));
        for (key, edits) in [("requestHeaders", &route.request_headers), ("responseHeaders", &route.response_headers)] {
            if !edits.is_empty() {
                shown.insert(key.into(), edits_json(edits));
            }
        }
    }
    Value::Object(shown)
}

fn match_json(rule: &Rule) -> Value {
    let mut shown = Map::new();
    let uri = match &rule.uri {
        UriMatch::Any => None,
        UriMatch::Exact(path) => Some(json!({ "exact": path })),
        UriMatch::Prefix(path) => Some(json!({ "prefix": path })),
        UriMatch::ExactIgnoreCase(path) => Some(json!({ "exact": path, "ignoreCase": true })),
        UriMatch::PrefixIgnoreCase(path) => Some(json!({ "prefix": path, "ignoreCase": true })),
        UriMatch::Regex(regex) => Some(json!({ "regex": regex.as_str() })),
    };
    shown.extend(uri.map(|uri| ("uri".to_owned(), uri)));
    for (kind, name, matcher) in rule.conditions.iter() {
        let hidden = kind != "queryParams" && is_sensitive(name);
        let text =
            |bytes: &[u8]| if hidden { "[hidden]".to_owned() } else { String::from_utf8_lossy(bytes).into_owned() };
        let value = match matcher {
            StringMatch::Exact(value) => json!({ "exact": text(value) }),
            StringMatch::Prefix(value) => json!({ "prefix": text(value) }),
            StringMatch::Regex(regex) => json!({ "regex": text(regex.as_str().as_bytes()) }),
            StringMatch::Present => json!({ "present": true }),
        };
        if let Value::Object(group) = shown.entry(kind).or_insert_with(|| json!({})) {
            group.insert(name.to_owned(), value);
        }
    }
    Value::Object(shown)
}

/// Headers by whose value somebody can act in another's name.
fn is_sensitive(name: &str) -> bool {
    ["auth", "cookie", "token", "secret", "key", "password", "signature"].iter().any(|part| name.contains(part))
}

fn action_json(route: &Route) -> Map<String, Value> {
    let mut shown = Map::new();
    match &route.action {
        Action::Forward(forward) => {
            let destinations = forward.destinations.iter().map(|destination| {
                let mut shown = json!({
                    "cluster": &*destination.cluster_name,
                    "weight": destination.weight,
                    "known": destination.cluster.is_some(),
                });
                if let Value::Object(shown) = &mut shown {
                    let edits = [
                        ("requestHeaders", &destination.request_headers),
                        ("responseHeaders", &destination.response_headers),
                    ];
                    for (key, edits) in edits.into_iter().filter(|(_, edits)| !edits.is_empty()) {
                        shown.insert(key.into(), edits_json(edits));
                    }
                }
                shown
            });
            shown.insert("route".into(), destinations.collect());
            shown
                .extend(forward.path_rewrite.as_ref().map(|rewrite| ("pathRewrite".to_owned(), rewrite_json(rewrite))));
            let authority = forward.authority_rewrite.as_ref().map(|name| String::from_utf8_lossy(name.as_bytes()));
            shown.extend(authority.map(|name| ("authorityRewrite".to_owned(), name.into())));
            let timeout = forward.timeout.and_then(|timeout| u64::try_from(timeout.as_millis()).ok());
            shown.extend(timeout.map(|timeout| ("timeoutMillis".to_owned(), timeout.into())));
        }
        Action::Redirect(redirect) => {
            let port = match redirect.port {
                RedirectPort::Keep => json!("of the request"),
                RedirectPort::Number(number) => json!(number),
                RedirectPort::Listener => json!("of the listener"),
            };
            let shown_redirect = json!({
                "status": redirect.status.as_u16(),
                "path": redirect.path.as_ref().map(rewrite_json),
                "authority": redirect.authority,
                "port": port,
                "scheme": redirect.scheme,
            });
            shown.insert("redirect".into(), shown_redirect);
        }
        Action::Direct(direct) => {
            let direct = json!({ "status": direct.status.as_u16(), "bodyBytes": direct.body.len() });
            shown.insert("directResponse".into(), direct);
        }
    }
    shown
}

fn rewrite_json(rewrite: &PathRewrite) -> Value {
    match rewrite {
        PathRewrite::Prefix { matched, replacement } => json!({ "prefixOfBytes": matched, "replacement": replacement }),
        PathRewrite::Whole(path) => json!({ "path": path }),
        PathRewrite::Regex { pattern, replacement } => json!({ "regex": pattern.as_str(), "replacement": replacement }),
    }
}

fn edits_json(edits: &HeaderOps) -> Value {
    let names = |append: bool| {
        let written = edits.write.iter().filter(move |write| write.append == append);
        written.map(|write| write.name.as_str()).collect::<Vec<_>>()
    };
    let removed: Vec<_> = edits.remove.iter().map(heads::Key::as_str).collect();
    json!({ "remove": removed, "set": names(false), "add": names(true) })
}
