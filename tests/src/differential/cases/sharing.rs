//! Shared data, queues, metrics, ticks, foreign functions. Keys are each case's own: what is shared outlives a stream.

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::get(
            "sharing: data",
            r#"request_headers get_shared_data "data" >d >n
               request_headers set_shared_data "data" "one" 0
               request_headers get_shared_data "data" >d >n
               request_headers set_shared_data "data" "two" $0
               request_headers set_shared_data "data" "three" $0
               request_headers get_shared_data "data" >d >n
               request_headers set_shared_data "data" "four" 0
               request_headers set_shared_data "data" "" 0
               request_headers get_shared_data "data" >d >n
               log get_shared_data "data" >d >n"#,
        ),
        Case::get(
            "sharing: data with any CAS on a new key",
            "request_headers set_shared_data \"new\" \"x\" 12345\nrequest_headers get_shared_data \"new\" >d >n",
        ),
        Case::get(
            "sharing: data with an empty key",
            "request_headers set_shared_data \"\" \"x\" 0\nrequest_headers get_shared_data \"\" >d >n",
        ),
        Case::get(
            "sharing: a queue",
            r#"request_headers resolve_shared_queue "" "queue" >n
               request_headers register_shared_queue "queue" >n
               request_headers register_shared_queue "queue" >n
               request_headers resolve_shared_queue "" "queue" >n
               request_headers resolve_shared_queue "nobody" "queue" >n
               request_headers dequeue_shared_queue $0 >d
               request_headers enqueue_shared_queue $0 "one"
               request_headers enqueue_shared_queue $0 ""
               request_headers dequeue_shared_queue $0 >d
               request_headers dequeue_shared_queue $0 >d
               request_headers dequeue_shared_queue $0 >d
               request_headers enqueue_shared_queue 99999 "x"
               request_headers dequeue_shared_queue 99999 >d"#,
        ),
        Case::get(
            "sharing: the queue calls back",
            r#"request_headers register_shared_queue "calls-back" >n
               request_headers enqueue_shared_queue $0 "one"
               request_headers return 1
               queue dequeue_shared_queue $0 >d
               queue set_effective_context @self
               queue continue_stream 0"#,
        ),
        Case::get(
            "sharing: metrics",
            r#"request_headers define_metric 0 "a_counter" >n
               request_headers define_metric 1 "a_gauge" >n
               request_headers define_metric 2 "a_histogram" >n
               request_headers define_metric 3 "nothing" >n
               request_headers increment_metric $0 5L
               request_headers increment_metric $0 -1L
               request_headers get_metric $0 >q
               request_headers record_metric $0 10L
               request_headers get_metric $0 >q
               request_headers increment_metric $1 5L
               request_headers increment_metric $1 -2L
               request_headers get_metric $1 >q
               request_headers record_metric $1 7L
               request_headers get_metric $1 >q
               request_headers increment_metric $2 1L
               request_headers record_metric $2 7L
               request_headers get_metric $2 >q
               request_headers increment_metric 99996 1L
               request_headers record_metric 99996 1L
               request_headers get_metric 99996 >q
               log increment_metric $0 1L
               log get_metric $0 >q"#,
        ),
        Case::get(
            "sharing: a metric is defined twice",
            "request_headers define_metric 0 \"twice\" >n\nrequest_headers define_metric 0 \"twice\" >n\nrequest_headers increment_metric $0 3L\nrequest_headers get_metric $1 >q",
        ),
        Case::get(
            "sharing: a gauge below zero",
            "request_headers define_metric 1 \"below\" >n\nrequest_headers increment_metric $0 -3L\nrequest_headers get_metric $0 >q\nrequest_headers record_metric $0 2L\nrequest_headers increment_metric $0 -3L\nrequest_headers get_metric $0 >q",
        ),
        Case::get("sharing: time", "* get_current_time_nanoseconds >q"),
        Case::get(
            "sharing: the log",
            "* log 0 \"trace\"\n* log 2 \"info\"\n* log 5 \"critical\"\n* log 6 \"no level\"\n* log 2 \"\"",
        ),
        Case::get(
            "sharing: foreign functions that exist nowhere",
            "request_headers call_foreign_function \"unknown\" \"x\" >d\nrequest_headers call_foreign_function \"\" \"x\" >d",
        ),
        Case::get(
            "sharing: foreign functions",
            "request_headers call_foreign_function \"clear_route_cache\" \"\" >d\nrequest_headers call_foreign_function \"clear_route_cache\" \"\" 0 0\nrequest_headers call_foreign_function \"compress\" \"\" >d\nrequest_headers call_foreign_function \"uncompress\" \"xyz\" >d\nrequest_headers call_foreign_function \"verify_signature\" \"xyz\" >d\nrequest_headers call_foreign_function \"expr_create\" \"request.path\" >d\nrequest_headers call_foreign_function \"expr_evaluate\" \"\\x00\\x00\\x00\\x00\" >d\nrequest_headers call_foreign_function \"expr_delete\" \"\\x00\\x00\\x00\\x00\" >d",
        ),
    ]
}
