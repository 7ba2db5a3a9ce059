//! The thread that writes the access log, and the bounded queue in front of it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::{AccessLogOptions, BATCH_BYTES, LogSink, format::Layout};
use crate::telemetry::{TelemetryError, directory::lock};

/// How many empty buffers are kept for workers.
const SPARE_BUFFERS: usize = 16;

/// The process-wide side of the access log. The thread ends when this is dropped and the queue is empty.
#[derive(Debug)]
pub(in crate::telemetry) struct Writer {
    queue: Arc<Queue>,
    layout: Layout,
}

/// Some lines of one worker.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// Batches on their way to the writing thread. The lock is held to move pointers, never while writing.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to write, the file is to be reopened, or it is over.
    news: Condvar,
    /// Nothing waits to be written any more.
    drained: Condvar,
    /// How many bytes may wait.
    limit: usize,
    written: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Batch>,
    /// Bytes in `batches` and in the batch that is being written.
    bytes: usize,
    spare: Vec<Vec<u8>>,
    reopen: bool,
    closed: bool,
}

impl Writer {
    /// Opens the sink and starts the thread.
    pub(in crate::telemetry) fn open(options: &AccessLogOptions, hostname: &str) -> Result<Self, TelemetryError> {
        let layout = Layout::of(&options.format, hostname)?;
        let (path, sink) = match &options.sink {
            LogSink::Stdout => (None, duplicate(&io::stdout())),
            LogSink::Stderr => (None, duplicate(&io::stderr())),
            LogSink::File(path) => (Some(path.clone()), append_to(path)),
        };
        let sink = sink.map_err(|source| TelemetryError::AccessLog { sink: options.sink.to_string(), source })?;
        Self::start(Output::new(sink, path), layout, options.queue_bytes)
    }

    fn start(mut output: Output, layout: Layout, limit: usize) -> Result<Self, TelemetryError> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            news: Condvar::new(),
            drained: Condvar::new(),
            limit,
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let for_thread = Arc::clone(&queue);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || for_thread.serve(&mut output))
            .map_err(TelemetryError::Thread)?;
        Ok(Self { queue, layout })
    }

    pub(super) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Lines that the sink took.
    pub(in crate::telemetry) fn written(&self) -> u64 {
        self.queue.written.load(Relaxed)
    }

    /// Lines that were lost: the queue was full or the sink failed.
    pub(in crate::telemetry) fn dropped(&self) -> u64 {
        self.queue.dropped.load(Relaxed)
    }

    /// Opens the file anew before the next line is written.
    pub(in crate::telemetry) fn reopen(&self) {
        lock(&self.queue.state).reopen = true;
        self.queue.news.notify_one();
    }

    /// Waits until nothing is left to write, at most for `limit`; says whether that is so.
    pub(in crate::telemetry) fn drain(&self, limit: Duration) -> bool {
        self.queue.wake();
        let state = lock(&self.queue.state);
        let waited = self.queue.drained.wait_timeout_while(state, limit, |state| state.bytes > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.bytes == 0
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.queue.state).closed = true;
        self.queue.news.notify_one();
    }
}

impl Queue {
    /// Takes what is in `batch` and leaves an empty one. If there is no room, its lines are lost and counted; an empty
    /// queue has room for any batch. The thread is woken if so many bytes wait, or as many as half of what may.
    pub(super) fn push(&self, batch: &mut Batch, wake_at: usize) {
        let mut state = lock(&self.state);
        if state.bytes > 0 && state.bytes.saturating_add(batch.bytes.len()) > self.limit {
            drop(state);
            self.dropped.fetch_add(batch.lines, Relaxed);
            batch.lines = 0;
            batch.bytes.clear();
            return;
        }
        state.bytes += batch.bytes.len();
        let bytes = state.spare.pop().unwrap_or_else(|| Vec::with_capacity(BATCH_BYTES + 1024));
        let full = std::mem::replace(batch, Batch { bytes, lines: 0 });
        state.batches.push_back(full);
        let enough = state.bytes >= wake_at.min(self.limit / 2);
        drop(state);
        if enough {
            self.news.notify_one();
        }
    }

    /// Wakes the thread if something waits.
    pub(super) fn wake(&self) {
        if !lock(&self.state).batches.is_empty() {
            self.news.notify_one();
        }
    }

    /// The thread.
    fn serve(&self, output: &mut Output) {
        while let Some((batch, reopen)) = self.next() {
            if reopen {
                output.reopen();
            }
            let Some(mut batch) = batch else { continue };
            let written = output.write(&batch);
            self.written.fetch_add(written, Relaxed);
            self.dropped.fetch_add(batch.lines.saturating_sub(written), Relaxed);

            let mut state = lock(&self.state);
            state.bytes -= batch.bytes.len();
            // A line of a megabyte once must not be a buffer of a megabyte for ever.
            if state.spare.len() < SPARE_BUFFERS && batch.bytes.capacity() <= 4 * BATCH_BYTES {
                batch.bytes.clear();
                state.spare.push(batch.bytes);
            }
            if state.bytes == 0 {
                self.drained.notify_all();
            }
        }
    }

    /// What to do next: a batch, and whether to reopen before it. `None`: the end.
    fn next(&self) -> Option<(Option<Batch>, bool)> {
        let state = lock(&self.state);
        let idle = |state: &mut State| state.batches.is_empty() && !state.reopen && !state.closed;
        let mut state = self.news.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let reopen = std::mem::take(&mut state.reopen);
        let batch = state.batches.pop_front();
        (batch.is_some() || reopen).then_some((batch, reopen))
    }
}

/// Where lines are written to.
struct Output {
    sink: File,
    /// For opening it anew; `None` for standard output.
    path: Option<PathBuf>,
    /// The last line that was written is not complete.
    torn: bool,
    failing: bool,
}

impl Output {
    fn new(sink: File, path: Option<PathBuf>) -> Self {
        Self { sink, path, torn: false, failing: false }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match append_to(path) {
            Ok(sink) => {
                self.sink = sink;
                self.torn = false;
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot reopen the access log; the old file stays in use");
            }
        }
    }

    /// Writes lines; says how many got through whole. What could not be written is gone: holding it back would
    /// only make newer lines wait.
    fn write(&mut self, batch: &Batch) -> u64 {
        let lines = &*batch.bytes;
        let result = if self.torn { self.write_all(b"\n").1 } else { Ok(()) };
        let (written, result) = match result {
            Ok(()) => self.write_all(lines),
            Err(error) => (0, Err(error)),
        };
        let through = lines.get(..written).unwrap_or_default();
        if let Some(last) = through.last() {
            self.torn = *last != b'\n';
        }
        match result {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%error, "the access log cannot be written; lines are lost and counted until it can");
            }
            Err(_) => {}
        }
        if written == lines.len() { batch.lines } else { memchr::memchr_iter(b'\n', through).count() as u64 }
    }

    /// Bytes written and whether that was all.
    fn write_all(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.sink.write(rest) {
                Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody who shares our standard output made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
                Err(error) => return (done, Err(error)),
            }
        }
        (done, Ok(()))
    }
}

/// Standard output without the standard library's buffer and lock.
fn duplicate(stream: &impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}

/// Opens a file, or a named pipe: one that nobody reads must not hold up the start, only cost lines.
fn append_to(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.append(true).create(true).custom_flags(libc::O_NONBLOCK);
    match options.open(path) {
        // The pipe has no reader yet; as a reader of our own it opens all the same.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => options.read(true).open(path),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::{io::Read, os::fd::OwnedFd};

    use super::*;

    const LIMIT: usize = 256 * 1024;
    /// Only ever reached by a test that fails.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn writer(sink: File, limit: usize) -> Writer {
        Writer::start(Output::new(sink, None), Layout::of(&crate::telemetry::LogFormat::Text, "").unwrap(), limit)
            .unwrap()
    }

    fn file_writer(path: &Path) -> Writer {
        let sink = LogSink::at(path);
        Writer::open(&AccessLogOptions { sink, ..AccessLogOptions::default() }, "").unwrap()
    }

    impl Batch {
        fn of(text: &str) -> Self {
            Self { bytes: text.into(), lines: text.matches('\n').count() as u64 }
        }
    }

    fn push(writer: &Writer, text: &str) {
        let mut batch = Batch::of(text);
        writer.queue.push(&mut batch, 0);
        assert_eq!((batch.lines, batch.bytes.len()), (0, 0));
    }

    #[test]
    fn a_blocked_sink_costs_lines_and_nothing_else() {
        let (mut reader, sink) = io::pipe().unwrap();
        let writer = writer(File::from(OwnedFd::from(sink)), LIMIT);
        // Nobody reads: 64 KiB fit into the pipe, 256 KiB into the queue, the rest is lost. That all of this
        // comes to an end is the point: a caller that waited for the pipe would wait for ever.
        let sent: u64 = 10_000;
        for number in 0..sent {
            push(&writer, &format!("{number:0>99}\n"));
        }
        assert!(!writer.drain(Duration::from_millis(1)));
        let dropped = writer.dropped();
        let held = sent - dropped;
        assert!(held * 100 >= LIMIT as u64 - 100, "{held} lines held");
        assert!(held * 100 <= (LIMIT + 128 * 1024) as u64, "{held} lines held");

        // Read again: everything that was not dropped arrives, in order, and nothing more is lost.
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        assert!(writer.drain(PATIENCE));
        assert_eq!((writer.written(), writer.dropped()), (held, dropped));
        drop(writer);
        let text = reading.join().unwrap();
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers.len() as u64, held);
        assert!(numbers.is_sorted());
    }

    #[test]
    fn a_named_pipe_that_nobody_reads_costs_lines_and_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let writer = file_writer(&path);
        let line = format!("{:0>99}\n", 0);
        for _ in 0..200_000 {
            push(&writer, &line);
        }
        assert!(!writer.drain(Duration::from_millis(1)) && writer.dropped() > 0);
        // Somebody reads: what has waited arrives.
        let mut reader = File::open(&path).unwrap();
        let reading = thread::spawn(move || io::copy(&mut reader, &mut io::sink()).unwrap());
        assert!(writer.drain(PATIENCE));
        assert_eq!(writer.written() + writer.dropped(), 200_000);
        drop(writer);
        assert!(reading.join().unwrap() > 0);
    }

    #[test]
    fn a_full_disk_costs_lines_and_is_counted() {
        let writer = file_writer(Path::new("/dev/full"));
        push(&writer, "one\ntwo\n");
        push(&writer, "three\n");
        assert!(writer.drain(PATIENCE));
        assert_eq!((writer.written(), writer.dropped()), (0, 3));
    }

    #[test]
    fn a_reader_that_goes_away_costs_lines_and_is_counted() {
        let (reader, sink) = io::pipe().unwrap();
        drop(reader);
        let writer = writer(File::from(OwnedFd::from(sink)), LIMIT);
        push(&writer, "one\n");
        assert!(writer.drain(PATIENCE));
        assert_eq!((writer.written(), writer.dropped()), (0, 1));
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut output = Output::new(append_to(&path).unwrap(), Some(path.clone()));
        assert_eq!(output.write(&Batch::of("one\ntw")), 1);
        assert_eq!(output.write(&Batch::of("three\n")), 1);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntw\nthree\n");
    }

    #[test]
    fn a_renamed_file_is_replaced_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let writer = file_writer(&path);
        push(&writer, "one\n");
        assert!(writer.drain(PATIENCE));
        std::fs::rename(&path, &old).unwrap();
        push(&writer, "two\n");
        assert!(writer.drain(PATIENCE));
        writer.reopen();
        push(&writer, "three\n");
        assert!(writer.drain(PATIENCE));
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!((writer.written(), writer.dropped()), (3, 0));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let sink = LogSink::File("/nonexistent/access.log".into());
        let error = Writer::open(&AccessLogOptions { sink, ..AccessLogOptions::default() }, "").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/access.log"), "{error}");
    }

    #[test]
    fn the_thread_is_woken_when_enough_waits() {
        let writer = file_writer(Path::new("/dev/null"));
        let push = |text: &str| writer.queue.push(&mut Batch::of(text), 8);
        let waits_until_written = |lines| {
            let state = lock(&writer.queue.state);
            let waited = writer.queue.drained.wait_timeout_while(state, PATIENCE, |state| state.bytes > 0);
            assert_eq!(waited.unwrap().0.bytes, 0);
            assert_eq!(writer.written(), lines);
        };
        push("line\n");
        assert_eq!(lock(&writer.queue.state).batches.len(), 1, "5 bytes are not enough");
        push("line\n");
        waits_until_written(2);
        push("line\n");
        writer.queue.wake();
        waits_until_written(3);
    }

    #[test]
    fn buffers_come_back() {
        let writer = file_writer(Path::new("/dev/null"));
        for _ in 0..100 {
            push(&writer, "line\n");
            assert!(writer.drain(PATIENCE));
        }
        assert_eq!(lock(&writer.queue.state).spare.len(), 1);
    }
}
