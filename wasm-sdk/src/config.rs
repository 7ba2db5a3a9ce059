//! From the bytes of `pluginConfig` to the plugin's own type.

use crate::{Error, Result};
use serde::de::DeserializeOwned;

/// Reads a configuration. Nothing at all is the same as `{}`: a type with defaults for every field then has them,
/// any other type says which field is missing.
pub(crate) fn parse<C: DeserializeOwned>(bytes: &[u8]) -> Result<C> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let config = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let problem = describe(error.inner());
        if path == "." { Error::new(problem) } else { Error::field(&path, problem) }
    })?;
    json.end().map_err(|error| Error::new(describe(&error)))?;
    Ok(config)
}

/// The message of serde_json. Its line and column are those of the JSON that the gateway made of the operator's
/// YAML, so they would mislead where the JSON is well-formed.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((problem, _)) if error.is_data() => problem.to_owned(),
        _ if error.is_data() => text,
        _ => format!("the configuration is not JSON: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Deserialize, Debug, Default, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Lenient {
        limits: BTreeMap<String, u32>,
    }

    #[derive(Deserialize, Debug)]
    struct Strict {
        #[serde(rename = "token")]
        _token: String,
    }

    fn refusal<C: DeserializeOwned + std::fmt::Debug>(config: &str) -> String {
        parse::<C>(config.as_bytes()).map_err(|e| e.to_string()).expect_err("must be refused")
    }

    #[test]
    fn nothing_is_the_default_or_names_the_missing_field() {
        for nothing in ["", " \n", "{}"] {
            assert_eq!(parse::<Lenient>(nothing.as_bytes()).map_err(|e| e.to_string()), Ok(Lenient::default()));
            assert_eq!(refusal::<Strict>(nothing), "missing field `token`");
        }
    }

    #[test]
    fn problems_are_named_by_their_path() {
        assert_eq!(
            refusal::<Lenient>(r#"{"limits": {"a": 1, "b": "two"}}"#),
            "field `limits.b`: invalid type: string \"two\", expected u32"
        );
        let unknown = refusal::<Lenient>(r#"{"limit": {}}"#);
        assert!(unknown.contains("unknown field `limit`, expected `limits`"), "{unknown}");
    }

    #[test]
    fn what_is_not_json_is_called_so() {
        for broken in ["{", "limits: {}", "{} {}"] {
            let text = refusal::<Lenient>(broken);
            assert!(text.contains("not JSON"), "{broken}: {text}");
        }
    }
}
