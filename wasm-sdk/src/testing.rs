//! A gateway in memory, to test a plugin natively.
//!
//! [`Gateway::start`] gives the plugin its configuration, [`Gateway::send`] sends a request through it to an upstream
//! that answers 200, [`Gateway::exchange`] to one that answers what the test says. The [`Exchange`] that comes back
//! holds what the upstream and the client saw. The rules are those of a proxy-wasm host: names in lower case, illegal
//! names and values refused, a local reply passes the response handlers, bodies arrive in chunks.

use crate::host::{Host, Pairs, Side, Status};
use crate::log::Level;
use crate::stream::{Action, Stream};
use crate::{HeaderValue, Plugin, Reply, Result, config, is_legal_name, is_legal_value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The status for names and values that are not legal.
const BAD_ARGUMENT: Status = 2;

thread_local! {
    /// Lines that a plugin has logged since they were last fetched.
    static LOG: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a line until [`Exchange::logs`] shows it.
pub(crate) fn log(level: Level, text: &str) {
    LOG.with_borrow_mut(|log| log.push((level, text.to_owned())));
}

/// A gateway with one plugin, on one thread.
pub struct Gateway<P: Plugin> {
    plugin: Rc<P>,
}

impl<P: Plugin> Gateway<P> {
    /// Starts the plugin with a configuration, as JSON: what `pluginConfig` says. Empty for none.
    ///
    /// # Errors
    /// What the operator would see if the plugin refuses the configuration.
    pub fn start(configuration: &str) -> Result<Gateway<P>> {
        LOG.take();
        let config = config::parse(configuration.as_bytes())?;
        Ok(Gateway { plugin: Rc::new(P::configure(config)?) })
    }

    /// Sends a request; the upstream answers 200 without a body.
    pub fn send(&self, request: Message) -> Exchange {
        self.exchange(request, response(200))
    }

    /// Sends a request; the upstream answers with `answer`.
    pub fn exchange(&self, request: Message, answer: Message) -> Exchange {
        let host = MemoryHost::default();
        let mut stream = Stream::new(Rc::clone(&self.plugin));

        let sent = host.pass(&mut stream, Side::Request, request);
        let replied = host.reply.take();
        let answer = replied.as_ref().map_or(answer, Message::from_reply);
        let mut received = host.pass(&mut stream, Side::Response, answer);
        // The answer to a response replaces it, and no handler sees it: that could go on for ever.
        let mut reset = false;
        if let Some(reply) = host.reply.take() {
            reset = host.headers_gone.get();
            received = Message::from_reply(&reply);
        }
        Exchange {
            upstream: replied.is_none().then_some(sent),
            response: received,
            reset,
            host_calls: host.calls.get(),
            logs: LOG.take(),
        }
    }
}

/// What came of a request.
#[derive(Debug)]
pub struct Exchange {
    /// The request as the upstream received it; `None` if the plugin answered itself.
    pub upstream: Option<Message>,
    /// The response as the client received it.
    pub response: Message,
    /// The plugin answered in the middle of a response whose headers were gone: a client sees its connection or
    /// stream reset, and `response` is what the plugin wanted to say.
    pub reset: bool,
    /// Calls to the host for headers, bodies and replies: what a plugin costs apart from its own work.
    pub host_calls: usize,
    /// What the plugin logged, configuration included for the first request.
    pub logs: Vec<(Level, String)>,
}

/// A `GET` request for this path, to `test.example.dev` over `https`.
pub fn get(path: &str) -> Message {
    request("GET", path)
}

/// A `POST` request with this body in one chunk.
pub fn post(path: &str, body: impl AsRef<[u8]>) -> Message {
    request("POST", path).with_body(body)
}

/// A request with any method.
pub fn request(method: &str, path: &str) -> Message {
    Message::default()
        .header(":authority", "test.example.dev")
        .header(":path", path)
        .header(":method", method)
        .header(":scheme", "https")
}

/// A response with this status and nothing else.
pub fn response(status: u16) -> Message {
    Message::default().header(":status", status.to_string())
}

/// A request or a response: built for a test by chaining, and looked at afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    headers: Vec<(String, HeaderValue)>,
    chunks: Vec<Vec<u8>>,
    has_trailers: bool,
}

impl Message {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Message {
        self.headers.push((canonical(name), HeaderValue::from(value.as_ref().to_vec())));
        self
    }

    /// Adds a chunk of the body. The plugin's handler is called once for each.
    pub fn chunk(mut self, bytes: impl AsRef<[u8]>) -> Message {
        self.chunks.push(bytes.as_ref().to_vec());
        self
    }

    /// A body in one chunk, with its `content-length`.
    pub fn with_body(self, bytes: impl AsRef<[u8]>) -> Message {
        let len = bytes.as_ref().len();
        self.header("content-length", len.to_string()).chunk(bytes)
    }

    /// Ends the message with trailers, as gRPC does: the last chunk then is not known to be the last.
    pub fn with_trailers(mut self) -> Message {
        self.has_trailers = true;
        self
    }

    /// The first value of a header.
    pub fn header_value(&self, name: &str) -> Option<&HeaderValue> {
        self.header_values(name).into_iter().next()
    }

    /// The first value of a header, if it is UTF-8.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        self.header_value(name)?.to_str()
    }

    /// Every value of a header, in order.
    pub fn header_values(&self, name: &str) -> Vec<&HeaderValue> {
        let name = canonical(name);
        self.headers.iter().filter(|(n, _)| *n == name).map(|(_, value)| value).collect()
    }

    /// The status of a response, 0 for a request.
    pub fn status(&self) -> u16 {
        self.header_text(":status").and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The whole body.
    pub fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    fn from_reply(reply: &Reply) -> Message {
        let mut message = response(reply.status);
        for (name, value) in &reply.headers {
            message = message.header(name, value);
        }
        if reply.body.is_empty() { message } else { message.with_body(&reply.body) }
    }
}

/// The form in which names are compared; `host` is the HTTP/1.1 name of `:authority`.
fn canonical(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name == "host" { ":authority".to_owned() } else { name }
}

/// The host of one stream.
#[derive(Default)]
struct MemoryHost {
    /// The headers of the message that is passing.
    headers: RefCell<Vec<(String, HeaderValue)>>,
    /// The body that is held of it.
    held: RefCell<Vec<u8>>,
    reply: RefCell<Option<Reply>>,
    /// The headers of the message that is passing have been handed on.
    headers_gone: Cell<bool>,
    calls: Cell<usize>,
}

impl MemoryHost {
    /// Sends a message through the plugin and gives back what comes out, unless there is a reply then.
    fn pass<P: Plugin>(&self, stream: &mut Stream<P>, side: Side, message: Message) -> Message {
        let Message { headers, chunks, has_trailers } = message;
        let mut passed = Message { has_trailers, ..Message::default() };
        self.headers.replace(headers);
        self.headers_gone.set(false);

        stream.on_headers(self, side, chunks.is_empty() && !has_trailers);
        self.headers_gone.set(self.reply.borrow().is_none());
        let last = chunks.len().saturating_sub(1);
        for (index, chunk) in chunks.into_iter().enumerate() {
            if self.reply.borrow().is_some() {
                break;
            }
            self.held.borrow_mut().extend(chunk);
            let (len, end) = (self.held.borrow().len(), index == last && !has_trailers);
            if stream.on_body(self, side, len, end) == Action::Continue {
                passed.chunks.push(self.held.take());
            }
        }
        if has_trailers && self.reply.borrow().is_none() {
            stream.on_trailers(self, side);
        }
        let rest = self.held.take();
        if !rest.is_empty() {
            passed.chunks.push(rest);
        }
        passed.headers = self.headers.take();
        passed
    }

    fn count(&self) {
        self.calls.set(self.calls.get() + 1);
    }

    /// A name and a value as the host would store them.
    fn entry(name: &str, value: &[u8]) -> Result<(String, HeaderValue), Status> {
        let name = canonical(name);
        let legal = is_legal_name(name.strip_prefix(':').unwrap_or(&name)) && is_legal_value(value);
        if legal { Ok((name, HeaderValue::from(value.to_vec()))) } else { Err(BAD_ARGUMENT) }
    }
}

impl Host for MemoryHost {
    fn header(&self, _: Side, name: &str) -> Result<Option<Vec<u8>>, Status> {
        self.count();
        let name = canonical(name);
        let headers = self.headers.borrow();
        Ok(headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_bytes().to_vec()))
    }

    fn headers(&self, _: Side) -> Result<Pairs, Status> {
        self.count();
        let headers = self.headers.borrow();
        Ok(headers.iter().map(|(n, v)| (n.clone().into_bytes(), v.as_bytes().to_vec())).collect())
    }

    fn add_header(&self, _: Side, name: &str, value: &[u8]) -> Result<(), Status> {
        self.count();
        self.headers.borrow_mut().push(MemoryHost::entry(name, value)?);
        Ok(())
    }

    fn set_header(&self, _: Side, name: &str, value: &[u8]) -> Result<(), Status> {
        self.count();
        let (name, value) = MemoryHost::entry(name, value)?;
        let mut headers = self.headers.borrow_mut();
        let place = headers.iter().position(|(n, _)| *n == name).unwrap_or(headers.len());
        headers.retain(|(n, _)| *n != name);
        headers.insert(place, (name, value));
        Ok(())
    }

    fn remove_header(&self, _: Side, name: &str) -> Result<(), Status> {
        self.count();
        let name = canonical(name);
        self.headers.borrow_mut().retain(|(n, _)| *n != name);
        Ok(())
    }

    fn body(&self, _: Side, start: usize, max: usize) -> Result<Vec<u8>, Status> {
        self.count();
        Ok(self.held.borrow().iter().skip(start).take(max).copied().collect())
    }

    fn set_body(&self, _: Side, size: usize, bytes: &[u8]) -> Result<(), Status> {
        self.count();
        let mut held = self.held.borrow_mut();
        let size = size.min(held.len());
        held.splice(..size, bytes.iter().copied());
        Ok(())
    }

    fn reply(&self, reply: &Reply) -> Result<(), Status> {
        self.count();
        // The first answer counts, as in Envoy.
        self.reply.borrow_mut().get_or_insert_with(|| reply.clone());
        Ok(())
    }
}
