//! What routes do, and header edits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use heads::HeaderList;
use http::{HeaderName, HeaderValue};

use super::*;
use crate::snapshot::{PathRewrite, RedirectPort, TemplateContext};

#[test]
fn redirects_responses_rewrites_and_timeouts() {
    let spec = "  hosts: [a]\n  gateways: [g]\n  http:
  - {match: [{uri: {prefix: /r1}}], redirect: {uri: /new, scheme: https, authority: b.com, redirectCode: 308}}
  - {match: [{uri: {prefix: /r2}}], redirect: {prefixRewrite: /p, derivePort: FROM_REQUEST_PORT}}
  - {match: [{uri: {prefix: /r3}}], redirect: {port: 8443}}
  - {match: [{uri: {exact: /w}}], rewrite: {uri: /whole, authority: c.com}, timeout: 1.5s, route: [{destination: {host: s}}]}
  - {match: [{uri: {prefix: /pre}}], rewrite: {uri: /}, route: [{destination: {host: s}}]}
  - {match: [{uri: {prefix: /x}}], rewrite: {uriRegexRewrite: {match: '^/x/(.*)$', rewrite: '/\\1'}}, route: [{destination: {host: s}}]}
  - {match: [{uri: {prefix: /d}}], delegate: {name: other}}
";
    let picture = Picture::of(&[GATEWAY, &virtual_service("name: v", spec), &service("s")]);
    assert!(picture.problems.len() == 1 && picture.problems[0].contains("delegate"), "{:#?}", picture.problems);
    assert_eq!(picture.answer("a/r1"), "308 https b.com Keep");
    assert_eq!(picture.answer("a/r2"), "301 - - Listener");
    assert_eq!(picture.answer("a/r3"), "301 - - Number(8443)");
    assert_eq!(picture.answer("a/d"), "503 ");
    let path = |request: &str| match &picture.route(80, request).unwrap().action {
        Action::Redirect(redirect) => format!("{:?}", redirect.path),
        Action::Forward(forward) => {
            format!("{:?} {:?} {:?}", forward.path_rewrite, forward.authority_rewrite, forward.timeout)
        }
        Action::Direct(_) => panic!("{request}"),
    };
    assert_eq!(path("a/r1"), "Some(Whole(\"/new\"))");
    assert_eq!(path("a/r2"), "Some(Prefix { matched: 3, replacement: \"/p\" })");
    assert_eq!(path("a/r3"), "None");
    assert_eq!(path("a/w"), "Some(Whole(\"/whole\")) Some(\"c.com\") Some(1.5s)");
    assert_eq!(path("a/pre"), "Some(Prefix { matched: 4, replacement: \"/\" }) None None");
    let Action::Forward(forward) = &picture.route(80, "a/x/1").unwrap().action else { panic!() };
    let Some(PathRewrite::Regex { pattern, replacement }) = &forward.path_rewrite else { panic!() };
    assert_eq!(pattern.replace_all("/x/1/2", &**replacement), "/1/2");
    assert_eq!(
        picture.route(80, "a/r2").map(|route| match &route.action {
            Action::Redirect(redirect) => redirect.port,
            _ => panic!(),
        }),
        Some(RedirectPort::Listener)
    );
}

/// The request head after all edits of a route, in the order in which a request meets them.
fn edited(route: &Route, destination: usize) -> Vec<String> {
    let context = TemplateContext {
        remote: "192.0.2.1:5".parse().unwrap(),
        local: "192.0.2.2:80".parse().unwrap(),
        protocol: "HTTP/1.1",
        method: "GET",
        path: "/",
        authority: "a",
        route_name: "",
        upstream: None,
        hostname: "",
    };
    let mut headers = HeaderList::new();
    for (name, value) in [("x-a", "client"), ("x-gone", "1")] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let Action::Forward(forward) = &route.action else { panic!("{route:?}") };
    forward.destinations[destination].request_headers.apply(&mut headers, &context);
    route.request_headers.apply(&mut headers, &context);
    if let Some(authority) = &forward.authority_rewrite {
        headers.insert(http::header::HOST, authority.clone());
    }
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn header_edits_of_route_and_destination() {
    let edits = "headers: {request: {set: {x-l: LEVEL, Host: LEVEL.com}, add: {x-a: LEVEL}, remove: [x-gone]}}";
    let level = |name: &str| edits.replace("LEVEL", name);
    let spec = format!(
        "  hosts: [a]\n  gateways: [g]\n  http:\n  - {{match: [{{uri: {{prefix: /one}}}}], route: [{{destination: {{host: s}}, {d}}}], {r}}}\n  - {{match: [{{uri: {{prefix: /two}}}}], route: [{{destination: {{host: s}}, weight: 3, {d}}}, {{destination: {{host: s}}, weight: 1}}, {{destination: {{host: s}}, weight: 0}}], {r}}}\n  - {{match: [{{uri: {{prefix: /three}}}}], route: [{{destination: {{host: s}}, weight: 1, {d}}}, {{destination: {{host: s}}, weight: 1}}]}}\n",
        d = level("destination"),
        r = level("route"),
    );
    let picture = Picture::clean(&[GATEWAY, &virtual_service("name: v", &spec), &service("s")]);
    // One destination: its edits come after the route's, so its `set` wins; the route's authority stands.
    let one = picture.route(80, "a/one").unwrap();
    assert_eq!(
        edited(one, 0),
        ["host: route.com", "x-a: client", "x-a: destination", "x-a: route", "x-l: destination"]
    );
    // Several: the destination's come first, so the route's `set` wins.
    let two = picture.route(80, "a/two").unwrap();
    assert_eq!(edited(two, 0), ["host: route.com", "x-a: client", "x-a: destination", "x-a: route", "x-l: route"]);
    assert_eq!(edited(two, 1), ["host: route.com", "x-a: client", "x-a: route", "x-l: route"]);
    let three = picture.route(80, "a/three").unwrap();
    assert_eq!(edited(three, 0), ["host: destination.com", "x-a: client", "x-a: destination", "x-l: destination"]);
    assert_eq!(picture.answer("a/two"), "3*s:80 [127.0.0.1:9000] + 1*s:80 [127.0.0.1:9000]");
    let Action::Forward(forward) = &two.action else { panic!() };
    assert_eq!(forward.total_weight, 4);
}
