//! Answers of the plugin's own, from every phase.

use super::Case;

const REPLY: &str = r#"send_local_response 403 "some details" "refused" {x-reply=yes;x-reply=twice} 0xffffffff"#;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for at in [
        "request_headers",
        "request_body#1",
        "request_body!",
        "request_trailers",
        "response_headers",
        "log",
        "done",
        "delete",
    ] {
        for end in ["return 1", "return 0"] {
            cases.push(
                Case::post(format!("replies: in {at}, which {end}"), &format!("{at} {REPLY}\n{at} {end}"))
                    .chunks(&["one", "two"])
                    .trailers(&[("x-end", "here")])
                    .answer_chunks(&["one", "two"])
                    .answer_trailers(&[("x-end", "there")]),
            );
        }
    }
    // One in on_log has Envoy call itself until it ends.
    cases.retain(|case| !["log", "done", "delete"].iter().any(|at| case.name.contains(&format!("in {at},"))));
    for at in ["response_body#1", "response_body!", "response_trailers"] {
        cases.push(
            Case::get(format!("replies: in {at}"), &format!("{at} {REPLY}\n{at} return 1"))
                .answer_chunks(&["one", "two"])
                .answer_trailers(&[("x-end", "there")])
                .hangs(),
        );
    }
    cases.extend([
        Case::get("replies: from a tick", &format!("request_headers set_tick_period_milliseconds 20\nrequest_headers return 1\ntick set_effective_context @self\ntick {REPLY}\ntick set_tick_period_milliseconds 0")),
        Case::get("replies: from a tick, for nobody", &format!("response_headers set_tick_period_milliseconds 20\nresponse_headers return 1\ntick {REPLY}\ntick set_effective_context @self\ntick continue_stream 1\ntick set_tick_period_milliseconds 0")),
        Case::get("replies: two in one callback", &format!("request_headers {REPLY}\nrequest_headers send_local_response 200 \"\" \"second\" {{}} 0xffffffff\nrequest_headers return 1")),
        Case::get("replies: a second one from its own response headers", &format!("request_headers {REPLY}\nrequest_headers return 1\nresponse_headers send_local_response 402 \"\" \"second\" {{x-second=yes}} 0xffffffff\nresponse_headers return 1")),
        Case::get("replies: changed in response headers", &format!("request_headers {REPLY}\nrequest_headers return 1\nresponse_headers add_header_map_value 2 \"x-later\" \"1\"\nresponse_headers replace_header_map_value 2 \":status\" \"404\"\nresponse_headers pairs 2\nresponse_body get_buffer_bytes 1 0 100 >d")),
        Case::get("replies: the body changed in response body", &format!("request_headers {REPLY}\nrequest_headers return 1\nresponse_headers remove_header_map_value 2 \"content-length\"\nresponse_body set_buffer_bytes 1 0 100 \"CHANGED\"")),
        Case::get("replies: without anything", "request_headers send_local_response 200 0 0 0 0 0 0 0xffffffff\nrequest_headers return 1"),
        Case::get("replies: details", &format!("request_headers {REPLY}\nrequest_headers return 1\nlog get_property \"response\\x00code_details\" >d\nlog get_property \"response\\x00code\" >d\nlog get_property \"response\\x00flags\" >d")),
        Case::get("replies: own content-type and length", "request_headers send_local_response 200 \"\" \"text\" {content-type=application/json;content-length=4} 0xffffffff\nrequest_headers return 1"),
        Case::get("replies: headers that are none", "request_headers send_local_response 200 \"\" \"text\" \"\\xff\\xff\\xff\" 0xffffffff\nrequest_headers return 1"),
        Case::get("replies: bad addresses", "request_headers send_local_response 200 0xfffffff0 100 \"text\" {} 0xffffffff\nrequest_headers send_local_response 200 \"\" 0xfffffff0 100 {} 0xffffffff\nrequest_headers send_local_response 200 \"\" \"text\" 0xfffffff0 100 0xffffffff"),
        Case::get("replies: gRPC status without gRPC", "request_headers send_local_response 200 \"\" \"text\" {} 7\nrequest_headers return 1"),
        Case::post("replies: gRPC status for gRPC", "request_headers send_local_response 403 \"\" \"not you\" {} 7\nrequest_headers return 1").header("content-type", "application/grpc"),
        Case::post("replies: no gRPC status for gRPC", "request_headers send_local_response 403 \"\" \"not you\" {} 0xffffffff\nrequest_headers return 1").header("content-type", "application/grpc"),
        Case::post("replies: gRPC status out of range", "request_headers send_local_response 403 \"\" \"not you\" {} 99\nrequest_headers return 1").header("content-type", "application/grpc"),
    ]);
    for status in [100, 199, 204, 304, 500, 599, 600, 1000, 0] {
        cases.push(
            Case::get(
                format!("replies: status {status}"),
                &format!(
                    "request_headers send_local_response {status} \"\" \"\" {{}} 0xffffffff\nrequest_headers return 1"
                ),
            )
            .hangs(),
        );
    }
    cases
}
