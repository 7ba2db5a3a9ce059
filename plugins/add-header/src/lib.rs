//! A plugin that adds, sets and removes headers of requests and responses, as its configuration says.
//!
//! Owns which header operations it accepts (`rules`) and carries them out. See README.md for the configuration.

mod rules;

use rules::{Config, Rules};
use wasm_sdk::{Error, Flow, Headers, HostError, Plugin, Request, Response, Result};

/// The plugin: two lists of operations, checked once and then only carried out.
pub struct AddHeader {
    request: Rules,
    response: Rules,
}

#[wasm_sdk::plugin]
impl Plugin for AddHeader {
    type Config = Config;
    type Context = ();

    fn configure(config: Config) -> Result<AddHeader> {
        let mut problems = Vec::new();
        let request = Rules::check("request", config.request, &mut problems);
        let response = Rules::check("response", config.response, &mut problems);
        match Error::all(problems) {
            Some(error) => Err(error),
            None => Ok(AddHeader { request, response }),
        }
    }

    fn on_request(&self, request: &mut Request<'_>, _: &mut ()) -> Result<Flow> {
        apply(&self.request, &mut request.headers())?;
        Ok(Flow::Continue)
    }

    fn on_response(&self, response: &mut Response<'_>, _: &mut ()) -> Result<Flow> {
        apply(&self.response, &mut response.headers())?;
        Ok(Flow::Continue)
    }
}

/// Removes first, then sets, then adds: the order of a VirtualService.
fn apply(rules: &Rules, headers: &mut Headers<'_>) -> Result<(), HostError> {
    for name in &rules.remove {
        headers.remove(name)?;
    }
    for (name, value) in &rules.set {
        headers.set(name, value)?;
    }
    for (name, value) in &rules.add {
        headers.add(name, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use wasm_sdk::testing::{Gateway, Message, get, response};

    fn gateway(config: &str) -> Gateway<AddHeader> {
        Gateway::start(config).unwrap()
    }

    fn request_through(config: &str, request: Message) -> Message {
        gateway(config).send(request).upstream.unwrap()
    }

    #[test]
    fn add_keeps_and_set_replaces_what_the_client_sent() {
        let sent = || get("/").header("x-a", "client");
        let added = request_through(r#"{"request": {"add": {"X-A": "edge"}}}"#, sent());
        assert_eq!(added.header_values("x-a"), ["client", "edge"]);
        let set = request_through(r#"{"request": {"set": {"X-A": "edge"}}}"#, sent());
        assert_eq!(set.header_values("x-a"), ["edge"]);
    }

    #[test]
    fn remove_happens_before_set_and_add() {
        let config = r#"{"request": {"add": {"x-a": "2"}, "set": {"x-a": "1"}, "remove": ["x-a", "X-B"]}}"#;
        let sent = get("/").header("x-a", "client").header("x-b", "client");
        assert_eq!(request_through(config, sent), get("/").header("x-a", "1").header("x-a", "2"));
    }

    #[test]
    fn responses_have_rules_of_their_own() {
        let config = r#"{"response": {"set": {"x-edge": "yes"}, "remove": ["server"]}}"#;
        let exchange = gateway(config).exchange(get("/"), response(404).header("server", "nginx"));
        assert_eq!(exchange.response, response(404).header("x-edge", "yes"));
        assert_eq!(exchange.upstream, Some(get("/")));
    }

    #[test]
    fn each_operation_costs_one_call_to_the_host() {
        let config = r#"{"request": {"add": {"x-a": "1"}}, "response": {"add": {"x-b": "1"}, "remove": ["x-c"]}}"#;
        assert_eq!(gateway(config).send(get("/")).host_calls, 3);
        assert_eq!(gateway("").send(get("/")).host_calls, 0);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = r#"{"request": {"set": {"x y": "1"}}, "response": {"remove": ["content-length"], "add": {":status": "200"}}}"#;
        let text = Gateway::<AddHeader>::start(config).err().unwrap().to_string();
        for part in ["`request.set.x y`", "`response.remove.content-length`", "`response.add.:status`"] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }
}
