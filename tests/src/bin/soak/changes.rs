//! Changes of the configuration, those that are none included.

use crate::tally::Table;
use gateway_tests::eventually;
use gateway_tests::load::{Client, Load};
use gateway_tests::process::Process;
use gateway_tests::scene::{HOST, KINDS, Scene};
use std::time::{Duration, Instant};

async fn clients(scene: &Scene, process: &Process) -> anyhow::Result<Vec<Client>> {
    let (plain, secure, tls) = (process.address()?, process.address_of(443)?, scene.tls()?);
    let mut clients = Vec::new();
    for number in 0..32 {
        clients.push(Client::connect(number, plain, secure, &tls, HOST).await?);
    }
    Ok(clients)
}

/// I-1.
pub(crate) async fn under_load(
    scene: &Scene,
    process: &Process,
    length: Duration,
    table: &mut Table,
) -> anyhow::Result<()> {
    let quiet = Load::start(clients(scene, process).await?, 2000, HOST, "/");
    tokio::time::sleep(length / 4).await;
    let quiet = quiet.end().await?;
    let before = process.metrics().await?.sum("gateway_config_version", &[]);
    let load = Load::start(clients(scene, process).await?, 2000, HOST, "/");
    let begin = Instant::now();
    let mut turn = tokio::time::interval(Duration::from_millis(100));
    let (mut round, mut memory) = (0, 0);
    while begin.elapsed() < length {
        turn.tick().await;
        scene.change(KINDS.len() + round)?;
        round += 1;
        // By then every kind has had its turn many times.
        if memory == 0 && begin.elapsed() > length / 3 {
            memory = process.memory()?;
        }
    }
    let changing = load.end().await?;
    let versions = process.metrics().await?.sum("gateway_config_version", &[]) - before;
    // What only the last requests held goes with them.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = (process.memory()? as f64 - memory as f64) / 1e6;
    let good = |load: &gateway_tests::load::Outcome| load.errors.is_empty() && load.rate > 1900.0;
    table.row("I-1", "without changes".to_owned(), quiet.to_string(), good(&quiet));
    table.row("I-1", format!("{round} changes as {versions} versions"), changing.to_string(), good(&changing));
    let ratio = changing.p99.as_secs_f64() / quiet.p99.as_secs_f64().max(1e-6);
    // A number to look at: on a machine that does other things it is theirs.
    table.row("I-1", "p99 with changes to without".to_owned(), format!("{ratio:.2}"), true);
    table.row("I-1", "memory from the first third to afterwards".to_owned(), format!("{grown:+.1} MB"), grown < 8.0);
    Ok(())
}

/// How often the configuration was written.
pub(crate) struct Pushes {
    pub(crate) changes: usize,
    pub(crate) same: usize,
}

/// For as long as the soak takes: a change every second, and in between 10,000 times what is there already.
pub(crate) async fn meanwhile(scene: &Scene, length: Duration) -> anyhow::Result<Pushes> {
    let mut pushes = Pushes { changes: 0, same: 0 };
    let files = ["gateways.yaml", "services.yaml", "fixed.yaml", "plain.yaml", "plugins.yaml", "certificate.yaml"];
    let begin = Instant::now();
    let pace = Duration::from_millis(54).min(length / 1000);
    let mut turn = tokio::time::interval(pace);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut next = Duration::from_secs(1);
    while begin.elapsed() < length {
        turn.tick().await;
        if begin.elapsed() >= next {
            next += Duration::from_secs(1);
            scene.change(pushes.changes)?;
            pushes.changes += 1;
        } else {
            scene.push_again(files[pushes.same % files.len()])?;
            pushes.same += 1;
        }
    }
    Ok(pushes)
}

/// Waits for a new process to answer.
pub(crate) async fn answers(address: std::net::SocketAddr, host: &str) -> anyhow::Result<()> {
    eventually("an answer", async || {
        let Ok(mut client) = gateway_tests::client::RawClient::connect(address).await else { return Ok(None) };
        Ok(client.get(host, "/").await.ok().filter(|response| response.status == 200).map(drop))
    })
    .await
}
