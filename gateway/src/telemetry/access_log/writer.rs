//! The thread that writes the access log, and the bounded queue in front of it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
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
const SPARE_BUFFERS: usize = 64;

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
    pub(in crate::telemetry) fn open(options: &AccessLogOptions) -> Result<Self, TelemetryError> {
        let (path, sink) = match &options.sink {
            LogSink::Stdout => (None, io::stdout().as_fd().try_clone_to_owned().map(File::from)),
            LogSink::File(path) => (Some(path.clone()), append_to(path)),
        };
        let sink = sink.map_err(|source| TelemetryError::AccessLog {
            path: path.as_deref().unwrap_or(Path::new("/dev/stdout")).display().to_string(),
            source,
        })?;
        Self::start(Output::new(sink, path), Layout::of(options.format), options.queue_bytes)
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

    pub(super) fn layout(&self) -> Layout {
        self.layout
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
    /// Takes what is in `batch` and leaves an empty one. If there is no room, its lines are lost and counted.
    pub(super) fn push(&self, batch: &mut Batch) {
        let mut state = lock(&self.state);
        if state.bytes + batch.bytes.len() > self.limit {
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
        drop(state);
        self.news.notify_one();
    }

    /// The thread.
    fn serve(&self, output: &mut Output) {
        while let Some((batch, reopen)) = self.next() {
            if reopen {
                output.reopen();
            }
            let Some(mut batch) = batch else { continue };
            let written = output.write(&batch.bytes);
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
    fn write(&mut self, lines: &[u8]) -> u64 {
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
        memchr::memchr_iter(b'\n', through).count() as u64
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

fn append_to(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}
