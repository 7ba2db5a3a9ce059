//! `VirtualService` (networking.istio.io): what happens to requests for a host.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Labels, Opaque};

/// `spec` of a VirtualService.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualService {
    /// Host names; empty only for delegates.
    pub hosts: Vec<String>,
    /// `[namespace/]name` of Gateways; empty: `mesh`, which no ingress gateway serves.
    pub gateways: Vec<String>,
    /// Ordered routes.
    pub http: Vec<HttpRoute>,
    /// Routes for TLS that is passed through.
    pub tls: Vec<Opaque>,
    /// Routes for TCP, and for TLS that ends here and carries something else than HTTP.
    pub tcp: Vec<TcpRoute>,
    /// Namespaces that see this resource; empty: all.
    pub export_to: Vec<String>,
}

/// One entry of `tcp`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpRoute {
    /// Any of these; empty: every connection.
    #[serde(rename = "match")]
    pub matches: Vec<TcpMatch>,
    /// Weighted destinations.
    pub route: Vec<RouteDestination>,
}

/// Conditions on a connection; all of them have to hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpMatch {
    /// Networks of the address that was connected to.
    pub destination_subnets: Vec<String>,
    /// Port in the Gateway.
    pub port: Option<u32>,
    /// Network of the client.
    pub source_subnet: String,
    /// Labels of this gateway.
    pub source_labels: Labels,
    /// Gateways, instead of those of the VirtualService.
    pub gateways: Vec<String>,
    /// Namespace of this gateway.
    pub source_namespace: String,
}

/// One entry of `http`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRoute {
    /// For logs.
    pub name: String,
    /// Any of these; empty: every request.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatch>,
    /// Weighted destinations.
    pub route: Vec<RouteDestination>,
    /// Answer with a redirect.
    pub redirect: Option<Redirect>,
    /// Answer with a fixed response.
    pub direct_response: Option<DirectResponse>,
    /// Routes of another VirtualService.
    pub delegate: Option<Delegate>,
    /// Change path and host on the way upstream.
    pub rewrite: Option<Rewrite>,
    /// Limit for the whole request, a duration such as `3s`.
    pub timeout: Option<String>,
    /// Retry policy.
    pub retries: Option<Retries>,
    /// Delays and aborts for tests.
    pub fault: Option<Opaque>,
    /// Shadow destination.
    pub mirror: Option<Opaque>,
    /// Shadow destinations.
    pub mirrors: Vec<Opaque>,
    /// Deprecated.
    #[serde(alias = "mirror_percent")]
    pub mirror_percent: Option<Opaque>,
    /// Share of requests that is mirrored.
    pub mirror_percentage: Option<Opaque>,
    /// Cross-origin rules.
    pub cors_policy: Option<Opaque>,
    /// Header edits.
    pub headers: Headers,
}

/// One match block: all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatch {
    /// For logs.
    pub name: String,
    /// Path without query.
    pub uri: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// Method.
    pub method: Option<StringMatch>,
    /// Host with its port, if the client sent one.
    pub authority: Option<StringMatch>,
    /// Headers that must match; an empty condition: present.
    pub headers: BTreeMap<String, StringMatch>,
    /// Declared port of the Gateway's server.
    pub port: Option<u32>,
    /// Labels of the gateway.
    pub source_labels: Labels,
    /// Gateways this block is for; overrides the list of the VirtualService.
    pub gateways: Vec<String>,
    /// Query parameters that must match, undecoded.
    pub query_params: BTreeMap<String, StringMatch>,
    /// Compare `uri.exact` and `uri.prefix` without regard to case.
    pub ignore_uri_case: bool,
    /// Headers that must not match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Namespace of the gateway.
    pub source_namespace: String,
    /// Statistics per route.
    pub stat_prefix: String,
}

/// At most one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StringMatch {
    /// Equal.
    pub exact: Option<String>,
    /// Starts with.
    pub prefix: Option<String>,
    /// Matches as a whole, RE2 syntax.
    pub regex: Option<String>,
}

/// A destination with its share.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteDestination {
    /// Where to.
    pub destination: Destination,
    /// Relative weight.
    pub weight: i64,
    /// Header edits for this destination.
    pub headers: Headers,
}

/// A service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Destination {
    /// Host of a ServiceEntry or name of a Service.
    pub host: String,
    /// Named subset of a DestinationRule.
    pub subset: String,
    /// Port; may be left out if the service has only one.
    pub port: Option<PortSelector>,
}

/// A port by number.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortSelector {
    /// 1-65535.
    pub number: u32,
}

/// Edits of request and response heads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Headers {
    /// On the way upstream.
    pub request: HeaderEdits,
    /// On the way back.
    pub response: HeaderEdits,
}

/// Edits of one head.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderEdits {
    /// Overwrite.
    pub set: BTreeMap<String, String>,
    /// Append.
    pub add: BTreeMap<String, String>,
    /// Remove.
    pub remove: Vec<String>,
}

/// When a request is sent again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Retries {
    /// Attempts after the first; 0, also unset: none.
    pub attempts: i64,
    /// Limit for one attempt, a duration such as `500ms`.
    pub per_try_timeout: Option<String>,
    /// Reasons, with commas between; numbers are status codes. Empty: Istio's defaults.
    pub retry_on: String,
    /// Endpoints in other localities.
    pub retry_remote_localities: Option<bool>,
    /// Avoid endpoints that have been tried; unset: yes.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Base of the pause between attempts, a duration; unset: 25ms.
    pub backoff: Option<String>,
}

/// A redirect.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Redirect {
    /// New path.
    pub uri: String,
    /// Replaces the matched prefix only.
    pub prefix_rewrite: Option<String>,
    /// New host.
    pub authority: String,
    /// Port in the location.
    pub port: Option<u32>,
    /// FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT.
    pub derive_port: Option<String>,
    /// New scheme.
    pub scheme: String,
    /// 301 if unset.
    pub redirect_code: Option<u32>,
}

/// A fixed response.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DirectResponse {
    /// Status code.
    pub status: u32,
    /// Body.
    pub body: Option<Body>,
}

/// At most one of the two.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Body {
    /// Text.
    pub string: Option<String>,
    /// Base64.
    pub bytes: Option<String>,
}

/// Another VirtualService.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Delegate {
    /// Its name.
    pub name: String,
    /// Its namespace; empty: the same.
    pub namespace: String,
}

/// Changes of path and host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rewrite {
    /// New path, or what replaces the matched prefix.
    pub uri: String,
    /// New host.
    pub authority: String,
    /// Replacement by pattern.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// Replacement by pattern.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegexRewrite {
    /// RE2 pattern, searched in the path.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Substitution with `\1` groups.
    pub rewrite: String,
}
