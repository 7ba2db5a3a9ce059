//! What a `vm_id` owns: a small key-value store with compare-and-swap, and its queues.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Queue, lock};

/// The store of one `vm_id`, and the queues its plugins registered, which live as long.
#[derive(Default)]
pub(crate) struct SharedData {
    store: Mutex<Store>,
    queues: Mutex<Vec<Arc<Queue>>>,
}

#[derive(Default)]
struct Store {
    entries: HashMap<Box<[u8]>, Entry>,
    /// Bytes of all keys and values.
    bytes: usize,
}

struct Entry {
    value: Bytes,
    cas: u32,
}

/// Why a value was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetError {
    /// The value was changed since it was read.
    Mismatch,
    /// The limits on keys or bytes.
    Full,
}

/// The next compare-and-swap number. One for all, as in Envoy; 0 means "do not compare".
static NEXT_CAS: AtomicU32 = AtomicU32::new(1);

fn next_cas() -> u32 {
    loop {
        match NEXT_CAS.fetch_add(1, Ordering::Relaxed) {
            0 => {}
            cas => return cas,
        }
    }
}

impl SharedData {
    pub(super) fn new(_vm_id: &str) -> Self {
        Self::default()
    }

    /// Keeps a queue alive.
    pub(crate) fn keep(&self, queue: Arc<Queue>) {
        let mut queues = lock(&self.queues);
        if !queues.iter().any(|kept| kept.id == queue.id) {
            queues.push(queue);
        }
    }

    /// The value of a key and its compare-and-swap number.
    pub(crate) fn get(&self, key: &[u8]) -> Option<(Bytes, u32)> {
        lock(&self.store).entries.get(key).map(|entry| (entry.value.clone(), entry.cas))
    }

    /// Stores a value. `cas` 0 stores in any case; otherwise the stored number must be the same. A key
    /// that does not exist yet takes any number (Envoy).
    pub(crate) fn set(
        &self,
        key: &[u8],
        value: &[u8],
        cas: u32,
        max_keys: usize,
        max_bytes: usize,
    ) -> Result<(), SetError> {
        let mut store = lock(&self.store);
        let store = &mut *store;
        if let Some(entry) = store.entries.get_mut(key) {
            if cas != 0 && cas != entry.cas {
                return Err(SetError::Mismatch);
            }
            let bytes = (store.bytes - entry.value.len()).saturating_add(value.len());
            if bytes > max_bytes && value.len() > entry.value.len() {
                return Err(SetError::Full);
            }
            store.bytes = bytes;
            *entry = Entry { value: Bytes::copy_from_slice(value), cas: next_cas() };
            return Ok(());
        }
        let bytes = store.bytes.saturating_add(key.len()).saturating_add(value.len());
        if store.entries.len() >= max_keys || bytes > max_bytes {
            return Err(SetError::Full);
        }
        store.bytes = bytes;
        store.entries.insert(key.into(), Entry { value: Bytes::copy_from_slice(value), cas: next_cas() });
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_stale_number_does_not_overwrite() {
        let data = SharedData::new("vm");
        assert_eq!(data.set(b"k", b"1", 77, 10, 100), Ok(()), "a new key takes any number");
        let (_, first) = data.get(b"k").unwrap();
        assert_eq!(data.set(b"k", b"2", first, 10, 100), Ok(()));
        assert_eq!(data.set(b"k", b"3", first, 10, 100), Err(SetError::Mismatch));
        assert_eq!(data.set(b"k", b"4", 0, 10, 100), Ok(()));
        let (value, last) = data.get(b"k").unwrap();
        assert_eq!(value, "4");
        assert!(last != first && last != 0);
    }

    #[test]
    fn keys_and_bytes_are_limited() {
        let data = SharedData::new("vm");
        assert_eq!(data.set(b"a", b"12345", 0, 2, 10), Ok(()));
        assert_eq!(data.set(b"b", b"1234", 0, 2, 10), Err(SetError::Full), "bytes");
        assert_eq!(data.set(b"b", b"123", 0, 2, 10), Ok(()));
        assert_eq!(data.set(b"c", b"", 0, 2, 100), Err(SetError::Full), "keys");
        assert_eq!(data.set(b"a", b"123456", 0, 2, 10), Err(SetError::Full), "growing a value");
        assert_eq!(data.set(b"a", b"1", 0, 2, 10), Ok(()), "shrinking one");
        assert_eq!(data.set(b"b", b"1234567", 0, 2, 10), Ok(()), "which made room");
    }
}
