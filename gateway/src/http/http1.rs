//! A client's HTTP/1 connection: one request after the other, each answered before the next head is read.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use heads::{ResponseHead, header};
use http::{Method, StatusCode, Version};
use http_body::Body as _;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::{
    body::{Incoming, ResponseBody},
    connection::Connection,
    request::Arrived,
    service::{self, Refused},
    wire::{Wire, WireBody},
};
use crate::{
    http1::{
        outbox::Outbox,
        request::{Head, Reader, Refusal},
        sending::{self, Sending, Sent},
    },
    net::Stream,
};

/// The connection as the loop has it.
struct Client {
    wire: Rc<Wire>,
    outbox: Outbox,
    reader: Reader,
    connection: Rc<Connection>,
}

/// What comes next on a connection.
enum Next {
    Request(Head),
    /// A head that is refused, and what stands in for it.
    Refused(Head, Refused),
    /// Nothing.
    End,
}

/// What of a request decides how its answer is written.
#[derive(Clone, Copy)]
struct Asked {
    is_head: bool,
    version: Version,
    /// The client understands trailers.
    trailers: bool,
    /// It wants to go on with this connection.
    keep_alive: bool,
}

/// Reads at a time of what a client still sends that nobody wants.
const DISCARDED_READS: usize = 16;

/// Serves requests until the connection ends. Gives its socket, and what was read of it, if it goes on without HTTP:
/// [`Connection::switch`] knows how.
pub(super) async fn serve(stream: Stream, prefix: Bytes, connection: Rc<Connection>) -> Option<(Stream, Bytes)> {
    let wire = Wire::new(stream, &prefix);
    drop(prefix);
    if !wire.incoming.borrow().inbox.is_empty() {
        connection.activity.head_is(true);
    }
    let mut client = Client { wire, outbox: Outbox::default(), reader: Reader::default(), connection };
    loop {
        let (head, refused) = match poll_fn(|cx| client.poll_next(cx)).await {
            Next::Request(head) => (head, None),
            Next::Refused(head, refused) => (head, Some(refused)),
            Next::End => break,
        };
        let asked = Asked {
            is_head: head.method == Method::HEAD,
            version: head.version,
            trailers: head.headers.get(&header::TE).is_some_and(says_trailers),
            keep_alive: head.keep_alive && refused.is_none(),
        };
        let (arrived, body) = client.begin(head);
        let (head, body) = {
            let mut serving = pin!(service::serve(Rc::clone(&client.connection), arrived, body, refused));
            poll_fn(|cx| match serving.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(answer.ok()),
                // Whoever is gone does not want it any more.
                Poll::Pending => client.wire.poll_gone(cx).map(|()| None),
            })
            .await?
        };
        let status = head.status;
        let (mut sending, keep) = client.answer(head, body, asked);
        poll_fn(|cx| client.poll_respond(&mut sending, cx)).await?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Rc::try_unwrap(client.wire).ok().map(Wire::into_stream);
        }
        if !poll_fn(|cx| Poll::Ready(client.finish(cx))).await || !keep {
            break;
        }
    }
    client.say_goodbye().await;
    None
}

impl Client {
    /// Waits for the next head.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let incoming = &mut *self.wire.incoming.borrow_mut();
        let activity = &self.connection.activity;
        loop {
            if !incoming.inbox.is_empty() {
                let mut headers = self.connection.worker.header_lists.take();
                match self.reader.take(&mut incoming.inbox, &mut headers) {
                    Ok(Some(head)) => {
                        activity.head_is(false);
                        return Poll::Ready(Next::Request(head));
                    }
                    Ok(None) => {
                        self.connection.worker.header_lists.put(headers);
                        // What came before its turn has time from now on.
                        if !incoming.inbox.is_empty() {
                            activity.head_is(true);
                        }
                    }
                    Err(refusal) => {
                        return Poll::Ready(refuse(&self.reader, &incoming.inbox, refusal, &self.connection));
                    }
                }
            }
            if activity.is_head_late() {
                return Poll::Ready(refuse(&self.reader, &incoming.inbox, Refusal::HeadTimeout, &self.connection));
            }
            // The rest of a head that would be refused anyway: nobody keeps more of it.
            if !incoming.inbox.is_empty() && self.connection.sheds_requests() {
                return Poll::Ready(refuse(&self.reader, &incoming.inbox, Refusal::Overload, &self.connection));
            }
            if incoming.inbox.is_empty() && self.connection.draining.get() {
                return Poll::Ready(Next::End);
            }
            match incoming.poll_read(&mut self.wire.stream.borrow_mut(), usize::MAX, cx) {
                Poll::Ready(Ok(1..)) => activity.head_is(true),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::End),
                Poll::Pending => {
                    if incoming.inbox.is_empty() {
                        // Thousands of connections are quiet; none of them needs it.
                        self.reader.shrink();
                        self.outbox.release();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// The request as `service` wants it.
    fn begin(&mut self, head: Head) -> (Arrived, Incoming) {
        let Head { method, uri, version, headers, framing, expects_continue, .. } = head;
        let has_body = {
            let mut incoming = self.wire.incoming.borrow_mut();
            incoming.begin(framing, expects_continue);
            !incoming.is_whole()
        };
        let body =
            if has_body { Incoming::Http1(WireBody::new(&self.wire, &self.connection)) } else { Incoming::Empty };
        (Arrived { method, uri, version, headers }, body)
    }

    /// Puts the head of an answer into the outbox. Gives what is to follow, and whether the connection goes on.
    fn answer(
        &mut self,
        head: ResponseHead,
        body: ResponseBody,
        asked: Asked,
    ) -> (Option<Sending<ResponseBody>>, bool) {
        let (framing, keep) = self.put_head(&head, &body, asked);
        let announced = if asked.trailers && framing == Some(sending::Framing::Chunked) {
            sending::announced(&head.headers)
        } else {
            Vec::new()
        };
        self.connection.worker.header_lists.put(head.headers);
        let plain = self.wire.stream.borrow().plain().is_some();
        (framing.map(|framing| Sending::new(body, framing, announced, plain)), keep)
    }

    /// Writes an answer. `None`: the connection is broken.
    fn poll_respond(&mut self, sending: &mut Option<Sending<ResponseBody>>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        loop {
            let mut waits = false;
            if let Some(body) = sending {
                match body.poll(&mut self.outbox, cx) {
                    Poll::Ready(Ok(Sent::All)) => *sending = None,
                    Poll::Ready(Ok(Sent::Full)) => {}
                    // It must not look complete.
                    Poll::Ready(Err(_)) => return Poll::Ready(None),
                    Poll::Pending => waits = true,
                }
            }
            let flushed = self.outbox.poll_flush(&mut *self.wire.stream.borrow_mut(), cx);
            self.connection.activity.wrote(flushed.is_ready());
            if ready!(flushed).is_err() {
                return Poll::Ready(None);
            }
            if sending.is_none() {
                return Poll::Ready(Some(()));
            }
            if waits {
                return self.wire.poll_gone(cx).map(|()| None);
            }
        }
    }

    /// The answer has gone. Gives whether the next head is what comes next.
    fn finish(&self, cx: &mut Context<'_>) -> bool {
        self.wire.incoming.borrow_mut().finish(&mut self.wire.stream.borrow_mut(), cx)
    }

    /// Writes the lines of the head. Gives how the body is framed, if there is one, and whether the connection goes on
    /// behind it.
    fn put_head(&mut self, head: &ResponseHead, body: &ResponseBody, asked: Asked) -> (Option<sending::Framing>, bool) {
        let out = &mut self.outbox;
        let http10 = asked.version < Version::HTTP_11;
        out.put(if http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        out.put(head.status.as_str().as_bytes());
        out.put(b" ");
        out.put(head.status.canonical_reason().unwrap_or("Unknown").as_bytes());
        out.put(b"\r\n");
        let (mut keep, mut length, mut dated, mut connection) = (asked.keep_alive, None, false, false);
        for (name, value) in &head.headers {
            match name.as_str() {
                "connection" => {
                    connection = true;
                    keep &= !value.as_bytes().eq_ignore_ascii_case(b"close");
                }
                "date" => dated = true,
                // Said below, so that it is said once.
                "content-length" => {
                    length = value.to_str().ok().and_then(|length| length.parse().ok());
                    continue;
                }
                "transfer-encoding" => continue,
                _ => {}
            }
            out.put_field(name, value);
        }
        let has_body = !asked.is_head
            && !matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS
            );
        let framing = match (has_body, length.or_else(|| body.size_hint().exact().filter(|_| has_body))) {
            (false, announced) => {
                // What a GET would get; a 204 has no length.
                if let Some(announced) = announced {
                    out.put_length(announced);
                }
                None
            }
            (true, Some(exact)) => {
                out.put_length(exact);
                Some(sending::Framing::Length(exact))
            }
            (true, None) if http10 => {
                keep = false;
                Some(sending::Framing::Close)
            }
            (true, None) => {
                out.put_chunked();
                Some(sending::Framing::Chunked)
            }
        };
        keep &= !self.connection.draining.get();
        if !connection && !keep && !http10 {
            out.put(b"connection: close\r\n");
        } else if !connection && keep && http10 {
            out.put(b"connection: keep-alive\r\n");
        }
        if !dated {
            out.put(b"date: ");
            out.put(&self.connection.worker.clock.date());
            out.put(b"\r\n");
        }
        out.put(b"\r\n");
        (framing, keep)
    }

    /// Says that nothing more comes. A client that is still sending would reset the connection, and with it the answer
    /// that is on its way, if its socket were closed now; so it has a moment, which the sweep ends.
    async fn say_goodbye(&mut self) {
        let shutdown = poll_fn(|cx| Pin::new(&mut *self.wire.stream.borrow_mut()).poll_shutdown(cx));
        if shutdown.await.is_err() || self.is_done() {
            return;
        }
        self.connection.activity.linger();
        poll_fn(|cx| {
            let (mut room, mut stream) = ([0; 4096], self.wire.stream.borrow_mut());
            for _ in 0..DISCARDED_READS {
                let mut room = ReadBuf::new(&mut room);
                let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut room));
                if read.is_err() || room.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Whether the client has nothing on its way, as far as is known.
    fn is_done(&self) -> bool {
        let incoming = self.wire.incoming.borrow();
        incoming.inbox.is_empty() && incoming.is_whole() && !self.reader.has_begun()
    }
}

fn refuse(reader: &Reader, kept: &[u8], refusal: Refusal, connection: &Connection) -> Next {
    connection.activity.head_is(false);
    let (head, is_known) = reader.stand_in(kept);
    Next::Refused(head, Refused { refusal, is_known })
}

fn says_trailers(value: &http::HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}
