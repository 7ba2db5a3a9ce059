//! Which requests need a user, and whom.
//!
//! The first rule that matches decides; where none does, any user will do. What is not certain is decided for the side
//! of safety: upstreams differ in how they read a path (upper case, `%2F`, `//`, `;`), so a path is compared as it is
//! and in the loosest reading. A rule that asks for users applies if either matches, a public one only if both do.

/// How often escapes are decoded. No upstream does it more than twice.
const MOST_DECODING: usize = 4;

/// What a request has to have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need<'a> {
    Nothing,
    /// One of these users, by their indices.
    User(&'a [usize]),
}

/// All rules in order.
pub(crate) struct Rules {
    rules: Vec<Rule>,
    /// Every user, for requests that no rule matches.
    everybody: Vec<usize>,
}

/// One rule. Empty lists match everything.
pub(crate) struct Rule {
    pub(crate) hosts: Vec<Host>,
    pub(crate) prefixes: Vec<Prefix>,
    /// `None`: public.
    pub(crate) users: Option<Vec<usize>>,
}

/// A host, or all below one.
pub(crate) enum Host {
    Exact(String),
    Below(String),
}

/// The beginning of a path, in whole segments.
pub(crate) struct Prefix {
    plain: String,
    loose: String,
}

/// Where a request goes.
pub(crate) struct Target {
    host: String,
    path: String,
    /// `None`: escaped so often that it is not meant honestly.
    loose: Option<String>,
}

impl Rules {
    pub(crate) fn new(rules: Vec<Rule>, users: usize) -> Rules {
        Rules { rules, everybody: (0..users).collect() }
    }

    pub(crate) fn need(&self, target: &Target) -> Need<'_> {
        match self.rules.iter().find(|rule| rule.matches(target)) {
            Some(Rule { users: None, .. }) => Need::Nothing,
            Some(Rule { users: Some(users), .. }) => Need::User(users),
            None => Need::User(&self.everybody),
        }
    }
}

impl Rule {
    fn matches(&self, target: &Target) -> bool {
        let public = self.users.is_none();
        let host = self.hosts.is_empty() || self.hosts.iter().any(|host| host.matches(&target.host));
        host && (self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| prefix.matches(target, public)))
    }
}

impl Host {
    /// `admin.example.dev`, `*.example.dev`.
    pub(crate) fn parse(text: &str) -> Result<Host, &'static str> {
        let lower = text.to_ascii_lowercase();
        let (host, name): (fn(String) -> Host, _) = match lower.strip_prefix("*.") {
            Some(rest) => (Host::Below, rest),
            None => (Host::Exact, lower.as_str()),
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if name.is_empty() || !name.bytes().all(legal) || host_name(name) != name {
            return Err(
                "must be a host name, or `*.` and a host name, without a port; for every host leave `hosts` out",
            );
        }
        Ok(host(name.to_owned()))
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Host::Exact(name) => host == name,
            Host::Below(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }
}

impl Prefix {
    pub(crate) fn parse(text: &str) -> Result<Prefix, &'static str> {
        if !text.starts_with('/') || text.contains(['?', '#']) {
            return Err("must begin with `/` and have no query");
        }
        let plain = text.trim_end_matches('/').to_owned();
        let loose = loose(text).ok_or("has too many escapes")?;
        Ok(Prefix { loose: loose.trim_end_matches('/').to_owned(), plain })
    }

    fn matches(&self, target: &Target, public: bool) -> bool {
        let begins = |path: &str, prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let plain = begins(&target.path, &self.plain);
        // What cannot be read may be anything that is protected, and nothing that is public.
        let loose = target.loose.as_ref().map_or(!public, |path| begins(path, &self.loose));
        if public { plain && loose } else { plain || loose }
    }
}

impl Target {
    /// From `:authority` and `:path`.
    pub(crate) fn new(authority: &[u8], target: &[u8]) -> Target {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let target = text(target);
        let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
        Target { host: host_name(&text(authority).to_ascii_lowercase()).to_owned(), loose: loose(&path), path }
    }
}

/// A host without its port and without the dot at the end that means the same.
fn host_name(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => {
            // Within brackets it is an IPv6 address.
            if host.starts_with('[') == host.ends_with(']') { host } else { authority }
        }
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// The loosest reading of a path: escapes decoded, also escaped ones, `\` as `/`, path parameters dropped, empty and
/// dot segments resolved, all in lower case. `None` if escapes are escaped more than [`MOST_DECODING`] times.
fn loose(path: &str) -> Option<String> {
    let mut bytes = path.as_bytes().to_vec();
    let mut turns = 0;
    loop {
        let decoded = decode(&bytes);
        if decoded.len() == bytes.len() {
            break;
        }
        turns += 1;
        if turns > MOST_DECODING {
            return None;
        }
        bytes = decoded;
    }
    let text = String::from_utf8_lossy(&bytes).to_lowercase().replace('\\', "/");
    let mut segments = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    Some(format!("/{}", segments.join("/")))
}

/// Decodes `%XX` once.
fn decode(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                let value = digit(*high).zip(digit(*low)).map_or(0, |(high, low)| high * 16 + low);
                decoded.push(value as u8);
                rest = after;
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn rule(hosts: &[&str], prefixes: &[&str], users: Option<Vec<usize>>) -> Rule {
        Rule {
            hosts: hosts.iter().map(|host| Host::parse(host).unwrap()).collect(),
            prefixes: prefixes.iter().map(|prefix| Prefix::parse(prefix).unwrap()).collect(),
            users,
        }
    }

    #[test]
    fn the_first_rule_decides_and_none_means_everybody() {
        let rules = Rules::new(
            vec![
                rule(&["admin.example.dev"], &[], Some(vec![1])),
                rule(&[], &["/admin"], Some(vec![0])),
                rule(&["*.example.dev"], &["/assets/"], None),
            ],
            2,
        );
        let need = |host: &str, path: &str| match rules.need(&Target::new(host.as_bytes(), path.as_bytes())) {
            Need::Nothing => "public".to_owned(),
            Need::User(users) => format!("{users:?}"),
        };
        for (host, path, expected) in [
            ("admin.example.dev", "/", "[1]"),
            ("ADMIN.example.dev.:8443", "/assets/x", "[1]"),
            ("x.example.dev", "/admin?x", "[0]"),
            ("x.example.dev", "/administrator", "[0, 1]"),
            ("x.example.dev", "/assets", "public"),
            ("x.example.dev:80", "/assets/a%20file.png?x=/../admin", "public"),
            ("example.dev", "/assets/x", "[0, 1]"),
            (".example.dev", "/assets/x", "[0, 1]"),
            ("evilexample.dev", "/assets/x", "[0, 1]"),
            ("[::1]:80", "/", "[0, 1]"),
            // However an upstream may read it.
            ("x.example.dev", "/ADMIN/x", "[0]"),
            ("x.example.dev", "//admin", "[0]"),
            ("x.example.dev", "/%61dmin", "[0]"),
            ("x.example.dev", "/%2561dmin/", "[0]"),
            ("x.example.dev", "/assets/..%2fadmin", "[0]"),
            ("x.example.dev", "/assets/..%252F..%5cadmin", "[0]"),
            ("x.example.dev", "/;x=1/admin;y=2/z", "[0]"),
            ("x.example.dev", "/assets/..;/other", "[0, 1]"),
            ("x.example.dev", "/Assets/x", "[0, 1]"),
            ("x.example.dev", "/assets%2fx", "[0, 1]"),
            ("x.example.dev", "/assets/%252525252541", "[0]"),
        ] {
            assert_eq!(need(host, path), expected, "{host} {path}");
        }
    }

    #[test]
    fn what_cannot_be_a_host_or_a_path_is_refused() {
        for host in ["", "*", "*.", "a b", "a:80", "a.example.dev.", "caf\u{e9}", "a/b", "a.*.b"] {
            assert!(Host::parse(host).is_err(), "{host}");
        }
        for host in ["a", "*.a", "10.0.0.1", "[::1]", "my_host"] {
            assert!(Host::parse(host).is_ok(), "{host}");
        }
        for prefix in ["", "admin", "/a?b", "/a#b"] {
            assert!(Prefix::parse(prefix).is_err(), "{prefix}");
        }
    }

    #[test]
    fn no_target_is_too_odd_to_be_read() {
        for path in ["", "*", "%", "%2", "/%zz", "/%c3%28", "/..", "/%25252525252541", "?", "\u{0}"] {
            let target = Target::new(b"\xff:", path.as_bytes());
            let loose = target.loose.unwrap_or("/".to_owned());
            assert!(loose.starts_with('/'), "{path}");
        }
        // Decoding it to the end would take longer than a plugin may.
        assert_eq!(loose(&format!("/%{}41", "25".repeat(10_000))), None);
    }
}
