//! Who sends the requests. Every load answers one question: how many operations did the client see through, in a
//! window of about a second? A single answer that is not the expected one ends the run.

pub(crate) mod fixed_rate;
pub(crate) mod grpc_stream;
pub(crate) mod h2load;
pub(crate) mod handshakes;
pub(crate) mod websocket;
pub(crate) mod wrk;

use std::time::Duration;

/// How long the clients of our own send; wrk and h2load know only whole seconds.
const WINDOW: Duration = Duration::from_millis(800);

/// Where the clients of our own run.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    tasks: tokio::task::LocalSet,
}

impl Client {
    pub(crate) fn new() -> anyhow::Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Client { runtime, tasks: tokio::task::LocalSet::new() })
    }

    /// Tasks live on between calls, but make no progress then.
    pub(crate) fn run<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.tasks.block_on(&self.runtime, work)
    }
}

/// A tool's numbers, found by the text in front of them.
fn number_after(text: &str, before: &str) -> Option<u64> {
    let rest = &text[text.find(before)? + before.len()..];
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
