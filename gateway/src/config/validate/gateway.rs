//! Gateways, as Istio's `pkg/config/validation` checks them.

use std::{collections::HashSet, net::IpAddr};

use super::{Report, host_pattern_error, is_label, selector_labels, server_tls};
use crate::{
    config::{path::Path, resources::Resource},
    istio::{Gateway, Server, ServerTls},
};

/// Checks a Gateway.
pub(crate) fn gateway(resource: &Resource<Gateway>, report: &mut Report<'_, Gateway>) {
    let path = Path::SPEC.key("servers");
    if resource.spec.servers.is_empty() {
        report.reject(&path, "gateway must have at least one server");
    }
    selector_labels(&resource.spec.selector, &Path::SPEC.key("selector"), report);
    let mut port_names = HashSet::new();
    let mut names = HashSet::new();
    for (at, server) in resource.spec.servers.iter().enumerate() {
        let path = path.index(at);
        check_server(server, &path, report);
        if !server.port.name.is_empty() && !port_names.insert(&server.port.name) {
            let message = format!("port names in servers must be unique: duplicate name {}", server.port.name);
            report.reject(&path.key("port").key("name"), message);
        }
        if !server.name.is_empty() && !names.insert(&server.name) {
            report.reject(&path.key("name"), format!("server names must be unique: duplicate name {}", server.name));
        }
    }
}

fn check_server(server: &Server, path: &Path<'_>, report: &mut Report<'_, Gateway>) {
    let port = path.key("port");
    report.port(&port.key("number"), server.port.number);
    if server.port.name.is_empty() {
        report.reject(&port.key("name"), "port name must be set");
    }
    if server.port.target_port.is_some() {
        report.reject(&port.key("targetPort"), "targetPort has no meaning in a Gateway; remove it");
    }
    if server.hosts.is_empty() {
        report.reject(&path.key("hosts"), "server config must contain at least one host");
    }
    for (at, host) in server.hosts.iter().enumerate() {
        check_host(host, &path.key("hosts").index(at), report);
    }
    check_bind(&server.bind, &path.key("bind"), report);
    check_protocol(server, path, report);
    if server.default_endpoint.is_some() {
        report.ignored(&path.key("defaultEndpoint"), "defaultEndpoint (Istio does not act on it either)");
    }
}

/// `[namespace/]name`
fn check_host(host: &str, path: &Path<'_>, report: &mut Report<'_, Gateway>) {
    let name = match host.split_once('/') {
        Some((namespace, name)) => {
            if !matches!(namespace, "*" | ".") && !is_label(namespace) {
                report.reject(path, format!("{host:?}: the part before / must be '*', '.' or a namespace"));
            }
            name
        }
        None => host,
    };
    if let Some(error) = host_pattern_error(name) {
        report.reject(path, format!("{host:?} {error}"));
    }
}

fn check_bind(bind: &str, path: &Path<'_>, report: &mut Report<'_, Gateway>) {
    if bind.starts_with("unix://") {
        report.unsupported(path, "a unix domain socket", "this server is not served");
    } else if !bind.is_empty() && bind.parse::<IpAddr>().is_err() {
        report.reject(path, format!("{bind:?} must be an IP address"));
    }
}

fn check_protocol(server: &Server, path: &Path<'_>, report: &mut Report<'_, Gateway>) {
    let field = path.key("port");
    let field = field.key("protocol");
    let tls = path.key("tls");
    match server.port.protocol.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => match &server.tls {
            Some(settings) if settings.https_redirect => check_redirect(settings, &tls, report),
            Some(_) => {
                report.warn("IST0133", &tls, "Schema validation warning: tls has no effect on a clear-text server")
            }
            None => {}
        },
        "HTTPS" | "TLS" => match &server.tls {
            None => report.reject(&tls, "server must have TLS settings for HTTPS/TLS protocols"),
            Some(settings) => server_tls::check(settings, &tls, report),
        },
        "TCP" | "MONGO" => {
            if server.tls.is_some() {
                report.warn("IST0133", &tls, "Schema validation warning: tls has no effect on a TCP server; use TLS");
            }
        }
        "" => report.reject(&field, "is required: HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP or MONGO"),
        other => report.reject(&field, format!("unsupported protocol: {other}")),
    }
}

/// On a server that redirects, certificates would be a misunderstanding.
fn check_redirect(settings: &ServerTls, path: &Path<'_>, report: &mut Report<'_, Gateway>) {
    if settings.mode.as_deref().is_some_and(|mode| mode != "PASSTHROUGH") {
        report.reject(&path.key("mode"), "must not be set together with httpsRedirect on a clear-text server");
    }
    let certificates =
        [&settings.server_certificate, &settings.private_key, &settings.ca_certificates, &settings.credential_name];
    if certificates.iter().any(|value| !value.is_empty()) {
        report.reject(path, "certificates must not be set together with httpsRedirect on a clear-text server");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::assert_problems;

    #[test]
    fn servers_are_checked() {
        let template =
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  servers:\n  - $$\n";
        let port = "port: {number: 80, name: http, protocol: HTTP}";
        let cases = [
            (format!("{{{port}, hosts: ['*']}}"), ""),
            (format!("{{{port}, hosts: ['*'], bind: 127.0.0.1}}"), ""),
            (format!("{{{port}, hosts: ['./a.com', '*/*.b.com', 'ns/c']}}"), ""),
            (format!("{{{port}, hosts: ['*'], tls: {{httpsRedirect: true}}}}"), ""),
            ("{port: {number: 80, name: g, protocol: grpc-web}, hosts: ['*']}".into(), ""),
            (format!("{{{port}}}"), "spec.servers[0].hosts: Schema validation error: server config must contain"),
            (format!("{{{port}, hosts: ['a.*.com']}}"), "spec.servers[0].hosts[0]"),
            (format!("{{{port}, hosts: ['NS/a.com']}}"), "before /"),
            (format!("{{{port}, hosts: ['*'], bind: localhost}}"), "must be an IP address"),
            (format!("{{{port}, hosts: ['*'], tls: {{mode: SIMPLE}}}}"), "Warning [IST0133]"),
            (format!("{{{port}, hosts: ['*'], tls: {{httpsRedirect: true, mode: SIMPLE}}}}"), "tls.mode"),
            ("{port: {number: 70000, name: h, protocol: HTTP}, hosts: ['*']}".into(), "range 1..65535"),
            ("{port: {number: 80, protocol: HTTP}, hosts: ['*']}".into(), "port name must be set"),
            ("{port: {number: 80, name: h, protocol: FTP}, hosts: ['*']}".into(), "unsupported protocol: FTP"),
            ("{port: {number: 80, name: h}, hosts: ['*']}".into(), "protocol: Schema validation error: is required"),
            (
                "{port: {number: 443, name: h, protocol: TLS}, hosts: ['*'], tls: {mode: SIMPLE}}".into(),
                "requires a server certificate",
            ),
            ("{port: {number: 9, name: h, protocol: TCP}, hosts: ['*']}".into(), ""),
            ("{port: {number: 9, name: h, protocol: TCP}, hosts: ['*'], tls: {mode: SIMPLE}}".into(), "IST0133"),
            (format!("{{{port}, hosts: ['*'], host: x}}"), "did you mean \"hosts\""),
        ];
        let cases: Vec<(&str, &str)> = cases.iter().map(|(snippet, expected)| (snippet.as_str(), *expected)).collect();
        assert_problems(template, &cases);
    }

    #[test]
    fn names_are_unique() {
        let template =
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {servers: [$$]}\n";
        let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";
        assert_problems(
            template,
            &[(&format!("{server}, {server}"), "duplicate name http"), ("", "at least one server")],
        );
    }
}
