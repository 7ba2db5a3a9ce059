//! What a line looks like: text with gaps for fields, made once from a format.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value as Json;

use super::{
    Entry, FormatErrors, LogFormat, WantedHeaders, escape,
    field::{Field, Shown},
    operators::{Operators, Piece},
    timestamp::Clock,
};

/// Istio's default (istio.md 5.2; pilot/pkg/model/telemetry_logging.go).
const ISTIO_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%";

/// Istio's default keys.
const ISTIO_JSON: &[(&str, &str)] = &[
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// Objects and lists within each other in a JSON format.
const MAX_DEPTH: usize = 8;

/// A format that is ready to be used; cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Layout(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    /// What stands in every line, with its newline.
    text: Vec<u8>,
    /// What is put into it.
    gaps: Vec<Gap>,
    wanted: WantedHeaders,
}

/// A place in the text where a value stands.
#[derive(Debug)]
struct Gap {
    at: u32,
    field: Field,
    form: Form,
    /// Bytes at each end of a text's value that are quotes.
    quote: u32,
}

/// How a value is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    /// A JSON value: one operator alone keeps its type.
    Json,
    /// Within a JSON string.
    JsonPart,
}

/// What a worker remembers of the line before. Most of a line is what stood in that one, and is copied from it in a few
/// pieces.
#[derive(Debug, Default)]
pub(super) struct Memory {
    clock: Clock,
    line: Vec<u8>,
    /// What stands in the gaps.
    values: Vec<Standing>,
}

/// A value of the line before.
#[derive(Debug)]
struct Standing {
    begin: u32,
    end: u32,
    value: Shown,
}

impl Layout {
    /// Makes a format ready.
    ///
    /// # Errors
    /// Everything in it that is not understood.
    pub(super) fn of(format: &LogFormat, hostname: &str) -> Result<Self, FormatErrors> {
        let mut writing = Writing { text: Vec::new(), gaps: Vec::new(), operators: Operators::new(hostname) };
        match format {
            LogFormat::Text => writing.text(ISTIO_TEXT),
            // A line ends where we say.
            LogFormat::CustomText(text) => writing.text(text.strip_suffix('\n').unwrap_or(text)),
            LogFormat::Json => {
                let members = ISTIO_JSON.iter().map(|(key, value)| ((*key).to_owned(), Json::from(*value)));
                writing.json(&Json::Object(members.collect()), 0);
            }
            LogFormat::CustomJson(members) => writing.json(&Json::Object(members.clone()), 0),
        }
        let Writing { mut text, gaps, operators } = writing;
        text.push(b'\n');
        let wanted = operators.finish()?;
        Ok(Self(Arc::new(Compiled { text, gaps, wanted })))
    }

    /// The headers that it shows.
    pub(super) fn wanted(&self) -> &WantedHeaders {
        &self.0.wanted
    }

    /// Appends the line of `entry`, with its newline. `memory` is always the same for the lines of one worker.
    pub(super) fn write(&self, entry: &Entry<'_>, memory: &mut Memory, out: &mut Vec<u8>) {
        let Compiled { text, gaps, .. } = &*self.0;
        let Memory { clock, line, values } = memory;
        if line.is_empty() {
            line.extend_from_slice(text);
            values.extend(gaps.iter().map(|gap| Standing { begin: gap.at, end: gap.at, value: Shown::Nothing }));
        }
        let start = out.len();
        // So much of the line before has been copied, and what stands behind it has moved by so much.
        let (mut copied, mut moved) = (0, 0_u32);
        for (Gap { field, form, quote, .. }, standing) in gaps.iter().zip(values) {
            let value = field.of(entry);
            let Standing { begin, end, .. } = *standing;
            standing.begin = begin.wrapping_add(moved);
            if standing.value.is(&value, || line.get((begin + quote) as usize..end.wrapping_sub(*quote) as usize)) {
                standing.end = end.wrapping_add(moved);
                continue;
            }
            out.extend_from_slice(line.get(copied as usize..begin as usize).unwrap_or_default());
            let before = out.len();
            match form {
                Form::Text => value.write_text(clock, out),
                Form::Json => value.write_json(clock, out),
                Form::JsonPart => value.write_json_part(clock, out),
            }
            standing.value = Shown::of(&value, (out.len() - before).wrapping_sub(2 * *quote as usize));
            // A line is shorter than 4 GiB: values are cut.
            standing.end = (out.len() - start) as u32;
            copied = end;
            moved = standing.end.wrapping_sub(end);
        }
        out.extend_from_slice(line.get(copied as usize..).unwrap_or_default());
        line.clear();
        line.extend_from_slice(out.get(start..).unwrap_or_default());
    }
}

/// A line that is being laid out.
struct Writing<'a> {
    text: Vec<u8>,
    gaps: Vec<Gap>,
    operators: Operators<'a>,
}

impl Writing<'_> {
    fn gap(&mut self, field: Field, form: Form) {
        // A format is a part of a resource, which is shorter than 4 GiB by far.
        let at = self.text.len() as u32;
        self.gaps.push(Gap { at, field, form, quote: u32::from(matches!(form, Form::Json)) });
    }

    fn text(&mut self, text: &str) {
        for piece in self.operators.pieces(text) {
            match piece {
                Piece::Literal(text) => self.text.extend_from_slice(text.as_bytes()),
                Piece::Value(field) => self.gap(field, Form::Text),
            }
        }
    }

    fn json(&mut self, value: &Json, depth: usize) {
        if depth > MAX_DEPTH {
            self.operators.refuse(format!("more than {MAX_DEPTH} objects or lists within each other"));
            return;
        }
        match value {
            Json::String(text) => {
                let pieces = self.operators.pieces(text);
                match <[Piece; 1]>::try_from(pieces) {
                    Ok([Piece::Value(field)]) => self.gap(field, Form::Json),
                    Ok([Piece::Literal(text)]) => escape::json(text.as_bytes(), &mut self.text),
                    // Text around operators is always a string.
                    Err(pieces) => {
                        self.text.push(b'"');
                        for piece in pieces {
                            match piece {
                                Piece::Literal(text) => escape::json_part(text.as_bytes(), &mut self.text),
                                Piece::Value(field) => self.gap(field, Form::JsonPart),
                            }
                        }
                        self.text.push(b'"');
                    }
                }
            }
            Json::Array(items) => {
                self.text.push(b'[');
                for (position, item) in items.iter().enumerate() {
                    if position > 0 {
                        self.text.push(b',');
                    }
                    self.json(item, depth + 1);
                }
                self.text.push(b']');
            }
            Json::Object(members) => {
                self.text.push(b'{');
                // Sorted, as Istio's gateways write them.
                let keys: BTreeSet<&String> = members.keys().collect();
                for (position, key) in keys.into_iter().enumerate() {
                    if position > 0 {
                        self.text.push(b',');
                    }
                    escape::json(key.as_bytes(), &mut self.text);
                    self.text.push(b':');
                    if let Some(value) = members.get(key) {
                        self.json(value, depth + 1);
                    }
                }
                self.text.push(b'}');
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => self.text.extend_from_slice(value.to_string().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::{
        super::{Captured, TlsEntry},
        *,
    };
    use crate::telemetry::ResponseFlags;

    const IDS: [&str; 3] = [
        "af8f7f2a-31a8-4da7-a773-9f514df442a3",
        "c135738b-ef45-48c0-b826-03241b09eb03",
        "01d939ab-ce3c-48f5-8c0a-f0025f4250e4",
    ];

    fn entry(headers: &Captured) -> Entry<'_> {
        Entry {
            start: UNIX_EPOCH + Duration::from_millis(1_795_346_080_066),
            duration: Duration::from_micros(1900),
            method: "GET",
            path: b"/foo/bar",
            protocol: "HTTP/1.1",
            code: 200,
            flags: ResponseFlags::NONE,
            code_details: "via_upstream",
            connection_termination_details: "",
            upstream_transport_failure_reason: "",
            request_head_bytes: 100,
            response_head_bytes: 200,
            bytes_received: 0,
            bytes_sent: 358,
            upstream_service_time: Some(1),
            authority: Some(b"main.com"),
            upstream_host: Some(([127, 0, 0, 1], 28811).into()),
            upstream_cluster: "a",
            upstream_attempts: 2,
            headers,
            grpc_status: None,
            connection_id: 7,
            upstream_local_address: Some(([127, 0, 0, 1], 51116).into()),
            downstream_local_address: Some(([127, 0, 0, 1], 28800).into()),
            downstream_remote_address: Some(([127, 0, 0, 1], 43708).into()),
            requested_server_name: None,
            tls: None,
            route_name: "",
        }
    }

    /// A format with the values of the headers that it wants.
    struct Log(Layout, Captured);

    impl Log {
        fn new(format: &LogFormat, headers: &[(&str, &[u8])]) -> Self {
            let layout = Layout::of(format, "gateway-1").unwrap();
            let mut captured = Captured::default();
            let wanted = layout.wanted();
            for (slot, name) in
                wanted.request.iter().chain(&wanted.response).chain(&wanted.trailers).chain(&wanted.filter_state)
            {
                let value = headers.iter().find(|(known, _)| **known == **name).map(|(_, value)| *value);
                captured.set(*slot, value);
            }
            Self(layout, captured)
        }

        fn ordinary(format: &LogFormat, id: &str) -> Self {
            let headers: [(&str, &[u8]); 3] =
                [("x-forwarded-for", b"192.0.2.2"), ("user-agent", b"curl/7.88.1"), ("x-request-id", id.as_bytes())];
            Self::new(format, &headers)
        }

        fn entry(&self) -> Entry<'_> {
            entry(&self.1)
        }

        fn line(&self, entry: &Entry<'_>) -> String {
            let mut out = Vec::new();
            self.0.write(entry, &mut Memory::default(), &mut out);
            String::from_utf8(out).unwrap()
        }
    }

    /// The three lines that istio.md 5.2 recorded from a real gateway.
    #[test]
    fn text_is_istios_byte_for_byte() {
        let log = Log::ordinary(&LogFormat::Text, IDS[0]);
        assert_eq!(
            log.line(&log.entry()),
            "[2026-11-22T11:14:40.066Z] \"GET /foo/bar HTTP/1.1\" 200 - via_upstream - \"-\" 0 358 1 1 \"192.0.2.2\" \
             \"curl/7.88.1\" \"af8f7f2a-31a8-4da7-a773-9f514df442a3\" \"main.com\" \"127.0.0.1:28811\" a \
             127.0.0.1:51116 127.0.0.1:28800 127.0.0.1:43708 - -\n"
        );
        let log = Log::ordinary(&LogFormat::Text, IDS[1]);
        let timeout = Entry {
            start: UNIX_EPOCH + Duration::from_millis(1_795_346_080_129),
            duration: Duration::from_millis(398),
            path: b"/slow",
            code: 504,
            flags: ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
            code_details: "response_timeout",
            bytes_sent: 24,
            upstream_service_time: None,
            downstream_remote_address: Some(([127, 0, 0, 1], 43724).into()),
            ..log.entry()
        };
        assert_eq!(
            log.line(&timeout),
            "[2026-11-22T11:14:40.129Z] \"GET /slow HTTP/1.1\" 504 UT response_timeout - \"-\" 0 24 398 - \"192.0.2.2\" \
             \"curl/7.88.1\" \"c135738b-ef45-48c0-b826-03241b09eb03\" \"main.com\" \"127.0.0.1:28811\" a \
             127.0.0.1:51116 127.0.0.1:28800 127.0.0.1:43724 - -\n"
        );
        let log = Log::ordinary(&LogFormat::Text, IDS[2]);
        let not_found = Entry {
            start: UNIX_EPOCH + Duration::from_millis(1_795_346_081_579),
            duration: Duration::ZERO,
            path: b"/x",
            code: 404,
            flags: ResponseFlags::NO_ROUTE,
            code_details: "route_not_found",
            bytes_sent: 0,
            upstream_service_time: None,
            upstream_host: None,
            upstream_cluster: "",
            upstream_local_address: None,
            downstream_remote_address: Some(([127, 0, 0, 1], 43886).into()),
            ..log.entry()
        };
        assert_eq!(
            log.line(&not_found),
            "[2026-11-22T11:14:41.579Z] \"GET /x HTTP/1.1\" 404 NR route_not_found - \"-\" 0 0 0 - \"192.0.2.2\" \
             \"curl/7.88.1\" \"01d939ab-ce3c-48f5-8c0a-f0025f4250e4\" \"main.com\" \"-\" - - 127.0.0.1:28800 \
             127.0.0.1:43886 - -\n"
        );
    }

    #[test]
    fn json_has_istios_keys_and_types() {
        let log = Log::ordinary(&LogFormat::Json, IDS[0]);
        let text = log.line(&log.entry());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "start_time": "2026-11-22T11:14:40.066Z", "route_name": null, "method": "GET", "path": "/foo/bar",
                "protocol": "HTTP/1.1", "response_code": 200, "response_flags": "-",
                "response_code_details": "via_upstream", "connection_termination_details": null,
                "bytes_received": 0, "bytes_sent": 358, "duration": 1, "upstream_service_time": "1",
                "x_forwarded_for": "192.0.2.2", "user_agent": "curl/7.88.1",
                "request_id": "af8f7f2a-31a8-4da7-a773-9f514df442a3", "authority": "main.com",
                "upstream_host": "127.0.0.1:28811", "upstream_cluster": "a",
                "upstream_local_address": "127.0.0.1:51116", "downstream_local_address": "127.0.0.1:28800",
                "downstream_remote_address": "127.0.0.1:43708", "requested_server_name": null,
                "upstream_transport_failure_reason": null,
            })
        );
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn addresses_and_flags_of_both_formats() {
        let of = |format: &LogFormat| {
            let log = Log::ordinary(format, IDS[0]);
            log.line(&Entry {
                upstream_host: Some("[2001:db8::1]:443".parse().unwrap()),
                flags: ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED,
                ..log.entry()
            })
        };
        let text = of(&LogFormat::Text);
        assert!(text.contains(" \"[2001:db8::1]:443\" ") && text.contains(" 200 UF,URX via"), "{text}");
        assert!(of(&LogFormat::Json).contains("\"response_flags\":\"UF,URX\""));
    }

    #[test]
    fn text_as_users_want_it() {
        let format = LogFormat::CustomText(
            "%START_TIME(%s.%3f)% %HOSTNAME% %DOWNSTREAM_TLS_VERSION%/%DOWNSTREAM_PEER_SUBJECT%/%DOWNSTREAM_LOCAL_DNS_SAN% %REQ(X-A):3%|%REQ(X-B?USER-AGENT)%|%RESP(Content-Type)%|%TRAILER(X-T)% \
             %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT% %RESPONSE_FLAGS_LONG% \
             %DYNAMIC_METADATA(x:y)% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %DOWNSTREAM_WIRE_BYTES_SENT% %CONNECTION_ID% \
             %GRPC_STATUS%/%GRPC_STATUS_NUMBER% 100%%\n"
                .to_owned(),
        );
        let headers: [(&str, &[u8]); 4] =
            [("x-a", b"12345"), ("user-agent", b"an agent"), ("content-type", b"text/\"x\""), ("x-t", b"end")];
        let log = Log::new(&format, &headers);
        let entry = Entry {
            grpc_status: Some(5),
            flags: ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
            tls: Some(TlsEntry { version: "TLSv1.3", peer_subject: "CN=a client", ..TlsEntry::default() }),
            ..log.entry()
        };
        assert_eq!(
            log.line(&entry),
            "1795346080.066 gateway-1 TLSv1.3/CN=a client/- 123|an agent|text/\\x22x\\x22|end 127.0.0.1 28811 UpstreamConnectionFailure - 2 558 \
             7 NotFound/5 100%\n"
        );
    }

    #[test]
    fn json_as_users_want_it() {
        let format = serde_json::json!({
            "z": "%PROTOCOL%",
            "code": "%RESPONSE_CODE%",
            "both": "%RESPONSE_CODE% \"%REQ(X-A)%\" %REQ(X-B)%",
            "none": "%REQ(X-B)%",
            "nested": {"agent": "%REQ(X-A)%", "list": ["%DURATION%", 1, true, null], "empty": {}},
            "constant": "a\nb",
            "at": "%START_TIME(%Y\"%m)%",
        });
        let log = Log::new(&LogFormat::CustomJson(format.as_object().unwrap().clone()), &[("x-a", b"\"q\"\xff")]);
        let line = log.line(&log.entry());
        assert_eq!(
            line,
            "{\"at\":\"2026\\\"11\",\"both\":\"200 \\\"\\\"q\\\"\\\\xFF\\\" -\",\"code\":200,\"constant\":\"a\\nb\",\
             \"nested\":{\"agent\":\"\\\"q\\\"\\\\xFF\",\"empty\":{},\"list\":[1,1,true,null]},\"none\":null,\
             \"z\":\"HTTP/1.1\"}\n"
        );
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["both"], "200 \"\"q\"\\xFF\" -");
        let mut deep = serde_json::json!("x");
        for _ in 0..20 {
            deep = serde_json::json!({ "a": deep });
        }
        assert!(LogFormat::CustomJson(deep.as_object().unwrap().clone()).check().is_err());
    }

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(prop::sample::select(b"\" \\\n\r\t\x1b[]{}:,".to_vec()), 0..40),
        ]
    }

    proptest! {
        #[test]
        fn a_request_is_one_line_whatever_it_says(
            bytes in prop::collection::vec(hostile(), 6),
            text in prop::collection::vec(any::<String>(), 5),
        ) {
            let of = |format: &LogFormat| {
                let headers: [(&str, &[u8]); 3] =
                    [("x-forwarded-for", &bytes[1]), ("user-agent", &bytes[2]), ("x-request-id", &bytes[3])];
                let log = Log::new(format, &headers);
                log.line(&Entry {
                    method: &text[0],
                    path: &bytes[0],
                    code_details: &text[1],
                    connection_termination_details: &text[2],
                    upstream_transport_failure_reason: &text[3],
                    authority: Some(&bytes[4]),
                    requested_server_name: Some(&bytes[5]),
                    route_name: &text[4],
                    ..log.entry()
                })
            };
            let line_of_text = of(&LogFormat::Text);
            prop_assert_eq!(line_of_text.find('\n'), Some(line_of_text.len() - 1));
            prop_assert!(line_of_text.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            // Seven quoted columns, and as many columns outside of quotes as in an ordinary line.
            let outside = |line: &str| line.split('"').step_by(2).map(str::to_owned).collect::<Vec<_>>();
            let columns = outside(&line_of_text);
            prop_assert_eq!(columns.len(), 8);
            prop_assert_eq!(columns.join("").split_whitespace().count(), 15);

            let json = of(&LogFormat::Json);
            prop_assert_eq!(json.find('\n'), Some(json.len() - 1));
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(value.as_object().unwrap().len(), 24);
            if let Ok(agent) = std::str::from_utf8(&bytes[2]) && !agent.is_empty() {
                prop_assert_eq!(value["user_agent"].as_str(), Some(agent));
            }
        }
    }

    /// What a real Envoy 1.40 wrote for a plugin that set `mine` and `long`; but for quotes and what is not ASCII, as ever.
    #[test]
    fn filter_state_is_envoys() {
        const TYPED: &str = r#"{"@type":"type.googleapis.com/google.protobuf.BytesValue","value":"dmFsInVlIMOp"}"#;
        let state: [(&str, &[u8]); 3] = [("mine", b"val\"ue \xc3\xa9"), ("long", b"0123456789"), ("empty", b"")];
        let text = |format: &str| {
            let log = Log::new(&LogFormat::CustomText(format.to_owned()), &state);
            log.line(&log.entry())
        };
        assert_eq!(text("%FILTER_STATE(wasm.mine)%"), format!("{TYPED}\n"));
        assert_eq!(text("%FILTER_STATE(wasm.mine):12%"), "{\"@type\":\"ty\n");
        assert_eq!(text("%FILTER_STATE(wasm.mine:PLAIN)%"), "val\\x22ue \\xC3\\xA9\n");
        assert_eq!(text("%FILTER_STATE(wasm.long:PLAIN):4%"), "0123\n");
        assert_eq!(text("%FILTER_STATE(wasm.none)% %FILTER_STATE(wasm.none:PLAIN)%"), "- -\n");
        assert_eq!(text("<%FILTER_STATE(wasm.empty:PLAIN)%>"), "<>\n");
        let members = serde_json::json!({
            "a": "%FILTER_STATE(wasm.mine:TYPED):3%", "b": "%FILTER_STATE(wasm.mine:PLAIN)%", "c": "%FILTER_STATE(wasm.none)%",
            "d": "x %FILTER_STATE(wasm.long)% y",
        });
        let log = Log::new(&LogFormat::CustomJson(members.as_object().unwrap().clone()), &state);
        let typed_long = TYPED.replace("dmFsInVlIMOp", "MDEyMzQ1Njc4OQ==");
        let expected: Json = serde_json::json!({
            "a": serde_json::from_str::<Json>(TYPED).unwrap(), "b": "val\"ue é", "c": null, "d": format!("x {typed_long} y"),
        });
        assert_eq!(serde_json::from_str::<Json>(&log.line(&log.entry())).unwrap(), expected);
    }
}
