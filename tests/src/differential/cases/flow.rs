//! What callbacks return and what becomes of the stream: pauses, buffering, `end_of_stream`, trailers, resets, the order
//! of callbacks.
//!
//! Not here: continuing the response before there is one (Envoy 1.40 ends with a segmentation fault), and continuing
//! within a callback that then goes on (it sends the head twice: the service gets two requests, or the client a head
//! where the body should be).

use super::Case;

/// Pauses in this callback by returning `action`, and resumes from the next tick. (The tick is asked for in that callback:
/// one that came earlier would find nothing to resume, and Envoy does not survive that.)
fn resumed(at: &str, action: u32) -> String {
    let half = u32::from(at.starts_with("response"));
    format!(
        "{at} set_tick_period_milliseconds 20
         {at} return {action}
         tick set_effective_context @self
         tick continue_stream {half}
         tick set_tick_period_milliseconds 0"
    )
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::get("flow: nothing is done", ""),
        Case::post("flow: a body passes", ""),
        Case::post("flow: an empty body", "").body(""),
        Case::post("flow: two chunks pass", "").chunks(&["one", "two"]),
        Case::post("flow: chunks and trailers pass", "").chunks(&["one", "two"]).trailers(&[("x-end", "here")]),
        Case::get("flow: an answer in chunks passes", "").answer_chunks(&["one", "two"]),
        Case::get("flow: an answer with trailers passes", "")
            .answer_chunks(&["one"])
            .answer_trailers(&[("x-end", "here")]),
        Case::get("flow: an answer without a body", "").answer(204, ""),
        Case::get("flow: an empty answer", "").answer(200, ""),
    ];
    // What each callback may return, and what else it does then.
    for action in [1, 2, 3, 4, 5, 7] {
        let hangs = action != 2;
        let case = |case: Case| if hangs { case.hangs() } else { case };
        cases.push(case(Case::get(
            format!("flow: request headers return {action}, no body"),
            &format!("request_headers return {action}"),
        )));
        cases.push(case(Case::post(
            format!("flow: request headers return {action}"),
            &format!("request_headers return {action}"),
        )));
        cases.push(case(Case::get(
            format!("flow: response headers return {action}"),
            &format!("response_headers return {action}"),
        )));
        // That does not pause.
        if action == 2 {
            continue;
        }
        cases.push(Case::post(
            format!("flow: request headers return {action} and a tick resumes"),
            &resumed("request_headers", action),
        ));
        cases.push(Case::get(
            format!("flow: response headers return {action} and a tick resumes"),
            &resumed("response_headers", action),
        ));
    }
    for action in [1, 2, 3, 4] {
        cases.extend([
            Case::post(format!("flow: request body returns {action} once"), &format!("request_body#1 return {action}"))
                .chunks(&["one", "two", "three"]),
            Case::post(format!("flow: request body returns {action} always"), &format!("request_body return {action}"))
                .chunks(&["one", "two"])
                .hangs(),
            Case::post(
                format!("flow: request body returns {action} at its end and a tick resumes"),
                &resumed("request_body!", action),
            )
            .chunks(&["one", "two"]),
            Case::get(
                format!("flow: response body returns {action} once"),
                &format!("response_body#1 return {action}"),
            )
            .answer_chunks(&["one", "two", "three"]),
            Case::get(
                format!("flow: response body returns {action} always"),
                &format!("response_body return {action}"),
            )
            .answer_chunks(&["one", "two"])
            .hangs(),
            Case::get(
                format!("flow: response body returns {action} at its end and a tick resumes"),
                &resumed("response_body!", action),
            )
            .answer_chunks(&["one", "two"]),
            Case::post(
                format!("flow: request trailers return {action} and a tick resumes"),
                &resumed("request_trailers", action),
            )
            .chunks(&["one"])
            .trailers(&[("x-end", "here")]),
            Case::get(
                format!("flow: response trailers return {action} and a tick resumes"),
                &resumed("response_trailers", action),
            )
            .answer_chunks(&["one"])
            .answer_trailers(&[("x-end", "here")]),
        ]);
    }
    cases.extend([
        Case::post("flow: continue within the callback that pauses", "request_headers continue_stream 0\nrequest_headers return 1").hangs(),
        Case::get("flow: continue the request from response headers", "response_headers continue_stream 0"),
        Case::get("flow: continue the request in the log", "log continue_stream 0"),
        Case::get("flow: continue the response in the log", "log continue_stream 1"),
        Case::get("flow: continue TCP, upstream", "request_headers continue_stream 3"),
        Case::get("flow: continue what does not exist", "request_headers continue_stream 4"),
        Case::get("flow: the request is closed in its headers", "request_headers close_stream 0"),
        Case::get("flow: the request is closed in its headers, paused", "request_headers close_stream 0\nrequest_headers return 1"),
        Case::post("flow: the request is closed in its body", "request_body close_stream 0"),
        Case::get("flow: the response is closed in its headers", "response_headers close_stream 1"),
        Case::get("flow: the response is closed in its body", "response_body#1 close_stream 1"),
        Case::get("flow: close TCP, downstream", "request_headers close_stream 2"),
        Case::get("flow: close TCP, upstream", "request_headers close_stream 3"),
        Case::get("flow: close what does not exist", "request_headers close_stream 4"),
        Case::post("flow: trailers are added at the end of the request", r#"request_body! add_header_map_value 1 "x-end" "added""#)
            .chunks(&["one"]),
        Case::post("flow: trailers are added at the end of the request with a length", r#"request_body! add_header_map_value 1 "x-end" "added""#),
        Case::post("flow: trailers are added too early", r#"request_headers,request_body#1 add_header_map_value 1 "x-end" "added""#)
            .chunks(&["one", "two"]),
        Case::get("flow: trailers are added at the end of the answer", r#"response_body! add_header_map_value 3 "x-end" "added""#)
            .answer_chunks(&["one"]),
        Case::get("flow: trailers are added at the end of the answer with a length", r#"response_body! add_header_map_value 3 "x-end" "added""#),
        Case::get("flow: trailers are added to an answer without a body", r#"response_headers add_header_map_value 3 "x-end" "added""#).answer(200, ""),
        Case::post(
            "flow: trailers change",
            r#"request_trailers pairs 1
               request_trailers replace_header_map_value 1 "x-end" "changed"
               request_trailers add_header_map_value 1 "x-more" "added"
               request_trailers get_header_map_size 1 >n
               response_trailers pairs 3
               response_trailers remove_header_map_value 3 "x-end"
               response_trailers add_header_map_value 3 "x-more" "added""#,
        )
        .chunks(&["one"])
        .trailers(&[("x-end", "here"), ("x-two", "2")])
        .answer_chunks(&["one"])
        .answer_trailers(&[("x-end", "here")]),
        Case::get("flow: on_done returns 0", "done return 0"),
        Case::get("flow: done is called", "request_headers,log,done,delete done"),
        Case::get("flow: effective context", "request_headers set_effective_context @self\nrequest_headers set_effective_context 1\nrequest_headers get_property \"request\\x00path\" >d\nrequest_headers set_effective_context 99999\nrequest_headers get_property \"request\\x00path\" >d\nrequest_headers set_effective_context @self\nrequest_headers get_property \"request\\x00path\" >d"),
        Case::post("flow: more body than may be held", "request_body return 1").body(&"x".repeat(1_500_000)).coarse(),
        Case::get("flow: more answer than may be held", "response_body return 1").answer(200, &"x".repeat(1_500_000)).coarse(),
        Case::get("flow: more answer than may be held, its headers too", "response_headers return 0\nresponse_body return 1").answer(200, &"x".repeat(1_500_000)).coarse(),
    ]);
    cases
}
