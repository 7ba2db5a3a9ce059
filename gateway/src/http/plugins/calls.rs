//! Calls that plugins make to services. They are sent like requests of clients, only that the plugin names the cluster
//! and there is no route; the answer goes to the instance that asked, never to another.
//!
//! A HTTP call has an answer in any case: one that cannot be had is answered as Envoy's router does, 503 or 504 with its
//! words, because plugins look at `:status`. Only an answer that breaks off is reported as none.

mod body;
mod grpc;

use std::{collections::HashMap, pin::pin, rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use heads::{HeaderList, RequestHead, ResponseHead};
use http::{HeaderValue, StatusCode, header, uri::Scheme};
use http_body::Body;
use proxy_wasm_host::{CallResponse, HttpCall, Message, Outbound};
use tokio::{sync::mpsc, task::AbortHandle};

pub(crate) use body::CallBody;

use super::vm::Vm;
use crate::{
    http::{
        body::{RequestBody, UpstreamBody},
        forward::{self, clean_answer},
        trailers,
    },
    snapshot::UpstreamProtocol,
    telemetry::{Callback, Limit},
    upstream::{Attempt, BodyError, Failure, Remains, UpstreamError},
};

/// The calls of one instance that have not ended, by their numbers.
#[derive(Default)]
pub(super) struct Going(HashMap<u32, Call>);

struct Call {
    task: AbortHandle,
    /// Takes the messages of a gRPC stream, until nothing more will be sent.
    messages: Option<mpsc::UnboundedSender<Message>>,
}

/// Why a call has no answer.
enum NoAnswer {
    /// Not even an endpoint.
    Unhealthy,
    /// From the service or the way to it.
    Failure(Failure),
    /// It cannot be put in the words of the protocol.
    Request,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.0.values().for_each(|call| call.task.abort());
    }
}

impl Going {
    /// Starts or changes what an instance has asked for.
    pub(super) fn carry_out(&mut self, vm: &Rc<Vm>, wanted: Vec<Outbound>) {
        for wish in wanted {
            match wish {
                Outbound::Http(call) => {
                    let token = call.token;
                    // The instance stays until the answer has come, also when nothing else needs it any more.
                    let task = tokio::task::spawn_local(http(Rc::clone(vm), call)).abort_handle();
                    self.0.insert(token, Call { task, messages: None });
                }
                Outbound::Grpc(call) => {
                    let token = call.token;
                    let (messages, task) = grpc::start(vm, call);
                    self.0.insert(token, Call { task, messages });
                }
                Outbound::Message { token, message } => {
                    let Some(call) = self.0.get_mut(&token) else { continue };
                    match (message, &call.messages) {
                        // The stream may have ended meanwhile.
                        (Some(message), Some(messages)) => drop(messages.send(message)),
                        (Some(_), None) => {}
                        (None, _) => call.messages = None,
                    }
                }
                Outbound::Cancel { token } => {
                    if let Some(call) = self.0.remove(&token) {
                        call.task.abort();
                    }
                }
            }
        }
    }

    /// A call has ended by itself.
    pub(super) fn forget(&mut self, token: u32) {
        self.0.remove(&token);
    }
}

/// One HTTP call to its end.
async fn http(vm: Rc<Vm>, call: HttpCall) {
    let HttpCall { token, upstream, mut head, body, trailers, timeout } = call;
    vm.stats().call();
    if !trailers.is_empty() {
        // Many HTTP/1 implementations drop trailers that were not announced.
        let mut names: Vec<&str> = trailers.names().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        names.dedup();
        head.headers.extend(HeaderValue::try_from(names.join(", ")).ok().map(|names| (header::TRAILER, names)));
    } else if !body.is_empty() || has_body(&head) {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let body = CallBody::whole(body, trailers);
    let exchange = async {
        let answer = match send(&vm, &upstream, head, body, None).await {
            Ok(answer) => answer,
            Err(failure) => return Some(unavailable(&failure)),
        };
        whole(&vm, answer).await
    };
    let longest = vm.limits().call_time;
    let answer = match tokio::time::timeout(within(timeout, longest), exchange).await {
        Ok(answer) => answer,
        Err(_) => {
            if timeout.is_none_or(|timeout| timeout > longest) {
                vm.limit_exceeded(Limit::PluginCallTime);
            }
            Some(reply(StatusCode::GATEWAY_TIMEOUT, Bytes::from_static(b"upstream request timeout")))
        }
    };
    if answer.as_ref().is_none_or(|answer| answer.head.status.is_server_error()) {
        vm.stats().failed_call();
    }
    vm.end_call(token);
    // A trap is dealt with where every callback ends.
    let _ = vm.call_now(Callback::CallResponse, |instance| instance.on_http_call_response(token, answer));
}

/// Methods whose requests say that there is no body.
fn has_body(head: &RequestHead) -> bool {
    matches!(head.method.as_str(), "POST" | "PUT" | "PATCH")
}

/// Sends a request and waits for the head of the answer. `protocol`: not what the service is declared to speak.
async fn send(
    vm: &Vm,
    upstream: &str,
    head: RequestHead,
    body: RequestBody,
    protocol: Option<UpstreamProtocol>,
) -> Result<(ResponseHead, UpstreamBody), NoAnswer> {
    let cluster = vm.cluster(upstream).ok_or(NoAnswer::Unhealthy)?;
    let settings = cluster.settings();
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let server_name = settings.transport.server_name(host).map_err(|why| NoAnswer::Failure(Failure::Tls(why)))?;
    let protocol = protocol.unwrap_or_else(|| settings.protocol_for(false));
    let scheme = if server_name.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let mut request = forward::build(head, body, protocol, scheme).map_err(|_| NoAnswer::Request)?;
    let mut fresh = false;
    loop {
        let endpoint = cluster.pick().ok_or(NoAnswer::Unhealthy)?;
        let attempt = Attempt { protocol, server_name: server_name.as_ref(), fresh };
        let sent = pin!(cluster.send(&endpoint, &mut request, attempt)).await;
        match sent {
            Ok(sent) => return Ok((sent.head, sent.body)),
            Err(UpstreamError { failure, request: remains }) => {
                // A kept connection may be closed by the service at the very moment it is used.
                let again = match remains {
                    Remains::Unsent => true,
                    Remains::Whole => request.method.is_idempotent(),
                    Remains::Spent => false,
                };
                if fresh || !again || !failure.is_stale() {
                    tracing::debug!(%failure, upstream, plugin = vm.name(), "a call of a plugin failed");
                    return Err(NoAnswer::Failure(failure));
                }
                fresh = true;
            }
        }
    }
}

/// The whole answer, if all of it comes and the plugin may hold so much.
async fn whole(vm: &Vm, (mut head, mut body): (ResponseHead, UpstreamBody)) -> Option<CallResponse> {
    clean_answer(&mut head.headers);
    let (mut collected, mut trailers) = (BytesMut::new(), HeaderList::new());
    let mut weight = vm.weight();
    while let Some(frame) = next_frame(&mut body).await {
        let frame = frame.inspect_err(|error| tracing::debug!(%error, "the answer to a plugin broke off")).ok()?;
        match frame.into_data() {
            Ok(data) => {
                let length = collected.len() + data.len();
                let limit = vm.limits().body_bytes;
                if length > limit || !weight.set(length) {
                    let exceeded = if length > limit { Limit::PluginBodyBytes } else { Limit::PluginWorkerBytes };
                    vm.limit_exceeded(exceeded);
                    tracing::warn!(
                        plugin = vm.name(),
                        limit,
                        "the answer to a call of a plugin is longer than it may hold"
                    );
                    return None;
                }
                collected.extend_from_slice(&data);
            }
            Err(frame) => {
                if let Ok(mut found) = frame.into_trailers() {
                    trailers::clean(&mut found);
                    trailers = found.into();
                }
            }
        }
    }
    Some(CallResponse { head, body: collected.freeze(), trailers })
}

async fn next_frame(body: &mut UpstreamBody) -> Option<Result<http_body::Frame<Bytes>, BodyError>> {
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await
}

/// What Envoy's router answers for a service that it cannot reach.
fn unavailable(failure: &NoAnswer) -> CallResponse {
    let reset =
        |reason| format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}").into();
    let text = match failure {
        NoAnswer::Unhealthy => Bytes::from_static(b"no healthy upstream"),
        NoAnswer::Request => Bytes::from_static(b"the request cannot be sent"),
        NoAnswer::Failure(failure) => reset(match failure {
            Failure::ConnectTimeout => "connection timeout",
            failure if failure.is_connect() => "remote connection failure",
            Failure::Descriptors | Failure::Overflow(_) => "overflow",
            Failure::RemoteReset { .. } => "remote reset",
            Failure::Protocol(_) | Failure::Malformed(_) => "protocol error",
            _ => "connection termination",
        }),
    };
    reply(StatusCode::SERVICE_UNAVAILABLE, text)
}

fn reply(status: StatusCode, body: Bytes) -> CallResponse {
    let mut headers = HeaderList::new();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    CallResponse { head: ResponseHead { status, headers }, body, trailers: HeaderList::new() }
}

/// How long a call may take that says `wanted`.
fn within(wanted: Option<Duration>, longest: Duration) -> Duration {
    wanted.map_or(longest, |wanted| wanted.min(longest))
}
