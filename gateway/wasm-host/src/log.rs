//! What plugins write to their log: bounded lines, a bounded number of them, and where they go.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::{Limits, LogLevel};

/// One line a plugin logged, or a note of the host about it.
#[derive(Clone, Copy, Debug)]
pub struct LogLine<'a> {
    /// [`PluginSettings::name`](crate::PluginSettings::name)
    pub plugin: &'a str,
    /// The context the plugin was working for: 1 is its root context, others are streams
    /// ([`ContextId::number`](crate::ContextId::number)).
    pub context: u32,
    /// How important the plugin says it is.
    pub level: LogLevel,
    /// Text of at most [`Limits::log_line_bytes`]. It comes from outside: **the sink must escape
    /// control characters** before it writes lines to anything that people or programs read.
    pub message: &'a str,
}

/// Where log lines go. Called on the worker's thread inside a callback, so it must not block.
pub trait LogSink: Send + Sync {
    /// Takes one line.
    fn log(&self, line: LogLine<'_>);
}

/// What of a plugin's message is logged: valid text of bounded length.
pub(crate) fn text(message: &[u8], limit: usize) -> Cow<'_, str> {
    let cut = message.get(..limit).unwrap_or(message);
    match String::from_utf8_lossy(cut) {
        whole if cut.len() == message.len() => whole,
        Cow::Borrowed(cut) => Cow::Owned(format!("{cut}…")),
        Cow::Owned(mut cut) => {
            cut.push('…');
            Cow::Owned(cut)
        }
    }
}

/// Lines and bytes of the current second.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    second: Option<Instant>,
    lines: u32,
    bytes: usize,
    dropped: u64,
}

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Write,
    /// Write, after noting that this many lines before it were dropped.
    WriteAfter(u64),
    Drop,
}

impl Rate {
    /// Accounts for a line of this length.
    pub(crate) fn admit(&mut self, now: Instant, bytes: usize, limits: &Limits) -> Verdict {
        let current = self.second.is_some_and(|begin| now.saturating_duration_since(begin) < Duration::from_secs(1));
        if !current {
            (self.second, self.lines, self.bytes) = (Some(now), 0, 0);
        }
        let total = self.bytes.saturating_add(bytes);
        if self.lines >= limits.log_lines_per_second || total > limits.log_bytes_per_second {
            self.dropped += 1;
            return Verdict::Drop;
        }
        self.lines += 1;
        self.bytes = total;
        match std::mem::take(&mut self.dropped) {
            0 => Verdict::Write,
            dropped => Verdict::WriteAfter(dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_and_broken_text_are_made_printable() {
        assert_eq!(text(b"short", 5), "short");
        assert_eq!(text(b"too long", 3), "too…");
        assert_eq!(text("é".as_bytes(), 1), "\u{fffd}…");
        assert_eq!(text(b"a\xffb", 9), "a\u{fffd}b");
    }

    #[test]
    fn lines_beyond_the_rate_are_dropped_and_reported_later() {
        let limits = Limits { log_lines_per_second: 2, log_bytes_per_second: 100, ..Limits::default() };
        let start = Instant::now();
        let mut rate = Rate::default();
        assert_eq!(rate.admit(start, 10, &limits), Verdict::Write);
        assert_eq!(rate.admit(start, 91, &limits), Verdict::Drop, "bytes");
        assert_eq!(rate.admit(start, 10, &limits), Verdict::WriteAfter(1));
        assert_eq!(rate.admit(start, 10, &limits), Verdict::Drop, "lines");
        let later = start + Duration::from_secs(1);
        assert_eq!(rate.admit(later, 10, &limits), Verdict::WriteAfter(1));
    }
}
