//! Group J of the table of faults (reliability.md 1.4): which tests are about each row.

use std::path::Path;

/// Tests of the crate that runs plugins.
const HOST: &str = "../gateway/wasm-host/tests/host";
/// Tests of the whole.
const WHOLE: &str = "tests/end_to_end";
/// Tests of what is not on the request path.
const CONTROL: &str = "../gateway/src/plugins";

/// A test: where, file and name.
type Test = (&'static str, &'static str, &'static str);

/// What a row is about, and its tests.
const ROWS: [(&str, &[Test]); 15] = [
    (
        "J-1 every kind of trap in every callback",
        &[
            (HOST, "hostile", "every_kind_of_failure_in_every_callback_is_a_trap"),
            (HOST, "hostile", "streams_of_a_dead_instance_are_told_at_once"),
            (HOST, "lifecycle", "a_trap_at_any_step_of_the_start_is_reported_with_the_step"),
            (WHOLE, "plugins/faults", "a_crash_costs_one_stream_and_the_next_has_a_spare"),
            (WHOLE, "plugins/faults", "streams_that_wait_in_an_instance_that_dies_end_by_policy"),
            (WHOLE, "plugins/faults", "many_crashes_in_a_row_never_turn_protection_off"),
        ],
    ),
    (
        "J-2 loops without end",
        &[
            (HOST, "hostile", "a_loop_in_any_callback_is_cut"),
            (HOST, "lifecycle", "a_start_that_does_not_end_is_cut"),
            (WHOLE, "plugins/faults", "a_callback_that_never_returns_is_stopped"),
            (WHOLE, "plugins/faults", "a_callback_that_never_returns_holds_others_up_for_its_deadline_only"),
        ],
    ),
    (
        "J-3 memory, tables and declarations without end",
        &[
            (HOST, "hostile", "memory_is_limited"),
            (HOST, "hostile", "tables_are_limited"),
            (HOST, "modules", "modules_that_need_too_much_are_refused"),
            (HOST, "modules", "modules_that_would_take_too_long_to_compile_are_refused"),
            (WHOLE, "plugins/faults", "a_callback_that_takes_all_the_memory_is_stopped"),
        ],
    ),
    (
        "J-4 bulk operations, which no deadline interrupts by itself",
        &[
            (HOST, "hostile", "a_loop_of_host_calls_or_bulk_operations_is_cut"),
            (HOST, "hostile", "filling_all_memory_does_not_hold_the_cut_up"),
        ],
    ),
    (
        "J-5 pointers and allocators",
        &[
            (HOST, "pointers", "no_argument_makes_the_host_panic"),
            (HOST, "hostile", "an_allocator_that_misbehaves_is_a_trap"),
            (HOST, "invariants", "nothing_a_plugin_asks_for_breaks_the_host"),
        ],
    ),
    (
        "J-6 maps, names, values and framing",
        &[
            (HOST, "headers", "edits_that_would_break_the_message_mark_the_exchange"),
            (HOST, "headers", "framing_headers_are_not_a_plugins_to_write"),
            (HOST, "headers", "a_map_is_replaced_whole_or_not_at_all"),
            (HOST, "headers", "the_size_of_a_head_is_limited"),
            (WHOLE, "plugins/faults", "an_edit_that_would_break_the_message_fails_the_stream_and_not_the_instance"),
        ],
    ),
    (
        "J-7 wrong phases, contexts and repetitions",
        &[
            (HOST, "headers", "nothing_can_be_changed_before_the_first_callback"),
            (HOST, "headers", "everything_can_be_read_in_the_log_and_nothing_changed"),
            (HOST, "bodies", "a_body_cannot_be_touched_outside_its_callback"),
            (HOST, "streams", "a_stream_acts_on_another_that_is_attached_and_on_no_other"),
            (HOST, "streams", "the_first_local_response_wins"),
            (HOST, "hostile", "a_resume_never_enters_the_plugin_again"),
            (WHOLE, "plugins/pauses", "a_pause_ends_some_time_by_fail_strategy"),
            (HOST, "calls", "a_grpc_stream_is_sent_to_until_its_end"),
        ],
    ),
    (
        "J-8 floods",
        &[
            (HOST, "hostile", "log_floods_are_dropped_and_counted"),
            (HOST, "sharing", "metrics_beyond_the_limit_take_values_and_are_not_exported"),
            (HOST, "sharing", "shared_data_is_limited_with_an_answer_that_sdks_survive"),
            (HOST, "sharing", "queues_are_limited"),
            (HOST, "streams", "ticks_are_asked_for_and_stopped"),
            (WHOLE, "plugins/calls", "calls_at_once_are_limited_for_a_stream"),
            (WHOLE, "plugins/calls", "what_is_no_service_is_not_called"),
        ],
    ),
    (
        "J-9 bodies",
        &[
            (HOST, "bodies", "a_body_does_not_grow_beyond_its_limit"),
            (WHOLE, "plugins/bodies", "a_body_that_is_too_large_to_be_held_is_refused"),
            (WHOLE, "plugins/bodies", "request_bodies_are_what_the_plugin_makes_of_them"),
            (WHOLE, "plugins/bodies", "large_bodies_stream_through_a_plugin_that_changes_them"),
        ],
    ),
    (
        "J-10 what another request or plugin left in memory",
        &[
            (HOST, "hostile", "memory_of_a_dead_instance_is_not_seen_by_the_next"),
            (HOST, "hostile", "memory_of_one_plugin_is_not_seen_by_another"),
            (HOST, "fresh", "what_one_stream_left_in_memory_is_not_in_the_next_ones"),
        ],
    ),
    (
        "J-11 clients that leave",
        &[
            (WHOLE, "plugins/pauses", "a_client_that_leaves_while_its_stream_is_paused_leaves_nothing_behind"),
            (WHOLE, "plugins/pauses", "a_client_that_leaves_while_its_trailers_are_held_leaves_nothing_behind"),
            (WHOLE, "plugins/pauses", "what_was_held_for_clients_that_left_is_given_back"),
            (WHOLE, "plugins/calls", "the_client_may_leave_while_a_call_is_going"),
        ],
    ),
    (
        "J-12 WASI",
        &[
            (HOST, "wasi", "there_are_no_files_and_no_sockets"),
            (HOST, "wasi", "random_bytes_are_random_and_limited"),
            (HOST, "wasi", "leaving_is_a_trap"),
            (HOST, "wasi", "polling_does_not_wait"),
        ],
    ),
    (
        "J-13 replacement under load",
        &[
            (WHOLE, "plugins/replacement", "no_request_fails_while_a_plugin_is_replaced"),
            (WHOLE, "plugins/attachment", "a_module_that_is_replaced_on_disk_is_taken_over"),
            (WHOLE, "versions", "swaps_under_load_lose_no_request_and_leave_no_memory"),
            (WHOLE, "plugins/remote", "packed_modules_and_redirects_are_understood_and_what_is_no_module_is_refused"),
            (WHOLE, "plugins/remote", "the_old_version_serves_until_the_new_one_is_there"),
            (WHOLE, "plugins/remote", "this_machine_is_asked_only_if_it_was_named"),
            (WHOLE, "plugins/registry", "a_registry_may_send_us_for_a_token_but_not_anywhere"),
        ],
    ),
    (
        "J-14 many requests",
        &[
            (HOST, "hostile", "one_instance_serves_many_streams_without_growing"),
            (HOST, "fresh", "many_fresh_instances_take_no_more_memory_than_a_few"),
            (WHOLE, "plugins/faults", "an_instance_that_has_filled_its_memory_is_replaced_before_it_crashes"),
        ],
    ),
    (
        "J-15 a cache of compiled code",
        &[
            (WHOLE, "plugins/restart", "plugins_are_compiled_once_and_not_with_every_start"),
            (CONTROL, "compiled", "every_damaged_byte_is_noticed"),
            (CONTROL, "compiled", "what_others_wrote_is_never_used"),
            (CONTROL, "compiled", "code_of_other_settings_is_another_entry"),
        ],
    ),
];

#[test]
fn every_row_has_its_tests() {
    for (number, (row, tests)) in (1..).zip(ROWS) {
        assert!(row.starts_with(&format!("J-{number} ")), "{row} stands where J-{number} should");
        assert!(!tests.is_empty(), "{row}: no test");
        for (place, file, name) in tests {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(place).join(format!("{file}.rs"));
            let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(source.contains(&format!("fn {name}(")), "{row}: there is no test {name} in {file}.rs");
        }
    }
}
