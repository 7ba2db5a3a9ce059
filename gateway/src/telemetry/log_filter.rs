//! Which lines of the gateway's own log are written, and changing that while it runs.
//!
//! A filter is a text as `GATEWAY_LOG` takes it: a level, and other levels for parts of the gateway
//! (`info,gateway::http=debug`). It is changed rarely and read for every line, so it lives in `tracing`'s own cache.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tracing_subscriber::{EnvFilter, Registry, filter::ParseError, reload};

use super::directory::lock;

/// Parts with a level of their own, and the length of a part's name.
const MAX_PARTS: usize = 64;
const MAX_NAME: usize = 100;
/// Parts of the gateway that may be named without their path.
const OWN: &[&str] =
    &["admin", "app", "cli", "config", "http", "net", "plugins", "snapshot", "telemetry", "tls", "upstream", "worker"];

/// The filter of the process's log. Cloning shares it.
#[derive(Debug, Clone)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    levels: Arc<Mutex<Levels>>,
}

/// What is written.
#[derive(Debug, Clone)]
struct Levels {
    base: String,
    parts: BTreeMap<String, &'static str>,
}

/// Why the filter was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogFilterError {
    /// No such level.
    #[error("{0:?} is not a level; levels are trace, debug, info, warning, error, critical and off")]
    Level(String),
    /// Not a list of parts.
    #[error("{0:?} is not PART:LEVEL, for example http:debug,upstream:trace")]
    Part(String),
    /// Too many parts.
    #[error("more than {MAX_PARTS} parts have a level of their own; set one level for all first")]
    TooMany,
    /// Nothing writes with this filter.
    #[error("the log of this process does not use this filter")]
    Gone,
}

impl LogFilter {
    /// A filter, and the layer of the subscriber that uses it. If `text` is none, then `info` with what is wrong.
    #[must_use]
    pub fn new(text: &str) -> (Self, reload::Layer<EnvFilter, Registry>, Option<ParseError>) {
        let (base, filter, wrong) = match EnvFilter::builder().parse(text) {
            Ok(filter) => (text, filter, None),
            Err(error) => ("info", EnvFilter::new("info"), Some(error)),
        };
        let (layer, handle) = reload::Layer::new(filter);
        let levels = Levels { base: base.to_owned(), parts: BTreeMap::new() };
        (Self { handle, levels: Arc::new(Mutex::new(levels)) }, layer, wrong)
    }

    /// The filter as a text.
    #[must_use]
    pub fn text(&self) -> String {
        lock(&self.levels).text()
    }

    /// One level for everything.
    pub fn set_level(&self, name: &str) -> Result<(), LogFilterError> {
        self.change(|levels| {
            *levels = Levels { base: level(name)?.to_owned(), parts: BTreeMap::new() };
            Ok(())
        })
    }

    /// Levels for parts, `http:debug,upstream:trace`; the others stay as they are. A part is a module of the gateway or
    /// the name of a library.
    pub fn set_parts(&self, list: &str) -> Result<(), LogFilterError> {
        self.change(|levels| {
            for pair in list.split(',').filter(|pair| !pair.is_empty()) {
                let refused = || LogFilterError::Part(pair.chars().take(MAX_NAME).collect());
                let (part, name) = pair.rsplit_once(':').ok_or_else(refused)?;
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
                if part.is_empty() || part.len() > MAX_NAME || !part.bytes().all(allowed) {
                    return Err(refused());
                }
                let path = if OWN.contains(&part) { format!("gateway::{part}") } else { part.to_owned() };
                levels.parts.insert(path, level(name)?);
            }
            if levels.parts.len() > MAX_PARTS { Err(LogFilterError::TooMany) } else { Ok(()) }
        })
    }

    fn change(&self, change: impl FnOnce(&mut Levels) -> Result<(), LogFilterError>) -> Result<(), LogFilterError> {
        let mut current = lock(&self.levels);
        let mut levels = current.clone();
        change(&mut levels)?;
        let text = levels.text();
        let filter = EnvFilter::builder().parse(&text).map_err(|_| LogFilterError::Part(text))?;
        self.handle.reload(filter).map_err(|_| LogFilterError::Gone)?;
        *current = levels;
        Ok(())
    }
}

impl Levels {
    fn text(&self) -> String {
        let parts = self.parts.iter().map(|(part, level)| format!(",{part}={level}"));
        self.base.clone() + &parts.collect::<String>()
    }
}

/// Envoy's name of a level as `tracing` says it.
fn level(name: &str) -> Result<&'static str, LogFilterError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warning" | "warn" => "warn",
        "error" | "critical" => "error",
        "off" => "off",
        _ => return Err(LogFilterError::Level(name.chars().take(MAX_NAME).collect())),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn levels_change_and_errors_change_nothing() {
        let (filter, layer, wrong) = LogFilter::new("warn,h2=off");
        assert!(wrong.is_none() && LogFilter::new("a=loud").2.is_some());
        filter.set_parts("http:debug,hyper::client:trace").unwrap();
        assert_eq!(filter.text(), "warn,h2=off,gateway::http=debug,hyper::client=trace");
        for bad in ["http", "http:loud", ":debug", "a b:debug", "a=b:debug", "http:info,x:"] {
            assert!(filter.set_parts(bad).is_err(), "{bad}");
        }
        assert!(filter.set_level("loud").is_err());
        let many: Vec<_> = (0..=MAX_PARTS).map(|n| format!("m{n}:info")).collect();
        assert_eq!(filter.set_parts(&many.join(",")), Err(LogFilterError::TooMany));
        assert_eq!(filter.text(), "warn,h2=off,gateway::http=debug,hyper::client=trace");
        filter.set_level("Warning").unwrap();
        assert_eq!(filter.text(), "warn");
        drop(layer);
        assert_eq!(filter.set_level("info"), Err(LogFilterError::Gone));
    }
}
