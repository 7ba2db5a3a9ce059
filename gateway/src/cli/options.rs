//! Options that `run` and `analyze` share.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::config::{Options, PrivilegedPorts};

/// Which configuration, and who the gateway is.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// File or folder with Istio resources; folders are searched and watched. May be repeated.
    #[arg(short = 'f', long = "filename", env = "GATEWAY_FILENAME", value_delimiter = ',', required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Namespace of the gateway.
    #[arg(long, env = "GATEWAY_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Labels of the gateway, which selectors choose it by.
    #[arg(long, env = "GATEWAY_LABELS", value_delimiter = ',', value_parser = label,
          default_value = "istio=ingressgateway,app=istio-ingressgateway")]
    labels: Vec<(String, String)>,
    /// Namespace whose plugins and policies apply everywhere.
    #[arg(long, env = "GATEWAY_ROOT_NAMESPACE", default_value = "istio-system")]
    root_namespace: String,
    /// Bind ports below 1024 at port + 8000, or as they are.
    #[arg(long, env = "GATEWAY_PRIVILEGED_PORTS", value_enum, default_value_t)]
    privileged_ports: PrivilegedPorts,
    /// Bind a declared port elsewhere: 80=127.0.0.1:8081. May be repeated.
    #[arg(long, env = "GATEWAY_BIND", value_delimiter = ',', value_parser = bind)]
    bind: Vec<(u16, SocketAddr)>,
    /// Serve hosts although a policy for them cannot be enforced in this version.
    #[arg(long, env = "GATEWAY_ALLOW_UNSUPPORTED")]
    allow_unsupported: bool,
}

impl ConfigArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            namespace: self.namespace.clone(),
            labels: self.labels.iter().cloned().collect(),
            root_namespace: self.root_namespace.clone(),
            privileged_ports: self.privileged_ports,
            bind: self.bind.iter().copied().collect(),
            allow_unsupported: self.allow_unsupported,
        }
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn bind(text: &str) -> Result<(u16, SocketAddr), String> {
    let (port, address) = text.split_once('=').ok_or("expected PORT=ADDRESS:PORT, for example 80=127.0.0.1:8081")?;
    Ok((
        port.parse().map_err(|_| format!("{port:?} is not a port"))?,
        address.parse().map_err(|_| format!("{address:?} is not ADDRESS:PORT"))?,
    ))
}
