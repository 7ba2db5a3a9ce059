//! Who this gateway is: what selectors, `exportTo` and ports are decided by.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::istio::Labels;

/// Everything besides resources that decides what is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Namespace of the gateway; what `exportTo` is tested against. Default `default`.
    pub namespace: String,
    /// Labels of the gateway, which Gateways and plugins select. Default `istio=ingressgateway`,
    /// `app=istio-ingressgateway`.
    pub labels: Labels,
    /// Namespace whose plugins and policies apply everywhere. Default `istio-system`.
    pub root_namespace: String,
    /// What happens to ports below 1024. Default [`PrivilegedPorts::Offset`].
    pub privileged_ports: PrivilegedPorts,
    /// Declared port → address, instead of what would follow from the other options. Default empty.
    pub bind: BTreeMap<u16, SocketAddr>,
    /// Serve hosts although a policy for them cannot be enforced. Default `false`.
    pub allow_unsupported: bool,
    /// Look destinations up in DNS that are no service, instead of answering 503. Default `false`.
    pub resolve_unknown_hosts: bool,
}

/// What happens to declared ports below 1024, which only root may bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PrivilegedPorts {
    /// They are bound at port + 8000: 80 at 8080, 443 at 8443.
    #[default]
    Offset,
    /// They are bound as they are.
    Bind,
}

impl Default for Options {
    fn default() -> Self {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            namespace: "default".to_owned(),
            labels: [label("istio", "ingressgateway"), label("app", "istio-ingressgateway")].into(),
            root_namespace: "istio-system".to_owned(),
            privileged_ports: PrivilegedPorts::default(),
            bind: BTreeMap::new(),
            allow_unsupported: false,
            resolve_unknown_hosts: false,
        }
    }
}

impl Options {
    /// Whether a selector chooses this gateway; an empty one chooses every gateway.
    pub(crate) fn selected_by(&self, selector: &Labels) -> bool {
        selector.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }

    /// Whether a resource of `namespace` is exported to this gateway. An empty list exports to all.
    pub(crate) fn sees(&self, export_to: &[String], namespace: &str) -> bool {
        export_to.is_empty()
            || export_to.iter().any(|target| match target.as_str() {
                "*" => true,
                "." => namespace == self.namespace,
                name => name == self.namespace,
            })
    }
}
