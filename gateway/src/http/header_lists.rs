//! Header lists to be used again. A request's becomes its answer's (`upstream/http1`), and when that is written it
//! waits here for the next request of the worker, so that none is allocated and quiet connections hold none.

use std::cell::RefCell;

use heads::HeaderList;

/// The spare lists of one worker.
#[derive(Default)]
pub(crate) struct HeaderLists(RefCell<Vec<HeaderList>>);

/// More than requests that are read at the same moment are not needed.
const SPARE: usize = 32;
/// A list for more fields than this is not kept.
const FIELDS: usize = 96;

impl HeaderLists {
    /// An empty list.
    pub(super) fn take(&self) -> HeaderList {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a list back.
    pub(super) fn put(&self, mut list: HeaderList) {
        let mut spare = self.0.borrow_mut();
        if list.capacity() > 0 && list.capacity() <= FIELDS && spare.len() < SPARE {
            list.clear();
            spare.push(list);
        }
    }
}
