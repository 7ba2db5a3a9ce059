//! Sending a request to an upstream: which cluster and endpoint, the edits on the way, trying again.

use std::{net::SocketAddr, pin::pin, rc::Rc, sync::Arc, time::Instant};

use heads::{HeaderList, Key, header};
use heads::{RequestHead, ResponseHead};
use http::{HeaderName, HeaderValue, StatusCode, Uri, Version, uri::Scheme};
use smallvec::SmallVec;

use super::{
    Cluster,
    body::{RequestBody, UpstreamBody},
    connection::Connection,
    record::Record,
    redirect,
    reply::Reply,
    request::named_by_connection,
    retry::{Attempts, Verdict},
    route::authority,
    serving::PinnedRoute,
};
use crate::{
    snapshot::{Destination, Forward, TemplateContext, Transport, UpstreamProtocol},
    telemetry::{Limit, ResponseFlags},
    upstream::{Attempt, Failure, Permit, Remains, Request, Resource, Sent, UpstreamError},
};

static X_ENVOY_ATTEMPT_COUNT: Key = Key::from_static("x-envoy-attempt-count");
static X_ENVOY_ORIGINAL_PATH: Key = Key::from_static("x-envoy-original-path");
static X_ENVOY_ORIGINAL_HOST: Key = Key::from_static("x-envoy-original-host");

/// An upstream's answer.
pub(super) struct Answer {
    pub(super) head: ResponseHead,
    pub(super) body: UpstreamBody,
    /// Which of the route's destinations gave it.
    pub(super) destination: usize,
    pub(super) endpoint: SocketAddr,
    /// When the body has to have ended, if the route limits single attempts.
    pub(super) deadline: Option<Instant>,
}

/// Why there is no answer.
pub(super) enum Failed {
    /// Say this to the client.
    Reply(Box<Reply>),
    /// The client is gone or broke off its request.
    Client,
}

/// The context of header values that contain operators.
pub(super) fn template_context<'a>(
    connection: &'a Connection,
    record: &Record,
    version: Version,
    head: Option<&'a RequestHead>,
    route: &'a PinnedRoute,
    upstream: Option<SocketAddr>,
) -> TemplateContext<'a> {
    TemplateContext {
        remote: record.client,
        local: connection.local,
        protocol: super::record::protocol(version),
        method: head.map_or("", |head| head.method.as_str()),
        path: head.map_or("", |head| head.target.as_str()),
        authority: head.map_or("", authority),
        route_name: &route.route.name,
        upstream,
        hostname: &connection.worker.identity.hostname,
    }
}

/// Sends a request along a route and waits for the head of the answer.
pub(super) async fn send(
    connection: &Connection,
    version: Version,
    mut head: RequestHead,
    body: RequestBody,
    route: &PinnedRoute,
    forward: &Forward,
    record: &mut Record,
) -> Result<Answer, Failed> {
    let (index, destination) = choose(&forward.destinations, forward.total_weight).ok_or_else(no_cluster)?;
    if let Some(log) = &mut record.log {
        log.cluster = Some(destination.cluster_name.clone());
    }
    let (cluster, counted) = route.destinations.get(index).and_then(Option::as_ref).ok_or_else(no_cluster)?;
    record.destination = Rc::clone(counted);
    record.note(|properties| {
        properties.cluster_name = Some(Arc::clone(&destination.cluster_name));
        properties.cluster_metadata.clone_from(&destination.metadata);
    });
    // Envoy asks for the host before it is rewritten.
    let server_name = match &cluster.settings().transport {
        Transport::Plain => None,
        transport => {
            let host = head.headers.get(&header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            transport.server_name(host).map_err(|reason| no_tls(reason, connection, record))?
        }
    };
    edit(connection, record, version, &mut head, route, forward, destination)?;

    let counters = connection.worker.telemetry.counters();
    let protocol = match body {
        // A WebSocket over HTTP/2 would be another kind of request (RFC 8441), which hardly a service knows.
        RequestBody::Upgrade => UpstreamProtocol::Http1,
        _ => cluster.settings().protocol_for(version == Version::HTTP_2),
    };
    let scheme = if server_name.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let mut request = build(head, body, protocol, scheme)?;
    let http2 = protocol == UpstreamProtocol::Http2;
    let mut attempts = Attempts::new(&forward.retry, record.is_grpc(), http2);
    attempts.record(&mut request);
    // While a request is being sent again it counts as a retry of its cluster.
    let mut retrying = None;
    let mut fresh = false;
    loop {
        let Some(endpoint) = attempts.pick(|| cluster.pick(), |endpoint| endpoint.address()) else {
            return Err(Failed::Reply(Reply::unavailable(
                "no_healthy_upstream",
                ResponseFlags::NO_HEALTHY_UPSTREAM,
                "no healthy upstream",
            )));
        };
        if let Some(log) = &mut record.log {
            log.upstream = Some(endpoint.address());
            log.attempts += 1;
        }
        record.note(|properties| {
            properties.upstream = Some(endpoint.address());
            properties.upstream_attempts += 1;
        });
        // The upstream may close a kept connection at the very moment we use it; over HTTP/1 the request is whole then.
        let copy = attempts.copy(&request, http2 && !fresh && endpoint.has_idle());
        let attempt = Attempt { protocol, server_name: server_name.as_ref(), fresh };
        let (outcome, deadline) = {
            // Pinned here: a future is large, and handing it over copies it.
            let sent = pin!(cluster.send(&endpoint, &mut request, attempt));
            within(&attempts, sent).await
        };
        let pause = match outcome {
            Ok(Sent { head, body, local, reused }) => {
                let counter =
                    if reused { &counters.upstream_connections_reused } else { &counters.upstream_connections_total };
                counter.inc();
                if let Some(log) = &mut record.log {
                    log.upstream_local = local;
                }
                record.note(|properties| properties.upstream_local = local);
                match (attempts.after_response(head.status.as_u16(), &head.headers), copy) {
                    (Verdict::Again, Some(copy))
                        if may_retry(&attempts, connection, cluster, &mut retrying, record) =>
                    {
                        request = copy;
                        true
                    }
                    (verdict, _) => {
                        if verdict == Verdict::Exhausted {
                            record.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                        }
                        let endpoint = endpoint.address();
                        return Ok(Answer { head, body, destination: index, endpoint, deadline });
                    }
                }
            }
            Err(Some(UpstreamError { failure, request: remains })) => {
                if failure.is_connect() {
                    counters.upstream_connect_failures.inc();
                }
                let verdict = attempts.after_failure(&failure);
                let is_whole = match (remains, copy) {
                    (Remains::Unsent | Remains::Whole, _) => true,
                    (Remains::Spent, Some(copy)) => {
                        request = copy;
                        true
                    }
                    (Remains::Spent, None) => false,
                };
                if is_whole && !fresh && attempts.is_stale(&failure, &request.method) {
                    fresh = true;
                    false
                } else if is_whole
                    && verdict == Verdict::Again
                    && may_retry(&attempts, connection, cluster, &mut retrying, record)
                {
                    true
                } else {
                    return Err(failed(&failure, attempts.retries, verdict, connection, record));
                }
            }
            Err(None) => match (attempts.after_timeout(), copy) {
                (Verdict::Again, Some(copy)) if may_retry(&attempts, connection, cluster, &mut retrying, record) => {
                    request = copy;
                    true
                }
                (verdict, _) => return Err(attempt_timed_out(verdict)),
            },
        };
        attempts.begin_next(pause).await;
        counters.upstream_retries.inc();
        request.headers.insert(&X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(attempts.retries + 1));
    }
}

/// Waits for the outcome of one attempt, as long as it may take. `Err(None)`: that was too long.
async fn within<T, E>(
    attempts: &Attempts<'_>,
    sent: impl Future<Output = Result<T, E>>,
) -> (Result<T, Option<E>>, Option<Instant>) {
    let Some(limit) = attempts.per_try_timeout() else { return (sent.await.map_err(Some), None) };
    let mut deadline = None;
    let outcome = {
        let over = async {
            attempts.request_sent().await;
            let end = Instant::now() + limit;
            deadline = Some(end);
            tokio::time::sleep_until(end.into()).await;
        };
        tokio::select! {
            biased;
            outcome = sent => outcome.map_err(Some),
            () = over => Err(None),
        }
    };
    (outcome, deadline)
}

/// Whether the request can be sent once more: not if its body is larger than what is kept of it, nor if too many
/// others of this cluster are being sent again.
fn may_retry(
    attempts: &Attempts<'_>,
    connection: &Connection,
    cluster: &Cluster,
    retrying: &mut Option<Permit>,
    record: &mut Record,
) -> bool {
    let counters = connection.worker.telemetry.counters();
    if !attempts.can_replay() {
        counters.limit_exceeded(Limit::RetryBufferBytes);
        return false;
    }
    // The attempt before has ended.
    *retrying = None;
    match cluster.take(Resource::Retries) {
        Ok(permit) => *retrying = Some(permit),
        Err(_) => {
            counters.limit_exceeded(Limit::UpstreamRetries);
            record.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
            return false;
        }
    }
    true
}

fn attempt_timed_out(verdict: Verdict) -> Failed {
    let mut reply =
        Reply::new(StatusCode::GATEWAY_TIMEOUT, "upstream_per_try_timeout", ResponseFlags::UPSTREAM_REQUEST_TIMEOUT)
            .with_body("upstream request timeout");
    if verdict == Verdict::Exhausted {
        reply.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    }
    Failed::Reply(reply)
}

/// A cluster that must be spoken to with TLS, and cannot.
fn no_tls(reason: String, connection: &Connection, record: &mut Record) -> Failed {
    connection.worker.telemetry.counters().upstream_connect_failures.inc();
    failed(&Failure::Tls(reason), 0, Verdict::No, connection, record)
}

fn no_cluster() -> Failed {
    Failed::Reply(Reply::unavailable("cluster_not_found", ResponseFlags::NO_CLUSTER, ""))
}

/// A destination by weight; one that stands alone gets everything.
pub(super) fn choose(destinations: &[Destination], total_weight: u64) -> Option<(usize, &Destination)> {
    match destinations {
        [only] => Some((0, only)),
        several => {
            let mut ticket = fastrand::u64(..total_weight.max(1));
            several.iter().enumerate().find(|(_, destination)| {
                let weight = u64::from(destination.weight);
                let hit = ticket < weight;
                ticket = ticket.saturating_sub(weight);
                hit
            })
        }
    }
}

/// Rewrites and header edits of the route.
fn edit(
    connection: &Connection,
    record: &Record,
    version: Version,
    head: &mut RequestHead,
    route: &PinnedRoute,
    forward: &Forward,
    destination: &Destination,
) -> Result<(), Failed> {
    let route_ops = &route.route.request_headers;
    let ops = [&destination.request_headers, route_ops];
    if ops.iter().any(|ops| !ops.is_empty()) {
        let mut headers = std::mem::take(&mut head.headers);
        // Operators see the request as it is before this step.
        let host = headers.get(&header::HOST).cloned();
        let context = TemplateContext {
            authority: host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
            ..template_context(connection, record, version, Some(head), route, None)
        };
        for ops in ops {
            ops.apply(&mut headers, &context);
        }
        head.headers = headers;
    }
    if let Some(rewrite) = &forward.path_rewrite {
        let rewritten = redirect::rewrite(&head.target, rewrite)
            .ok_or_else(|| Failed::Reply(Reply::bad_request("path_rewrite_failed")))?;
        let original = std::mem::replace(&mut head.target, rewritten);
        if let Ok(original) = HeaderValue::from_str(original.as_str()) {
            head.headers.insert(&X_ENVOY_ORIGINAL_PATH, original);
        }
    }
    if let Some(rewritten) = &forward.authority_rewrite
        && let Some(original) = head.headers.insert(&header::HOST, rewritten.clone())
    {
        head.headers.insert(&X_ENVOY_ORIGINAL_HOST, original);
    }
    head.headers.insert(&X_ENVOY_ATTEMPT_COUNT, HeaderValue::from_static("1"));
    Ok(())
}

/// The request in the form that the upstream's protocol wants.
pub(super) fn build(
    head: RequestHead,
    body: RequestBody,
    protocol: UpstreamProtocol,
    scheme: Scheme,
) -> Result<Request<RequestBody>, Failed> {
    let RequestHead { method, target, mut headers, .. } = head;
    let uri = match protocol {
        UpstreamProtocol::Http1 => Uri::from(target),
        UpstreamProtocol::Http2 => {
            let mut uri = http::uri::Parts::default();
            uri.scheme = Some(scheme);
            uri.authority = headers.remove(&header::HOST).and_then(|host| host.as_bytes().try_into().ok());
            uri.path_and_query = Some(target);
            Uri::from_parts(uri).map_err(|_| Failed::Reply(Reply::bad_request("invalid_host")))?
        }
    };
    Ok(Request { method, uri, headers, body })
}

/// Envoy's words for a failure.
fn failed(failure: &Failure, retries: u32, verdict: Verdict, connection: &Connection, record: &mut Record) -> Failed {
    // Over HTTP/2 such an end comes back as one of the stream.
    if record.is_broken_off() {
        return Failed::Client;
    }
    if failure.is_too_large() {
        connection.worker.telemetry.counters().limit_exceeded(Limit::ResponseHeadBytes);
    }
    let (mut flags, details, reason) = match failure {
        Failure::RequestBody(_) => return Failed::Client,
        Failure::Connect(_) | Failure::Tls(_) => (
            ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
            "upstream_reset_before_response_started{remote_connection_failure}",
            "remote connection failure",
        ),
        Failure::ConnectTimeout => {
            connection.worker.telemetry.counters().limit_exceeded(Limit::UpstreamConnectTime);
            (
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{connection_timeout}",
                "connection timeout",
            )
        }
        Failure::Descriptors => {
            connection.worker.telemetry.counters().limit_exceeded(Limit::OpenFiles);
            (ResponseFlags::UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}", "overflow")
        }
        Failure::Overflow(resource) => {
            connection.worker.telemetry.counters().limit_exceeded(limit_of(*resource));
            (ResponseFlags::UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}", "overflow")
        }
        Failure::Reset { .. } => (
            ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            "upstream_reset_before_response_started{connection_termination}",
            "connection termination",
        ),
        Failure::RemoteReset { .. } => (
            ResponseFlags::UPSTREAM_REMOTE_RESET,
            "upstream_reset_before_response_started{remote_reset}",
            "remote reset",
        ),
        Failure::Protocol(_) | Failure::Malformed(_) => (
            ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            "upstream_reset_before_response_started{protocol_error}",
            "protocol error",
        ),
    };
    if verdict == Verdict::Exhausted {
        flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    }
    if let Some(log) = &mut record.log {
        log.upstream_failure = Some(failure.to_string());
    }
    record.note(|properties| properties.upstream_failure = Some(failure.to_string().into()));
    tracing::debug!(%failure, "no answer from upstream");
    let latest = if retries > 0 { "retried and the latest " } else { "" };
    let mut reply = Reply::unavailable(details, flags, "").with_body(format!(
        "upstream connect error or disconnect/reset before headers. {latest}reset reason: {reason}"
    ));
    if matches!(failure, Failure::Protocol(_) | Failure::Malformed(_)) {
        reply.status = StatusCode::BAD_GATEWAY;
    }
    Failed::Reply(reply)
}

fn limit_of(resource: Resource) -> Limit {
    match resource {
        Resource::Connections => Limit::UpstreamConnections,
        Resource::Pending => Limit::UpstreamPendingRequests,
        Resource::Requests => Limit::UpstreamRequests,
        Resource::Retries => Limit::UpstreamRetries,
    }
}

/// Headers of an answer that belong to the upstream's connection (RFC 9110 7.6.1), removed in one pass.
pub(super) fn clean_answer(headers: &mut HeaderList) {
    let mut gone: SmallVec<[HeaderName; 8]> = SmallVec::new();
    for (name, value) in headers.iter() {
        match name.as_str() {
            "connection" => {
                named_by_connection(value, headers, &mut gone);
            }
            "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => {}
            _ => continue,
        }
        gone.push(name.clone());
    }
    for name in gone {
        headers.remove(name);
    }
}
