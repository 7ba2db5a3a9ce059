//! Every host function with addresses outside the plugin's memory, and with unknown numbers.

use super::Case;

/// Far outside, and long enough to wrap.
const BAD: &str = "0xfffffff0 100";

pub(super) fn cases() -> Vec<Case> {
    let bad = |name: &str, calls: &[&str]| {
        let script: Vec<_> = calls.iter().map(|call| format!("request_headers {}", call.replace("BAD", BAD))).collect();
        Case::get(format!("arguments: {name}"), &script.join("\n"))
    };
    vec![
        bad(
            "log and time",
            &["log 2 BAD", "get_current_time_nanoseconds 0xfffffffc", "get_current_time_nanoseconds 0xffffffff"],
        ),
        bad(
            "properties",
            &[
                "get_property BAD >d",
                "get_property \"plugin_name\" 0xfffffff0 0xfffffff0",
                "set_property BAD \"x\"",
                "set_property \"x\" BAD",
            ],
        ),
        bad(
            "header maps",
            &[
                "get_header_map_value 0 BAD >d",
                "get_header_map_value 0 \"host\" 0xfffffff0 0xfffffff0",
                "get_header_map_pairs 0 0xfffffff0 0xfffffff0",
                "get_header_map_size 0 0xffffffff",
                "add_header_map_value 0 BAD \"x\"",
                "add_header_map_value 0 \"x\" BAD",
                "replace_header_map_value 0 BAD \"x\"",
                "remove_header_map_value 0 BAD",
                "set_header_map_pairs 0 BAD",
            ],
        ),
        bad(
            "buffers",
            &[
                "get_buffer_bytes 7 0 10 0xfffffff0 0xfffffff0",
                "get_buffer_status 7 0xfffffff0 0xfffffff0",
                "set_buffer_bytes 0 0 0 BAD",
            ],
        ),
        bad(
            "shared data",
            &[
                "get_shared_data BAD >d >n",
                "set_shared_data BAD \"x\" 0",
                "set_shared_data \"x\" BAD 0",
                "set_shared_data \"there\" \"x\" 0",
                "get_shared_data \"there\" 0xfffffff0 0xfffffff0 >n",
                "get_shared_data \"there\" >d 0xfffffff0",
            ],
        ),
        bad(
            "queues",
            &[
                "register_shared_queue BAD >n",
                "register_shared_queue \"x\" 0xffffffff",
                "resolve_shared_queue BAD \"x\" >n",
                "resolve_shared_queue \"\" BAD >n",
                "enqueue_shared_queue 1 BAD",
            ],
        ),
        bad("metrics", &["define_metric 0 BAD >n", "define_metric 0 \"x\" 0xffffffff", "get_metric 0 0xffffffff"]),
        bad(
            "calls",
            &[
                "http_call BAD {} \"\" {} 100 >n",
                "http_call \"x\" BAD \"\" {} 100 >n",
                "grpc_call BAD \"a\" \"b\" {} \"\" 100 >n",
                "grpc_stream BAD \"a\" \"b\" {} >n",
            ],
        ),
        bad("foreign functions", &["call_foreign_function BAD \"x\" >d", "call_foreign_function \"unknown\" BAD >d"]),
        bad("get_status", &["get_status 0xffffffff >d", "get_status >n 0xffffffff 0xffffffff"]),
    ]
}
