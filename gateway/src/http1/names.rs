//! Names of fields that a worker has read lately, from clients and services.

use std::cell::RefCell;

use heads::{Key, Names};

thread_local! {
    static NAMES: RefCell<Names<()>> = RefCell::new(Names::remembered());
}

/// Lends a way to read names. It must not be asked for again meanwhile.
pub(super) fn reading<R>(work: impl FnOnce(&mut Reading<'_>) -> R) -> R {
    NAMES.with_borrow_mut(|names| work(&mut Reading(names)))
}

/// Reads names.
pub(super) struct Reading<'a>(&'a mut Names<()>);

impl Reading<'_> {
    /// `None`: no field has such a name.
    #[inline]
    pub(super) fn name(&mut self, bytes: &[u8]) -> Option<&Key> {
        self.0.read(bytes, |_| ()).map(|known| &known.key)
    }
}
