//! A plugin in a process, as its generation holds it: asked in this thread or by a future, and
//! asked again where that is safe.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotbay_plugin::{Output, Snapshot, wire};
use hyper::Method;
use hyper::header::HeaderValue;
use tokio::sync::{mpsc, oneshot};

use super::asking::Shared;
use super::config_types;
use super::http::{self, Answer, Ask, Here, OnTasks, SNAPSHOT_VERSION, Way as _};
use super::program::Program;
use super::state::{Order, Phase};
use super::{batch, reply};
use crate::call::{Failure, Request};
use crate::error::{Error, ErrorKind};

/// Longest time for what is asked besides calls.
const ERRAND_WAIT_MAX: Duration = Duration::from_secs(30);

/// A plugin in a process of its own.
pub(crate) struct Process {
    pub(super) shared: Arc<Shared>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
}

/// A call, as a process needs it.
#[derive(Debug)]
pub(crate) struct ProcessCall<'c> {
    pub(crate) request: &'c Request<'c>,
    pub(crate) call_id: u64,
}

impl Process {
    /// Calls it in this thread, for as long as it is not `cut_off`.
    pub(crate) fn call(
        &self,
        call: &ProcessCall<'_>,
        cut_off: impl Future<Output = ()>,
    ) -> Result<Output, Failure> {
        let Some(token) = call.request.cancellation_token() else {
            return self.call_until(call, std::future::pending(), cut_off);
        };
        self.call_until(call, token.cancelled(), cut_off)
    }

    fn call_until(
        &self,
        call: &ProcessCall<'_>,
        taken_back: impl Future<Output = ()>,
        cut_off: impl Future<Output = ()>,
    ) -> Result<Output, Failure> {
        let ask = self.shared.ask_of(call)?;
        let deadline = ask.deadline;
        let asked = self.shared.ask::<Here>(ask, http::may_run_twice(call.request));
        let asked = async {
            tokio::select! {
                biased;
                answer = asked => answer,
                () = taken_back => Err(cancelled()),
                () = cut_off => Err(cut_short()),
            }
        };
        let answer = wire::block_on(deadline, asked).unwrap_or_else(|| Err(not_waited(deadline)));
        reply::output(answer.map_err(Failure::Other)?)
    }

    /// Calls it; a future for any executor, whose drop takes the call back.
    pub(crate) async fn call_later(&self, call: &ProcessCall<'_>) -> Result<Output, Failure> {
        let ask = self.shared.ask_of(call)?;
        let answer = self.ask_later(ask, http::may_run_twice(call.request)).await?;
        reply::output(answer)
    }

    async fn ask_later(&self, ask: Ask, is_idempotent: bool) -> Result<Answer, Failure> {
        let deadline = ask.deadline;
        let asked = self.shared.ask::<OnTasks>(ask, is_idempotent);
        let answer = match deadline {
            None => asked.await,
            Some(deadline) => match OnTasks::by(deadline, asked).await {
                Some(answer) => answer,
                None => Err(late()),
            },
        };
        answer.map_err(Failure::Other)
    }

    /// Most requests that it takes at once, if it takes more than one.
    pub(crate) fn batch_max(&self) -> Option<usize> {
        self.shared.capabilities.endpoints.contains("batch").then_some(batch::BATCH_MAX)
    }

    /// Calls it with many requests at once, which may all run twice or none.
    pub(crate) async fn call_many(
        &self,
        calls: &[ProcessCall<'_>],
    ) -> Result<Vec<Result<Output, Failure>>, Failure> {
        let deadline = calls.iter().filter_map(|call| call.request.deadline()).min();
        let is_idempotent = calls.iter().all(|call| http::may_run_twice(call.request));
        let body = batch::written(calls);
        let ask = Ask {
            deadline,
            body: body.into(),
            content_type: HeaderValue::from_static("application/json"),
            ..self.shared.errand(Method::POST, "batch")
        };
        let answer = self.ask_later(ask, is_idempotent).await?;
        batch::read(answer, calls.len())
    }

    /// Asks whether it can work.
    pub(crate) fn health(&self) -> Result<(), Failure> {
        self.run_errand(self.shared.errand(Method::GET, "healthz")).map(|_| ())
    }

    /// Takes its state, if it has any.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        if !self.shared.capabilities.endpoints.contains("snapshot") {
            return Ok(None);
        }
        let mut ask = self.shared.errand(Method::GET, "snapshot");
        ask.answer_bytes_max = self.shared.program.limits.snapshot_bytes_max;
        let answer = self.run_errand(ask)?;
        let Some(version) = answer.header(&SNAPSHOT_VERSION) else { return Ok(None) };
        let version = version.parse().map_err(|_| {
            let message =
                format!("answered `/snapshot` with the version `{version}`; wanted a whole number");
            Failure::Other(Error::new(ErrorKind::Protocol, message))
        })?;
        Ok(Some(Snapshot::new(version, answer.body)))
    }

    /// Gives it a state, before its first call.
    pub(crate) fn restore(&self, snapshot: Snapshot) -> Result<(), Failure> {
        if !self.shared.capabilities.endpoints.contains("restore") {
            let message = "was given a state, and has no endpoint `restore`";
            return Err(Failure::Other(Error::new(ErrorKind::Start, message)));
        }
        let mut ask = self.shared.errand(Method::POST, "restore");
        ask.headers.push((SNAPSHOT_VERSION, HeaderValue::from(snapshot.version())));
        ask.body = snapshot.into_bytes().into();
        self.run_errand(ask).map(|_| ())
    }

    fn run_errand(&self, ask: Ask) -> Result<Answer, Failure> {
        let what = ask.endpoint.clone();
        let asked = self.shared.ask::<Here>(ask, true);
        let until = Instant::now() + ERRAND_WAIT_MAX;
        let Some(answer) = wire::block_on(Some(until), asked) else {
            if Instant::now() < until {
                return Err(Failure::Other(not_waited(None)));
            }
            let waited = ERRAND_WAIT_MAX.as_secs();
            let message = format!("did not answer `/{what}` within {waited} s");
            return Err(Failure::Other(Error::new(ErrorKind::DeadlineExceeded, message)));
        };
        reply::success(answer.map_err(Failure::Other)?)
    }

    /// Ends it: with a grace if it is `graceful`, and with all that it started. Blocks, so not on
    /// a thread of the runtime.
    pub(crate) fn end(&self, graceful: bool) -> Result<(), Failure> {
        let (done, ended) = oneshot::channel();
        let ordered = self.orders.send(Order::Stop { graceful, done });
        if ordered.is_err() {
            return Ok(());
        }
        match wire::block_on(None, ended) {
            Some(Ok(Err(reason))) => Err(Failure::Other(Error::new(ErrorKind::Plugin, reason))),
            // The runtime has ended, and the process with it.
            _ => Ok(()),
        }
    }

    /// What it was started from.
    pub(crate) fn program(&self) -> &Arc<Program> {
        &self.shared.program
    }

    /// What it says it is to be looked up by: the kinds of its types, and the types themselves.
    pub(crate) fn contracts(&self) -> Vec<(String, Vec<String>)> {
        let types = &self.shared.capabilities.types;
        let kinds: BTreeSet<_> = types.iter().map(|offered| offered.group.clone()).collect();
        let kinds = kinds.into_iter().filter(|kind| !kind.is_empty());
        let types = types.iter().map(|offered| (offered.name.clone(), offered.aliases.clone()));
        kinds.map(|kind| (kind, Vec::new())).chain(types).collect()
    }

    /// The socket of the process that serves, if it lies where a second process of the program
    /// would want its own.
    pub(crate) fn fixed_socket(&self) -> Option<PathBuf> {
        match &*self.shared.phase.borrow() {
            Phase::Serving(live) => live.fixed_socket.clone(),
            _ => None,
        }
    }

    /// What of its config is not delivered though it is declared, or the reverse, in words.
    pub(crate) fn config_notes(&self) -> Vec<String> {
        config_types::notes(&self.shared.capabilities, &self.shared.program.config)
    }

    /// The process that serves, if one does.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &*self.shared.phase.borrow() {
            Phase::Serving(live) => Some(live.pid),
            _ => None,
        }
    }
}

#[cold]
fn late() -> Error {
    let message = "did not answer before the deadline; its connection was closed, so it can see \
                   that nobody waits";
    Error::new(ErrorKind::DeadlineExceeded, message)
}

#[cold]
fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "was called, and its caller took the call back")
}

/// Why a wait ended that had an end only there.
#[cold]
fn not_waited(until: Option<Instant>) -> Error {
    if until.is_some_and(|until| until <= Instant::now()) {
        return late();
    }
    let message =
        "could not be waited for: this program has too many files open; raise `ulimit -n`";
    Error::new(ErrorKind::Overloaded, message)
}

#[cold]
fn cut_short() -> Error {
    let message = "was called, and ended before it had answered: it took longer than the \
                   `drain_wait_max` of the host; call again";
    Error::new(ErrorKind::Retired, message)
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("plugin", &self.shared.program.name)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}
