//! Resources that were read and found valid, and where each of them stands.

use std::{fmt, sync::Arc};

use super::{
    path::Path,
    problem::{Level, Problem},
    yaml::{Positions, Value},
};
use crate::istio::{self, Labels};

/// Namespace of a document that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// The kind whose plugin stands below `spec.wasm`.
pub(crate) const TRAFFIC_EXTENSION: &str = "TrafficExtension";

/// A resource of one kind.
#[derive(Debug)]
pub struct Resource<T> {
    /// The kind.
    pub kind: &'static str,
    /// Its namespace; `default` if the document has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// `metadata.creationTimestamp`.
    pub created: Option<String>,
    /// What it says.
    pub spec: T,
    /// Where it stands.
    pub origin: Origin,
}

/// Where a resource stands.
#[derive(Debug, Clone)]
pub struct Origin {
    pub(crate) file: Arc<str>,
    pub(crate) positions: Arc<Positions>,
    /// Path of the resource in its document: empty, or `items[3]` in a List.
    pub(crate) base: String,
}

/// Everything that is in use, by kind, each in the order of creation: `metadata.creationTimestamp`, then
/// name and namespace; after those the resources without one, in the order of files and documents.
#[derive(Debug, Default)]
pub struct Resources {
    pub(crate) gateways: Vec<Arc<Resource<istio::Gateway>>>,
    pub(crate) virtual_services: Vec<Arc<Resource<istio::VirtualService>>>,
    pub(crate) service_entries: Vec<Arc<Resource<istio::ServiceEntry>>>,
    pub(crate) services: Vec<Arc<Resource<istio::Service>>>,
    pub(crate) endpoint_slices: Vec<Arc<Resource<istio::EndpointSlice>>>,
    /// WasmPlugins, and TrafficExtensions in their form.
    pub(crate) wasm_plugins: Vec<Arc<Resource<istio::WasmPlugin<Value>>>>,
    pub(crate) destination_rules: Vec<Arc<Resource<istio::DestinationRule>>>,
    pub(crate) authorization_policies: Vec<Arc<Resource<istio::AuthorizationPolicy>>>,
    pub(crate) request_authentications: Vec<Arc<Resource<istio::RequestAuthentication>>>,
    pub(crate) secrets: Vec<Arc<Resource<istio::Secret>>>,
    pub(crate) config_maps: Vec<Arc<Resource<istio::ConfigMap>>>,
}

/// A resource of any kind.
#[derive(Debug, Clone)]
pub(crate) enum AnyResource {
    Gateway(Arc<Resource<istio::Gateway>>),
    VirtualService(Arc<Resource<istio::VirtualService>>),
    ServiceEntry(Arc<Resource<istio::ServiceEntry>>),
    Service(Arc<Resource<istio::Service>>),
    EndpointSlice(Arc<Resource<istio::EndpointSlice>>),
    WasmPlugin(Arc<Resource<istio::WasmPlugin<Value>>>),
    DestinationRule(Arc<Resource<istio::DestinationRule>>),
    AuthorizationPolicy(Arc<Resource<istio::AuthorizationPolicy>>),
    RequestAuthentication(Arc<Resource<istio::RequestAuthentication>>),
    Secret(Arc<Resource<istio::Secret>>),
    ConfigMap(Arc<Resource<istio::ConfigMap>>),
}

impl Origin {
    /// The line of a field of the resource.
    pub(crate) fn line(&self, field: &str) -> usize {
        match (self.base.is_empty(), field.is_empty()) {
            (true, _) => self.positions.line(field),
            (false, true) => self.positions.line(&self.base),
            (false, false) => self.positions.line(&format!("{}.{field}", self.base)),
        }
    }
}

impl fmt::Display for Origin {
    /// `file.yaml:12`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line(""))
    }
}

impl<T> Resource<T> {
    /// `namespace/name`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The same resource with its `spec` in another form.
    pub(crate) fn with<U>(&self, spec: U) -> Resource<U> {
        Resource {
            kind: self.kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            created: self.created.clone(),
            spec,
            origin: self.origin.clone(),
        }
    }

    /// A problem of this resource.
    pub(crate) fn problem(
        &self,
        level: Level,
        code: &'static str,
        field: &Path<'_>,
        message: impl Into<String>,
    ) -> Problem {
        let field = field.to_string();
        Problem {
            level,
            code,
            resource: format!("{} {}/{}", self.kind, self.namespace, self.name),
            file: self.origin.file.to_string(),
            line: self.origin.line(&field),
            field,
            message: message.into(),
        }
    }
}

impl Resources {
    /// Sorts resources, which come in the order of files and documents, into kinds.
    pub(crate) fn collect(all: impl IntoIterator<Item = AnyResource>) -> Self {
        let mut resources = Self::default();
        for resource in all {
            match resource {
                AnyResource::Gateway(resource) => resources.gateways.push(resource),
                AnyResource::VirtualService(resource) => resources.virtual_services.push(resource),
                AnyResource::ServiceEntry(resource) => resources.service_entries.push(resource),
                AnyResource::Service(resource) => resources.services.push(resource),
                AnyResource::EndpointSlice(resource) => resources.endpoint_slices.push(resource),
                AnyResource::WasmPlugin(resource) => resources.wasm_plugins.push(resource),
                AnyResource::DestinationRule(resource) => resources.destination_rules.push(resource),
                AnyResource::AuthorizationPolicy(resource) => resources.authorization_policies.push(resource),
                AnyResource::RequestAuthentication(resource) => resources.request_authentications.push(resource),
                AnyResource::Secret(resource) => resources.secrets.push(resource),
                AnyResource::ConfigMap(resource) => resources.config_maps.push(resource),
            }
        }
        by_creation(&mut resources.gateways);
        by_creation(&mut resources.virtual_services);
        by_creation(&mut resources.service_entries);
        by_creation(&mut resources.services);
        by_creation(&mut resources.endpoint_slices);
        by_creation(&mut resources.wasm_plugins);
        by_creation(&mut resources.destination_rules);
        by_creation(&mut resources.authorization_policies);
        by_creation(&mut resources.request_authentications);
        by_creation(&mut resources.secrets);
        by_creation(&mut resources.config_maps);
        resources
    }

    /// Whether some EndpointSlices are others, and everything else is the very same (read from files that did not
    /// change).
    pub(crate) fn differ_in_endpoints_only(&self, before: &Self) -> bool {
        fn same<T>(one: &[Arc<Resource<T>>], other: &[Arc<Resource<T>>]) -> bool {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other))
        }
        !same(&self.endpoint_slices, &before.endpoint_slices)
            && same(&self.gateways, &before.gateways)
            && same(&self.virtual_services, &before.virtual_services)
            && same(&self.service_entries, &before.service_entries)
            && same(&self.services, &before.services)
            && same(&self.wasm_plugins, &before.wasm_plugins)
            && same(&self.destination_rules, &before.destination_rules)
            && same(&self.authorization_policies, &before.authorization_policies)
            && same(&self.request_authentications, &before.request_authentications)
            && same(&self.secrets, &before.secrets)
            && same(&self.config_maps, &before.config_maps)
    }

    /// How many resources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.gateways.len()
            + self.virtual_services.len()
            + self.service_entries.len()
            + self.services.len()
            + self.endpoint_slices.len()
            + self.wasm_plugins.len()
            + self.destination_rules.len()
            + self.authorization_policies.len()
            + self.request_authentications.len()
            + self.secrets.len()
            + self.config_maps.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The sort is stable: resources without a time keep the order of files and documents.
fn by_creation<T>(resources: &mut [Arc<Resource<T>>]) {
    resources.sort_by(|a, b| match (&a.created, &b.created) {
        (Some(one), Some(two)) => (one, &a.name, &a.namespace).cmp(&(two, &b.name, &b.namespace)),
        (one, two) => one.is_none().cmp(&two.is_none()),
    });
}
