//! Options about configuration, which `run` and `analyze` share.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use crate::{
    config::{Options, PrivilegedPorts},
    istio::Labels,
};

/// What is read, and who this gateway is.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct ConfigArgs {
    /// File or folder with Istio resources; folders are searched for .yaml, .yml and .json, with all
    /// folders below. May be repeated.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "DIR|FILE",
        env = "GATEWAY_FILENAME",
        value_delimiter = ',',
        required = true
    )]
    pub(super) files: Vec<PathBuf>,

    /// Namespace of this gateway: what exportTo, plugins and policies are tested against.
    #[arg(long, env = "GATEWAY_NAMESPACE", default_value = "default", value_parser = namespace)]
    namespace: String,

    /// Labels of this gateway: what Gateways and plugins select.
    #[arg(
        long,
        env = "GATEWAY_LABELS",
        value_name = "NAME=VALUE,…",
        default_value = "istio=ingressgateway,app=istio-ingressgateway",
        value_parser = labels
    )]
    labels: Labels,

    /// Namespace whose plugins and policies apply to every gateway.
    #[arg(long, env = "GATEWAY_ROOT_NAMESPACE", default_value = "istio-system", value_parser = namespace)]
    root_namespace: String,

    /// What happens to ports below 1024: bind them at port + 8000, or as they are.
    #[arg(long, env = "GATEWAY_PRIVILEGED_PORTS", value_enum, default_value_t)]
    privileged_ports: PrivilegedPorts,

    /// Bind a port of a Gateway to this address instead; port 0 lets the system choose. May be repeated.
    #[arg(long, env = "GATEWAY_BIND", value_name = "PORT=ADDRESS", value_delimiter = ',', value_parser = bind)]
    bind: Vec<(u16, SocketAddr)>,

    /// Serve hosts although a policy for them cannot be enforced by this version.
    #[arg(long, env = "GATEWAY_ALLOW_UNSUPPORTED")]
    allow_unsupported: bool,

    /// Look destinations up in DNS that are neither a ServiceEntry nor a Service. Addresses of this host, link-local
    /// and metadata addresses are never used.
    #[arg(long, env = "GATEWAY_RESOLVE_UNKNOWN_HOSTS")]
    resolve_unknown_hosts: bool,
}

impl ConfigArgs {
    /// As the control side needs them.
    pub(super) fn options(&self) -> Options {
        Options {
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            root_namespace: self.root_namespace.clone(),
            privileged_ports: self.privileged_ports,
            bind: self.bind.iter().copied().collect::<BTreeMap<_, _>>(),
            allow_unsupported: self.allow_unsupported,
            resolve_unknown_hosts: self.resolve_unknown_hosts,
        }
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let good = (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    good.then(|| text.to_owned()).ok_or_else(|| "must be lower-case letters, digits and '-'".to_owned())
}

fn labels(text: &str) -> Result<Labels, String> {
    text.split(',')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("{pair:?} is not NAME=VALUE")),
        })
        .collect()
}

fn bind(text: &str) -> Result<(u16, SocketAddr), String> {
    let usage = || format!("{text:?} is not PORT=ADDRESS, for example 80=127.0.0.1:8080");
    let (port, address) = text.split_once('=').ok_or_else(usage)?;
    Ok((port.parse().map_err(|_| usage())?, address.parse().map_err(|_| usage())?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        config: ConfigArgs,
    }

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let all = ["gateway", "-f", "x"].iter().chain(arguments);
        Command::try_parse_from(all).map(|command| command.config.options()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_control_side() {
        assert_eq!(parse(&[]), Ok(Options::default()));
    }

    #[test]
    fn options_are_read() {
        let options = parse(&[
            "--namespace=gw",
            "--labels=a=b,c=",
            "--bind=80=127.0.0.1:0",
            "--bind=443=[::1]:8443",
            "--privileged-ports=bind",
            "--allow-unsupported",
            "--resolve-unknown-hosts",
        ])
        .unwrap();
        assert_eq!(options.labels, labels("a=b,c=").unwrap());
        assert_eq!(options.bind.get(&443), Some(&"[::1]:8443".parse().unwrap()));
        assert_eq!((options.privileged_ports, options.allow_unsupported), (PrivilegedPorts::Bind, true));
        assert!(options.resolve_unknown_hosts);
        assert!(Command::try_parse_from(["gateway"]).is_err());
        for bad in ["--namespace=A", "--labels=a", "--bind=80", "--bind=x=127.0.0.1:1", "--privileged-ports=maybe"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
