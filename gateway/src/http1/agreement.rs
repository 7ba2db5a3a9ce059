//! Whether hyper ends every message exactly where we do: another server that is read by many eyes.
//!
//! What is read here goes on to a hyper server with our limits. After each byte both must have seen the same number of
//! complete requests, and hyper must have found nothing to refuse.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use heads::HeaderList;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    rt::ReadBufCursor,
    server::conn::http1,
    service::service_fn,
};

use super::{
    Malformed,
    body::{Decoder, Piece},
    limits,
    request::{Head, Reader, Refusal},
};

/// How bytes were judged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) messages: u64,
    /// How many bytes were taken, if nothing was refused.
    pub(crate) passed: usize,
    pub(crate) refusal: Option<Refusal>,
}

/// Reads one message after the other.
#[derive(Default)]
struct Messages {
    head: Reader,
    body: Option<Decoder>,
    ended: u64,
}

impl Messages {
    /// Takes what it can. `None`: more is needed.
    fn step(&mut self, buffer: &mut BytesMut) -> Option<Result<(), Refusal>> {
        let body = match &mut self.body {
            None => match self.head.take(buffer, &mut HeaderList::new()) {
                Ok(None) => return None,
                Ok(Some(head)) => self.body.insert(Decoder::new(head.framing)),
                Err(refusal) => return Some(Err(refusal)),
            },
            Some(body) => match body.next(buffer) {
                Ok(Piece::Missing) => return None,
                Ok(_) => body,
                Err(Malformed(why)) => return Some(Err(Refusal::Malformed(why))),
            },
        };
        if body.is_ended() {
            self.body = None;
            self.ended += 1;
        }
        Some(Ok(()))
    }
}

/// Judges bytes that come in pieces of at most `piece`, and gives what is taken to `pass`, each time with the number of
/// messages that have ended.
pub(crate) fn judge(bytes: &[u8], piece: usize, mut pass: impl FnMut(&[u8], u64)) -> Judged {
    let (mut messages, mut buffer) = (Messages::default(), BytesMut::new());
    let mut passed = 0;
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            let step = messages.step(&mut buffer);
            if let Some(Err(refusal)) = step {
                return Judged { messages: messages.ended, passed: 0, refusal: Some(refusal) };
            }
            let taken = before - buffer.len();
            pass(&bytes[passed..passed + taken], messages.ended);
            passed += taken;
            if step.is_none() {
                break;
            }
        }
    }
    Judged { messages: messages.ended, passed, refusal: None }
}

/// The heads of the requests up to the first that is refused or not complete.
pub(crate) fn heads(bytes: &[u8]) -> Vec<Head> {
    let (mut reader, mut buffer, mut heads) = (Reader::default(), BytesMut::from(bytes), Vec::new());
    while let Ok(Some(head)) = reader.take(&mut buffer, &mut HeaderList::new()) {
        let mut body = Decoder::new(head.framing);
        heads.push(head);
        while !body.is_ended() {
            if matches!(body.next(&mut buffer), Ok(Piece::Missing) | Err(_)) {
                return heads;
            }
        }
    }
    heads
}

/// Compares.
///
/// # Panics
/// The two do not agree, or we judge in another way when the bytes come in other pieces.
pub(crate) fn check(bytes: &[u8]) {
    let link = Rc::new(RefCell::new(Link::default()));
    let serving = Rc::clone(&link);
    let service = service_fn(move |request: Request<Incoming>| serve(Rc::clone(&serving), request));
    let mut server = pin!(
        http1::Builder::new()
            .max_buf_size(2 * limits::MAX_HEAD_BYTES)
            .max_header_size(limits::MAX_HEAD_BYTES)
            .half_close(false)
            .header_read_timeout(None)
            .serve_connection(Wire(Rc::clone(&link)), service)
    );
    let mut over = false;
    let judged = judge(bytes, 1, |passed, messages| {
        if over || passed.is_empty() {
            return;
        }
        link.borrow_mut().inbox.extend_from_slice(passed);
        // It rests when it has read everything and two looks in a row change nothing.
        let mut rest = 0;
        while rest < 2 {
            let before = link.borrow().progress();
            if let Poll::Ready(ended) = server.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                over = true;
                assert!(ended.is_ok(), "hyper refuses what we take: {ended:?}");
                break;
            }
            rest = if link.borrow().progress() == before { rest + 1 } else { 0 };
        }
        let link = link.borrow();
        assert!(!over || link.closes, "hyper has ended the connection");
        if !over {
            assert_eq!(link.complete, messages, "hyper's messages and ours");
        }
    });
    for piece in [2, 3, 7, bytes.len().max(1)] {
        assert_eq!(judge(bytes, piece, |_, _| {}), judged, "in pieces of {piece} bytes");
    }
}

/// What goes to and fro between the test and hyper.
#[derive(Default)]
struct Link {
    inbox: Vec<u8>,
    read: usize,
    written: usize,
    begun: u64,
    complete: u64,
    /// A request that ends its connection has come.
    closes: bool,
}

impl Link {
    fn progress(&self) -> (usize, usize, u64, u64) {
        (self.read, self.written, self.begun, self.complete)
    }
}

async fn serve(link: Rc<RefCell<Link>>, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    {
        let mut link = link.borrow_mut();
        link.begun += 1;
        let named =
            |value: &http::HeaderValue| value.as_bytes().to_ascii_lowercase().windows(5).any(|at| at == b"close");
        link.closes |=
            request.version() < Version::HTTP_11 || request.headers().get_all(header::CONNECTION).iter().any(named);
    }
    let whole = request.into_body().collect().await;
    assert!(whole.is_ok(), "hyper refuses a body that we take: {whole:?}");
    link.borrow_mut().complete += 1;
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::NOT_FOUND;
    Ok(response)
}

struct Wire(Rc<RefCell<Link>>);

impl hyper::rt::Read for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut link = self.0.borrow_mut();
        let fits = link.inbox.len().min(buffer.remaining());
        if fits == 0 {
            // Whoever waits is polled again anyway.
            return Poll::Pending;
        }
        buffer.put_slice(&link.inbox[..fits]);
        link.inbox.drain(..fits);
        link.read += fits;
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().written += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
