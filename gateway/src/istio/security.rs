//! Security policies (security.istio.io), read only to know which hosts must not be served without them.

use serde::Deserialize;

use super::{LabelSelector, Opaque, TargetRef};

/// `spec` of an AuthorizationPolicy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// Workloads it protects; unset: all of the namespace.
    pub selector: Option<LabelSelector>,
    /// Superseded by `targetRefs`.
    pub target_ref: Option<TargetRef>,
    /// Kubernetes Gateway API objects it protects.
    pub target_refs: Vec<TargetRef>,
    /// ALLOW (default), DENY, AUDIT or CUSTOM.
    pub action: Option<String>,
    /// Any of these.
    pub rules: Vec<AuthorizationRule>,
}

/// One rule.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Who; not looked into.
    pub from: Vec<Opaque>,
    /// What; empty: everything.
    pub to: Vec<AuthorizationTo>,
    /// Under which conditions; not looked into.
    pub when: Vec<Opaque>,
}

/// One entry of `to`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationTo {
    /// The operation.
    pub operation: AuthorizationOperation,
}

/// An operation; only the hosts matter here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationOperation {
    /// Host patterns; empty: any.
    pub hosts: Vec<String>,
}

/// `spec` of a RequestAuthentication.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestAuthentication {
    /// Workloads it applies to; unset: all of the namespace.
    pub selector: Option<LabelSelector>,
    /// Superseded by `targetRefs`.
    pub target_ref: Option<TargetRef>,
    /// Kubernetes Gateway API objects it applies to.
    pub target_refs: Vec<TargetRef>,
    /// Whose tokens are accepted; not looked into.
    pub jwt_rules: Vec<Opaque>,
}
