//! What holds whatever a plugin does: host calls of a live instance with any pointers, lengths and numbers, in any phase and
//! any order. [`check`] makes all of it from bytes; a property test here and a fuzzer (tests/fuzz) choose them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode};
use proxy_wasm_host::{
    CallResponse, ContextId, Engine, EngineOptions, Exchange, GrpcMetadata, HeadState, HeaderList, Instance, Limits,
    LogLine, LogSink, Module, Outbound, Plugin, PluginSettings, RequestHead, ResponseHead, Scheme, Shared, Upstreams,
};

use crate::script::{Arg, FUNCTIONS, N, On, Out, Program, Read, Script, index_of, module};

const ALL: [On; 11] = [
    On::Tick,
    On::Create,
    On::RequestHeaders,
    On::RequestBody,
    On::RequestTrailers,
    On::ResponseHeaders,
    On::ResponseBody,
    On::ResponseTrailers,
    On::Log,
    On::Done,
    On::Delete,
];

/// What else a program does. Loops are left out: they end after their deadline, which others test, and take its time.
const DEEDS: [&str; 9] =
    ["keep", "exit", "abort", "read_outside", "recurse", "call_nothing", "grow", "grow_and_abort", "grow_table"];

/// Bytes that mean something to some host function.
const WORDS: [&[u8]; 25] = [
    b":path",
    b":method",
    b":authority",
    b":status",
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"x-a",
    b"a b\r\n",
    b"",
    b"request\0path",
    b"source\0address",
    b"/",
    b"GET",
    b"200",
    b"\x01\0\0\0\x01\0\0\0\x01\0\0\0a\0b\0",
    b"\xff\xff\xff\x7f\x01\0\0\0",
    b"compress",
    b"uncompress",
    b"verify_signature",
    b"expr_create",
    b"expr_evaluate",
    b"request.path + 'a'",
    b"key",
    b"outbound|80||a.default.svc.cluster.local",
];

/// Small, so that they are met.
fn limits() -> Limits {
    Limits {
        callback_cpu: Duration::from_millis(10),
        memory_bytes: 1 << 20,
        body_bytes: 4 << 10,
        header_edit_bytes: 4 << 10,
        header_fields: 20,
        metrics: 10,
        shared_data_keys: 10,
        shared_data_bytes: 4 << 10,
        queues: 4,
        queue_items: 10,
        queue_bytes: 1 << 10,
        property_bytes: 1 << 10,
        ..Limits::default()
    }
}

/// Bytes that choose; zeros behind their end.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = self.below(64).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    /// An argument, and how many words it takes.
    fn argument(&mut self) -> (Arg, usize) {
        match self.below(12) {
            0..3 => (N(u32::from(self.byte())), 1),
            3 => (N(u32::MAX - u32::from(self.byte())), 1),
            4 => (N(self.word()), 1),
            // Around the end of the memory as it begins, of a page, and where programs stand.
            5 => (N(0x4_0000 - u32::from(self.byte())), 1),
            6 => (N(0x1_0000 + u32::from(self.byte())), 1),
            7 => (Out(u32::from(self.byte() % 8)), 1),
            8 => (Read(u32::from(self.byte() % 8)), 1),
            9 => (Arg::B(self.bytes().to_vec()), 2),
            _ => (Arg::B(WORDS[self.below(WORDS.len())].to_vec()), 2),
        }
    }

    fn program(&mut self) -> Program {
        let mut program = Program::default();
        for _ in 0..self.below(16) {
            let function = match self.byte() {
                // Rarely, because most of them end it all.
                0..8 => index_of(DEEDS[self.below(DEEDS.len())]),
                8..12 => index_of("break_allocator"),
                _ => u32::try_from(self.below(FUNCTIONS.len())).unwrap_or_default(),
            };
            let (mut arguments, mut words) = (Vec::new(), 0);
            while words < 11 {
                let (argument, more) = self.argument();
                arguments.push(argument);
                words += more;
            }
            program = program.call_index(function, arguments);
        }
        program.returns(u32::from(self.byte() % 8))
    }
}

struct Nowhere;

impl LogSink for Nowhere {
    fn log(&self, _: LogLine<'_>) {}
}

/// Every service is there.
struct Anybody;

impl Upstreams for Anybody {
    fn knows(&self, _: &str) -> bool {
        true
    }
}

/// Lets a plugin that is made from the bytes run, in a life that is made from the rest of them.
pub(crate) fn check(bytes: &[u8]) {
    static MODULES: OnceLock<[Module; 2]> = OnceLock::new();
    let modules = MODULES.get_or_init(|| {
        let engine = Engine::new(&EngineOptions { max_instances: 50, ..EngineOptions::default() }).unwrap();
        ["proxy_abi_version_0_2_1", "proxy_abi_version_0_1_0"]
            .map(|marker| Module::compile(&engine, &module(marker)).unwrap())
    });
    let mut choices = Choices(bytes);
    let mut script = Script::default();
    let module = modules[choices.below(2)].clone();
    for _ in 0..1 + choices.below(5) {
        let on = ALL[choices.below(ALL.len())];
        script = script.and(on, choices.program());
    }
    let settings = PluginSettings { limits: limits(), ..script.settings() };
    let plugin = Plugin::new(module, settings, Shared::new(Arc::new(Nowhere), Arc::new(Anybody)));
    // It may refuse to start: its configuration may have grown past its memory.
    let Ok(mut instance) = plugin.instantiate() else { return };
    live(&mut instance, &mut choices);
}

/// Streams come, go through callbacks and end, in an order that HTTP would allow or not.
fn live(instance: &mut Instance, choices: &mut Choices<'_>) {
    let mut streams: Vec<(ContextId, Option<Box<Exchange>>)> = Vec::new();
    for _ in 0..4 + choices.below(28) {
        let what = choices.byte() % 18;
        if streams.is_empty() || what == 0 {
            match instance.open(exchange()) {
                Ok(context) => streams.push((context, None)),
                Err((exchange, _)) => well_formed(&exchange),
            }
            continue;
        }
        let at = choices.below(streams.len());
        let (context, away) = &mut streams[at];
        let (context, end) = (*context, choices.byte() % 2 == 1);
        if let Some(exchange) = instance.exchange(context) {
            match what {
                1 => exchange.request_body.push(choices.bytes().to_vec().into()),
                2 => exchange.response_body.push(choices.bytes().to_vec().into()),
                3 => exchange.response = Some(ResponseHead { status: StatusCode::OK, headers: HeaderList::new() }),
                4 => exchange.request_state = if end { HeadState::Sent } else { HeadState::Gone },
                5 => exchange.effects = proxy_wasm_host::Effects::default(),
                _ => {}
            }
        }
        match what {
            16 => answer(instance, choices),
            17 => drop(instance.retire()),
            6 => drop(instance.on_request_headers(context, end)),
            7 => drop(instance.on_request_body(context, end)),
            8 => drop(instance.on_request_trailers(context)),
            9 => drop(instance.on_response_headers(context, end)),
            10 => drop(instance.on_response_body(context, end)),
            11 => drop(instance.on_response_trailers(context)),
            12 => drop(instance.on_tick()),
            13 => match away.take() {
                Some(exchange) => *away = instance.attach(context, exchange).err(),
                None => *away = instance.detach(context),
            },
            14 => drop(instance.take_woken().count()),
            15 => {
                if let Ok(Some(exchange)) = instance.close(context) {
                    well_formed(&exchange);
                    streams.swap_remove(at);
                }
            }
            _ => {}
        }
        assert!(instance.memory_bytes() <= limits().memory_bytes, "{}", instance.memory_bytes());
        for (context, _) in &streams {
            if let Some(exchange) = instance.exchange(*context) {
                well_formed(exchange);
            }
        }
    }
    for (context, _) in streams {
        if let Some(exchange) = instance.detach(context) {
            well_formed(&exchange);
        }
    }
}

/// What the plugin has asked of services is answered, in an order that could be or not.
fn answer(instance: &mut Instance, choices: &mut Choices<'_>) {
    let wanted = instance.take_outbound();
    let tokens = wanted.iter().map(|wish| match wish {
        Outbound::Http(call) => call.token,
        Outbound::Grpc(call) => call.token,
        Outbound::Message { token, .. } | Outbound::Cancel { token } => *token,
    });
    for token in tokens.chain([4, 5, 6]) {
        let head = ResponseHead { status: StatusCode::OK, headers: HeaderList::new() };
        let body: bytes::Bytes = choices.bytes().to_vec().into();
        let answer = CallResponse { head, body: body.clone(), trailers: HeaderList::new() };
        let _ = match token % 8 {
            0 => instance.on_http_call_response(token, None),
            1 => instance.on_grpc_close(token, 14, "gone".to_owned()),
            2 => instance.on_grpc_initial_metadata(token, GrpcMetadata::default()),
            6 => instance.on_grpc_trailing_metadata(token, GrpcMetadata::default()),
            5 => instance.on_grpc_receive(token, body),
            _ => instance.on_http_call_response(token, Some(answer)),
        };
    }
}

fn exchange() -> Box<Exchange> {
    let mut headers = HeaderList::new();
    headers.append(HOST, HeaderValue::from_static("a.example.com"));
    headers.append("accept", HeaderValue::from_static("a"));
    headers.append("accept", HeaderValue::from_static("b"));
    Exchange::new(RequestHead {
        method: Method::GET,
        target: http::uri::PathAndQuery::from_static("/sample?q=1"),
        scheme: Scheme::Http,
        headers,
    })
}

/// What the HTTP layer relies on.
fn well_formed(exchange: &Exchange) {
    let limits = limits();
    let request = &exchange.request;
    assert!(request.target.as_str().starts_with('/'), "{:?}", request.target);
    assert_eq!(request.headers.get_all(HOST).count(), 1, "{:?}", request.headers);
    let heads = [Some(&request.headers), exchange.response.as_ref().map(|head| &head.headers)];
    let trailers = [exchange.request_trailers.as_ref(), exchange.response_trailers.as_ref()];
    for fields in heads.into_iter().chain(trailers).flatten() {
        assert!(fields.len() <= limits.header_fields, "{} fields", fields.len());
        assert!(!fields.contains_key(CONNECTION) && !fields.contains_key(TRANSFER_ENCODING), "{fields:?}");
    }
    if let Some(head) = &exchange.response {
        assert!((200..=599).contains(&head.status.as_u16()), "{}", head.status);
    }
    // What a plugin wrote, and what arrived since.
    for body in [&exchange.request_body, &exchange.response_body] {
        assert!(body.len() <= limits.body_bytes + 32 * 64, "{} bytes", body.len());
    }
    if let Some(response) = &exchange.effects.local_response {
        assert!((200..=599).contains(&response.status.as_u16()), "{}", response.status);
        assert!(!response.details.contains(' '), "{:?}", response.details);
        assert!(!response.headers.contains_key(TRANSFER_ENCODING), "{:?}", response.headers);
        assert!(response.grpc_status.is_none_or(|status| status <= 16), "{:?}", response.grpc_status);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn nothing_a_plugin_asks_for_breaks_the_host(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            super::check(&bytes);
        }
    }
}
