//! What a proxied request may cost, counted instead of timed, so that a busy machine changes nothing.
//!
//! The command of this build, with everything as shipped, runs as a process of its own. One client and one upstream keep
//! one connection each and take turns, so every request costs the same. Two tools look:
//! * callgrind (valgrind) counts instructions of the program, and calls to the allocator, for [`COUNTED`] requests;
//! * strace writes down the system calls of the thread that serves: how many are there from one request to the next?
//!
//! It is the unoptimised build that the other tests run. Its instructions are some times those of a release, but a
//! clone, a lookup or a copy that is added to the request path is seen here just as well; `make bench` has the times.
//! (Dependencies are optimised, our own crates are not: the list of fields of the crate `heads` took 7 % more here than
//! the map of a dependency did before it, and in a release build 15 % of a request's instructions less.)
//! A change of the compiler or of a library changes the numbers, too: then the budget changes with it.

use anyhow::{Context as _, ensure};
use gateway_tests::client::{RawClient, RawServer};
use gateway_tests::plugins::{module, wasm_plugin};
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, service_at, virtual_service};
use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

/// The budgets, and what was measured when they were set. Instructions differ by up to three per cent from run to run
/// (hash maps have another seed in each, and a busy machine cuts the turns in another way), so their budgets have seven per
/// cent more. Allocations are whole numbers but for what comes by the clock; two of them keep an answer's bytes in their own
/// size, so that an idle connection to an upstream keeps nothing.
const SYSTEM_CALLS: Budget = Budget { what: "system calls per request", most: 6.0, found: 6.0 };
const PLAIN: [Budget; 2] = [
    Budget { what: "instructions per request", most: 157_000.0, found: 146_800.0 },
    Budget { what: "heap allocations per request", most: 7.5, found: 7.24 },
];
/// One `add-header` plugin that adds a header to the request and one to the response.
const WITH_PLUGIN: [Budget; 2] = [
    Budget { what: "instructions per request with a plugin", most: 214_000.0, found: 200_300.0 },
    Budget { what: "heap allocations per request with a plugin", most: 12.5, found: 12.26 },
];

/// The command, built with these tests.
const GATEWAY_COMMAND: &str = env!("CARGO_BIN_EXE_gateway-command");
const HOST: &str = "test.example.dev";
/// Before anything is counted: pools, buffers and tables have their size then.
const WARM_UP: usize = 200;
const COUNTED: usize = 1000;

struct Budget {
    what: &'static str,
    most: f64,
    found: f64,
}

impl Budget {
    fn check(&self, now: f64) {
        println!("{}: {now:.2} (budget {}, {} when it was set)", self.what, self.most, self.found);
        assert!(
            now <= self.most,
            "{}: {now:.2}, and the budget is {}. It was {} when the budget was set: what has come to the request path since? \
             If it is worth its price, change the budget in {}.",
            self.what,
            self.most,
            self.found,
            file!()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_needs_no_more_instructions_and_allocations_than_before() {
    let (instructions, allocations) = counted("").await.unwrap();
    PLAIN[0].check(instructions);
    PLAIN[1].check(allocations);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_needs_no_more_instructions_and_allocations_than_before() {
    let spec = "pluginConfig: {request: {add: {x-request: added}}, response: {add: {x-response: added}}}";
    let (instructions, allocations) = counted(&wasm_plugin("add-header", &module("add-header"), spec)).await.unwrap();
    WITH_PLUGIN[0].check(instructions);
    WITH_PLUGIN[1].check(allocations);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_needs_no_more_system_calls_than_before() {
    SYSTEM_CALLS.check(system_calls().await.unwrap());
}

/// A folder of resources, and an upstream that answers every request alike.
struct Site {
    home: tempfile::TempDir,
}

impl Site {
    async fn new(plugin: &str) -> anyhow::Result<Site> {
        let upstream = RawServer::start().await?;
        let resources = [
            GATEWAY.to_owned(),
            service_at("sample", "HTTP", &[upstream.address()?]),
            virtual_service("sample", &[HOST], "  - route: [{destination: {host: sample}}]"),
            plugin.to_owned(),
        ];
        let home = tempfile::tempdir()?;
        std::fs::write(home.path().join("all.yaml"), resources.join("\n---\n"))?;
        tokio::spawn(async move {
            while let Ok(mut connection) = upstream.accept().await {
                tokio::spawn(async move {
                    while connection.request_head().await.is_ok() {
                        let answer = "HTTP/1.1 200 OK\r\nserver: upstream\r\ncontent-type: text/plain\r\n\
                                      date: Fri, 27 Nov 2026 10:00:00 GMT\r\ncontent-length: 5\r\n\r\nhello";
                        connection.send(answer).await?;
                    }
                    anyhow::Ok(())
                });
            }
        });
        Ok(Site { home })
    }
}

/// So many requests, one after the other.
async fn requests(client: &mut RawClient, count: usize) -> anyhow::Result<()> {
    let request = format!(
        "GET /sample?page=1 HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: budgets\r\naccept: text/html\r\n\
         accept-encoding: gzip\r\naccept-language: en\r\ncookie: session=1234567890\r\n\r\n"
    );
    let (mut answered, mut refused) = (0, 0);
    while answered < count {
        client.send(&request).await?;
        let response = client.response().await?;
        // Under valgrind, on a busy machine, a turn of the worker may be longer than it likes. One of those in a
        // hundred changes no number here.
        if response.status == 503 && response.text() == "envoy overloaded" && refused < count / 100 {
            refused += 1;
            continue;
        }
        ensure!(response.status == 200 && response.text() == "hello", "{response:?}");
        answered += 1;
    }
    Ok(())
}

/// Instructions and heap allocations per request.
async fn counted(plugin: &str) -> anyhow::Result<(f64, f64)> {
    installed("valgrind")?;
    let site = Site::new(plugin).await?;
    let out = site.home.path().join("callgrind");
    let file = format!("--callgrind-out-file={}", out.display());
    // Nothing is counted at first, and so the start is quick.
    let under = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", &file];
    let process = Process::start_under(&under, GATEWAY_COMMAND, site.home.path(), &[]).await?;
    let mut client = RawClient::connect(process.address()?).await?;
    requests(&mut client, WARM_UP).await?;
    tell_callgrind(&process, &["instrumentation", "on"]).await?;
    requests(&mut client, WARM_UP).await?;
    // A dump begins a new count.
    tell_callgrind(&process, &["dump"]).await?;
    requests(&mut client, COUNTED).await?;
    tell_callgrind(&process, &["dump"]).await?;
    let (instructions, allocations) = read(&out.with_extension("2"))?;
    Ok((instructions as f64 / COUNTED as f64, allocations as f64 / COUNTED as f64))
}

async fn tell_callgrind(process: &Process, words: &[&str]) -> anyhow::Result<()> {
    let pid = format!("--pid={}", process.id());
    let output = tokio::process::Command::new("vgdb").arg(pid).args(words).output().await?;
    ensure!(output.status.success(), "vgdb: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// All instructions of a dump, and the calls to functions that give memory.
fn read(dump: &Path) -> anyhow::Result<(u64, u64)> {
    let text = std::fs::read_to_string(dump).with_context(|| format!("cannot read {}", dump.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).context("no totals")?.trim().parse()?;
    // A name stands behind its number the first time: "cfn=(12) name", later "cfn=(12)".
    let mut allocators = HashSet::new();
    let mut called = "";
    let mut calls = 0;
    for line in text.lines() {
        let function = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn="));
        if let Some(function) = function {
            let (number, name) = function.split_once(' ').unwrap_or((function, ""));
            if allocates(name) {
                allocators.insert(number);
            }
            if line.starts_with('c') {
                called = number;
            }
        } else if let Some(count) = line.strip_prefix("calls=").filter(|_| allocators.contains(called)) {
            calls += count.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    ensure!(!allocators.is_empty(), "no function of the allocator is in {}", dump.display());
    Ok((total, calls))
}

/// jemalloc's entries; a name may end with the way on which it was reached.
fn allocates(name: &str) -> bool {
    let entry = name.trim_start_matches("_rjem_").split('\'').next().unwrap_or_default();
    name.starts_with("_rjem_")
        && ["malloc", "calloc", "realloc", "mallocx", "rallocx", "aligned_alloc", "posix_memalign"].contains(&entry)
}

/// System calls from the reading of a request to that of the next: the median, which a sweep in between does not change.
async fn system_calls() -> anyhow::Result<f64> {
    installed("strace")?;
    let site = Site::new("").await?;
    let out = site.home.path().join("strace");
    let file = out.display().to_string();
    let under = ["strace", "-f", "-qq", "-o", &file];
    let at_once = ["--minimum-drain-seconds=0"];
    let mut process = Process::start_under(&under, GATEWAY_COMMAND, site.home.path(), &at_once).await?;
    let mut client = RawClient::connect(process.address()?).await?;
    requests(&mut client, WARM_UP + COUNTED).await?;
    drop(client);
    // strace ends when the process that it follows has ended, and takes no signal before.
    let admin = process.admin()?;
    let quit = format!("POST /quitquitquit HTTP/1.1\r\nhost: {admin}\r\ncontent-length: 0\r\n\r\n");
    let mut operator = RawClient::connect(admin).await?;
    operator.send(quit).await?;
    ensure!(operator.response().await?.status == 200, "/quitquitquit is refused");
    process.ended().await?;

    // "THREAD name(arguments) = result"; what another thread interrupts is "<unfinished ...>" first and "resumed" later.
    let text = std::fs::read_to_string(&out)?;
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(thread, call)| (thread, call.trim_start()))
        .collect();
    let reads = |call: &str| {
        let call = call.trim_start_matches("<... ");
        call.contains("\"GET /sample") && (call.starts_with("recv") || call.starts_with("read"))
    };
    let (server, _) = lines.iter().find(|(_, call)| reads(call)).context("no request was read")?;
    let mut counts: Vec<usize> = Vec::new();
    for (_, call) in lines.iter().filter(|(thread, _)| thread == server) {
        if reads(call) {
            counts.push(0);
        }
        if let Some(count) = counts.last_mut().filter(|_| !call.starts_with("<... ")) {
            *count += 1;
        }
    }
    ensure!(counts.len() == WARM_UP + COUNTED, "{} of {} requests were seen", counts.len(), WARM_UP + COUNTED);
    let counts = &mut counts[WARM_UP..];
    counts.sort_unstable();
    Ok(counts[counts.len() / 2] as f64)
}

/// Fails with what to do where a tool is missing: a budget that nobody looks at is none.
fn installed(tool: &str) -> anyhow::Result<()> {
    let found = Command::new(tool).arg("--version").output();
    ensure!(
        found.is_ok_and(|output| output.status.success()),
        "{tool} is missing: .ci/setup installs it, or apt-get install {tool}"
    );
    Ok(())
}
