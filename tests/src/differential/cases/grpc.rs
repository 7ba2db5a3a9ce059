//! gRPC: replies of plugins and of the gateway to clients that speak it, and calls of plugins, unary and streams.

use super::Case;
use crate::differential::case::{Answer, framed};

/// What is called: by the name of its host, which is a cluster in Envoy's configuration, too.
const SERVICE: &str = "\"sample-h2.default.svc.cluster.local\"";

/// What every callback of a call can see. The request waits for the end of the call.
const SHOWN: &str = "
    grpc_head pairs 4
    grpc_head get_header_map_value 4 \":status\" >d
    grpc_message get_buffer_bytes 5 0 1000 >d
    grpc_message get_buffer_status 5 >n >n
    grpc_trailers pairs 5
    grpc_close get_status >n >d
    grpc_close set_effective_context @self
    grpc_close continue_stream 0
";

/// A unary call with this metadata. Envoy tells no end of one that succeeds, so its message lets the request go on.
fn unary(name: &str, metadata: &str, called: Answer) -> Case {
    Case::get(
        format!("gRPC: a unary call, {name}"),
        &format!(
            "request_headers grpc_call {SERVICE} \"callee.Echo\" \"Say\" {metadata} \"hello\" 1000 >n
             request_headers return 1
             {SHOWN}
             grpc_message set_effective_context @self
             grpc_message continue_stream 0"
        ),
    )
    .called(called)
}

/// A stream; `then` is what happens with it.
fn stream(name: &str, metadata: &str, then: &str, called: Answer) -> Case {
    Case::get(
        format!("gRPC: a stream, {name}"),
        &format!(
            "request_headers grpc_stream {SERVICE} \"callee.Echo\" \"Chat\" {metadata} >n
             {then}
             request_headers return 1
             {SHOWN}"
        ),
    )
    .called(called)
}

pub(super) fn cases() -> Vec<Case> {
    let grpc = |name: &str, script: &str| {
        Case::post(format!("gRPC: {name}"), script)
            .path("/service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .chunks(&[&framed("hello")])
            .over_http2()
            .in_plugin("scripted-to-http2")
    };
    let fails = |name: &str, plugin: &'static str, script: &str| grpc(name, script).in_plugin(plugin);
    let reply = |status: &str, body: &str, code: &str| {
        format!(
            "request_headers send_local_response {status} \"\" \"{body}\" {{x-reply=yes}} {code}\nrequest_headers return 1\nresponse_headers pairs 2\nresponse_trailers pairs 3"
        )
    };
    let one = Answer::grpc(&["answer"], "0");
    let sends = "request_headers grpc_send $0 \"one\" 0\nrequest_headers grpc_send $0 \"two\" 1";
    vec![
        grpc("a call passes", "").answer_as(Answer::grpc(&["one", "two"], "0")),
        grpc("trailers only", "response_headers pairs 2").answer_as(Answer::grpc_head("5")),
        grpc("a reply with a status", &reply("403", "not you", "7")),
        grpc("a reply without a status", &reply("403", "not you", "0xffffffff")),
        grpc("a reply with status 0", &reply("200", "fine", "0")),
        grpc("a reply with a status that there is not", &reply("403", "not you", "99")),
        grpc("a reply without a body", &reply("403", "", "7")),
        grpc("a reply with letters that a header cannot have", &reply("403", "100% \\x01\\xc3\\xbc", "7")),
        grpc("a reply with status 401", &reply("401", "who", "0xffffffff")),
        grpc("a reply with status 429", &reply("429", "slow", "0xffffffff")),
        grpc("a reply with status 500", &reply("500", "broken", "0xffffffff")),
        grpc(
            "a reply to the answer's headers",
            "response_headers send_local_response 403 \"\" \"not you\" {} 7\nresponse_headers return 1",
        )
        .answer_as(Answer::grpc(&["one"], "0")),
        grpc("the path is removed", "request_headers remove_header_map_value 0 \":path\""),
        grpc("the answer's status is removed", "response_headers remove_header_map_value 2 \":status\""),
        grpc(
            "the status changes in the trailers",
            "response_trailers replace_header_map_value 3 \"grpc-status\" \"9\"",
        )
        .answer_as(Answer::grpc(&["one"], "0")),
        fails("a trap", "traps", "request_headers trap"),
        fails("a trap, FAIL_OPEN", "traps-open", "request_headers trap"),
        fails("a plugin that does not start", "refuses", ""),
        fails("a plugin that does not start, FAIL_OPEN", "refuses-open", ""),
        Case::get("gRPC: not gRPC, and a plugin that does not start", "").in_plugin("refuses"),
        Case::get("gRPC: not gRPC, and a plugin that does not start, FAIL_OPEN", "").in_plugin("refuses-open"),
        unary("and an answer", "{x-one=1;x-bin-bin=AAEC}", one.clone()),
        unary("without metadata", "{}", one.clone()),
        unary("an empty message", "{}", Answer::grpc(&[""], "0")),
        unary("that is refused", "{}", Answer::grpc(&[], "7")),
        unary("that is refused in the head", "{}", Answer::grpc_head("7")),
        unary("a message, then a failure", "{}", Answer::grpc(&["answer"], "13")),
        unary("two messages", "{}", Answer::grpc(&["one", "two"], "0")),
        unary("no message", "{}", Answer::grpc(&[], "0")),
        unary("no message, in the head", "{}", Answer::grpc_head("0")),
        unary("a status of HTTP", "{}", Answer::of(403)),
        unary("not gRPC", "{}", Answer::default()),
        stream("two messages each", "{x-one=1}", sends, Answer::grpc(&["three", "four"], "0")),
        stream(
            "closed by the plugin",
            "{}",
            "request_headers grpc_send $0 \"one\" 0\nrequest_headers grpc_close $0",
            one.clone(),
        ),
        stream("no message", "{}", "request_headers grpc_close $0", Answer::grpc(&[], "0")),
        stream("a failure in the head", "{}", sends, Answer::grpc_head("7")),
        stream("a failure in the trailers", "{}", sends, Answer::grpc(&["three"], "7")),
        stream("a status of HTTP", "{}", sends, Answer::of(503)),
        stream("not gRPC", "{}", sends, Answer::default()),
        stream("an empty message", "{}", "request_headers grpc_send $0 \"\" 1", Answer::grpc(&[""], "0")),
        stream(
            "cancelled",
            "{}",
            "request_headers grpc_cancel $0\nrequest_headers grpc_cancel $0\nrequest_headers grpc_send $0 \"x\" 0",
            one.clone(),
        )
        .hangs(),
        stream(
            "used after its end",
            "{}",
            &format!("{sends}\ngrpc_close grpc_send $0 \"x\" 0\ngrpc_close grpc_close $0\ngrpc_close grpc_cancel $0"),
            one.clone(),
        ),
        unary("with a name of its own", "{:authority=other.example.dev;user-agent=mine}", one),
    ]
}
