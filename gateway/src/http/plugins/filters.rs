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
use heads::{HeaderList, RequestHead, ResponseHead, Scheme, header};
use http::{HeaderValue, Method, StatusCode, Version, uri::PathAndQuery};
use proxy_wasm_host::{Action as Wish, Exchange, Half, HeadState, Instance, Peer, Properties};

use super::{
    live::Link,
    passage::{Interrupted, Passage, sees_body, trailers_of},
};
use crate::{
    http::{connection::Connection, record, request::X_REQUEST_ID},
    snapshot::{self, Action},
    stopwatch::Reading,
    telemetry::{Callback, ResponseFlags},
};

/// A stream and the plugins it passes.
pub(in crate::http) struct Filters(RefCell<Passage>);

/// Who holds a body back.
pub(super) enum Paused {
    /// Nobody.
    Nobody,
    /// This stage, and perhaps others. Whether one of them wants no more of it for now.
    Stage(usize, bool),
    /// A stage has just let go; this has passed the others.
    LetGo(Option<(Bytes, bool)>),
}

impl Filters {
    /// Begins a stream in every plugin of the chain.
    pub(in crate::http) fn open(
        chain: &[Link],
        connection: &Connection,
        client: SocketAddr,
        version: Version,
        head: RequestHead,
    ) -> Rc<Self> {
        let mut exchange = Exchange::new(head);
        if Self::reads_properties(chain) {
            let properties = &mut exchange.properties;
            of_connection(properties, connection, client);
            properties.protocol = Some(record::protocol(version));
            properties.request_id =
                exchange.request.headers.get(&X_REQUEST_ID).map(|id| Bytes::copy_from_slice(id.as_bytes()));
        }
        Self::begin(chain, exchange)
    }

    /// Begins a TCP connection in every plugin of the chain.
    pub(in crate::http) fn connect(chain: &[Link], connection: &Connection) -> Rc<Self> {
        let mut exchange = Exchange::connection();
        if Self::reads_properties(chain) {
            of_connection(&mut exchange.properties, connection, connection.remote);
        }
        let filters = Self::begin(chain, exchange);
        filters.0.borrow_mut().is_connection = true;
        filters
    }

    fn begin(chain: &[Link], exchange: Box<Exchange>) -> Rc<Self> {
        let mut inner = Passage {
            exchange: Some(exchange),
            lent: None,
            filters: smallvec::SmallVec::with_capacity(chain.len()),
            interruption: None,
            is_connection: false,
            asked: Self::reads_properties(chain),
            weight: chain.first().map(|link| link.live.weight()).unwrap_or_default(),
        };
        for link in chain {
            inner.open(link);
        }
        Rc::new(Self(RefCell::new(inner)))
    }

    /// `on_new_connection` of every plugin; waits for those that pause.
    pub(in crate::http) async fn new_connection(&self) -> Result<(), Interrupted> {
        if let Some(interrupted) = self.take_interruption() {
            return Err(interrupted);
        }
        let mut mark = Reading::now();
        for index in 0..self.len() {
            let action =
                self.0.borrow_mut().call(index, Callback::NewConnection, &mut mark, Instance::on_new_connection)?;
            if action != Wish::Continue {
                self.resumed(index, Half::Request).await?;
                mark = Reading::now();
            }
        }
        Ok(())
    }

    /// The connection is over: who closed it, and whether the service had been done before. Then `on_done`, `on_log`,
    /// `on_delete`.
    pub(in crate::http) fn disconnect(&self, by: Peer, service_done: bool, duration: Duration, bytes: (u64, u64)) {
        {
            let Ok(mut inner) = self.0.try_borrow_mut() else { return };
            let mark = &mut Reading::now();
            for index in 0..inner.filters.len() {
                inner.end(index, mark, |instance, context| {
                    if service_done {
                        instance.on_upstream_close(context, Peer::Unknown)?;
                    }
                    instance.on_downstream_close(context, by)
                });
            }
        }
        self.close(0, ResponseFlags::NONE, "", duration, bytes);
    }

    /// Whether some plugin may ask for [`Properties`].
    pub(in crate::http) fn reads_properties(chain: &[Link]) -> bool {
        chain.iter().any(|link| link.live.reads_properties())
    }

    /// `on_request_headers` of every plugin; waits for those that pause.
    pub(in crate::http) async fn request_headers(&self, end_of_stream: bool) -> Result<(), Interrupted> {
        if let Some(interrupted) = self.take_interruption() {
            return Err(interrupted);
        }
        let mut mark = Reading::now();
        for index in 0..self.len() {
            let action =
                self.0.borrow_mut().call(index, Callback::RequestHeaders, &mut mark, |instance, context| {
                    instance.on_request_headers(context, end_of_stream)
                })?;
            if action != Wish::Continue {
                self.resumed(index, Half::Request).await?;
                mark = Reading::now();
            }
        }
        Ok(())
    }

    /// `on_response_headers` of every plugin, in reverse; waits for those that pause.
    pub(in crate::http) async fn response_headers(
        &self,
        head: ResponseHead,
        end_of_stream: bool,
    ) -> Result<(), Interrupted> {
        self.0.borrow_mut().set_response(head);
        let mut mark = Reading::now();
        for index in (0..self.len()).rev() {
            let action =
                self.0.borrow_mut().call(index, Callback::ResponseHeaders, &mut mark, |instance, context| {
                    instance.on_response_headers(context, end_of_stream)
                })?;
            if action != Wish::Continue {
                self.resumed(index, Half::Response).await?;
                mark = Reading::now();
            }
        }
        Ok(())
    }

    /// Whether some plugin wants to see bodies.
    pub(in crate::http) fn sees_body(&self, half: Half) -> bool {
        self.0.borrow().filters.iter().any(|filter| filter.vm.is_some() && sees_body(filter.callbacks, half))
    }

    /// Whether some plugin that sees bodies may change them.
    pub(in crate::http) fn edits_body(&self, half: Half) -> bool {
        self.0
            .borrow()
            .filters
            .iter()
            .any(|filter| filter.vm.is_some() && sees_body(filter.callbacks, half) && filter.live.edits_bodies())
    }

    /// The request head, on its way to the upstream. If a plugin may read it later, a copy stays that cannot be changed.
    pub(in crate::http) fn take_request(&self) -> RequestHead {
        let mut inner = self.0.borrow_mut();
        let kept = inner.reads_request_late();
        let rest = |head: Option<&RequestHead>| RequestHead {
            method: head.map_or(Method::GET, |head| head.method.clone()),
            target: head.map_or(PathAndQuery::from_static("/"), |head| head.target.clone()),
            scheme: head.map_or(Scheme::Http, |head| head.scheme),
            headers: head.map(|head| head.headers.clone()).unwrap_or_default(),
        };
        let Some(exchange) = inner.home() else { return rest(None) };
        let left = rest(Some(&exchange.request).filter(|_| kept));
        exchange.request_state = if kept { HeadState::Sent } else { HeadState::Gone };
        std::mem::replace(&mut exchange.request, left)
    }

    /// The response head, on its way to the client.
    pub(in crate::http) fn take_response(&self) -> ResponseHead {
        let mut inner = self.0.borrow_mut();
        let kept = inner.reads_late();
        let Some(exchange) = inner.home() else { return ResponseHead::default() };
        exchange.response_state = if kept { HeadState::Sent } else { HeadState::Gone };
        let head = exchange.response.take().unwrap_or_default();
        if kept {
            exchange.response = Some(ResponseHead { status: head.status, headers: head.headers.clone() });
        }
        head
    }

    /// Sets the length of a body that plugins may have changed, or drops it in favour of chunks.
    pub(in crate::http) fn set_content_length(&self, half: Half, length: Option<u64>) {
        let mut inner = self.0.borrow_mut();
        let Some(exchange) = inner.home() else { return };
        let headers = match half {
            Half::Request => &mut exchange.request.headers,
            Half::Response => match &mut exchange.response {
                Some(head) => &mut head.headers,
                None => return,
            },
        };
        match length {
            Some(length) => headers.insert(&header::CONTENT_LENGTH, HeaderValue::from(length)),
            None => headers.remove(&header::CONTENT_LENGTH),
        };
    }

    /// Notes what plugins may ask for, if one of them does.
    pub(in crate::http) fn note(&self, fact: impl FnOnce(&mut Properties)) {
        let mut inner = self.0.borrow_mut();
        if inner.asked
            && let Some(exchange) = inner.home()
        {
            fact(&mut exchange.properties);
        }
    }

    /// Looks at what is known of the stream.
    pub(in crate::http) fn look(&self, at: impl FnOnce(&Properties)) {
        // Never re-entered, as [`Self::close`].
        if let Ok(mut inner) = self.0.try_borrow_mut()
            && let Some(exchange) = inner.home()
        {
            at(&exchange.properties);
        }
    }

    /// The route that the request takes, and the name of its virtual host where that is known.
    pub(in crate::http) fn set_route(&self, route: &snapshot::Route, domain: Option<&Arc<str>>) {
        self.note(|properties| {
            properties.route_name = Some(Arc::clone(&route.name));
            properties.virtual_host_name = domain.map(Arc::clone).or(properties.virtual_host_name.take());
            properties.route_metadata.clone_from(&route.metadata);
            let destination = match &route.action {
                Action::Forward(forward) => match &*forward.destinations {
                    [only] => Some(only),
                    // Chosen when the request is sent.
                    _ => None,
                },
                Action::Redirect(_) | Action::Direct(_) => None,
            };
            properties.cluster_name = destination.map(|only| Arc::clone(&only.cluster_name));
            properties.cluster_metadata = destination.and_then(|only| only.metadata.clone());
        });
    }

    /// What a plugin decided while the stream was elsewhere.
    pub(in crate::http) fn take_interruption(&self) -> Option<Interrupted> {
        self.0.borrow_mut().interruption.take()
    }

    pub(super) fn interrupt(&self, interrupted: Interrupted) {
        self.0.borrow_mut().interruption.get_or_insert(interrupted);
    }

    /// The stream is over: `on_log`, `on_done`, `on_delete`.
    pub(in crate::http) fn close(
        &self,
        code: u16,
        flags: ResponseFlags,
        details: &str,
        duration: Duration,
        (received, sent): (u64, u64),
    ) {
        // Never re-entered: a stream ends in its connection's task, not inside a callback.
        let Ok(mut inner) = self.0.try_borrow_mut() else { return };
        if let Some(exchange) = inner.home() {
            let properties = &mut exchange.properties;
            properties.response_code_details = Some(details.into());
            properties.response_flags = u64::from(flags.bits());
            properties.duration = Some(duration);
            properties.request_bytes = received;
            properties.response_bytes = sent;
            // None was kept, or another one has been sent in its place.
            if exchange.response.as_ref().is_none_or(|head| head.status.as_u16() != code)
                && let Ok(status) = StatusCode::from_u16(code)
            {
                exchange.response = Some(ResponseHead { status, headers: HeaderList::new() });
            }
        }
        let mark = &mut Reading::now();
        for index in 0..inner.filters.len() {
            inner.log(index, mark);
        }
        for index in 0..inner.filters.len() {
            inner.close(index, mark);
        }
    }

    fn len(&self) -> usize {
        self.0.borrow().filters.len()
    }

    /// Waits until a paused plugin lets the stream go on.
    async fn resumed(&self, index: usize, half: Half) -> Result<(), Interrupted> {
        let resumed = poll_fn(|cx| self.0.borrow_mut().poll_resumed(index, half, cx));
        match tokio::time::timeout(self.longest_pause(index), resumed).await {
            Ok(resumed) => resumed,
            Err(_) => self.0.borrow_mut().paused_too_long(index),
        }
    }

    /// Passes a piece of a body through all stages. `None`: a plugin has kept it.
    pub(super) fn pass(&self, half: Half, piece: Bytes, end: bool) -> Result<Option<(Bytes, bool)>, Interrupted> {
        self.0.borrow_mut().pass(half, 0, piece, end)
    }

    /// The trailers callbacks from stage `from` on. What a stage held back of the body comes out before its trailers
    /// go on. Returns the stage that pauses.
    pub(super) fn pass_trailers(
        &self,
        half: Half,
        from: usize,
        out: &mut Vec<Bytes>,
    ) -> Result<Option<usize>, Interrupted> {
        let mut inner = self.0.borrow_mut();
        let mark = &mut Reading::now();
        for stage in from..inner.filters.len() {
            let index = inner.index(half, stage);
            let action = match half {
                Half::Request => inner.call(index, Callback::RequestTrailers, mark, Instance::on_request_trailers),
                Half::Response => inner.call(index, Callback::ResponseTrailers, mark, Instance::on_response_trailers),
            }?;
            if action != Wish::Continue {
                return Ok(Some(stage));
            }
            out.extend(inner.let_go(half, stage)?.map(|(piece, _)| piece));
        }
        Ok(None)
    }

    pub(super) fn set_trailers(&self, half: Half, trailers: HeaderList) {
        if let Some(exchange) = self.0.borrow_mut().home() {
            *trailers_of(exchange, half) = Some(trailers);
        }
    }

    pub(super) fn take_trailers(&self, half: Half) -> Option<HeaderList> {
        let mut inner = self.0.borrow_mut();
        let kept = inner.reads_late();
        let trailers = trailers_of(inner.home()?, half);
        if kept { trailers.clone() } else { trailers.take() }
    }

    /// Whether some stage holds the body back.
    pub(super) fn holds(&self, half: Half) -> bool {
        self.0.borrow().filters.iter().any(|filter| filter.stage(half).is_some_and(|stage| stage.paused))
    }

    /// Lets paused stages go on that may.
    pub(super) fn poll_paused(&self, half: Half, cx: &mut Context<'_>) -> Result<Paused, Interrupted> {
        let mut inner = self.0.borrow_mut();
        let mut paused = Paused::Nobody;
        for stage in 0..inner.filters.len() {
            let index = inner.index(half, stage);
            let held = inner.filters.get(index).and_then(|filter| filter.stage(half));
            let Some(full) = held.filter(|held| held.paused).map(|held| held.full) else { continue };
            if let Poll::Ready(resumed) = inner.poll_resumed(index, half, cx) {
                resumed?;
                return inner.let_go(half, stage).map(Paused::LetGo);
            }
            paused = match paused {
                Paused::Stage(first, others) => Paused::Stage(first, others || full),
                _ => Paused::Stage(stage, full),
            };
        }
        Ok(paused)
    }

    /// As [`Self::poll_paused`], for a stage that paused in its trailers callback. What it held comes out.
    pub(super) fn poll_trailers_stage(
        &self,
        half: Half,
        stage: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Interrupted>> {
        let mut inner = self.0.borrow_mut();
        let index = inner.index(half, stage);
        std::task::ready!(inner.poll_resumed(index, half, cx))?;
        Poll::Ready(inner.let_go(half, stage).map(|passed| passed.map(|(piece, _)| piece)))
    }

    /// How long a stage may stay paused.
    pub(super) fn longest_stage_pause(&self, half: Half, stage: usize) -> Duration {
        let index = self.0.borrow().index(half, stage);
        self.longest_pause(index)
    }

    fn longest_pause(&self, index: usize) -> Duration {
        self.0.borrow().filters.get(index).map_or(Duration::ZERO, |filter| filter.live.limits().pause)
    }

    /// A stage has been paused for longer than allowed.
    pub(super) fn stage_timed_out(&self, half: Half, stage: usize) -> Result<(), Interrupted> {
        let mut inner = self.0.borrow_mut();
        let index = inner.index(half, stage);
        inner.paused_too_long(index)
    }
}

/// What is known of a connection.
fn of_connection(properties: &mut Properties, connection: &Connection, client: SocketAddr) {
    properties.source = Some(client);
    properties.destination = Some(connection.local);
    properties.connection_id = Some(connection.id);
    properties.tls = connection.secured.as_ref().map(|secured| Arc::clone(secured.facts()));
    properties.started = Some(SystemTime::now());
    properties.node = Some(Arc::clone(&connection.worker.identity.node));
}
