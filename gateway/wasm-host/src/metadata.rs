//! Metadata of routes and clusters: what their configuration says about them, by whom it is meant for. Istio says where they
//! come from under the name `istio`.
//!
//! Plugins see it as Envoy shows it: a part of it in the form of all properties (texts as they are, maps as pairs, lists as
//! pairs without values), all of it as the message `envoy.config.core.v3.Metadata` in protobuf.

use smallvec::SmallVec;

use crate::host::property::{Value, blob};

/// `filter_metadata`: maps by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(String, MetadataValue)>);

/// A value in metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataValue {
    /// A text.
    Text(String),
    /// Values by name.
    Map(Vec<(String, MetadataValue)>),
    /// Values by number.
    List(Vec<MetadataValue>),
}

impl Metadata {
    /// What is meant for `name`.
    pub fn of(name: &str, fields: Vec<(String, MetadataValue)>) -> Self {
        Self(vec![(name.to_owned(), MetadataValue::Map(fields))])
    }

    /// The value at a path below `filter_metadata`, in the form of properties.
    pub(crate) fn encoded(&self, path: &[&[u8]]) -> Option<Value> {
        let Some((name, rest)) = path.split_first() else { return Some(map(&self.0)) };
        get(&self.0, name)?.at(rest).map(MetadataValue::encoded)
    }

    /// All of it, as a message in protobuf. `filter_metadata` is its field 1.
    pub(crate) fn message(&self) -> Value {
        let mut out = Value::new();
        for (name, value) in &self.0 {
            let MetadataValue::Map(fields) = value else { continue };
            field(1, &entry(name, &structure(fields)), &mut out);
        }
        out
    }
}

impl MetadataValue {
    fn at(&self, path: &[&[u8]]) -> Option<&Self> {
        let Some((name, rest)) = path.split_first() else { return Some(self) };
        let value = match self {
            Self::Text(_) => None,
            Self::Map(fields) => get(fields, name),
            Self::List(items) => items.get(std::str::from_utf8(name).ok()?.parse::<usize>().ok()?),
        };
        value?.at(rest)
    }

    fn encoded(&self) -> Value {
        match self {
            Self::Text(text) => SmallVec::from_slice(text.as_bytes()),
            Self::Map(fields) => map(fields),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::encoded).collect();
                blob(|| items.iter().map(|item| (&item[..], &b""[..])))
            }
        }
    }

    /// `google.protobuf.Value`: `string_value` is field 3, `struct_value` 5, `list_value` 6.
    fn message(&self) -> Value {
        let mut out = Value::new();
        match self {
            Self::Text(text) => field(3, text.as_bytes(), &mut out),
            Self::Map(fields) => field(5, &structure(fields), &mut out),
            Self::List(items) => {
                let mut list = Value::new();
                items.iter().for_each(|item| field(1, &item.message(), &mut list));
                field(6, &list, &mut out);
            }
        }
        out
    }
}

fn get<'a>(fields: &'a [(String, MetadataValue)], name: &[u8]) -> Option<&'a MetadataValue> {
    fields.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, value)| value)
}

fn map(fields: &[(String, MetadataValue)]) -> Value {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.encoded())).collect();
    blob(|| fields.iter().map(|(name, value)| (*name, &value[..])))
}

/// `google.protobuf.Struct`: entries of a map from names to values.
fn structure(fields: &[(String, MetadataValue)]) -> Value {
    let mut out = Value::new();
    fields.iter().for_each(|(name, value)| field(1, &entry(name, &value.message()), &mut out));
    out
}

/// An entry of a map: the key is field 1, the value 2.
fn entry(name: &str, value: &[u8]) -> Value {
    let mut out = Value::new();
    field(1, name.as_bytes(), &mut out);
    field(2, value, &mut out);
    out
}

/// A field of protobuf that has a length.
fn field(number: u8, bytes: &[u8], out: &mut Value) {
    out.push((number << 3) | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn text(text: &str) -> MetadataValue {
        MetadataValue::Text(text.to_owned())
    }

    fn fields(list: &[(&str, &str)]) -> Vec<(String, MetadataValue)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect()
    }

    /// The bytes that a plugin read in Envoy 1.40 for the same metadata.
    #[test]
    fn plugins_read_what_envoy_shows() {
        let config = "/apis/networking.istio.io/v1/namespaces/default/virtual-service/a";
        let route = Metadata::of("istio", fields(&[("config", config)]));
        assert_eq!(
            hex(&route.message()),
            "0a580a05697374696f124f0a4d0a06636f6e66696712431a412f617069732f6e6574776f726b696e672e697374696f2e696f2f\
             76312f6e616d657370616365732f64656661756c742f7669727475616c2d736572766963652f61"
        );
        let read = |metadata: &Metadata, path: &[&str]| {
            let path: Vec<_> = path.iter().map(|segment| segment.as_bytes()).collect();
            metadata.encoded(&path).map(|value| hex(&value))
        };
        assert_eq!(
            read(&route, &[]).as_deref(),
            Some(
                "010000000500000055000000697374696f00010000000600000041000000636f6e666967002f617069732f6e6574776f726b696e\
                 672e697374696f2e696f2f76312f6e616d657370616365732f64656661756c742f7669727475616c2d736572766963652f610000"
            )
        );
        assert_eq!(read(&route, &["istio", "config"]), Some(hex(config.as_bytes())));
        for absent in [&["none"][..], &["istio", "none"], &["istio", "config", "more"]] {
            assert_eq!(read(&route, absent), None, "{absent:?}");
        }

        let service = MetadataValue::Map(fields(&[("name", "a"), ("namespace", "b"), ("host", "a.b")]));
        let list = vec![("services".to_owned(), MetadataValue::List(vec![service]))];
        let cluster = Metadata::of("istio", list);
        assert_eq!(
            read(&cluster, &["istio", "services"]).as_deref(),
            Some(
                "010000003800000000000000030000000400000001000000090000000100000004000000030000006e616d650061006e616d6573\
                 70616365006200686f737400612e62000000"
            )
        );
        assert_eq!(read(&cluster, &["istio", "services", "0", "host"]).as_deref(), Some("612e62"));
        assert_eq!(read(&cluster, &["istio", "services", "1"]), None);
        assert!(hex(&cluster.message()).ends_with(
            "0a400a087365727669636573123432320a302a2e0a0b0a046e616d6512031a01610a100a096e616d65737061636512031a01620a0d0a\
             04686f737412051a03612e62"
        ));
        let empty = Metadata::default();
        assert_eq!((hex(&empty.message()), read(&empty, &[])), (String::new(), Some("00000000".to_owned())));
    }
}
