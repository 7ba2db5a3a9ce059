//! Code of a test in the middle of a request: a panic, as if the gateway had an error there, or a wait that holds up the
//! worker.
//!
//! The gateway has no hook for that and needs none: it logs, and whoever takes a line of the log runs where it is
//! written. Lines that can be used: a refused request of HTTP/1 (its client's address is in it), and a plugin that
//! crashed (its name is in it).

use std::fmt::{self, Write};
use std::sync::{Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Where the lines come from.
const SOURCES: [&str; 2] = ["gateway::http::service", "gateway::http::plugins::vm"];

type Deed = Box<dyn FnOnce() + Send>;

static WAITING: Mutex<Vec<(String, Deed)>> = Mutex::new(Vec::new());

/// Does something once, when a line of the log with this word in a field is written.
pub fn interfere(word: impl Into<String>, deed: impl FnOnce() + Send + 'static) {
    static TAKE_THE_LOG: Once = Once::new();
    TAKE_THE_LOG.call_once(|| {
        // Somebody else has it: then the test fails, because its deed is never done.
        let _ = tracing::subscriber::set_global_default(Lines);
    });
    WAITING.lock().unwrap_or_else(PoisonError::into_inner).push((word.into(), Box::new(deed)));
}

struct Lines;

/// The values of a line's fields.
#[derive(Default)]
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{value:?} ");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && SOURCES.contains(&metadata.target())
    }

    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        let found = waiting.iter().position(|(word, _)| words.0.split([' ', '"', '/']).any(|other| other == word));
        let deed = found.map(|at| waiting.swap_remove(at).1);
        drop(waiting);
        if let Some(deed) = deed {
            deed();
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
