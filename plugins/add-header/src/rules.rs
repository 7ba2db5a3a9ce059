//! The configuration of the plugin, and what of it is accepted.
//!
//! The shape is that of `headers` in a VirtualService. What would break the message or the gateway's own business
//! (framing, pseudo-headers, the host) is refused when it is configured, not found by a client later.

use serde::Deserialize;
use std::collections::BTreeMap;
use wasm_sdk::{Error, is_legal_name, is_legal_value};

/// `pluginConfig`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Operations on the request, before it is routed.
    pub request: Operations,
    /// Operations on the response.
    pub response: Operations,
}

/// The operations on the headers of one message.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Operations {
    /// Headers that get another value; values there are stay.
    pub add: BTreeMap<String, String>,
    /// Headers that get this value in the place of all there are.
    pub set: BTreeMap<String, String>,
    /// Headers that are removed, before anything is set or added.
    pub remove: Vec<String>,
}

/// The operations once they are checked: names in lower case, in the order in which they are carried out.
pub(crate) struct Rules {
    pub(crate) remove: Vec<String>,
    pub(crate) set: Vec<(String, String)>,
    pub(crate) add: Vec<(String, String)>,
}

impl Rules {
    /// Checks the operations of one message; `message` is the name of the field. Every problem is added to `problems`.
    pub(crate) fn check(message: &str, operations: Operations, problems: &mut Vec<Error>) -> Rules {
        let remove = operations.remove.into_iter().map(|name| {
            let checked = check_name(&name);
            problems.extend(checked.err().map(|p| Error::field(&format!("{message}.remove.{name}"), p)));
            name.to_ascii_lowercase()
        });
        let remove = remove.collect();
        let mut pairs = |kind: &str, headers: BTreeMap<String, String>| {
            let pair = |(name, value): (String, String)| {
                let checked = check_name(&name).and_then(|()| check_value(&value));
                problems.extend(checked.err().map(|p| Error::field(&format!("{message}.{kind}.{name}"), p)));
                (name.to_ascii_lowercase(), value)
            };
            headers.into_iter().map(pair).collect()
        };
        Rules { remove, set: pairs("set", operations.set), add: pairs("add", operations.add) }
    }
}

/// Headers that say where a message ends or belong to one connection (RFC 9110 section 7.6.1): the gateway writes
/// them itself, and a wrong one lets a client smuggle requests.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn check_name(name: &str) -> Result<(), &'static str> {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with(':') {
        return Err("pseudo-headers cannot be changed here; use `rewrite` of a VirtualService");
    }
    if !is_legal_name(&lower) {
        return Err("not a header name: letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 section 5.6.2)");
    }
    if lower == "host" {
        return Err("the host cannot be changed here; use `rewrite.authority` of a VirtualService");
    }
    if FRAMING.contains(&lower.as_str()) {
        return Err("this header belongs to the connection and is written by the gateway");
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), &'static str> {
    if is_legal_value(value.as_bytes()) {
        Ok(())
    } else {
        Err("not a header value: no control characters, no space at either end (RFC 9110 section 5.5)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_with(operations: Operations) -> String {
        let mut problems = Vec::new();
        Rules::check("request", operations, &mut problems);
        problems.iter().map(|problem| format!("{problem}\n")).collect()
    }

    #[test]
    fn names_that_are_not_the_plugins_business_are_refused() {
        for name in FRAMING.into_iter().chain([":path", "Host", "Content-Length", "", "a b", "caf\u{e9}"]) {
            let problem = problem_with(Operations { remove: vec![name.to_owned()], ..Operations::default() });
            assert!(problem.starts_with(&format!("field `request.remove.{name}`: ")), "{name}: {problem}");
        }
    }

    #[test]
    fn values_that_end_the_header_are_refused() {
        let set =
            |value: &str| Operations { set: [("x-a".to_owned(), value.to_owned())].into(), ..Operations::default() };
        for value in ["a\r\nb: c", "a\n", "a\0", " a"] {
            let problem = problem_with(set(value));
            assert!(problem.starts_with("field `request.set.x-a`: not a header value"), "{value:?}: {problem}");
        }
        assert_eq!(problem_with(set("caf\u{e9}, \t and \"more\"")), "");
        assert_eq!(problem_with(set("")), "");
    }

    #[test]
    fn checked_names_are_in_lower_case() {
        let operations = Operations { add: [("X-Team".to_owned(), "Edge".to_owned())].into(), ..Operations::default() };
        let rules = Rules::check("request", operations, &mut Vec::new());
        assert_eq!(rules.add, [("x-team".to_owned(), "Edge".to_owned())]);
    }
}
