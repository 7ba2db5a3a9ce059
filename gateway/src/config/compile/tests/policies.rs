//! Policies that cannot be enforced close hosts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;

#[test]
fn hosts_whose_policies_cannot_be_enforced_are_closed() {
    let hosts = [answers("name: a", "a.com", &["a"]), answers("name: b", "b.com", &["b"])];
    let policy = |kind: &str, spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: istio-system}}\nspec: {spec}\n"
        )
    };
    let closed = "403 policy not supported";
    for (kind, spec, a, b) in [
        (
            "AuthorizationPolicy",
            "{selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: [{operation: {hosts: [a.com]}}]}]}",
            closed,
            "200 b",
        ),
        ("AuthorizationPolicy", "{action: DENY, rules: [{to: [{operation: {hosts: ['*.com']}}]}]}", closed, closed),
        ("AuthorizationPolicy", "{action: DENY, rules: [{to: [{operation: {hosts: ['a.com:*']}}]}]}", closed, closed),
        ("AuthorizationPolicy", "{action: DENY, rules: [{from: [{source: {}}]}]}", closed, closed),
        ("AuthorizationPolicy", "{action: DENY}", "200 a", "200 b"),
        ("AuthorizationPolicy", "{action: AUDIT, rules: [{}]}", "200 a", "200 b"),
        ("AuthorizationPolicy", "{rules: [{to: [{operation: {hosts: [a.com]}}]}]}", closed, closed),
        ("AuthorizationPolicy", "{selector: {matchLabels: {app: reviews}}}", "200 a", "200 b"),
        ("AuthorizationPolicy", "{targetRefs: [{kind: Gateway, name: g}]}", "200 a", "200 b"),
        ("RequestAuthentication", "{jwtRules: [{issuer: me}]}", closed, closed),
        ("PeerAuthentication", "{mtls: {mode: STRICT}}", "200 a", "200 b"),
    ] {
        let policy = policy(kind, spec);
        let documents = [GATEWAY, &hosts[0], &hosts[1], &policy];
        let picture = Picture::of(&documents);
        assert_eq!((picture.answer("a.com/"), picture.answer("b.com/")), (a.to_owned(), b.to_owned()), "{kind} {spec}");
        let reported = picture.problems.iter().filter(|problem| problem.contains("Error [GW0103]")).count();
        assert_eq!(reported, usize::from(a == closed), "{:#?}", picture.problems);
        let options = Options { allow_unsupported: true, ..Options::default() };
        let picture = Picture::with(&documents, &options, &[]);
        assert_eq!(picture.answer("a.com/"), "200 a");
        assert_eq!(picture.problems.iter().filter(|problem| problem.contains("GW0103")).count(), reported);
    }
}

#[test]
fn hosts_that_need_tls_of_the_mesh_to_their_service_are_closed() {
    let rule = |host: &str, policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\nspec: {{host: '{host}', trafficPolicy: {policy}}}\n"
        )
    };
    let route = "  hosts: [a]\n  gateways: [g]\n  http:\n  - {match: [{uri: {prefix: /x}}], route: [{destination: {host: s}}]}\n  - {directResponse: {status: 200}}";
    for (host, policy, expected) in [
        ("s", "{tls: {mode: ISTIO_MUTUAL}}", "403 policy not supported"),
        ("s", "{tls: {mode: SIMPLE, insecureSkipVerify: true}}", "200 "),
        ("*", "{portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]}", "403 policy not supported"),
        ("s", "{tls: {mode: DISABLE}}", "200 "),
        ("other", "{tls: {mode: ISTIO_MUTUAL}}", "200 "),
    ] {
        let picture = Picture::of(&[GATEWAY, &virtual_service("name: v", route), &service("s"), &rule(host, policy)]);
        assert_eq!(picture.answer("a/y"), expected, "{host} {policy}");
        let reported = picture.problems.iter().filter(|problem| problem.contains("GW0103")).count();
        assert_eq!(reported, usize::from(expected.starts_with("403")), "{:#?}", picture.problems);
    }
}
