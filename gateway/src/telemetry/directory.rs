//! What is counted, by name: the process-wide side (all workers) and the worker's own.
//!
//! Worker handles are shared pointers, so "nobody uses this any more" is a reference count. Neither side is
//! touched per request: only when a handle is first needed, when it is let go, and when somebody scrapes.

use std::{
    collections::HashMap,
    hash::Hash,
    rc::{Rc, Weak},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::cells::Cells;

/// Series that no worker has used for this long are no longer exported.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(3600);
/// More unused entries than this are not kept, however fresh: plugins may be replaced all day long.
const MAX_IDLE: usize = 1024;

/// A lock whose holder panicked still guards numbers; they are used as they are.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything of one kind that is or was recently counted, in the whole process.
///
/// Rule of disappearance: an entry that nobody but the directory holds stays for [`IDLE_LIMIT`] from when that
/// was first noticed (noticed when something is added or scraped), or until it is the oldest of more than 1024.
#[derive(Debug)]
pub(super) struct Directory<K, S>(Mutex<HashMap<K, Listed<S>>>);

#[derive(Debug)]
struct Listed<S> {
    series: Arc<S>,
    idle_since: Option<Instant>,
}

impl<K, S> Default for Directory<K, S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, S> Directory<K, S> {
    /// The entry of `key`; made if there is none.
    pub(super) fn open(&self, key: &K, now: Instant, make: impl FnOnce() -> S) -> Arc<S> {
        let mut entries = lock(&self.0);
        if let Some(listed) = entries.get_mut(key) {
            listed.idle_since = None;
            return Arc::clone(&listed.series);
        }
        sweep(&mut entries, now);
        let series = Arc::new(make());
        entries.insert(key.clone(), Listed { series: Arc::clone(&series), idle_since: None });
        series
    }

    /// All entries, after forgetting those that were unused for too long.
    pub(super) fn entries(&self, now: Instant) -> Vec<(K, Arc<S>)> {
        let mut entries = lock(&self.0);
        sweep(&mut entries, now);
        entries.iter().map(|(key, listed)| (key.clone(), Arc::clone(&listed.series))).collect()
    }
}

fn sweep<K: Hash + Eq + Clone, S>(entries: &mut HashMap<K, Listed<S>>, now: Instant) {
    let mut idle: Vec<(Instant, K)> = Vec::new();
    entries.retain(|key, listed| {
        if Arc::strong_count(&listed.series) > 1 {
            listed.idle_since = None;
            return true;
        }
        let since = *listed.idle_since.get_or_insert(now);
        let keep = now.saturating_duration_since(since) < IDLE_LIMIT;
        if keep {
            idle.push((since, key.clone()));
        }
        keep
    });
    if let Some(surplus @ 1..) = idle.len().checked_sub(MAX_IDLE) {
        idle.sort_by_key(|(since, _)| *since);
        for (_, key) in idle.into_iter().take(surplus) {
            entries.remove(&key);
        }
    }
}

/// One series, summed over the workers that count in it and those that did.
#[derive(Debug, Default)]
pub(super) struct Shared<C>(Mutex<Parts<C>>);

/// What a series is the sum of.
#[derive(Debug, Default)]
pub(super) struct Parts<C> {
    /// Cells that a worker still writes.
    live: Vec<Arc<C>>,
    /// What was in the cells of workers that let go.
    left: C,
}

impl<C: Cells> Parts<C> {
    /// New cells for one worker, part of every sum from now on.
    pub(super) fn join(&mut self) -> Arc<C> {
        let cells = Arc::new(C::default());
        self.live.push(Arc::clone(&cells));
        cells
    }

    /// The worker is done with `cells`; their counts stay part of every sum.
    pub(super) fn leave(&mut self, cells: &Arc<C>) {
        if let Some(position) = self.live.iter().position(|live| Arc::ptr_eq(live, cells)) {
            self.live.swap_remove(position);
            cells.settle();
            self.left.absorb(cells);
        }
    }

    /// Adds everything to `total`.
    pub(super) fn add_to(&self, total: &C) {
        total.absorb(&self.left);
        for live in &self.live {
            total.absorb(live);
        }
    }

    /// Counts that come from another series which ceases to exist.
    pub(super) fn keep(&mut self, other: &Self) {
        other.add_to(&self.left);
    }

    /// How many workers count here.
    pub(super) fn holders(&self) -> usize {
        self.live.len()
    }
}

/// The lock is held while sums are made: between a worker's leaving and a reader's adding nothing may be
/// counted twice.
impl<C: Cells> Shared<C> {
    /// See [`Parts::join`].
    pub(super) fn join(&self) -> Arc<C> {
        lock(&self.0).join()
    }

    /// See [`Parts::leave`].
    pub(super) fn leave(&self, cells: &Arc<C>) {
        lock(&self.0).leave(cells);
    }

    /// See [`Parts::add_to`].
    pub(super) fn add_to(&self, total: &C) {
        lock(&self.0).add_to(total);
    }

    /// The sum.
    pub(super) fn total(&self) -> C {
        let total = C::default();
        self.add_to(&total);
        total
    }

    /// See [`Parts::holders`].
    pub(super) fn holders(&self) -> usize {
        lock(&self.0).holders()
    }
}

/// The handles that one worker gave out, so that two askers of the same thing share one.
#[derive(Debug)]
pub(super) struct Handles<K, H> {
    known: HashMap<K, Weak<H>>,
    sweep_at: usize,
}

impl<K, H> Default for Handles<K, H> {
    fn default() -> Self {
        Self { known: HashMap::new(), sweep_at: 64 }
    }
}

impl<K: Hash + Eq, H> Handles<K, H> {
    /// The living handle of `key`, or a new one.
    pub(super) fn get(&mut self, key: K, make: impl FnOnce(&K) -> H) -> Rc<H> {
        if let Some(handle) = self.known.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, handle| handle.strong_count() > 0);
            self.sweep_at = (self.known.len() * 2).max(64);
        }
        let handle = Rc::new(make(&key));
        self.known.insert(key, Rc::downgrade(&handle));
        handle
    }
}

#[cfg(test)]
mod tests {
    use super::{super::cells::Counter, *};

    #[test]
    fn counts_of_those_who_left_stay() {
        let shared: Shared<Counter> = Shared::default();
        let (first, second) = (shared.join(), shared.join());
        first.add(3);
        second.add(4);
        assert_eq!((shared.total().get(), shared.holders()), (7, 2));
        shared.leave(&first);
        shared.leave(&first);
        second.inc();
        assert_eq!((shared.total().get(), shared.holders()), (8, 1));
    }

    #[test]
    fn unused_entries_disappear_after_a_while_and_used_ones_do_not() {
        let directory: Directory<u32, u32> = Directory::default();
        let start = Instant::now();
        let held = directory.open(&1, start, || 10);
        drop(directory.open(&2, start, || 20));
        assert_eq!(directory.entries(start).len(), 2);
        assert_eq!(directory.entries(start + IDLE_LIMIT - Duration::from_secs(1)).len(), 2);
        assert_eq!(directory.entries(start + IDLE_LIMIT).len(), 1);
        assert_eq!(*held, 10);
        // Used again in time: the clock starts anew.
        drop(held);
        let later = start + 2 * IDLE_LIMIT;
        assert_eq!(directory.entries(later).len(), 1);
        drop(directory.open(&1, later + IDLE_LIMIT / 2, || 11));
        assert_eq!(directory.entries(later + IDLE_LIMIT).len(), 1);
    }

    #[test]
    fn there_are_never_many_unused_entries() {
        let directory: Directory<usize, ()> = Directory::default();
        let now = Instant::now();
        for key in 0..5000 {
            drop(directory.open(&key, now + Duration::from_millis(key as u64), || ()));
        }
        let left = directory.entries(now + Duration::from_secs(5));
        assert!(left.len() <= MAX_IDLE, "{}", left.len());
        assert!(left.iter().any(|(key, _)| *key == 4999), "the newest stay");
    }

    #[test]
    fn handles_are_shared_while_somebody_holds_them() {
        let mut handles: Handles<u32, u32> = Handles::default();
        let first = handles.get(1, |key| *key);
        assert!(Rc::ptr_eq(&first, &handles.get(1, |_| 99)));
        drop(first);
        assert_eq!(*handles.get(1, |_| 99), 99);
        for key in 0..100_000 {
            handles.get(key, |key| *key);
        }
        assert!(handles.known.len() <= 64);
    }
}
