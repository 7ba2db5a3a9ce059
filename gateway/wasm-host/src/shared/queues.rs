//! Shared queues: named lists of byte strings that any instance may append to and take from.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use super::{Inbox, lock, sweep};

/// All queues of the process, by name and by number.
#[derive(Default)]
pub(crate) struct Queues {
    names: Mutex<HashMap<Name, Weak<Queue>>>,
    numbers: Mutex<HashMap<u32, Weak<Queue>>>,
    last: AtomicU32,
}

/// The `vm_id` of the owner and the name of a queue.
type Name = (String, Box<[u8]>);

/// One queue. It lives as long as a plugin that registered it.
pub(crate) struct Queue {
    pub(crate) id: u32,
    items: Mutex<Items>,
    /// Instances that have registered it, the last one at the end.
    listeners: Mutex<Vec<Weak<Inbox>>>,
}

#[derive(Default)]
struct Items {
    list: VecDeque<Bytes>,
    bytes: usize,
}

/// Longest name of a queue, in bytes.
const MAX_NAME: usize = 1024;

/// The queue takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EnqueueError;

impl Queues {
    /// The queue with this name, made if there is none. `None` when `vm_id` has `max` of them, or for a
    /// name that is too long.
    pub(crate) fn register(&self, vm_id: &str, name: &[u8], max: usize) -> Option<Arc<Queue>> {
        if name.len() > MAX_NAME {
            return None;
        }
        let mut names = lock(&self.names);
        let key = (vm_id.to_owned(), Box::from(name));
        if let Some(queue) = names.get(&key).and_then(Weak::upgrade) {
            return Some(queue);
        }
        sweep(&mut names);
        if names.keys().filter(|(owner, _)| owner == vm_id).count() >= max {
            return None;
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let queue = Arc::new(Queue { id, items: Mutex::default(), listeners: Mutex::default() });
        names.insert(key, Arc::downgrade(&queue));
        let mut numbers = lock(&self.numbers);
        sweep(&mut numbers);
        numbers.insert(id, Arc::downgrade(&queue));
        Some(queue)
    }

    /// The queue with this name, if there is one.
    pub(crate) fn resolve(&self, vm_id: &str, name: &[u8]) -> Option<Arc<Queue>> {
        if vm_id.len().max(name.len()) > MAX_NAME {
            return None;
        }
        lock(&self.names).get(&(vm_id.to_owned(), Box::from(name)))?.upgrade()
    }

    /// The queue with this number, if there is one.
    pub(crate) fn get(&self, id: u32) -> Option<Arc<Queue>> {
        lock(&self.numbers).get(&id)?.upgrade()
    }
}

impl Queue {
    /// Adds an item at the end.
    pub(crate) fn enqueue(&self, item: &[u8], max_items: usize, max_bytes: usize) -> Result<(), EnqueueError> {
        let mut items = lock(&self.items);
        let bytes = items.bytes.saturating_add(item.len());
        if items.list.len() >= max_items || bytes > max_bytes {
            return Err(EnqueueError);
        }
        items.bytes = bytes;
        items.list.push_back(Bytes::copy_from_slice(item));
        drop(items);
        // As in Envoy, one of them: the last that registered it, and that is at work. Spares are not.
        lock(&self.listeners).iter().rev().filter_map(Weak::upgrade).find(|inbox| inbox.put(self.id, max_items));
        Ok(())
    }

    /// From now on this instance hears of items.
    pub(crate) fn listen(&self, inbox: &Arc<Inbox>) {
        let mut listeners = lock(&self.listeners);
        listeners
            .retain(|listener| listener.strong_count() > 0 && !std::ptr::eq(listener.as_ptr(), Arc::as_ptr(inbox)));
        listeners.push(Arc::downgrade(inbox));
    }

    /// Takes the first item.
    pub(crate) fn dequeue(&self) -> Option<Bytes> {
        let mut items = lock(&self.items);
        let item = items.list.pop_front()?;
        items.bytes -= item.len();
        Some(item)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_queue_while_somebody_holds_it() {
        let queues = Queues::default();
        let first = queues.register("vm", b"q", 2).unwrap();
        assert_eq!(queues.register("vm", b"q", 2).unwrap().id, first.id);
        let other = queues.register("vm2", b"q", 2).unwrap();
        assert_ne!(other.id, first.id);
        assert_eq!(queues.resolve("vm", b"q").unwrap().id, first.id);
        assert_eq!(queues.get(other.id).unwrap().id, other.id);
        let id = first.id;
        drop(first);
        assert!(queues.resolve("vm", b"q").is_none() && queues.get(id).is_none());
    }

    #[test]
    fn the_number_of_queues_is_limited_per_owner() {
        let queues = Queues::default();
        let kept = queues.register("vm", b"1", 1).unwrap();
        assert!(queues.register("vm", b"2", 1).is_none());
        assert!(queues.register("other", b"2", 1).is_some());
        drop(kept);
        assert!(queues.register("vm", b"2", 1).is_some());
        assert!(queues.register("vm", &[0; MAX_NAME + 1], 9).is_none());
    }

    #[test]
    fn items_come_out_in_order_and_within_limits() {
        let queue = Queue { id: 1, items: Mutex::default(), listeners: Mutex::default() };
        assert_eq!(queue.enqueue(b"one", 2, 5), Ok(()));
        assert_eq!(queue.enqueue(b"two", 2, 5), Err(EnqueueError), "bytes");
        assert_eq!(queue.enqueue(b"2", 2, 5), Ok(()));
        assert_eq!(queue.enqueue(b"", 2, 5), Err(EnqueueError), "items");
        assert_eq!(queue.dequeue().unwrap(), "one");
        assert_eq!(queue.dequeue().unwrap(), "2");
        assert_eq!(queue.dequeue(), None);
        assert_eq!(queue.enqueue(b"five5", 2, 5), Ok(()), "everything was given back");
    }
}
