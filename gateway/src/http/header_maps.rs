//! Header maps to be used again. A request's map becomes its answer's (`upstream/http1`), and when that is written it
//! waits here for the next request of the worker, so that none is allocated and quiet connections hold none.

use std::cell::RefCell;

use http::HeaderMap;

/// The spare maps of one worker.
#[derive(Default)]
pub(crate) struct HeaderMaps(RefCell<Vec<HeaderMap>>);

/// More than requests that are read at the same moment are not needed.
const SPARE: usize = 32;
/// A map for more fields than this is not kept.
const FIELDS: usize = 96;

impl HeaderMaps {
    /// An empty map.
    pub(super) fn take(&self) -> HeaderMap {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a map back.
    pub(super) fn put(&self, mut map: HeaderMap) {
        let mut spare = self.0.borrow_mut();
        if map.capacity() > 0 && map.capacity() <= FIELDS && spare.len() < SPARE {
            map.clear();
            spare.push(map);
        }
    }
}
