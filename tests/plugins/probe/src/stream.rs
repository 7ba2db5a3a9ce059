//! One request and its response on the way through the probe.

use crate::{
    Paused, Settings, TICK, Waiting, Waits,
    script::{self, Step},
};
use proxy_wasm::{
    hostcalls,
    traits::{Context, HttpContext},
    types::{Action, BufferType, GrpcStatusCode, MapType},
};
use std::rc::Rc;

/// Where a stream is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Log,
}

impl At {
    fn name(self) -> &'static str {
        match self {
            At::RequestHeaders => "request_headers",
            At::RequestBody => "request_body",
            At::RequestTrailers => "request_trailers",
            At::ResponseHeaders => "response_headers",
            At::ResponseBody => "response_body",
            At::ResponseTrailers => "response_trailers",
            At::Log => "log",
        }
    }

    fn is_request(self) -> bool {
        matches!(self, At::RequestHeaders | At::RequestBody | At::RequestTrailers)
    }

    /// The headers or trailers that can be changed here.
    fn map(self) -> MapType {
        match self {
            At::RequestHeaders | At::RequestBody | At::Log => MapType::HttpRequestHeaders,
            At::RequestTrailers => MapType::HttpRequestTrailers,
            At::ResponseHeaders | At::ResponseBody => MapType::HttpResponseHeaders,
            At::ResponseTrailers => MapType::HttpResponseTrailers,
        }
    }

    fn body(self) -> BufferType {
        if self.is_request() { BufferType::HttpRequestBody } else { BufferType::HttpResponseBody }
    }
}

pub(crate) struct Stream {
    id: u32,
    settings: Rc<Settings>,
    paused: Paused,
    steps: Vec<Step>,
    /// What has paused this stream once does not pause it again.
    has_paused: Vec<&'static str>,
}

impl Stream {
    pub(crate) fn new(id: u32, settings: Rc<Settings>, paused: Paused) -> Stream {
        let _ = hostcalls::increment_metric(settings.metrics.open, 1);
        for step in settings.always.iter().filter(|step| step.at == "create") {
            step.misbehave();
        }
        let steps = settings.always.clone();
        Stream { id, settings, paused, steps, has_paused: Vec::new() }
    }

    fn trace(&self, at: At) {
        let _ = hostcalls::add_map_value(at.map(), "x-trace", &self.settings.name);
    }

    fn run(&mut self, at: At, end: bool) -> Action {
        for step in self.steps.clone().into_iter().filter(|step| step.at == at.name()) {
            if self.carry_out(at, end, &step) == Action::Pause {
                return Action::Pause;
            }
        }
        Action::Continue
    }

    /// Stops here until the next tick does `what`. False if that has been.
    fn wait(&mut self, at: At, what: Waiting) -> Action {
        if self.paused.borrow().iter().any(|paused| paused.stream == self.id && paused.at == at.name()) {
            return Action::Pause;
        }
        if self.has_paused.contains(&at.name()) {
            return Action::Continue;
        }
        self.has_paused.push(at.name());
        self.paused.borrow_mut().push(Waits { stream: self.id, at: at.name(), what });
        let _ = hostcalls::set_tick_period(TICK);
        Action::Pause
    }

    fn carry_out(&mut self, at: At, end: bool, step: &Step) -> Action {
        let argument = step.argument.as_str();
        let number = || argument.parse().unwrap_or(500);
        match step.action.as_str() {
            // Pausing.
            "pause" => {
                let what = if at.is_request() { Waiting::ResumeRequest } else { Waiting::ResumeResponse };
                return self.wait(at, what);
            }
            "tick-reply" => return self.wait(at, Waiting::Reply(number())),
            "tick-trap" => return self.wait(at, Waiting::Trap),
            "tick-loop" => return self.wait(at, Waiting::Loop),
            "hang" => return Action::Pause,
            // What stands behind it happens when all of the body is there.
            "whole" if !end => return Action::Pause,
            // Answering.
            "reply" => {
                let body = format!("{} at {}", self.settings.name, at.name());
                self.send_http_response(number(), vec![("x-reply", at.name())], Some(body.as_bytes()));
                return Action::Pause;
            }
            "grpc-reply" => {
                self.send_grpc_response(GrpcStatusCode::PermissionDenied, Some(argument), vec![("x-reply", b"grpc")]);
                return Action::Pause;
            }
            "reset" => {
                let _ =
                    if at.is_request() { hostcalls::reset_http_request() } else { hostcalls::reset_http_response() };
                return Action::Pause;
            }
            // Changing bodies.
            "append" => self.edit(at, usize::MAX, 0, argument.as_bytes()),
            "append-at-end" if end => self.edit(at, usize::MAX, 0, argument.as_bytes()),
            "prepend" => self.edit(at, 0, 0, argument.as_bytes()),
            "replace" => self.edit(at, 0, usize::MAX, argument.as_bytes()),
            "upper" => {
                let body = hostcalls::get_buffer(at.body(), 0, u32::MAX as usize).ok().flatten().unwrap_or_default();
                self.edit(at, 0, usize::MAX, &body.to_ascii_uppercase());
            }
            // More bytes than a plugin may hold back.
            "flood" => self.edit(at, usize::MAX, 0, &vec![b'x'; number() as usize]),
            // Changing headers and trailers.
            "set" | "add" => {
                let (name, value) = argument.split_once(',').unwrap_or((argument, ""));
                let _ = match step.action.as_str() {
                    "set" => hostcalls::set_map_value(at.map(), name, Some(value)),
                    _ => hostcalls::add_map_value(at.map(), name, value),
                };
            }
            "remove" => {
                let _ = hostcalls::remove_map_value(at.map(), argument);
            }
            // `x-property: PATH=VALUE`
            "property" => {
                let value = hostcalls::get_property(argument.split('.').collect()).ok().flatten();
                let text = format!("{argument}={}", value.map_or("none".to_owned(), |bytes| readable(&bytes)));
                let _ = hostcalls::add_map_value(at.map(), "x-property", &text);
            }
            _ => step.misbehave(),
        }
        Action::Continue
    }

    fn edit(&self, at: At, start: usize, size: usize, bytes: &[u8]) {
        let start = start.min(i32::MAX as usize);
        let _ = hostcalls::set_buffer(at.body(), start, size.min(i32::MAX as usize), bytes);
    }
}

/// A property as text: numbers come as eight bytes.
fn readable(bytes: &[u8]) -> String {
    match <[u8; 8]>::try_from(bytes) {
        Ok(number) if !bytes.iter().all(u8::is_ascii_graphic) => i64::from_le_bytes(number).to_string(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        if let Some(text) = self.get_http_request_header(&format!("x-probe-{}", self.settings.name)) {
            self.steps.extend(script::parse(&text));
        }
        self.trace(At::RequestHeaders);
        self.run(At::RequestHeaders, end)
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        let _ = hostcalls::record_metric(self.settings.metrics.body, size as u64);
        self.run(At::RequestBody, end)
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.run(At::RequestTrailers, true)
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        self.trace(At::ResponseHeaders);
        self.run(At::ResponseHeaders, end)
    }

    fn on_http_response_body(&mut self, _: usize, end: bool) -> Action {
        self.run(At::ResponseBody, end)
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.run(At::ResponseTrailers, true)
    }

    fn on_log(&mut self) {
        let _ = hostcalls::increment_metric(self.settings.metrics.logged, 1);
        self.run(At::Log, true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = hostcalls::increment_metric(self.settings.metrics.open, -1);
    }
}
