//! Whom the gateway may connect to for a module.
//!
//! Whoever may write a plugin resource may not thereby make the gateway ask servers that only it can reach: the metadata
//! service of the cloud, its neighbours on the link, itself. So addresses are judged after names are resolved, for
//! every connection and so for every redirect. Private addresses are allowed, since registries in the cluster have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Servers that operators named in `--insecure-registries`; with `https://` in front those that speak TLS all the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Listed(Vec<String>);

impl Listed {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Whether `host:port` was named, exactly so or its host without a port: it may be on this machine.
    pub(super) fn names(&self, host: &str, port: u16) -> bool {
        self.0.iter().any(|name| is_server(name.strip_prefix("https://").unwrap_or(name), host, port))
    }

    /// Whether it was also named as one that may be spoken to without TLS.
    pub(super) fn plain(&self, host: &str, port: u16) -> bool {
        self.0.iter().any(|name| is_server(name, host, port))
    }
}

fn is_server(name: &str, host: &str, port: u16) -> bool {
    name.eq_ignore_ascii_case(host)
        || name
            .rsplit_once(':')
            .is_some_and(|(name, named_port)| name.eq_ignore_ascii_case(host) && named_port.parse() == Ok(port))
}

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Anywhere in the world.
    Public,
    /// In this network.
    Private,
    /// This machine.
    Loopback,
    /// Nobody that has modules: link-local, metadata services, multicast, what is not assigned.
    Forbidden,
}

/// Judges an address; those of IPv4 that are dressed as IPv6 by what they are.
pub(super) fn reach(address: IpAddr) -> Reach {
    match address.to_canonical() {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Loopback,
        // This network; link-local with the metadata service of most clouds; multicast, reserved, broadcast.
        [0, ..] | [169, 254, ..] | [224..=255, ..] => Reach::Forbidden,
        // The metadata services of Alibaba Cloud, Oracle Cloud (classic) and Azure's wire server.
        [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => Reach::Forbidden,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    // The metadata services of AWS and Google Cloud.
    const METADATA: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
    if address.is_loopback() {
        return Reach::Loopback;
    }
    if METADATA.contains(&address) || address.is_multicast() || address.is_unspecified() {
        return Reach::Forbidden;
    }
    match address.segments() {
        // NAT64, well known and local, and 6to4 carry addresses of IPv4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] | [0x2002, high, low, ..] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            reach_v4(Ipv4Addr::new(a, b, c, d))
        }
        // What once was compatible with IPv4.
        [0, 0, 0, 0, 0, 0, ..] => Reach::Forbidden,
        [0xfe80..=0xfebf, ..] => Reach::Forbidden,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Reach::Private,
        _ => Reach::Public,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn addresses_are_judged_by_what_they_are() {
        for (address, expected) in [
            ("8.8.8.8", Reach::Public),
            ("2606:4700::1111", Reach::Public),
            ("10.1.2.3", Reach::Private),
            ("172.31.0.1", Reach::Private),
            ("172.32.0.1", Reach::Public),
            ("192.168.0.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("fd12::1", Reach::Private),
            ("127.0.0.1", Reach::Loopback),
            ("127.255.0.1", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("64:ff9b::7f00:1", Reach::Loopback),
            ("0.0.0.0", Reach::Forbidden),
            ("::", Reach::Forbidden),
            ("169.254.169.254", Reach::Forbidden),
            ("::ffff:169.254.169.254", Reach::Forbidden),
            ("64:ff9b::a9fe:a9fe", Reach::Forbidden),
            ("2002:a9fe:a9fe::", Reach::Forbidden),
            ("::a9fe:a9fe", Reach::Forbidden),
            ("fe80::1", Reach::Forbidden),
            ("fd00:ec2::254", Reach::Forbidden),
            ("100.100.100.200", Reach::Forbidden),
            ("168.63.129.16", Reach::Forbidden),
            ("224.0.0.1", Reach::Forbidden),
            ("255.255.255.255", Reach::Forbidden),
            ("ff02::1", Reach::Forbidden),
        ] {
            assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn servers_are_listed_by_host_or_host_and_port() {
        let listed = Listed::new(vec!["Registry.local".into(), "localhost:5000".into()]);
        assert!(listed.names("registry.local", 443) && listed.names("localhost", 5000));
        assert!(!listed.names("localhost", 5001) && !listed.names("other.registry.local", 443));
        assert!(!Listed::default().names("localhost", 5000));
        let listed = Listed::new(vec!["https://localhost:5000".into(), "plain.local".into()]);
        assert!(listed.names("localhost", 5000) && !listed.plain("localhost", 5000));
        assert!(listed.names("plain.local", 80) && listed.plain("plain.local", 80));
    }
}
