//! The plugin of `tests/languages/README.md` in Rust, on the crate `proxy-wasm`.
#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, reason = "the only public item is what a macro exports")]

use proxy_wasm::{
    hostcalls,
    traits::{Context, HttpContext, RootContext},
    types::{Action, ContextType, LogLevel, MapType, MetricType, Status},
};
use std::{cell::RefCell, rc::Rc, time::Duration};

const LANGUAGE: &str = "Rust";

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    metrics: Metrics,
    /// Streams that wait for a tick.
    waiting: Rc<RefCell<Vec<u32>>>,
}

#[derive(Clone, Copy, Default)]
struct Metrics {
    counter: u32,
    gauge: u32,
    histogram: u32,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let define = |kind, name| hostcalls::define_metric(kind, name).unwrap_or_default();
        self.metrics = Metrics {
            counter: define(MetricType::Counter, "lang_rust_counter"),
            gauge: define(MetricType::Gauge, "lang_rust_gauge"),
            histogram: define(MetricType::Histogram, "lang_rust_histogram"),
        };
        true
    }

    fn on_tick(&mut self) {
        for stream in self.waiting.take() {
            if hostcalls::set_effective_context(stream).is_ok() {
                let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, "x-ticked", Some("yes"));
                let _ = hostcalls::resume_http_request();
            }
        }
        self.set_tick_period(Duration::ZERO);
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { id, wish: String::new(), metrics: self.metrics, waiting: Rc::clone(&self.waiting) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream {
    id: u32,
    wish: String,
    metrics: Metrics,
    waiting: Rc<RefCell<Vec<u32>>>,
}

impl Stream {
    fn change_headers(&self) {
        if let Some(bytes) = self.get_http_request_header_bytes("x-bytes") {
            self.add_http_request_header_bytes("x-copy", &bytes);
        }
        self.add_http_request_header("x-add", "one");
        self.add_http_request_header("x-add", "two");
        self.set_http_request_header("x-set", Some("set"));
        self.set_http_request_header("x-gone", None);
    }

    fn count(&self) {
        loop {
            let (value, cas) = self.get_shared_data("count");
            let number =
                value.and_then(|value| std::str::from_utf8(&value).ok()?.parse::<u64>().ok()).unwrap_or_default();
            let next = (number + 1).to_string();
            match self.set_shared_data("count", Some(next.as_bytes()), cas) {
                Err(Status::CasMismatch) => {}
                _ => return self.set_http_request_header("x-counted", Some(&next)),
            }
        }
    }

    fn measure(&self) {
        let _ = hostcalls::increment_metric(self.metrics.counter, 2);
        let _ = hostcalls::record_metric(self.metrics.gauge, 7);
        let _ = hostcalls::record_metric(self.metrics.histogram, 5);
        let value = hostcalls::get_metric(self.metrics.counter).unwrap_or_default();
        self.set_http_request_header("x-metric", Some(&value.to_string()));
    }
}

impl Context for Stream {
    fn on_http_call_response(&mut self, _: u32, _: usize, size: usize, _: usize) {
        let status = self.get_http_call_response_header(":status").unwrap_or_default();
        let body = self.get_http_call_response_body(0, size).unwrap_or_default();
        self.set_http_request_header("x-answer", Some(&format!("{status} {}", String::from_utf8_lossy(&body))));
        self.resume_http_request();
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.wish = self.get_http_request_header("x-do").unwrap_or_default();
        match self.wish.as_str() {
            "headers" => self.change_headers(),
            "body" => self.set_http_request_header("content-length", None),
            "reply" => {
                let body = format!("refused in {LANGUAGE}");
                self.send_http_response(403, vec![("x-reply", "yes")], Some(body.as_bytes()));
                return Action::Pause;
            }
            "call" => {
                let headers = vec![(":method", "GET"), (":path", "/asked"), (":authority", "callee.example.dev")];
                let callee = "outbound|80||callee.default.svc.cluster.local";
                match self.dispatch_http_call(callee, headers, None, vec![], Duration::from_secs(5)) {
                    Ok(_) => return Action::Pause,
                    Err(_) => self.set_http_request_header("x-answer", Some("no call")),
                }
            }
            "count" => self.count(),
            "metrics" => self.measure(),
            "tick" => {
                self.waiting.borrow_mut().push(self.id);
                let _ = hostcalls::set_tick_period(Duration::from_millis(20));
                return Action::Pause;
            }
            "property" => {
                let method = self.get_property(vec!["request", "method"]).unwrap_or_default();
                self.set_http_request_header("x-property", Some(&String::from_utf8_lossy(&method)));
            }
            "log" => drop(hostcalls::log(LogLevel::Info, &format!("hello from {LANGUAGE}"))),
            _ => {}
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if self.wish == "body" {
            if !end {
                return Action::Pause;
            }
            let body = self.get_http_request_body(0, size).unwrap_or_default();
            self.set_http_request_body(0, size, &body.to_ascii_uppercase());
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.add_http_response_header("x-plugin", LANGUAGE);
        match self.wish.as_str() {
            "headers" => self.set_http_response_header("x-gone", None),
            "body" => self.set_http_response_header("content-length", None),
            _ => {}
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if self.wish == "body" {
            if !end {
                return Action::Pause;
            }
            self.set_http_response_body(0, 0, b"[");
            self.set_http_response_body(size + 1, 0, b"]");
        }
        Action::Continue
    }
}
