//! Bytes that plugins hold back: how many of one stream, and how many a worker can bear.

use std::{cell::Cell, rc::Rc};

use crate::http::limits;

/// What is held back of the bodies of one stream, as a part of what its worker can bear. Dropping it gives that back.
#[derive(Default)]
pub(super) struct Weight {
    total: Rc<Cell<usize>>,
    own: usize,
}

impl Weight {
    /// A stream of which nothing is held back; `total` is what is held back of all streams of its worker.
    pub(super) fn new(total: &Rc<Cell<usize>>) -> Self {
        Self { total: Rc::clone(total), own: 0 }
    }

    /// Now so much of this stream is held back. False, and nothing changes, if that would be more than the worker can
    /// bear; less is always borne.
    pub(super) fn set(&mut self, bytes: usize) -> bool {
        let total = self.total.get().saturating_sub(self.own).saturating_add(bytes);
        let bearable = bytes <= self.own || total <= limits::PLUGIN_WORKER_BYTES;
        if bearable {
            self.total.set(total);
            self.own = bytes;
        }
        bearable
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_what_a_worker_can_bear() {
        let total = Rc::new(Cell::new(0));
        let mut streams: Vec<_> = (0..3).map(|_| Weight::new(&total)).collect();
        let half = limits::PLUGIN_WORKER_BYTES / 2;
        assert!(streams[0].set(half) && streams[1].set(half));
        assert_eq!(total.get(), limits::PLUGIN_WORKER_BYTES);
        assert!(!streams[2].set(1), "there is no room");
        assert!(streams[0].set(half) && !streams[0].set(half + 1));
        assert!(streams[0].set(half - 1) && streams[2].set(1), "what one gives back another may take");
        assert_eq!(total.get(), limits::PLUGIN_WORKER_BYTES);
        streams.truncate(1);
        assert_eq!(total.get(), half - 1);
        drop(streams);
        assert_eq!(total.get(), 0);
    }
}
