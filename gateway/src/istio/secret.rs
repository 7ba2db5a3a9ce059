//! Kubernetes `Secret` and `ConfigMap` (v1). They have no `spec`: their fields stand at the top.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};

use super::{Metadata, Opaque};

/// A whole Secret. Its `Debug` form shows the names of the entries only.
#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Secret {
    /// Name and namespace.
    pub metadata: Metadata,
    /// `kubernetes.io/tls`, `Opaque`, …; not looked at.
    pub r#type: Option<Opaque>,
    /// Entries as base64.
    pub data: BTreeMap<String, Text>,
    /// Entries as they are; they win over `data`.
    pub string_data: BTreeMap<String, Text>,
    /// Not looked at.
    pub immutable: Option<Opaque>,
}

/// A whole ConfigMap.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigMap {
    /// Name and namespace.
    pub metadata: Metadata,
    /// Entries as they are.
    pub data: BTreeMap<String, Text>,
    /// Entries as base64.
    pub binary_data: BTreeMap<String, Text>,
    /// Not looked at.
    pub immutable: Option<Opaque>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.data.keys().chain(self.string_data.keys()).collect();
        f.debug_tuple("Secret").field(&self.metadata.name).field(&names).finish()
    }
}

/// Text that is never shown, not even in the message that it is no text.
#[derive(Clone, Default)]
pub struct Text(pub String);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text(hidden)")
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Hidden)
    }
}

struct Hidden;

/// What serde says by itself names the value.
fn not_text<T, E: de::Error>() -> Result<T, E> {
    Err(E::custom("must be text; put it in quotes"))
}

impl<'de> de::Visitor<'de> for Hidden {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Text, E> {
        not_text()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Text, E> {
        not_text()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Text, E> {
        not_text()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Text, E> {
        not_text()
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Text, A::Error> {
        not_text()
    }

    fn visit_map<A: de::MapAccess<'de>>(self, _: A) -> Result<Text, A::Error> {
        not_text()
    }
}
