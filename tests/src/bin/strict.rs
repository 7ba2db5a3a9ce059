//! `strict ENVOY FILE`: sends the corpus of `gateway_tests::strict` to nginx, HAProxy, Envoy and our gateway, and writes
//! what each of them did. Fails where we are laxer than another one and nothing says why. `make strict` runs it.

use anyhow::Context as _;
use gateway_tests::strict::peers::Peer;
use gateway_tests::strict::verdicts::{Column, markdown, objections};
use gateway_tests::strict::{Size, corpus};
use std::process::{Command, ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(objections) => {
            eprintln!("strict: {objections} objections");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("strict: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<usize> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: strict ENVOY FILE";
    let (envoy, file) = (arguments.next().context(usage)?, arguments.next().context(usage)?);
    let corpus = corpus(Size::Full);
    let mut columns = Vec::new();
    println!("strict: {} cases", corpus.len());
    columns.push(Column::ours(&corpus).await.context("our gateway")?);
    println!("strict: ours is done");
    for peer in [Peer::nginx().await?, Peer::haproxy().await?, Peer::envoy(&envoy).await?] {
        let name = peer.name;
        columns.push(Column::of(peer, &corpus).await.context(name)?);
        println!("strict: {name} is done");
    }
    let day = Command::new("date").arg("+%Y-%m-%d").output().context("date")?;
    let day = String::from_utf8_lossy(&day.stdout).trim().to_owned();
    std::fs::write(&file, markdown(&corpus, &columns, &day)).with_context(|| format!("writing {file}"))?;
    let objections = objections(&corpus, &columns);
    for objection in &objections {
        println!("strict: {objection}");
    }
    Ok(objections.len())
}
