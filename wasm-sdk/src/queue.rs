//! Queues: items that one instance puts in and any one instance takes out, on whichever worker and in whichever plugin.

use crate::HostError;
use crate::host::{Status, services};

/// The status for a queue that does not exist.
const NOT_FOUND: Status = 1;
/// The status for a queue that has no items.
const EMPTY: Status = 7;

/// A queue, by the number that the host has given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue(u32);

impl Queue {
    pub(crate) fn with_id(id: u32) -> Queue {
        Queue(id)
    }

    /// The queue of this name, made if there is none. From now on
    /// [`on_queue`](crate::Plugin::on_queue) hears of its items.
    pub fn register(name: &str) -> Result<Queue, HostError> {
        let id = services::register_queue(name);
        id.map(Queue).map_err(|status| HostError::new(format!("registering queue `{name}`"), status))
    }

    /// The queue that another plugin has registered under this name; `None` if it has not. `vm_id` is that plugin's;
    /// the empty one is this plugin's own.
    pub fn find(vm_id: &str, name: &str) -> Result<Option<Queue>, HostError> {
        match services::find_queue(vm_id, name) {
            Ok(id) => Ok(Some(Queue(id))),
            Err(NOT_FOUND) => Ok(None),
            Err(status) => Err(HostError::new(format!("looking for queue `{name}`"), status)),
        }
    }

    /// Puts an item at the end.
    ///
    /// # Errors
    /// The queue is full, or gone.
    pub fn push(&self, item: impl AsRef<[u8]>) -> Result<(), HostError> {
        services::push(self.0, item.as_ref()).map_err(|status| HostError::new("adding to a queue", status))
    }

    /// Takes the first item; `None` if there is none.
    pub fn pop(&self) -> Result<Option<Vec<u8>>, HostError> {
        match services::pop(self.0) {
            Ok(item) => Ok(Some(item)),
            Err(EMPTY) => Ok(None),
            Err(status) => Err(HostError::new("taking from a queue", status)),
        }
    }
}
