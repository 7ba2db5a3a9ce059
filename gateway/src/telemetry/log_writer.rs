//! Where the gateway's own log is written: through a queue and a thread, so that a terminal, pipe or disk that takes
//! nothing holds up nobody. Lines that are lost are counted.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that may wait.
const QUEUE_LINES: usize = 10_000;
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How many lines of the log were lost. Cloning shares it.
#[derive(Debug, Clone)]
pub struct LostLines {
    /// For which there was no room.
    queue: ErrorCounter,
    /// That the sink did not take.
    sink: Arc<AtomicU64>,
}

impl LostLines {
    /// Since the start.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.queue.dropped_lines() as u64 + self.sink.load(Relaxed)
    }
}

/// Writes what still waits when it is dropped, if that does not take long.
pub struct LastLines(Option<WorkerGuard>);

impl Drop for LastLines {
    fn drop(&mut self) {
        let guard = self.0.take();
        let (written, end) = mpsc::channel::<()>();
        // On a thread of its own: when there is no room left, the guard says so on standard output, which may take as
        // little as the log.
        let writing = thread::Builder::new().name("log-end".to_owned()).spawn(move || {
            drop(guard);
            drop(written);
        });
        if writing.is_ok() {
            // Its end, or that it takes too long.
            let _ = end.recv_timeout(LAST_LINES);
        }
    }
}

/// A writer for the log, whose lines end up in `sink`.
pub fn log_writer(sink: impl Write + Send + 'static) -> (NonBlocking, LastLines, LostLines) {
    let refused = Arc::<AtomicU64>::default();
    let sink = Counted { sink, refused: Arc::clone(&refused) };
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_LINES).thread_name("log");
    let (writer, guard) = builder.finish(sink);
    let lost = LostLines { queue: writer.error_counter(), sink: refused };
    (writer, LastLines(Some(guard)), lost)
}

/// Counts lines that cannot be written. Nobody else does: the thread has nobody to tell.
struct Counted<W> {
    sink: W,
    refused: Arc<AtomicU64>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.sink.write(line)
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.sink.write_all(line).inspect_err(|_| {
            self.refused.fetch_add(1, Relaxed);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{fs::File, os::fd::OwnedFd};

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_nothing_else() {
        let (reader, sink) = io::pipe().unwrap();
        let (mut writer, guard, lost) = log_writer(File::from(OwnedFd::from(sink)));
        let line = [b'x'; 100];
        // The pipe has room for 64 KiB, the queue for its lines; that this ends is the point.
        for _ in 0..3 * QUEUE_LINES {
            writer.write_all(&line).unwrap();
        }
        assert!(lost.count() >= QUEUE_LINES as u64, "{lost:?}");
        // Whoever would have read is gone: the thread need not wait any more.
        drop(reader);
        drop(guard);
    }

    #[test]
    fn a_full_disk_costs_lines_and_is_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (mut writer, guard, lost) = log_writer(full);
        for _ in 0..10 {
            writer.write_all(b"line\n").unwrap();
        }
        drop(guard);
        assert_eq!(lost.count(), 10);
    }
}
