//! Bytes that go from one socket to another without passing through this process: the kernel moves the pages that they
//! came in (`splice(2)`).
//!
//! That is cheaper than copying them in and out again once there are many; a pipe costs two system calls more. A thread
//! keeps a few pipes and uses no more than [`MOST`] at a time, because each is two descriptors and, while a client is
//! slow, [`SIZE`] bytes of the kernel's memory. Where there is none, bytes are copied as ever.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    task::{Context, Poll, ready},
};

use tokio::{io::Interest, net::TcpStream};

/// Bytes that a pipe takes, about: it counts pages, and sockets give parts of pages.
const SIZE: usize = 256 * 1024;
/// A pipe that the system makes smaller is of no use.
const LEAST: usize = 64 * 1024;
/// Pipes of one thread that are in use at the same time.
const MOST: usize = 64;
/// Pipes that a thread keeps when nobody uses them.
const KEPT: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    static USED: Cell<usize> = const { Cell::new(0) };
    /// The system has no `splice(2)`, or does not let us use it.
    static USELESS: Cell<bool> = const { Cell::new(false) };
}

/// A pipe that was lent to somebody, with what is in it. Goes back when it is dropped, or is closed if it is not empty.
#[derive(Debug)]
pub struct Pipe {
    /// Only taken when it is dropped.
    ends: Option<Ends>,
    filled: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// An empty pipe; `None`: there are enough, or the system has none to give.
    pub(crate) fn take() -> Option<Self> {
        if USED.get() >= MOST || USELESS.get() {
            return None;
        }
        let spare = SPARE.with_borrow_mut(Vec::pop);
        let ends = spare.or_else(|| Ends::new().ok())?;
        USED.set(USED.get() + 1);
        Some(Self { ends: Some(ends), filled: 0 })
    }

    /// Bytes in it.
    pub(crate) fn len(&self) -> usize {
        self.filled
    }

    /// Takes up to `most` bytes out of a socket, once there are any. Gives how many; 0 is the end of the stream. `None`: the
    /// system cannot do that. Only while the pipe is empty, so that "would block" means the socket.
    ///
    /// # Errors
    /// As the socket says.
    pub(crate) fn poll_fill(
        &mut self,
        socket: &TcpStream,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<usize>>> {
        let Some(ends) = &self.ends else { return Poll::Ready(None) };
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let moved = socket
                .try_io(Interest::READABLE, || splice(socket.as_raw_fd(), ends.write.as_raw_fd(), most.min(SIZE)));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => {
                    if !USELESS.replace(true) {
                        tracing::info!(%error, "long bodies are copied: the system does not move them with splice(2)");
                    }
                    return Poll::Ready(None);
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(moved) => {
                    self.filled += moved;
                    return Poll::Ready(Some(Ok(moved)));
                }
            }
        }
    }

    /// Puts everything into a socket.
    ///
    /// # Errors
    /// As the socket says.
    pub(crate) fn poll_drain(&mut self, socket: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(())) };
        while self.filled > 0 {
            ready!(socket.poll_write_ready(cx))?;
            let moved =
                socket.try_io(Interest::WRITABLE, || splice(ends.read.as_raw_fd(), socket.as_raw_fd(), self.filled));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => self.filled = self.filled.saturating_sub(moved),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        USED.set(USED.get().saturating_sub(1));
        if let Some(ends) = self.ends.take().filter(|_| self.filled == 0) {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < KEPT {
                    spare.push(ends);
                }
            });
        }
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let mut ends: [RawFd; 2] = [0; 2];
        // SAFETY: `ends` has room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both are new, and nobody else knows them.
        let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        // SAFETY: asks for another size of a pipe that is ours. It stays as it is where that is refused.
        unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, SIZE as libc::c_int) };
        // SAFETY: reads a number.
        let size = unsafe { libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ) };
        // Users who have used up their share get pipes of a page or two.
        match usize::try_from(size) {
            Ok(size) if size >= LEAST => Ok(Self { read, write }),
            _ => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }
}

/// Moves bytes; one of both is a pipe. Never waits.
fn splice(from: RawFd, to: RawFd, most: usize) -> io::Result<usize> {
    let (nowhere, flags) = (std::ptr::null_mut(), libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE);
    // SAFETY: descriptors are open as long as their owners are borrowed; no memory is touched.
    let moved = unsafe { libc::splice(from, nowhere, to, nowhere, most, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_pass_in_order_also_to_a_slow_reader() {
        let ((mut writer, from), (to, mut reader)) = (pair().await, pair().await);
        let sent: Vec<u8> = (0..5_000_000_u32).map(|n| (n / 251) as u8).collect();
        let passing = async {
            let mut passed = 0;
            loop {
                let mut pipe = Pipe::take().unwrap();
                let moved = poll_fn(|cx| pipe.poll_fill(&from, usize::MAX, cx)).await.unwrap().unwrap();
                if moved == 0 {
                    break passed;
                }
                assert_eq!(pipe.len(), moved);
                poll_fn(|cx| pipe.poll_drain(&to, cx)).await.unwrap();
                assert_eq!(pipe.len(), 0);
                passed += moved;
            }
        };
        let writing = async {
            writer.write_all(&sent).await.unwrap();
            drop(writer);
        };
        let mut received = vec![0; sent.len()];
        let reading = async {
            for piece in received.chunks_mut(100_000) {
                reader.read_exact(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (passed, (), ()) = tokio::join!(passing, writing, reading);
        assert_eq!(passed, sent.len());
        assert!(received == sent);
    }

    #[tokio::test]
    async fn they_are_few_and_only_empty_ones_are_used_again() {
        let (mut writer, from) = pair().await;
        let taken: Vec<_> = std::iter::from_fn(Pipe::take).collect();
        assert_eq!(taken.len(), MOST);
        drop(taken);
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
        writer.write_all(b"left over").await.unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(&from, 4, cx)).await.unwrap().unwrap(), 4);
        drop(pipe);
        assert_eq!((SPARE.with_borrow(Vec::len), USED.get()), (KEPT - 1, 0));
    }
}
