//! Messages over a Unix socket that carry descriptors: a socket goes to another process with everything that its queue
//! holds, because both then have the same one.
//!
//! A message is its length, the number of its descriptors, JSON of that length, and the descriptors, a few with a byte
//! each (the kernel wants one to attach them to).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
};

/// Longest JSON of a message.
const MAX_BYTES: u32 = 1 << 20;
/// Most descriptors of a message.
const MAX_DESCRIPTORS: u32 = 1 << 16;
/// Descriptors that go with one byte; the kernel takes at most 253.
const AT_ONCE: usize = 128;

/// Sends a message.
pub(crate) async fn send(
    stream: &mut UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let too_large = || io::Error::other("a message between two gateways is too large");
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= MAX_BYTES).ok_or_else(too_large)?;
    let count =
        u32::try_from(descriptors.len()).ok().filter(|count| *count <= MAX_DESCRIPTORS).ok_or_else(too_large)?;
    stream.write_u32(length).await?;
    stream.write_u32(count).await?;
    stream.write_all(&text).await?;
    for some in descriptors.chunks(AT_ONCE) {
        let attach = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(some));
            Ok(rustix::net::sendmsg(&*stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?)
        };
        stream.async_io(Interest::WRITABLE, attach).await?;
    }
    Ok(())
}

/// Receives a message; [`io::ErrorKind::UnexpectedEof`] if the other side has ended instead.
pub(crate) async fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let (length, count) = (stream.read_u32().await?, stream.read_u32().await?);
    if length > MAX_BYTES || count > MAX_DESCRIPTORS {
        return Err(io::Error::other("not a message of a gateway"));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text).await?;
    let mut descriptors = Vec::new();
    while descriptors.len() < count as usize {
        let detach = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let received = rustix::net::recvmsg(
                &*stream,
                &mut [IoSliceMut::new(&mut byte)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            if received.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let rights = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            });
            Ok(rights.flatten().collect::<Vec<_>>())
        };
        let some = stream.async_io(Interest::READABLE, detach).await?;
        if some.len() != AT_ONCE.min(count as usize - descriptors.len()) {
            return Err(io::Error::other(
                "descriptors were lost on the way; check the limit of open files (ulimit -n)",
            ));
        }
        descriptors.extend(some);
    }
    Ok((serde_json::from_slice(&text)?, descriptors))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn sockets_arrive_with_what_is_in_their_queues() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // More than go at once.
        let descriptors = vec![listener.as_fd(); 2 * AT_ONCE + 3];
        let sent = send(&mut one, &"the queue", &descriptors);
        let (sent, received) = tokio::join!(sent, receive::<String>(&mut other));
        sent.unwrap();
        let (message, descriptors) = received.unwrap();
        drop(listener);
        assert_eq!((message.as_str(), descriptors.len()), ("the queue", 2 * AT_ONCE + 3));
        let last = std::net::TcpListener::from(descriptors.into_iter().next_back().unwrap());
        assert_eq!(last.accept().unwrap().1, client.local_addr().unwrap());
        // The next message is where it should be.
        send(&mut other, &7, &[]).await.unwrap();
        assert_eq!(receive::<u32>(&mut one).await.unwrap().0, 7);
        drop(other);
        assert_eq!(receive::<u32>(&mut one).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 2, 0, 0, 0, 0, b'{', b'x'], &[0, 0, 0, 1, 0, 0, 0, 1, b'1', 0]]
        {
            let (mut one, mut other) = UnixStream::pair().unwrap();
            one.write_all(bytes).await.unwrap();
            drop(one);
            assert!(receive::<u32>(&mut other).await.is_err(), "{bytes:?}");
        }
    }
}
