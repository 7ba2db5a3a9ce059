//! Three times as many requests as the gateway can serve, for a while: what it can serve it goes on serving.
//!
//! `OVERLOAD_SECONDS` says how long; `make overload` does it for a minute.

use std::fs;
use std::time::{Duration, Instant};

use gateway_tests::client::RawClient;
use gateway_tests::crowd::Crowd;
use gateway_tests::plugins::wasm_plugin;
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, virtual_service};

const GATEWAY_COMMAND: &str = env!("CARGO_BIN_EXE_gateway-command");
const CROWD: &str = env!("CARGO_BIN_EXE_crowd");

/// A plugin that works for some milliseconds on every request: so a crowd that costs little is too much for the gateway.
const BUSY: &str = r#"(module
    (memory (export "memory") 1)
    (global $sum (mut i32) (i32.const 0))
    (func (export "malloc") (param i32) (result i32) (i32.const 4096))
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_context_create") (param i32 i32))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (local $left i32)
        (local.set $left (i32.const 300000))
        (loop $again
            (global.set $sum (i32.mul (i32.add (global.get $sum) (local.get $left)) (i32.const 31)))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $again (local.get $left)))
        (i32.const 0)))"#;

/// The part of its best that is kept. A quarter is what a gateway keeps that works for clients who have left. Between
/// other tests nothing can be measured, so only a run of its own (`OVERLOAD_SECONDS`) looks at it.
const KEPT: f64 = 0.8;

#[tokio::test]
async fn three_times_what_it_can_do_is_served_as_well_as_possible() {
    let alone = std::env::var("OVERLOAD_SECONDS").ok().map(|text| text.parse::<u64>().unwrap());
    let seconds = alone.unwrap_or(5);
    let home = tempfile::tempdir().unwrap();
    let module = home.path().join("busy.wasm");
    fs::write(&module, wat::parse_str(BUSY).unwrap()).unwrap();
    let answer = "  - directResponse: {status: 200, body: {string: here}}";
    let text = GATEWAY.to_owned() + &virtual_service("all", &["*"], answer) + &wasm_plugin("busy", &module, "");
    fs::write(home.path().join("all.yaml"), text).unwrap();
    // All of it on one core, so that the crowd has another.
    let process = Process::start_under(&["taskset", "-c", "0"], GATEWAY_COMMAND, home.path(), &[]).await.unwrap();
    let start = |how, numbers| Crowd::start(CROWD, how, process.address().unwrap(), numbers, &[]).unwrap();

    let best = start("closed", [16, 3]).outcome().await.unwrap();
    assert_eq!((best.shed, best.closed), (0, 0), "{best:?}");
    let mut crowd = start("open", [(3.0 * best.goodput()) as u64, seconds]);
    let probing = async {
        let status = process.status().unwrap();
        let (begin, mut slowest) = (Instant::now(), Duration::ZERO);
        while begin.elapsed() < Duration::from_secs(seconds) {
            let asked = Instant::now();
            let mut client = RawClient::connect(status).await.unwrap();
            let ready = client.get(&status.to_string(), "/healthz/ready").await.unwrap();
            slowest = slowest.max(asked.elapsed());
            assert!(alone.is_none() || ready.text() == "ready\n", "{}", ready.text());
            // Probes come now and then; this is not to synchronise.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        slowest
    };
    let (outcome, slowest) = tokio::join!(crowd.outcome(), probing);
    let outcome = outcome.unwrap();
    let kept = outcome.goodput() / best.goodput();
    eprintln!(
        "at best {:.0} a second; of three times as many {:.0} a second were answered in time, {kept:.2} of the best; \
         the slowest probe took {slowest:?}; {outcome:?}",
        best.goodput(),
        outcome.goodput()
    );
    assert!(outcome.answered > 0 && outcome.shed > 0, "{outcome:?}");
    assert!(
        process.metrics().await.unwrap().sum("gateway_limit_exceeded_total", &[("limit", "worker_queue_time")]) > 0.0
    );
    if alone.is_some() {
        assert!(kept >= KEPT, "{kept}");
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    }
    // And when they have gone, it is as before.
    let after = start("closed", [16, 1]).outcome().await.unwrap();
    assert_eq!((after.shed, after.closed), (0, 0), "{after:?}");
    assert_eq!(process.metrics().await.unwrap().sum("gateway_panics_total", &[]), 0.0);
}
