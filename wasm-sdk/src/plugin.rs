//! What an author implements: [`Plugin`], and what its handlers answer.

use crate::{Body, Finished, Headers, Queue, Reply, Request, Response, Result};
use serde::de::DeserializeOwned;

/// A plugin: one configured value that sees every request and response.
///
/// Handlers are called in this order for each stream: `on_request`, `on_request_body` for each chunk,
/// `on_request_trailers`, the same three for the response, `on_log`. Those that are not written cost nothing, because
/// [`plugin`](macro@crate::plugin) leaves them out of the module: write only what is needed. A handler of a message that
/// returns an error ends the stream: the error is logged and the client gets a 500 (if the response's headers have already
/// gone, the response is cut off, so that a broken answer never looks like a whole one).
///
/// The gateway runs one instance of the plugin on each of its worker threads, and many streams pass through it:
/// `self` is shared by all of them, [`Context`](Plugin::Context) belongs to one.
pub trait Plugin: Sized + 'static {
    /// What `pluginConfig` of the WasmPlugin resource says, read with serde; an empty struct for a plugin without
    /// configuration. Nothing at all is read as `{}`: fields with a default have it, the first one without is named in
    /// the error. With `#[serde(deny_unknown_fields)]` a misspelt field is an error, too.
    type Config: DeserializeOwned;

    /// What one stream remembers between its handlers; `()` for nothing.
    type Context: Default + 'static;

    /// Checks the configuration and makes the plugin of it, once before any request. An error refuses the
    /// configuration: the operator sees its text, and what ran before goes on running. See [`Error::field`](crate::Error::field).
    fn configure(config: Self::Config) -> Result<Self>;

    /// The headers of a request have arrived. The upstream has not been asked yet.
    fn on_request(&self, request: &mut Request<'_>, context: &mut Self::Context) -> Result<Flow> {
        let _ = (request, context);
        Ok(Flow::Continue)
    }

    /// A part of the request's body has arrived, or its end.
    fn on_request_body(&self, body: &mut Body<'_>, context: &mut Self::Context) -> Result<BodyFlow> {
        let _ = (body, context);
        Ok(BodyFlow::Continue)
    }

    /// The request has trailers, and they have arrived. All of the body has been seen. To add trailers to a request
    /// that has none, see [`Body::trailers`].
    fn on_request_trailers(&self, trailers: &mut Headers<'_>, context: &mut Self::Context) -> Result<Flow> {
        let _ = (trailers, context);
        Ok(Flow::Continue)
    }

    /// The headers of the response have arrived. Also called for answers that the gateway or a plugin (this one
    /// included) gave themselves.
    fn on_response(&self, response: &mut Response<'_>, context: &mut Self::Context) -> Result<Flow> {
        let _ = (response, context);
        Ok(Flow::Continue)
    }

    /// A part of the response's body has arrived, or its end. It is as the upstream sent it: compressed bodies are.
    fn on_response_body(&self, body: &mut Body<'_>, context: &mut Self::Context) -> Result<BodyFlow> {
        let _ = (body, context);
        Ok(BodyFlow::Continue)
    }

    /// The response has trailers, and they have arrived, as [`on_request_trailers`](Plugin::on_request_trailers).
    fn on_response_trailers(&self, trailers: &mut Headers<'_>, context: &mut Self::Context) -> Result<Flow> {
        let _ = (trailers, context);
        Ok(Flow::Continue)
    }

    /// The stream is over, whether it came to its end or was broken off. For logs and metrics: an error is only logged.
    /// A plugin with this handler has the gateway keep a copy of both messages' headers until then.
    fn on_log(&self, stream: &Finished<'_>, context: &mut Self::Context) -> Result<()> {
        let _ = (stream, context);
        Ok(())
    }

    /// The time set with [`set_tick_period`](crate::set_tick_period) has passed. Runs on every worker's instance,
    /// also when there are no requests. An error is only logged.
    fn on_tick(&self) -> Result<()> {
        Ok(())
    }

    /// Somebody has put an item into a queue that this plugin has [registered](Queue::register). One instance is told;
    /// another one may have been faster to take the item. An error is only logged.
    fn on_queue(&self, queue: &Queue) -> Result<()> {
        let _ = queue;
        Ok(())
    }
}

/// What happens after a headers handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The message goes on, with the changes made.
    Continue,
    /// The client gets this answer instead.
    Respond(Reply),
}

/// What happens after a body handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFlow {
    /// What is held goes on, with the changes made.
    Continue,
    /// It is held back, and the handler is called again when there is more: to see a body as a whole, wait until
    /// [`Body::whole`] has it. At the end of a body there is nothing to wait for: the same as `Continue`.
    Wait,
    /// The client gets this answer instead, if the response's headers have not gone yet; else the stream is reset.
    Respond(Reply),
}
