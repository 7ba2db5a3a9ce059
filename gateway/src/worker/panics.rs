//! Errors in the gateway itself. The runtime catches a panic where a task ends, so it costs one connection, or one stream
//! of HTTP/2; here it is counted and logged, in whatever task of a worker it happens.

use std::{
    cell::RefCell,
    panic::{self, PanicHookInfo},
    rc::Rc,
    sync::Once,
};

use crate::telemetry::WorkerTelemetry;

thread_local! {
    /// Of the worker whose thread this is.
    static TELEMETRY: RefCell<Option<Rc<WorkerTelemetry>>> = const { RefCell::new(None) };
}

/// From now on panics on this thread are this worker's.
pub(super) fn count(telemetry: &Rc<WorkerTelemetry>) -> Counting {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !note(info) {
                before(info);
            }
        }));
    });
    TELEMETRY.set(Some(Rc::clone(telemetry)));
    Counting
}

/// Panics on this thread are its worker's until this is dropped.
pub(super) struct Counting;

impl Drop for Counting {
    fn drop(&mut self) {
        // The thread is ending if this fails.
        let _ = TELEMETRY.try_with(|telemetry| telemetry.take());
    }
}

/// Returns whether the panic is a worker's. Writes to the log only: standard error may be a pipe that nobody reads.
fn note(info: &PanicHookInfo<'_>) -> bool {
    let counted = TELEMETRY.try_with(|telemetry| {
        let telemetry = telemetry.try_borrow().ok()?;
        telemetry.as_ref()?.counters().panics.inc();
        Some(())
    });
    let is_workers = matches!(counted, Ok(Some(())));
    if is_workers {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or_default();
        tracing::error!(at, message, "an error in the gateway itself has cost a connection; please report it");
    }
    is_workers
}
