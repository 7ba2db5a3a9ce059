//! YAML values → the types of `istio`, with every problem named by its path.
//!
//! A serde deserializer of our own, because of three things operators need: the path of what is wrong,
//! *all* that is wrong (after a mistake the value is left out and decoding starts again), and fields that
//! do not exist, with the name that was probably meant. `null` counts as absent, as in Kubernetes.

use std::{borrow::Cow, cell::RefCell, collections::HashSet, fmt, iter::Enumerate, slice};

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Unexpected, Visitor,
    value::StrDeserializer,
};

use super::{
    path::Path,
    yaml::{Entries, Value},
};

/// After so many mistakes in one document the rest is not looked for.
const MAX_MISTAKES: usize = 20;

/// What decoding found.
#[derive(Debug)]
pub(crate) struct Decoded<T> {
    /// The value; if there are mistakes, without the parts they are in. `None` if nothing can be made of it.
    pub(crate) value: Option<T>,
    /// Values of the wrong type: path and message.
    pub(crate) mistakes: Vec<(String, String)>,
    /// Fields that do not exist: path and the name that was probably meant.
    pub(crate) unknown: Vec<(String, Option<&'static str>)>,
}

/// Decodes a document.
pub(crate) fn decode<T: DeserializeOwned>(value: &Value) -> Decoded<T> {
    let mut state = State::default();
    let mut mistakes = Vec::new();
    loop {
        state.unknown.borrow_mut().clear();
        match T::deserialize(Node { value, path: Path::Root, state: &state }) {
            Ok(value) => return Decoded { value: Some(value), mistakes, unknown: state.unknown.into_inner() },
            Err(Mistake { path, message }) => {
                let path = path.unwrap_or_default();
                mistakes.push((path.clone(), message));
                let hopeless = path.is_empty() || mistakes.len() == MAX_MISTAKES || !state.left_out.insert(path);
                if hopeless {
                    return Decoded { value: None, mistakes, unknown: state.unknown.into_inner() };
                }
            }
        }
    }
}

/// What one document needs while it is decoded.
#[derive(Debug, Default)]
struct State {
    /// Paths of mistakes that are already known.
    left_out: HashSet<String>,
    unknown: RefCell<Vec<(String, Option<&'static str>)>>,
}

impl State {
    fn leaves_out(&self, path: &Path<'_>) -> bool {
        !self.left_out.is_empty() && self.left_out.contains(&path.to_string())
    }
}

/// A value of the wrong type.
#[derive(Debug)]
struct Mistake {
    path: Option<String>,
    message: String,
}

impl Mistake {
    fn at(mut self, path: &Path<'_>) -> Self {
        self.path.get_or_insert_with(|| path.to_string());
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mistake {}

impl de::Error for Mistake {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: None, message: message.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        Self::custom(match found {
            Unexpected::Bool(_) | Unexpected::Signed(_) | Unexpected::Unsigned(_) | Unexpected::Float(_)
                if expected == "a string" =>
            {
                format_args!("expected a string, found {found}; put it in quotes").to_string()
            }
            Unexpected::Map => format!("expected {}, found a mapping", plain(&expected)),
            Unexpected::Seq => format!("expected {}, found a list", plain(&expected)),
            _ => format!("expected {}, found {found}", plain(&expected)),
        })
    }
}

/// Rust's names of what is expected in the words of YAML.
fn plain(expected: &str) -> &str {
    match expected {
        text if text.starts_with("struct ") || text == "a map" => "a mapping",
        "a sequence" => "a list",
        "u16" | "u32" | "u64" => "a number",
        "i32" | "i64" => "a whole number",
        "a boolean" => "true or false",
        text => text,
    }
}

/// A value and where it stands.
#[derive(Clone, Copy)]
struct Node<'a> {
    value: &'a Value,
    path: Path<'a>,
    state: &'a State,
}

impl Node<'_> {
    /// Visits whatever the value is. `names` are the fields of a struct.
    fn visit<'de, V: Visitor<'de>>(
        self,
        names: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match self.value {
            // A struct without contents: all of it is default.
            Value::Null if names.is_some() => {
                visitor.visit_map(Fields { entries: None, current: None, names, node: self })
            }
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, value) => visitor.visit_f64(value.unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Sequence(items) if names.is_none() => {
                visitor.visit_seq(Items { items: items.iter().enumerate(), node: self })
            }
            Value::Mapping(entries) => {
                visitor.visit_map(Fields { entries: Some(entries.iter()), current: None, names, node: self })
            }
            Value::Sequence(_) => Err(Mistake::invalid_type(Unexpected::Seq, &visitor)),
            Value::Tagged(tagged) => {
                Err(Mistake::custom(format_args!("YAML tags such as {} have no meaning here", tagged.tag)))
            }
        }
        .map_err(|mistake| mistake.at(&self.path))
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.visit(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.visit(Some(fields), visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map enum identifier
    }
}

/// The fields of a mapping or struct.
struct Fields<'a> {
    entries: Option<Entries<'a>>,
    current: Option<(Cow<'a, str>, &'a Value)>,
    /// The names that a struct has; `None` for a map.
    names: Option<&'static [&'static str]>,
    node: Node<'a>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        while let Some((key, value)) = self.entries.as_mut().and_then(Iterator::next) {
            let key = match key {
                Value::String(text) => Cow::Borrowed(text.as_str()),
                Value::Number(number) => Cow::Owned(number.to_string()),
                Value::Bool(value) => Cow::Owned(value.to_string()),
                _ => return Err(Mistake::custom("names of fields must be text").at(&self.node.path)),
            };
            let path = self.node.path.key(&key);
            if let Some(names) = self.names {
                if !names.contains(&key.as_ref()) {
                    self.node.state.unknown.borrow_mut().push((path.to_string(), nearest(&key, names)));
                    continue;
                }
                if value.is_null() {
                    continue;
                }
            }
            if self.node.state.leaves_out(&path) {
                continue;
            }
            let found = seed.deserialize(StrDeserializer::<Mistake>::new(&key)).map(Some);
            self.current = Some((key, value));
            return found;
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let Some((key, value)) = self.current.take() else {
            return Err(Mistake::custom("a value without a name").at(&self.node.path));
        };
        let path = self.node.path.key(&key);
        seed.deserialize(Node { value, path, state: self.node.state }).map_err(|mistake| mistake.at(&path))
    }
}

/// The elements of a sequence.
struct Items<'a> {
    items: Enumerate<slice::Iter<'a, Value>>,
    node: Node<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mistake> {
        for (position, value) in self.items.by_ref() {
            let path = self.node.path.index(position);
            if self.node.state.leaves_out(&path) {
                continue;
            }
            let found = seed.deserialize(Node { value, path, state: self.node.state });
            return found.map(Some).map_err(|mistake| mistake.at(&path));
        }
        Ok(None)
    }
}

/// The name that was probably meant: at most two characters away, and less than half of it.
fn nearest(name: &str, names: &[&'static str]) -> Option<&'static str> {
    if name.len() > 40 {
        return None;
    }
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let wanted = plain(name);
    names
        .iter()
        .map(|candidate| (distance(&wanted, &plain(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= 2 && *distance * 2 < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{config::yaml, istio};

    fn read<T: DeserializeOwned>(text: &str) -> Decoded<T> {
        decode(&yaml::documents(text).remove(0).unwrap().value)
    }

    #[test]
    fn every_mistake_is_named() {
        let decoded: Decoded<istio::Object<istio::VirtualService>> = read(
            "metadata: {name: a}\nspec:\n  hosts: a.com\n  gateways: [gw, 7]\n  http:\n  - timeout: 5\n    match: {uri: x}\n  - route:\n    - destination: {host: a, port: {number: eighty}}\n      weight: '10'\n",
        );
        let found: Vec<String> = decoded.mistakes.iter().map(|(path, message)| format!("{path}: {message}")).collect();
        assert_eq!(
            found,
            [
                "spec.hosts: expected a list, found string \"a.com\"",
                "spec.gateways[1]: expected a string, found integer `7`; put it in quotes",
                "spec.http[0].timeout: expected a string, found integer `5`; put it in quotes",
                "spec.http[0].match: expected a list, found a mapping",
                "spec.http[1].route[0].destination.port.number: expected a number, found string \"eighty\"",
                "spec.http[1].route[0].weight: expected a whole number, found string \"10\"",
            ]
        );
        assert_eq!(decoded.value.unwrap().spec.gateways, ["gw"]);
    }

    #[test]
    fn unknown_fields_are_named_with_a_suggestion() {
        let decoded: Decoded<istio::Object<istio::VirtualService>> = read(
            "spec:\n  host: [a]\n  http:\n  - matches: []\n    mirror_percent: 5\n    corspolicy: {}\n    zzz: 1\n    mirror: {port: many}\n",
        );
        assert!(decoded.mistakes.is_empty(), "{:?}", decoded.mistakes);
        assert_eq!(
            decoded.unknown,
            [
                ("spec.host".to_owned(), Some("hosts")),
                ("spec.http[0].matches".to_owned(), Some("match")),
                ("spec.http[0].corspolicy".to_owned(), Some("corsPolicy")),
                ("spec.http[0].zzz".to_owned(), None),
            ]
        );
    }

    #[test]
    fn null_is_absent() {
        let decoded: Decoded<istio::Object<istio::VirtualService>> = read(
            "metadata:\nspec:\n  hosts:\n  http:\n  - name:\n    match:\n    - headers: {x-a: , x-b: {exact: y}}\n",
        );
        assert!(decoded.mistakes.is_empty(), "{:?}", decoded.mistakes);
        let spec = decoded.value.unwrap().spec;
        let headers = &spec.http.first().unwrap().matches.first().unwrap().headers;
        assert_eq!(headers.get("x-a"), Some(&istio::StringMatch::default()));
        assert_eq!(headers.get("x-b").unwrap().exact.as_deref(), Some("y"));
    }

    #[test]
    fn free_form_values_keep_everything() {
        let text = "spec:\n  pluginConfig: {z: null, a: [1, 2.5, true, 'x'], 7: {}}\n";
        let decoded: Decoded<istio::Object<istio::WasmPlugin<Value>>> = read(text);
        let config = decoded.value.unwrap().spec.plugin_config.unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), r#"{"z":null,"a":[1,2.5,true,"x"],"7":{}}"#);
    }

    #[test]
    fn a_document_that_is_no_mapping() {
        let decoded: Decoded<istio::Object<istio::Gateway>> = read("- 1\n");
        assert!(decoded.value.is_none());
        assert_eq!(decoded.mistakes, [(String::new(), "expected a mapping, found a list".to_owned())]);
    }
}
