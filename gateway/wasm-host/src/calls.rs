//! The calls that one instance has made and that have not ended: their numbers, whom they count against, and what the
//! running callback can read of an answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ContextId;
use crate::outbound::{CallResponse, GrpcMetadata, Outbound};
use bytes::Bytes;

/// What a call is; its numbers are told apart by it, as in Envoy (4, 8, …; 5, 9, …; 6, 10, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http = 0,
    GrpcUnary = 1,
    GrpcStream = 2,
}

/// What the running callback is about.
#[derive(Debug)]
pub(crate) enum Answer {
    Http(CallResponse),
    /// There will be none. Plugins look for a status all the same, and SDKs abort if there is nothing to look at.
    NoResponse,
    InitialMetadata(GrpcMetadata),
    Message(Bytes),
    TrailingMetadata(GrpcMetadata),
}

/// The calls of one instance.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    open: HashMap<u32, Open>,
    /// Not handed to the HTTP layer yet.
    pub(crate) wanted: Vec<Outbound>,
    pub(crate) answer: Option<Answer>,
    /// Code and message that `proxy_get_status` answers.
    pub(crate) status: (u32, String),
    last: [u32; 3],
}

#[derive(Debug)]
struct Open {
    kind: Kind,
    /// The stream that the plugin worked for when it made the call.
    context: Option<ContextId>,
    /// The plugin will send nothing more on a gRPC stream.
    ended: bool,
    /// Bytes of its messages that have not been sent.
    queued: Arc<AtomicUsize>,
    _counted: InFlight,
}

impl Calls {
    /// Calls that were made for a stream and have not ended.
    pub(crate) fn of(&self, context: Option<ContextId>) -> usize {
        self.open.values().filter(|open| open.context == context).count()
    }

    /// Begins a call; answers its number.
    pub(crate) fn begin(&mut self, kind: Kind, context: Option<ContextId>, counted: InFlight) -> u32 {
        let last = &mut self.last[kind as usize];
        loop {
            *last = last.wrapping_add(4);
            let token = last.wrapping_add(kind as u32);
            // Numbers are not given again while the plugin may keep them, not even after four thousand million calls.
            if token >= 4 && !self.open.contains_key(&token) {
                let open = Open { kind, context, ended: false, queued: Arc::default(), _counted: counted };
                self.open.insert(token, open);
                return token;
            }
        }
    }

    /// What a number stands for.
    pub(crate) fn kind(&self, token: u32) -> Option<Kind> {
        self.open.get(&token).map(|open| open.kind)
    }

    /// Whether the plugin still waits for this call.
    pub(crate) fn is_open(&self, token: u32) -> bool {
        self.open.contains_key(&token)
    }

    /// The call is over.
    pub(crate) fn end(&mut self, token: u32) -> bool {
        self.open.remove(&token).is_some()
    }

    /// Nothing more will be sent on a stream. False if that was so before.
    pub(crate) fn end_sending(&mut self, token: u32) -> bool {
        self.open.get_mut(&token).is_some_and(|open| !std::mem::replace(&mut open.ended, true))
    }

    /// Counts a message that waits to be sent. `None`: no more fits.
    pub(crate) fn queue(&mut self, token: u32, bytes: Bytes, limit: usize) -> Option<Message> {
        let open = self.open.get(&token).filter(|open| !open.ended)?;
        let message = Message { queued: Arc::clone(&open.queued), bytes };
        // The one that was counted here is taken off again when it is dropped.
        let before = open.queued.fetch_add(message.bytes.len(), Ordering::Relaxed);
        (before + message.bytes.len() <= limit).then_some(message)
    }
}

/// A message on its way to a gRPC stream. What waits counts against the plugin until it is dropped.
#[derive(Debug)]
pub struct Message {
    /// What to send, without the frame around it.
    pub bytes: Bytes,
    queued: Arc<AtomicUsize>,
}

impl Drop for Message {
    fn drop(&mut self) {
        self.queued.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// Counts a call for as long as it is open, over all instances of a plugin.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// One more; `None` if there are as many as allowed.
    pub(crate) fn begin(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let counted = Self(Arc::clone(count));
        (before < limit).then_some(counted)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn numbers_are_those_of_envoy() {
        let count = Arc::default();
        let mut calls = Calls::default();
        let mut begin = |kind| calls.begin(kind, None, InFlight::begin(&count, 10).unwrap());
        let kinds = [Kind::Http, Kind::GrpcUnary, Kind::GrpcStream, Kind::Http, Kind::GrpcUnary, Kind::GrpcStream];
        assert_eq!(kinds.map(&mut begin), [4, 5, 6, 8, 9, 10]);
        assert_eq!(count.load(Ordering::Relaxed), 6);
        assert!(calls.end(8) && !calls.end(8) && calls.is_open(9));
        drop(calls);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn calls_in_flight_are_limited_over_all_instances() {
        let count = Arc::default();
        let first = InFlight::begin(&count, 1).unwrap();
        assert!(InFlight::begin(&count, 1).is_none());
        drop(first);
        assert!(InFlight::begin(&count, 1).is_some());
    }

    #[test]
    fn what_waits_to_be_sent_is_limited() {
        let mut calls = Calls::default();
        let token = calls.begin(Kind::GrpcStream, None, InFlight::begin(&Arc::default(), 1).unwrap());
        let first = calls.queue(token, Bytes::from_static(b"12345"), 8).unwrap();
        assert!(calls.queue(token, Bytes::from_static(b"1234"), 8).is_none());
        assert!(calls.queue(token, Bytes::from_static(b"123"), 8).is_some());
        drop(first);
        assert!(calls.queue(token, Bytes::from_static(b"12345678"), 8).is_some());
        assert!(calls.end_sending(token) && !calls.end_sending(token));
        assert!(calls.queue(token, Bytes::new(), 8).is_none());
    }
}
