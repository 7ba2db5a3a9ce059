//! Addresses that could not be bound when the configuration changed. They are tried again, less and less often.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::publish::BindFailure;
use crate::net;

/// The first pause: a listener that moved to another port frees its own a moment later.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Which addresses, and when they are tried again.
#[derive(Default)]
pub(super) struct Unbound {
    addresses: Vec<SocketAddr>,
    pause: Duration,
    due: Option<Instant>,
}

impl Unbound {
    /// A configuration was published. If the same addresses fail as before, patience is as it was.
    pub(super) fn set(&mut self, failures: &[BindFailure]) {
        let addresses: Vec<_> = failures.iter().map(|failure| failure.listener.bind).collect();
        if addresses != self.addresses || self.due.is_none() {
            self.pause = SHORTEST;
        }
        self.due = (!addresses.is_empty()).then(|| Instant::now() + self.pause);
        self.addresses = addresses;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Waits until it is time to try again; for ever if there is nothing to try.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Whether one of them is free now. If not, the next pause is longer.
    pub(super) fn is_any_free(&mut self) -> bool {
        self.pause = (2 * self.pause).min(LONGEST);
        self.due = Some(Instant::now() + self.pause);
        self.addresses.iter().any(|address| net::try_bind(*address).is_ok())
    }
}
