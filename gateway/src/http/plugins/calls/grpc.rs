//! gRPC calls of plugins: frames, metadata, and the status at the end, in the order in which Envoy reports them.

use std::{
    rc::{Rc, Weak},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::{Buf, Bytes, BytesMut};
use heads::{HeaderList, RequestHead, Scheme};
use http::{HeaderValue, Method, StatusCode, header};
use proxy_wasm_host::{GrpcCall, GrpcMetadata, Instance, Message, Trap};
use tokio::{sync::mpsc, task::AbortHandle};

use super::{CallBody, NoAnswer, body::framed, next_frame, send, within};
use crate::{
    http::{
        body::{RequestBody, UpstreamBody},
        plugins::vm::Vm,
        trailers,
    },
    snapshot::UpstreamProtocol,
    telemetry::{Callback, Limit},
};

/// Status codes of gRPC.
const UNKNOWN: u32 = 2;
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// How a call ended: code and message.
type Status = (u32, String);

/// Begins a call. Gives the way in for the messages of a stream.
pub(super) fn start(vm: &Rc<Vm>, call: GrpcCall) -> (Option<mpsc::UnboundedSender<Message>>, AbortHandle) {
    vm.stats().call();
    let head = head(&call);
    let (token, upstream, timeout) = (call.token, call.upstream, call.timeout);
    match call.message {
        Some(message) => {
            let unary = unary(Rc::clone(vm), token, upstream, head, framed(&message), timeout);
            (None, tokio::task::spawn_local(unary).abort_handle())
        }
        None => {
            let (sender, messages) = mpsc::unbounded_channel();
            // A stream may last for ever, so it does not keep an instance that nobody needs any more.
            let stream = stream(Rc::downgrade(vm), token, upstream, head, messages);
            (Some(sender), tokio::task::spawn_local(stream).abort_handle())
        }
    }
}

fn head(call: &GrpcCall) -> RequestHead {
    let mut headers = call.metadata.clone();
    for (name, value) in headers.iter_mut() {
        // Plugins give bytes where names end so; on the wire they are base64, as Envoy sends them.
        if name.as_str().ends_with("-bin")
            && let Ok(encoded) = HeaderValue::try_from(BASE64_STANDARD.encode(value.as_bytes()))
        {
            *value = encoded;
        }
    }
    // Without a name of its own, the service is asked for by that of its cluster, as far as that can be an authority.
    let host = call.upstream.rsplit('|').next().unwrap_or_default();
    let authority = call.authority.clone().or_else(|| HeaderValue::from_str(host).ok());
    headers.insert(header::HOST, authority.unwrap_or(HeaderValue::from_static("localhost")));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(timeout) = call.timeout
        && let Ok(value) = HeaderValue::from_str(&format!("{}m", timeout.as_millis().min(99_999_999)))
    {
        headers.insert("grpc-timeout", value);
    }
    RequestHead { method: Method::POST, target: call.path.clone(), scheme: Scheme::Http, headers }
}

/// A unary call: its answer is one message, or a status.
async fn unary(vm: Rc<Vm>, token: u32, upstream: String, head: RequestHead, message: Bytes, timeout: Option<Duration>) {
    let exchange = async {
        let body = CallBody::whole(message, HeaderList::new());
        let mut answer = Answer::begin(&vm, &upstream, head, body).await?;
        let mut last = None;
        while let Some(message) = answer.message(&vm).await? {
            last = Some(message);
        }
        match answer.status() {
            (0, _) => last.ok_or((INTERNAL, "the service answered without a message".to_owned())),
            failed => Err(failed),
        }
    };
    let longest = vm.limits().call_time;
    let outcome = match tokio::time::timeout(within(timeout, longest), exchange).await {
        Ok(outcome) => outcome,
        Err(_) => {
            if timeout.is_none_or(|timeout| timeout > longest) {
                vm.limit_exceeded(Limit::PluginCallTime);
            }
            Err((UNAVAILABLE, "upstream request timeout".to_owned()))
        }
    };
    vm.end_call(token);
    let _ = match outcome {
        Ok(message) => call(&vm, |instance| instance.on_grpc_receive(token, message)),
        Err(status) => close(&vm, token, status),
    };
}

/// A stream: everything is reported as it comes.
async fn stream(
    vm: Weak<Vm>,
    token: u32,
    upstream: String,
    head: RequestHead,
    messages: mpsc::UnboundedReceiver<Message>,
) {
    // Without a status the instance is gone or dead.
    if let Some(status) = flow(&vm, token, &upstream, head, messages).await
        && let Some(vm) = vm.upgrade()
    {
        vm.end_call(token);
        let _ = close(&vm, token, status);
    }
}

/// Tells everything up to the end, and gives its status. What a failure leaves out is told as empty, as by Envoy: plugins
/// count on both kinds of metadata.
async fn flow(
    vm: &Weak<Vm>,
    token: u32,
    upstream: &str,
    head: RequestHead,
    messages: mpsc::UnboundedReceiver<Message>,
) -> Option<Status> {
    let body = RequestBody::Call(Box::new(CallBody::Messages(messages)));
    let begun = {
        let vm = vm.upgrade()?;
        Answer::begin(&vm, upstream, head, body).await
    };
    let (initial, begun) = match begun {
        Ok(mut answer) => (std::mem::take(&mut answer.initial), Ok(answer)),
        Err(status) => (GrpcMetadata::default(), Err(status)),
    };
    tell(vm, |instance| instance.on_grpc_initial_metadata(token, initial))?;
    let (trailing, status) = match begun {
        Ok(mut answer) => match messages_of(&mut answer, vm, token).await? {
            Ok(()) => {
                let status = answer.status();
                (answer.trailing, status)
            }
            Err(status) => (GrpcMetadata::default(), status),
        },
        Err(status) => (GrpcMetadata::default(), status),
    };
    tell(vm, |instance| instance.on_grpc_trailing_metadata(token, trailing))?;
    Some(status)
}

/// Tells all messages of an answer.
async fn messages_of(answer: &mut Answer, vm: &Weak<Vm>, token: u32) -> Option<Result<(), Status>> {
    loop {
        // Held while a frame is waited for only as long as the instance lives: its end aborts this task.
        let limit = vm.upgrade()?.limits().body_bytes;
        match answer.message_within(limit).await {
            Ok(Some(message)) => tell(vm, |instance| instance.on_grpc_receive(token, message))?,
            Ok(None) => return Some(Ok(())),
            Err(status) => return Some(Err(status)),
        }
    }
}

/// `None`: the instance is gone or dead.
fn tell(vm: &Weak<Vm>, callback: impl FnOnce(&mut Instance) -> Result<(), Trap>) -> Option<()> {
    call(&vm.upgrade()?, callback).ok()
}

fn call(vm: &Rc<Vm>, callback: impl FnOnce(&mut Instance) -> Result<(), Trap>) -> Result<(), Trap> {
    vm.call_now(Callback::CallResponse, callback)
}

fn close(vm: &Rc<Vm>, token: u32, (code, message): Status) -> Result<(), Trap> {
    if code != 0 {
        vm.stats().failed_call();
    }
    call(vm, |instance| instance.on_grpc_close(token, code, message))
}

/// What a service answers, message by message.
struct Answer {
    initial: GrpcMetadata,
    body: UpstreamBody,
    /// Bytes that are not a whole message yet.
    rest: BytesMut,
    trailing: GrpcMetadata,
}

impl Answer {
    async fn begin(vm: &Vm, upstream: &str, head: RequestHead, body: RequestBody) -> Result<Self, Status> {
        let unavailable = |text: &str| (UNAVAILABLE, text.to_owned());
        // Nothing else carries gRPC.
        let (head, body) = match send(vm, upstream, head, body, Some(UpstreamProtocol::Http2)).await {
            Ok(answer) => answer,
            Err(NoAnswer::Unhealthy) => return Err(unavailable("no healthy upstream")),
            Err(NoAnswer::Request) => return Err((INTERNAL, "the request cannot be sent".to_owned())),
            Err(NoAnswer::Failure(failure)) => return Err(unavailable(&failure.to_string())),
        };
        if head.status != StatusCode::OK {
            return Err((code_of(head.status), format!("the service answered {}", head.status.as_u16())));
        }
        // An answer without messages carries its status in the head.
        let ended = head.headers.contains_key("grpc-status");
        let head = GrpcMetadata::Head(head);
        let (initial, trailing) = if ended { (GrpcMetadata::default(), head) } else { (head, GrpcMetadata::default()) };
        Ok(Self { initial, body, rest: BytesMut::new(), trailing })
    }

    async fn message(&mut self, vm: &Vm) -> Result<Option<Bytes>, Status> {
        let limit = vm.limits().body_bytes;
        let message = self.message_within(limit).await;
        if matches!(message, Err((RESOURCE_EXHAUSTED, _))) {
            vm.limit_exceeded(Limit::PluginBodyBytes);
        }
        message
    }

    /// The next message of at most `limit` bytes. `None`: that was the last.
    async fn message_within(&mut self, limit: usize) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = take_message(&mut self.rest, limit)? {
                return Ok(Some(message));
            }
            let Some(frame) = next_frame(&mut self.body).await else {
                return if self.rest.is_empty() {
                    Ok(None)
                } else {
                    Err((INTERNAL, "the answer ends within a message".to_owned()))
                };
            };
            match frame.map_err(|error| (UNAVAILABLE, error.to_string()))?.into_data() {
                Ok(data) => self.rest.extend_from_slice(&data),
                Err(frame) => {
                    if let Ok(mut found) = frame.into_trailers() {
                        trailers::clean(&mut found);
                        self.trailing = GrpcMetadata::Trailers(found.into());
                    }
                }
            }
        }
    }

    /// What the trailers say.
    fn status(&self) -> Status {
        let field = |name| self.trailing.headers().get(name);
        let code = field("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(UNKNOWN);
        // As it was sent: what is escaped in it is the plugin's business, as in Envoy.
        let message = field("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        (code, message.unwrap_or_default())
    }
}

/// A whole message from the front of what has come.
fn take_message(bytes: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Status> {
    let Some((&[compressed, a, b, c, d], _)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 {
        return Err((INTERNAL, "the service answers compressed, which was not asked for".to_owned()));
    }
    if length > limit {
        return Err((RESOURCE_EXHAUSTED, format!("a message of the answer has {length} bytes, more than {limit}")));
    }
    if bytes.len() < 5 + length {
        return Ok(None);
    }
    bytes.advance(5);
    Ok(Some(bytes.split_to(length).freeze()))
}

/// What a status of HTTP means for gRPC (its document http-grpc-status-mapping).
fn code_of(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn messages_are_taken_whole() {
        let mut bytes = BytesMut::from(&b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0"[..]);
        assert_eq!(take_message(&mut bytes, 3).unwrap().unwrap(), "abc");
        assert_eq!(take_message(&mut bytes, 3).unwrap().unwrap(), "");
        assert_eq!(take_message(&mut bytes, 3).unwrap(), None);
        assert_eq!(bytes.len(), 3);
        let refused = |bytes: &[u8]| take_message(&mut BytesMut::from(bytes), 3).unwrap_err().0;
        assert_eq!(refused(b"\0\0\0\0\x04"), RESOURCE_EXHAUSTED);
        assert_eq!(refused(b"\x01\0\0\0\x01"), INTERNAL);
    }
}
