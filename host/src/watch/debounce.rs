//! Decides when an attempt to load a changed folder is due. Pure: time and signatures are
//! arguments, so it reads neither the clock nor the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The waiting times of a [`Debouncer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct DebounceLimits {
    /// Time for which written files must stay the same.
    pub(crate) quiet_period: Duration,
    /// Time for which files that are missing or do not match must stay so.
    pub(crate) incomplete_period: Duration,
}

impl Default for DebounceLimits {
    fn default() -> Self {
        Self {
            quiet_period: Duration::from_millis(50),
            incomplete_period: Duration::from_millis(300),
        }
    }
}

/// A change of a folder's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A file that is not theirs; counts only if the signature differs.
    Unrelated,
    /// A file was renamed into place, so it is complete.
    Renamed,
    /// A file may be half written, or was removed.
    Written,
}

/// The kind of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The folder may be half replaced.
    Tentative,
    /// The folder did not change for long enough to be complete.
    Final,
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    /// The attempt is complete.
    Done,
    /// A plugin changed, which others may wait for.
    Changed,
    /// The folder may be half replaced.
    MaybeIncomplete,
    /// The folder holds no plugin, and none of it serves.
    Removed,
}

/// The known folders, and those of them that are changing.
#[derive(Debug)]
pub(crate) struct Debouncer<S> {
    limits: DebounceLimits,
    /// `None` if any signature counts as a change.
    idle: BTreeMap<PathBuf, Option<S>>,
    active: BTreeMap<PathBuf, Active<S>>,
}

#[derive(Debug)]
struct Active<S> {
    /// The signature at the last attempt.
    last_signature: Option<S>,
    changed_at: Instant,
    state: State<S>,
}

#[derive(Debug)]
enum State<S> {
    /// Due at `at` if the signature is still the same.
    Writing {
        signature: S,
        at: Instant,
    },
    Due,
    /// An attempt runs; the folder may change meanwhile.
    Running {
        attempt: Attempt,
        pending: Option<(Change, S)>,
    },
    /// Due for a final attempt unless it changes.
    MaybeIncomplete,
}

impl<S: PartialEq> Debouncer<S> {
    pub(crate) fn new(limits: DebounceLimits) -> Self {
        Self { limits, idle: BTreeMap::new(), active: BTreeMap::new() }
    }

    /// Adds a folder that needs no attempt before it changes.
    pub(crate) fn add_known(&mut self, folder: PathBuf, signature: S) {
        self.idle.insert(folder, Some(signature));
    }

    pub(crate) fn contains(&self, folder: &Path) -> bool {
        self.idle.contains_key(folder) || self.active.contains_key(folder)
    }

    /// Returns the known folders in and below `dir`.
    pub(crate) fn below(&self, dir: &Path) -> BTreeSet<PathBuf> {
        let idle = self.idle.range(dir.to_owned()..).map(|(folder, _)| folder);
        let active = self.active.range(dir.to_owned()..).map(|(folder, _)| folder);
        let inside = |folder: &&PathBuf| folder.starts_with(dir);
        idle.take_while(inside).chain(active.take_while(inside)).cloned().collect()
    }

    /// Records a change of a folder, and its current signature.
    pub(crate) fn changed(&mut self, folder: &Path, change: Change, signature: S, now: Instant) {
        let at = now + self.limits.quiet_period;
        let Some(active) = self.active.get_mut(folder) else {
            let last_signature = self.idle.get(folder).and_then(Option::as_ref);
            if change != Change::Written && last_signature == Some(&signature) {
                return;
            }
            let last_signature = self.idle.remove(folder).flatten();
            let state = match change {
                Change::Renamed => State::Due,
                Change::Unrelated | Change::Written => State::Writing { signature, at },
            };
            self.active
                .insert(folder.to_owned(), Active { last_signature, changed_at: now, state });
            return;
        };
        let known = match &active.state {
            State::Writing { signature, .. } => Some(signature),
            State::Running { pending: Some((_, signature)), .. } => Some(signature),
            _ => active.last_signature.as_ref(),
        };
        if change != Change::Written && known == Some(&signature) {
            return;
        }
        active.changed_at = now;
        match &mut active.state {
            State::Due if change != Change::Written => {}
            State::MaybeIncomplete if change == Change::Renamed => active.state = State::Due,
            State::Running { pending, .. } => {
                let writing = matches!(pending, Some((Change::Unrelated | Change::Written, _)));
                let change = if writing { Change::Written } else { change };
                *pending = Some((change, signature));
            }
            State::Writing { .. } | State::Due | State::MaybeIncomplete => {
                active.state = State::Writing { signature, at };
            }
        }
    }

    /// Requests another attempt, although the folder did not change.
    pub(crate) fn retry(&mut self, folder: &Path, now: Instant) {
        if let Some(active) = self.active.get_mut(folder) {
            if let State::MaybeIncomplete = active.state {
                active.state = State::Due;
            }
        } else if let Some(last_signature) = self.idle.remove(folder) {
            let active = Active { last_signature, changed_at: now, state: State::Due };
            self.active.insert(folder.to_owned(), active);
        }
    }

    /// Starts at most `max` attempts that are due, and returns their folders.
    pub(crate) fn take_due(
        &mut self,
        now: Instant,
        max: usize,
        mut signature_of: impl FnMut(&Path) -> S,
    ) -> Vec<(PathBuf, Attempt)> {
        let mut due = Vec::new();
        for (folder, active) in &mut self.active {
            if due.len() == max {
                break;
            }
            let attempt = match &active.state {
                State::Due => Attempt::Tentative,
                State::Writing { at, .. } if *at <= now => Attempt::Tentative,
                State::MaybeIncomplete
                    if active.changed_at + self.limits.incomplete_period <= now =>
                {
                    Attempt::Final
                }
                _ => continue,
            };
            let signature = signature_of(folder);
            let before = match &active.state {
                State::Writing { signature, .. } => Some(signature),
                State::MaybeIncomplete => active.last_signature.as_ref(),
                State::Due | State::Running { .. } => None,
            };
            if before.is_some_and(|before| *before != signature) {
                active.changed_at = now;
                active.state = State::Writing { signature, at: now + self.limits.quiet_period };
                continue;
            }
            active.last_signature = Some(signature);
            active.state = State::Running { attempt, pending: None };
            due.push((folder.clone(), attempt));
        }
        due
    }

    /// Records the outcome of an attempt.
    pub(crate) fn finish(&mut self, folder: &Path, outcome: AttemptOutcome) {
        let Some(active) = self.active.get_mut(folder) else { return };
        let State::Running { attempt, pending } = &mut active.state else { return };
        let (attempt, pending) = (*attempt, pending.take());
        match (pending, outcome) {
            (Some((Change::Renamed, _)), _) => active.state = State::Due,
            (Some((_, signature)), _) => {
                let at = active.changed_at + self.limits.quiet_period;
                active.state = State::Writing { signature, at };
            }
            (None, AttemptOutcome::MaybeIncomplete) if attempt == Attempt::Tentative => {
                active.state = State::MaybeIncomplete
            }
            (None, AttemptOutcome::Removed) => {
                self.active.remove(folder);
            }
            (
                None,
                AttemptOutcome::Done | AttemptOutcome::Changed | AttemptOutcome::MaybeIncomplete,
            ) => {
                let last_signature =
                    self.active.remove(folder).and_then(|active| active.last_signature);
                self.idle.insert(folder.to_owned(), last_signature);
            }
        }
    }

    /// Cancels an attempt that was started; any next signature counts as a change.
    pub(crate) fn postpone(&mut self, folder: &Path) {
        if self.active.remove(folder).is_some() {
            self.idle.insert(folder.to_owned(), None);
        }
    }

    /// Returns when the next attempt may be due.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let at = |active: &Active<S>| match &active.state {
            State::Writing { at, .. } => Some(*at),
            State::Due => Some(active.changed_at),
            State::MaybeIncomplete => Some(active.changed_at + self.limits.incomplete_period),
            State::Running { .. } => None,
        };
        self.active.values().filter_map(at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of a test, at a time in milliseconds.
    enum Step {
        /// A change, with the signature after it.
        Changed(Change, u32),
        /// The signature changes without an event.
        SilentChange(u32),
        /// An attempt finishes.
        Finish(AttemptOutcome),
        /// Another attempt is requested.
        Retry,
        /// The attempt is cancelled.
        Postpone,
    }
    use Step::{Changed, Postpone, Retry, SilentChange};

    /// Runs the steps and compares the attempts, as `time attempt`.
    fn check(steps: &[(u64, Step)], expected: &[&str]) {
        let folder = Path::new("echo");
        let start = Instant::now();
        let mut debouncer = Debouncer::new(DebounceLimits::default());
        debouncer.add_known(folder.to_owned(), 0);
        let mut signature = 0;
        let mut attempts = Vec::new();
        let mut steps = steps.iter().peekable();
        for ms in 0..2_000 {
            let now = start + Duration::from_millis(ms);
            while let Some((_, step)) = steps.next_if(|(at, _)| *at == ms) {
                match step {
                    Changed(change, after) => {
                        signature = *after;
                        debouncer.changed(folder, *change, signature, now);
                    }
                    SilentChange(after) => signature = *after,
                    Step::Finish(outcome) => debouncer.finish(folder, *outcome),
                    Retry => debouncer.retry(folder, now),
                    Postpone => debouncer.postpone(folder),
                }
            }
            let is_due = debouncer.next_at().is_some_and(|at| at <= now);
            let due = debouncer.take_due(now, 1, |_| signature);
            assert!(is_due || due.is_empty(), "not due by `next_at` at {ms}");
            attempts.extend(due.into_iter().map(|(_, attempt)| format!("{ms} {attempt:?}")));
        }
        assert_eq!(attempts, expected);
        assert!(debouncer.active.len() + debouncer.idle.len() <= 1);
    }

    use AttemptOutcome::{Done, MaybeIncomplete, Removed};
    use Change::{Renamed, Unrelated, Written};

    #[test]
    fn renamed_file_is_due_at_once() {
        check(&[(10, Changed(Renamed, 1))], &["10 Tentative"]);
        let pending = [
            (10, Changed(Renamed, 1)),
            (12, Changed(Renamed, 2)),
            (15, Step::Finish(Done)),
            (16, Step::Finish(Done)),
        ];
        check(&pending, &["10 Tentative", "15 Tentative"]);
    }

    #[test]
    fn written_file_is_due_after_quiet_period() {
        check(&[(10, Changed(Written, 1))], &["60 Tentative"]);
        check(&[(10, Changed(Written, 1)), (40, Changed(Written, 2))], &["90 Tentative"]);
        check(&[(10, Changed(Written, 1)), (40, SilentChange(2))], &["110 Tentative"]);
        // A renamed file does not complete another one that is being written.
        check(&[(10, Changed(Written, 1)), (20, Changed(Renamed, 2))], &["70 Tentative"]);
        // Times on disk are coarse: an event counts even if the signature is the same.
        check(&[(10, Changed(Written, 0))], &["60 Tentative"]);
    }

    #[test]
    fn unrelated_change_counts_only_if_signature_differs() {
        check(&[(10, Changed(Unrelated, 0)), (20, Changed(Renamed, 0))], &[]);
        check(&[(10, Changed(Unrelated, 1))], &["60 Tentative"]);
        let storm: Vec<_> = (10..500).map(|ms| (ms, Changed(Unrelated, 1))).collect();
        check(&storm, &["60 Tentative"]);
    }

    #[test]
    fn incomplete_folder_is_retried_at_changes_then_finally() {
        let half = [(10, Changed(Renamed, 1)), (11, Step::Finish(MaybeIncomplete))];
        check(&half, &["10 Tentative", "310 Final"]);
        let whole = [
            (10, Changed(Renamed, 1)),
            (11, Step::Finish(MaybeIncomplete)),
            (20, Changed(Renamed, 2)),
            (21, Step::Finish(Done)),
        ];
        check(&whole, &["10 Tentative", "20 Tentative"]);
        let never = [
            (10, Changed(Renamed, 1)),
            (11, Step::Finish(MaybeIncomplete)),
            (200, Changed(Written, 2)),
            (251, Step::Finish(MaybeIncomplete)),
            (501, Step::Finish(MaybeIncomplete)),
        ];
        check(&never, &["10 Tentative", "250 Tentative", "500 Final"]);
    }

    #[test]
    fn folder_that_changes_during_attempt_is_due_again() {
        let changes = [
            (10, Changed(Renamed, 1)),
            (20, Changed(Written, 2)),
            (21, Changed(Renamed, 3)),
            (30, Step::Finish(MaybeIncomplete)),
        ];
        check(&changes, &["10 Tentative", "71 Tentative"]);
    }

    #[test]
    fn retry_skips_removed_folder_and_repeats_incomplete_one() {
        let gone = [(10, Changed(Renamed, 1)), (20, Step::Finish(Removed)), (30, Retry)];
        check(&gone, &["10 Tentative"]);
        let limits = [(10, Changed(Renamed, 1)), (20, Step::Finish(MaybeIncomplete)), (30, Retry)];
        check(&limits, &["10 Tentative", "30 Tentative"]);
        check(&[(30, Retry)], &["30 Tentative"]);
    }

    #[test]
    fn any_signature_counts_after_cancelled_attempt() {
        let steps = [(10, Changed(Renamed, 1)), (20, Postpone), (30, Changed(Unrelated, 1))];
        check(&steps, &["10 Tentative", "80 Tentative"]);
    }
}
