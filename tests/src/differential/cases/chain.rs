//! Three plugins in a chain: in which order they are called, what one sees of the others' work, and what becomes of it when
//! one of them pauses or answers itself.

use super::Case;

const REPLY: &str = "send_local_response 403 \"\" \"refused\" {x-reply=yes} 0xffffffff";

/// Adds its name to a header of each message.
fn signs(name: &str) -> String {
    format!(
        "request_headers add_header_map_value 0 \"x-passed\" \"{name}\"
         response_headers add_header_map_value 2 \"x-passed\" \"{name}\"
         request_headers pairs 0
         response_headers pairs 2"
    )
}

/// Waits for all of each body and writes `name` behind it.
fn appends(name: &str) -> String {
    format!(
        "request_headers remove_header_map_value 0 \"content-length\"
         response_headers remove_header_map_value 2 \"content-length\"
         request_body return 1
         request_body! get_buffer_bytes 0 0 100 >d
         request_body! set_buffer_bytes 0 1000 0 \" {name}\"
         request_body! return 0
         response_body return 1
         response_body! get_buffer_bytes 1 0 100 >d
         response_body! set_buffer_bytes 1 1000 0 \" {name}\"
         response_body! return 0"
    )
}

/// Pauses in this callback, and resumes from the next tick.
fn pauses(at: &str) -> String {
    let half = u32::from(at.starts_with("response"));
    format!(
        "{at} set_tick_period_milliseconds 20
         {at} return 1
         tick set_effective_context @self
         tick continue_stream {half}
         tick set_tick_period_milliseconds 0"
    )
}

pub(super) fn cases() -> Vec<Case> {
    let chain = |name: &str, scripts: [&str; 3]| Case::post(format!("chain: {name}"), "").in_chain(scripts);
    let get = |name: &str, scripts: [&str; 3]| Case::get(format!("chain: {name}"), "").in_chain(scripts);
    let all = |script: fn(&str) -> String| ["first", "second", "third"].map(script);
    let signed = all(signs);
    let signed = signed.each_ref().map(String::as_str);
    let appended = all(appends);
    let appended = appended.each_ref().map(String::as_str);
    let reply = |at: &str, action: u32| format!("{at} {REPLY}\n{at} return {action}");
    let mut cases = vec![
        get("nobody does anything, in order", ["", "", ""]),
        chain("a body passes", ["", "", ""]),
        chain("chunks and trailers pass", ["", "", ""])
            .chunks(&["one", "two"])
            .trailers(&[("x-end", "here")])
            .answer_chunks(&["one", "two"])
            .answer_trailers(&[("x-end", "here")]),
        get("each signs", signed),
        chain("each appends to chunks", appended).chunks(&["one ", "two"]).answer_chunks(&["three ", "four"]),
        chain("two append, the one between looks", [appended[0], "* get_buffer_bytes 0 0 100 >d\n* get_buffer_bytes 1 0 100 >d", appended[2]])
            .chunks(&["one ", "two"])
            .answer_chunks(&["three ", "four"]),
        chain(
            "the first rewrites pieces, the second waits for all",
            ["request_body set_buffer_bytes 0 0 100 \"piece \"", appended[1], ""],
        )
        .chunks(&["one", "two"]),
        get(
            "a header is removed by the first, changed by the second, seen by the third",
            [
                "request_headers remove_header_map_value 0 \"x-one\"\nresponse_headers pairs 2",
                "request_headers get_header_map_value 0 \"x-one\" >d\nrequest_headers replace_header_map_value 0 \"x-two\" \"second\"\nresponse_headers remove_header_map_value 2 \"x-from\"",
                "request_headers pairs 0\nresponse_headers replace_header_map_value 2 \"x-from\" \"third\"",
            ],
        )
        .header("x-one", "1")
        .header("x-two", "2")
        .answer_header("x-from", "service"),
        get(
            "what the first stores can be read by the others",
            [
                "request_headers set_property \"mine\" \"value\"",
                "request_headers get_property \"mine\" >d\nlog get_property \"mine\" >d",
                "response_headers get_property \"mine\" >d",
            ],
        ),
        get(
            "shared data is each plugin's own",
            [
                "request_headers set_shared_data \"chained\" \"value\" 0",
                "request_headers get_shared_data \"chained\" >d >n",
                "request_headers resolve_shared_queue \"first\" \"nothing\" >n",
            ],
        ),
        get(
            "two replies in a row",
            [
                "",
                &format!("request_headers {REPLY}\nrequest_headers return 1"),
                "response_headers send_local_response 402 \"\" \"third\" {} 0xffffffff",
            ],
        ),
        get(
            "a reply is changed by those before",
            [
                "response_headers replace_header_map_value 2 \":status\" \"404\"\nresponse_headers remove_header_map_value 2 \"content-length\"\nresponse_body set_buffer_bytes 1 0 100 \"changed\"",
                "response_headers add_header_map_value 2 \"x-second\" \"yes\"",
                &format!("request_headers {REPLY}\nrequest_headers return 1"),
            ],
        ),
        get(
            "a reply is replaced by the one before",
            [
                "",
                "response_headers send_local_response 402 \"\" \"second\" {x-second=yes} 0xffffffff\nresponse_headers return 1",
                &format!("request_headers {REPLY}\nrequest_headers return 1"),
            ],
        ),
        get(
            "the second closes the stream",
            ["", "request_headers close_stream 0\nrequest_headers return 1", ""],
        ),
        get("all pause in headers", [pauses("request_headers").as_str(), &pauses("request_headers"), &pauses("request_headers")]),
        chain("the second pauses in headers", ["", &pauses("request_headers").replace(" 20\n", " 100\n"), ""]).chunks(&["one", "two"]),
        chain("the second pauses at the end of the body", ["", &pauses("request_body!"), ""]).chunks(&["one", "two"]),
        get("the second pauses at the end of the answer", ["", &pauses("response_body!"), ""]).answer_chunks(&["one", "two"]),
        get("the second calls a service", [
            "",
            "request_headers http_call \"outbound\\x7c80\\x7c\\x7ccallee.default.svc.cluster.local\" {:method=GET;:path=/asked;:authority=callee.example.dev} \"\" {} 1000 >n
             request_headers return 1
             call get_buffer_bytes 4 0 100 >d
             call set_effective_context @self
             call add_header_map_value 0 \"x-called\" \"yes\"
             call continue_stream 0",
            "request_headers get_header_map_value 0 \"x-called\" >d",
        ]),
    ];
    // A module that remembers nothing of a stream still has to know whose configuration is meant.
    cases.push(Case::get("two configurations of one module", "").in_plugin("add-header"));
    cases.push(Case::post("two configurations of one module, with bodies", "").in_plugin("add-header"));
    for (at, action) in [("request_headers", 1), ("request_headers", 0), ("request_body#1", 1), ("response_headers", 1)]
    {
        let reply = reply(at, action);
        for (place, scripts) in
            [("first", [&*reply, "", ""]), ("second", ["", &*reply, ""]), ("third", ["", "", &*reply])]
        {
            cases.push(chain(&format!("the {place} answers in {at}, which returns {action}"), scripts));
        }
    }
    cases
}
