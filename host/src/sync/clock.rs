//! Checks whether a deadline has passed. Reading the system's precise clock costs more than the rest of a
//! call. On Linux, the coarse clock costs a third of that. It is behind by a tick, which is a few
//! milliseconds, so it decides only for deadlines that are far away.

use std::time::{Duration, Instant};

/// A deadline that is further away than this according to the coarse clock has not passed.
const COARSE_MARGIN: Duration = Duration::from_millis(50);

/// Returns whether `deadline` has passed.
#[inline(never)]
pub(crate) fn has_passed(deadline: Instant) -> bool {
    if let Some((base, since)) = coarse::now() {
        let left = deadline.saturating_duration_since(base.instant);
        if left > since + COARSE_MARGIN {
            return false;
        }
    }
    deadline <= Instant::now()
}

/// One moment, read from both clocks. `Instant` is the precise clock, and does not expose its value.
#[derive(Debug)]
struct Base {
    instant: Instant,
    monotonic_nanos: u64,
}

#[cfg(all(target_os = "linux", not(miri)))]
mod coarse {
    use std::time::{Duration, Instant};

    use once_cell::race::OnceBox;
    use rustix::time::{ClockId, clock_gettime};

    use super::Base;

    /// Number of attempts to read both clocks in quick succession.
    const ATTEMPTS: usize = 8;

    impl Base {
        fn measure() -> Option<Self> {
            let attempt = |_| {
                let instant = Instant::now();
                let monotonic_nanos = nanos(ClockId::Monotonic);
                (instant.elapsed(), Self { instant, monotonic_nanos })
            };
            let (_, base) = (0..ATTEMPTS).map(attempt).min_by_key(|(took, _)| *took)?;
            Some(base)
        }
    }

    /// Returns the base and the time since it according to the coarse clock; `None` if it cannot be
    /// determined.
    #[inline(always)]
    pub(super) fn now() -> Option<(&'static Base, Duration)> {
        // Threads race instead of waiting, as for the fences of leases.
        static BASE: OnceBox<Option<Base>> = OnceBox::new();
        let base = BASE.get_or_init(|| Box::new(Base::measure())).as_ref()?;
        // The coarse clock is behind the base only until its first tick after it.
        let since = nanos(ClockId::MonotonicCoarse).checked_sub(base.monotonic_nanos)?;
        Some((base, Duration::from_nanos(since)))
    }

    /// Returns the reading of a clock in nanoseconds. It must count from boot, so that the value
    /// fits.
    #[inline(always)]
    fn nanos(clock: ClockId) -> u64 {
        let time = clock_gettime(clock);
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod coarse {
    use std::time::Duration;

    use super::Base;

    pub(super) fn now() -> Option<(&'static Base, Duration)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_has_passed_exactly_by_the_precise_clock() {
        let now = Instant::now();
        assert!(has_passed(now));
        assert!(has_passed(now - Duration::from_millis(1)));
        assert!(!has_passed(now + Duration::from_secs(60)));
        let near = now + COARSE_MARGIN / 2;
        while !has_passed(near) {
            std::thread::yield_now();
        }
        assert!(near <= Instant::now());
    }
}
