//! Who this gateway is: for headers, and for plugins that ask.

use std::{net::IpAddr, sync::Arc};

use http::HeaderValue;
use proxy_wasm_host::Node;

use super::Topology;

/// Who this gateway is, for headers.
#[derive(Debug, Default)]
pub struct Identity {
    /// `%HOSTNAME%`
    pub hostname: String,
    /// Address of this pod. Envoy puts it into `x-forwarded-for` for clients on the loopback interface.
    pub instance_ip: Option<IpAddr>,
    /// What stands between clients and us.
    pub topology: Topology,
    /// Who plugins are told that they run in.
    pub node: Arc<Node>,
}

impl Identity {
    /// A gateway of this namespace with these labels. Its pod and workload are those of Istio's environment variables
    /// (`POD_NAME`, `ISTIO_META_…`) if there are any.
    #[must_use]
    pub fn new<'a>(
        hostname: String,
        instance_ip: Option<IpAddr>,
        namespace: &str,
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Self {
        let labels: Vec<_> = labels.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let pod = variable("POD_NAME").unwrap_or_else(|| hostname.clone());
        let ip = instance_ip.map(|ip| ip.to_string()).unwrap_or_default();
        let label = || labels.iter().find(|(key, _)| key == "istio").map(|(_, value)| value.clone());
        let workload = variable("ISTIO_META_WORKLOAD_NAME").or_else(label).unwrap_or_default();
        let metadata = [
            ("NAME", Some(pod.clone())),
            ("NAMESPACE", Some(namespace.to_owned())),
            ("WORKLOAD_NAME", Some(workload.clone())),
            ("CLUSTER_ID", variable("ISTIO_META_CLUSTER_ID")),
            ("MESH_ID", variable("ISTIO_META_MESH_ID")),
            ("INSTANCE_IPS", Some(ip.clone())),
        ];
        let known = metadata.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let node = Node {
            id: format!("router~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            cluster: format!("{workload}.{namespace}"),
            metadata: known.filter(|(_, value)| !value.is_empty()).collect(),
            labels,
        };
        Self { hostname, instance_ip, node: Arc::new(node), ..Self::default() }
    }

    /// A client's address as forwarding headers carry it.
    pub(super) fn forwarded_for(&self, peer: IpAddr) -> HeaderValue {
        let address = match self.instance_ip {
            Some(own) if peer.is_loopback() => own,
            _ => peer.to_canonical(),
        };
        HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    }
}
