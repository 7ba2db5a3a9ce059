//! Reading what a connection has to say into as little memory as it takes.
//!
//! How much there is to read is known only when it has been read. So all HTTP/1 connections of a thread read into one large
//! room: what is little is copied out of it, and what is much keeps the part of the room that it is in. One read takes a
//! head and a body of [`MOST`] bytes behind it, and a connection that has nothing to say holds nothing.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes that one read takes at most: a usual body of 64 KiB together with its head.
pub(crate) const MOST: usize = 72 * 1024;
/// So many bytes are copied rather than that they keep the room from being used again.
const LITTLE: usize = 4 * 1024;

thread_local! {
    static ROOM: Cell<BytesMut> = Cell::default();
}

/// Reads up to `most` bytes behind what is in `inbox`. Gives how many came; 0 is the end of the stream.
///
/// # Errors
/// As the stream says.
pub(crate) fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    inbox: &mut BytesMut,
    most: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut room = ROOM.take();
    let most = most.min(MOST);
    if room.capacity() < most {
        // It is the same room if nobody keeps a part of it any more.
        room.reserve(MOST);
    }
    let polled = poll_fill(stream, &mut room, most, cx);
    match polled {
        Poll::Ready(Ok(read)) if read > LITTLE && inbox.is_empty() => *inbox = room.split(),
        Poll::Ready(Ok(_)) => {
            inbox.extend_from_slice(&room);
            room.clear();
        }
        // It may be the end of a room.
        Poll::Pending if inbox.is_empty() => *inbox = BytesMut::new(),
        Poll::Ready(Err(_)) | Poll::Pending => {}
    }
    ROOM.set(room);
    polled
}

/// Reads into an empty room.
fn poll_fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    room: &mut BytesMut,
    most: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    // SAFETY: `ReadBuf` never de-initialises bytes.
    let spare = unsafe { room.chunk_mut().as_uninit_slice_mut() };
    let most = most.min(spare.len());
    let mut target = ReadBuf::uninit(spare.get_mut(..most).unwrap_or_default());
    ready!(Pin::new(stream).poll_read(cx, &mut target))?;
    let read = target.filled().len();
    // SAFETY: `ReadBuf` says that so many bytes were filled.
    unsafe { room.advance_mut(read) };
    Poll::Ready(Ok(read))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    fn read(mut from: &[u8], inbox: &mut BytesMut, most: usize) -> usize {
        match poll_read(&mut from, inbox, most, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read.unwrap(),
            Poll::Pending => panic!("a slice is always ready"),
        }
    }

    proptest! {
        #[test]
        fn everybody_gets_what_is_theirs(pieces in prop::collection::vec((0_usize..4, 0_usize..100_000), 1..40)) {
            let mut inboxes: [BytesMut; 4] = Default::default();
            let mut expected: [Vec<u8>; 4] = Default::default();
            for (turn, (whose, length)) in pieces.into_iter().enumerate() {
                let bytes = vec![turn as u8; length];
                let (inbox, expected) = (&mut inboxes[whose], &mut expected[whose]);
                if inbox.len() > 100_000 {
                    // Taken, as a decoder does it.
                    let taken = inbox.split_to(70_000).freeze();
                    prop_assert!(taken == expected[..70_000]);
                    expected.drain(..70_000);
                }
                let took = read(&bytes, inbox, MOST);
                prop_assert_eq!(took, length.min(MOST));
                expected.extend_from_slice(&bytes[..took]);
            }
            for (inbox, expected) in inboxes.iter().zip(&expected) {
                prop_assert!(inbox[..] == expected[..]);
            }
        }
    }

    #[test]
    fn what_is_little_takes_little_and_what_is_much_is_not_copied() {
        let (mut little, mut much) = (BytesMut::new(), BytesMut::new());
        read(&[1; 300], &mut little, MOST);
        assert!(little.capacity() < 1024, "{}", little.capacity());
        read(&[2; 60_000], &mut much, MOST);
        // A room that is kept in part still has place behind it.
        let mut rest = BytesMut::new();
        read(&[3; 8_000], &mut rest, 8_000);
        assert_eq!(much.as_ptr().wrapping_add(60_000), rest.as_ptr());
    }

    #[test]
    fn no_more_is_read_than_is_asked_for() {
        let mut inbox = BytesMut::new();
        assert_eq!(read(&[1; 300], &mut inbox, 100), 100);
        assert_eq!(read(&[1; 200_000], &mut inbox, usize::MAX), MOST);
    }
}
