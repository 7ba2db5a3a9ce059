//! A stream's passage through the plugins of a chain, callback by callback.
//!
//! The exchange (everything plugins may see of the stream) is lent to one plugin at a time: for a callback,
//! and for as long as the stream is paused there. After each callback its effects are carried out, and a
//! plugin that failed is left out or fails the stream, as its policy says.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use heads::{HeaderList, ResponseHead};
use http::StatusCode;
use proxy_wasm_host::{Action, Body, Callbacks, ContextId, Exchange, Half, Instance, LocalResponse, Trap};
use smallvec::SmallVec;

use super::{
    live::{Link, Live},
    vm::Vm,
    weight::Weight,
};
use crate::{
    http::{reply::Reply, service::Aborted},
    snapshot::FailStrategy,
    stopwatch::Reading,
    telemetry::{Callback, Limit, ResponseFlags},
};

/// A plugin ended the normal course of a stream.
#[derive(Debug)]
pub(in crate::http) enum Interrupted {
    /// Answer with this.
    Reply(Box<Reply>),
    /// Break the stream off.
    Reset,
}

impl Interrupted {
    /// What to answer, or that there is nothing to answer.
    pub(in crate::http) fn reply(self) -> Result<Box<Reply>, Aborted> {
        match self {
            Self::Reply(reply) => Ok(reply),
            Self::Reset => Err(Aborted),
        }
    }

    fn failed(status: StatusCode, details: &'static str) -> Self {
        Self::Reply(Reply::new(status, details, ResponseFlags::NONE))
    }
}

/// Where a stream is.
pub(super) struct Passage {
    /// `None` while it is lent to the filter in `lent`.
    pub(super) exchange: Option<Box<Exchange>>,
    pub(super) lent: Option<usize>,
    pub(super) filters: SmallVec<[Filter; 4]>,
    /// What a plugin decided while nobody was there to act on it.
    pub(super) interruption: Option<Interrupted>,
    /// A TCP connection: no heads, and other callbacks for what passes.
    pub(super) is_connection: bool,
    /// Whether some plugin may ask for properties: else nobody has to note them.
    pub(super) asked: bool,
    pub(super) weight: Weight,
}

/// A plugin's part in the stream.
pub(super) struct Filter {
    pub(super) live: Rc<Live>,
    pub(super) fail: FailStrategy,
    /// `None`: left out of this stream.
    pub(super) vm: Option<(Rc<Vm>, ContextId)>,
    pub(super) callbacks: Callbacks,
    /// What it holds back of the request's body and of the response's; made when there is something that it may hold.
    stages: Option<Box<(Stage, Stage)>>,
}

/// What a plugin holds back of a body.
#[derive(Default)]
pub(super) struct Stage {
    /// What its next callback sees.
    pub(super) held: Body,
    /// In front of that, what it has seen and wants to see no more (action 2).
    behind: Body,
    pub(super) paused: bool,
    /// Paused without wanting more to be read.
    pub(super) full: bool,
    /// What is held is the end of the body.
    pub(super) ended: bool,
}

impl Stage {
    /// Bytes that are held back.
    fn len(&self) -> usize {
        self.behind.len() + self.held.len()
    }

    /// All of them, which are held back no more.
    fn take(&mut self) -> Bytes {
        if self.behind.is_empty() {
            return self.held.take();
        }
        self.behind.push(self.held.take());
        self.behind.take()
    }
}

impl Filter {
    /// What it holds back of a body, if it has seen any of one.
    pub(super) fn stage(&self, half: Half) -> Option<&Stage> {
        let (request, response) = self.stages.as_deref()?;
        Some(match half {
            Half::Request => request,
            Half::Response => response,
        })
    }

    fn stage_mut(&mut self, half: Half) -> &mut Stage {
        let (request, response) = &mut **self.stages.get_or_insert_default();
        match half {
            Half::Request => request,
            Half::Response => response,
        }
    }

    /// Bytes of bodies that it holds back.
    fn held(&self) -> usize {
        self.stages.as_deref().map_or(0, |(request, response)| request.len() + response.len())
    }

    /// Whether the module exports this callback.
    fn exports(&self, which: Callback) -> bool {
        match which {
            Callback::RequestHeaders => self.callbacks.request_headers,
            Callback::RequestBody => self.callbacks.request_body,
            Callback::RequestTrailers => self.callbacks.request_trailers,
            Callback::ResponseHeaders => self.callbacks.response_headers,
            Callback::ResponseBody => self.callbacks.response_body,
            Callback::ResponseTrailers => self.callbacks.response_trailers,
            Callback::NewConnection => self.callbacks.new_connection,
            Callback::DownstreamData => self.callbacks.downstream_data,
            Callback::UpstreamData => self.callbacks.upstream_data,
            Callback::Log => self.callbacks.log,
            Callback::Close | Callback::Tick | Callback::CallResponse | Callback::QueueReady => true,
        }
    }

    /// The plugin tried an edit that would have broken the message.
    fn broke_message(&self) -> Interrupted {
        tracing::warn!(
            plugin = %self.live.name,
            "plugin tried an edit that would have broken the message; the stream was answered 503"
        );
        Interrupted::failed(StatusCode::SERVICE_UNAVAILABLE, "wasm_invalid_edit")
    }

    /// The exchange goes to the plugin, and with it what the plugin holds back.
    fn hand_over(stages: &mut Option<Box<(Stage, Stage)>>, exchange: &mut Exchange) {
        if let Some((request, response)) = stages.as_deref_mut() {
            request.held.move_to(&mut exchange.request_body);
            response.held.move_to(&mut exchange.response_body);
        }
    }

    /// It comes back, and the next plugin must not get what this one holds back.
    fn take_back(stages: &mut Option<Box<(Stage, Stage)>>, exchange: &mut Exchange) {
        if stages.is_some() || !exchange.request_body.is_empty() || !exchange.response_body.is_empty() {
            let (request, response) = &mut **stages.get_or_insert_default();
            exchange.request_body.move_to(&mut request.held);
            exchange.response_body.move_to(&mut response.held);
        }
    }
}

pub(super) fn sees_body(callbacks: Callbacks, half: Half) -> bool {
    match half {
        Half::Request => callbacks.request_body || callbacks.request_trailers,
        Half::Response => callbacks.response_body || callbacks.response_trailers,
    }
}

pub(super) fn trailers_of(exchange: &mut Exchange, half: Half) -> &mut Option<HeaderList> {
    match half {
        Half::Request => &mut exchange.request_trailers,
        Half::Response => &mut exchange.response_trailers,
    }
}

impl Passage {
    /// Position in the chain of a stage of the flow.
    pub(super) fn index(&self, half: Half, stage: usize) -> usize {
        match half {
            Half::Request => stage,
            Half::Response => self.filters.len().saturating_sub(stage + 1),
        }
    }

    /// Whether some plugin may read heads when the stream is over.
    pub(super) fn reads_late(&self) -> bool {
        self.filters.iter().any(|filter| filter.vm.is_some() && filter.live.reads_late())
    }

    /// Whether some plugin may read the head of the request when that has been sent.
    pub(super) fn reads_request_late(&self) -> bool {
        self.filters.iter().any(|filter| filter.vm.is_some() && filter.live.reads_request_late())
    }

    /// The exchange, called back from wherever it is lent to.
    pub(super) fn home(&mut self) -> Option<&mut Exchange> {
        if let Some(index) = self.lent.take()
            && let Some(filter) = self.filters.get_mut(index)
            && let Some((vm, context)) = &filter.vm
            && let Some(mut exchange) = vm.with(|instance| instance.detach(*context))
        {
            Filter::take_back(&mut filter.stages, &mut exchange);
            self.exchange = Some(exchange);
        }
        self.exchange.as_deref_mut()
    }

    /// Lends the exchange to a filter.
    pub(super) fn lend(&mut self, index: usize) {
        if self.lent == Some(index) {
            return;
        }
        self.home();
        let Some(filter) = self.filters.get_mut(index) else { return };
        let Some((vm, context)) = filter.vm.as_ref().map(|(vm, context)| (Rc::clone(vm), *context)) else { return };
        let Some(mut exchange) = self.exchange.take() else { return };
        Filter::hand_over(&mut filter.stages, &mut exchange);
        match vm.with(|instance| instance.attach(context, exchange)) {
            Ok(()) => self.lent = Some(index),
            Err(mut exchange) => {
                Filter::take_back(&mut filter.stages, &mut exchange);
                self.exchange = Some(exchange);
            }
        }
    }

    pub(super) fn open(&mut self, link: &Link) {
        let live = &link.live;
        live.stats.stream();
        let mut filter =
            Filter { live: Rc::clone(live), fail: link.fail, vm: None, callbacks: live.callbacks, stages: None };
        if let Some(vm) = live.stream_vm()
            && let Some(exchange) = self.exchange.take()
        {
            let opened = vm.with(|instance| {
                let context = instance.open(exchange)?;
                Ok((context, instance.detach(context)))
            });
            match opened {
                Ok((context, exchange)) => {
                    self.exchange = exchange;
                    filter.vm = Some((vm, context));
                }
                Err((exchange, trap)) => {
                    self.exchange = Some(exchange);
                    // Through `call`, so that the death of the instance is noticed in one place.
                    let _: Result<(), Trap> = vm.call_now(Callback::RequestHeaders, |_| Err(trap));
                }
            }
        }
        let failed = filter.vm.is_none();
        self.filters.push(filter);
        if failed && let Err(interrupted) = self.leave_out(self.filters.len() - 1) {
            self.interruption.get_or_insert(interrupted);
        }
    }

    /// The plugin cannot do its work for this stream.
    pub(super) fn leave_out(&mut self, index: usize) -> Result<(), Interrupted> {
        self.home();
        let Some(filter) = self.filters.get_mut(index) else { return Ok(()) };
        filter.vm = None;
        filter.live.stats.failed_stream(filter.fail);
        if filter.fail == FailStrategy::Open {
            Ok(())
        } else if filter.live.is_loaded() {
            Err(Interrupted::failed(StatusCode::SERVICE_UNAVAILABLE, "wasm_fail_stream"))
        } else {
            // As Istio answers for a module that could not be fetched.
            let reply =
                Reply::new(StatusCode::FORBIDDEN, "rbac_access_denied_matched_policy[none]", ResponseFlags::NONE);
            Err(Interrupted::Reply(reply.with_body("RBAC: access denied")))
        }
    }

    /// Runs a callback of one plugin and carries out its effects. For `mark` see [`Vm::call`].
    pub(super) fn call(
        &mut self,
        index: usize,
        which: Callback,
        mark: &mut Reading,
        callback: impl FnOnce(&mut Instance, ContextId) -> Result<Action, Trap>,
    ) -> Result<Action, Interrupted> {
        if !self.filters.get(index).is_some_and(|filter| filter.exports(which)) {
            return Ok(Action::Continue);
        }
        match self.visit(index, which, mark, callback) {
            Some(Ok(action)) => self.carry_out(index).map(|()| action),
            Some(Err(_)) => self.leave_out(index).map(|()| Action::Continue),
            None => Ok(Action::Continue),
        }
    }

    /// Lends the exchange to one plugin for a callback. `None`: the plugin has no part in the stream.
    fn visit<R>(
        &mut self,
        index: usize,
        which: Callback,
        mark: &mut Reading,
        callback: impl FnOnce(&mut Instance, ContextId) -> Result<R, Trap>,
    ) -> Option<Result<R, Trap>> {
        self.home();
        let (filter, home) = (self.filters.get_mut(index)?, &mut self.exchange);
        let (vm, context) = filter.vm.as_ref().map(|(vm, context)| (vm, *context))?;
        let mut lent = home.take();
        if let Some(exchange) = &mut lent {
            Filter::hand_over(&mut filter.stages, exchange);
        }
        let returned = vm.call(which, mark, |instance| {
            *home = lent.and_then(|lent| instance.attach(context, lent).err());
            let returned = callback(instance, context);
            if home.is_none() {
                *home = instance.detach(context);
            }
            returned
        });
        if let Some(exchange) = home {
            Filter::take_back(&mut filter.stages, exchange);
        }
        Some(returned)
    }

    /// What the plugin wants done besides its return value.
    pub(super) fn carry_out(&mut self, index: usize) -> Result<(), Interrupted> {
        let Some(exchange) = self.exchange.as_mut().filter(|exchange| exchange.effects.interrupts()) else {
            return Ok(());
        };
        let in_response = exchange.response.is_some();
        let effects = std::mem::take(&mut exchange.effects);
        let Some(filter) = self.filters.get(index) else { return Ok(()) };
        if let Some(response) = effects.local_response {
            filter.live.stats.local_response();
            return Err(Interrupted::Reply(local_reply(response)));
        }
        if effects.reset {
            return Err(Interrupted::Reset);
        }
        if effects.body_limit_exceeded {
            return Err(self.too_large(if in_response { Half::Response } else { Half::Request }));
        }
        Err(filter.broke_message())
    }

    /// Whether a paused plugin has let the stream go on.
    pub(super) fn poll_resumed(
        &mut self,
        index: usize,
        half: Half,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Interrupted>> {
        let Some(Filter { vm: Some((vm, context)), .. }) = self.filters.get(index) else { return Poll::Ready(Ok(())) };
        let (vm, context) = (Rc::clone(vm), *context);
        self.lend(index);
        if vm.dead.get() {
            return Poll::Ready(self.leave_out(index));
        }
        let decided = vm.with(|instance| {
            instance.take_resumed(context, half)
                || instance.exchange(context).is_some_and(|exchange| exchange.effects.interrupts())
        });
        if !decided {
            vm.wait(context, half, cx.waker());
            return Poll::Pending;
        }
        vm.forget(context, half);
        self.home();
        Poll::Ready(self.carry_out(index))
    }

    pub(super) fn paused_too_long(&mut self, index: usize) -> Result<(), Interrupted> {
        if let Some(filter) = self.filters.get(index) {
            tracing::warn!(
                plugin = %filter.live.name, seconds = filter.live.limits().pause.as_secs_f64(),
                "plugin kept a stream paused for too long; the stream fails by its failStrategy"
            );
            filter.live.limit_exceeded(Limit::PluginPauseTime);
        }
        let mark = &mut Reading::now();
        self.log(index, mark);
        self.close(index, mark);
        self.leave_out(index)
    }

    pub(super) fn set_response(&mut self, head: ResponseHead) {
        if let Some(exchange) = self.home() {
            exchange.response = Some(head);
        }
    }

    /// Passes a piece of a body through the stages from `from` on (in the direction of the flow). `None`: a
    /// plugin has kept it.
    pub(super) fn pass(
        &mut self,
        half: Half,
        from: usize,
        mut piece: Bytes,
        end: bool,
    ) -> Result<Option<(Bytes, bool)>, Interrupted> {
        // A stage that is paused may have what it holds.
        if let Some(exchange) = self.home().filter(|_| from == 0) {
            let seen = match half {
                Half::Request => &mut exchange.properties.request_bytes,
                Half::Response => &mut exchange.properties.response_bytes,
            };
            *seen += piece.len() as u64;
        }
        let which = match (half, self.is_connection) {
            (Half::Request, false) => Callback::RequestBody,
            (Half::Response, false) => Callback::ResponseBody,
            (Half::Request, true) => Callback::DownstreamData,
            (Half::Response, true) => Callback::UpstreamData,
        };
        let mark = &mut Reading::now();
        for stage in from..self.filters.len() {
            let index = self.index(half, stage);
            let Some(filter) = self.filters.get_mut(index) else { return Ok(None) };
            if !filter.exports(which) {
                continue;
            }
            filter.stage_mut(half).held.push(piece);
            let action = self.call(index, which, mark, |instance, context| match which {
                Callback::RequestBody => instance.on_request_body(context, end),
                Callback::ResponseBody => instance.on_response_body(context, end),
                Callback::DownstreamData => instance.on_downstream_data(context, end),
                _ => instance.on_upstream_data(context, end),
            })?;
            let Some(filter) = self.filters.get_mut(index) else { return Ok(None) };
            let (limit, edits) = (filter.live.limits().body_bytes, filter.live.edits_bodies());
            let stage = filter.stage_mut(half);
            let too_long = stage.len() > limit;
            stage.ended = end;
            stage.paused = action != Action::Continue;
            stage.full = action == Action::PauseWatermark && too_long;
            match action {
                Action::Continue => {
                    piece = stage.take();
                    continue;
                }
                // The head says how long the body is, because this plugin cannot change it: no host function for that is
                // imported. Sent on, the other side would wait for the rest.
                Action::PauseDiscard if !stage.held.is_empty() && !edits => {
                    return Err(filter.broke_message());
                }
                // Dropped; nothing is held, but at the end the plugin still has to let go.
                Action::PauseDiscard => {
                    stage.held.take();
                    stage.paused = end;
                }
                Action::PauseWatermark => stage.behind.push(stage.held.take()),
                Action::Pause if too_long => return Err(self.too_large(half)),
                Action::Pause => {}
            }
            self.weigh()?;
            return Ok(None);
        }
        self.weigh()?;
        Ok(Some((piece, end)))
    }

    /// A stage that was paused goes on: what it held passes the stages behind it.
    pub(super) fn let_go(&mut self, half: Half, stage: usize) -> Result<Option<(Bytes, bool)>, Interrupted> {
        self.home();
        let index = self.index(half, stage);
        let Some(filter) = self.filters.get_mut(index) else { return Ok(None) };
        let (piece, ended) = match filter.stages {
            Some(_) => {
                let held = filter.stage_mut(half);
                held.paused = false;
                held.full = false;
                (held.take(), held.ended)
            }
            None => (Bytes::new(), false),
        };
        if piece.is_empty() && !ended {
            return Ok(None);
        }
        self.pass(half, stage + 1, piece, ended)
    }

    /// Counts what plugins hold back of this stream, for the total of the worker.
    fn weigh(&mut self) -> Result<(), Interrupted> {
        let held = self.filters.iter().map(Filter::held).sum();
        if self.weight.set(held) {
            return Ok(());
        }
        if let Some(filter) = self.filters.first() {
            filter.live.limit_exceeded(Limit::PluginWorkerBytes);
        }
        Err(Interrupted::failed(StatusCode::SERVICE_UNAVAILABLE, "wasm_worker_bytes_exceeded"))
    }

    fn too_large(&self, half: Half) -> Interrupted {
        if let Some(filter) = self.filters.first() {
            filter.live.limit_exceeded(Limit::PluginBodyBytes);
        }
        match half {
            Half::Request => Interrupted::failed(StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large"),
            Half::Response => Interrupted::failed(StatusCode::INTERNAL_SERVER_ERROR, "response_payload_too_large"),
        }
    }

    /// Tells one plugin of the end; what it wants of it does not matter any more.
    pub(super) fn end(
        &mut self,
        index: usize,
        mark: &mut Reading,
        callback: impl FnOnce(&mut Instance, ContextId) -> Result<(), Trap>,
    ) {
        // A trap is dealt with where every callback ends.
        let _ = self.visit(index, Callback::Close, mark, callback);
    }

    /// Has one plugin log the stream. For `mark` see [`Vm::call`].
    pub(super) fn log(&mut self, index: usize, mark: &mut Reading) {
        if !self.is_connection && self.filters.get(index).is_some_and(|filter| filter.callbacks.log) {
            // As in [`Self::end`].
            let _ = self.visit(index, Callback::Log, mark, Instance::log);
        }
    }

    /// Ends the stream in one plugin. For `mark` see [`Vm::call`].
    pub(super) fn close(&mut self, index: usize, mark: &mut Reading) {
        // A trap is dealt with where every callback ends; the exchange came back before that.
        let told = self
            .filters
            .get(index)
            .is_some_and(|filter| filter.callbacks.end || (filter.callbacks.log && self.is_connection));
        let closed = if told { self.visit(index, Callback::Close, mark, Instance::close) } else { None };
        self.home();
        let Some(filter) = self.filters.get_mut(index) else { return };
        if let Some(Ok(Some(mut exchange))) = closed {
            Filter::take_back(&mut filter.stages, &mut exchange);
            self.exchange = Some(exchange);
        }
        if let Some((vm, context)) = filter.vm.take() {
            if !told {
                // Runs no code of the plugin, which has logged it. If the instance has failed, nobody needs the place.
                let _ = vm.with(|instance| instance.close(context));
            }
            vm.forget_both(context);
            vm.record_memory();
        }
    }
}

fn local_reply(response: LocalResponse) -> Box<Reply> {
    let mut reply = Reply::new(response.status, "", ResponseFlags::NONE).with_body(response.body);
    reply.details = response.details.into();
    reply.headers = response.headers;
    reply.grpc_status = response.grpc_status;
    reply
}
