//! A plugin that asks for a user name and a password (HTTP Basic authentication, RFC 7617).
//!
//! This file is the order of things for one request. `config` says what is accepted, `rules` which requests need whom,
//! `credentials` what a client sent, `secret` whether it is right, `budget` how often that may be computed. See
//! README.md for the configuration.

mod budget;
mod config;
mod credentials;
mod rules;
mod secret;

use budget::Budget;
use config::{Config, Settings};
use credentials::Credentials;
use rules::{Need, Target};
use secret::{Check, Secret};
use wasm_sdk::metrics::Counter;
use wasm_sdk::{Flow, HeaderValue, HostError, Plugin, Reply, Request, Result};

/// The plugin: rules and users, checked once, and what happens to requests, counted.
pub struct BasicAuth {
    settings: Settings,
    challenge: String,
    budget: Budget,
    allowed: Counter,
    denied: Counter,
    throttled: Counter,
}

/// What becomes of a request that needs a user.
enum Verdict<'a> {
    Allowed(&'a str),
    Denied,
    Throttled,
}

#[wasm_sdk::plugin]
impl Plugin for BasicAuth {
    type Config = Config;
    type Context = ();

    fn configure(config: Config) -> Result<BasicAuth> {
        let settings = config.check()?;
        let counter = |what: &str| Counter::new(&format!("basic_auth_{what}_total"));
        Ok(BasicAuth {
            challenge: format!("Basic realm=\"{}\", charset=\"UTF-8\"", settings.realm),
            budget: Budget::new(settings.checks_per_second),
            allowed: counter("allowed")?,
            denied: counter("denied")?,
            throttled: counter("throttled")?,
            settings,
        })
    }

    fn on_request(&self, request: &mut Request<'_>, _: &mut ()) -> Result<Flow> {
        // One call for everything, because every spelling of the user header has to be found anyway.
        let fields = request.headers().all()?;
        let first = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_bytes());
        let target = Target::new(first(":authority").unwrap_or_default(), first(":path").unwrap_or_default());
        self.forget_claims(request, &fields)?;

        let Need::User(users) = self.settings.rules.need(&target) else {
            return Ok(Flow::Continue);
        };
        let sent: Vec<_> = fields.iter().filter(|(name, _)| name == "authorization").map(|(_, value)| value).collect();
        match self.verdict(&sent, users)? {
            Verdict::Allowed(user) => {
                self.allowed.add(1);
                self.pass_on(request, user)?;
                Ok(Flow::Continue)
            }
            Verdict::Denied => {
                self.denied.add(1);
                let reply = Reply::new(401).header("www-authenticate", &self.challenge);
                Ok(Flow::Respond(reply.text("Unauthorized\n")))
            }
            Verdict::Throttled => {
                self.throttled.add(1);
                Ok(Flow::Respond(Reply::new(429).header("retry-after", "1").text("Too many attempts\n")))
            }
        }
    }
}

impl BasicAuth {
    /// Who the request is from, if it may pass. `users` are the indices of those that may.
    fn verdict(&self, sent: &[&HeaderValue], users: &[usize]) -> Result<Verdict<'_>> {
        // Two of them would leave it to the upstream which one counts.
        let [value] = sent else { return Ok(Verdict::Denied) };
        let Some(credentials) = Credentials::parse(value.as_bytes()) else { return Ok(Verdict::Denied) };
        let known = self.settings.users.iter().position(|user| user.name == credentials.user);
        let secret = match known.and_then(|index| self.settings.users.get(index)) {
            Some(user) if user.secret.remembers(&credentials.password) => {
                return Ok(self.admit(known, users));
            }
            Some(user) => &user.secret,
            // It must take as long to find out that there is no such user.
            None => &self.settings.nobody,
        };
        if !self.budget.take(wasm_sdk::now()?) {
            return Ok(Verdict::Throttled);
        }
        match (secret.check(&credentials.password), known) {
            (Check::Right, Some(_)) => Ok(self.admit(known, users)),
            _ => Ok(Verdict::Denied),
        }
    }

    fn admit(&self, known: Option<usize>, users: &[usize]) -> Verdict<'_> {
        let user = known.filter(|index| users.contains(index)).and_then(|index| self.settings.users.get(index));
        user.map_or(Verdict::Denied, |user| Verdict::Allowed(&user.name))
    }

    /// Nobody but this plugin says who somebody is: also not under a name that upstreams take for the same, as CGI does
    /// with `_`.
    fn forget_claims(&self, request: &mut Request<'_>, fields: &[(String, HeaderValue)]) -> Result<(), HostError> {
        for (name, _) in fields.iter().filter(|(name, _)| name.replace('_', "-") == self.settings.user_header) {
            request.headers().remove(name)?;
        }
        Ok(())
    }

    fn pass_on(&self, request: &mut Request<'_>, user: &str) -> Result<(), HostError> {
        if !self.settings.keep_authorization {
            request.headers().remove("authorization")?;
        }
        request.headers().set(&self.settings.user_header, user)
    }
}

/// A user who may be let in.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) secret: Secret,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use wasm_sdk::testing::{Exchange, Gateway, Message, get, response};

    /// Ada's password is `sesame`, Grace's `open`.
    const CONFIG: &str = r#"{
        "realm": "the \"edge\"",
        "users": {
            "ada": "pbkdf2-sha256$1000$73616c7473616c74$6f5b1237bbf4a55eb2a82c24a21b12b39213ffb8e829e3dbb77979a31b35721e",
            "grace": "pbkdf2-sha256$1000$73616c7473616c75$d41353c6fb1eb1e6ef753886003ab12d18e7d1d9a3acffe96a6fae7bcb6e6731"
        },
        "rules": [
            {"pathPrefixes": ["/health"], "public": true},
            {"hosts": ["*.example.dev"], "pathPrefixes": ["/admin"], "users": ["ada"]}
        ],
        "checksPerSecond": 5
    }"#;

    fn gateway() -> Gateway<BasicAuth> {
        Gateway::start(CONFIG).unwrap()
    }

    /// `ada:sesame`, `ada:wrong`, `grace:open`, `nobody:sesame`
    const ADA: &str = "Basic YWRhOnNlc2FtZQ==";
    const ADA_WRONG: &str = "Basic YWRhOndyb25n";
    const GRACE: &str = "basic Z3JhY2U6b3Blbg==";
    const NOBODY: &str = "Basic bm9ib2R5OnNlc2FtZQ==";

    fn with(path: &str, authorization: &str) -> Message {
        get(path).header("authorization", authorization)
    }

    #[test]
    fn a_right_password_passes_and_the_upstream_learns_who_it_is() {
        let upstream = gateway().send(with("/", ADA).header("x-other", "1")).upstream.unwrap();
        assert_eq!(upstream, get("/").header("x-other", "1").header("x-authenticated-user", "ada"));
        let keep = CONFIG.replacen('{', r#"{"keepAuthorization": true, "userHeader": "X-Who", "#, 1);
        let upstream = Gateway::<BasicAuth>::start(&keep).unwrap().send(with("/", GRACE)).upstream.unwrap();
        assert_eq!(upstream, with("/", GRACE).header("x-who", "grace"));
    }

    #[test]
    fn everything_else_is_asked_for_a_password() {
        let gateway = gateway();
        let refused = |exchange: Exchange| {
            assert!(exchange.upstream.is_none());
            assert_eq!(exchange.response.status(), 401);
            let challenge = r#"Basic realm="the \"edge\"", charset="UTF-8""#;
            assert_eq!(exchange.response.header_text("www-authenticate"), Some(challenge));
        };
        refused(gateway.send(get("/")));
        refused(gateway.send(with("/", ADA_WRONG)));
        refused(gateway.send(with("/", NOBODY)));
        refused(gateway.send(with("/", "Bearer YWRhOnNlc2FtZQ==")));
        refused(gateway.send(with("/", ADA).header("authorization", GRACE)));
        refused(gateway.send(with("/admin", GRACE)));
        assert!(gateway.send(with("/admin", ADA)).upstream.is_some());
        assert!(gateway.send(get("/health/live")).upstream.is_some());
        assert_eq!(gateway.metric("basic_auth_denied_total"), Some(6));
        assert_eq!(gateway.metric("basic_auth_allowed_total"), Some(1));
    }

    #[test]
    fn nobody_can_say_who_he_is_himself() {
        let claims = |message: Message| {
            message
                .header("X-Authenticated-User", "ada")
                .header("x_authenticated-user", "ada")
                .header("x-authenticated_user", "b")
        };
        assert_eq!(gateway().send(claims(get("/health"))).upstream, Some(get("/health")));
        let upstream = gateway().send(claims(with("/", GRACE))).upstream.unwrap();
        assert_eq!(upstream, get("/").header("x-authenticated-user", "grace"));
    }

    #[test]
    fn guessing_is_slowed_down_but_nobody_who_is_known() {
        let gateway = gateway();
        assert!(gateway.send(with("/", ADA)).upstream.is_some());
        let statuses: Vec<_> = (0..20).map(|_| gateway.send(with("/", NOBODY)).response.status()).collect();
        assert!(statuses.contains(&429), "{statuses:?}");
        assert!(gateway.metric("basic_auth_throttled_total").unwrap() > 0);
        assert!((0..20).all(|_| gateway.send(with("/", ADA)).upstream.is_some()));
    }

    #[test]
    fn what_a_client_sends_never_ends_in_an_error() {
        let gateway = gateway();
        for value in [&b""[..], b"Basic", b"Basic \xff\xfe", b"\xff", b"Basic ====", &[b'A'; 60_000]] {
            let exchange = gateway.send(get("/%zz%").header("authorization", value));
            assert_eq!(exchange.response.status(), 401);
        }
        assert_eq!(gateway.exchange(with("/", ADA), response(204)).response, response(204));
    }

    #[test]
    fn every_problem_is_named_by_its_field() {
        let config = r#"{
            "realm": "caf\u00e9", "userHeader": "host", "checksPerSecond": 0,
            "users": {"a:b": "secret", "": "pbkdf2-sha256$1$00$00"},
            "rules": [
                {"hosts": ["a:80"], "pathPrefixes": ["admin"], "users": ["eve"]},
                {"public": true, "users": []}, {"users": []}
            ]
        }"#;
        let text = Gateway::<BasicAuth>::start(config).err().unwrap().to_string();
        for part in [
            "`realm`",
            "`userHeader`",
            "`checksPerSecond`",
            "`users.a:b`",
            "`users.`",
            "`rules[0].hosts[0]`",
            "`rules[0].pathPrefixes[0]`",
            "`rules[0].users[0]`: there is no user `eve`",
            "`rules[1].users`",
            "`rules[2].users`",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
        assert!(!text.contains("secret"), "{text}");
        for (config, part) in [
            ("", "`users`: there is none"),
            (r#"{"rules": [{"path": "/"}]}"#, "unknown field `path`"),
            (r#"{"user": {}}"#, "unknown field `user`"),
        ] {
            let text = Gateway::<BasicAuth>::start(config).err().unwrap().to_string();
            assert!(text.contains(part), "{part} not in {text}");
        }
    }
}
