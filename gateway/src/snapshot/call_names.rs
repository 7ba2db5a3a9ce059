//! The names by which plugins call services: those of Istio's clusters, and hosts.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use super::{Cluster, ClusterId};

/// Which cluster a plugin means.
///
/// | name | cluster |
/// |---|---|
/// | `outbound\|80\|\|HOST`, `outbound\|80\|v1\|HOST` | that one, as Istio names it |
/// | `HOST:80`, `http://HOST:80` | the service port |
/// | `http://HOST`, `https://HOST` | port 80, port 443 |
/// | `HOST` | port 80, else the first that the service declares |
///
/// A host without a dot is a service of the gateway's namespace. What is not among the services is unknown: a plugin
/// cannot reach addresses that nobody has declared.
#[derive(Debug, Default)]
pub struct CallNames {
    clusters: Vec<Arc<Cluster>>,
    namespace: String,
    /// Made when a plugin first calls.
    index: OnceLock<Index>,
}

#[derive(Debug, Default)]
struct Index {
    by_name: HashMap<Arc<str>, ClusterId>,
    by_host: HashMap<Arc<str>, Vec<(u16, ClusterId)>>,
}

impl CallNames {
    /// The names of these clusters, as a gateway of this namespace sees them.
    #[must_use]
    pub fn new(clusters: Vec<Arc<Cluster>>, namespace: &str) -> Self {
        Self { clusters, namespace: namespace.to_owned(), index: OnceLock::new() }
    }

    /// The cluster that is meant, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<ClusterId> {
        let index = self.index.get_or_init(|| Index::new(&self.clusters));
        if let Some(found) = index.by_name.get(name) {
            return Some(*found);
        }
        let (rest, default) = match name.split_once("://") {
            None => (name, None),
            Some(("http", rest)) => (rest, Some(80)),
            Some(("https", rest)) => (rest, Some(443)),
            Some(_) => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (rest, default),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let ports = index.by_host.get(host.as_str()).or_else(|| {
            let qualified = format!("{host}.{}.svc.cluster.local", self.namespace);
            index.by_host.get(qualified.as_str()).filter(|_| !host.contains('.'))
        })?;
        let of_port = |wanted| ports.iter().find(|(number, _)| *number == wanted);
        let found = match port {
            Some(port) => of_port(port),
            None => of_port(80).or_else(|| ports.first()),
        };
        found.map(|(_, id)| *id)
    }
}

impl Index {
    fn new(clusters: &[Arc<Cluster>]) -> Self {
        let mut index = Self::default();
        for (id, cluster) in (0..).zip(clusters) {
            index.by_name.entry(Arc::clone(&cluster.name)).or_insert(id);
            // Not its subsets, which have the same host and port.
            if cluster.name.split('|').nth(2) == Some("") {
                index.by_host.entry(Arc::clone(&cluster.host)).or_default().push((cluster.port, id));
            }
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_as_clusters_and_by_host() {
        let cluster = |subset: &str, port: u16, host: &str| {
            let name = format!("outbound|{port}|{subset}|{host}").into();
            Arc::new(Cluster { name, port, host: host.into(), ..Cluster::default() })
        };
        let names = CallNames::new(
            vec![
                cluster("", 8080, "auth.default.svc.cluster.local"),
                cluster("", 80, "auth.default.svc.cluster.local"),
                cluster("v1", 80, "auth.default.svc.cluster.local"),
                cluster("", 443, "api.example.com"),
            ],
            "default",
        );
        for (name, found) in [
            ("outbound|80||auth.default.svc.cluster.local", Some(1)),
            ("outbound|80|v1|auth.default.svc.cluster.local", Some(2)),
            ("outbound|81||auth.default.svc.cluster.local", None),
            ("auth.default.svc.cluster.local", Some(1)),
            ("auth.default.svc.cluster.local:8080", Some(0)),
            ("auth", Some(1)),
            ("AUTH:8080", Some(0)),
            ("auth:81", None),
            ("http://auth/", Some(1)),
            ("https://auth", None),
            ("https://api.example.com", Some(3)),
            ("http://api.example.com", None),
            ("api.example.com.", Some(3)),
            ("api.example.com:port", None),
            ("http://api.example.com:443/path", None),
            ("ftp://api.example.com", None),
            ("169.254.169.254", None),
            ("127.0.0.1:15000", None),
            ("", None),
        ] {
            assert_eq!(names.find(name), found, "{name}");
        }
    }
}
