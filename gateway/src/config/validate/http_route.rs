//! The routes of a VirtualService. What can be compiled is checked by compiling it.

use super::{Report, is_host_name, is_label, is_subdomain, virtual_service::gateway_names};
use crate::{
    config::{
        compile::{action, headers, matching, retry},
        duration,
        path::Path,
    },
    istio::{Delegate, Destination, HttpMatch, HttpRoute, RouteDestination, VirtualService},
    snapshot::UriMatch,
};

type VsReport<'a> = Report<'a, VirtualService>;

/// Checks a route. `delegate`: whether the VirtualService is one.
pub(super) fn check(route: &HttpRoute, delegate: bool, path: &Path<'_>, report: &mut VsReport<'_>) {
    let matches = path.key("match");
    let mut uris = Vec::new();
    for (at, block) in route.matches.iter().enumerate() {
        uris.push(check_match(block, &matches.index(at), report));
    }
    if uris.is_empty() {
        uris.push(UriMatch::Any);
    }
    check_action(route, delegate, path, report);
    let mut fail = |field: &Path<'_>, message: String| report.reject(field, message);
    let edits = headers::edits(&route.headers, &path.key("headers"), &mut fail);
    if let Some(redirect) = &route.redirect {
        // Whatever the match is, the same things can be wrong.
        if let Some(uri) = uris.first() {
            action::redirect(redirect, uri, &path.key("redirect"), &mut fail);
        }
    }
    if let Some(response) = &route.direct_response {
        action::direct_response(response, &path.key("directResponse"), &mut fail);
    }
    if let Some(rewrite) = &route.rewrite {
        let path = path.key("rewrite");
        if let Some(uri) = uris.first() {
            action::path_rewrite(rewrite, uri, &path, &mut fail);
        }
        if !rewrite.authority.is_empty() {
            headers::authority(&rewrite.authority, &path.key("authority"), &mut fail);
            if edits.authority.is_some() {
                fail(&path.key("authority"), "authority header cannot be set multiple times".to_owned());
            }
        }
        if rewrite.uri.is_empty() && rewrite.authority.is_empty() && rewrite.uri_regex_rewrite.is_none() {
            fail(&path, "rewrite must specify at least one of uri, authority, or uriRegexRewrite".to_owned());
        }
    }
    if let Some(timeout) = &route.timeout
        && let Err(error) = duration::parse(timeout)
    {
        report.reject(&path.key("timeout"), error);
    }
    if let Some(retries) = &route.retries {
        let path = path.key("retries");
        let mut fail = |field: &Path<'_>, message: String| report.reject(field, message);
        retry::policy(retries, &path, &mut fail);
        if retries.retry_remote_localities == Some(true) {
            report.ignored(&path.key("retryRemoteLocalities"), "retryRemoteLocalities");
        }
    }
    check_destinations(&route.route, path, report);
    if let Some(delegate) = &route.delegate {
        check_delegate(delegate, &path.key("delegate"), report);
    }
}

fn check_match(block: &HttpMatch, path: &Path<'_>, report: &mut VsReport<'_>) -> UriMatch {
    let mut fail = |field: &Path<'_>, message: String| report.reject(field, message);
    let (uri, _) = matching::conditions(block, path, &mut fail);
    if let Some(port) = block.port {
        report.port(&path.key("port"), port);
    }
    if !block.source_namespace.is_empty() && !is_label(&block.source_namespace) {
        report.reject(
            &path.key("sourceNamespace"),
            format!("sourceNamespace match {} is invalid", block.source_namespace),
        );
    }
    gateway_names(&block.gateways, &path.key("gateways"), report);
    if block.ignore_uri_case && matches!(uri, UriMatch::Regex(_)) {
        let message = "Schema validation warning: ignoreUriCase has no effect on regex; write (?i) into the expression";
        report.warn("IST0133", &path.key("ignoreUriCase"), message);
    }
    if matching::needs_claims(block) {
        let what = "routing by claims of a JSON web token";
        report.unsupported(&path.key("headers"), what, "this match block never holds");
    }
    uri
}

/// Exactly one of route, redirect, directResponse and delegate.
fn check_action(route: &HttpRoute, delegate: bool, path: &Path<'_>, report: &mut VsReport<'_>) {
    let actions = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ];
    let given: Vec<&str> = actions.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match given.as_slice() {
        [] => report.reject(path, "HTTP route, redirect, directResponse or delegate is required"),
        [_] => {}
        several => report.reject(path, format!("HTTP route cannot contain more than one of {}", several.join(", "))),
    }
    if delegate && route.delegate.is_some() {
        report.reject(&path.key("delegate"), "delegate HTTP route cannot contain delegate");
    }
    if route.redirect.is_some() || route.direct_response.is_some() {
        let what = if route.redirect.is_some() { "redirect" } else { "directResponse" };
        for (name, given) in [("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())] {
            if given {
                report.reject(&path.key(name), format!("HTTP route cannot contain both {name} and {what}"));
            }
        }
    }
}

pub(super) fn check_destinations(destinations: &[RouteDestination], path: &Path<'_>, report: &mut VsReport<'_>) {
    let routes = path.key("route");
    let mut total: i64 = 0;
    for (at, route) in destinations.iter().enumerate() {
        let path = routes.index(at);
        check_destination(&route.destination, &path.key("destination"), report);
        if !(0..=i64::from(i32::MAX)).contains(&route.weight) {
            report.reject(
                &path.key("weight"),
                format!("weight {} must not be negative or above {}", route.weight, i32::MAX),
            );
        }
        total = total.saturating_add(route.weight);
        let mut fail = |field: &Path<'_>, message: String| report.reject(field, message);
        headers::edits(&route.headers, &path.key("headers"), &mut fail);
    }
    if destinations.len() > 1 && total == 0 {
        report.reject(&routes, "total destination weight = 0");
    }
    if total > i64::from(u32::MAX) {
        report.reject(&routes, format!("total destination weight {total} is above {}", u32::MAX));
    }
}

fn check_destination(destination: &Destination, path: &Path<'_>, report: &mut VsReport<'_>) {
    let host = &destination.host;
    if host.is_empty() {
        report.reject(&path.key("host"), "destination host is required");
    } else if !is_host_name(host) {
        report
            .reject(&path.key("host"), format!("{host:?} must be the host of a ServiceEntry or the name of a Service"));
    }
    if let Some(port) = &destination.port {
        report.port(&path.key("port").key("number"), port.number);
    }
    if !destination.subset.is_empty() && !is_label(&destination.subset) {
        report.reject(&path.key("subset"), format!("{:?} cannot be the name of a subset", destination.subset));
    }
}

fn check_delegate(delegate: &Delegate, path: &Path<'_>, report: &mut VsReport<'_>) {
    if !is_subdomain(&delegate.name) {
        report.reject(&path.key("name"), "must be the name of a VirtualService");
    }
    if !delegate.namespace.is_empty() && !is_label(&delegate.namespace) {
        report.reject(&path.key("namespace"), format!("{:?} must be a namespace", delegate.namespace));
    }
    report.unsupported(path, "delegate", "requests for this route are answered 503");
}

/// Fields that this version does not act on, each once per resource.
pub(super) fn ignored(routes: &[HttpRoute], report: &mut VsReport<'_>) {
    type Given = fn(&HttpRoute) -> bool;
    let fields: [(&str, Given); 4] = [
        ("fault", |route| route.fault.is_some()),
        ("mirror", |route| route.mirror.is_some()),
        ("mirrors", |route| !route.mirrors.is_empty()),
        ("corsPolicy", |route| route.cors_policy.is_some()),
    ];
    let http = Path::SPEC.key("http");
    for (name, given) in fields {
        if let Some(first) = routes.iter().position(given) {
            report.ignored(&http.index(first).key(name), name);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::assert_problems;

    const ROUTE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  gateways: [g]\n  http:\n  - $$\n";

    #[test]
    fn actions() {
        assert_problems(
            ROUTE,
            &[
                ("{route: [{destination: {host: a}}]}", ""),
                ("{redirect: {uri: /x}}", ""),
                ("{redirect: {redirectCode: 308, scheme: https, derivePort: FROM_REQUEST_PORT}}", ""),
                ("{directResponse: {status: 200, body: {string: hello}}}", ""),
                ("{directResponse: {status: 503, body: {bytes: aGk=}}}", ""),
                ("{}", "HTTP route, redirect, directResponse or delegate is required"),
                ("{redirect: {uri: /x}, route: [{destination: {host: a}}]}", "more than one of route, redirect"),
                ("{redirect: {uri: /x}, rewrite: {uri: /y}}", "both rewrite and redirect"),
                ("{redirect: {redirectCode: 304}}", "304 is not one of 301"),
                ("{redirect: {scheme: ftp}}", "redirect.scheme"),
                ("{redirect: {uri: '/a b'}}", "percent-encode"),
                ("{redirect: {uri: /x, prefixRewrite: /y}}", "only one of uri and prefixRewrite"),
                ("{redirect: {port: 0}}", "range 1..65535"),
                ("{directResponse: {status: 99}}", "directResponse.status"),
                ("{directResponse: {status: 200, body: {bytes: '*'}}}", "is not base64"),
                ("{directResponse: {status: 200, body: {string: a, bytes: b}}}", "only one of string and bytes"),
                ("{delegate: {name: d}}", "Error [GW0102]"),
            ],
        );
        let big = format!("{{directResponse: {{status: 200, body: {{string: {}}}}}}}", "x".repeat((1 << 20) + 1));
        assert_problems(ROUTE, &[(&big, "at most 1MB")]);
    }

    #[test]
    fn matches() {
        let with = |block: &str| format!("{{match: [{block}], route: [{{destination: {{host: a}}}}]}}");
        for (block, expected) in [
            ("{uri: {prefix: /a}, method: {exact: GET}, headers: {x-a: {}, ':path': {regex: '/x.*'}}, port: 80}", ""),
            ("{headers: {x-a: {regex: '*'}}, withoutHeaders: {x-b: {regex: '*'}}, queryParams: {q: {exact: ''}}}", ""),
            ("{uri: {prefix: /a, exact: /b}}", "only one of exact, prefix and regex"),
            (
                "{uri: {regex: '('}}",
                "match[0].uri.regex: Schema validation error: regular expression invalid: \"(\" (unclosed group)",
            ),
            ("{headers: {'x a': {exact: a}}}", "not a valid header name"),
            ("{withoutHeaders: {'x a': {exact: a}}}", "not a valid header name"),
            ("{queryParams: {q: {regex: '['}}}", "queryParams.q.regex"),
            ("{method: {prefix: ''}}", "prefix string match should not be empty"),
            ("{port: 0}", "range 1..65535"),
            ("{gateways: ['a b']}", "match[0].gateways[0]"),
            ("{sourceNamespace: A_}", "sourceNamespace"),
            ("{uri: {regex: '/A'}, ignoreUriCase: true}", "ignoreUriCase has no effect"),
            ("{headers: {'@request.auth.claims.sub': {exact: a}}}", "this match block never holds"),
            ("{uri: {Prefix: /a}}", "did you mean \"prefix\"?"),
        ] {
            assert_problems(ROUTE, &[(&with(block), expected)]);
        }
    }

    #[test]
    fn destinations_headers_and_rewrites() {
        assert_problems(
            ROUTE,
            &[
                (
                    "{timeout: 1.5s, rewrite: {uri: /, authority: b.com}, route: [{destination: {host: a, port: {number: 80}}, weight: 100}]}",
                    "",
                ),
                (
                    "{headers: {request: {set: {x-a: '%REQ(x-b)%', Host: b.com}}, response: {remove: [server]}}, route: [{destination: {host: a}}]}",
                    "",
                ),
                (
                    "{rewrite: {uriRegexRewrite: {match: '^/a/(.*)$', rewrite: '/\\1'}}, route: [{destination: {host: a}}]}",
                    "",
                ),
                ("{route: [{destination: {}}]}", "destination host is required"),
                ("{route: [{destination: {host: 'a:80'}}]}", "must be the host of a ServiceEntry"),
                ("{route: [{destination: {host: a, port: {number: 0}}}]}", "range 1..65535"),
                ("{route: [{destination: {host: a, subset: v1}}]}", ""),
                ("{route: [{destination: {host: a, subset: V1}}]}", "destination.subset"),
                ("{route: [{destination: {host: a}, weight: -1}]}", "must not be negative"),
                ("{route: [{destination: {host: a}}, {destination: {host: b}}]}", "total destination weight = 0"),
                ("{timeout: 0s, route: [{destination: {host: a}}]}", "greater than 1ms"),
                ("{timeout: soon, route: [{destination: {host: a}}]}", "not a duration"),
                ("{rewrite: {}, route: [{destination: {host: a}}]}", "rewrite must specify"),
                ("{rewrite: {authority: 'a b'}, route: [{destination: {host: a}}]}", "not a host name"),
                (
                    "{rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}, route: [{destination: {host: a}}]}",
                    "only contain one of",
                ),
                (
                    "{rewrite: {uriRegexRewrite: {match: a, rewrite: '\\1'}}, route: [{destination: {host: a}}]}",
                    "does not have",
                ),
                (
                    "{rewrite: {authority: b}, headers: {request: {set: {host: c}}}, route: [{destination: {host: a}}]}",
                    "set multiple times",
                ),
                (
                    "{headers: {request: {set: {x-a: '%NOPE%'}}}, route: [{destination: {host: a}}]}",
                    "headers.request.set.x-a: Schema validation error: unknown operator %NOPE%",
                ),
                (
                    "{headers: {response: {add: {host: a}}}, route: [{destination: {host: a}}]}",
                    "invalid header \"host\"",
                ),
                (
                    "{headers: {request: {remove: ['a b']}}, route: [{destination: {host: a}}]}",
                    "headers.request.remove[0]",
                ),
                (
                    "{headers: {request: {set: {Content-Length: '0'}}}, route: [{destination: {host: a}}]}",
                    "cannot be edited",
                ),
                ("{retries: {}, route: [{destination: {host: a}}]}", ""),
                (
                    "{retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx, reset,418', backoff: 1s}, route: [{destination: {host: a}}]}",
                    "",
                ),
                ("{retries: {attempts: -1}, route: [{destination: {host: a}}]}", "retries.attempts"),
                ("{retries: {attempts: 1, retryOn: sometimes}, route: [{destination: {host: a}}]}", "retries.retryOn"),
                ("{retries: {attempts: 1, retryOn: '700'}, route: [{destination: {host: a}}]}", "retries.retryOn"),
                ("{retries: {attempts: 1, perTryTimeout: 1}, route: [{destination: {host: a}}]}", "perTryTimeout"),
                ("{retries: {attempts: 0, retryOn: reset}, route: [{destination: {host: a}}]}", "attempts"),
                (
                    "{retries: {attempts: 1, retryRemoteLocalities: true}, route: [{destination: {host: a}}]}",
                    "ignored: retryRemoteLocalities",
                ),
                ("{corsPolicy: {allowOrigins: []}, route: [{destination: {host: a}}]}", "ignored: corsPolicy"),
            ],
        );
    }
}
