//! Two histograms: Istio's fixed buckets, and fine logarithmic ones for short times.
//!
//! Both hold whole numbers (microseconds, bytes, nanoseconds), so that observing needs no floating point;
//! units are converted when they are exported.

use super::cells::{Cells, Counter};

/// Istio's bucket bounds, in milliseconds or bytes (istio.md 5.1); `+Inf` follows.
pub(super) const ISTIO_BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// [`ISTIO_BOUNDS`] in microseconds.
pub(super) const MILLISECOND_BOUNDS: [u64; 19] = scaled(1000.0);
/// [`ISTIO_BOUNDS`] in whole bytes.
pub(super) const BYTE_BOUNDS: [u64; 19] = scaled(1.0);

const fn scaled(factor: f64) -> [u64; 19] {
    let mut bounds = [0; 19];
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] = (ISTIO_BOUNDS[i] * factor) as u64;
        i += 1;
    }
    bounds
}

/// Counts per bucket of [`ISTIO_BOUNDS`] and the sum.
#[derive(Debug, Default)]
pub(super) struct IstioHistogram {
    buckets: [Counter; 20],
    sum: Counter,
}

impl IstioHistogram {
    /// Counts `value` into the first bucket whose bound is not below it.
    pub(super) fn observe(&self, value: u64, bounds: &[u64; 19]) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.inc();
        }
        self.sum.add(value);
    }

    /// How many values were counted.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// Sum of all values.
    pub(super) fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// Counts per bucket, not cumulative; the last is `+Inf`.
    pub(super) fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(Counter::get)
    }
}

impl Cells for IstioHistogram {
    fn absorb(&self, other: &Self) {
        self.buckets.absorb(&other.buckets);
        self.sum.absorb(&other.sum);
    }
}

/// Lower end of what [`LogHistogram`] tells apart: everything up to 2^8 ns (0.26 µs) shares a bucket.
const FIRST_OCTAVE: u32 = 8;
/// Upper end: everything from 2^30 ns (1.07 s) shares a bucket.
const LAST_OCTAVE: u32 = 30;
/// Every power of two is cut into this many buckets of equal width.
const STEPS: u64 = 4;
/// One bucket below, the octaves, one bucket above.
const LOG_BUCKETS: usize = ((LAST_OCTAVE - FIRST_OCTAVE) as u64 * STEPS + 2) as usize;

/// Times from a quarter of a microsecond to a second. Four buckets per power of two: a bucket is at most
/// 25 % wider than its lower end, so a percentile read from its middle is off by at most 12.5 %.
#[derive(Debug)]
pub(super) struct LogHistogram {
    buckets: [Counter; LOG_BUCKETS],
    sum: Counter,
}

impl Default for LogHistogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl LogHistogram {
    /// Counts a time in nanoseconds.
    pub(super) fn observe(&self, nanos: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            bucket.inc();
        }
        self.sum.add(nanos);
    }

    /// How many values were counted.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// Sum of all values in nanoseconds.
    pub(super) fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// The time that the fraction `quantile` (0..=1) of all values does not exceed, in nanoseconds: the middle of
    /// the bucket it falls into, hence at most 12.5 % off between 0.26 µs and 1.07 s. Below, half of 0.26 µs is
    /// answered, above, 1.07 s. `None` if nothing was counted.
    pub(super) fn quantile(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            below += bucket.get();
            if below >= rank {
                return Some(middle_of(index));
            }
        }
        None
    }

    /// Cumulative counts for export: (bound in seconds, count), one bound per two powers of two, 1 µs to 1.07 s.
    pub(super) fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut below = 0;
        let mut out = Vec::new();
        for (index, bucket) in self.buckets.iter().enumerate().take(LOG_BUCKETS - 1) {
            below += bucket.get();
            let end = end_of(index);
            if end.is_power_of_two() && end.trailing_zeros() >= 10 && end.trailing_zeros().is_multiple_of(2) {
                out.push((end as f64 / 1e9, below));
            }
        }
        out
    }
}

impl Cells for LogHistogram {
    fn absorb(&self, other: &Self) {
        for (mine, theirs) in self.buckets.iter().zip(&other.buckets) {
            mine.absorb(theirs);
        }
        self.sum.absorb(&other.sum);
    }
}

/// Bucket of a value. Buckets are open below and closed above, as Prometheus wants it, hence the decrement.
fn bucket_of(nanos: u64) -> usize {
    let value = nanos.saturating_sub(1);
    if value < 1 << FIRST_OCTAVE {
        return 0;
    }
    if value >= 1 << LAST_OCTAVE {
        return LOG_BUCKETS - 1;
    }
    let octave = value.ilog2();
    let step = (value >> (octave - 2)) & (STEPS - 1);
    (u64::from(octave - FIRST_OCTAVE) * STEPS + step + 1) as usize
}

/// The largest value of a bucket; for the last one, the largest of the one before.
fn end_of(bucket: usize) -> u64 {
    let bucket = (bucket as u64).min(LOG_BUCKETS as u64 - 2);
    let octave = bucket / STEPS + u64::from(FIRST_OCTAVE);
    (STEPS + bucket % STEPS) << (octave - 2)
}

fn middle_of(bucket: usize) -> u64 {
    let start = bucket.checked_sub(1).map_or(0, end_of);
    start.midpoint(end_of(bucket))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        let histogram = IstioHistogram::default();
        for micros in [0, 500, 501, 1000, 3_600_000_000, 3_600_000_001, u64::MAX / 2] {
            histogram.observe(micros, &MILLISECOND_BOUNDS);
        }
        let counts: Vec<u64> = histogram.counts().collect();
        assert_eq!((counts[0], counts[1], counts[18], counts[19]), (2, 2, 1, 2));
        assert_eq!(histogram.count(), 7);
        let bytes = IstioHistogram::default();
        bytes.observe(0, &BYTE_BOUNDS);
        bytes.observe(1, &BYTE_BOUNDS);
        bytes.observe(2, &BYTE_BOUNDS);
        assert_eq!(bytes.counts().take(3).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(bytes.sum(), 3);
    }

    #[test]
    fn buckets_touch_without_gap_or_overlap() {
        for bucket in 0..LOG_BUCKETS - 1 {
            assert_eq!(bucket_of(end_of(bucket)), bucket);
            assert_eq!(bucket_of(end_of(bucket) + 1), bucket + 1);
        }
        assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, LOG_BUCKETS - 1));
        assert_eq!(end_of(LOG_BUCKETS - 2), 1 << LAST_OCTAVE);
    }

    #[test]
    fn an_empty_histogram_has_no_percentile() {
        assert_eq!(LogHistogram::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_percentile_is_off_by_at_most_an_eighth(
            mut values in prop::collection::vec(257_u64..1_073_741_824, 1..400),
            quantile in 0.0_f64..=1.0,
        ) {
            let histogram = LogHistogram::default();
            values.iter().for_each(|value| histogram.observe(*value));
            values.sort_unstable();
            let rank = ((quantile * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1] as f64;
            let estimate = histogram.quantile(quantile).unwrap() as f64;
            prop_assert!((estimate - exact).abs() <= exact * 0.125 + 1.0, "{estimate} for {exact}");
        }

        #[test]
        fn exported_buckets_count_what_is_not_above_their_bound(values in prop::collection::vec(0_u64..2_000_000_000, 0..200)) {
            let histogram = LogHistogram::default();
            values.iter().for_each(|value| histogram.observe(*value));
            for (bound, count) in histogram.cumulative() {
                let exact = values.iter().filter(|value| **value as f64 / 1e9 <= bound).count();
                prop_assert_eq!(count, exact as u64);
            }
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert_eq!(histogram.sum(), values.iter().sum::<u64>());
        }
    }
}
