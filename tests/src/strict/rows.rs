//! Every row of groups A to G of the table of faults (reliability.md 1.4), and what covers it besides its cases.

/// A row.
pub struct Row {
    /// `A-1`
    pub id: &'static str,
    /// Tests of the binary `end_to_end` that are about it, with their modules.
    pub tests: &'static [&'static str],
    /// What the gateway does not have, and what it does instead.
    pub missing: &'static str,
}

const fn row(id: &'static str, tests: &'static [&'static str]) -> Row {
    Row { id, tests, missing: "" }
}

impl Row {
    const fn without(self, missing: &'static str) -> Row {
        Row { missing, ..self }
    }
}

/// How many rows each group has.
pub const GROUPS: [(&str, usize); 7] = [("A", 19), ("B", 8), ("C", 20), ("D", 10), ("E", 5), ("F", 10), ("G", 10)];

/// All rows, in their order.
pub const ROWS: &[Row] = &[
    row("A-1", &["strict::what_is_refused_is_answered_logged_and_counted"]),
    row("A-2", &[]),
    row("A-3", &[]),
    row("A-4", &[]),
    row("A-5", &[]),
    row("A-6", &[]),
    row("A-7", &["protocols::http10_where_it_is_wanted"]),
    row("A-8", &["strict::a_body_that_breaks_the_rules_never_ends_at_the_service"]),
    row("A-9", &[]),
    row("A-10", &[]),
    row("A-11", &["crossings::trailers_are_no_second_head"]),
    row("A-12", &[]),
    row("A-13", &[]),
    row("A-14", &["protocols::a_get_may_have_a_body"]),
    row("A-15", &["crossings::one_who_asks_first_may_be_refused", "protocols::a_client_that_asks_first_is_told_to_go_on"]),
    row("A-16", &["faults::an_answer_that_does_not_wait_for_the_request", "faults::an_upload_that_nobody_wants_is_answered_all_the_same"]),
    row("A-17", &["strict::answers_stay_in_order_and_nothing_follows_a_refusal"]),
    // Every case of this group is sent a byte at a time, too.
    row("A-18", &["strictness::framing", "strict::what_is_allowed_passes_however_it_is_cut"]),
    row("A-19", &["faults::what_a_service_sends_unasked_is_nobodys_answer", "faults::a_service_that_talks_nonsense"]),
    row("B-1", &["slow_clients::a_head_that_does_not_come_in_time"]),
    row("B-2", &["slow_clients::a_head_that_does_not_come_in_time", "tls::seen::a_handshake_has_an_end"]),
    row("B-3", &["slow_clients::a_body_that_does_not_go_on"]),
    row("B-4", &["slow_clients::a_client_that_does_not_read", "protocols::a_client_that_does_not_read_stops_the_service"]),
    row("B-5", &["headers::heads_are_limited"]),
    row("B-6", &["protocols::a_service_that_does_not_read_stops_the_client"]),
    row("B-7", &[]).without("nothing in the gateway inflates anything: bodies pass as they are, to plugins, too"),
    row("B-8", &["slow_clients::a_connection_without_a_request"]),
    row("C-1", &["http2_floods::rapid_resets_end_the_connection"]),
    row("C-2", &[]),
    row("C-3", &["http2_floods::floods_of_frames_end_the_connection"]),
    row("C-4", &["http2_floods::floods_of_frames_end_the_connection", "http2_floods::a_flood_is_told_to_calm_down", "http2_floods::a_busy_client_is_no_flood"]),
    row("C-5", &["http2_floods::data_that_nobody_reads_does_not_use_up_the_window"]),
    row("C-6", &["http2_floods::heads_and_streams_have_their_limits"]),
    row("C-7", &["slow_clients::a_client_that_does_not_read", "slow_clients::a_client_that_holds_a_hundred_answers_back_is_not_served_for_ever"]),
    row("C-8", &[]),
    row("C-9", &["http2_floods::one_bad_request_ends_its_stream_only"]),
    row("C-10", &["crossings::a_length_that_is_not_kept_resets_the_stream"]),
    row("C-11", &["headers::http2_requests_are_checked_like_the_others"]),
    row("C-12", &["http2_floods::heads_and_streams_have_their_limits"]),
    row("C-13", &[]),
    row("C-14", &[]),
    row("C-15", &["headers::h2c_upgrades_are_served_as_http1", "strictness::bytes_inside_tls_are_what_was_agreed_on"]),
    row("C-16", &[]).without("WebSockets over HTTP/2 (RFC 8441): the setting is not announced, and who tries loses the stream"),
    row("C-17", &["destinations::http2_connections_carry_as_many_requests_as_both_sides_allow", "http2_services::floods_end_the_connection_and_no_other", "http2_services::a_connection_that_was_flooded_is_replaced", "http2_services::a_service_that_answers_every_piece_is_no_flood"]),
    row("C-18", &["protocols::requests_of_one_http2_connection_do_not_wait_for_each_other"]),
    row("C-19", &["http2_floods::one_bad_request_ends_its_stream_only"]),
    row("C-20", &["grpc::a_call_that_is_given_up_is_given_up_everywhere", "grpc::deadlines_are_those_of_the_client_and_of_the_route", "grpc::an_error_is_told_as_the_server_told_it", "protocols::the_status_of_grpc_is_in_its_trailers"]),
    row("D-1", &["headers::paths_arrive_in_one_normal_form"]).without("Istio's other path normalisations (NONE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES): it is always BASE"),
    row("D-2", &[]).without("AuthorizationPolicy: hosts that have one are answered 403; the cases are about a route on `/admin`"),
    row("D-3", &["headers::an_absolute_target_overrides_the_host", "tls::servers::a_host_of_another_server_is_misdirected", "hosts::the_authority_of_http2_chooses_as_the_host_of_http1"]),
    row("D-4", &["headers::what_clients_must_not_say_is_replaced", "topology::behind_trusted_proxies_the_first_of_them_is_believed", "topology::nothing_is_believed_by_default", "topology::ipv6_on_both_sides"]),
    row("D-5", &["headers::what_belongs_to_one_connection_stays_on_it", "crossings::headers_of_one_connection_end_with_it"]),
    row("D-6", &[]),
    row("D-7", &[]).without("AuthorizationPolicy: hosts that have one are answered 403; the cases are about what the service gets"),
    row("D-8", &["strictness::hostile_values_are_one_line_of_the_log", "hosts::an_unknown_host_is_counted_without_its_name"]),
    row("D-9", &["strictness::redirects_never_lead_elsewhere", "routes::redirects_say_where_to_as_istio_does"]),
    row("D-10", &["strictness::regular_expressions_take_linear_time"]),
    row("E-1", &["upgrades::nothing_passes_before_the_101", "strict::what_follows_a_declined_upgrade_is_the_next_request"]),
    row("E-2", &["upgrades::what_is_no_handshake_is_an_ordinary_request"]),
    row("E-3", &["headers::requests_that_break_the_rules_never_reach_a_service"]),
    row("E-4", &["upgrades::a_side_that_does_not_read_stops_the_other", "upgrades::a_side_that_breaks_ends_the_other", "upgrades::websockets_may_be_quiet", "upgrades::a_side_that_is_left_alone_ends_some_time", "upgrades::the_end_of_the_service_is_passed_on"]),
    row("E-5", &["upgrades::open_websockets_survive_every_change"]),
    row("F-1", &["tls::handshakes::versions_and_certificates_are_what_the_server_says", "tls::handshakes::hellos_of_all_kinds_are_survived"]),
    row("F-2", &["tls::handshakes::hellos_of_all_kinds_are_survived", "tls::handshakes::the_name_in_the_hello_chooses_the_server_or_there_is_none"]),
    row("F-3", &["tls::storms::a_storm_of_handshakes_leaves_those_who_are_there_alone", "tls::seen::a_handshake_has_an_end", "tls::rotation::certificates_change_under_load_and_nobody_notices"]),
    row("F-4", &["tls::clients::a_ticket_opens_only_what_it_was_issued_for"]),
    row("F-5", &["tls::clients::a_mutual_server_lets_in_whom_its_authority_knows", "tls::clients::an_optional_certificate_must_be_right_if_there_is_one", "tls::clients::names_hashes_and_revocations_narrow_who_is_let_in"]),
    row("F-6", &["tls::rotation::certificates_change_under_load_and_nobody_notices"]),
    row("F-7", &["tls::servers::a_server_without_a_usable_certificate_is_alone_in_that", "tls::rotation::certificate_files_are_read_again_when_they_change"]),
    row("F-8", &["tls::storms::keys_may_change_but_not_all_the_time", "tls::storms::nothing_is_taken_before_the_handshake_is_done", "strictness::bytes_inside_tls_are_what_was_agreed_on"]),
    row("F-9", &["strictness::bytes_inside_tls_are_what_was_agreed_on", "tls::handshakes::alpn_decides_and_without_a_common_protocol_it_is_http_1"]),
    row("F-10", &["upstream_tls::clear_text_of_a_service_never_reaches_a_client", "upstream_tls::the_service_must_be_who_was_asked_for", "upstream_tls::the_certificate_must_be_of_an_authority_that_is_trusted", "upstream_tls::handshakes_are_resumed_and_have_to_end_in_time"]),
    row("G-1", &["faults::a_service_that_refuses_connections", "faults::a_service_that_dies_in_the_middle_of_a_body", "crossings::a_response_that_breaks_off_never_looks_whole"]),
    row("G-2", &["faults::a_kept_connection_that_the_service_has_closed_goes_unnoticed", "faults::a_service_that_closes_while_a_request_is_on_its_way"]),
    row("G-3", &["routes::a_request_that_takes_longer_than_its_route_allows_is_answered_504", "retries::an_attempt_that_takes_too_long"]),
    row("G-4", &["faults::an_answer_that_does_not_wait_for_the_request", "faults::an_upload_that_nobody_wants_is_answered_all_the_same"]),
    row("G-5", &[]),
    row("G-6", &["faults::a_client_that_leaves_while_it_waits", "faults::a_client_that_leaves_during_a_download", "faults::a_client_that_leaves_during_an_upload", "faults::a_client_that_resets_its_stream", "strictness::clients_that_leave_leave_nothing_behind"]),
    row("G-7", &["retries::an_endpoint_that_was_tried_is_avoided"]).without("outlier detection: an endpoint that fails is tried by every request anew; how many retries run at once is limited by maxRetries"),
    row("G-8", &["faults::services_without_endpoints_and_services_that_nobody_knows", "names::names_that_nobody_knows_have_no_endpoint_until_somebody_does", "names::endpoint_slices_that_change_alone_change_nothing_else"]),
    row("G-9", &["faults::a_service_that_talks_nonsense"]),
    row("G-10", &["protocols::a_client_that_does_not_read_stops_the_service"]),
];
