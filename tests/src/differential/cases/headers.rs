//! Header maps: order, duplicates, missing keys, every edit, pseudo-headers, and when each can be touched.

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::post("headers: all maps in every callback, in order", "* pairs 0\n* pairs 1\n* pairs 2\n* pairs 3")
            .header("x-one", "1")
            .header("x-two", "a")
            .header("X-Two", "b")
            .header("x-empty", "")
            .chunks(&["one"])
            .trailers(&[("x-end", "here")])
            .answer_header("x-from", "service")
            .answer_chunks(&["one"])
            .answer_trailers(&[("x-end", "there")]),
        Case::post(
            "headers: values in every callback",
            r#"* get_header_map_value 0 "x-one" >d
               * get_header_map_value 0 "x-missing" >d
               * get_header_map_value 1 "x-end" >d
               * get_header_map_value 2 "x-from" >d
               * get_header_map_value 2 "x-missing" >d
               * get_header_map_value 3 "x-end" >d
               * get_header_map_value 4 "x" >d
               * get_header_map_value 6 "x" >d
               * get_header_map_value 8 "x" >d"#,
        )
        .header("x-one", "1")
        .answer_header("x-from", "service"),
        Case::post(
            "headers: edits in every callback",
            r#"* add_header_map_value 0 "x-add" "1"
               * replace_header_map_value 0 "x-set" "2"
               * remove_header_map_value 0 "x-gone"
               * add_header_map_value 2 "x-add" "1"
               * replace_header_map_value 2 "x-set" "2"
               * remove_header_map_value 2 "x-gone"
               * add_header_map_value 1 "x-add" "1"
               * add_header_map_value 3 "x-add" "1"
               * add_header_map_value 4 "x" "y"
               * add_header_map_value 8 "x" "y"
               * remove_header_map_value 8 "x""#,
        )
        .header("x-gone", "1")
        .answer_header("x-gone", "1"),
        Case::get(
            "headers: sizes in every callback",
            "* get_header_map_size 0 >n\n* get_header_map_size 1 >n\n* get_header_map_size 2 >n\n* get_header_map_size 3 >n\n* get_header_map_size 4 >n\n* get_header_map_size 9 >n",
        ),
        Case::get("headers: pairs that do not exist", "request_headers get_header_map_pairs 4 >d\nrequest_headers get_header_map_pairs 6 >d\nrequest_headers get_header_map_pairs 9 >d"),
        Case::get(
            "headers: duplicates",
            r#"request_headers get_header_map_value 0 "x-two" >d
               request_headers add_header_map_value 0 "x-two" "c"
               request_headers pairs 0
               request_headers replace_header_map_value 0 "x-two" "d"
               request_headers pairs 0
               response_headers get_header_map_value 2 "x-two" >d
               response_headers add_header_map_value 2 "x-two" "c"
               response_headers pairs 2"#,
        )
        .header("x-two", "a")
        .header("x-two", "b")
        .answer_header("x-two", "a")
        .answer_header("x-two", "b"),
        Case::get(
            "headers: names in capitals",
            r#"request_headers add_header_map_value 0 "X-Capital" "1"
               request_headers get_header_map_value 0 "X-CAPITAL" >d
               request_headers replace_header_map_value 0 "x-CAPITAL" "2"
               request_headers pairs 0
               response_headers add_header_map_value 2 "X-Capital" "1"
               response_headers remove_header_map_value 2 "X-From""#,
        )
        .answer_header("x-from", "service"),
        Case::get(
            "headers: host and authority",
            r#"request_headers get_header_map_value 0 "host" >d
               request_headers get_header_map_value 0 ":authority" >d
               request_headers get_header_map_value 0 ":host" >d
               request_headers replace_header_map_value 0 "host" "other.example.dev"
               request_headers get_header_map_value 0 ":authority" >d
               request_headers pairs 0"#,
        ),
        Case::get(
            "headers: pseudo-headers change",
            r#"request_headers replace_header_map_value 0 ":path" "/other?x=y"
               request_headers replace_header_map_value 0 ":method" "PUT"
               request_headers replace_header_map_value 0 ":authority" "other.example.dev"
               request_headers get_header_map_value 0 ":path" >d
               response_headers get_header_map_value 2 ":status" >d
               response_headers replace_header_map_value 2 ":status" "201""#,
        ),
        Case::get("headers: bytes", r#"request_headers add_header_map_value 0 "x-bytes" "\xff\xfe\x80"
            request_headers get_header_map_value 0 "x-bytes" >d
            request_headers get_header_map_value 0 "x-sent" >d
            response_headers add_header_map_value 2 "x-bytes" "\xff\x80""#)
            .header("x-sent", "caf\u{e9}"),
        Case::get("headers: empty values", r#"request_headers add_header_map_value 0 "x-empty" 0 0
            request_headers get_header_map_value 0 "x-empty" >d
            request_headers replace_header_map_value 0 "x-set" """#),
        Case::get("headers: all are replaced", r#"request_headers set_header_map_pairs 0 {:authority=new.example.dev;:path=/new;:method=GET;:scheme=http;x-new=1;x-new=2}
            request_headers pairs 0
            response_headers set_header_map_pairs 2 {:status=202;x-new=1;x-new=2}
            response_headers pairs 2"#)
            .header("x-old", "1")
            .answer_header("x-old", "1"),
        Case::get("headers: a map without pseudo-headers", r#"request_headers set_header_map_pairs 0 {x-new=1}
            request_headers pairs 0"#),
        Case::get("headers: a map that is none", r#"request_headers set_header_map_pairs 0 "\xff\xff\xff"
            request_headers pairs 0"#),
        Case::get("headers: an answer's map that is none", r#"response_headers set_header_map_pairs 2 "\xff\xff\xff"
            response_headers pairs 2"#),
        Case::get("headers: wrong maps are replaced", r#"request_headers set_header_map_pairs 2 {x=y}
            request_headers set_header_map_pairs 4 {x=y}
            request_headers set_header_map_pairs 9 {x=y}
            response_headers set_header_map_pairs 0 {x=y}"#),
        Case::post("headers: content-length", r#"request_headers get_header_map_value 0 "content-length" >d
            request_headers remove_header_map_value 0 "content-length"
            response_headers remove_header_map_value 2 "content-length""#),
        Case::get("headers: server", r#"response_headers replace_header_map_value 2 "server" "mine""#),
        Case::get("headers: the path changes the route", r#"request_headers replace_header_map_value 0 ":path" "/elsewhere"
            request_headers call_foreign_function "clear_route_cache" 0 0 >d"#),
    ];
    for name in [":path", ":method", ":authority", ":scheme", "host"] {
        cases.push(Case::get(
            format!("headers: {name} is removed"),
            &format!("request_headers remove_header_map_value 0 \"{name}\""),
        ));
    }
    cases.push(Case::get("headers: :status is removed", "response_headers remove_header_map_value 2 \":status\""));
    for (what, name, value) in [
        ("a name with a space", "x bad", "1"),
        ("an empty name", "", "1"),
        ("a name with a line end", "x\\x0d\\x0ay", "1"),
        ("a value with a line end", "x-bad", "1\\x0d\\x0ax-injected: 2"),
        ("a value with NUL", "x-bad", "1\\x002"),
        ("an unknown pseudo-header", ":unknown", "1"),
        ("a framing header", "transfer-encoding", "chunked"),
        ("connection", "connection", "close"),
    ] {
        cases.push(Case::get(
            format!("headers: {what} in the request"),
            &format!("request_headers add_header_map_value 0 \"{name}\" \"{value}\""),
        ));
        cases.push(Case::get(
            format!("headers: {what} in the answer"),
            &format!("response_headers add_header_map_value 2 \"{name}\" \"{value}\""),
        ));
    }
    for (what, status) in [("no number", "abc"), ("too small", "99"), ("too large", "1000"), ("empty", "")] {
        cases.push(Case::get(
            format!("headers: :status is {what}"),
            &format!("response_headers replace_header_map_value 2 \":status\" \"{status}\""),
        ));
    }
    let missing = r#"request_headers get_header_map_value 0 "x-missing" >d
        response_headers get_header_map_value 2 "x-missing" >d
        request_headers get_header_map_value 2 "x-missing" >d"#;
    for plugin in ["scripted-0-1-0", "scripted-0-2-0"] {
        cases.push(Case::get(format!("headers: missing keys in {plugin}"), missing).in_plugin(plugin));
        cases.push(Case::post(format!("headers: a stream in {plugin}"), "* pairs 0").in_plugin(plugin));
    }
    cases.push(
        Case::get(
            "headers: what only 0.1.0 has",
            "request_headers clear_route_cache\nrequest_headers get_configuration >d\nresponse_headers get_configuration >d",
        )
        .in_plugin("scripted-0-1-0"),
    );
    cases.push(
        Case::post(
            "headers: 0.1.0 pauses and a tick resumes",
            "request_headers set_tick_period_milliseconds 20\nrequest_headers return 1\ntick set_effective_context @self\ntick continue_request\ntick set_tick_period_milliseconds 0",
        )
        .in_plugin("scripted-0-1-0"),
    );
    cases
}
