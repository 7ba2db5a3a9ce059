//! Checks of resources: what Istio's validation refuses is refused, what this version cannot do is said.
//!
//! [`Report::reject`] means that a resource must not be used (its last good version stays). Everything else
//! leaves it in use. Patterns, header values and the like are checked by compiling them, so that what is
//! accepted here and what is served later cannot differ.

mod destination_rule;
mod gateway;
mod http_route;
mod references;
mod report;
mod secret;
mod server_tls;
mod service;
mod tcp_route;
mod virtual_service;
mod wasm_plugin;

pub(crate) use destination_rule::destination_rule;
pub(crate) use gateway::gateway;
pub(crate) use references::{full_name as full_gateway_name, references};
pub(crate) use report::Report;
pub(crate) use secret::{config_map, secret};
pub(crate) use server_tls::{certificate_hash, key_hash};
pub(crate) use service::{endpoint_slice, service, service_entry, without_endpoints};
pub(crate) use virtual_service::virtual_service;
pub(crate) use wasm_plugin::{traffic_extension, wasm_plugin};

use super::{path::Path, resources::Resource};
use crate::istio::{AuthorizationPolicy, Labels, RequestAuthentication};

/// Checks what every resource has.
pub(crate) fn metadata<T>(resource: &Resource<T>, report: &mut Report<'_, T>) {
    let metadata = Path::Root.key("metadata");
    if !is_subdomain(&resource.name) {
        report.reject(&metadata.key("name"), "must be lower-case letters, digits, '-' and '.'");
    }
    if !is_label(&resource.namespace) {
        report
            .reject(&metadata.key("namespace"), "must be a DNS label: lower-case letters, digits and '-', at most 63");
    }
}

/// AuthorizationPolicies are only looked into for hosts; see `compile/policies.rs`.
pub(crate) fn authorization_policy(
    resource: &Resource<AuthorizationPolicy>,
    report: &mut Report<'_, AuthorizationPolicy>,
) {
    let action = resource.spec.action.as_deref().unwrap_or("ALLOW");
    report.one_of(&Path::SPEC.key("action"), action, &["ALLOW", "DENY", "AUDIT", "CUSTOM"]);
}

/// Nothing of a RequestAuthentication is looked into.
pub(crate) fn request_authentication(
    _resource: &Resource<RequestAuthentication>,
    _report: &mut Report<'_, RequestAuthentication>,
) {
}

/// RFC 1123 label.
pub(crate) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(inner)
        && [bytes.first(), bytes.last()].iter().all(|end| *end != Some(&b'-'))
}

/// RFC 1123 subdomain: labels with dots between them, at most 253 characters.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A host name as Istio accepts it: case does not matter, a label may contain `_`, a dot may stand at the end.
pub(crate) fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// What is wrong with a host pattern (`a.example.com`, `*.example.com`, `*`), if anything.
pub(crate) fn host_pattern_error(text: &str) -> Option<&'static str> {
    let name = match text {
        "" => return Some("must not be empty"),
        "*" => return None,
        _ => text.strip_prefix("*.").unwrap_or(text),
    };
    if name.contains('*') {
        Some("a wildcard must be the whole first label: *.example.com")
    } else if name.contains(':') || name.contains("//") {
        Some("must be a host name without scheme and port")
    } else if !is_host_name(name) {
        Some("is not a host name")
    } else {
        None
    }
}

/// Checks the labels of a selector: they are compared as they are.
fn selector_labels<T>(labels: &Labels, path: &Path<'_>, report: &mut Report<'_, T>) {
    for (name, value) in labels {
        if name.is_empty() || name.contains('*') || value.contains('*') {
            report.reject(&path.key(name), "wildcard is not supported in selector");
        }
    }
}

/// Checks `exportTo`.
fn export_to<T>(targets: &[String], report: &mut Report<'_, T>) {
    let path = Path::SPEC.key("exportTo");
    for (at, target) in targets.iter().enumerate() {
        if !matches!(target.as_str(), "*" | "." | "~") && !is_label(target) {
            report.reject(&path.index(at), format!("{target:?} must be '*', '.', '~' or a namespace"));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::read::read;

    /// The problems of a file, without their level, code and place: `line field: message`.
    pub(crate) fn problems(yaml: &str) -> Vec<String> {
        let contents = read("f.yaml", yaml.as_bytes());
        let entries = contents.entries.iter().flat_map(|entry| &entry.problems);
        contents.problems.iter().chain(entries).map(ToString::to_string).collect()
    }

    /// Asserts that each snippet leads to exactly one problem, which contains the text.
    pub(crate) fn assert_problems(template: &str, cases: &[(&str, &str)]) {
        for (snippet, expected) in cases {
            let yaml = template.replace("$$", snippet);
            let found = problems(&yaml);
            if expected.is_empty() {
                assert!(found.is_empty(), "{snippet}: {found:#?}");
            } else {
                assert_eq!(found.len(), 1, "{snippet}: {found:#?}");
                assert!(found.first().unwrap().contains(expected), "{snippet}: {found:#?}");
            }
        }
    }

    #[test]
    fn names() {
        for good in ["a", "a-b", "1", "a.b-c.d"] {
            assert!(is_subdomain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", "a b", &"x".repeat(64)] {
            assert!(!is_subdomain(bad), "{bad}");
        }
    }

    #[test]
    fn host_patterns() {
        for good in ["*", "*.com", "a", "A.Example.com", "_x.a", "a.b."] {
            assert_eq!(host_pattern_error(good), None, "{good}");
        }
        for bad in ["", "a.*.b", "*a.com", "http://a", "a:80", "a..b", "a b", "*."] {
            assert!(host_pattern_error(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn metadata_is_checked() {
        let template = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: $$\nspec: {host: a}\n";
        assert_problems(
            template,
            &[
                ("{name: a}", ""),
                ("{name: a, namespace: b, creationTimestamp: '2024-01-01T00:00:00Z'}", ""),
                ("{name: A}", "metadata.name"),
                ("{name: a, namespace: b.c}", "metadata.namespace"),
                ("{}", "metadata.name is required"),
            ],
        );
    }
}
