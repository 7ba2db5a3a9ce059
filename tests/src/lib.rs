//! What end-to-end tests are made of: real servers and clients on real sockets, all on loopback.
//!
//! * [`gateway`]: a gateway in the test's process, its configuration folder, admin API, metrics and access log;
//! * [`process`]: a gateway as a process of its own;
//! * [`resources`] and [`plugins`]: YAML for it; [`metrics`]: what it counted;
//! * [`upstream`]: a service behind the gateway that records what arrives and answers as it is told;
//! * [`client`]: an HTTP/1.1 client that sends exactly the bytes it is given, and an HTTP/2 client;
//! * [`registry`]: a registry of images, `docker-registry`;
//! * [`certificates`] and [`tls`]: authorities, what they issue, and a TLS client;
//! * [`dns`]: a name server;
//! * [`grpc`]: a gRPC server and client;
//! * [`http2_frames`]: an HTTP/2 client that sends the frames it is given;
//! * [`crowd`]: many clients at once;
//! * [`interference`]: errors and stops in the middle of a request;
//! * [`scene`]: a gateway process with everything behind it, and changes of it; [`load`]: steady load, and what came of it;
//! * [`body`]: bodies that a test sends piece by piece, for both;
//! * [`server`]: HTTP/1.1 or HTTP/2 over one accepted connection, also what `sample-service` runs on;
//! * [`differential`]: the same plugins and requests in Envoy and here;
//! * [`strict`]: the corpus of what is not as it should be, for us and for other gateways.
//!
//! Tests wait for events (a request was received, a connection was closed), never for time to pass. Every wait ends
//! with an error after [`PATIENCE`], so that a test that fails says what it was waiting for.

pub mod body;
pub mod certificates;
pub mod client;
pub mod crowd;
pub mod differential;
pub mod dns;
pub mod gateway;
pub mod grpc;
pub mod http2_frames;
pub mod interference;
pub mod load;
pub mod metrics;
pub mod plugins;
pub mod process;
pub mod registry;
pub mod resources;
pub mod scene;
pub mod server;
pub mod strict;
pub mod tls;
pub mod upstream;

use std::future::Future;
use std::time::Duration;

/// How long anything may take before a test gives up on it. Far above what it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The same for the start of a process: it may have large plugins to compile, on a machine that has other things to do.
pub const START_PATIENCE: Duration = Duration::from_secs(90);

/// Waits for something that must happen; `what` completes the sentence "waited for …".
pub fn within<T>(what: &str, event: impl Future<Output = T>) -> impl Future<Output = anyhow::Result<T>> {
    within_time(PATIENCE, what, event)
}

async fn within_time<T>(patience: Duration, what: &str, event: impl Future<Output = T>) -> anyhow::Result<T> {
    let waited = tokio::time::timeout(patience, event).await;
    waited.map_err(|_| anyhow::anyhow!("waited for {what} for {} s", patience.as_secs()))
}

/// Waits for something that nobody announces, such as a line in a file of another thread: looks until there is one.
///
/// # Errors
/// What `look` says, or that nothing was found within [`PATIENCE`].
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    eventually_in(PATIENCE, what, look).await
}

/// The same with another patience.
///
/// # Errors
/// As [`eventually`].
pub async fn eventually_in<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let found = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            // Not to synchronise: only so that looking leaves time for what is looked for.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within_time(patience, what, found).await?
}
