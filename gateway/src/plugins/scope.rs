//! Which requests a plugin sees: all, or those of some hosts and routes; and which configuration it has there.

use std::fmt;

use bytes::Bytes;
use serde_json::Value;

use super::Spec;
use super::settings::{Mistakes, configuration};
use crate::snapshot::{HostPattern, Route};

/// Most entries of a list.
const MAX_ENTRIES: usize = 256;

/// Hosts and routes. A request has to be within both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Empty: every host.
    pub hosts: Vec<HostPattern>,
    /// Empty: every route, and requests that have none.
    pub routes: Vec<RouteName>,
}

/// A VirtualService, or one named route of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteName {
    /// `namespace/name`
    pub virtual_service: String,
    /// `http[].name`
    pub route: Option<String>,
}

/// Another configuration for some of a plugin's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Which.
    pub scope: Scope,
    /// `pluginConfig` as compact JSON.
    pub configuration: Bytes,
}

impl RouteName {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (namespace, name, route) = (parts.next()?, parts.next()?, parts.next());
        let well_formed = parts.next().is_none() && !namespace.is_empty() && !name.is_empty() && route != Some("");
        well_formed
            .then(|| Self { virtual_service: format!("{namespace}/{name}"), route: route.map(ToOwned::to_owned) })
    }

    /// Whether this is a route's name. The name of a `match` may stand behind that of the route.
    pub(crate) fn is_of(&self, route: &Route) -> bool {
        *route.virtual_service == *self.virtual_service
            && self.route.as_deref().is_none_or(|name| {
                let rest = route.name.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.virtual_service)?;
        self.route.iter().try_for_each(|route| write!(f, "/{route}"))
    }
}

impl Scope {
    /// Whether the plugin sees everything.
    pub(crate) fn is_everything(&self) -> bool {
        self.hosts.is_empty() && self.routes.is_empty()
    }

    /// Adds what it says to settings.
    pub(super) fn write(&self, spec: &mut Spec) {
        if !self.hosts.is_empty() {
            spec.insert("hosts".into(), self.hosts.iter().map(ToString::to_string).collect());
        }
        if !self.routes.is_empty() {
            spec.insert("routes".into(), self.routes.iter().map(ToString::to_string).collect());
        }
    }

    /// Reads `hosts` of settings.
    pub(super) fn hosts(field: &str, value: &Value, mistakes: &mut Mistakes) -> Vec<HostPattern> {
        let rule = "must be a host name, *.example.com or *";
        entries(field, value, mistakes, rule, |text| {
            HostPattern::parse(text).filter(|_| !text.contains([':', '/', ' ']) && text.len() <= 253)
        })
    }

    /// Reads `routes` of settings.
    pub(super) fn routes(field: &str, value: &Value, mistakes: &mut Mistakes) -> Vec<RouteName> {
        let rule = "must be namespace/virtual-service or namespace/virtual-service/name-of-the-http-route";
        entries(field, value, mistakes, rule, RouteName::parse)
    }
}

impl Override {
    /// As it is written in settings.
    pub(super) fn write(&self) -> Value {
        let mut entry = Spec::new();
        self.scope.write(&mut entry);
        let configuration = serde_json::from_slice(&self.configuration);
        entry.insert("pluginConfig".into(), configuration.unwrap_or_else(|_| Value::Object(Spec::new())));
        Value::Object(entry)
    }

    /// Reads `overrides` of settings.
    pub(super) fn list(field: &str, value: &Value, mistakes: &mut Mistakes) -> Vec<Self> {
        let rule = "must be a list of at most 256 objects, each with pluginConfig and hosts, routes or both";
        let Some(list) = value.as_array().filter(|list| list.len() <= MAX_ENTRIES) else {
            mistakes.add(field, rule);
            return Vec::new();
        };
        let entries = list.iter().enumerate().map(|(index, entry)| {
            let at = |name: &str| format!("{field}[{index}].{name}");
            let mut read = Self { scope: Scope::default(), configuration: Bytes::new() };
            let Some(object) = entry.as_object() else {
                mistakes.add(&format!("{field}[{index}]"), rule);
                return read;
            };
            for (name, value) in object {
                match name.as_str() {
                    "hosts" => read.scope.hosts = Scope::hosts(&at(name), value, mistakes),
                    "routes" => read.scope.routes = Scope::routes(&at(name), value, mistakes),
                    "pluginConfig" => read.configuration = configuration(&at(name), value, mistakes),
                    _ => mistakes.add(&at(name), "unknown field; there are hosts, routes and pluginConfig"),
                }
            }
            if !object.contains_key("hosts") && !object.contains_key("routes") {
                mistakes.add(&format!("{field}[{index}]"), "must name hosts, routes or both");
            }
            read
        });
        entries.collect()
    }
}

fn entries<T>(
    field: &str,
    value: &Value,
    mistakes: &mut Mistakes,
    rule: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let Some(list) = value.as_array().filter(|list| (1..=MAX_ENTRIES).contains(&list.len())) else {
        mistakes.add(field, "must be a list of 1 to 256 entries");
        return Vec::new();
    };
    let mut read = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        match entry.as_str().and_then(&parse) {
            Some(entry) => read.push(entry),
            None => mistakes.add(&format!("{field}[{index}]"), rule),
        }
    }
    read
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_of_routes() {
        let route = |virtual_service: &str, name: &str| Route {
            name: name.into(),
            virtual_service: virtual_service.into(),
            metadata: None,
            action: crate::snapshot::Action::Direct(crate::snapshot::DirectResponse {
                status: http::StatusCode::OK,
                body: Bytes::new(),
            }),
            request_headers: crate::snapshot::HeaderOps::default(),
            response_headers: crate::snapshot::HeaderOps::default(),
        };
        let is_of = |name: &str, virtual_service, route_name| {
            RouteName::parse(name).unwrap().is_of(&route(virtual_service, route_name))
        };
        assert!(is_of("a/shop", "a/shop", "") && is_of("a/shop", "a/shop", "cart"));
        assert!(is_of("a/shop/cart", "a/shop", "cart") && is_of("a/shop/cart", "a/shop", "cart.first"));
        assert!(!is_of("a/shop/cart", "a/shop", "carts") && !is_of("a/shop/cart", "a/shop", ""));
        assert!(!is_of("a/shop", "b/shop", "") && !is_of("a/shop", "a/shop2", ""));
        for wrong in ["shop", "/shop", "a/", "a/shop/", "a/shop/cart/x", ""] {
            assert_eq!(RouteName::parse(wrong), None, "{wrong}");
        }
    }
}
