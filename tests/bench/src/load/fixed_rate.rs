//! Requests at fixed times, whether or not earlier ones are answered: the only honest way to ask for latency. A request
//! that has to wait for a free connection has waited since its time came.

use std::{
    cell::RefCell,
    collections::VecDeque,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, unix::AsyncFd},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::TlsConnector;

use super::{Client, wrk::Request};
use crate::peers::HOST;

/// Sends for a second and returns the latencies in microseconds, sorted.
pub(crate) fn run(
    client: &Client,
    request: &Request,
    tls: Option<&TlsConnector>,
    port: u16,
    rate: f64,
) -> anyhow::Result<Vec<f64>> {
    client.run(async {
        let waiting = Rc::new(RefCell::new(Waiting::default()));
        let mut tasks = tokio::task::JoinSet::new();
        let mut told = Vec::new();
        for number in 0..usize::from(request.connections) {
            let socket = TcpStream::connect(("127.0.0.1", port)).await.context("cannot connect")?;
            socket.set_nodelay(true)?;
            let (send, receive) = mpsc::unbounded_channel();
            told.push(send);
            let connection = Connection {
                number,
                receive,
                waiting: waiting.clone(),
                request: bytes(request),
                answer: request.answer,
            };
            match tls {
                Some(tls) => {
                    let stream = tls.connect(HOST.try_into()?, socket).await.context("TLS")?;
                    tasks.spawn_local(connection.serve(stream));
                }
                None => {
                    tasks.spawn_local(connection.serve(socket));
                }
            }
        }
        dispatch(&waiting, &told, rate).await?;
        drop(told);
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let mut latencies = std::mem::take(&mut waiting.borrow_mut().latencies);
        latencies.sort_by(f64::total_cmp);
        Ok(latencies)
    })
}

/// Who waits for whom.
#[derive(Default)]
struct Waiting {
    connections: Vec<usize>,
    requests: VecDeque<Instant>,
    latencies: Vec<f64>,
}

/// Gives every request, when its time has come, to a connection that is free.
async fn dispatch(
    waiting: &RefCell<Waiting>,
    told: &[mpsc::UnboundedSender<Instant>],
    rate: f64,
) -> anyhow::Result<()> {
    waiting.borrow_mut().connections = (0..told.len()).collect();
    let period = Duration::from_secs_f64(1.0 / rate);
    let mut timer = Timer::every(period)?;
    // The first requests wake everything up, and count as any other.
    let start = Instant::now();
    let mut sent = 0_u32;
    while start.elapsed() < Duration::from_secs(1) {
        timer.wait().await?;
        let due = start.elapsed().as_nanos() / period.as_nanos();
        while u128::from(sent) < due {
            sent += 1;
            let mut waiting = waiting.borrow_mut();
            match waiting.connections.pop() {
                Some(connection) => told[connection].send(start + period * sent)?,
                None => waiting.requests.push_back(start + period * sent),
            }
        }
    }
    Ok(())
}

struct Connection {
    number: usize,
    receive: mpsc::UnboundedReceiver<Instant>,
    waiting: Rc<RefCell<Waiting>>,
    request: Vec<u8>,
    answer: usize,
}

impl Connection {
    async fn serve(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<()> {
        let mut buffer = Vec::with_capacity(128 << 10);
        while let Some(mut time) = self.receive.recv().await {
            loop {
                stream.write_all(&self.request).await?;
                stream.flush().await?;
                read(&mut stream, &mut buffer, self.answer).await?;
                let mut waiting = self.waiting.borrow_mut();
                waiting.latencies.push(time.elapsed().as_nanos() as f64 / 1e3);
                match waiting.requests.pop_front() {
                    Some(next) => time = next,
                    None => {
                        waiting.connections.push(self.number);
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One answer, which has a length.
async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, answer: usize) -> anyhow::Result<()> {
    buffer.clear();
    let end = loop {
        ensure!(stream.read_buf(buffer).await? > 0, "closed without an answer");
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
    };
    ensure!(buffer.starts_with(b"HTTP/1.1 200 "), "answered {}", String::from_utf8_lossy(&buffer[..end]));
    let mut got = buffer.len() - end;
    while got < answer {
        buffer.clear();
        let piece = stream.read_buf(buffer).await?;
        ensure!(piece > 0, "closed within the answer");
        got += piece;
    }
    ensure!(got == answer, "an answer of {got} bytes");
    Ok(())
}

fn bytes(request: &Request) -> Vec<u8> {
    let method = if request.body > 0 { "POST" } else { "GET" };
    let mut text = format!("{method} {} HTTP/1.1\r\nhost: {HOST}\r\n", request.path);
    for (name, value) in request.headers {
        text += &format!("{name}: {value}\r\n");
    }
    if request.body > 0 {
        text += &format!("content-length: {}\r\n", request.body);
    }
    text += "\r\n";
    text.into_bytes().into_iter().chain(std::iter::repeat_n(b'x', request.body)).collect()
}

/// A timer with nanoseconds; tokio's has milliseconds.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    fn every(period: Duration) -> anyhow::Result<Timer> {
        // SAFETY: a plain system call without pointers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        ensure!(fd >= 0, "timerfd_create: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let period = libc::timespec { tv_sec: period.as_secs() as i64, tv_nsec: i64::from(period.subsec_nanos()) };
        let times = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: `times` outlives the call, and the old value is not asked for.
        let set = unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &raw const times, std::ptr::null_mut()) };
        ensure!(set == 0, "timerfd_settime: {}", std::io::Error::last_os_error());
        // SAFETY: an OwnedFd stays open, and the same, for as long as it is there.
        Ok(Timer(unsafe { AsyncFd::register(fd) }?))
    }

    async fn wait(&mut self) -> std::io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        let mut count = [0_u8; 8];
        // SAFETY: the descriptor is open, and the kernel writes the eight bytes of the buffer at most.
        let read = unsafe { libc::read(ready.get_ref().as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        if read < 0 {
            ready.clear_ready();
        }
        Ok(())
    }
}
