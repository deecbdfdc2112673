//! A histogram of durations that many threads record into without contention. Its size is fixed,
//! and each duration is known to within an eighth.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Each power of two is divided into 2 to the power of this buckets.
const SUB_BITS: u32 = 3;
const SUBS: usize = 1 << SUB_BITS;
/// Durations are below 2 to the power of this in nanoseconds: 18 minutes.
const NANOS_BITS: u32 = 40;
const MAX_NANOS: u64 = (1 << NANOS_BITS) - 1;
const BUCKETS: usize = (NANOS_BITS - SUB_BITS + 1) as usize * SUBS;

/// A histogram of durations: 304 buckets, 2.4 KiB, no lock.
///
/// Buckets are log-linear, as HdrHistogram's are: each nanosecond below 8 has its own bucket, and
/// each power of two from there on is divided into 8 of equal width. Durations above 18 minutes
/// count as 18 minutes.
pub struct Latencies {
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

/// The content of a [`Latencies`] at one moment, or its increase between two.
///
/// ```
/// use std::time::Duration;
/// use hotbay::metrics::Latencies;
///
/// let latencies = Latencies::new();
/// latencies.record(Duration::from_millis(2));
/// let earlier = latencies.snapshot();
/// latencies.record(Duration::from_millis(4));
/// let since = latencies.snapshot().since(&earlier);
/// assert_eq!((since.count(), since.sum()), (1, Duration::from_millis(4)));
/// let bucket = since.buckets().next().unwrap();
/// assert!(bucket.from <= Duration::from_millis(4) && Duration::from_millis(4) < bucket.to);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencySnapshot {
    /// One count for each bucket.
    counts: Vec<u64>,
    sum_nanos: u64,
}

/// One bucket of a [`LatencySnapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencyBucket {
    /// The lower bound, inclusive.
    pub from: Duration,
    /// The upper bound, exclusive.
    pub to: Duration,
    /// The number of durations in it; never zero.
    pub count: u64,
}

impl Latencies {
    /// Creates an empty histogram.
    pub const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_nanos: AtomicU64::new(0) }
    }

    /// Records a duration. Never waits.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).map_or(MAX_NANOS, |n| n.min(MAX_NANOS));
        // Relaxed: the numbers are independent.
        self.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns the current content. A duration that is being recorded may be in the buckets and not
    /// yet in the sum.
    pub fn snapshot(&self) -> LatencySnapshot {
        LatencySnapshot {
            counts: self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum_nanos: self.sum_nanos.load(Ordering::Relaxed),
        }
    }

    /// Returns the mean of all durations, or `None` without any.
    pub(crate) fn mean(&self) -> Option<Duration> {
        let count = self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
        let nanos = self.sum_nanos.load(Ordering::Relaxed).checked_div(count)?;
        Some(Duration::from_nanos(nanos))
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for LatencySnapshot {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], sum_nanos: 0 }
    }
}

impl LatencySnapshot {
    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of all durations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos)
    }

    /// Returns the buckets that are not empty, the shortest first.
    pub fn buckets(&self) -> impl Iterator<Item = LatencyBucket> + '_ {
        let held = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        held.map(|(bucket, count)| LatencyBucket {
            from: Duration::from_nanos(nanos_from(bucket)),
            to: Duration::from_nanos(nanos_from(bucket + 1)),
            count: *count,
        })
    }

    /// Returns what was recorded after `earlier`, a snapshot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts);
        Self {
            counts: counts.map(|(now, then)| now.saturating_sub(*then)).collect(),
            sum_nanos: self.sum_nanos.saturating_sub(earlier.sum_nanos),
        }
    }
}

impl LatencyBucket {
    /// Returns the middle of the bucket, as an estimate of its durations.
    pub fn middle(&self) -> Duration {
        self.from + (self.to - self.from) / 2
    }
}

/// Returns the bucket of a duration that is at most `MAX_NANOS`.
#[inline]
fn bucket(nanos: u64) -> usize {
    // The highest bit and the three below it select the bucket.
    let shift = (nanos | SUBS as u64).ilog2() - SUB_BITS;
    let top = (nanos >> shift) as usize;
    if shift == 0 { top } else { shift as usize * SUBS + top }
}

/// Returns the lower bound of a bucket, or of the one after the last.
fn nanos_from(bucket: usize) -> u64 {
    match (bucket / SUBS).checked_sub(1) {
        None => bucket as u64,
        Some(shift) => ((SUBS + bucket % SUBS) as u64) << shift,
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.snapshot();
        let (count, sum) = (now.count(), now.sum());
        f.debug_struct("Latencies").field("count", &count).field("sum", &sum).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;

    #[test]
    fn buckets_are_adjacent_and_fill_the_table() {
        assert_eq!(BUCKETS, 304);
        assert!(size_of::<Latencies>() < 4096);
        for index in 0..BUCKETS {
            let (from, to) = (nanos_from(index), nanos_from(index + 1));
            assert!(from < to);
            assert_eq!((bucket(from), bucket(to - 1)), (index, index), "{from}..{to}");
        }
        assert_eq!(nanos_from(BUCKETS), MAX_NANOS + 1);
    }

    #[test]
    fn duration_above_maximum_counts_as_maximum() {
        let latencies = Latencies::new();
        for nanos in [MAX_NANOS, MAX_NANOS + 1, u64::MAX] {
            latencies.record(Duration::from_nanos(nanos));
        }
        latencies.record(Duration::MAX);
        let now = latencies.snapshot();
        assert_eq!((now.count(), now.buckets().count()), (4, 1));
        assert_eq!(now.sum(), Duration::from_nanos(MAX_NANOS) * 4);
    }

    #[test]
    fn concurrent_records_are_exact_and_since_is_the_difference() {
        let latencies = Latencies::new();
        latencies.record(Duration::from_micros(7));
        let earlier = latencies.snapshot();
        thread::scope(|scope| {
            for thread in 1..=4 {
                let latencies = &latencies;
                let record = move |n: u64| latencies.record(Duration::from_nanos(n * thread));
                scope.spawn(move || (0..10_000).for_each(record));
            }
        });
        let now = latencies.snapshot();
        assert_eq!(now.count(), 40_001);
        let since = now.since(&earlier);
        assert_eq!(since.count(), 40_000);
        let all = (0..10_000).sum::<u64>() * (1 + 2 + 3 + 4);
        assert_eq!(since.sum(), Duration::from_nanos(all));
        assert_eq!(now.since(&now), Latencies::new().snapshot());
    }

    proptest! {
        #[test]
        fn duration_is_in_its_bucket_and_near_the_middle(nanos in 0..=MAX_NANOS) {
            let latencies = Latencies::new();
            let duration = Duration::from_nanos(nanos);
            latencies.record(duration);
            let now = latencies.snapshot();
            prop_assert_eq!((now.count(), now.sum()), (1, duration));
            let bucket = now.buckets().next().expect("a bucket");
            prop_assert!(bucket.from <= duration && duration < bucket.to);
            prop_assert!(bucket.middle().abs_diff(duration) <= duration / 16 + Duration::from_nanos(1));
        }

        #[test]
        fn longer_duration_is_in_no_lower_bucket(
            (one, other) in (0..NANOS_BITS).prop_flat_map(|bits| (0..2_u64 << bits, 0..2_u64 << bits))
        ) {
            let (short, long) = (one.min(other).min(MAX_NANOS), one.max(other).min(MAX_NANOS));
            prop_assert!(bucket(short) <= bucket(long) && bucket(long) < BUCKETS);
        }

        #[test]
        fn count_and_sum_are_exact(nanos in proptest::collection::vec(0..=MAX_NANOS, 0..200)) {
            let latencies = Latencies::new();
            nanos.iter().for_each(|nanos| latencies.record(Duration::from_nanos(*nanos)));
            let now = latencies.snapshot();
            prop_assert_eq!(now.count(), nanos.len() as u64);
            prop_assert_eq!(now.sum(), Duration::from_nanos(nanos.iter().sum()));
            let mean = nanos.iter().sum::<u64>().checked_div(nanos.len() as u64);
            prop_assert_eq!(latencies.mean(), mean.map(Duration::from_nanos));
        }
    }
}
