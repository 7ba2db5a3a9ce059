//! A plugin that does in each callback what the request asks for: the worst, too.
//!
//! It is written on the `proxy-wasm` crate and not on our SDK, as other people's plugins are. Which plugin it is stands
//! in its configuration, `{"name": "a"}`; then the request header `x-probe-a` says what it does, as `script.rs` explains.
//! Without being asked it adds its name to the header `x-trace` of request and response, so that a test sees the order
//! of a chain.
#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, reason = "the only public item is what a macro exports")]

mod script;
mod stream;

use proxy_wasm::{
    hostcalls,
    traits::{Context, HttpContext, RootContext},
    types::{ContextType, LogLevel, MetricType},
};
use script::Step;
use std::{cell::RefCell, rc::Rc, time::Duration};
use stream::Stream;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root { settings: Rc::default(), paused: Paused::default(), ticked: false }));
}}

/// How long a paused stream waits for the next tick.
const TICK: Duration = Duration::from_millis(10);

/// What the configuration says.
#[derive(Default)]
struct Settings {
    name: String,
    /// What every stream does, besides what its request asks for.
    always: Vec<Step>,
    metrics: Metrics,
}

/// What a tick does with a stream that waits for it.
enum Waiting {
    ResumeRequest,
    ResumeResponse,
    Reply(u32),
    Trap,
    Loop,
}

/// A stream that waits for a tick.
struct Waits {
    stream: u32,
    at: &'static str,
    what: Waiting,
}

/// All of them.
type Paused = Rc<RefCell<Vec<Waits>>>;

/// Metrics of the plugin's own.
#[derive(Default)]
struct Metrics {
    /// Streams between their creation and their end.
    open: u32,
    /// Streams that were logged.
    logged: u32,
    /// Bytes of request bodies that were seen.
    body: u32,
    /// Instances whose timer has run.
    ticked: u32,
}

struct Root {
    settings: Rc<Settings>,
    paused: Paused,
    ticked: bool,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let text = self.get_plugin_configuration().unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let always = script::parse(script::string(&text, "always"));
        for step in always.iter().filter(|step| step.at == "start") {
            match step.action.as_str() {
                "refuse" => return false,
                "tick" => self.set_tick_period(TICK),
                _ => step.misbehave(),
            }
        }
        let define = |kind, name| hostcalls::define_metric(kind, name).unwrap_or_default();
        self.settings = Rc::new(Settings {
            name: script::string(&text, "name").to_owned(),
            always,
            metrics: Metrics {
                open: define(MetricType::Gauge, "probe_open_streams"),
                logged: define(MetricType::Counter, "probe_logged_streams"),
                body: define(MetricType::Histogram, "probe_request_body_bytes"),
                ticked: define(MetricType::Counter, "probe_first_ticks"),
            },
        });
        true
    }

    fn on_tick(&mut self) {
        if !std::mem::replace(&mut self.ticked, true) {
            let _ = hostcalls::increment_metric(self.settings.metrics.ticked, 1);
        }
        let paused = std::mem::take(&mut *self.paused.borrow_mut());
        for Waits { stream, what, .. } in paused {
            // A stream that has ended meanwhile is unknown to the host.
            if hostcalls::set_effective_context(stream).is_err() {
                continue;
            }
            let done = match what {
                Waiting::ResumeRequest => hostcalls::resume_http_request(),
                Waiting::ResumeResponse => hostcalls::resume_http_response(),
                Waiting::Reply(status) => {
                    hostcalls::send_http_response(status, vec![("x-reply", "tick")], Some(b"tick"))
                }
                Waiting::Trap => panic!("asked to"),
                Waiting::Loop => script::forever(),
            };
            if let Err(status) = done {
                let _ = hostcalls::log(LogLevel::Error, &format!("tick: {status:?}"));
            }
        }
        self.set_tick_period(Duration::ZERO);
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::new(id, Rc::clone(&self.settings), Rc::clone(&self.paused))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
