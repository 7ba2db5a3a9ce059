//! A plugin that calls services, as the request's header `x-call` says: words separated by spaces.
//!
//! | words | what it does |
//! |---|---|
//! | `http UPSTREAM PATH [MILLISECONDS]` | a GET |
//! | `post UPSTREAM PATH BODY` | a POST with trailers |
//! | `incomplete UPSTREAM` | a request without `:path` |
//! | `many UPSTREAM PATH NUMBER` | as many calls at once |
//! | `unary UPSTREAM METHOD MESSAGE` | a unary gRPC call of `tests.Echo`; messages are hexadecimal |
//! | `stream UPSTREAM METHOD MESSAGE…` | a gRPC stream with these messages |
//! | `cancel UPSTREAM METHOD` | a gRPC stream that is given up at once |
//!
//! The request waits for the answer and goes on with what came in `x-answer`; with `x-then: reply` that is the reply, with
//! `x-then: trap` the plugin fails. The plugin's configuration is the upstream that it calls while it is configured.
#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, reason = "the only public item is what a macro exports")]

use proxy_wasm::{
    hostcalls,
    traits::{Context, HttpContext, RootContext},
    types::{Action, Bytes, ContextType, LogLevel, Status},
};
use std::time::Duration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {
    fn on_http_call_response(&mut self, _: u32, headers: usize, body: usize, _: usize) {
        let _ = hostcalls::log(LogLevel::Info, &format!("root heard of {headers} fields and {body} bytes"));
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        if let Some(upstream) = self.get_plugin_configuration() {
            let upstream = String::from_utf8_lossy(&upstream).replace(['{', '}', '"'], "").replace("upstream:", "");
            let called = get(&upstream, "/configured", Duration::from_secs(5));
            let _ = hostcalls::log(LogLevel::Info, &format!("called while configured: {}", called.is_ok()));
        }
        true
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { id, ..Stream::default() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

fn get(upstream: &str, path: &str, timeout: Duration) -> Result<u32, Status> {
    let headers = vec![(":method", "GET"), (":path", path), (":authority", "called.example.com"), ("x-caller", "yes")];
    hostcalls::dispatch_http_call(upstream, headers, None, vec![], timeout)
}

#[derive(Default)]
struct Stream {
    id: u32,
    then: String,
    waiting: usize,
    heard: Vec<String>,
}

impl Stream {
    fn begin(&mut self, words: &[&str]) -> Result<(), Status> {
        match *words {
            ["http", upstream, path, ref rest @ ..] => {
                let timeout = rest.first().and_then(|text| text.parse().ok()).unwrap_or(5000);
                get(upstream, path, Duration::from_millis(timeout))?;
            }
            ["post", upstream, path, body] => {
                let headers = vec![(":method", "POST"), (":path", path), (":authority", "called.example.com")];
                let trailers = vec![("x-trailer", "sent")];
                hostcalls::dispatch_http_call(upstream, headers, Some(body.as_bytes()), trailers, Duration::ZERO)?;
            }
            ["incomplete", upstream] => {
                let headers = vec![(":method", "GET"), (":authority", "called.example.com")];
                hostcalls::dispatch_http_call(upstream, headers, None, vec![], Duration::ZERO)?;
            }
            ["many", upstream, path, number] => {
                let mut refused = 0;
                for _ in 0..number.parse().unwrap_or(0) {
                    match get(upstream, path, Duration::from_secs(5)) {
                        Ok(_) => self.waiting += 1,
                        Err(Status::InternalFailure) => refused += 1,
                        Err(status) => return Err(status),
                    }
                }
                self.heard.push(format!("refused/{refused}"));
                return Ok(());
            }
            ["unary", upstream, method, message] => {
                let metadata = vec![("x-meta", &b"data"[..])];
                let message = unhex(message);
                let timeout = Duration::from_millis(if method == "Wait" { 100 } else { 5000 });
                hostcalls::dispatch_grpc_call(upstream, "tests.Echo", method, metadata, Some(&message), timeout)?;
            }
            ["stream", upstream, method, ref messages @ ..] => {
                let token = hostcalls::open_grpc_stream(upstream, "tests.Echo", method, vec![])?;
                for (at, message) in messages.iter().enumerate() {
                    let last = at + 1 == messages.len();
                    hostcalls::send_grpc_stream_message(token, Some(&unhex(message)), last)?;
                }
            }
            ["cancel", upstream, method] => {
                let token = hostcalls::open_grpc_stream(upstream, "tests.Echo", method, vec![])?;
                hostcalls::cancel_grpc_stream(token)?;
                self.heard.push("cancelled".to_owned());
                return Ok(());
            }
            _ => return Err(Status::BadArgument),
        }
        self.waiting += 1;
        Ok(())
    }

    fn hear(&mut self, what: String) {
        self.heard.push(what);
    }

    /// A call is over; the last lets the request go on.
    fn over(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting > 0 {
            return;
        }
        if self.then == "trap" {
            panic!("asked to");
        }
        let heard = self.heard.join(" ");
        if self.then == "reply" {
            self.send_http_response(418, vec![("x-answer", &heard)], None);
        } else {
            self.set_http_request_header("x-answer", Some(&heard));
            self.resume_http_request();
        }
    }
}

fn hex(bytes: Option<Bytes>) -> String {
    bytes.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn text(bytes: Option<Bytes>) -> String {
    String::from_utf8_lossy(&bytes.unwrap_or_default()).replace(' ', "_")
}

impl Context for Stream {
    fn on_http_call_response(&mut self, _: u32, headers: usize, body: usize, trailers: usize) {
        let status = self.get_http_call_response_header(":status").unwrap_or_default();
        let trailer = self.get_http_call_response_trailer("x-trailer").unwrap_or_default();
        let listed = self.get_http_call_response_headers().len();
        let body = text(self.get_http_call_response_body(0, body));
        // What the stream is about can be read here, too.
        let path = self.get_http_request_header(":path").unwrap_or_default();
        self.hear(format!("{status}/{body}/{trailers}{trailer}/{}/{path}", headers == listed));
        self.over();
    }

    fn on_grpc_call_response(&mut self, _: u32, status: u32, size: usize) {
        let message = if size > 0 { hex(self.get_grpc_call_response_body(0, size)) } else { String::new() };
        let (_, reason) = self.get_grpc_status();
        self.hear(format!("unary/{status}/{message}/{}", reason.unwrap_or_default().replace(' ', "_")));
        self.over();
    }

    fn on_grpc_stream_initial_metadata(&mut self, _: u32, _: u32) {
        let found = self.get_grpc_stream_initial_metadata_value("content-type");
        self.hear(format!("initial/{}", text(found)));
    }

    fn on_grpc_stream_message(&mut self, _: u32, size: usize) {
        let message = hex(self.get_grpc_stream_message(0, size));
        self.hear(format!("message/{message}"));
    }

    fn on_grpc_stream_trailing_metadata(&mut self, _: u32, _: u32) {
        let found = self.get_grpc_stream_trailing_metadata_value("grpc-status");
        self.hear(format!("trailing/{}", text(found)));
    }

    fn on_grpc_stream_close(&mut self, _: u32, status: u32) {
        self.hear(format!("close/{status}"));
        self.over();
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let Some(call) = self.get_http_request_header("x-call") else { return Action::Continue };
        self.then = self.get_http_request_header("x-then").unwrap_or_default();
        let words: Vec<&str> = call.split(' ').collect();
        let _ = self.id;
        match self.begin(&words) {
            Err(status) => {
                let answer = format!("{status:?}");
                self.set_http_request_header("x-answer", Some(&answer));
                Action::Continue
            }
            Ok(()) if self.waiting == 0 => {
                let heard = self.heard.join(" ");
                self.set_http_request_header("x-answer", Some(&heard));
                Action::Continue
            }
            Ok(()) => Action::Pause,
        }
    }
}
