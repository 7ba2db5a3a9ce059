//! What an author implements: [`Plugin`], and what its handlers answer.

use crate::{Body, Reply, Request, Response, Result};
use serde::de::DeserializeOwned;

/// A plugin: one configured value that sees every request and response.
///
/// Handlers are called in this order for each stream: `on_request`, `on_request_body` for each chunk, `on_response`,
/// `on_response_body` for each chunk. Those that are not written let everything pass. A handler that returns an error
/// ends the stream: the error is logged and the client gets a 500 (if the response's headers have already gone, the
/// response is cut off, so that a broken answer never looks like a whole one).
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
