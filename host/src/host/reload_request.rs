//! A request for a reload, by its source, and the attempts of the watch: what to do about a failure,
//! and whether to report it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::artifact::trust::Rules;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::id::GenerationId;
use crate::loader::{Content, LoadOptions};
use crate::sync::lock;
use crate::watch::{Attempt, AttemptOutcome, OutcomeSender};

/// The outcome of [`Host::reload`](crate::Host::reload).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reloaded {
    /// This new generation serves now.
    Promoted(GenerationId),
    /// Neither library nor manifest changed, and the plugin was not quarantined.
    Unchanged,
}

/// A request for a reload, by its source.
#[derive(Debug)]
pub(super) enum ReloadRequest {
    Caller(oneshot::Sender<Result<Reloaded, Error>>),
    Watch(FolderAttempt),
    /// Another plugin of the same folder was reloaded.
    SameFolder,
}

/// One attempt to follow the changes of a folder.
#[derive(Debug)]
pub(super) struct FolderAttempt {
    pub(super) folder: PathBuf,
    pub(super) attempt: Attempt,
    /// The options with which the folder is loaded, if it is not reloaded.
    pub(super) options: Arc<LoadOptions>,
    pub(super) failures: Arc<FailureLog>,
    pub(super) outcome: OutcomeSender,
}

/// The last failure of each folder, so that no failure is reported or retried without a change.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    pub(super) failed: Mutex<BTreeMap<PathBuf, Failure>>,
}

#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) content: Content,
    pub(super) reason: String,
    pub(super) kind: ErrorKind,
    pub(super) is_reported: bool,
    /// The options of the folder's next load.
    pub(super) options: Arc<LoadOptions>,
    /// Content and reason of the failure that was reported last, if that is another one.
    pub(super) reported: Option<(Content, String)>,
}

impl Failure {
    /// Returns whether a change elsewhere may fix it.
    pub(super) fn waits(&self) -> bool {
        matches!(self.kind, ErrorKind::Requires | ErrorKind::Duplicate)
    }
}

impl FolderAttempt {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns whether this content failed before and no change elsewhere can fix it.
    pub(super) fn is_known(&self, rules: &Rules) -> bool {
        let failure = lock(&self.failures.failed).get(&self.folder).cloned();
        let failure = failure.filter(|failure| failure.is_reported && !failure.waits());
        failure.is_some_and(|failure| failure.content == Content::of(&self.folder, rules))
    }

    /// Handles the outcome of a reload. Returns whether a failure is to be reported.
    pub(super) fn reloaded(self, reloaded: &Result<Reloaded, Error>, content: Content) -> bool {
        let (is_reported, outcome) = match reloaded {
            Ok(Reloaded::Promoted(_)) => (true, AttemptOutcome::Changed),
            Ok(Reloaded::Unchanged) => (true, AttemptOutcome::Done),
            Err(error) => self.classify(error, content),
        };
        match reloaded {
            Ok(_) => drop(lock(&self.failures.failed).remove(&self.folder)),
            Err(error) if is_reported => warn(&self.folder, error),
            Err(_) => {}
        }
        self.outcome.send(outcome);
        is_reported
    }

    /// Returns whether a failure is to be reported now, and whether the files may be incomplete.
    pub(super) fn classify(&self, error: &Error, content: Content) -> (bool, AttemptOutcome) {
        use ErrorKind::{NotFound, Retired, Shutdown, Superseded};
        if matches!(error.kind(), NotFound | Retired | Shutdown | Superseded) {
            // Another request handles it, or the plugin is gone.
            return (false, AttemptOutcome::Done);
        }
        let before_it_runs = error.step().is_some_and(|step| step < LoadStep::Open);
        let may_be_incomplete = before_it_runs || error.kind() == ErrorKind::Duplicate;
        let is_tentative = self.attempt == Attempt::Tentative && may_be_incomplete;
        let is_new = self.remember(error, content, !is_tentative);
        let outcome = match is_tentative {
            true => AttemptOutcome::MaybeIncomplete,
            false => AttemptOutcome::Done,
        };
        (is_new && !is_tentative, outcome)
    }

    /// Records a failure. Returns whether it was not reported before.
    pub(super) fn remember(&self, error: &Error, content: Content, is_reported: bool) -> bool {
        let (reason, kind) = (error.full_message(), error.kind());
        let mut failed = lock(&self.failures.failed);
        // What was not reported does not hide what was: files are written one after the other, and
        // may be incomplete in between.
        let reported = failed.remove(&self.folder).and_then(|before| match before.is_reported {
            true => Some((before.content, before.reason)),
            false => before.reported,
        });
        let is_same =
            |(before, earlier): &(Content, String)| *before == content && *earlier == reason;
        let was_reported = reported.as_ref().is_some_and(is_same);
        let is_reported = is_reported || was_reported;
        let reported = reported.filter(|_| !is_reported);
        let options = Arc::clone(&self.options);
        let failure = Failure { content, reason, kind, is_reported, options, reported };
        failed.insert(self.folder.clone(), failure);
        !was_reported
    }
}

pub(super) fn warn(folder: &Path, error: &Error) {
    let (folder, reason) = (folder.display(), error.full_message());
    tracing::warn!(%folder, reason, hint = error.hint(), "the changed plugin was not loaded");
}
