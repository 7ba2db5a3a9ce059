//! Two connections that have become one: bytes are copied both ways until both sides have ended.
//!
//! Knows nothing of what the bytes mean; WebSockets use it, and so can everything else that is not HTTP. There is no
//! task and no buffer per direction: what one side sends is read onto the stack and written to the other side at once.
//! Only what that side does not take is kept, and nothing more is read before it has gone. So an idle tunnel costs its
//! two sockets, and a slow one at most [`PIECE`] for each direction.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::Stream;

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// One end of a tunnel.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) stream: Stream,
    /// Bytes of it that were read before the tunnel began.
    pub(crate) read_ahead: Bytes,
}

/// How a tunnel ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Both sides have said that they are done.
    Closed,
    /// The client's connection broke.
    Client(io::Error),
    /// The upstream's connection broke.
    Upstream(io::Error),
    /// One side is done and the other was silent for too long.
    HalfClosed,
    /// A plugin on the way closed it, or failed.
    Filtered,
}

/// A client and an upstream that talk to each other.
#[derive(Debug)]
pub(crate) struct Tunnel {
    client: Stream,
    upstream: Stream,
    up: Flow,
    down: Flow,
    /// Exists only while one side is done; belongs to the number of bytes that had been copied when it was set.
    silence: Option<(u64, Pin<Box<Sleep>>)>,
}

impl Tunnel {
    pub(crate) fn new(client: End, upstream: End) -> Self {
        Self {
            up: Flow::new(client.read_ahead),
            down: Flow::new(upstream.read_ahead),
            client: client.stream,
            upstream: upstream.stream,
            silence: None,
        }
    }

    /// Bytes that the client has sent so far.
    pub(crate) fn received(&self) -> u64 {
        self.up.bytes
    }

    /// Bytes that the upstream has sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.down.bytes
    }

    /// Copies until both sides have ended or one is broken. The end of one side is passed on, and the other may go on
    /// sending; but then it may not be silent for longer than `half_closed`. Dropping the future loses nothing: another
    /// call goes on where it was.
    pub(crate) async fn run(&mut self, half_closed: Duration) -> Ended {
        poll_fn(|cx| {
            let up = match self.up.poll(&mut self.client, &mut self.upstream, cx) {
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(Ended::Client(error)),
                Poll::Ready(Err(Broken::Target(error))) => return Poll::Ready(Ended::Upstream(error)),
                other => other.is_ready(),
            };
            let down = match self.down.poll(&mut self.upstream, &mut self.client, cx) {
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(Ended::Upstream(error)),
                Poll::Ready(Err(Broken::Target(error))) => return Poll::Ready(Ended::Client(error)),
                other => other.is_ready(),
            };
            if up && down {
                return Poll::Ready(Ended::Closed);
            }
            if !up && !down {
                return Poll::Pending;
            }
            let bytes = self.up.bytes + self.down.bytes;
            let (seen, timer) = self.silence.get_or_insert_with(|| (bytes, Box::pin(tokio::time::sleep(half_closed))));
            if *seen != bytes {
                *seen = bytes;
                timer.as_mut().reset(Instant::now() + half_closed);
            }
            timer.as_mut().poll(cx).map(|()| Ended::HalfClosed)
        })
        .await
    }
}

/// Which side of a direction is broken.
enum Broken {
    Source(io::Error),
    Target(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The source has ended; the target is to be told.
    Ending,
    Ended,
}

/// One direction.
#[derive(Debug)]
struct Flow {
    /// Read from the source and not yet taken by the target.
    waiting: Bytes,
    phase: Phase,
    /// Whether the target may hold back what was written to it (TLS does).
    unflushed: bool,
    /// Read from the source so far.
    bytes: u64,
}

impl Flow {
    fn new(read_ahead: Bytes) -> Self {
        Self { bytes: read_ahead.len() as u64, waiting: read_ahead, phase: Phase::Open, unflushed: false }
    }

    /// Copies what can be copied now. Ready: the source has ended, and the target knows it.
    fn poll(&mut self, source: &mut Stream, target: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut target = Pin::new(target);
        loop {
            while !self.waiting.is_empty() {
                let written = ready!(target.as_mut().poll_write(cx, &self.waiting)).map_err(Broken::Target)?;
                if written == 0 {
                    return Poll::Ready(Err(Broken::Target(io::ErrorKind::WriteZero.into())));
                }
                self.waiting.advance(written);
                self.unflushed = true;
            }
            // It may be part of a large buffer.
            self.waiting = Bytes::new();
            if self.phase == Phase::Ending {
                match ready!(target.as_mut().poll_shutdown(cx)) {
                    // The target has closed its side meanwhile; it will tell by itself whether that was in order.
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                    other => other.map_err(Broken::Target)?,
                }
                self.phase = Phase::Ended;
            }
            if self.phase == Phase::Ended {
                return Poll::Ready(Ok(()));
            }
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *source).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => self.phase = Phase::Ending,
                Poll::Ready(Ok(())) => {
                    let piece = read.filled();
                    self.bytes += piece.len() as u64;
                    let written = match target.as_mut().poll_write(cx, piece) {
                        Poll::Ready(Ok(written)) => written,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Target(error))),
                        Poll::Pending => 0,
                    };
                    self.unflushed |= written > 0;
                    self.waiting = Bytes::copy_from_slice(piece.get(written..).unwrap_or_default());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Source(error))),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(target.as_mut().poll_flush(cx)).map_err(Broken::Target)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Two connected sockets.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, two) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), two.unwrap().0)
    }

    /// A client, a service, and the tunnel between them.
    async fn tunnel(read_ahead: [&'static [u8]; 2]) -> (TcpStream, TcpStream, Tunnel) {
        let ((client, inside), (service, outside)) = (pair().await, pair().await);
        let end = |stream, read: &'static [u8]| End { stream: Stream::Plain(stream), read_ahead: read.into() };
        (client, service, Tunnel::new(end(inside, read_ahead[0]), end(outside, read_ahead[1])))
    }

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    async fn talk(mut socket: TcpStream, say: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        let (mut reader, mut writer) = socket.split();
        let saying = async {
            writer.write_all(say).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(saying, reader.read_to_end(&mut heard));
        read.unwrap();
        heard
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn what_one_says_the_other_hears(up in 0_usize..3_000_000, down in 0_usize..3_000_000) {
            let bytes = |len: usize| (0..len).map(|at| (at % 251) as u8).collect::<Vec<_>>();
            let (up, down) = (bytes(up), bytes(down));
            block_on(async {
                let (client, service, mut tunnel) = tunnel([b"first", b"second"]).await;
                let (ended, heard_down, heard_up) =
                    tokio::join!(tunnel.run(Duration::from_secs(60)), talk(client, &up), talk(service, &down));
                assert!(matches!(ended, Ended::Closed), "{ended:?}");
                assert!(heard_up == [b"first".as_slice(), &up].concat());
                assert!(heard_down == [b"second".as_slice(), &down].concat());
                assert_eq!((tunnel.received(), tunnel.sent()), (5 + up.len() as u64, 6 + down.len() as u64));
            });
        }
    }

    #[test]
    fn a_silent_rest_ends_also_when_somebody_looks_in_between() {
        block_on(async {
            let (mut client, _service, mut tunnel) = tunnel([b"", b""]).await;
            client.shutdown().await.unwrap();
            let look = Duration::from_millis(20);
            let ended = async {
                loop {
                    if let Ok(ended) = tokio::time::timeout(look, tunnel.run(3 * look)).await {
                        return ended;
                    }
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
            assert!(matches!(ended, Ended::HalfClosed), "{ended:?}");
        });
    }

    #[test]
    fn who_goes_on_talking_is_not_silent() {
        block_on(async {
            let (mut client, mut service, mut tunnel) = tunnel([b"", b""]).await;
            client.shutdown().await.unwrap();
            let talking = async {
                // Longer than the limit in all, and never silent for so long.
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    service.write_all(b"x").await.unwrap();
                }
                drop(service);
            };
            let (ended, ()) = tokio::join!(tunnel.run(Duration::from_millis(400)), talking);
            assert!(matches!(ended, Ended::Closed), "{ended:?}");
            assert_eq!(tunnel.sent(), 10);
        });
    }
}
