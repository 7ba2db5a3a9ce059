//! An HTTP/1.1 connection that its current user drives.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Waker},
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use tokio::net::TcpStream;

use super::{Failure, RequestBody, UpstreamError, limits};
use crate::net::Io;

type Driver<B> = http1::Connection<Io<TcpStream>, B>;

/// The two halves of a connection.
pub(super) struct Http1<B: RequestBody> {
    sender: http1::SendRequest<B>,
    /// `None` once the connection has ended. Boxed, because the pair is moved between pool, request and body.
    driver: Option<Pin<Box<Driver<B>>>>,
    pub(super) local: Option<SocketAddr>,
    reused: bool,
}

impl<B: RequestBody> Http1<B> {
    /// Wraps a fresh socket.
    pub(super) async fn new(stream: TcpStream) -> Result<Self, Failure> {
        let local = stream.local_addr().ok();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(limits::HTTP1_BUFFER_BYTES)
            .max_headers(limits::MAX_HEADERS)
            .handshake(Io(stream))
            .await
            .map_err(Failure::Protocol)?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), local, reused: false })
    }

    /// Lets the connection read and write what it can.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// The request comes back if the connection had ended before anything was sent.
    pub(super) async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, UpstreamError<B>> {
        let mut response = pin!(self.sender.try_send_request(request));
        let outcome = poll_fn(|cx| {
            if let Some(driver) = &mut self.driver
                && driver.as_mut().poll(cx).is_ready()
            {
                self.driver = None;
            }
            response.as_mut().poll(cx)
        })
        .await;
        let reused = std::mem::replace(&mut self.reused, true);
        outcome.map_err(|mut error| UpstreamError {
            request: error.take_message(),
            failure: Failure::from_hyper(error.into_error(), reused),
        })
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

    /// Whether an idle connection is still usable; notices that the peer has closed it.
    pub(super) fn is_alive(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && !self.sender.is_closed()
    }
}
