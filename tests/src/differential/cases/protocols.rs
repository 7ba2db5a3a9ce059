//! HTTP/2 on either side, and on both: what cannot be seen over HTTP/1.1, and the most important of the other cases again.

use super::Case;

/// Both sides of a case: client and service.
fn over(case: &Case, client: bool, service: bool) -> Case {
    let name = match (client, service) {
        (true, false) => "HTTP/2 to HTTP/1.1",
        (false, true) => "HTTP/1.1 to HTTP/2",
        _ => "HTTP/2 to HTTP/2",
    };
    let mut case = case.clone();
    case.name = format!("{name}: {}", case.name);
    let case = if client { case.over_http2() } else { case };
    if service { case.in_plugin("scripted-to-http2") } else { case }
}

pub(super) fn cases() -> Vec<Case> {
    let reply = "send_local_response 403 \"\" \"refused\" {x-reply=yes} 0xffffffff";
    let shown =
        "request_headers pairs 0\nresponse_headers pairs 2\nrequest_trailers pairs 1\nresponse_trailers pairs 3";
    let protocol = "request_headers get_property \"request\\x00protocol\" >d\nrequest_headers get_property \"request\\x00scheme\" >d\nlog get_property \"response\\x00flags\" >d\nlog get_property \"response\\x00code\" >d";
    let general = vec![
        Case::get("a request, in order", shown).header("x-two", "a").header("x-two", "b").header("cookie", "a=1").header("cookie", "b=2"),
        Case::post("a body", shown),
        Case::post("chunks and trailers", shown)
            .chunks(&["one", "two"])
            .trailers(&[("x-end", "here")])
            .answer_chunks(&["three", "four"])
            .answer_trailers(&[("x-end", "there")]),
        Case::get("an answer without a body", "").answer(204, ""),
        Case::get("properties", protocol),
        Case::post("trailers are added", "request_body! add_header_map_value 1 \"x-end\" \"added\"\nresponse_body! add_header_map_value 3 \"x-end\" \"added\"")
            .chunks(&["one", "two"])
            .answer_chunks(&["three", "four"]),
        Case::post("trailers change", "request_trailers replace_header_map_value 1 \"x-end\" \"changed\"\nrequest_trailers add_header_map_value 1 \"x-more\" \"added\"\nresponse_trailers remove_header_map_value 3 \"x-end\"\nresponse_trailers add_header_map_value 3 \"x-more\" \"added\"")
            .chunks(&["one"])
            .trailers(&[("x-end", "here")])
            .answer_chunks(&["two"])
            .answer_trailers(&[("x-end", "there")]),
        Case::post("bodies are replaced", "request_headers remove_header_map_value 0 \"content-length\"\nrequest_body return 1\nrequest_body! set_buffer_bytes 0 0 100 \"a longer one\"\nrequest_body! return 0\nresponse_headers remove_header_map_value 2 \"content-length\"\nresponse_body return 1\nresponse_body! set_buffer_bytes 1 0 100 \"a longer answer\"\nresponse_body! return 0")
            .chunks(&["one", "two"])
            .answer_chunks(&["three", "four"]),
        Case::post("a longer body", "request_body#1 set_buffer_bytes 0 0 100 \"a longer one\""),
        Case::get("a longer answer", "response_body#1 set_buffer_bytes 1 0 100 \"a longer one\""),
        Case::get("the authority changes", "request_headers replace_header_map_value 0 \":authority\" \"other.example.dev\"\nrequest_headers get_header_map_value 0 \"host\" >d"),
        Case::get("the path is removed", "request_headers remove_header_map_value 0 \":path\""),
        Case::get("the method is removed", "request_headers remove_header_map_value 0 \":method\""),
        Case::get("the status is removed", "response_headers remove_header_map_value 2 \":status\""),
        Case::get("the status changes", "response_headers replace_header_map_value 2 \":status\" \"404\""),
        Case::get("a header of the connection is added", "request_headers add_header_map_value 0 \"connection\" \"x-one\"\nrequest_headers add_header_map_value 0 \"x-one\" \"1\"\nresponse_headers add_header_map_value 2 \"connection\" \"close\""),
        Case::get("a name in capitals is added", "request_headers add_header_map_value 0 \"X-Capitals\" \"Yes\"\nresponse_headers add_header_map_value 2 \"X-Capitals\" \"Yes\""),
        Case::get("a reply to headers", &format!("request_headers {reply}\nrequest_headers return 1")),
        Case::post("a reply to a body", &format!("request_body#1 {reply}\nrequest_body#1 return 1")).chunks(&["one", "two"]),
        Case::get("a reply to the answer's headers", &format!("response_headers {reply}\nresponse_headers return 1")),
        Case::get("a reply to the answer's second piece", &format!("response_body#2 {reply}\nresponse_body#2 return 1")).answer_chunks(&["one", "two", "three"]),
        Case::get("the request is closed", "request_headers close_stream 0\nrequest_headers return 1"),
        Case::get("the answer is closed", "response_headers close_stream 1\nresponse_headers return 1"),
        Case::get("the request pauses for ever", "request_headers return 1").hangs(),
    ];
    let mut cases = Vec::new();
    for (client, service) in [(true, false), (false, true), (true, true)] {
        cases.extend(general.iter().map(|case| over(case, client, service)));
    }
    cases
}
