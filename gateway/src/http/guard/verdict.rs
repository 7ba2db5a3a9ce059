//! How `service` learns that a request is refused, which only the connection's read path has seen.
//!
//! hyper stands between the two. In place of a refused head it gets one that says who asked for what, and nothing else,
//! so that the request takes its ordinary way: in its turn, counted, logged. Requests are told apart by their number.

use std::cell::Cell;

use super::Refusal;

/// What the guard of one connection has decided. Belongs to one worker.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Requests that `service` has seen.
    served: Cell<u64>,
    /// So many of them have an answer that leaves the connection what it is.
    answered: Cell<u64>,
    /// Whether bytes wait for the answer to an upgrade.
    waiting: Cell<bool>,
    head: Cell<Option<RefusedHead>>,
    body: Cell<Option<Refusal>>,
}

/// A request whose head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefusedHead {
    /// Requests on this connection before it.
    number: u64,
    /// Why.
    pub(crate) refusal: Refusal,
    /// Whether the head that stands in for it has the request's own method and target.
    pub(crate) is_known: bool,
}

impl Verdict {
    /// The head after `number` others is refused.
    pub(crate) fn refuse_head(&self, number: u64, refusal: Refusal, is_known: bool) {
        self.head.set(Some(RefusedHead { number, refusal, is_known }));
    }

    /// The body that is on its way is refused.
    pub(crate) fn refuse_body(&self, refusal: Refusal) {
        self.body.set(Some(refusal));
    }

    /// A request has reached `service`: whether its head is refused.
    pub(crate) fn next_request(&self) -> Option<RefusedHead> {
        let number = self.served.get();
        self.served.set(number + 1);
        self.head.get().filter(|head| head.number == number)
    }

    /// Why the body of the request that is being served broke off, if that was for what is in it.
    pub(crate) fn broken_body(&self) -> Option<Refusal> {
        self.body.get()
    }

    /// The request that is being served has an answer that is no 101. Whether bytes have waited for that.
    pub(crate) fn answered(&self) -> bool {
        self.answered.set(self.served.get());
        self.waiting.get()
    }

    /// Bytes behind the head with this number wait, or not any more.
    pub(crate) fn wait(&self, waiting: bool) {
        self.waiting.set(waiting);
    }

    /// Whether the first `requests` all have an answer.
    pub(crate) fn are_answered(&self, requests: u64) -> bool {
        self.answered.get() >= requests
    }
}
