//! A gateway in a process of its own that gets too little: descriptors, memory, somebody who reads its log, a steady
//! clock. Crowds of clients are processes, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use gateway_tests::client::RawClient;
use gateway_tests::crowd::Crowd;
use gateway_tests::eventually;
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, service, virtual_service};
use gateway_tests::server::Protocol::Http1;
use gateway_tests::upstream::{Answer, Gate, Upstream};

const HOST: &str = "test.example.dev";
const GATEWAY_COMMAND: &str = env!("CARGO_BIN_EXE_gateway-command");
const CROWD: &str = env!("CARGO_BIN_EXE_crowd");

/// A folder with a configuration: `/` is answered by the gateway, everything else by the upstream.
fn configuration(upstream: Option<&Upstream>) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let mut text = GATEWAY.to_owned();
    let mut routes =
        "  - {match: [{uri: {exact: /}}], directResponse: {status: 200, body: {string: here}}}\n".to_owned();
    if let Some(upstream) = upstream {
        text += &service("sample", &[upstream]);
        routes += "  - route: [{destination: {host: sample}}]\n";
    }
    fs::write(home.path().join("all.yaml"), text + &virtual_service("all", &["*"], &routes)).unwrap();
    home
}

async fn get(process: &Process, path: &str) -> anyhow::Result<(u16, String)> {
    let response = RawClient::connect(process.address()?).await?.get(HOST, path).await?;
    Ok((response.status, response.text()))
}

async fn status(address: std::net::SocketAddr, path: &str) -> anyhow::Result<u16> {
    Ok(RawClient::connect(address).await?.get(&address.to_string(), path).await?.status)
}

async fn hits(process: &Process, limit: &str) -> f64 {
    process.metrics().await.unwrap().sum("gateway_limit_exceeded_total", &[("limit", limit)])
}

/// The share of one core that the process uses for a second.
async fn cpu_share(process: &Process) -> f64 {
    let (before, begin) = (process.cpu_time().unwrap(), Instant::now());
    // Not to synchronise: this is the time that is looked at.
    tokio::time::sleep(Duration::from_secs(1)).await;
    (process.cpu_time().unwrap() - before).as_secs_f64() / begin.elapsed().as_secs_f64()
}

fn set_open_files(process: &Process, limit: usize) {
    let pid = process.id().to_string();
    let done = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status().unwrap();
    assert!(done.success(), "prlimit (package util-linux) did not change the limit of open files");
}

#[tokio::test]
async fn descriptors_that_run_out_leave_some_for_operators() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let home = configuration(Some(&upstream));
    let few = ["prlimit", "--nofile=256:256"];
    let process = Process::start_under(&few, GATEWAY_COMMAND, home.path(), &["--max-connections=1000"]).await.unwrap();
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate).text("late"));
    let mut served = RawClient::connect(process.address().unwrap()).await.unwrap();
    served.send(format!("GET /waits HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    upstream.received(1).await.unwrap();
    let mut other = RawClient::connect(process.address().unwrap()).await.unwrap();
    assert_eq!(other.get(HOST, "/").await.unwrap().status, 200);

    let mut crowd = Crowd::start(CROWD, "storm", process.address().unwrap(), [400, 300], &[]).unwrap();
    let outcome = crowd.outcome().await.unwrap();
    assert_eq!((outcome.answered + outcome.closed, outcome.shed, outcome.late), (400, 0, 0), "{outcome:?}");
    assert!((50..192).contains(&outcome.answered), "{outcome:?}");
    assert!(hits(&process, "open_files").await >= outcome.closed as f64);
    assert_eq!(
        process.metrics().await.unwrap().sum("gateway_accept_errors_total", &[]),
        0.0,
        "none was really missing"
    );
    assert!(cpu_share(&process).await < 0.2);
    // Operators and probes are answered, a changed configuration is read.
    for (address, path) in [(process.admin().unwrap(), "/clusters"), (process.status().unwrap(), "/healthz/ready")] {
        assert_eq!(status(address, path).await.unwrap(), 200, "{path}");
    }
    let changed = virtual_service("more", &["more.example"], "  - directResponse: {status: 418}");
    fs::write(home.path().join("more.yaml"), changed).unwrap();
    eventually("a new route", async || Ok((other.get("more.example", "/").await?.status == 418).then_some(())))
        .await
        .unwrap();
    // A new connection to the upstream would take one of those that are kept back.
    let refused = other.get(HOST, "/upstream").await.unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.text().ends_with("reset reason: overflow"), "{}", refused.text());
    // What was begun ends as ever.
    gate.open();
    assert_eq!(served.response().await.unwrap().text(), "late");

    drop(crowd);
    eventually("room for clients and upstreams", async || {
        Ok(get(&process, "/upstream").await.is_ok_and(|(status, _)| status == 200).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn without_any_descriptor_nothing_spins_and_nothing_hangs() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let home = configuration(Some(&upstream));
    let process = Process::start(GATEWAY_COMMAND, home.path(), &[]).await.unwrap();
    let before = fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let before = before.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let before = before.split_whitespace().next().unwrap().parse().unwrap();
    let mut open = RawClient::connect(process.address().unwrap()).await.unwrap();
    assert_eq!(open.get(HOST, "/").await.unwrap().status, 200);
    // Somebody else has taken all that there were.
    set_open_files(&process, 3);
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut client = RawClient::connect(process.address().unwrap()).await.unwrap();
        client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
        waiting.push(client);
    }
    assert!(cpu_share(&process).await < 0.2);
    assert_eq!(open.get(HOST, "/").await.unwrap().status, 200);
    let refused = open.get(HOST, "/upstream").await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());

    set_open_files(&process, before);
    for client in &mut waiting {
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    assert_eq!(get(&process, "/upstream").await.unwrap().0, 200);
    let metrics = process.metrics().await.unwrap();
    assert!(metrics.sum("gateway_accept_errors_total", &[]) >= 1.0);
    assert_eq!(metrics.sum("gateway_limit_exceeded_total", &[("limit", "open_files")]), 1.0);
    // Twice a tenth of a second for two listeners would be a line each; one in a row is enough.
    assert!(process.log().matches("cannot accept connections").count() <= 2, "{}", process.log());
}

#[tokio::test]
async fn ten_thousand_clients_within_a_second_are_served_or_turned_away() {
    let home = configuration(None);
    let process = Process::start(GATEWAY_COMMAND, home.path(), &[]).await.unwrap();
    let most = process.metrics().await.unwrap().sum("gateway_downstream_connections_limit", &[]) as u64;
    // The crowd needs descriptors, too; where fewer are allowed it is smaller.
    let clients = (most * 3 / 2 - 200).min(10_000);
    if clients < 10_000 {
        eprintln!("only {clients} clients: the limit of open files (ulimit -Hn) allows no more");
    }
    let mut crowd = Crowd::start(CROWD, "storm", process.address().unwrap(), [clients, 1000], &[]).unwrap();
    let outcome = crowd.outcome().await.unwrap();
    eprintln!("{outcome:?}");
    // On a busy machine some wait for too long, and are told so.
    let all = outcome.answered + outcome.shed + outcome.closed;
    assert_eq!((all, outcome.late), (clients, 0), "{outcome:?}");
    assert!(outcome.closed <= clients.saturating_sub(most) && outcome.answered > clients / 2, "{outcome:?}");
    // All of them are still there, and one more is served at once.
    let begin = Instant::now();
    let answer = get(&process, "/").await;
    assert!(clients >= most || answer.is_ok_and(|(status, _)| status == 200));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    drop(crowd);
    eventually("the connections to end", async || {
        let open = process.metrics().await?.sum("gateway_downstream_connections", &[]);
        Ok((open == 0.0).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(get(&process, "/").await.unwrap().0, 200);
    assert_eq!(process.metrics().await.unwrap().sum("gateway_panics_total", &[]), 0.0);
}

/// Bytes of memory that are not contents of files.
fn memory_of(process: &Process) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// Lets many clients hold memory, until the gateway sheds and has recovered. Returns the most that was in use.
async fn squeeze(process: &Process, limit: u64) -> u64 {
    assert_eq!(get(process, "/").await.unwrap(), (200, "here".to_owned()));
    // Twice as much as there is.
    let clients = 2 * limit / (50 << 10);
    let mut crowd = Crowd::start(CROWD, "hold", process.address().unwrap(), [clients, 4000], &[]).unwrap();
    let mut most = 0;
    eventually("connections to be turned away", async || {
        let metrics = process.metrics().await?;
        most = (metrics.sum("gateway_memory_used_bytes", &[]) as u64).max(most);
        Ok((metrics.sum("gateway_limit_exceeded_total", &[("limit", "memory_connections")]) > 0.0).then_some(()))
    })
    .await
    .unwrap();
    assert!(status(process.status().unwrap(), "/healthz/ready").await.unwrap() == 200);
    crowd.outcome().await.unwrap();
    // The clients stay. Their heads are not waited for, so that there is room again.
    eventually("to have recovered", async || {
        let metrics = process.metrics().await?;
        most = (metrics.sum("gateway_memory_used_bytes", &[]) as u64).max(most);
        Ok((metrics.sum("gateway_overload_stage", &[]) == 0.0).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(get(process, "/").await.unwrap(), (200, "here".to_owned()));
    most
}

#[tokio::test]
async fn a_limit_of_memory_is_kept_by_shedding() {
    let home = configuration(None);
    let process = Process::start(GATEWAY_COMMAND, home.path(), &[]).await.unwrap();
    // What it needs for itself, and 64 MiB for clients.
    let limit = memory_of(&process) + (64 << 20);
    drop(process);
    let flag = format!("--memory-limit={limit}");
    let process = Process::start(GATEWAY_COMMAND, home.path(), &[&flag]).await.unwrap();
    let most = squeeze(&process, limit).await;
    eprintln!("limit {} KiB, at most {} KiB", limit >> 10, most >> 10);
    assert!(most < limit, "{most} of {limit}");
    assert!(process.log().contains("memory is running out"), "{}", process.log());
}

/// A cgroup with a limit of memory, of the version that there is; it goes when it is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(limit: u64) -> anyhow::Result<Self> {
        let (root, file) = match Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
            true => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            false => ("/sys/fs/cgroup", "memory.max"),
        };
        let folder = Path::new(root).join(format!("gateway-test-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let cgroup = Self(folder);
        fs::write(cgroup.0.join(file), limit.to_string()).context(file)?;
        ensure!(cgroup.0.join("cgroup.procs").exists(), "no cgroup.procs");
        Ok(cgroup)
    }

    /// How often the kernel has killed somebody in it.
    fn kills(&self) -> u64 {
        let read = |name| fs::read_to_string(self.0.join(name)).unwrap_or_default();
        let text = read("memory.oom_control") + &read("memory.events");
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that were just killed may be in it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test]
async fn the_kernel_has_no_reason_to_kill() {
    let limit = 128 << 20;
    let cgroup = match Cgroup::new(limit) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            return eprintln!("NOT TESTED: this process may not make a cgroup with a limit of memory: {error:#}");
        }
    };
    let home = configuration(None);
    let join = format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", cgroup.0.display());
    let process = Process::start_under(&["sh", "-c", &join], GATEWAY_COMMAND, home.path(), &[]).await.unwrap();
    assert_eq!(process.metrics().await.unwrap().sum("gateway_memory_limit_bytes", &[]), f64::from(limit as u32));
    let most = squeeze(&process, limit).await;
    eprintln!("limit {} KiB, at most {} KiB", limit >> 10, most >> 10);
    assert_eq!(cgroup.kills(), 0);
    drop(process);
}

/// Lets clients come whose requests each leave a long line in both logs, until `lost` says that lines were lost.
async fn talk_until_lost(process: &Process, limits: &[&str]) {
    // A header that does not parse: the request is refused, which the log has a line for.
    let agent = format!("user-agent={}", "x".repeat(4000));
    let mut missing = limits.to_vec();
    for _ in 0..20 {
        let crowd = Crowd::start(CROWD, "closed", process.address().unwrap(), [16, 1], &[&agent, "bad name=x"]);
        let mut crowd = crowd.unwrap();
        let outcome = crowd.outcome().await.unwrap();
        assert!(outcome.shed > 0 && outcome.closed == 0, "{outcome:?}");
        // Others are served as ever, and so are operators.
        let begin = Instant::now();
        assert_eq!(get(process, "/").await.unwrap().0, 200);
        let mut lost = Vec::new();
        for limit in &missing {
            if hits(process, limit).await > 0.0 {
                lost.push(*limit);
            }
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        missing.retain(|limit| !lost.contains(limit));
        if missing.is_empty() {
            return;
        }
    }
    panic!("no line of {missing:?} was lost, so this has tested nothing");
}

#[tokio::test]
async fn logs_that_nobody_takes_hold_up_nobody() {
    let home = configuration(None);
    let under = ["env", "GATEWAY_LOG=debug"];
    let arguments = ["--access-log=text", "--minimum-drain-seconds=0"];
    let mut process = Process::start_under(&under, GATEWAY_COMMAND, home.path(), &arguments).await.unwrap();
    process.ignore_output(true);
    // Until then the log, too, has had more lines than its pipe takes.
    talk_until_lost(&process, &["access_log_bytes"]).await;
    // It can even end without them.
    process.signal("TERM").unwrap();
    assert!(process.ended().await.unwrap().success());
}

#[tokio::test]
async fn a_full_disk_and_a_pipe_without_a_reader_hold_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for sink in [Path::new("/dev/full"), &pipe] {
        let home = configuration(None);
        let mesh = folder.path().join("mesh.yaml");
        fs::write(&mesh, format!("accessLogFile: {}\n", sink.display())).unwrap();
        // Standard error is a full disk, too.
        let under = ["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"];
        let mesh = format!("--mesh-config={}", mesh.display());
        let process = Process::start_under(&under, GATEWAY_COMMAND, home.path(), &[&mesh]).await.unwrap();
        assert_eq!(get(&process, "/").await.unwrap().0, 200);
        talk_until_lost(&process, &["access_log_bytes", "log_lines"]).await;
    }
}

/// A library that shifts the wall clock of a process by the seconds in a file.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile long *shift;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
    shift = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && shift && shift != MAP_FAILED) now->tv_sec += *shift;
    return result;
}
"#;

#[tokio::test]
async fn a_clock_that_jumps_ends_nothing() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let home = configuration(Some(&upstream));
    let tools = tempfile::tempdir().unwrap();
    let (source, library, shift) =
        (tools.path().join("clock.c"), tools.path().join("clock.so"), tools.path().join("shift"));
    fs::write(&source, CLOCK).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.unwrap().success(), "the C compiler that the build needs anyway");
    let jump = |seconds: i64| {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).create(true).truncate(false).open(&shift).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    };
    jump(0);
    let (preload, clock) = (format!("LD_PRELOAD={}", library.display()), format!("CLOCK_SHIFT={}", shift.display()));
    let under = ["env", &preload, &clock];
    let process = Process::start_under(&under, GATEWAY_COMMAND, home.path(), &["--access-log=json"]).await.unwrap();
    let mut client = RawClient::connect(process.address().unwrap()).await.unwrap();
    // A request that is being served through all of it, on a route with a timeout.
    let slow = "  - {match: [{uri: {exact: /slow}}], route: [{destination: {host: sample}}], timeout: 60s}";
    fs::write(home.path().join("slow.yaml"), virtual_service("slow", &["slow.example"], slow)).unwrap();
    let gate = Gate::shut();
    let mut served = eventually("the route", async || {
        upstream.answer_next(Answer::new(200).after(&gate).text("late"));
        let mut client = RawClient::connect(process.address()?).await?;
        client.send("GET /slow HTTP/1.1\r\nhost: slow.example\r\n\r\n").await?;
        let arrived = async || upstream.requests().iter().any(|request| request.target == "/slow");
        for _ in 0..20 {
            if arrived().await {
                return Ok(Some(client));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(None)
    })
    .await
    .unwrap();

    for seconds in [3600, -3600, 10 * 365 * 86_400, 0] {
        jump(seconds);
        // Two sweeps and more of everything that looks at clocks.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200, "after {seconds} s");
        assert_eq!(get(&process, "/").await.unwrap().0, 200, "after {seconds} s");
        assert_eq!(status(process.status().unwrap(), "/healthz/ready").await.unwrap(), 200, "after {seconds} s");
    }
    gate.open();
    assert_eq!(served.response().await.unwrap().text(), "late");
    let metrics = process.metrics().await.unwrap();
    for limit in ["idle_time", "request_time", "request_head_time", "upstream_idle_time", "response_write_time"] {
        assert_eq!(metrics.sum("gateway_limit_exceeded_total", &[("limit", limit)]), 0.0, "{limit}");
    }
    assert_eq!(metrics.sum("gateway_stuck_workers", &[]), 0.0);
    // The log shows the wall clock: the jumps have really happened, and no request took an hour.
    let lines = eventually("ten years later in the log", async || {
        let lines: Vec<serde_json::Value> =
            process.printed().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let years: Vec<i32> =
            lines.iter().filter_map(|line| line["start_time"].as_str()?.get(..4)?.parse().ok()).collect();
        let span = years.iter().max().zip(years.iter().min()).map_or(0, |(last, first)| last - first);
        Ok((span >= 9).then_some(lines))
    });
    for line in lines.await.unwrap() {
        assert!(line["duration"].as_i64().unwrap() < 60_000, "{line}");
    }
}
