//! A plugin that searches and replaces in the bodies of requests and responses.
//!
//! This file decides which bodies are rewritten and carries it out. `config` says what is accepted, `media` which content
//! types are meant, `rules` replaces. See README.md for the configuration.
//!
//! A body is collected before it is rewritten, so that nothing is missed where chunks meet. What its head says of it is
//! corrected when the head passes, because in other gateways it is gone later.

mod config;
mod media;
mod pattern;
mod rules;

use config::{Config, Etag, Settings, TooLarge};
use rules::Unfit;
use wasm_sdk::metrics::Counter;
use wasm_sdk::{Body, BodyFlow, Flow, Headers, HostError, Plugin, Reply, Request, Response, Result};

/// The plugin: what to do with either message, and how often it has been done.
pub struct RewriteBody {
    request: Option<Settings>,
    response: Option<Settings>,
    ask_for_plain: bool,
    rewritten: Counter,
    too_large: Counter,
}

/// What is known of a stream.
#[derive(Default)]
pub struct Stream {
    is_head: bool,
    request: Progress,
    response: Progress,
}

/// How far a body is.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It is not to be rewritten, or no more.
    #[default]
    Passing,
    /// It is collected.
    Collecting,
}

#[wasm_sdk::plugin]
impl Plugin for RewriteBody {
    type Config = Config;
    type Context = Stream;

    fn configure(config: Config) -> Result<RewriteBody> {
        let checked = config.check()?;
        Ok(RewriteBody {
            request: checked.request,
            response: checked.response,
            ask_for_plain: checked.ask_for_plain,
            rewritten: Counter::new("rewrite_body_rewritten_total")?,
            too_large: Counter::new("rewrite_body_too_large_total")?,
        })
    }

    fn on_request(&self, request: &mut Request<'_>, stream: &mut Stream) -> Result<Flow> {
        if self.response.is_some() {
            stream.is_head = request.method()? == "HEAD";
            if self.ask_for_plain {
                for name in ["accept-encoding", "range", "if-range"] {
                    request.headers().remove(name)?;
                }
            }
        }
        let Some(settings) = self.request.as_ref().filter(|_| request.has_body()) else { return Ok(Flow::Continue) };
        if !settings.means(&request.headers())? {
            return Ok(Flow::Continue);
        }
        if self.is_too_large(settings, declared_length(&request.headers())?) {
            return Ok(match settings.too_large {
                TooLarge::Pass => Flow::Continue,
                TooLarge::Fail => Flow::Respond(Reply::new(413)),
            });
        }
        forget_digests(&mut request.headers())?;
        request.edit_body()?;
        stream.request = Progress::Collecting;
        Ok(Flow::Continue)
    }

    fn on_request_body(&self, body: &mut Body<'_>, stream: &mut Stream) -> Result<BodyFlow> {
        self.on_body(self.request.as_ref(), body, &mut stream.request, 413)
    }

    fn on_response(&self, response: &mut Response<'_>, stream: &mut Stream) -> Result<Flow> {
        let Some(settings) = self.response.as_ref().filter(|_| response.has_body()) else { return Ok(Flow::Continue) };
        // Neither has a body that could be rewritten: 206 is a part of one.
        if stream.is_head || [204, 206, 304].contains(&response.status()?) || !settings.means(&response.headers())? {
            return Ok(Flow::Continue);
        }
        if self.is_too_large(settings, declared_length(&response.headers())?) {
            return Ok(match settings.too_large {
                TooLarge::Pass => Flow::Continue,
                TooLarge::Fail => Flow::Respond(Reply::new(502)),
            });
        }
        settings.etag.apply(&mut response.headers())?;
        forget_digests(&mut response.headers())?;
        response.headers().remove("accept-ranges")?;
        response.edit_body()?;
        stream.response = Progress::Collecting;
        Ok(Flow::Continue)
    }

    fn on_response_body(&self, body: &mut Body<'_>, stream: &mut Stream) -> Result<BodyFlow> {
        self.on_body(self.response.as_ref(), body, &mut stream.response, 502)
    }
}

impl RewriteBody {
    /// A part of a body, after everything that was collected of it; `refusal` is the answer to one that is too large.
    fn on_body(
        &self,
        settings: Option<&Settings>,
        body: &mut Body<'_>,
        progress: &mut Progress,
        refusal: u16,
    ) -> Result<BodyFlow> {
        let Some(settings) = settings.filter(|_| *progress == Progress::Collecting) else {
            return Ok(BodyFlow::Continue);
        };
        let rewritten = if self.is_too_large(settings, Some(body.len())) {
            Err(Unfit)
        } else {
            match body.whole()? {
                None => return Ok(BodyFlow::Wait),
                Some(bytes) => settings.rules.apply(&bytes).inspect_err(|Unfit| self.too_large.add(1)),
            }
        };
        *progress = Progress::Passing;
        match rewritten {
            Ok(Some(bytes)) => {
                body.replace(bytes)?;
                self.rewritten.add(1);
                Ok(BodyFlow::Continue)
            }
            Ok(None) => Ok(BodyFlow::Continue),
            Err(Unfit) => Ok(match settings.too_large {
                TooLarge::Pass => BodyFlow::Continue,
                TooLarge::Fail => BodyFlow::Respond(Reply::new(refusal)),
            }),
        }
    }

    /// Whether so many bytes are more than are rewritten; counted.
    fn is_too_large(&self, settings: &Settings, bytes: Option<usize>) -> bool {
        let too_large = bytes.is_some_and(|bytes| bytes > settings.max_bytes);
        if too_large {
            self.too_large.add(1);
        }
        too_large
    }
}

impl Settings {
    /// Whether a message with this head is one whose body is rewritten.
    fn means(&self, headers: &Headers<'_>) -> Result<bool, HostError> {
        let Some(kind) = headers.get("content-type")? else { return Ok(false) };
        if !self.content_types.contain(kind.as_bytes()) {
            return Ok(false);
        }
        let plain = |encoding: wasm_sdk::HeaderValue| {
            encoding.as_bytes().trim_ascii().is_empty()
                || encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")
        };
        Ok(self.encoded || headers.get("content-encoding")?.is_none_or(plain))
    }
}

impl Etag {
    /// The body is another one than that which the upstream has named (RFC 9110 section 8.8.3).
    fn apply(self, headers: &mut Headers<'_>) -> Result<(), HostError> {
        match self {
            Etag::Keep => Ok(()),
            Etag::Remove => headers.remove("etag"),
            Etag::Weak => match headers.get("etag")? {
                Some(etag) if !etag.as_bytes().starts_with(b"W/") => {
                    headers.set("etag", [b"W/", etag.as_bytes()].concat())
                }
                _ => Ok(()),
            },
        }
    }
}

/// Sums over a body that becomes another one (RFC 9530, RFC 3230, RFC 1864).
fn forget_digests(headers: &mut Headers<'_>) -> Result<(), HostError> {
    ["content-digest", "repr-digest", "digest", "content-md5"].into_iter().try_for_each(|name| headers.remove(name))
}

fn declared_length(headers: &Headers<'_>) -> Result<Option<usize>, HostError> {
    let length = headers.get("content-length")?;
    Ok(length.and_then(|length| length.to_str()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use wasm_sdk::testing::{Gateway, Message, get, post, request, response};

    const CONFIG: &str = r#"{
        "response": {
            "maxBytes": 40,
            "rules": [
                {"literal": "http://internal", "replace": "https://www"},
                {"regex": "v([0-9]+)", "replace": "version ${1}"}
            ]
        },
        "request": {"maxBytes": 20, "rules": [{"literal": "secret", "replace": "***"}]}
    }"#;

    fn gateway() -> Gateway<RewriteBody> {
        Gateway::start(CONFIG).unwrap()
    }

    fn with(config: &str) -> Gateway<RewriteBody> {
        Gateway::start(&CONFIG.replacen("\"maxBytes\": 40", &format!("\"maxBytes\": 40, {config}"), 1)).unwrap()
    }

    fn html() -> Message {
        response(200).header("content-type", "text/html; charset=utf-8")
    }

    /// What becomes of a response.
    fn rewritten(answer: Message) -> Message {
        gateway().exchange(get("/"), answer).response
    }

    #[test]
    fn matches_are_found_where_chunks_meet() {
        let body = "<a href='http://internal/v12'>";
        for cut in 1..body.len() {
            let (one, two) = body.split_at(cut);
            let answer = rewritten(html().chunk(one).chunk(two).chunk(""));
            assert_eq!(answer.body(), b"<a href='https://www/version 12'>", "{cut}");
            assert_eq!(answer.header_text("content-length"), None);
        }
        let trailers = rewritten(html().chunk("v").chunk("1").trailer("x-sum", "1"));
        assert_eq!((trailers.body(), trailers.trailer_text("x-sum")), (b"version 1".to_vec(), Some("1")));
    }

    #[test]
    fn what_the_head_says_of_the_body_is_corrected() {
        let answer = html().header("etag", "\"1\"").header("content-md5", "x").header("accept-ranges", "bytes");
        let seen = rewritten(answer.clone().with_body("v1"));
        assert_eq!(seen, html().header("etag", "W/\"1\"").chunk("version 1"));
        assert_eq!(rewritten(html().header("etag", "W/\"1\"").chunk("v1")).header_text("etag"), Some("W/\"1\""));
        for (config, etag) in [(r#""etag": "remove""#, None), (r#""etag": "keep""#, Some("\"1\""))] {
            let seen = with(config).exchange(get("/"), answer.clone().with_body("v1")).response;
            assert_eq!(seen.header_text("etag"), etag);
        }
    }

    #[test]
    fn what_is_not_meant_is_not_touched() {
        let gateway = gateway();
        for answer in [
            html().header("content-encoding", "gzip").with_body("v1"),
            response(200).header("content-type", "image/png").with_body("v1"),
            response(200).with_body("v1"),
            response(206).header("content-type", "text/html").header("etag", "\"1\"").with_body("v1"),
            response(304).header("content-type", "text/html").header("etag", "\"1\""),
            response(204).header("content-type", "text/html"),
        ] {
            assert_eq!(gateway.exchange(get("/"), answer.clone()).response, answer);
        }
        let head = html().header("content-length", "2").header("etag", "\"1\"");
        assert_eq!(gateway.exchange(request("HEAD", "/"), head.clone()).response, head);
        // Nothing found: the same bytes.
        assert_eq!(rewritten(html().with_body("plain")).body(), b"plain");
        assert_eq!(gateway.metric("rewrite_body_rewritten_total"), Some(0));
        // Encoded bodies only if that is asked for, and the usual word for "not encoded" is none.
        let encoded = html().header("content-encoding", "x-rot0").with_body("v1");
        assert_eq!(with(r#""encoded": true"#).exchange(get("/"), encoded).response.body(), b"version 1");
        assert_eq!(rewritten(html().header("content-encoding", "identity").with_body("v1")).body(), b"version 1");
    }

    #[test]
    fn upstreams_are_asked_for_what_can_be_read() {
        let sent =
            || get("/").header("accept-encoding", "gzip").header("range", "bytes=0-1").header("if-range", "\"1\"");
        assert_eq!(gateway().send(sent()).upstream, Some(get("/")));
        let kept = CONFIG.replacen('{', r#"{"askForPlain": false, "#, 1);
        assert_eq!(Gateway::<RewriteBody>::start(&kept).unwrap().send(sent()).upstream, Some(sent()));
    }

    #[test]
    fn requests_are_rewritten_too() {
        let form = |message: Message| message.header("content-type", "application/json");
        let upstream = gateway().send(form(post("/", "my secret"))).upstream.unwrap();
        assert_eq!((upstream.body(), upstream.header_text("content-length")), (b"my ***".to_vec(), None));
        let long = form(post("/", "s".repeat(21)));
        assert_eq!(gateway().send(long.clone()).upstream, Some(long));
    }

    #[test]
    fn what_is_too_large_passes_or_fails() {
        let long = "v1 ".repeat(20);
        let pieces = || html().chunk(&long[..30]).chunk(&long[30..]);
        let gateway = gateway();
        // With a length the head shows it, without one it turns out later.
        assert_eq!(gateway.exchange(get("/"), html().with_body(&long)).response, html().with_body(&long));
        assert_eq!(gateway.exchange(get("/"), pieces()).response.body(), long.as_bytes());
        // What comes out counts, too.
        let grows = Gateway::<RewriteBody>::start(&format!(
            r#"{{"response": {{"rules": [{{"literal": "a", "replace": "{}"}}]}}}}"#,
            "b".repeat(10_000)
        ));
        assert_eq!(grows.unwrap().exchange(get("/"), html().with_body("a".repeat(200))).response.body(), [b'a'; 200]);
        assert_eq!(gateway.metric("rewrite_body_too_large_total"), Some(3));
        let fails = with(r#""tooLarge": "fail""#);
        assert_eq!(fails.exchange(get("/"), html().with_body(&long)).response.status(), 502);
        assert_eq!(fails.exchange(get("/"), pieces()).response.status(), 502);
        let fails = CONFIG.replace("\"maxBytes\": 20", "\"maxBytes\": 20, \"tooLarge\": \"fail\"");
        let sent = post("/", "s".repeat(21)).header("content-type", "text/plain");
        assert_eq!(Gateway::<RewriteBody>::start(&fails).unwrap().send(sent).response.status(), 413);
    }

    #[test]
    fn every_problem_is_named_by_its_field() {
        let config = r#"{
            "request": {"rules": [], "etag": "weak"},
            "response": {
                "maxBytes": 2000000, "contentTypes": ["html"],
                "rules": [
                    {"literal": "", "replace": ""}, {"regex": "(", "replace": ""}, {"regex": "a", "replace": "$1"},
                    {"replace": "x"}, {"literal": "a", "regex": "a", "replace": ""}
                ]
            }
        }"#;
        let text = Gateway::<RewriteBody>::start(config).err().unwrap().to_string();
        for part in [
            "`request.rules`",
            "`request.etag`",
            "`response.maxBytes`",
            "`response.contentTypes[0]`",
            "`response.rules[0].literal`",
            "`response.rules[1].regex`",
            "`response.rules[2].replace`",
            "`response.rules[3]`: needs one of",
            "`response.rules[4]`: needs one of",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
        for (config, part) in [
            ("", "neither `request` nor `response`"),
            (r#"{"response": {"rules": [{"literal": "a"}]}}"#, "missing field `replace`"),
            (r#"{"responce": {}}"#, "unknown field `responce`"),
        ] {
            let text = Gateway::<RewriteBody>::start(config).err().unwrap().to_string();
            assert!(text.contains(part), "{part} not in {text}");
        }
    }
}
