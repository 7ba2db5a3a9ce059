//! An HTTP/1.1 connection that its current user drives.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use hyper::{body::Incoming, client::conn::http1};
use rustls::pki_types::ServerName;

use super::{
    Failure, RequestBody, UpstreamError, limits,
    slot::{Life, Slot},
};
use crate::{
    clock::Moment,
    net::{Io, Stream},
};

/// What is wrong with a response head that hyper accepts: it would let one message be read as two, or ends HTTP.
/// `upgrade` is the protocol that was asked for.
fn malformed(response: &Response<Incoming>, upgrade: Option<&str>) -> Option<&'static str> {
    let headers = response.headers();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(upgrade) = upgrade else { return Some("it switches protocols, and nobody asked for that") };
        let switched = headers.get(header::UPGRADE);
        if !switched.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(upgrade.as_bytes())) {
            return Some("it switches to another protocol than was asked for");
        }
    }
    if headers.len() > limits::MAX_HEADERS {
        return Some(limits::TOO_MANY_HEADERS);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let (length, second) = (lengths.next(), lengths.next());
    if second.is_some() || length.is_some_and(|length| length.as_bytes().contains(&b',')) {
        return Some("it has several lengths");
    }
    match headers.get(header::TRANSFER_ENCODING) {
        None => None,
        Some(_) if length.is_some() => Some("it has a length and a transfer coding"),
        Some(coding) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => None,
        Some(_) => Some("it has a transfer coding other than chunked"),
    }
}

type Driver<B> = http1::Connection<Io<Stream>, B>;

/// The two halves of a connection. It lives in a box, because it is moved between pool, request and body.
pub(super) struct Http1<B: RequestBody> {
    sender: http1::SendRequest<B>,
    /// `None` once HTTP has ended on the connection.
    driver: Option<Pin<Box<Driver<B>>>>,
    /// The protocol that the request asked for, if it may be another one from a 101 on.
    upgrade: Option<&'static str>,
    /// After that 101: the socket, and what was read of it behind the 101.
    upgraded: Option<(Stream, Bytes)>,
    pub(super) local: Option<SocketAddr>,
    /// The name that it was verified for, inside TLS.
    pub(super) server_name: Option<ServerName<'static>>,
    life: Life,
    /// Free again when the connection is gone.
    slot: Slot,
}

impl<B: RequestBody> Http1<B> {
    /// Wraps a fresh socket.
    pub(super) async fn new(
        stream: Stream,
        server_name: Option<ServerName<'static>>,
        slot: Slot,
        life: Life,
    ) -> Result<Box<Self>, Failure> {
        let local = stream.tcp().local_addr().ok();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(limits::HTTP1_BUFFER_BYTES)
            // hyper's default for the number of headers is `limits::MAX_HEADERS`; saying so would make it allocate
            // for every response.
            .max_header_size(limits::HEAD_BYTES)
            .handshake(Io(stream))
            .await
            .map_err(Failure::Protocol)?;
        let driver = Some(Box::pin(driver));
        Ok(Box::new(Self { sender, driver, upgrade: None, upgraded: None, local, server_name, life, slot }))
    }

    /// Lets the connection read and write what it can.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(driver) = &mut self.driver else { return };
        let Poll::Ready(ended) = driver.as_mut().poll(cx) else { return };
        // Dropping it tells a request that it will not be answered.
        let driver = self.driver.take();
        if let (Some(driver), Some(_), Ok(())) = (driver, self.upgrade, ended) {
            let http1::Parts { io, read_buf, .. } = Pin::into_inner(driver).into_parts();
            self.upgraded = Some((io.0, read_buf));
        }
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// The request comes back if the connection had ended before anything was sent.
    pub(super) async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, UpstreamError<B>> {
        self.upgrade = request.body().upgrade();
        let mut response = pin!(self.sender.try_send_request(request));
        let outcome = poll_fn(|cx| {
            self.drive(cx);
            response.as_mut().poll(cx)
        })
        .await;
        let reused = !self.life.begin_request();
        match outcome {
            Ok(response) => match malformed(&response, self.upgrade) {
                None if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    self.end().await;
                    Ok(response)
                }
                None => {
                    self.upgrade = None;
                    self.upgraded = None;
                    Ok(response)
                }
                Some(what) => Err(UpstreamError { request: None, failure: Failure::Malformed(what) }),
            },
            Err(mut error) => Err(UpstreamError {
                request: error.take_message(),
                failure: Failure::from_hyper(error.into_error(), reused),
            }),
        }
    }

    /// Waits until hyper has let go of the connection, as it does after a 101.
    async fn end(&mut self) {
        poll_fn(|cx| {
            self.drive(cx);
            if self.driver.is_none() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether the last response was the 101 that had been asked for.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.is_some()
    }

    /// The socket after such a 101, and what was read of it behind the 101.
    pub(super) fn into_stream(self) -> Option<(Stream, Bytes, Slot)> {
        let (stream, read_ahead) = self.upgraded?;
        Some((stream, read_ahead, self.slot))
    }

    /// Whether the next request can be sent now. A connection whose request body is still on its way, or
    /// which the upstream wants closed, is not.
    pub(super) fn settle(&mut self) -> bool {
        if !self.sender.is_ready() {
            // No task waits for an idle connection; whoever takes it drives it with its own waker.
            self.drive(&mut Context::from_waker(Waker::noop()));
        }
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Whether it has carried its last request.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.life.is_over(now)
    }

    /// Whether an idle connection is still usable; notices that the peer has closed it.
    pub(super) fn is_alive(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && !self.sender.is_closed()
    }
}
