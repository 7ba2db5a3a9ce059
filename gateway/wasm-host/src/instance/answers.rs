//! The calls that a plugin makes, and the callbacks that bring their answers. All of them run on the root context, as in
//! Envoy: SDKs choose the stream themselves.

use bytes::Bytes;

use super::{Instance, number};
use crate::Trap;
use crate::callbacks::OnGrpc;
use crate::calls::{Answer, Kind};
use crate::contexts::ROOT;
use crate::fields::Fields;
use crate::outbound::{CallResponse, GrpcMetadata, Outbound};

impl Instance {
    /// Whether there is anything for [`Instance::take_outbound`].
    pub fn has_outbound(&self) -> bool {
        !self.vm.store.data().calls.wanted.is_empty()
    }

    /// What the plugin has asked of other services since the last time. Look after every callback, and when the instance
    /// has just been started.
    pub fn take_outbound(&mut self) -> Vec<Outbound> {
        std::mem::take(&mut self.vm.store.data_mut().calls.wanted)
    }

    /// Whether the plugin still waits for this call.
    pub fn awaits(&self, token: u32) -> bool {
        !self.is_dead() && self.vm.store.data().calls.is_open(token)
    }

    /// `on_http_call_response`; `None`: there will be no answer. The call is over then.
    pub fn on_http_call_response(&mut self, token: u32, answer: Option<CallResponse>) -> Result<(), Trap> {
        self.vm.alive()?;
        if !self.vm.store.data_mut().calls.end(token) {
            return Ok(());
        }
        let Some(function) = &self.exports.on_http_call_response else { return Ok(()) };
        let (headers, body, trailers) = answer.as_ref().map_or((0, 0, 0), |answer| {
            (number(Fields::Response(&answer.head).count()), number(answer.body.len()), number(answer.trailers.len()))
        });
        let calls = &mut self.vm.store.data_mut().calls;
        calls.answer = Some(answer.map_or(Answer::NoResponse, Answer::Http));
        let params = (ROOT, token, headers, body, trailers);
        let returned = self.vm.enter("proxy_on_http_call_response", function, None, params);
        self.vm.store.data_mut().calls.answer = None;
        returned
    }

    /// `on_grpc_receive_initial_metadata`: the head of a stream's answer.
    pub fn on_grpc_initial_metadata(&mut self, token: u32, metadata: GrpcMetadata) -> Result<(), Trap> {
        let count = number(metadata.fields().count());
        self.grpc(
            token,
            Answer::InitialMetadata(metadata),
            count,
            "proxy_on_grpc_receive_initial_metadata",
            |instance| instance.exports.on_grpc_initial_metadata.clone(),
        )
    }

    /// `on_grpc_receive`: a message. A unary call is over with it.
    pub fn on_grpc_receive(&mut self, token: u32, message: Bytes) -> Result<(), Trap> {
        let size = number(message.len());
        let returned = self.grpc(token, Answer::Message(message), size, "proxy_on_grpc_receive", |instance| {
            instance.exports.on_grpc_receive.clone()
        });
        let calls = &mut self.vm.store.data_mut().calls;
        if calls.kind(token) == Some(Kind::GrpcUnary) {
            calls.end(token);
        }
        returned
    }

    /// `on_grpc_receive_trailing_metadata`
    pub fn on_grpc_trailing_metadata(&mut self, token: u32, metadata: GrpcMetadata) -> Result<(), Trap> {
        let count = number(metadata.fields().count());
        let name = "proxy_on_grpc_receive_trailing_metadata";
        self.grpc(token, Answer::TrailingMetadata(metadata), count, name, |instance| {
            instance.exports.on_grpc_trailing_metadata.clone()
        })
    }

    /// `on_grpc_close`: the call is over, with this status, which `proxy_get_status` answers from now on.
    pub fn on_grpc_close(&mut self, token: u32, status: u32, message: String) -> Result<(), Trap> {
        self.vm.alive()?;
        let calls = &mut self.vm.store.data_mut().calls;
        if !calls.end(token) {
            return Ok(());
        }
        calls.status = (status, message);
        match &self.exports.on_grpc_close {
            Some(close) => self.vm.enter("proxy_on_grpc_close", close, None, (ROOT, token, status)),
            None => Ok(()),
        }
    }

    /// A callback about a gRPC call that is still awaited.
    fn grpc(
        &mut self,
        token: u32,
        answer: Answer,
        size: u32,
        name: &'static str,
        function: fn(&Self) -> Option<OnGrpc>,
    ) -> Result<(), Trap> {
        self.vm.alive()?;
        let Some(function) = function(self).filter(|_| self.awaits(token)) else { return Ok(()) };
        self.vm.store.data_mut().calls.answer = Some(answer);
        let returned = self.vm.enter(name, &function, None, (ROOT, token, size));
        self.vm.store.data_mut().calls.answer = None;
        returned
    }
}
