//! `make soak MINUTES=10`: a gateway process under mixed traffic, with a share of every fault and of every change, for a
//! while. Prints a table, and says with its exit code whether everything was as it should be.
//!
//! 1. How long a start takes with 10,000 routes, after `kill -9` (I-8).
//! 2. Ten changes a second at 2,000 requests a second for a minute (I-1).
//! 3. The soak: traffic, faults, changes, and 10,000 pushes of what is there already (I-10). Memory is measured all along;
//!    afterwards nothing must be left: no request, no connection, no task, no descriptor.
//! 4. Takeovers at 1,000 new connections a second (I-7).
//!
//! All of it is bounded and on the loopback interface. The program `gateway` is taken from the folder of this one.

mod changes;
mod faults;
mod starts;
mod tally;
mod traffic;
mod watch;

use anyhow::Context as _;
use gateway_tests::eventually;
use gateway_tests::process::Process;
use gateway_tests::scene::{HOST, Scene};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tally::Table;
use traffic::World;
use watch::Watch;

const USAGE: &str = "usage: soak [--minutes 10]   (1 to 600)";

#[tokio::main]
async fn main() -> ExitCode {
    let minutes = match minutes(std::env::args().skip(1)) {
        Ok(minutes) => minutes,
        Err(error) => {
            eprintln!("soak: {error:#}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    let mut table = Table::default();
    let outcome = run(minutes, &mut table).await;
    print!("\n{table}");
    match outcome {
        Ok(()) if table.is_good() => {
            println!("\nEverything as it should be.");
            ExitCode::SUCCESS
        }
        Ok(()) => {
            println!("\nNot as it should be: see the rows marked with !");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("soak: it could not be carried out: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn minutes(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<u64> {
    let mut minutes = 10;
    while let Some(argument) = arguments.next() {
        anyhow::ensure!(argument == "--minutes", "unknown argument {argument:?}");
        minutes = arguments.next().context("--minutes needs a number")?.parse().context("--minutes needs a number")?;
    }
    anyhow::ensure!((1..=600).contains(&minutes), "{minutes} minutes");
    Ok(minutes)
}

async fn run(minutes: u64, table: &mut Table) -> anyhow::Result<()> {
    let program = std::env::current_exe()?.with_file_name("gateway");
    let program = program.to_str().context("the path of the gateway is not text")?;
    println!("starting with 10,000 routes");
    starts::measure(program, table).await?;

    let scene = Scene::new().await?;
    let process = scene.start(program, &["--minimum-drain-seconds=1", "--drain-seconds=10"]).await?;
    println!("ten changes a second at 2,000 requests a second");
    // The whole minute only where there is time for it.
    changes::under_load(&scene, &process, Duration::from_secs(60.min(20 * minutes)), table).await?;

    scene.withdraw()?;
    let before = settled(&process).await?;
    scene.restore()?;
    changes::answers(process.address()?, HOST).await?;
    changes::answers(process.address()?, "direct.example.dev").await?;
    println!("{minutes} minutes of everything; before: {before}");
    let world = Arc::new(World::new(&scene, &process)?);
    let watch = Watch::start(process.id(), Duration::from_secs(60 * minutes));
    let versions = process.metrics().await?.sum("gateway_config_version", &[]);
    let traffic = traffic::start(&world);
    let faults = faults::start(&world);
    let pushes = changes::meanwhile(&scene, Duration::from_secs(60 * minutes)).await?;
    world.stop.store(true, Relaxed);
    for task in traffic.into_iter().chain(faults) {
        task.await.context("a client")?;
    }
    let samples = watch.end().await?;
    let made = process.metrics().await?.sum("gateway_config_version", &[]) - versions;
    world.tally.report(table);
    samples.report(table);
    table.row(
        "I-10",
        format!("versions from {} changes and {} pushes of the same", pushes.changes, pushes.same),
        format!("{made}"),
        made <= pushes.changes as f64,
    );
    drop(world);
    scene.withdraw()?;
    let after = settled(&process).await?;
    println!("after: {after}");
    after.compare(&before, table);
    let panics = process.metrics().await?.sum("gateway_panics_total", &[]);
    table.row("", "panics".to_owned(), format!("{panics}"), panics == 0.0);

    println!("five takeovers at 1,000 connections a second");
    starts::takeovers(program, table).await
}

/// What a gateway has open.
#[derive(Debug, Clone, PartialEq)]
struct Open {
    requests: f64,
    clients: f64,
    upstreams: f64,
    tasks: f64,
    descriptors: usize,
    memory: u64,
}

impl std::fmt::Display for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Open { requests, clients, upstreams, tasks, descriptors, memory } = self;
        write!(
            f,
            "{requests} requests, {clients} clients, {upstreams} upstream connections, {tasks} tasks, \
             {descriptors} descriptors, {:.1} MB",
            *memory as f64 / 1e6
        )
    }
}

impl Open {
    async fn now(process: &Process) -> anyhow::Result<Open> {
        let metrics = process.metrics().await?;
        let of = |name: &str| metrics.sum(name, &[]);
        Ok(Open {
            requests: of("gateway_requests_in_flight"),
            clients: of("gateway_downstream_connections"),
            upstreams: of("gateway_upstream_connections"),
            tasks: of("gateway_worker_tasks"),
            descriptors: process.descriptors()?,
            memory: process.memory()?,
        })
    }

    fn compare(&self, before: &Open, table: &mut Table) {
        let mut same = |what: &str, after: f64, before: f64, more: f64| {
            table.row("", format!("{what} left"), format!("{after} (before: {before})"), after <= before + more);
        };
        same("requests", self.requests, 0.0, 0.0);
        same("connections of clients", self.clients, 0.0, 0.0);
        same("connections to services", self.upstreams, 0.0, 0.0);
        same("tasks", self.tasks, before.tasks, 0.0);
        // The admin API may have kept one or two of ours.
        same("descriptors", self.descriptors as f64, before.descriptors as f64, 4.0);
    }
}

/// Waits until nothing changes any more, and nothing is open that has to do with traffic.
async fn settled(process: &Process) -> anyhow::Result<Open> {
    let mut last = Open::now(process).await?;
    let mut looks = 0;
    eventually("the gateway to settle", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = Open::now(process).await?;
        looks += 1;
        let quiet =
            now.requests == 0.0 && now.clients == 0.0 && now.upstreams == 0.0 && now.tasks == last.tasks && looks >= 4;
        last = now.clone();
        // The table says what is left.
        Ok((quiet || looks >= 15).then_some(now))
    })
    .await
}
