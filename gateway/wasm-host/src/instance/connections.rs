//! The callbacks of TCP connections.

use wasmtime::TypedFunc;

use super::{Instance, number, trailer_action};
use crate::exchange::{Action, Half, Peer, Phase};
use crate::{ContextId, Trap};

impl Instance {
    /// `on_new_connection`, before anything is read. [`Action::Pause`]: the service is not connected until the plugin
    /// resumes the connection.
    pub fn on_new_connection(&mut self, context: ContextId) -> Result<Action, Trap> {
        const NAME: &str = "proxy_on_new_connection";
        let Some(function) = &self.exports.on_new_connection else {
            return self.vm.alive().map(|()| Action::Continue);
        };
        self.vm.begin(NAME, context, Phase::NewConnection, false)?;
        let returned = self.vm.enter(NAME, function, Some(context), context.number())?;
        Ok(self.finish(context, returned, Half::Request, trailer_action))
    }

    /// `on_downstream_data`, about everything that [`Exchange::request_body`](crate::Exchange::request_body) holds.
    /// [`Action::Pause`]: the next callback sees it again, with what comes behind it.
    pub fn on_downstream_data(&mut self, context: ContextId, end_of_stream: bool) -> Result<Action, Trap> {
        let function = self.exports.on_downstream_data.clone();
        self.data(context, end_of_stream, function, Phase::DownstreamData, "proxy_on_downstream_data")
    }

    /// `on_upstream_data`, about everything that [`Exchange::response_body`](crate::Exchange::response_body) holds.
    pub fn on_upstream_data(&mut self, context: ContextId, end_of_stream: bool) -> Result<Action, Trap> {
        let function = self.exports.on_upstream_data.clone();
        self.data(context, end_of_stream, function, Phase::UpstreamData, "proxy_on_upstream_data")
    }

    /// `on_downstream_connection_close`: the client's side is over.
    pub fn on_downstream_close(&mut self, context: ContextId, by: Peer) -> Result<(), Trap> {
        let function = self.exports.on_downstream_close.clone();
        self.closed(context, by, function, "proxy_on_downstream_connection_close")
    }

    /// `on_upstream_connection_close`: the service's side is over.
    pub fn on_upstream_close(&mut self, context: ContextId, by: Peer) -> Result<(), Trap> {
        let function = self.exports.on_upstream_close.clone();
        self.closed(context, by, function, "proxy_on_upstream_connection_close")
    }

    fn data(
        &mut self,
        context: ContextId,
        end_of_stream: bool,
        function: Option<TypedFunc<(u32, u32, u32), u32>>,
        phase: Phase,
        name: &'static str,
    ) -> Result<Action, Trap> {
        let Some(function) = function else { return self.vm.alive().map(|()| Action::Continue) };
        let exchange = self.vm.begin(name, context, phase, end_of_stream)?;
        let (half, held) = match phase {
            Phase::UpstreamData => (Half::Response, exchange.response_body.len()),
            _ => (Half::Request, exchange.request_body.len()),
        };
        let params = (context.number(), number(held), u32::from(end_of_stream));
        let returned = self.vm.enter(name, &function, Some(context), params)?;
        Ok(self.finish(context, returned, half, trailer_action))
    }

    fn closed(
        &mut self,
        context: ContextId,
        by: Peer,
        function: Option<TypedFunc<(u32, u32), ()>>,
        name: &'static str,
    ) -> Result<(), Trap> {
        let Some(function) = function else { return self.vm.alive() };
        self.vm.begin(name, context, Phase::ConnectionClose, true)?;
        self.vm.enter(name, &function, Some(context), (context.number(), by as u32))
    }
}
