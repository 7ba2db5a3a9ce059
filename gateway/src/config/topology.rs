//! MeshConfig's `defaultConfig.gatewayTopology`: what stands between clients and the gateway. Istio's annotation
//! `proxy.istio.io/config`, which says the same of one pod, is not read.

use super::yaml::Value;

/// Where it stands in MeshConfig.
pub(super) const FIELD: &str = "defaultConfig.gatewayTopology";

/// What stands in front.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GatewayTopology {
    /// `numTrustedProxies`: proxies in front whose `x-forwarded-for` and `x-forwarded-proto` are believed.
    pub num_trusted_proxies: u32,
    /// `forwardClientCertDetails`
    pub forward_client_cert: ForwardClientCert,
    /// `proxyProtocol` is set: connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
}

/// What happens to `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardClientCert {
    /// `UNDEFINED` and `SANITIZE_SET`, which is Istio's default for gateways.
    #[default]
    SanitizeSet,
    /// `SANITIZE`
    Sanitize,
    /// `FORWARD_ONLY`
    ForwardOnly,
    /// `APPEND_FORWARD`
    AppendForward,
    /// `ALWAYS_FORWARD_ONLY`
    AlwaysForwardOnly,
}

impl GatewayTopology {
    /// `place` gives the line and the full name of a field, for messages.
    pub(super) fn parse(value: &Value, place: impl Fn(&str) -> (usize, String)) -> Result<Self, (usize, String)> {
        let wrong = |field: &str, right: &str| {
            let (line, name) = place(field);
            Err((line, format!("{name} must be {right}")))
        };
        if value.as_mapping().is_none() {
            return wrong("numTrustedProxies", "inside a mapping such as `{numTrustedProxies: 1}`");
        }
        let given = |field: &str| value.get(field).filter(|value| !matches!(value, Value::Null));
        let num_trusted_proxies = match given("numTrustedProxies") {
            None => 0,
            Some(number) => match number.as_u64().and_then(|number| u32::try_from(number).ok()) {
                Some(number) => number,
                None => return wrong("numTrustedProxies", "a number from 0 to 4294967295"),
            },
        };
        let forward_client_cert = match given("forwardClientCertDetails").map(|value| value.as_str()) {
            None | Some(Some("UNDEFINED" | "SANITIZE_SET")) => ForwardClientCert::SanitizeSet,
            Some(Some("SANITIZE")) => ForwardClientCert::Sanitize,
            Some(Some("FORWARD_ONLY")) => ForwardClientCert::ForwardOnly,
            Some(Some("APPEND_FORWARD")) => ForwardClientCert::AppendForward,
            Some(Some("ALWAYS_FORWARD_ONLY")) => ForwardClientCert::AlwaysForwardOnly,
            Some(_) => {
                let known = "SANITIZE, FORWARD_ONLY, APPEND_FORWARD, SANITIZE_SET or ALWAYS_FORWARD_ONLY";
                return wrong("forwardClientCertDetails", known);
            }
        };
        let proxy_protocol = match given("proxyProtocol") {
            None => false,
            Some(value) if value.as_mapping().is_some() => true,
            Some(_) => return wrong("proxyProtocol", "`{}`, which turns it on"),
        };
        Ok(Self { num_trusted_proxies, forward_client_cert, proxy_protocol })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::yaml;

    fn of(topology: &str) -> Result<GatewayTopology, (usize, String)> {
        let document = yaml::documents(topology).into_iter().next().unwrap().unwrap();
        GatewayTopology::parse(&document.value, |field| (1, format!("{FIELD}.{field}")))
    }

    #[test]
    fn what_stands_in_front_is_read() {
        assert_eq!(of("{}"), Ok(GatewayTopology::default()));
        assert_eq!(
            of("{numTrustedProxies: 2, proxyProtocol: {}, forwardClientCertDetails: ALWAYS_FORWARD_ONLY}"),
            Ok(GatewayTopology {
                num_trusted_proxies: 2,
                proxy_protocol: true,
                forward_client_cert: ForwardClientCert::AlwaysForwardOnly
            })
        );
        for (bad, said) in [
            ("[]", "mapping"),
            ("{numTrustedProxies: -1}", "numTrustedProxies must"),
            ("{numTrustedProxies: '1'}", "numTrustedProxies must"),
            ("{proxyProtocol: true}", "proxyProtocol must"),
            ("{forwardClientCertDetails: ALL}", "SANITIZE_SET"),
        ] {
            assert!(of(bad).unwrap_err().1.contains(said), "{bad}");
        }
    }
}
