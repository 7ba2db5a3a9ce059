//! Where HTTP/1 messages begin and end on a connection.
//!
//! A head passes only as a whole and only when all of it is as it must be; until then it is kept. Bodies pass as they
//! come. Trailers are kept like heads, so that a body with bad ones never ends.

use super::{
    Refusal,
    chunks::{Chunked, Chunks},
    head::{Framing, Head, Scan},
};

/// Follows the bytes of one connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    state: State,
    /// Whether an empty line has come before the head (RFC 9112 2.2 asks to ignore one).
    empty_line: bool,
    /// The client has asked for another protocol: what comes after the message is not ours to judge yet.
    upgrade: bool,
    messages: u64,
}

#[derive(Debug)]
enum State {
    Head(Head),
    /// So many bytes of a body are to come.
    Length(u64),
    Chunked(Chunks),
    Trailers(Head),
    /// Nothing passes until somebody decides about the upgrade.
    Waiting,
    /// Nothing passes any more.
    Refused,
}

/// What may happen to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    /// How many of them may pass. The rest is to be kept and shown again, with what has come behind it.
    pub(crate) pass: usize,
    /// What is wrong with the rest. Nothing more passes on this connection.
    pub(crate) refusal: Option<Refusal>,
}

impl Default for Http1 {
    fn default() -> Self {
        Self { state: State::Head(Head::request()), empty_line: false, upgrade: false, messages: 0 }
    }
}

impl Http1 {
    /// Checks what follows the bytes that have passed so far.
    pub(crate) fn check(&mut self, bytes: &[u8]) -> Checked {
        let mut pass = 0;
        loop {
            match self.step(bytes.get(pass..).unwrap_or_default()) {
                Ok(0) => return Checked { pass, refusal: None },
                Ok(more) => pass += more,
                Err((more, refusal)) => return Checked { pass: pass + more, refusal: Some(refusal) },
            }
        }
    }

    /// How many bytes pass, at most up to the next change of state; 0 if nothing more can be said.
    fn step(&mut self, rest: &[u8]) -> Result<usize, (usize, Refusal)> {
        if rest.is_empty() {
            return Ok(0);
        }
        let (pass, next) = match &mut self.state {
            State::Head(head) => {
                if !self.empty_line && !head.has_request_line() && rest.first() == Some(&b'\r') {
                    // One byte more tells whether it is an empty line.
                    if let [_, b'\n', ..] = rest {
                        self.empty_line = true;
                        return Ok(2);
                    } else if rest.len() == 1 {
                        return Ok(0);
                    }
                }
                match head.scan(rest).map_err(|refusal| (0, refusal))? {
                    Scan::Incomplete => return Ok(0),
                    Scan::Complete(len) => {
                        self.upgrade = head.asks_for_upgrade();
                        let body = match head.framing() {
                            Framing::Length(0) => None,
                            Framing::Length(length) => Some(State::Length(length)),
                            Framing::Chunked => Some(State::Chunked(Chunks::new())),
                        };
                        (len, Some(body.unwrap_or_else(|| self.after_message())))
                    }
                }
            }
            State::Length(left) => {
                let here = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= here as u64;
                let ended = *left == 0;
                (here, ended.then(|| self.after_message()))
            }
            State::Chunked(chunks) => match chunks.scan(rest) {
                Chunked::Open => (rest.len(), None),
                Chunked::Last(len) => (len, Some(State::Trailers(Head::trailers()))),
                Chunked::Broken(len, refusal) => return Err((len, refusal)),
            },
            State::Trailers(trailers) => match trailers.scan(rest).map_err(|refusal| (0, refusal))? {
                Scan::Incomplete => return Ok(0),
                Scan::Complete(len) => (len, Some(self.after_message())),
            },
            State::Waiting | State::Refused => return Ok(0),
        };
        if let Some(next) = next {
            self.state = next;
        }
        Ok(pass)
    }

    fn after_message(&mut self) -> State {
        self.empty_line = false;
        self.messages += 1;
        if self.upgrade { State::Waiting } else { State::Head(Head::request()) }
    }

    /// How many messages have passed to their end.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether the bytes that come next are of a body that is not complete.
    pub(crate) fn is_in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_) | State::Trailers(_))
    }

    /// Whether nothing passes because the answer to an upgrade is still to come.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// The upgrade did not come about: what follows is the next request.
    pub(crate) fn go_on(&mut self) {
        if self.is_waiting() {
            self.state = State::Head(Head::request());
        }
    }

    /// Lets nothing pass any more. Gives the head that takes the place of the refused one, of which `kept` is what has
    /// come, and whether it shows the request's own method and target.
    pub(crate) fn refuse(&mut self, kept: &[u8]) -> (Vec<u8>, bool) {
        let head = match std::mem::replace(&mut self.state, State::Refused) {
            State::Head(head) => head,
            _ => Head::request(),
        };
        (head.stand_in(kept), head.has_request_line())
    }
}
