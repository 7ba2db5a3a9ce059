//! A gateway in memory, to test a plugin natively.
//!
//! [`Gateway::start`] gives the plugin its configuration, [`Gateway::send`] sends a request through it to an upstream
//! that answers 200, [`Gateway::exchange`] to one that answers what the test says. The [`Exchange`] that comes back
//! holds what the upstream and the client saw. The rules are those of a proxy-wasm host: names in lower case, illegal
//! names and values refused, a local reply passes the response handlers, bodies arrive in chunks.
//!
//! Two gateways on one thread are two workers: what plugins share is shared by them, and gone with the last of them.

mod host;
mod message;
pub(crate) mod services;

use crate::host::Side;
use crate::log::Level;
use crate::stream::Stream;
use crate::{Plugin, Queue, Result, config};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub(crate) use host::MemoryHost;
pub use message::{Message, get, post, request, response};

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
    _present: Present,
}

/// Keeps what plugins share.
struct Present;

impl Present {
    fn begin() -> Present {
        services::enter();
        Present
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        services::leave();
    }
}

impl<P: Plugin> Gateway<P> {
    /// Starts the plugin with a configuration, as JSON: what `pluginConfig` says. Empty for none.
    ///
    /// # Errors
    /// What the operator would see if the plugin refuses the configuration.
    pub fn start(configuration: &str) -> Result<Gateway<P>> {
        LOG.take();
        let present = Present::begin();
        let config = config::parse(configuration.as_bytes())?;
        Ok(Gateway { plugin: Rc::new(P::configure(config)?), _present: present })
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
        host.finish(&mut stream, &received);
        Exchange {
            upstream: replied.is_none().then_some(sent),
            response: received,
            reset,
            host_calls: host.calls.get(),
            logs: LOG.take(),
        }
    }

    /// Calls the plugin as after its tick period; what it logged comes back.
    pub fn tick(&self) -> Vec<(Level, String)> {
        self.told("tick", self.plugin.on_tick())
    }

    /// The period that the plugin wants to be called with; zero for never.
    pub fn tick_period(&self) -> Duration {
        services::tick_period()
    }

    /// Tells the plugin of every item that has come into a queue since, once for each; what it logged comes back.
    pub fn run_queues(&self) -> Vec<(Level, String)> {
        let mut logs = Vec::new();
        while let Some(queue) = services::next_ready() {
            logs.extend(self.told("queue", self.plugin.on_queue(&Queue::with_id(queue))));
        }
        logs
    }

    fn told(&self, what: &str, result: Result<()>) -> Vec<(Level, String)> {
        if let Err(error) = result {
            crate::error!("{what}: {error}");
        }
        LOG.take()
    }

    /// The value of a metric of the plugin; of a histogram, how many observations it has. `None`: there is no such metric.
    pub fn metric(&self, name: &str) -> Option<u64> {
        services::metric(name)
    }

    /// Sets what [`Request::property`](crate::Request::property) finds under a path: `source.address`.
    pub fn set_property(&self, path: &str, value: impl AsRef<[u8]>) {
        services::set_property(path, value.as_ref());
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
