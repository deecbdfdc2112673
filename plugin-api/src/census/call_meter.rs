//! Measures how much memory a call takes: the most that its thread has allocated and not freed since
//! the call began.
//!
//! The host begins and ends the measurement of a call on the call's thread. Calls nest if a plugin
//! is called again by a plugin or service that it calls: the outer call includes the inner ones.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::root::RawMeasure;

/// Whether a call was ever measured. Each allocation reads it, so it shares its cache line with
/// nothing that changes.
static IS_USED: Used = Used(AtomicBool::new(false));

#[repr(align(128))]
struct Used(AtomicBool);

thread_local! {
    // Without a destructor, so an allocation may use it at any time.
    static METER: Cell<CallMeter> = const { Cell::new(CallMeter { live: 0, peak: 0 }) };
}

/// Returns whether allocations must be [recorded](record).
#[inline]
pub(super) fn is_used() -> bool {
    IS_USED.0.load(Ordering::Relaxed)
}

/// Adds the allocated or, if negative, freed bytes to the calling thread's meter.
#[cold]
#[inline(never)]
pub(super) fn record(bytes: isize) {
    METER.set(METER.get().with(bytes as i64));
}

/// Begins to measure a call on this thread, and returns what [`end`] needs.
pub(crate) fn begin() -> RawMeasure {
    if !is_used() {
        IS_USED.0.store(true, Ordering::Relaxed);
    }
    let CallMeter { live, peak } = METER.replace(CallMeter::default());
    RawMeasure { outer_live: live, outer_peak: peak }
}

/// Ends the measurement of a call on this thread, and returns its peak in bytes.
pub(crate) fn end(measure: RawMeasure) -> i64 {
    let meter = METER.get();
    METER.set(meter.ended_in(measure));
    meter.peak
}

/// The bytes that one thread allocated in a call, without those it freed. Negative if it freed what
/// was allocated before the call, or by other threads.
#[derive(Clone, Copy, Debug, Default)]
struct CallMeter {
    live: i64,
    /// The highest value of `live`.
    peak: i64,
}

// Wraps around rather than panics, since an allocator must not unwind.
impl CallMeter {
    fn with(self, bytes: i64) -> Self {
        let live = self.live.wrapping_add(bytes);
        Self { live, peak: self.peak.max(live) }
    }

    /// Returns the meter of the outer call once this one has ended.
    fn ended_in(self, RawMeasure { outer_live, outer_peak }: RawMeasure) -> Self {
        let peak = outer_live.wrapping_add(self.peak);
        Self { live: outer_live.wrapping_add(self.live), peak: outer_peak.max(peak) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What a thread does.
    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        Allocate(isize),
        End,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Begin),
            (-1_000..1_000_isize).prop_map(Step::Allocate),
            Just(Step::End),
        ]
    }

    proptest! {
        #[test]
        fn nested_calls_have_the_peaks_of_their_own_spans(steps in vec(step(), 0..64)) {
            let mut live = 0;
            // For each open call: the measure, the live bytes at its begin, and their maximum.
            let mut open: Vec<(RawMeasure, i64, i64)> = Vec::new();
            let close = |(measure, start, max): (RawMeasure, i64, i64)| (end(measure), max - start);
            for step in steps {
                match step {
                    Step::Begin => open.push((begin(), live, live)),
                    Step::Allocate(bytes) => {
                        record(bytes);
                        live += bytes as i64;
                        for (_, _, max) in &mut open {
                            *max = live.max(*max);
                        }
                    }
                    Step::End => {
                        let Some(call) = open.pop() else { continue };
                        let (found, expected) = close(call);
                        prop_assert_eq!(found, expected);
                    }
                }
            }
            while let Some(call) = open.pop() {
                let (found, expected) = close(call);
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn calls_of_other_threads_are_measured_apart() {
        let measure = begin();
        record(10);
        std::thread::spawn(|| {
            let measure = begin();
            record(1_000);
            assert_eq!(end(measure), 1_000);
        })
        .join()
        .unwrap();
        assert_eq!(end(measure), 10);
    }
}
