//! The configuration of the plugin, and what of it is accepted.

use crate::media::ContentTypes;
use crate::rules::{MOST_BYTES, Rule, Rules};
use serde::Deserialize;
use wasm_sdk::{Error, Result};

/// The longest body that is rewritten unless something else is configured.
const MAX_BYTES: usize = 256 << 10;
/// Most rules of one message, because each of them reads the whole body.
const MOST_RULES: usize = 20;

/// `pluginConfig`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    request: Option<MessageConfig>,
    response: Option<MessageConfig>,
    /// Asks upstreams for whole bodies without compression.
    #[serde(default = "yes")]
    ask_for_plain: bool,
}

/// What to do with one of the messages, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MessageConfig {
    rules: Vec<RuleConfig>,
    content_types: Option<Vec<String>>,
    #[serde(default = "max_bytes")]
    max_bytes: usize,
    #[serde(default)]
    too_large: TooLarge,
    #[serde(default)]
    encoded: bool,
    /// Of responses only.
    etag: Option<Etag>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    literal: Option<String>,
    regex: Option<String>,
    replace: String,
}

/// What becomes of a body that is too large to be rewritten.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TooLarge {
    /// It goes on as it is.
    #[default]
    Pass,
    /// The client gets 413 for a request, 502 for a response.
    Fail,
}

/// What becomes of the entity tag of a response that is rewritten.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Etag {
    /// It no longer promises the same bytes.
    #[default]
    Weak,
    /// There is none any more.
    Remove,
    /// It stays.
    Keep,
}

fn yes() -> bool {
    true
}

fn max_bytes() -> usize {
    MAX_BYTES
}

/// What to do with one message, once it is checked.
pub(crate) struct Settings {
    pub(crate) rules: Rules,
    pub(crate) content_types: ContentTypes,
    pub(crate) max_bytes: usize,
    pub(crate) too_large: TooLarge,
    pub(crate) encoded: bool,
    pub(crate) etag: Etag,
}

/// What a whole configuration comes to.
pub(crate) struct Checked {
    pub(crate) request: Option<Settings>,
    pub(crate) response: Option<Settings>,
    pub(crate) ask_for_plain: bool,
}

impl Config {
    /// Checks everything; all problems are reported at once.
    pub(crate) fn check(self) -> Result<Checked> {
        let mut problems = Vec::new();
        if self.request.is_none() && self.response.is_none() {
            problems.push(Error::new("there is neither `request` nor `response`, so nothing would be done"));
        }
        if self.request.as_ref().is_some_and(|request| request.etag.is_some()) {
            problems.push(Error::field("request.etag", "only responses have one"));
        }
        let mut check = |path: &str, message: Option<MessageConfig>| message?.check(path, &mut problems);
        let (request, response) = (check("request", self.request), check("response", self.response));
        match Error::all(problems) {
            Some(error) => Err(error),
            None => Ok(Checked { request, response, ask_for_plain: self.ask_for_plain }),
        }
    }
}

impl MessageConfig {
    /// `None` if there are problems.
    fn check(self, path: &str, problems: &mut Vec<Error>) -> Option<Settings> {
        let before = problems.len();
        if self.rules.is_empty() {
            problems.push(Error::field(&format!("{path}.rules"), "there is none, so nothing would be done"));
        }
        if self.rules.len() > MOST_RULES {
            problems.push(Error::field(&format!("{path}.rules"), format!("more than {MOST_RULES}")));
        }
        let mut rules = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            match rule.check() {
                Ok(rule) => rules.push(rule),
                Err((field, problem)) => problems.push(Error::field(&format!("{path}.rules[{index}]{field}"), problem)),
            }
        }
        for (index, kind) in self.content_types.iter().flatten().enumerate() {
            if let Err(problem) = ContentTypes::check(kind) {
                problems.push(Error::field(&format!("{path}.contentTypes[{index}]"), problem));
            }
        }
        if !(1..=MOST_BYTES).contains(&self.max_bytes) {
            problems.push(Error::field(&format!("{path}.maxBytes"), format!("must be from 1 to {MOST_BYTES}")));
        }
        (problems.len() == before).then(|| Settings {
            rules: Rules::new(rules),
            content_types: self.content_types.map_or_else(ContentTypes::usual, |list| ContentTypes::of(&list)),
            max_bytes: self.max_bytes,
            too_large: self.too_large,
            encoded: self.encoded,
            etag: self.etag.unwrap_or_default(),
        })
    }
}

impl RuleConfig {
    /// The problem comes with the field below the rule that it is about.
    fn check(&self) -> Result<Rule, (&'static str, String)> {
        match (&self.literal, &self.regex) {
            (Some(literal), None) => Rule::literal(literal, &self.replace).map_err(|problem| (".literal", problem)),
            (None, Some(regex)) => Rule::regex(regex, &self.replace).map_err(|problem| {
                let field =
                    if problem.starts_with("refers") || problem.starts_with("a `${`") { ".replace" } else { ".regex" };
                (field, problem)
            }),
            _ => Err(("", "needs one of `literal` and `regex`".to_owned())),
        }
    }
}
