//! A histogram of durations that many threads record into without waiting for each other.
//! Fixed in size; forgets nothing, and knows each duration to one part in eight.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets between a power of two and the next: 2 to the power of this.
const SUB_BITS: u32 = 3;
const SUBS: usize = 1 << SUB_BITS;
/// Durations are below 2 to the power of this, in nanoseconds: 18 minutes.
const NANOS_BITS: u32 = 40;
const MAX_NANOS: u64 = (1 << NANOS_BITS) - 1;
const BUCKETS: usize = (NANOS_BITS - SUB_BITS + 1) as usize * SUBS;

/// A histogram of durations: 304 buckets, 2.4 KiB, no lock.
///
/// Buckets are log-linear, as HdrHistogram's are: each nanosecond below 8 has its own, and
/// from there on each power of two is cut into 8 of equal width. What is longer than 18
/// minutes counts as 18 minutes.
pub struct Latencies {
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

/// What a [`Latencies`] held at one moment, or what it got between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencySnapshot {
    /// As many as there are buckets.
    counts: Vec<u64>,
    sum_nanos: u64,
}

/// One bucket of a [`LatencySnapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencyBucket {
    /// The shortest duration in it.
    pub from: Duration,
    /// The shortest duration above it.
    pub to: Duration,
    /// Durations in it; never zero.
    pub count: u64,
}

impl Latencies {
    /// A histogram without durations.
    pub const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_nanos: AtomicU64::new(0) }
    }

    /// Adds one duration. Never waits.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).map_or(MAX_NANOS, |n| n.min(MAX_NANOS));
        // Relaxed: each number stands for itself.
        self.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What is in it now. A duration that is recorded at the same time may be in the buckets
    /// and not yet in the sum.
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

impl LatencySnapshot {
    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All durations together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos)
    }

    /// The buckets that hold anything, the shortest first.
    pub fn buckets(&self) -> impl Iterator<Item = LatencyBucket> + '_ {
        let held = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        held.map(|(bucket, count)| LatencyBucket {
            from: Duration::from_nanos(nanos_from(bucket)),
            to: Duration::from_nanos(nanos_from(bucket + 1)),
            count: *count,
        })
    }

    /// What was recorded after `earlier`, which is of the same histogram.
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
    /// The duration that stands for all in it: its middle.
    pub fn middle(&self) -> Duration {
        self.from + (self.to - self.from) / 2
    }
}

/// The bucket of a duration that is at most `NANOS_MAX`.
#[inline]
fn bucket(nanos: u64) -> usize {
    // The highest bit and the three below it say which bucket.
    let shift = (nanos | SUBS as u64).ilog2() - SUB_BITS;
    let top = (nanos >> shift) as usize;
    if shift == 0 { top } else { shift as usize * SUBS + top }
}

/// The shortest duration of a bucket, or of the one after the last.
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
    fn the_buckets_follow_each_other_without_a_gap_and_fill_the_table() {
        assert_eq!(BUCKETS, 304);
        assert!(size_of::<Latencies>() < 4096);
        for here in 0..BUCKETS {
            let (from, to) = (nanos_from(here), nanos_from(here + 1));
            assert!(from < to);
            assert_eq!((bucket(from), bucket(to - 1)), (here, here), "{from}..{to}");
        }
        assert_eq!(nanos_from(BUCKETS), MAX_NANOS + 1);
    }

    #[test]
    fn what_is_longer_than_the_longest_counts_as_the_longest() {
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
    fn many_threads_lose_nothing_and_a_later_snapshot_knows_what_came_since() {
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
        fn a_duration_is_in_its_bucket_and_near_the_middle(nanos in 0..=MAX_NANOS) {
            let latencies = Latencies::new();
            let duration = Duration::from_nanos(nanos);
            latencies.record(duration);
            let now = latencies.snapshot();
            prop_assert_eq!((now.count(), now.sum()), (1, duration));
            let bucket = now.buckets().next().expect("one");
            prop_assert!(bucket.from <= duration && duration < bucket.to);
            prop_assert!(bucket.middle().abs_diff(duration) <= duration / 16 + Duration::from_nanos(1));
        }

        #[test]
        fn a_longer_duration_is_in_no_lower_bucket(
            (one, other) in (0..NANOS_BITS).prop_flat_map(|bits| (0..2_u64 << bits, 0..2_u64 << bits))
        ) {
            let (short, long) = (one.min(other).min(MAX_NANOS), one.max(other).min(MAX_NANOS));
            prop_assert!(bucket(short) <= bucket(long) && bucket(long) < BUCKETS);
        }

        #[test]
        fn nothing_is_lost(nanos in proptest::collection::vec(0..=MAX_NANOS, 0..200)) {
            let latencies = Latencies::new();
            nanos.iter().for_each(|nanos| latencies.record(Duration::from_nanos(*nanos)));
            let now = latencies.snapshot();
            prop_assert_eq!(now.count(), nanos.len() as u64);
            prop_assert_eq!(now.sum(), Duration::from_nanos(nanos.iter().sum()));
        }
    }
}
