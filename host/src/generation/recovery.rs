//! Quarantine decisions after faults. Pure: time is an argument. The circuit breaker reads only
//! the resulting flag.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::Quarantine;
use crate::sync::after;

/// The faults of a generation, and its quarantine.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The generation; events of others are ignored.
    generation: u64,
    /// Times of the faults within the window.
    faults: VecDeque<Instant>,
    quarantined: Option<Quarantined>,
    /// Number of probes started.
    probes: u64,
}

/// A call whose outcome decides whether a quarantine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) generation: u64,
    pub(crate) number: u64,
}

#[derive(Debug)]
struct Quarantined {
    until: Instant,
    back_off: Duration,
    /// The running probe, and when it started.
    probing: Option<(u64, Instant)>,
}

/// The consequence of a fault.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Continue to admit calls.
    Continue,
    /// Reject calls for this time.
    Quarantine { faults: u32, back_off: Duration },
}

/// Whether a call is admitted.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AdmissionDecision {
    /// It is admitted.
    Allow,
    /// It is admitted as a probe.
    Probe(Probe),
    /// It is rejected; the next probe is admitted after this time.
    Reject { probe_in: Duration },
}

/// The effect of a probe that succeeded.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ProbeEffect {
    /// None.
    Unchanged,
    /// The quarantine ended.
    Restored,
}

impl History {
    /// Creates the history of a generation without faults.
    pub(crate) fn new(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Returns the number of the running probe.
    pub(crate) fn probing(&self) -> Option<u64> {
        let probing = self.quarantined.as_ref().and_then(|quarantined| quarantined.probing);
        probing.map(|(number, _)| number)
    }

    /// Records a fault of `generation` at `at`. Ignored if `policy` is `None`.
    pub(crate) fn fault(
        &mut self,
        generation: u64,
        at: Instant,
        probe: bool,
        policy: Option<&Quarantine>,
    ) -> Decision {
        let Some(policy) = policy.filter(|_| generation == self.generation) else {
            return Decision::Continue;
        };
        if let Some(quarantined) = &self.quarantined {
            if !probe {
                return Decision::Continue;
            }
            let back_off = quarantined.back_off.saturating_mul(2).min(policy.max_backoff);
            return self.quarantine(at, 1, back_off);
        }
        self.faults.push_back(at);
        while self.faults.front().is_some_and(|first| at.duration_since(*first) > policy.window) {
            self.faults.pop_front();
        }
        if self.faults.len() < policy.max_faults.max(1) as usize {
            return Decision::Continue;
        }
        let faults = u32::try_from(self.faults.len()).unwrap_or(u32::MAX);
        self.faults.clear();
        self.quarantine(at, faults, policy.initial_backoff.min(policy.max_backoff))
    }

    fn quarantine(&mut self, at: Instant, faults: u32, back_off: Duration) -> Decision {
        let until = after(at, back_off);
        self.quarantined = Some(Quarantined { until, back_off, probing: None });
        Decision::Quarantine { faults, back_off }
    }

    /// Decides whether a call is admitted at `at`.
    pub(crate) fn admit(&mut self, at: Instant) -> AdmissionDecision {
        let Some(quarantined) = &mut self.quarantined else { return AdmissionDecision::Allow };
        // A probe that never returns is followed by another.
        let until = match quarantined.probing {
            Some((_, since)) => after(since, quarantined.back_off),
            None => quarantined.until,
        };
        if at < until {
            return AdmissionDecision::Reject { probe_in: until.duration_since(at) };
        }
        self.probes += 1;
        quarantined.probing = Some((self.probes, at));
        AdmissionDecision::Probe(Probe { generation: self.generation, number: self.probes })
    }

    /// Records that a probe returned without a fault. Ignored unless it is the current probe.
    pub(crate) fn probe_succeeded(&mut self, probe: Probe) -> ProbeEffect {
        if self.is_current_probe(probe) && self.quarantined.take().is_some() {
            ProbeEffect::Restored
        } else {
            ProbeEffect::Unchanged
        }
    }

    /// Records that a probe did not reach the plugin: the next call may probe.
    pub(crate) fn probe_cancelled(&mut self, probe: Probe) {
        if self.is_current_probe(probe)
            && let Some(quarantined) = &mut self.quarantined
        {
            quarantined.probing = None;
        }
    }

    fn is_current_probe(&self, probe: Probe) -> bool {
        let probing = self.quarantined.as_ref().and_then(|quarantined| quarantined.probing);
        probe.generation == self.generation
            && probing.is_some_and(|(number, _)| number == probe.number)
    }

    /// Returns whether the generation is quarantined.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.quarantined.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Quarantine = Quarantine {
        max_faults: 3,
        window: Duration::from_secs(10),
        initial_backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(3),
    };

    fn quarantine(faults: u32, seconds: u64) -> Decision {
        Decision::Quarantine { faults, back_off: Duration::from_secs(seconds) }
    }

    #[test]
    fn faults_within_window_quarantine_and_faults_apart_do_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut history = History::new(7);
        for seconds in [0, 6, 12, 18, 24] {
            assert_eq!(history.fault(7, at(seconds), false, Some(&POLICY)), Decision::Continue);
        }
        assert_eq!(history.fault(7, at(25), false, Some(&POLICY)), quarantine(3, 1));
        assert_eq!(
            history.admit(at(25)),
            AdmissionDecision::Reject { probe_in: Duration::from_secs(1) }
        );
    }

    #[test]
    fn failed_probe_doubles_backoff_and_only_one_probe_runs() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut history = History::new(7);
        for _ in 0..2 {
            assert_eq!(history.fault(7, at(0), false, Some(&POLICY)), Decision::Continue);
        }
        assert_eq!(history.fault(7, at(0), false, Some(&POLICY)), quarantine(3, 1));
        // The outcome of a call that started before the quarantine is ignored.
        assert_eq!(history.fault(7, at(0), false, Some(&POLICY)), Decision::Continue);
        assert_eq!(history.fault(6, at(0), true, Some(&POLICY)), Decision::Continue);
        let probe = |number| Probe { generation: 7, number };
        let of_before = Probe { generation: 6, number: 1 };
        for (number, now, back_off) in [(1, 1, 2), (2, 3, 3), (3, 6, 3)] {
            assert_eq!(history.admit(at(now)), AdmissionDecision::Probe(probe(number)));
            assert_eq!(history.probe_succeeded(of_before), ProbeEffect::Unchanged);
            assert!(matches!(history.admit(at(now)), AdmissionDecision::Reject { .. }));
            assert_eq!(history.fault(7, at(now), true, Some(&POLICY)), quarantine(1, back_off));
            // It was replaced, so its outcome is ignored.
            assert_eq!(history.probe_succeeded(probe(number)), ProbeEffect::Unchanged);
        }
        assert_eq!(history.admit(at(9)), AdmissionDecision::Probe(probe(4)));
        history.probe_cancelled(of_before);
        assert!(matches!(history.admit(at(9)), AdmissionDecision::Reject { .. }));
        history.probe_cancelled(probe(4));
        assert_eq!(history.admit(at(9)), AdmissionDecision::Probe(probe(5)));
        // This probe never returns; another one is admitted after the backoff.
        assert_eq!(history.admit(at(12)), AdmissionDecision::Probe(probe(6)));
        assert_eq!(history.probe_succeeded(probe(6)), ProbeEffect::Restored);
        assert_eq!(history.admit(at(9)), AdmissionDecision::Allow);
    }

    #[test]
    fn faults_without_policy_are_ignored() {
        let mut history = History::new(7);
        for _ in 0..1000 {
            assert_eq!(history.fault(7, Instant::now(), false, None), Decision::Continue);
        }
        assert!(!history.is_quarantined());
        assert!(history.faults.is_empty());
    }
}
