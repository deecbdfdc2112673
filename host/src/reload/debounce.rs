//! When a folder that changes is to be looked at: pure. Time and signatures are arguments, so
//! it reads neither the clock nor the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long is waited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DebounceLimits {
    /// Files that are written must have been the same for so long.
    pub(crate) quiet_period: Duration,
    /// What does not fit together, or is gone, must have been so for so long.
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

/// What happened to a folder's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Something beside them; only another signature counts.
    Unrelated,
    /// One was renamed into place, so it is whole.
    Renamed,
    /// One may be half written, or is gone.
    Written,
}

/// How a folder is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It may be half of a replacement.
    Tentative,
    /// It has been as it is for long enough to be meant.
    Final,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    /// There is no more to do.
    Done,
    /// Something was done that others may have waited for.
    Changed,
    /// It may be half of a replacement.
    MaybeIncomplete,
    /// There is no plugin, and none of it serves.
    Removed,
}

/// The folders that are known, and those of them that change.
#[derive(Debug)]
pub(crate) struct Debouncer<S> {
    limits: DebounceLimits,
    /// None where any signature is news.
    idle: BTreeMap<PathBuf, Option<S>>,
    active: BTreeMap<PathBuf, Active<S>>,
}

#[derive(Debug)]
struct Active<S> {
    /// The signature when it was looked at last.
    seen: Option<S>,
    changed_at: Instant,
    state: State<S>,
}

#[derive(Debug)]
enum State<S> {
    /// Is due when it still has this signature at that time.
    Writing {
        signature: S,
        at: Instant,
    },
    Due,
    /// Somebody looks at it; it may change meanwhile.
    Running {
        attempt: Attempt,
        again: Option<(Change, S)>,
    },
    /// Is due for a last look unless it changes.
    MaybeIncomplete,
}

impl<S: PartialEq> Debouncer<S> {
    pub(crate) fn new(waits: DebounceLimits) -> Self {
        Self { limits: waits, idle: BTreeMap::new(), active: BTreeMap::new() }
    }

    /// Notes a folder that need not be looked at before it changes.
    pub(crate) fn add_known(&mut self, folder: PathBuf, signature: S) {
        self.idle.insert(folder, Some(signature));
    }

    pub(crate) fn knows(&self, folder: &Path) -> bool {
        self.idle.contains_key(folder) || self.active.contains_key(folder)
    }

    /// The known folders in and below `dir`.
    pub(crate) fn below(&self, dir: &Path) -> BTreeSet<PathBuf> {
        let still = self.idle.range(dir.to_owned()..).map(|(folder, _)| folder);
        let active = self.active.range(dir.to_owned()..).map(|(folder, _)| folder);
        let inside = |folder: &&PathBuf| folder.starts_with(dir);
        still.take_while(inside).chain(active.take_while(inside)).cloned().collect()
    }

    /// Notes that something happened to a folder, which has this signature now.
    pub(crate) fn changed(&mut self, folder: &Path, change: Change, signature: S, now: Instant) {
        let at = now + self.limits.quiet_period;
        let Some(active) = self.active.get_mut(folder) else {
            let seen = self.idle.get(folder).and_then(Option::as_ref);
            if change != Change::Written && seen == Some(&signature) {
                return;
            }
            let seen = self.idle.remove(folder).flatten();
            let state = match change {
                Change::Renamed => State::Due,
                Change::Unrelated | Change::Written => State::Writing { signature, at },
            };
            self.active.insert(folder.to_owned(), Active { seen, changed_at: now, state });
            return;
        };
        let known = match &active.state {
            State::Writing { signature, .. } => Some(signature),
            State::Running { again: Some((_, signature)), .. } => Some(signature),
            _ => active.seen.as_ref(),
        };
        if change != Change::Written && known == Some(&signature) {
            return;
        }
        active.changed_at = now;
        match &mut active.state {
            State::Due if change != Change::Written => {}
            State::MaybeIncomplete if change == Change::Renamed => active.state = State::Due,
            State::Running { again, .. } => {
                let writing = matches!(again, Some((Change::Unrelated | Change::Written, _)));
                let change = if writing { Change::Written } else { change };
                *again = Some((change, signature));
            }
            State::Writing { .. } | State::Due | State::MaybeIncomplete => {
                active.state = State::Writing { signature, at };
            }
        }
    }

    /// Asks for a folder to be looked at again, although it did not change.
    pub(crate) fn retry(&mut self, folder: &Path, now: Instant) {
        if let Some(active) = self.active.get_mut(folder) {
            if let State::MaybeIncomplete = active.state {
                active.state = State::Due;
            }
        } else if let Some(seen) = self.idle.remove(folder) {
            let active = Active { seen, changed_at: now, state: State::Due };
            self.active.insert(folder.to_owned(), active);
        }
    }

    /// Hands out at most `room` folders that are due.
    pub(crate) fn take_due(
        &mut self,
        now: Instant,
        room: usize,
        mut sign: impl FnMut(&Path) -> S,
    ) -> Vec<(PathBuf, Attempt)> {
        let mut due = Vec::new();
        for (folder, active) in &mut self.active {
            if due.len() == room {
                break;
            }
            let look = match &active.state {
                State::Due => Attempt::Tentative,
                State::Writing { at, .. } if *at <= now => Attempt::Tentative,
                State::MaybeIncomplete
                    if active.changed_at + self.limits.incomplete_period <= now =>
                {
                    Attempt::Final
                }
                _ => continue,
            };
            let signature = sign(folder);
            let before = match &active.state {
                State::Writing { signature, .. } => Some(signature),
                State::MaybeIncomplete => active.seen.as_ref(),
                State::Due | State::Running { .. } => None,
            };
            if before.is_some_and(|before| *before != signature) {
                active.changed_at = now;
                active.state = State::Writing { signature, at: now + self.limits.quiet_period };
                continue;
            }
            active.seen = Some(signature);
            active.state = State::Running { attempt: look, again: None };
            due.push((folder.clone(), look));
        }
        due
    }

    /// Notes what a look came to.
    pub(crate) fn finish(&mut self, folder: &Path, answer: AttemptOutcome) {
        let Some(active) = self.active.get_mut(folder) else { return };
        let State::Running { attempt: look, again } = &mut active.state else { return };
        let (look, again) = (*look, again.take());
        match (again, answer) {
            (Some((Change::Renamed, _)), _) => active.state = State::Due,
            (Some((_, signature)), _) => {
                let at = active.changed_at + self.limits.quiet_period;
                active.state = State::Writing { signature, at };
            }
            (None, AttemptOutcome::MaybeIncomplete) if look == Attempt::Tentative => {
                active.state = State::MaybeIncomplete
            }
            (None, AttemptOutcome::Removed) => {
                self.active.remove(folder);
            }
            (
                None,
                AttemptOutcome::Done | AttemptOutcome::Changed | AttemptOutcome::MaybeIncomplete,
            ) => {
                let seen = self.active.remove(folder).and_then(|active| active.seen);
                self.idle.insert(folder.to_owned(), seen);
            }
        }
    }

    /// Takes back a look that was handed out; the folder's next signature is news.
    pub(crate) fn postpone(&mut self, folder: &Path) {
        if self.active.remove(folder).is_some() {
            self.idle.insert(folder.to_owned(), None);
        }
    }

    /// When something may be due next.
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

    /// What happens at a time, in milliseconds.
    enum Step {
        /// A change, and the signature after it.
        Notice(Change, u32),
        /// The signature changes and nobody tells.
        Silently(u32),
        /// A look is answered.
        Answer(AttemptOutcome),
        /// Somebody asks for another look.
        Again,
        /// The look is taken back.
        Postpone,
    }
    use Step::{Again, Notice, Postpone, Silently};

    /// Plays steps and answers with the looks that were handed out, as `time look`.
    fn check(steps: &[(u64, Step)], wanted: &[&str]) {
        let folder = Path::new("echo");
        let start = Instant::now();
        let mut settle = Debouncer::new(DebounceLimits::default());
        settle.add_known(folder.to_owned(), 0);
        let mut signature = 0;
        let mut looks = Vec::new();
        let mut steps = steps.iter().peekable();
        for ms in 0..2_000 {
            let now = start + Duration::from_millis(ms);
            while let Some((_, step)) = steps.next_if(|(at, _)| *at == ms) {
                match step {
                    Notice(change, after) => {
                        signature = *after;
                        settle.changed(folder, *change, signature, now);
                    }
                    Silently(after) => signature = *after,
                    Step::Answer(answer) => settle.finish(folder, *answer),
                    Again => settle.retry(folder, now),
                    Postpone => settle.postpone(folder),
                }
            }
            let is_due = settle.next_at().is_some_and(|at| at <= now);
            let due = settle.take_due(now, 1, |_| signature);
            assert!(is_due || due.is_empty(), "nobody would have asked at {ms}");
            looks.extend(due.into_iter().map(|(_, look)| format!("{ms} {look:?}")));
        }
        assert_eq!(looks, wanted);
        assert!(settle.active.len() + settle.idle.len() <= 1);
    }

    use AttemptOutcome::{Done, MaybeIncomplete, Removed};
    use Change::{Renamed, Unrelated, Written};

    #[test]
    fn a_file_renamed_into_place_is_due_at_once() {
        check(&[(10, Notice(Renamed, 1))], &["10 Tentative"]);
        let again = [
            (10, Notice(Renamed, 1)),
            (12, Notice(Renamed, 2)),
            (15, Step::Answer(Done)),
            (16, Step::Answer(Done)),
        ];
        check(&again, &["10 Tentative", "15 Tentative"]);
    }

    #[test]
    fn a_file_that_is_written_must_be_the_same_for_a_while() {
        check(&[(10, Notice(Written, 1))], &["60 Tentative"]);
        check(&[(10, Notice(Written, 1)), (40, Notice(Written, 2))], &["90 Tentative"]);
        check(&[(10, Notice(Written, 1)), (40, Silently(2))], &["110 Tentative"]);
        // Renaming one file makes another that is being written no more whole.
        check(&[(10, Notice(Written, 1)), (20, Notice(Renamed, 2))], &["70 Tentative"]);
        // The clock of the disk is coarse: what is told counts, even with the same signature.
        check(&[(10, Notice(Written, 0))], &["60 Tentative"]);
    }

    #[test]
    fn what_happens_beside_counts_only_if_the_signature_differs() {
        check(&[(10, Notice(Unrelated, 0)), (20, Notice(Renamed, 0))], &[]);
        check(&[(10, Notice(Unrelated, 1))], &["60 Tentative"]);
        let storm: Vec<_> = (10..500).map(|ms| (ms, Notice(Unrelated, 1))).collect();
        check(&storm, &["60 Tentative"]);
    }

    #[test]
    fn what_is_doubtful_is_looked_at_again_at_each_change_and_then_for_the_last_time() {
        let half = [(10, Notice(Renamed, 1)), (11, Step::Answer(MaybeIncomplete))];
        check(&half, &["10 Tentative", "310 Final"]);
        let whole = [
            (10, Notice(Renamed, 1)),
            (11, Step::Answer(MaybeIncomplete)),
            (20, Notice(Renamed, 2)),
            (21, Step::Answer(Done)),
        ];
        check(&whole, &["10 Tentative", "20 Tentative"]);
        let never = [
            (10, Notice(Renamed, 1)),
            (11, Step::Answer(MaybeIncomplete)),
            (200, Notice(Written, 2)),
            (251, Step::Answer(MaybeIncomplete)),
            (501, Step::Answer(MaybeIncomplete)),
        ];
        check(&never, &["10 Tentative", "250 Tentative", "500 Final"]);
    }

    #[test]
    fn what_changes_while_it_is_looked_at_is_looked_at_again() {
        let written = [
            (10, Notice(Renamed, 1)),
            (20, Notice(Written, 2)),
            (21, Notice(Renamed, 3)),
            (30, Step::Answer(MaybeIncomplete)),
        ];
        check(&written, &["10 Tentative", "71 Tentative"]);
    }

    #[test]
    fn a_folder_that_is_gone_is_forgotten_and_one_that_waits_for_others_is_asked_again() {
        let gone = [(10, Notice(Renamed, 1)), (20, Step::Answer(Removed)), (30, Again)];
        check(&gone, &["10 Tentative"]);
        let waits = [(10, Notice(Renamed, 1)), (20, Step::Answer(MaybeIncomplete)), (30, Again)];
        check(&waits, &["10 Tentative", "30 Tentative"]);
        check(&[(30, Again)], &["30 Tentative"]);
    }

    #[test]
    fn after_a_look_that_was_taken_back_any_signature_is_news() {
        let steps = [(10, Notice(Renamed, 1)), (20, Postpone), (30, Notice(Unrelated, 1))];
        check(&steps, &["10 Tentative", "80 Tentative"]);
    }
}
