//! Instances of a new plugin version, made and configured off the workers.

use std::{sync::Arc, thread};

use proxy_wasm_host::{
    FreshWay, Instance, Isolation, LogLine, LogSink, Module, PluginSettings, Shared, StartError, Upstreams,
};

use crate::snapshot::{Code, Plugin};

/// Starts `instances` instances of `plugin` on blocking threads; none if there is no code to run.
///
/// The first is started alone: if its start-up code or configuration fails, nothing else was tried. The
/// others follow on as many threads as there are cores, since each runs the plugin's start-up code.
pub async fn prepare(plugin: &Plugin, instances: usize) -> Result<Vec<Instance>, StartError> {
    let Code::Loaded(code) = &plugin.code else { return Ok(Vec::new()) };
    if instances == 0 {
        return Ok(Vec::new());
    }
    let code = Arc::new(code.clone());
    if code.settings().isolation == Isolation::Request {
        prepare_fresh(Arc::clone(&code)).await?;
        let callbacks = code.module().callbacks();
        if !callbacks.tick && !callbacks.queue_ready {
            // Streams bring their own, and nobody else needs one.
            return Ok(Vec::new());
        }
    }
    let mut ready = start(Arc::clone(&code), 1).await?;
    ready.reserve_exact(instances - 1);

    let threads = thread::available_parallelism().map_or(1, usize::from);
    let rest = instances - 1;
    let batches: Vec<_> = (0..threads)
        .map(|thread| rest / threads + usize::from(thread < rest % threads))
        .filter(|size| *size > 0)
        .map(|size| tokio::spawn(start(Arc::clone(&code), size)))
        .collect();
    for batch in batches {
        ready.extend(flatten(batch.await)?);
    }
    Ok(ready)
}

/// Starts one instance that nobody will use, to find out whether it starts at all before anything is done about it,
/// and in a [`sandbox`], so that it takes nothing from the version that serves.
pub(super) async fn try_out(module: Module, settings: PluginSettings) -> Result<(), StartError> {
    let trial = tokio::task::spawn_blocking(|| sandbox(module, settings, Arc::new(Unheard)).map(drop));
    flatten(trial.await)
}

/// An instance with shared data, queues and metrics of its own. Blocks.
pub(super) fn sandbox(module: Module, settings: PluginSettings, log: Arc<dyn LogSink>) -> Result<Instance, StartError> {
    let code = proxy_wasm_host::Plugin::new(module, settings, Shared::new(log, Arc::new(Everybody)));
    if code.settings().isolation == Isolation::Request {
        code.prepare_fresh()?;
    }
    code.instantiate()
}

/// A trial's calls to services are never made, so they may be to any.
struct Everybody;

impl Upstreams for Everybody {
    fn knows(&self, _: &str) -> bool {
        true
    }
}

/// What a trial logs is said in its error, and again by the instances that follow.
struct Unheard;

impl LogSink for Unheard {
    fn log(&self, _: LogLine<'_>) {}
}

/// Finds out how every request of a plugin gets an instance of its own, and says so.
async fn prepare_fresh(code: Arc<proxy_wasm_host::Plugin>) -> Result<(), StartError> {
    let name = code.settings().name.clone();
    match flatten(tokio::task::spawn_blocking(move || code.prepare_fresh()).await)? {
        FreshWay::Copied(bytes) => {
            tracing::info!(plugin = name, bytes, "every request gets a copy of the configured instance");
        }
        FreshWay::Configured(why) => {
            tracing::warn!(plugin = name, why, "every request configures the plugin anew, on the worker");
        }
    }
    Ok(())
}

async fn start(code: Arc<proxy_wasm_host::Plugin>, count: usize) -> Result<Vec<Instance>, StartError> {
    flatten(tokio::task::spawn_blocking(move || (0..count).map(|_| code.instantiate()).collect()).await)
}

/// A panic in start-up is a bug of ours and passed on to the caller's task.
fn flatten<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
