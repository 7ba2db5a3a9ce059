//! One request from head to answer. This file is the order of things; each step has a file of its own.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use heads::{Key, RequestHead, ResponseHead, header};
use http::{HeaderValue, Method, StatusCode, Version};
use http_body::Body;
use proxy_wasm_host::Half;
use smallvec::SmallVec;
use tokio::time::Sleep;

use super::{
    body::{ClientBody, ClientBytes, Incoming, RequestBody, ResponseBody, Source},
    connection::Connection,
    forward::{self, Answer, Failed, clean_answer, template_context},
    plugins::{FilteredBody, Filters, Interrupted},
    record::Record,
    redirect,
    reply::{self, Reply},
    request::{self as admission, Arrived},
    route, secured,
    serving::{PinnedRoute, Serving},
    trailers,
    upgrade::{self, Switch, Upgraded},
};
use crate::{
    http1::request::Refusal,
    overload::Stage,
    snapshot::Action,
    telemetry::{Limit, ResponseFlags},
};

static X_ENVOY_UPSTREAM_SERVICE_TIME: Key = Key::from_static("x-envoy-upstream-service-time");
static VIA_UPSTREAM: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("via_upstream"));
/// `server` of every response, as Istio's gateway.
const SERVER: HeaderValue = HeaderValue::from_static("istio-envoy");

/// A request whose head is refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused {
    /// Why.
    pub(super) refusal: Refusal,
    /// Whether the head that stands in for it has the request's own method and target.
    pub(super) is_known: bool,
}

/// The stream ends without (the rest of) an answer: HTTP/1 closes the connection, HTTP/2 resets the stream.
#[derive(Debug, thiserror::Error)]
#[error("the stream was reset")]
pub(super) struct Aborted;

impl From<Infallible> for Aborted {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// What is known of a request on its way.
struct Stream {
    connection: Rc<Connection>,
    version: Version,
    /// Whether the method is HEAD, which no answer has a body for.
    is_head: bool,
    record: Record,
    /// What was shed when the request came.
    stage: Stage,
    filters: Option<Rc<Filters>>,
    /// The route's timeout, from the arrival of the request to the end of the response.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// The head and body of an answer, whoever made it.
struct Outcome {
    head: ResponseHead,
    body: Source,
    /// Whether the connection ends with it.
    close: bool,
    /// The upstream's side, if it has agreed to a WebSocket.
    upgraded: Option<Box<Upgraded>>,
}

/// Serves one request.
pub(super) async fn serve(
    connection: Rc<Connection>,
    mut arrived: Arrived,
    incoming: Incoming,
    refused: Option<Refused>,
) -> Result<(ResponseHead, ResponseBody), Aborted> {
    let version = arrived.version;
    let grpc = reply::is_grpc(&arrived.headers);
    let record = Record::start(&connection, &arrived, grpc);
    let is_head = arrived.method == Method::HEAD;
    let stage = connection.worker.overload.stage();
    let mut stream = Stream { connection, version, is_head, record, stage, filters: None, deadline: None };
    let admitted = match refused {
        None if stage >= Stage::RefuseRequests => Err(Reply::overloaded()),
        None if stream.connection.worker.turn.is_too_long(stream.record.started()) => Err(Reply::waited_too_long()),
        None => admission::admit(&mut arrived, &stream.connection),
        Some(Refused { refusal, is_known }) => {
            tracing::debug!(remote = %stream.connection.remote, ?refusal, "a request is refused");
            if !is_known {
                stream.record.forget_request();
            }
            Err(Reply::refused(refusal))
        }
    };
    let outcome = match admitted {
        Err(rejected) => {
            count_rejection(&stream, &rejected);
            stream.record.rejected(&arrived.headers);
            stream.local(rejected)
        }
        Ok(admission::Admitted { head, bytes, upgrade, client }) => {
            stream.record.admitted(&head, bytes, client);
            let serving = stream.connection.port.serving();
            if let Some(misdirected) = secured::misdirected(&stream.connection, &serving, &head) {
                stream.local(misdirected)
            } else if serving.plugins.is_empty() {
                let body = if upgrade { RequestBody::Upgrade } else { plain_body(&mut stream.record, incoming) };
                stream.dispatch(&serving, head, body).await?
            } else {
                match stream.enter_plugins(&serving, head) {
                    Ok(filters) => stream.filtered(&serving, filters, incoming, upgrade).await?,
                    Err(head) => {
                        let body =
                            if upgrade { RequestBody::Upgrade } else { plain_body(&mut stream.record, incoming) };
                        stream.dispatch(&serving, head, body).await?
                    }
                }
            }
        }
    };
    stream.finish(outcome)
}

fn count_rejection(stream: &Stream, rejected: &Reply) {
    let counters = stream.connection.worker.telemetry.counters();
    match &*rejected.details {
        // The sweep has counted it.
        "request_header_timeout" => return,
        reply::OVERLOAD => return counters.limit_exceeded(Limit::MemoryRequests),
        reply::QUEUE => return counters.limit_exceeded(Limit::WorkerQueueTime),
        "http1.too_many_headers" | "http2.too_many_headers" => counters.limit_exceeded(Limit::RequestHeaders),
        "http1.headers_too_large" | "http2.headers_too_large" => counters.limit_exceeded(Limit::RequestHeadBytes),
        _ => {}
    }
    counters.downstream_protocol_errors.inc();
}

/// The client's body, counted.
fn client_body(record: &mut Record, incoming: Incoming) -> ClientBody {
    let seen = Rc::<ClientBytes>::default();
    seen.messages.set(record.is_grpc().then(Default::default));
    record.request_body = Some(Rc::clone(&seen));
    let watched = record.watch(&seen);
    ClientBody::new(incoming, seen, watched)
}

fn plain_body(record: &mut Record, incoming: Incoming) -> RequestBody {
    if incoming.is_end_stream() { RequestBody::Empty } else { RequestBody::Client(client_body(record, incoming)) }
}

impl Stream {
    /// Begins the request in the plugins that it passes; hands the head back if there are none.
    fn enter_plugins(&mut self, serving: &Serving, head: RequestHead) -> Result<Rc<Filters>, RequestHead> {
        let mut chosen = SmallVec::new();
        let route = || route::find_id(&self.connection, serving, &head);
        let chain = serving.chain(route::authority(&head), &mut chosen, route);
        if chain.is_empty() {
            return Err(head);
        }
        // What its head leads to now; plugins may change that.
        let leads_to = Filters::reads_properties(chain)
            .then(|| (route::find(&self.connection, serving, &head), route::domain(&self.connection, serving, &head)));
        let filters = Filters::open(chain, &self.connection, self.record.client, self.version, head);
        if let Some((Some(route), domain)) = &leads_to {
            filters.set_route(&route.route, domain.as_ref());
        }
        self.filters = Some(Rc::clone(&filters));
        self.record.filters = Some(Rc::clone(&filters));
        Ok(filters)
    }

    /// A request that passes plugins: their request callbacks, the request itself, their response callbacks.
    async fn filtered(
        &mut self,
        serving: &Serving,
        filters: Rc<Filters>,
        incoming: Incoming,
        upgrade: bool,
    ) -> Result<Outcome, Aborted> {
        let has_body = !incoming.is_end_stream();
        let outcome = match self.request_callbacks(&filters, incoming, has_body).await {
            Ok((mut head, body)) => {
                // A plugin may have taken the mark off, and that decides; it cannot put it on.
                let body = if !upgrade {
                    body
                } else if upgrade::is_marked(&head.headers) {
                    RequestBody::Upgrade
                } else {
                    upgrade::unmark(&mut head.headers);
                    body
                };
                let outcome = self.dispatch(serving, head, body).await;
                // A plugin that looked at the request's body may have decided while the upstream waited for it.
                match filters.take_interruption() {
                    Some(interrupted) => {
                        self.record.flags = ResponseFlags::NONE;
                        self.local(interrupted.reply()?)
                    }
                    None => outcome?,
                }
            }
            Err(interrupted) => match interrupted.reply() {
                Ok(reply) => self.local(reply),
                Err(Aborted) => self.broken_off()?,
            },
        };
        self.response_callbacks(&filters, outcome).await
    }

    async fn request_callbacks(
        &mut self,
        filters: &Rc<Filters>,
        incoming: Incoming,
        has_body: bool,
    ) -> Result<(RequestHead, RequestBody), Interrupted> {
        filters.request_headers(!has_body).await?;
        let body = if !has_body {
            RequestBody::Empty
        } else if !filters.sees_body(Half::Request) {
            RequestBody::Client(client_body(&mut self.record, incoming))
        } else {
            let mut body =
                FilteredBody::new(client_body(&mut self.record, incoming), Rc::clone(filters), Half::Request);
            if filters.edits_body(Half::Request) {
                let length = body.look_ahead().await?;
                filters.set_content_length(Half::Request, length);
            }
            RequestBody::Filtered(Box::new(body))
        };
        Ok((filters.take_request(), body))
    }

    /// Finds the route and does what it says.
    async fn dispatch(&mut self, serving: &Serving, head: RequestHead, body: RequestBody) -> Result<Outcome, Aborted> {
        let Some(route) = route::find(&self.connection, serving, &head) else {
            return Ok(self.local(Reply::not_found()));
        };
        if let Some(log) = &mut self.record.log {
            log.route = Some(route.route.name.clone());
        }
        if let Some(filters) = &self.filters {
            filters.set_route(&route.route, None);
        }
        match &route.route.action {
            Action::Forward(settings) => {
                let started = self.record.started();
                let answer = {
                    let (connection, record) = (&self.connection, &mut self.record);
                    // Pinned here: a future is large, and handing it over copies it.
                    let mut sent = pin!(forward::send(connection, self.version, head, body, &route, settings, record));
                    match settings.timeout {
                        None => sent.await,
                        Some(timeout) => {
                            // Most routes have no timeout and pay for none.
                            let mut deadline = Box::pin(tokio::time::sleep_until((started + timeout).into()));
                            tokio::select! {
                                answer = &mut sent => {
                                    self.deadline = Some(deadline);
                                    answer
                                }
                                // Our own answer has no deadline any more.
                                () = &mut deadline => Err(Failed::Reply(timed_out())),
                            }
                        }
                    }
                };
                match answer {
                    Ok(answer) => Ok(self.answered(&route, answer)),
                    Err(Failed::Reply(reply)) => {
                        if reply.flags.contains(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT) {
                            self.connection.worker.telemetry.counters().limit_exceeded(Limit::RequestTime);
                        }
                        Ok(self.local(reply))
                    }
                    Err(Failed::Client) => self.broken_off(),
                }
            }
            Action::Redirect(settings) => {
                let reply = redirect::reply(settings, &head, serving.listener.declared_port);
                Ok(self.routed(&route, &head, reply))
            }
            Action::Direct(settings) => {
                let reply = Reply::new(settings.status, "direct_response", ResponseFlags::NONE)
                    .with_body(settings.body.clone());
                Ok(self.routed(&route, &head, reply))
            }
        }
    }

    /// The answer of a route that needs no upstream: its response header edits apply.
    fn routed(&mut self, route: &PinnedRoute, head: &RequestHead, reply: Box<Reply>) -> Outcome {
        let mut outcome = self.local(reply);
        let ops = &route.route.response_headers;
        if !ops.is_empty() {
            ops.apply(
                &mut outcome.head.headers,
                &template_context(&self.connection, &self.record, self.version, Some(head), route, None),
            );
        }
        outcome
    }

    /// An upstream has answered.
    fn answered(&mut self, route: &PinnedRoute, answer: Answer) -> Outcome {
        let Answer { mut head, body, destination, endpoint, deadline } = answer;
        if let Some(deadline) = deadline
            && self.deadline.as_ref().is_none_or(|whole| deadline < whole.deadline().into_std())
        {
            self.deadline = Some(Box::pin(tokio::time::sleep_until(deadline.into())));
        }
        let elapsed = self.record.elapsed();
        if let Some(log) = &mut self.record.log {
            log.upstream_time = Some(elapsed);
        }
        self.record.details = "via_upstream".into();
        clean_answer(&mut head.headers);
        head.headers.insert(&X_ENVOY_UPSTREAM_SERVICE_TIME, HeaderValue::from(elapsed.as_millis() as u64));
        if self.record.is_grpc() {
            // A response without a body carries its status in the head.
            self.record.grpc_status =
                head.headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
            if self.version < Version::HTTP_2 {
                trailers::announce_grpc(&mut head.headers);
            }
        }
        let levels = [
            match &route.route.action {
                Action::Forward(forward) => forward.destinations.get(destination).map(|to| &to.response_headers),
                Action::Redirect(_) | Action::Direct(_) => None,
            },
            Some(&route.route.response_headers),
        ];
        for ops in levels.into_iter().flatten().filter(|ops| !ops.is_empty()) {
            let context = template_context(&self.connection, &self.record, self.version, None, route, Some(endpoint));
            ops.apply(&mut head.headers, &context);
        }
        if let Some(filters) = &self.filters {
            filters.note(|properties| {
                properties.backend_latency = Some(elapsed);
                properties.response_code_details = Some(Arc::clone(&VIA_UPSTREAM));
            });
        }
        if head.status == StatusCode::NO_CONTENT {
            // RFC 9110 8.6.
            head.headers.remove(&header::CONTENT_LENGTH);
        }
        let (body, upgraded) = if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // What follows is not a body, whatever the head says (CVE-2024-23326); nor does it have to end in time.
            head.headers.remove(&header::CONTENT_LENGTH);
            upgrade::mark(&mut head.headers);
            self.deadline = None;
            (Source::Local(Bytes::new()), body.upgraded().map(Box::new))
        } else {
            (Source::Upstream(body), None)
        };
        Outcome { head, body, close: false, upgraded }
    }

    /// The client broke off its request. It gets an answer if that was because of what it sent, or did not send.
    fn broken_off(&mut self) -> Result<Outcome, Aborted> {
        let late = self.record.request_body.as_ref().is_some_and(|body| body.waiting.is_late());
        let reply = if late {
            Some(Reply::body_timeout())
        } else {
            self.connection.refused_body.take().map(|refusal| {
                tracing::debug!(remote = %self.connection.remote, ?refusal, "the body of a request is refused");
                Reply::refused(refusal)
            })
        };
        reply.map(|reply| self.local(reply)).ok_or(Aborted)
    }

    /// We answer ourselves.
    #[allow(clippy::boxed_local, reason = "replies travel boxed, see `Reply`")]
    fn local(&mut self, reply: Box<Reply>) -> Outcome {
        self.record.flags.insert(reply.flags);
        self.record.details = reply.details.clone();
        self.record.note(|properties| properties.response_code_details = Some(Arc::from(&*reply.details)));
        let close = reply.close;
        let (status, mut headers, mut body) = reply.into_parts(self.record.is_grpc());
        if self.record.is_grpc() {
            self.record.grpc_status = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
        }
        // Over HTTP/2 nobody else leaves such a body out.
        if self.is_head && !body.is_empty() {
            headers.insert(&header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            body.clear();
        } else if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            body.clear();
        }
        let head = ResponseHead { status, headers };
        Outcome { head, body: Source::Local(body), close, upgraded: None }
    }

    async fn response_callbacks(&mut self, filters: &Rc<Filters>, outcome: Outcome) -> Result<Outcome, Aborted> {
        let Outcome { head, body, close, upgraded } = outcome;
        let ends = body.is_end_stream();
        match self.run_response_callbacks(filters, head, body, ends).await {
            Ok((head, body)) => Ok(Outcome { head, body, close, upgraded }),
            Err(interrupted) => {
                // The plugin's own answer takes the place of the upstream's; the other plugins have seen this stream.
                self.record.flags = ResponseFlags::NONE;
                Ok(self.local(interrupted.reply()?))
            }
        }
    }

    async fn run_response_callbacks(
        &mut self,
        filters: &Rc<Filters>,
        head: ResponseHead,
        body: Source,
        ends: bool,
    ) -> Result<(ResponseHead, Source), Interrupted> {
        filters.response_headers(head, ends).await?;
        let body = if ends || !filters.sees_body(Half::Response) {
            body
        } else {
            let mut filtered = FilteredBody::new(Box::new(body), Rc::clone(filters), Half::Response);
            if filters.edits_body(Half::Response) {
                let length = filtered.look_ahead().await?;
                filters.set_content_length(Half::Response, length);
            }
            Source::Filtered(Box::new(filtered))
        };
        Ok((filters.take_response(), body))
    }

    /// The last touch: what every response of the gateway has.
    fn finish(mut self, outcome: Outcome) -> Result<(ResponseHead, ResponseBody), Aborted> {
        let Outcome { mut head, body, close, upgraded } = outcome;
        head.headers.insert(&header::SERVER, SERVER);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // Without the upstream's side there is nothing to switch to.
            let upgraded = upgraded.ok_or(Aborted)?;
            upgrade::mark(&mut head.headers);
            self.record.responded(&head);
            self.connection.switch.set(Some(Switch::new(*upgraded, self.record)));
            return Ok((head, ResponseBody::switched()));
        }
        if upgraded.is_some() {
            // A plugin has made something else of it.
            upgrade::unmark(&mut head.headers);
        }
        let mut leaving = self.connection.worker.connections.is_leaving() || self.connection.port.is_retired();
        if self.stage >= Stage::EndKeepAlive {
            self.record.limit_exceeded(Limit::MemoryKeepAlive);
            leaving = true;
        }
        if (close || leaving) && self.version < Version::HTTP_2 {
            head.headers.insert(&header::CONNECTION, HeaderValue::from_static("close"));
        } else if leaving {
            self.connection.activity.say_goodbye();
        }
        self.record.responded(&head);
        if let Some(body) = &self.record.request_body {
            body.waiting.excuse();
        }
        Ok((head, ResponseBody::new(body, self.record, self.deadline)))
    }
}

fn timed_out() -> Box<Reply> {
    let mut reply =
        Reply::new(StatusCode::GATEWAY_TIMEOUT, "response_timeout", ResponseFlags::UPSTREAM_REQUEST_TIMEOUT);
    reply.body = Bytes::from_static(b"upstream request timeout");
    reply
}
