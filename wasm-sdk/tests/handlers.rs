//! What a plugin sees and what its answers lead to, with a plugin that does what its configuration says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use serde::Deserialize;
use wasm_sdk::log::Level;
use wasm_sdk::testing::{Gateway, Message, get, post, response};
use wasm_sdk::{Body, BodyFlow, Error, Flow, Plugin, Reply, Request, Response, Result};

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Config {
    on_request: Step,
    on_body: BodyStep,
    on_response: Step,
    on_response_body: BodyStep,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case")]
enum Step {
    #[default]
    Nothing,
    Add(String, String),
    Set(String, String),
    Remove(String),
    Path(String),
    EditBody,
    Reply(u16),
    Fail,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case")]
enum BodyStep {
    #[default]
    Nothing,
    /// Upper case, chunk by chunk.
    Shout,
    /// Waits for the whole body and replaces it by its length.
    Measure,
    Reply(u16),
}

struct Probe(Config);

/// Bytes seen in body handlers, and how often they saw the end.
#[derive(Default)]
struct Seen {
    chunks: Vec<usize>,
    ends: usize,
}

impl Probe {
    fn step(step: &Step, headers: &mut wasm_sdk::Headers<'_>) -> Result<Flow> {
        match step {
            Step::Add(name, value) => headers.add(name, value)?,
            Step::Set(name, value) => headers.set(name, value)?,
            Step::Remove(name) => headers.remove(name)?,
            Step::Path(path) => headers.set(":path", path)?,
            Step::Reply(status) => return Ok(Flow::Respond(Reply::new(*status).text("from the plugin"))),
            Step::Fail => return Err(Error::new("out of luck")),
            Step::Nothing | Step::EditBody => {}
        }
        Ok(Flow::Continue)
    }

    fn body_step(step: &BodyStep, body: &mut Body<'_>, seen: &mut Seen) -> Result<BodyFlow> {
        seen.chunks.push(body.len());
        seen.ends += usize::from(body.is_complete());
        match step {
            BodyStep::Nothing => {}
            BodyStep::Shout => body.replace(body.bytes()?.to_ascii_uppercase())?,
            BodyStep::Measure => match body.whole()? {
                None => return Ok(BodyFlow::Wait),
                Some(bytes) => body.replace(bytes.len().to_string())?,
            },
            BodyStep::Reply(status) => return Ok(BodyFlow::Respond(Reply::new(*status))),
        }
        Ok(BodyFlow::Continue)
    }
}

#[wasm_sdk::plugin]
impl Plugin for Probe {
    type Config = Config;
    type Context = Seen;

    fn configure(config: Config) -> Result<Probe> {
        Ok(Probe(config))
    }

    fn on_request(&self, request: &mut Request<'_>, _: &mut Seen) -> Result<Flow> {
        if matches!(self.0.on_request, Step::EditBody) {
            request.edit_body()?;
        }
        Probe::step(&self.0.on_request, &mut request.headers())
    }

    fn on_request_body(&self, body: &mut Body<'_>, seen: &mut Seen) -> Result<BodyFlow> {
        Probe::body_step(&self.0.on_body, body, seen)
    }

    fn on_response(&self, response: &mut Response<'_>, seen: &mut Seen) -> Result<Flow> {
        wasm_sdk::debug!("request chunks {:?}, ends {}", seen.chunks, seen.ends);
        if matches!(self.0.on_response, Step::EditBody) {
            response.edit_body()?;
        }
        Probe::step(&self.0.on_response, &mut response.headers())
    }

    fn on_response_body(&self, body: &mut Body<'_>, seen: &mut Seen) -> Result<BodyFlow> {
        Probe::body_step(&self.0.on_response_body, body, seen)
    }
}

fn gateway(config: &str) -> Gateway<Probe> {
    Gateway::start(config).unwrap()
}

/// The request as the upstream saw it.
fn upstream(config: &str, request: Message) -> Message {
    gateway(config).send(request).upstream.unwrap()
}

#[test]
fn a_header_costs_one_call() {
    let exchange = gateway(r#"{"on_request": {"add": ["X-Team", "edge"]}}"#).send(get("/").header("x-team", "a"));
    let values = exchange.upstream.as_ref().unwrap().header_values("x-team");
    assert_eq!(values, ["a", "edge"]);
    assert_eq!(exchange.host_calls, 1);
    assert_eq!(exchange.response, response(200));
}

#[test]
fn set_collapses_duplicates_and_remove_takes_all() {
    let twice = || get("/").header("X-A", "1").header("x-b", "2").header("x-a", "3");
    assert_eq!(upstream(r#"{"on_request": {"set": ["x-A", "new"]}}"#, twice()).header_values("x-a"), ["new"]);
    let removed = upstream(r#"{"on_request": {"remove": "X-A"}}"#, twice());
    assert_eq!(removed, get("/").header("x-b", "2"));
}

#[test]
fn bytes_pass_through_every_call() {
    let raw = [b'v', 0xff, 0xfe];
    let request = get("/").header("x-raw", raw);
    assert_eq!(
        upstream(r#"{"on_request": {"path": "/other"}}"#, request).header_value("x-raw").unwrap().as_bytes(),
        raw
    );
}

#[test]
fn a_reply_never_reaches_the_upstream_and_passes_the_response_handler() {
    let config = r#"{"on_request": {"reply": 403}, "on_response": {"add": ["x-seen", "yes"]}}"#;
    let exchange = gateway(config).send(get("/"));
    assert!(exchange.upstream.is_none());
    assert_eq!(exchange.response.status(), 403);
    assert_eq!(exchange.response.body(), b"from the plugin");
    assert_eq!(exchange.response.header_text("content-length"), Some("15"));
    assert_eq!(exchange.response.header_text("x-seen"), Some("yes"));
    assert!(!exchange.reset);
}

#[test]
fn a_reply_to_a_response_replaces_it() {
    let answer = response(200).with_body("secret");
    let exchange = gateway(r#"{"on_response": {"reply": 502}}"#).exchange(get("/"), answer);
    assert_eq!((exchange.response.status(), exchange.reset), (502, false));
    assert_eq!(exchange.response.body(), b"from the plugin");
}

#[test]
fn a_failing_handler_is_a_500_and_says_why() {
    let exchange = gateway(r#"{"on_request": "fail"}"#).send(get("/"));
    assert!(exchange.upstream.is_none());
    assert_eq!(exchange.response.status(), 500);
    assert_eq!(exchange.logs[0], (Level::Error, "request headers: out of luck; answering 500".to_owned()));

    let exchange = gateway(r#"{"on_response": {"set": ["x-a", "b\r\nset-cookie: c"]}}"#).send(get("/"));
    assert_eq!(exchange.response, response(500));
    let (level, text) = exchange.logs.last().unwrap();
    assert_eq!(*level, Level::Error);
    assert!(text.starts_with("response headers: setting header `x-a` failed with status 2"), "{text}");
}

#[test]
fn a_reply_that_is_not_legal_becomes_a_500() {
    let exchange = gateway(r#"{"on_request": {"reply": 99}}"#).send(get("/"));
    assert_eq!(exchange.response.status(), 500);
    assert!(exchange.logs[0].1.contains("cannot have the status 99"), "{:?}", exchange.logs);
}

#[test]
fn chunks_stream_through_the_body_handler() {
    let request = post("/", "abc").chunk("de");
    let exchange = gateway(r#"{"on_body": "shout"}"#).send(request);
    assert_eq!(exchange.upstream.unwrap().body(), b"ABCDE");
    assert_eq!(exchange.logs[0].1, "request chunks [3, 2], ends 1");
}

#[test]
fn a_whole_body_is_collected_and_replaced() {
    let config = r#"{"on_request": "edit-body", "on_body": "measure"}"#;
    let exchange = gateway(config).send(post("/", "0123456789").chunk("ab"));
    let upstream = exchange.upstream.unwrap();
    assert_eq!(upstream.body(), b"12");
    assert_eq!(upstream.header_text("content-length"), None);
    assert_eq!(exchange.logs[0].1, "request chunks [10, 12], ends 1");
}

#[test]
fn trailers_end_a_body_that_is_waited_for() {
    let config = r#"{"on_response": "edit-body", "on_response_body": "measure"}"#;
    let answer = response(200).chunk("01234").chunk("567").trailer("x-end", "1");
    let exchange = gateway(config).exchange(get("/"), answer);
    assert_eq!(exchange.response.body(), b"8");
    assert_eq!(upstream(r#"{"on_body": "shout"}"#, get("/").chunk("a").trailer("x-end", "1")).body(), b"A");
}

#[test]
fn a_length_that_was_not_announced_cannot_change() {
    let exchange = gateway(r#"{"on_body": "measure"}"#).send(post("/", "0123456789"));
    assert!(exchange.upstream.is_none());
    assert_eq!(exchange.response.status(), 500);
    assert!(exchange.logs[0].1.contains("edit_body()"), "{:?}", exchange.logs);
}

#[test]
fn requests_without_a_body_skip_the_body_handler() {
    let exchange = gateway(r#"{"on_body": {"reply": 413}}"#).send(get("/"));
    assert!(exchange.upstream.is_some());
    let exchange = gateway(r#"{"on_body": {"reply": 413}}"#).send(post("/", "x"));
    assert_eq!(exchange.response.status(), 413);
}

#[test]
fn a_reply_after_the_response_has_begun_resets_it() {
    let answer = response(200).with_body("abc");
    let exchange = gateway(r#"{"on_response_body": {"reply": 500}}"#).exchange(get("/"), answer);
    assert!(exchange.reset);
}

#[test]
fn streams_do_not_share_their_context() {
    let gateway = gateway(r#"{"on_body": "shout"}"#);
    for _ in 0..2 {
        assert_eq!(gateway.send(post("/", "abc")).logs[0].1, "request chunks [3], ends 1");
    }
}

#[test]
fn a_configuration_is_refused_by_its_field() {
    let problem = |config| Gateway::<Probe>::start(config).err().unwrap().to_string();
    assert_eq!(
        problem(r#"{"on_request": {"reply": "no"}}"#),
        "field `on_request.reply`: invalid type: string \"no\", expected u16"
    );
    assert!(problem(r#"{"on_reqest": "fail"}"#).contains("unknown field `on_reqest`"));
    assert!(Gateway::<Probe>::start("").is_ok());
}
