//! Bodies and configurations: every way to read and write them.

use super::Case;

/// Reads and writes of both bodies when all is there.
fn edit(name: &str, start: &str, size: &str) -> Vec<Case> {
    let script = |at: &str, kind: u32| {
        format!(
            "{at}#1 return 1
             {at}#2 set_buffer_bytes {kind} {start} {size} \"NEW\"
             {at}#2 get_buffer_bytes {kind} 0 100 >d
             {at}#2 get_buffer_status {kind} >n >n"
        )
    };
    vec![
        Case::post(format!("buffers: {name} of the request"), &script("request_body", 0)).chunks(&["hello", "world"]),
        Case::get(format!("buffers: {name} of the answer"), &script("response_body", 1))
            .answer_chunks(&["hello", "world"]),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::post(
            "buffers: all of them in every callback",
            "* get_buffer_bytes 0 0 10 >d\n* get_buffer_bytes 1 0 10 >d\n* get_buffer_bytes 2 0 10 >d\n* get_buffer_bytes 3 0 10 >d\n* get_buffer_bytes 4 0 10 >d\n* get_buffer_bytes 5 0 10 >d\n* get_buffer_bytes 6 0 10 >d\n* get_buffer_bytes 7 0 10 >d\n* get_buffer_bytes 8 0 10 >d\n* get_buffer_bytes 9 0 10 >d",
        )
        .chunks(&["one"])
        .answer_chunks(&["one"]),
        Case::post(
            "buffers: lengths in every callback",
            "* get_buffer_status 0 >n >n\n* get_buffer_status 1 >n >n\n* get_buffer_status 2 >n >n\n* get_buffer_status 4 >n >n\n* get_buffer_status 6 >n >n\n* get_buffer_status 7 >n >n\n* get_buffer_status 9 >n >n",
        )
        .chunks(&["one"])
        .answer_chunks(&["one"]),
        Case::post(
            "buffers: reading with offsets",
            "request_body#1 return 1
             request_body#2 get_buffer_bytes 0 0 4 >d
             request_body#2 get_buffer_bytes 0 3 4 >d
             request_body#2 get_buffer_bytes 0 8 100 >d
             request_body#2 get_buffer_bytes 0 10 1 >d
             request_body#2 get_buffer_bytes 0 11 1 >d
             request_body#2 get_buffer_bytes 0 0 0 >d
             request_body#2 get_buffer_bytes 0 0xffffffff 1 >d
             request_body#2 get_buffer_bytes 0 1 0xffffffff >d
             request_body#2 get_buffer_bytes 0 0 0xffffffff >d",
        )
        .chunks(&["hello", "world"]),
        Case::post(
            "buffers: writing in every callback",
            "* set_buffer_bytes 0 0 0 \"Q\"\n* set_buffer_bytes 1 0 0 \"S\"\n* set_buffer_bytes 2 0 0 \"x\"\n* set_buffer_bytes 4 0 0 \"x\"\n* set_buffer_bytes 6 0 0 \"x\"\n* set_buffer_bytes 7 0 0 \"x\"\n* set_buffer_bytes 9 0 0 \"x\"",
        )
        .chunks(&["one"])
        .answer_chunks(&["one"]),
        Case::post("buffers: a longer body, length removed", "request_headers remove_header_map_value 0 \"content-length\"\nrequest_body#1 set_buffer_bytes 0 0 100 \"a longer one\""),
        Case::get("buffers: a longer answer, length removed", "response_headers remove_header_map_value 2 \"content-length\"\nresponse_body#1 set_buffer_bytes 1 0 100 \"a longer one\""),
        Case::post("buffers: a body of the same length", "request_body#1 set_buffer_bytes 0 0 100 \"HELLO\""),
        Case::post("buffers: a longer body", "request_body#1 set_buffer_bytes 0 0 100 \"a longer one\""),
        Case::post("buffers: a shorter body", "request_body#1 set_buffer_bytes 0 0 100 \"a\"").hangs(),
        Case::get("buffers: a longer answer", "response_body#1 set_buffer_bytes 1 0 100 \"a longer one\""),
        Case::get("buffers: a shorter answer", "response_body#1 set_buffer_bytes 1 0 100 \"a\"").hangs(),
        Case::post("buffers: the body is emptied", "request_headers remove_header_map_value 0 \"content-length\"\nrequest_body set_buffer_bytes 0 0 100 \"\""),
        Case::post("buffers: replaced at the end, pieces dropped", "request_body return 3\nrequest_body! set_buffer_bytes 0 0 100 \"only this\"\nrequest_body! return 0").chunks(&["one", "two"]),
        Case::post("buffers: an edit while paused", "request_body! set_tick_period_milliseconds 20\nrequest_body! return 1\ntick set_effective_context @self\ntick get_buffer_bytes 0 0 100 >d\ntick set_buffer_bytes 0 0 100 \"from the tick\"\ntick continue_stream 0\ntick set_tick_period_milliseconds 0").chunks(&["one", "two"]),
        Case::get("buffers: encoded answers stay encoded", "response_body#1 get_buffer_bytes 1 0 100 >d").answer(200, "not really").answer_header("content-encoding", "gzip"),
    ];
    for (name, start, size) in [
        ("prepend", "0", "0"),
        ("replace all", "0", "100"),
        ("replace exactly", "0", "10"),
        ("replace the beginning", "0", "3"),
        ("append", "10", "0"),
        ("append far behind", "1000", "0"),
        ("append with a size", "10", "5"),
        ("insert", "5", "0"),
        ("replace the middle", "3", "4"),
        ("replace the rest", "5", "100"),
        ("start and size overflow", "0xffffffff", "0xffffffff"),
    ] {
        cases.extend(edit(name, start, size));
    }
    cases
}
