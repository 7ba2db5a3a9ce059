//! What every Kubernetes object has around its `spec`.

use serde::Deserialize;

use super::{Labels, Opaque};

/// A whole object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Object<T> {
    /// `group/version`, or `v1` for Kubernetes' core kinds.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: Metadata,
    /// What the object says.
    pub spec: T,
    /// Written by controllers; never read.
    pub status: Option<Opaque>,
}

/// `metadata`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Unique among the kind in its namespace.
    pub name: String,
    /// Empty in a file: `default`.
    pub namespace: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// RFC 3339 time, written by the Kubernetes API server.
    pub creation_timestamp: Option<String>,
    /// Not read.
    pub deletion_grace_period_seconds: Option<Opaque>,
    /// Not read.
    pub deletion_timestamp: Option<Opaque>,
    /// Not read.
    pub finalizers: Option<Opaque>,
    /// Not read: there is no API server that would generate a name.
    pub generate_name: Option<Opaque>,
    /// Not read.
    pub generation: Option<Opaque>,
    /// Not read.
    pub managed_fields: Option<Opaque>,
    /// Not read.
    pub owner_references: Option<Opaque>,
    /// Not read.
    pub resource_version: Option<Opaque>,
    /// Not read.
    pub self_link: Option<Opaque>,
    /// Not read.
    pub uid: Option<Opaque>,
}
