//! A plugin for TCP connections: it changes lines, holds back what is not a whole line, and closes what it does not like.
//!
//! What the client sends goes on in upper case, line by line; `close` closes the connection, `trap` fails the plugin.
//! What the service sends goes on between `<` and `>`. The configuration `{"refuse": true}` closes every connection at
//! once, `{"wait": true}` lets them go on at the next tick.
#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, reason = "the only public item is what a macro exports")]

use proxy_wasm::{
    hostcalls,
    traits::{Context, RootContext, StreamContext},
    types::{Action, ContextType, LogLevel, MetricType, PeerType},
};
use std::{cell::RefCell, rc::Rc, time::Duration};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    configuration: String,
    waiting: Rc<RefCell<Vec<u32>>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.configuration = String::from_utf8_lossy(&self.get_plugin_configuration().unwrap_or_default()).into_owned();
        if self.configuration.contains("wait") {
            self.set_tick_period(Duration::from_millis(10));
        }
        true
    }

    fn on_tick(&mut self) {
        for stream in self.waiting.take() {
            if hostcalls::set_effective_context(stream).is_ok() {
                let _ = hostcalls::resume_downstream();
            }
        }
    }

    fn create_stream_context(&self, id: u32) -> Option<Box<dyn StreamContext>> {
        let (configuration, waiting) = (self.configuration.clone(), Rc::clone(&self.waiting));
        Some(Box::new(Connection { id, configuration, waiting, events: Vec::new() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::StreamContext)
    }
}

struct Connection {
    id: u32,
    configuration: String,
    waiting: Rc<RefCell<Vec<u32>>>,
    events: Vec<String>,
}

impl Context for Connection {
    fn on_done(&mut self) -> bool {
        self.events.push("done".to_owned());
        true
    }
}

fn peer(peer: PeerType) -> &'static str {
    match peer {
        PeerType::Unknown => "unknown",
        PeerType::Local => "local",
        PeerType::Remote => "remote",
        _ => "other",
    }
}

impl StreamContext for Connection {
    fn on_new_connection(&mut self) -> Action {
        let source = self.get_property(vec!["source", "address"]).unwrap_or_default();
        let known = String::from_utf8_lossy(&source).starts_with("127.0.0.1:");
        self.events.push(format!("new/{known}"));
        if self.configuration.contains("refuse") {
            self.close_downstream();
        }
        if self.configuration.contains("wait") {
            self.waiting.borrow_mut().push(self.id);
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_downstream_data(&mut self, size: usize, end: bool) -> Action {
        let data = self.get_downstream_data(0, size).unwrap_or_default();
        self.events.push(format!("down/{size}/{end}"));
        if data.starts_with(b"close") {
            self.close_upstream();
        }
        assert!(!data.starts_with(b"trap"), "asked to");
        if !data.ends_with(b"\n") && !end {
            return Action::Pause;
        }
        self.set_downstream_data(0, size, &data.to_ascii_uppercase());
        Action::Continue
    }

    fn on_upstream_data(&mut self, size: usize, end: bool) -> Action {
        self.events.push(format!("up/{size}/{end}"));
        if size > 0 {
            self.set_upstream_data(0, 0, b"<");
            self.set_upstream_data(size + 1, 0, b">");
        }
        Action::Continue
    }

    fn on_downstream_close(&mut self, by: PeerType) {
        self.events.push(format!("downstream_close/{}", peer(by)));
    }

    fn on_upstream_close(&mut self, by: PeerType) {
        self.events.push(format!("upstream_close/{}", peer(by)));
    }

    fn on_log(&mut self) {
        let name = self.events.join("-");
        if let Ok(metric) = hostcalls::define_metric(MetricType::Counter, &name) {
            let _ = hostcalls::increment_metric(metric, 1);
        }
    }
}
