//! Starts: after `kill -9` with many routes, and in the place of a running gateway.

use crate::changes::answers;
use crate::tally::Table;
use gateway_tests::client::{RawClient, RawServer};
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, virtual_service};
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// 1,000 hosts with ten routes each.
fn many_routes() -> String {
    let mut text = GATEWAY.to_owned();
    for host in 0..1000 {
        let mut http = String::new();
        for route in 0..9 {
            // Writing to a string cannot fail.
            let _ = writeln!(
                http,
                "  - match: [{{uri: {{prefix: /path-{route}/}}}}]\n    directResponse: {{status: 200, body: {{string: '{route}'}}}}"
            );
        }
        http += "  - directResponse: {status: 200, body: {string: 'the last'}}";
        text += &virtual_service(&format!("v{host}"), &[&format!("host-{host}.example")], &http);
    }
    text
}

/// I-8.
pub(crate) async fn measure(program: &str, table: &mut Table) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let folder = home.path().join("config");
    fs::create_dir(&folder)?;
    fs::write(folder.join("all.yaml"), many_routes())?;
    let address = RawServer::start().await?.address()?;
    let (bind, data) = (format!("--bind=80={address}"), format!("--data-dir={}", home.path().join("data").display()));
    let mut times = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        let arguments = [bind.as_str(), &data];
        let start = Process::start(program, &folder, &arguments);
        let (process, answered) =
            tokio::join!(start, async { answers(address, "host-999.example").await.map(|()| begin.elapsed()) });
        times.push(answered?);
        let mut process = process?;
        process.signal("KILL")?;
        process.ended().await?;
    }
    times.sort_unstable();
    let shown = format!("{:.0} ms ({:.0} to {:.0})", ms(times[2]), ms(times[0]), ms(times[4]));
    // Wanted: 200 ms.
    table.row("I-8", "kill -9, start, first 200 with 10,000 routes".to_owned(), shown, ms(times[2]) < 1000.0);
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// I-7.
pub(crate) async fn takeovers(program: &str, table: &mut Table) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let text = GATEWAY.to_owned() + &virtual_service("v", &["*"], "  - directResponse: {status: 200}");
    fs::write(home.path().join("all.yaml"), text)?;
    let start = async |more: &[&str]| {
        let drain = ["--minimum-drain-seconds=1", "--drain-seconds=5"];
        Process::start(program, Path::new(home.path()), &[&drain, more].concat()).await
    };
    let mut running = start(&["--workers=2"]).await?;
    let knocking = Knocking::at(running.address()?);
    for workers in ["--workers=2", "--workers=4", "--workers=1", "--workers=3", "--workers=2"] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = start(&["--takeover", workers]).await?;
        let status = running.ended().await?;
        anyhow::ensure!(status.success(), "the old one ended with {status}: {}", running.log());
        running = next;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (answered, rate, errors) = knocking.end().await?;
    let value = format!("{answered} at {rate:.0} a second, {} refused, reset or wrong", errors.len());
    table.row("I-7", "new connections during five takeovers".to_owned(), value, errors.is_empty() && rate > 900.0);
    errors.into_iter().take(5).for_each(|error| table.note(error));
    Ok(())
}

/// A thousand new connections a second.
struct Knocking {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    begin: Instant,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Knocking {
    fn at(address: SocketAddr) -> Knocking {
        let (stop, answered) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let client = |number| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            async move {
                let mut errors = Vec::new();
                let first = tokio::time::Instant::now() + Duration::from_millis(number);
                let mut turn = tokio::time::interval_at(first, Duration::from_millis(50));
                turn.set_missed_tick_behavior(MissedTickBehavior::Burst);
                while !stop.load(Relaxed) {
                    turn.tick().await;
                    let asked = async { RawClient::connect(address).await?.get("any.example.dev", "/").await };
                    match asked.await {
                        Ok(response) if response.status == 200 => drop(answered.fetch_add(1, Relaxed)),
                        Ok(response) => errors.push(format!("status {}", response.status)),
                        Err(error) => errors.push(format!("{error:#}")),
                    }
                }
                errors
            }
        };
        let clients = (0..50).map(|number| tokio::spawn(client(number))).collect();
        Knocking { stop, answered, begin: Instant::now(), clients }
    }

    async fn end(self) -> anyhow::Result<(usize, f64, Vec<String>)> {
        self.stop.store(true, Relaxed);
        let seconds = self.begin.elapsed().as_secs_f64();
        let mut errors = Vec::new();
        for client in self.clients {
            errors.extend(client.await?);
        }
        let answered = self.answered.load(Relaxed);
        Ok((answered, answered as f64 / seconds, errors))
    }
}
