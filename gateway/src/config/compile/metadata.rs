//! What plugins are told of routes and clusters: where they come from, as Istio says it in Envoy's metadata.
//!
//! Istio's gateways say nothing of their listeners and virtual hosts.

use super::services::Port;
use crate::{
    config::resources::Resource,
    istio::DestinationRule,
    snapshot::{Metadata, MetadataValue},
};

/// Of the routes of a VirtualService.
pub(super) fn of_route(namespace: &str, name: &str) -> Metadata {
    Metadata::of("istio", vec![config("virtual-service", namespace, name)])
}

/// Of the cluster of a port, or of a subset of it.
pub(super) fn of_cluster(port: &Port, rule: Option<&Resource<DestinationRule>>, subset: &str) -> Metadata {
    let service = [("host", &port.host), ("name", &port.service_name), ("namespace", &port.namespace)];
    let service = service.map(|(name, value)| text(name, value));
    let mut fields = vec![("services".to_owned(), MetadataValue::List(vec![MetadataValue::Map(service.into())]))];
    fields.extend(rule.map(|rule| config("destination-rule", &rule.namespace, &rule.name)));
    fields.extend((!subset.is_empty()).then(|| text("subset", subset)));
    Metadata::of("istio", fields)
}

fn config(kind: &str, namespace: &str, name: &str) -> (String, MetadataValue) {
    text("config", &format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{kind}/{name}"))
}

fn text(name: &str, value: &str) -> (String, MetadataValue) {
    (name.to_owned(), MetadataValue::Text(value.to_owned()))
}
