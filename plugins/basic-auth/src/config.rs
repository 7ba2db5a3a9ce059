//! The configuration of the plugin, and what of it is accepted. Everything that could mean less protection than was
//! meant is refused when it is configured.

use crate::User;
use crate::rules::{Host, Prefix, Rule, Rules};
use crate::secret::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;
use wasm_sdk::{Error, Result, is_legal_name, is_legal_value};

/// Most users, so that looking for one stays cheap.
const MOST_USERS: usize = 10_000;
/// Passwords per second that are computed unless something else is configured.
const CHECKS_PER_SECOND: u32 = 20;
const MOST_CHECKS: u32 = 1_000;

/// `pluginConfig`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// What browsers show when they ask.
    #[serde(default = "realm")]
    realm: String,
    /// Names and hashed passwords.
    #[serde(default)]
    users: BTreeMap<String, String>,
    /// The first one that matches decides; without a match any user is needed.
    #[serde(default)]
    rules: Vec<RuleConfig>,
    /// The header that tells the upstream who it is.
    #[serde(default = "user_header")]
    user_header: String,
    /// Whether the upstream gets the credentials, too.
    #[serde(default)]
    keep_authorization: bool,
    /// Passwords per second and worker that are computed.
    #[serde(default = "checks_per_second")]
    checks_per_second: u32,
}

/// A rule as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleConfig {
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    path_prefixes: Vec<String>,
    #[serde(default)]
    users: Option<Vec<String>>,
    #[serde(default)]
    public: bool,
}

fn realm() -> String {
    "restricted".to_owned()
}

fn user_header() -> String {
    "x-authenticated-user".to_owned()
}

fn checks_per_second() -> u32 {
    CHECKS_PER_SECOND
}

/// The configuration once it is checked.
pub(crate) struct Settings {
    /// As it stands between quotes in the challenge.
    pub(crate) realm: String,
    pub(crate) users: Vec<User>,
    /// The secret of users who do not exist.
    pub(crate) nobody: Secret,
    pub(crate) rules: Rules,
    /// In lower case.
    pub(crate) user_header: String,
    pub(crate) keep_authorization: bool,
    pub(crate) checks_per_second: u32,
}

impl Config {
    /// Checks everything; all problems are reported at once.
    pub(crate) fn check(self) -> Result<Settings> {
        let mut problems = Vec::new();
        let mut note = |path: &str, problem: String| problems.push(Error::field(path, problem));

        let visible = |byte: u8| (b' '..=b'~').contains(&byte);
        if !self.realm.bytes().all(visible) {
            note("realm", "must be printable ASCII".to_owned());
        }
        let user_header = self.user_header.to_ascii_lowercase();
        if let Err(problem) = check_user_header(&user_header) {
            note("userHeader", problem.to_owned());
        }
        if !(1..=MOST_CHECKS).contains(&self.checks_per_second) {
            note("checksPerSecond", format!("must be from 1 to {MOST_CHECKS}"));
        }
        if self.users.len() > MOST_USERS {
            note("users", format!("{} users are more than {MOST_USERS}", self.users.len()));
        }
        let mut users = Vec::new();
        for (name, secret) in &self.users {
            let path = format!("users.{name}");
            if let Err(problem) = check_user_name(name) {
                note(&path, problem.to_owned());
            }
            match Secret::parse(secret) {
                Ok(secret) => users.push(User { name: name.clone(), secret }),
                Err(problem) => note(&path, problem),
            }
        }
        if self.users.is_empty() && !self.rules.iter().any(|rule| rule.public) {
            note("users", "there is none, so nobody could pass".to_owned());
        }
        let names: Vec<&String> = self.users.keys().collect();
        let rules = self.rules.iter().enumerate();
        let rules = rules.map(|(index, rule)| rule.check(&format!("rules[{index}]"), &names, &mut note)).collect();
        if let Some(error) = Error::all(problems) {
            return Err(error);
        }
        Ok(Settings {
            realm: self.realm.replace('\\', "\\\\").replace('"', "\\\""),
            nobody: Secret::impossible(users.iter().map(|user| &user.secret)),
            rules: Rules::new(rules, users.len()),
            users,
            user_header,
            keep_authorization: self.keep_authorization,
            checks_per_second: self.checks_per_second,
        })
    }
}

impl RuleConfig {
    fn check(&self, path: &str, names: &[&String], note: &mut impl FnMut(&str, String)) -> Rule {
        let mut hosts = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            match Host::parse(host) {
                Ok(host) => hosts.push(host),
                Err(problem) => note(&format!("{path}.hosts[{index}]"), problem.to_owned()),
            }
        }
        let mut prefixes = Vec::new();
        for (index, prefix) in self.path_prefixes.iter().enumerate() {
            match Prefix::parse(prefix) {
                Ok(prefix) => prefixes.push(prefix),
                Err(problem) => note(&format!("{path}.pathPrefixes[{index}]"), problem.to_owned()),
            }
        }
        let mut users = (0..names.len()).collect();
        if let Some(wanted) = &self.users {
            users = Vec::new();
            for (index, name) in wanted.iter().enumerate() {
                match names.iter().position(|known| *known == name) {
                    Some(user) => users.push(user),
                    None => note(&format!("{path}.users[{index}]"), format!("there is no user `{name}` in `users`")),
                }
            }
            if self.public {
                note(&format!("{path}.users"), "a public rule needs no users; leave out one of the two".to_owned());
            } else if wanted.is_empty() {
                note(&format!("{path}.users"), "nobody could pass; leave it out for every user".to_owned());
            }
        }
        Rule { hosts, prefixes, users: (!self.public).then_some(users) }
    }
}

/// The upstream has to get exactly this name.
fn check_user_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) || !is_legal_value(name.as_bytes()) {
        return Err("not a user name: no colon, no control characters, no space at either end (RFC 7617 section 2)");
    }
    Ok(())
}

fn check_user_header(name: &str) -> Result<(), &'static str> {
    if !is_legal_name(name) || name.contains('_') {
        return Err("not a header name: letters, digits and `-`");
    }
    const TAKEN: [&str; 10] = [
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    if TAKEN.contains(&name) { Err("this header has another meaning") } else { Ok(()) }
}
