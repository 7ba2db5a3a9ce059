//! What a plugin sends to a service: all at once, or gRPC messages as they come.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use heads::HeaderList;
use http_body::{Body, Frame, SizeHint};
use proxy_wasm_host::Message;
use tokio::sync::mpsc;

use crate::{http::body::RequestBody, upstream::BodyError};

/// The body of a plugin's request.
pub(crate) enum CallBody {
    /// Known from the beginning.
    Whole {
        /// Empty once sent.
        data: Bytes,
        /// Empty once sent, or if there are none.
        trailers: HeaderList,
    },
    /// The messages of a gRPC stream.
    Messages(mpsc::UnboundedReceiver<Message>),
}

impl CallBody {
    /// A body that is there.
    pub(super) fn whole(data: Bytes, trailers: HeaderList) -> RequestBody {
        if data.is_empty() && trailers.is_empty() {
            RequestBody::Empty
        } else {
            RequestBody::Call(Box::new(Self::Whole { data, trailers }))
        }
    }
}

/// A message as gRPC frames it, uncompressed.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    // A message is never longer than a plugin's memory.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut *self {
            Self::Whole { data, .. } if !data.is_empty() => Some(Frame::data(std::mem::take(data))),
            Self::Whole { trailers, .. } if !trailers.is_empty() => {
                Some(Frame::trailers(std::mem::take(trailers).into()))
            }
            Self::Whole { .. } => None,
            Self::Messages(messages) => std::task::ready!(messages.poll_recv(cx)).map(|message| {
                // What was counted against the plugin is taken off here: the connection has asked for it.
                Frame::data(framed(&message.bytes))
            }),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole { data, trailers } if data.is_empty() && trailers.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // A length that is known is stated, and then nothing can follow the body.
            Self::Whole { data, trailers } if trailers.is_empty() => SizeHint::with_exact(data.len() as u64),
            Self::Whole { .. } | Self::Messages(_) => SizeHint::default(),
        }
    }
}
