//! Numbers that one thread writes and others read.
//!
//! Every worker has cells of its own. Because nobody else writes them, an increment is a plain load and a
//! plain store (no `lock` prefix, no shared cache line); because they are atomics, the scraping thread may
//! read them at any time. This module knows neither labels nor names.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows.
///
/// Written by one thread at a time; a second writer would lose counts, never memory safety.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that goes up and down. Written by one thread at a time, as [`Counter`].
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// Numbers of one series, or of several that live and die together.
pub(super) trait Cells: Default {
    /// Adds everything that `other` holds.
    fn absorb(&self, other: &Self);

    /// The thread that wrote this is done with it: what described its present state is over.
    fn settle(&self) {}
}

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The value; may be read by any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Gauge {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away; 0 stays 0.
    #[inline]
    pub fn dec(&self) {
        self.sub(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).saturating_add(n), Relaxed);
    }

    /// Takes `n` away; not below 0.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(n), Relaxed);
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value; may be read by any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Cells for Counter {
    fn absorb(&self, other: &Self) {
        self.add(other.get());
    }
}

impl Cells for Gauge {
    fn absorb(&self, other: &Self) {
        self.set(self.get().saturating_add(other.get()));
    }

    fn settle(&self) {
        self.set(0);
    }
}

impl<const N: usize> Cells for [Counter; N]
where
    Self: Default,
{
    fn absorb(&self, other: &Self) {
        for (mine, theirs) in self.iter().zip(other) {
            mine.absorb(theirs);
        }
    }
}
