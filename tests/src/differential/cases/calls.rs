//! Calls to other services.

use super::Case;

const CALLEE: &str = "outbound|80||callee.default.svc.cluster.local";

/// A call with these headers, body, trailers and time-out; the request waits for its answer.
fn call(name: &str, upstream: &str, headers: &str, rest: &str, then: &str) -> Case {
    let upstream = upstream.replace('|', "\\x7c");
    Case::get(
        format!("calls: {name}"),
        &format!(
            "request_headers http_call \"{upstream}\" {headers} {rest} >n
             request_headers return 1
             call pairs 6
             call get_header_map_value 6 \":status\" >d
             call get_buffer_bytes 4 0 1000 >d
             call get_buffer_status 4 >n >n
             call pairs 7
             call get_status >n >d
             call set_effective_context @self
             {then}"
        ),
    )
}

pub(super) fn cases() -> Vec<Case> {
    let whole = "{:method=GET;:path=/asked;:authority=callee.example.dev;x-one=1}";
    let goes_on = "call continue_stream 0";
    let mut cases = vec![
        call("and resume", CALLEE, whole, "\"\" {} 1000", goes_on),
        call(
            "with a body",
            CALLEE,
            "{:method=POST;:path=/asked;:authority=callee.example.dev}",
            "\"some body\" {} 1000",
            goes_on,
        ),
        call(
            "and reply",
            CALLEE,
            "{:method=GET;:path=/refused;:authority=callee.example.dev}",
            "\"\" {} 1000",
            "call send_local_response 403 \"\" \"refused\" {} 0xffffffff",
        ),
        call("that has no service", "outbound|80||nobody.default.svc.cluster.local", whole, "\"\" {} 1000", goes_on)
            .hangs(),
        call("without a method", CALLEE, "{:path=/asked;:authority=callee.example.dev}", "\"\" {} 1000", goes_on)
            .hangs(),
        call("without a path", CALLEE, "{:method=GET;:authority=callee.example.dev}", "\"\" {} 1000", goes_on).hangs(),
        call("without an authority", CALLEE, "{:method=GET;:path=/asked}", "\"\" {} 1000", goes_on).hangs(),
        call("with headers that are none", CALLEE, "\"\\xff\\xff\"", "\"\" {} 1000", goes_on).hangs(),
        call("without a time-out", CALLEE, whole, "\"\" {} 0", goes_on),
    ];
    cases.push(Case::get(
        "calls: gRPC to nobody",
        "request_headers grpc_call \"nobody\" \"service\" \"method\" {} \"\" 1000 >n
         request_headers grpc_stream \"nobody\" \"service\" \"method\" {} >n
         request_headers grpc_send 12345 \"x\" 1
         request_headers grpc_cancel 12345
         request_headers grpc_close 12345",
    ));
    cases.push(Case::get("calls: the answer's maps and buffer outside of it", "request_headers pairs 6\nrequest_headers pairs 7\nrequest_headers get_buffer_bytes 4 0 10 >d\nrequest_headers get_status >n >d"));
    cases
}
