//! The life of one stream: calls the plugin's handlers in order and turns what they return into what the ABI wants.
//!
//! The same code runs in WebAssembly and in native tests; it knows the host only as [`Host`].

use crate::host::{Current, Host, Side};
use crate::{Body, BodyFlow, Finished, Flow, Headers, HostError, Plugin, Reply, Request, Response, Result};
use std::cell::Cell;
use std::rc::Rc;

/// What the host is told to do after a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Continue,
    Pause,
}

/// One stream of a plugin.
pub struct Stream<P: Plugin> {
    plugin: Rc<P>,
    context: P::Context,
    request: Progress,
    response: Progress,
}

/// How far one of the two messages is.
#[derive(Default)]
struct Progress {
    /// The headers handler has announced that the body's length will change.
    edits: Cell<bool>,
    /// Bytes the host holds because the handler waits.
    held: usize,
    /// The handler has seen the end of the body.
    complete: bool,
}

impl<P: Plugin> Stream<P> {
    pub(crate) fn new(plugin: Rc<P>) -> Stream<P> {
        Stream { plugin, context: P::Context::default(), request: Progress::default(), response: Progress::default() }
    }

    /// Whose handlers it calls.
    #[cfg(test)]
    pub(crate) fn plugin(&self) -> &P {
        &self.plugin
    }

    /// The headers of a message are there; `end` if nothing follows them.
    #[inline(always)]
    pub(crate) fn on_headers(&mut self, host: &Current, side: Side, end: bool) -> Action {
        let flow = match side {
            Side::Request => {
                let mut request = Request::new(host, !end, &self.request.edits);
                self.plugin.on_request(&mut request, &mut self.context)
            }
            Side::Response => {
                let mut response = Response::new(host, !end, &self.response.edits);
                self.plugin.on_response(&mut response, &mut self.context)
            }
        };
        act(host, side, "headers", flow.map(BodyFlow::from))
    }

    /// The host holds `len` bytes of a body; `end` if nothing follows them.
    pub(crate) fn on_body(&mut self, host: &Current, side: Side, len: usize, end: bool) -> Action {
        let progress = match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        };
        progress.complete = end;
        let mut body = Body::new(host, side, len, end, progress.edits.get());
        let flow = match side {
            Side::Request => self.plugin.on_request_body(&mut body, &mut self.context),
            Side::Response => self.plugin.on_response_body(&mut body, &mut self.context),
        };
        let flow = match flow {
            Ok(BodyFlow::Wait) if end => Ok(BodyFlow::Continue),
            other => other,
        };
        progress.held = if matches!(flow, Ok(BodyFlow::Wait)) { body.len() } else { 0 };
        act(host, side, "body", flow)
    }

    /// Trailers end a message whose body never said that it was complete: say so now, with what is still held.
    pub(crate) fn on_trailers(&mut self, host: &Current, side: Side) -> Action {
        let progress = match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        };
        if !progress.complete && self.on_body(host, side, progress.held, true) == Action::Pause {
            return Action::Pause;
        }
        let mut trailers = Headers::new(host, side.trailers());
        let flow = match side {
            Side::Request => self.plugin.on_request_trailers(&mut trailers, &mut self.context),
            Side::Response => self.plugin.on_response_trailers(&mut trailers, &mut self.context),
        };
        act(host, side, "trailers", flow.map(BodyFlow::from))
    }

    /// The stream is over.
    pub(crate) fn on_log(&mut self, host: &Current) {
        if let Err(error) = self.plugin.on_log(&Finished::new(host), &mut self.context) {
            crate::error!("log: {error}");
        }
    }
}

impl From<Flow> for BodyFlow {
    fn from(flow: Flow) -> BodyFlow {
        match flow {
            Flow::Continue => BodyFlow::Continue,
            Flow::Respond(reply) => BodyFlow::Respond(reply),
        }
    }
}

/// Carries out what a handler decided.
#[inline(always)]
fn act(host: &Current, side: Side, part: &str, flow: Result<BodyFlow>) -> Action {
    match flow {
        Ok(BodyFlow::Continue) => Action::Continue,
        Ok(BodyFlow::Wait) => Action::Pause,
        Ok(BodyFlow::Respond(reply)) => answer(host, side, part, Ok(reply)),
        Err(error) => answer(host, side, part, Err(error)),
    }
}

#[cold]
fn answer(host: &Current, side: Side, part: &str, reply: Result<Reply>) -> Action {
    let sent = reply.and_then(|reply| send(host, &reply));
    if let Err(error) = sent {
        fail(host, &format!("{} {part}: {error}", if side == Side::Request { "request" } else { "response" }));
    }
    // Iteration stops after a local reply, whatever is returned; pausing says so also to hosts that look.
    Action::Pause
}

fn send(host: &Current, reply: &Reply) -> Result<()> {
    reply.check()?;
    host.reply(reply).map_err(|status| HostError::new("sending the reply", status).into())
}

/// The plugin cannot handle this stream: never let it pass as if it had been handled.
pub(crate) fn fail(host: &Current, problem: &str) {
    crate::error!("{problem}; answering 500");
    if let Err(error) = send(host, &Reply::new(500)) {
        crate::error!("{error}");
    }
}
