//! Arbitrary numbers as pointers and lengths of every host function, in every phase: the host must answer
//! with a status or a trap, and must not panic.

use bytes::Bytes;
use http::HeaderValue;
use proptest::prelude::*;
use proxy_wasm_host::{HeaderList, Limits, Plugin};

use crate::fixture::{exchange, response, scripted, shared};
use crate::script::{FUNCTIONS, N, On, Program, program, script};

/// Numbers at which things go wrong: around 0, the plugin's data, the end of its memory, and 2^32.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0u32..12,
        3 => 0x8000u32..0x8040,
        3 => 0x1_0000u32..0x1_0400,
        2 => 0x3_fff0u32..0x4_0010,
        2 => (u32::MAX - 16)..=u32::MAX,
        1 => Just(0x7fff_ffff),
        1 => Just(0x4000_0000),
        1 => any::<u32>(),
    ]
}

fn calls() -> impl Strategy<Value = Program> {
    let functions = u32::try_from(FUNCTIONS.len()).unwrap();
    prop::collection::vec((0..functions, prop::collection::vec(number(), 12)), 1..12).prop_map(|calls| {
        calls
            .into_iter()
            .fold(program(), |program, (function, args)| program.call_index(function, args.into_iter().map(N)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_argument_makes_the_host_panic(create in calls(), headers in calls(), body in calls(), response_headers in calls(), tick in calls(), log in calls()) {
        let all = script(On::Create, create)
            .and(On::RequestHeaders, headers.clone())
            .and(On::RequestBody, body.clone())
            .and(On::RequestTrailers, headers)
            .and(On::ResponseHeaders, response_headers.clone())
            .and(On::ResponseBody, body)
            .and(On::ResponseTrailers, response_headers)
            .and(On::Tick, tick)
            .and(On::Log, log);
        let mut settings = all.settings();
        settings.limits = Limits { body_bytes: 100_000, ..Limits::default() };
        let plugin = Plugin::new(scripted(), settings, shared().0);
        let mut instance = plugin.instantiate().unwrap();
        let mut exchange = exchange();
        exchange.request_body.push(Bytes::from_static(b"request body"));
        exchange.response_body.push(Bytes::from_static(b"response body"));
        exchange.response = Some(response());
        let mut trailers = HeaderList::new();
        trailers.insert("x-trailer", HeaderValue::from_static("1"));
        exchange.request_trailers = Some(trailers.clone());
        exchange.response_trailers = Some(trailers);

        // Traps are as good as answers; the instance must say so from then on.
        if let Ok(context) = instance.open(exchange) {
            let _ = instance.on_request_headers(context, false);
            let _ = instance.on_tick();
            let _ = instance.on_request_body(context, true);
            let _ = instance.on_request_trailers(context);
            let _ = instance.on_response_headers(context, false);
            let _ = instance.on_response_body(context, true);
            let _ = instance.on_response_trailers(context);
            let dead = instance.is_dead();
            let closed = instance.close(context);
            prop_assert!(closed.is_err() || !dead);
            let exchange = match closed {
                Ok(exchange) => exchange,
                Err(_) => instance.detach(context),
            };
            let exchange = exchange.unwrap();
            prop_assert!(exchange.request.headers.get_all("host").count() == 1);
            prop_assert!(exchange.request.target.as_str().starts_with('/'));
            prop_assert!(exchange.request_body.len() <= 100_000 && exchange.response_body.len() <= 100_000);
            let response = exchange.response.as_ref().unwrap();
            prop_assert!((200..600).contains(&response.status.as_u16()));
        }
        for _ in instance.take_woken() {}
    }
}
