//! One stream on its way through a chain of plugins, as the request path sees it.
//!
//! Request callbacks run in the order of the chain, response callbacks in reverse. Whoever pauses is waited
//! for, but not for ever. What a single callback does is the business of `passage`.

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
use proxy_wasm_host::{Action, Exchange, HeadState, Instance, RequestHead, ResponseHead};

use super::{
    passage::{Direction, Interrupted, Passage, sees_body, trailers_of},
    vm::Link,
};
use crate::{
    http::{connection::Connection, limits, record, request::X_REQUEST_ID},
    telemetry::{Callback, ResponseFlags},
};

/// A stream and the plugins it passes.
pub(in crate::http) struct Filters(RefCell<Passage>);

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
        let mut inner = Passage {
            exchange: Some(exchange),
            lent: None,
            filters: smallvec::SmallVec::new(),
            interruption: None,
            version,
        };
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
