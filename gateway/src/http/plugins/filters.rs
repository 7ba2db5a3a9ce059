//! One stream on its way through a chain of plugins.
//!
//! The exchange (everything plugins may see of the stream) is lent to one plugin at a time: for a callback,
//! and for as long as the stream is paused there. Request callbacks run in the order of the chain, response
//! callbacks in reverse.

use std::{
    cell::RefCell,
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header, response, uri::PathAndQuery};
use proxy_wasm_host::{
    Action, Body, Callbacks, ContextId, Exchange, HeadState, Instance, LocalResponse, RequestHead, ResponseHead, Trap,
};
use smallvec::SmallVec;

use super::vm::{Link, Live, Vm};
use crate::{
    http::{connection::Connection, limits, record, reply::Reply, request::X_REQUEST_ID, service::Aborted},
    snapshot::FailStrategy,
    telemetry::{Callback, ResponseFlags},
};

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Direction {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

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
    pub(in crate::http) fn reply(self) -> Result<Reply, Aborted> {
        match self {
            Self::Reply(reply) => Ok(*reply),
            Self::Reset => Err(Aborted),
        }
    }

    fn failed(status: StatusCode, details: &'static str) -> Self {
        Self::Reply(Box::new(Reply::new(status, details, ResponseFlags::NONE)))
    }
}

/// A stream and the plugins it passes.
pub(in crate::http) struct Filters(RefCell<Inner>);

struct Inner {
    /// `None` while it is lent to the filter in `lent`.
    exchange: Option<Box<Exchange>>,
    lent: Option<usize>,
    filters: SmallVec<[Filter; 4]>,
    /// What a plugin decided while nobody was there to act on it.
    interruption: Option<Interrupted>,
    version: Version,
}

/// A plugin's part in the stream.
struct Filter {
    live: Rc<Live>,
    fail: FailStrategy,
    /// `None`: left out of this stream.
    vm: Option<(Rc<Vm>, ContextId)>,
    callbacks: Callbacks,
    request: Stage,
    response: Stage,
}

/// What a plugin holds back of a body.
#[derive(Default)]
struct Stage {
    held: Body,
    paused: bool,
    /// Paused without wanting more to be read.
    full: bool,
    /// What is held is the end of the body.
    ended: bool,
}

impl Filter {
    fn stage(&mut self, direction: Direction) -> &mut Stage {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        }
    }

    fn is_paused(&self, direction: Direction) -> bool {
        match direction {
            Direction::Request => self.request.paused,
            Direction::Response => self.response.paused,
        }
    }
}

fn sees_body(callbacks: Callbacks, direction: Direction) -> bool {
    match direction {
        Direction::Request => callbacks.request_body || callbacks.request_trailers,
        Direction::Response => callbacks.response_body || callbacks.response_trailers,
    }
}

impl Filters {
    /// Begins a stream in every plugin of the chain.
    pub(in crate::http) fn open(
        chain: &[Link],
        connection: &Connection,
        version: Version,
        head: RequestHead,
    ) -> Rc<Self> {
        let mut exchange = Exchange::new(head);
        let properties = &mut exchange.properties;
        properties.source = Some(connection.remote);
        properties.destination = Some(connection.local);
        properties.connection_id = Some(connection.id);
        properties.protocol = Some(record::protocol(version));
        properties.started = Some(SystemTime::now());
        properties.request_id =
            exchange.request.headers.get(&X_REQUEST_ID).map(|id| Bytes::copy_from_slice(id.as_bytes()));
        let mut inner =
            Inner { exchange: Some(exchange), lent: None, filters: SmallVec::new(), interruption: None, version };
        for link in chain {
            inner.open(link);
        }
        Rc::new(Self(RefCell::new(inner)))
    }

    /// `on_request_headers` of every plugin; waits for those that pause.
    pub(in crate::http) async fn request_headers(&self, end_of_stream: bool) -> Result<(), Interrupted> {
        if let Some(interrupted) = self.take_interruption() {
            return Err(interrupted);
        }
        for index in 0..self.len() {
            let action = self.0.borrow_mut().call(index, Callback::RequestHeaders, |instance, context| {
                instance.on_request_headers(context, end_of_stream)
            })?;
            if action != Action::Continue {
                self.resumed(index, Direction::Request).await?;
            }
        }
        Ok(())
    }

    /// `on_response_headers` of every plugin, in reverse; waits for those that pause.
    pub(in crate::http) async fn response_headers(
        &self,
        head: response::Parts,
        end_of_stream: bool,
    ) -> Result<(), Interrupted> {
        self.0.borrow_mut().set_response(head);
        for index in (0..self.len()).rev() {
            let action = self.0.borrow_mut().call(index, Callback::ResponseHeaders, |instance, context| {
                instance.on_response_headers(context, end_of_stream)
            })?;
            if action != Action::Continue {
                self.resumed(index, Direction::Response).await?;
            }
        }
        Ok(())
    }

    /// Whether some plugin wants to see bodies.
    pub(in crate::http) fn sees_body(&self, direction: Direction) -> bool {
        self.0.borrow().filters.iter().any(|filter| filter.vm.is_some() && sees_body(filter.callbacks, direction))
    }

    /// Whether some plugin that sees bodies may change them.
    pub(in crate::http) fn edits_body(&self, direction: Direction) -> bool {
        self.0
            .borrow()
            .filters
            .iter()
            .any(|filter| filter.vm.is_some() && sees_body(filter.callbacks, direction) && filter.live.edits_bodies())
    }

    /// The request head, on its way to the upstream. Plugins see no such map from here on, as in Envoy.
    pub(in crate::http) fn take_request(&self) -> RequestHead {
        let mut inner = self.0.borrow_mut();
        let empty = |scheme| RequestHead {
            method: Method::GET,
            target: PathAndQuery::from_static("/"),
            scheme,
            headers: HeaderMap::new(),
        };
        match inner.home() {
            Some(exchange) => {
                exchange.request_state = HeadState::Gone;
                let scheme = exchange.request.scheme;
                std::mem::replace(&mut exchange.request, empty(scheme))
            }
            None => empty(proxy_wasm_host::Scheme::Http),
        }
    }

    /// The response head, on its way to the client.
    pub(in crate::http) fn take_response(&self) -> response::Parts {
        let mut inner = self.0.borrow_mut();
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.version = inner.version;
        if let Some(exchange) = inner.home() {
            exchange.response_state = HeadState::Gone;
            if let Some(head) = exchange.response.take() {
                parts.status = head.status;
                parts.headers = head.headers;
            }
        }
        parts
    }

    /// Sets the length of a body that plugins may have changed, or drops it in favour of chunks.
    pub(in crate::http) fn set_content_length(&self, direction: Direction, length: Option<u64>) {
        let mut inner = self.0.borrow_mut();
        let Some(exchange) = inner.home() else { return };
        let headers = match direction {
            Direction::Request => &mut exchange.request.headers,
            Direction::Response => match &mut exchange.response {
                Some(head) => &mut head.headers,
                None => return,
            },
        };
        match length {
            Some(length) => headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length)),
            None => headers.remove(header::CONTENT_LENGTH),
        };
    }

    pub(in crate::http) fn set_route(&self, name: &Arc<str>) {
        if let Some(exchange) = self.0.borrow_mut().home() {
            exchange.properties.route_name = Some(Arc::clone(name));
        }
    }

    pub(in crate::http) fn set_upstream(&self, endpoint: SocketAddr) {
        if let Some(exchange) = self.0.borrow_mut().home() {
            exchange.properties.upstream = Some(endpoint);
        }
    }

    /// What a plugin decided while the stream was elsewhere.
    pub(in crate::http) fn take_interruption(&self) -> Option<Interrupted> {
        self.0.borrow_mut().interruption.take()
    }

    pub(in crate::http) fn is_interrupted(&self) -> bool {
        self.0.borrow().interruption.is_some()
    }

    pub(super) fn interrupt(&self, interrupted: Interrupted) {
        self.0.borrow_mut().interruption.get_or_insert(interrupted);
    }

    /// The stream is over: `on_log`, `on_done`, `on_delete`.
    pub(in crate::http) fn close(&self, code: u16, flags: ResponseFlags, details: &str, duration: Duration) {
        // Never re-entered: a stream ends in its connection's task, not inside a callback.
        let Ok(mut inner) = self.0.try_borrow_mut() else { return };
        if let Some(exchange) = inner.home() {
            let properties = &mut exchange.properties;
            properties.response_code_details = Some(details.into());
            properties.response_flags = u64::from(flags.bits());
            properties.duration = Some(duration);
            if exchange.response.is_none()
                && let Ok(status) = StatusCode::from_u16(code)
            {
                exchange.response = Some(ResponseHead { status, headers: HeaderMap::new() });
            }
        }
        for index in 0..inner.filters.len() {
            inner.close(index);
        }
    }

    fn len(&self) -> usize {
        self.0.borrow().filters.len()
    }

    /// Waits until a paused plugin lets the stream go on.
    async fn resumed(&self, index: usize, direction: Direction) -> Result<(), Interrupted> {
        let resumed = poll_fn(|cx| self.0.borrow_mut().poll_resumed(index, direction, cx));
        match tokio::time::timeout(limits::PLUGIN_PAUSE, resumed).await {
            Ok(resumed) => resumed,
            Err(_) => self.0.borrow_mut().paused_too_long(index),
        }
    }

    /// Passes a piece of a body through the stages from `from` on (in the direction of the flow). `None`: a
    /// plugin has kept it.
    pub(super) fn pass(
        &self,
        direction: Direction,
        from: usize,
        piece: Bytes,
        end: bool,
    ) -> Result<Option<(Bytes, bool)>, Interrupted> {
        self.0.borrow_mut().pass(direction, from, piece, end)
    }

    /// The trailers callbacks from stage `from` on. Pieces of the body that were held come out before the
    /// trailers. Returns the stage that pauses.
    pub(super) fn pass_trailers(
        &self,
        direction: Direction,
        from: usize,
        out: &mut Vec<Bytes>,
    ) -> Result<Option<usize>, Interrupted> {
        let mut inner = self.0.borrow_mut();
        for stage in from..inner.filters.len() {
            let index = inner.index(direction, stage);
            let held = inner.filters.get_mut(index).map(|filter| {
                filter.stage(direction).paused = false;
                filter.stage(direction).held.take()
            });
            if let Some(held) = held.filter(|held| !held.is_empty())
                && let Some((piece, _)) = inner.pass(direction, stage + 1, held, false)?
            {
                out.push(piece);
            }
            let action = match direction {
                Direction::Request => inner.call(index, Callback::RequestTrailers, Instance::on_request_trailers),
                Direction::Response => inner.call(index, Callback::ResponseTrailers, Instance::on_response_trailers),
            }?;
            if action != Action::Continue {
                return Ok(Some(stage));
            }
        }
        Ok(None)
    }

    pub(super) fn set_trailers(&self, direction: Direction, trailers: HeaderMap) {
        if let Some(exchange) = self.0.borrow_mut().home() {
            *trailers_of(exchange, direction) = Some(trailers);
        }
    }

    pub(super) fn take_trailers(&self, direction: Direction) -> Option<HeaderMap> {
        trailers_of(self.0.borrow_mut().home()?, direction).take()
    }

    /// The first stage that holds the body back, and whether it wants no more of it.
    pub(super) fn paused_stage(&self, direction: Direction) -> Option<(usize, bool)> {
        let inner = self.0.borrow();
        (0..inner.filters.len()).find_map(|stage| {
            let filter = inner.filters.get(inner.index(direction, stage))?;
            let full = match direction {
                Direction::Request => filter.request.full,
                Direction::Response => filter.response.full,
            };
            filter.is_paused(direction).then_some((stage, full))
        })
    }

    /// What a paused stage lets go: pieces for the stages behind it have passed those already.
    pub(super) fn poll_stage(
        &self,
        direction: Direction,
        stage: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<(Bytes, bool)>, Interrupted>> {
        let mut inner = self.0.borrow_mut();
        let index = inner.index(direction, stage);
        std::task::ready!(inner.poll_resumed(index, direction, cx))?;
        let Some(filter) = inner.filters.get_mut(index) else { return Poll::Ready(Ok(None)) };
        let held = filter.stage(direction);
        held.paused = false;
        held.full = false;
        let (piece, ended) = (held.held.take(), held.ended);
        Poll::Ready(inner.pass(direction, stage + 1, piece, ended))
    }

    /// As [`Self::poll_stage`] for a stage that paused in its trailers callback.
    pub(super) fn poll_trailers_stage(
        &self,
        direction: Direction,
        stage: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Interrupted>> {
        let mut inner = self.0.borrow_mut();
        let index = inner.index(direction, stage);
        inner.poll_resumed(index, direction, cx)
    }

    /// A stage has been paused for longer than allowed.
    pub(super) fn stage_timed_out(&self, direction: Direction, stage: usize) -> Result<(), Interrupted> {
        let mut inner = self.0.borrow_mut();
        let index = inner.index(direction, stage);
        inner.paused_too_long(index)
    }
}

fn trailers_of(exchange: &mut Exchange, direction: Direction) -> &mut Option<HeaderMap> {
    match direction {
        Direction::Request => &mut exchange.request_trailers,
        Direction::Response => &mut exchange.response_trailers,
    }
}

fn body_of(exchange: &mut Exchange, direction: Direction) -> &mut Body {
    match direction {
        Direction::Request => &mut exchange.request_body,
        Direction::Response => &mut exchange.response_body,
    }
}

impl Inner {
    /// Position in the chain of a stage of the flow.
    fn index(&self, direction: Direction, stage: usize) -> usize {
        match direction {
            Direction::Request => stage,
            Direction::Response => self.filters.len().saturating_sub(stage + 1),
        }
    }

    /// The exchange, called back from wherever it is lent to.
    fn home(&mut self) -> Option<&mut Exchange> {
        if let Some(index) = self.lent.take()
            && let Some(Filter { vm: Some((vm, context)), .. }) = self.filters.get(index)
        {
            self.exchange = vm.with(|instance| instance.detach(*context));
        }
        self.exchange.as_deref_mut()
    }

    /// Lends the exchange to a filter.
    fn lend(&mut self, index: usize) {
        if self.lent == Some(index) {
            return;
        }
        self.home();
        if let Some(Filter { vm: Some((vm, context)), .. }) = self.filters.get(index)
            && let Some(exchange) = self.exchange.take()
        {
            match vm.with(|instance| instance.attach(*context, exchange)) {
                Ok(()) => self.lent = Some(index),
                Err(exchange) => self.exchange = Some(exchange),
            }
        }
    }

    fn open(&mut self, link: &Link) {
        let live = &link.live;
        live.stats.stream();
        let mut filter = Filter {
            live: Rc::clone(live),
            fail: link.fail,
            vm: None,
            callbacks: live.callbacks,
            request: Stage::default(),
            response: Stage::default(),
        };
        if let Some(vm) = live.vm()
            && let Some(exchange) = self.exchange.take()
        {
            let opened = vm.with(|instance| instance.open(exchange));
            match opened {
                Ok(context) => {
                    self.exchange = vm.with(|instance| instance.detach(context));
                    filter.vm = Some((vm, context));
                }
                Err((exchange, trap)) => {
                    self.exchange = Some(exchange);
                    // Through `call`, so that the death of the instance is noticed in one place.
                    let _: Result<(), Trap> = vm.call(Callback::RequestHeaders, |_| Err(trap));
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
    fn leave_out(&mut self, index: usize) -> Result<(), Interrupted> {
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
            Err(Interrupted::Reply(Box::new(reply.with_body("RBAC: access denied"))))
        }
    }

    /// Runs a callback of one plugin and carries out its effects.
    fn call(
        &mut self,
        index: usize,
        which: Callback,
        callback: impl FnOnce(&mut Instance, ContextId) -> Result<Action, Trap>,
    ) -> Result<Action, Interrupted> {
        let Some(filter) = self.filters.get(index) else { return Ok(Action::Continue) };
        let exported = match which {
            Callback::RequestHeaders => filter.callbacks.request_headers,
            Callback::RequestBody => filter.callbacks.request_body,
            Callback::RequestTrailers => filter.callbacks.request_trailers,
            Callback::ResponseHeaders => filter.callbacks.response_headers,
            Callback::ResponseBody => filter.callbacks.response_body,
            Callback::ResponseTrailers => filter.callbacks.response_trailers,
            Callback::Close | Callback::Tick | Callback::CallResponse | Callback::QueueReady => true,
        };
        let Some((vm, context)) =
            filter.vm.as_ref().filter(|_| exported).map(|(vm, context)| (Rc::clone(vm), *context))
        else {
            return Ok(Action::Continue);
        };
        self.lend(index);
        let returned = vm.call(which, |instance| callback(instance, context));
        self.home();
        match returned {
            Ok(action) => self.carry_out(index).map(|()| action),
            Err(_) => self.leave_out(index).map(|()| Action::Continue),
        }
    }

    /// What the plugin wants done besides its return value.
    fn carry_out(&mut self, index: usize) -> Result<(), Interrupted> {
        let in_response = self.exchange.as_ref().is_some_and(|exchange| exchange.response.is_some());
        let Some(effects) = self.exchange.as_mut().map(|exchange| &mut exchange.effects) else { return Ok(()) };
        if !effects.interrupts() {
            return Ok(());
        }
        let effects = std::mem::take(effects);
        let Some(filter) = self.filters.get(index) else { return Ok(()) };
        if let Some(response) = effects.local_response {
            filter.live.stats.local_response();
            return Err(Interrupted::Reply(Box::new(local_reply(response))));
        }
        if effects.reset {
            return Err(Interrupted::Reset);
        }
        if effects.body_limit_exceeded {
            return Err(Interrupted::failed(
                if in_response { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::PAYLOAD_TOO_LARGE },
                "wasm_body_limit_exceeded",
            ));
        }
        tracing::warn!(
            plugin = %filter.live.name,
            "plugin tried an edit that would have broken the message; the stream was answered 503"
        );
        Err(Interrupted::failed(StatusCode::SERVICE_UNAVAILABLE, "wasm_invalid_edit"))
    }

    /// Whether a paused plugin has let the stream go on.
    fn poll_resumed(
        &mut self,
        index: usize,
        direction: Direction,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Interrupted>> {
        let Some(Filter { vm: Some((vm, context)), .. }) = self.filters.get(index) else { return Poll::Ready(Ok(())) };
        let (vm, context) = (Rc::clone(vm), *context);
        self.lend(index);
        if vm.dead.get() {
            return Poll::Ready(self.leave_out(index));
        }
        enum Seen {
            Nothing,
            Resumed,
            Effects,
        }
        let seen = vm.with(|instance| {
            let Some(exchange) = instance.exchange(context) else { return Seen::Nothing };
            let flag = match direction {
                Direction::Request => &mut exchange.effects.resume_request,
                Direction::Response => &mut exchange.effects.resume_response,
            };
            if std::mem::take(flag) {
                Seen::Resumed
            } else if exchange.effects.interrupts() {
                Seen::Effects
            } else {
                Seen::Nothing
            }
        });
        match seen {
            Seen::Nothing => {
                vm.wait(context, cx.waker());
                Poll::Pending
            }
            Seen::Resumed | Seen::Effects => {
                vm.forget(context);
                self.home();
                Poll::Ready(self.carry_out(index))
            }
        }
    }

    fn paused_too_long(&mut self, index: usize) -> Result<(), Interrupted> {
        if let Some(filter) = self.filters.get(index) {
            tracing::warn!(
                plugin = %filter.live.name, seconds = limits::PLUGIN_PAUSE.as_secs(),
                "plugin kept a stream paused for too long; the stream fails by its failStrategy"
            );
        }
        self.close(index);
        self.leave_out(index)
    }

    fn set_response(&mut self, head: response::Parts) {
        if let Some(exchange) = self.home() {
            exchange.response = Some(ResponseHead { status: head.status, headers: head.headers });
        }
    }

    fn pass(
        &mut self,
        direction: Direction,
        from: usize,
        mut piece: Bytes,
        end: bool,
    ) -> Result<Option<(Bytes, bool)>, Interrupted> {
        for stage in from..self.filters.len() {
            let index = self.index(direction, stage);
            let Some(filter) = self.filters.get_mut(index) else { return Ok(None) };
            let runs = filter.vm.is_some()
                && match direction {
                    Direction::Request => filter.callbacks.request_body,
                    Direction::Response => filter.callbacks.response_body,
                };
            let held = filter.stage(direction);
            let mut body = std::mem::take(&mut held.held);
            body.push(piece);
            if !runs {
                held.paused = false;
                piece = body.take();
                continue;
            }
            match self.home() {
                Some(exchange) => *body_of(exchange, direction) = body,
                None => return Ok(None),
            }
            let action = match direction {
                Direction::Request => {
                    self.call(index, Callback::RequestBody, |instance, context| instance.on_request_body(context, end))
                }
                Direction::Response => self
                    .call(index, Callback::ResponseBody, |instance, context| instance.on_response_body(context, end)),
            }?;
            let Some(exchange) = self.home() else { return Ok(None) };
            let mut body = std::mem::take(body_of(exchange, direction));
            let Some(filter) = self.filters.get_mut(index) else { return Ok(None) };
            let held = filter.stage(direction);
            held.ended = end;
            held.full = action == Action::PauseWatermark;
            held.paused = action != Action::Continue;
            match action {
                Action::Continue => piece = body.take(),
                // Dropped; nothing is held, but at the end the plugin still has to let go.
                Action::PauseDiscard => {
                    held.paused = end;
                    return Ok(None);
                }
                Action::Pause | Action::PauseWatermark => {
                    let too_long = body.len() > limits::PLUGIN_BODY_BYTES;
                    held.held = body;
                    held.full |= too_long && action == Action::PauseWatermark;
                    if too_long && action == Action::Pause {
                        return Err(match direction {
                            Direction::Request => {
                                Interrupted::failed(StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large")
                            }
                            Direction::Response => {
                                Interrupted::failed(StatusCode::INTERNAL_SERVER_ERROR, "response_payload_too_large")
                            }
                        });
                    }
                    return Ok(None);
                }
            }
        }
        Ok(Some((piece, end)))
    }

    /// Ends the stream in one plugin.
    fn close(&mut self, index: usize) {
        self.lend(index);
        let Some(filter) = self.filters.get_mut(index) else { return };
        let Some((vm, context)) = filter.vm.take() else { return };
        vm.forget(context);
        let lent = self.lent.take().is_some();
        match vm.call(Callback::Close, |instance| instance.close(context)) {
            Ok(exchange) => self.exchange = exchange.or(self.exchange.take()),
            Err(_) if lent => self.exchange = vm.with(|instance| instance.detach(context)),
            Err(_) => {}
        }
        vm.record_memory();
    }
}

fn local_reply(response: LocalResponse) -> Reply {
    let mut reply = Reply::new(response.status, "", ResponseFlags::NONE).with_body(response.body);
    reply.details = response.details.into();
    reply.headers = response.headers;
    reply.grpc_status = response.grpc_status;
    reply
}
