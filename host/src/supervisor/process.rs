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

use super::config_types;
use super::http::{
    self, Async, Blocking, HttpRequest, HttpResponse, SNAPSHOT_VERSION, Transport as _,
};
use super::program::Program;
use super::requests::Shared;
use super::state::{Command, Phase};
use super::{batch, reply};
use crate::call::{Failure, Request};
use crate::error::{Error, ErrorKind};

/// Longest time for what is asked besides calls.
const CONTROL_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A plugin in a process of its own.
pub(crate) struct Process {
    pub(super) shared: Arc<Shared>,
    pub(super) orders: mpsc::UnboundedSender<Command>,
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
        let ask = self.shared.http_request(call)?;
        let deadline = ask.deadline;
        let asked = self.shared.send_until::<Blocking>(ask, http::may_run_twice(call.request));
        let asked = async {
            tokio::select! {
                biased;
                answer = asked => answer,
                () = taken_back => Err(cancelled_error()),
                () = cut_off => Err(aborted_error()),
            }
        };
        let answer = wire::block_on(deadline, asked).unwrap_or_else(|| Err(not_waited(deadline)));
        reply::output(answer.map_err(Failure::Other)?)
    }

    /// Calls it; a future for any executor, whose drop takes the call back.
    pub(crate) async fn call_async(&self, call: &ProcessCall<'_>) -> Result<Output, Failure> {
        let ask = self.shared.http_request(call)?;
        let answer = self.send_async(ask, http::may_run_twice(call.request)).await?;
        reply::output(answer)
    }

    async fn send_async(
        &self,
        ask: HttpRequest,
        is_idempotent: bool,
    ) -> Result<HttpResponse, Failure> {
        let deadline = ask.deadline;
        let asked = self.shared.send_until::<Async>(ask, is_idempotent);
        let answer = match deadline {
            None => asked.await,
            Some(deadline) => match Async::timeout_at(deadline, asked).await {
                Some(answer) => answer,
                None => Err(deadline_error()),
            },
        };
        answer.map_err(Failure::Other)
    }

    /// Most requests that it takes at once, if it takes more than one.
    pub(crate) fn batch_max(&self) -> Option<usize> {
        self.shared.capabilities.endpoints.contains("batch").then_some(batch::MAX_BATCH)
    }

    /// Calls it with many requests at once, which may all run twice or none.
    pub(crate) async fn call_many(
        &self,
        calls: &[ProcessCall<'_>],
    ) -> Result<Vec<Result<Output, Failure>>, Failure> {
        let deadline = calls.iter().filter_map(|call| call.request.deadline()).min();
        let is_idempotent = calls.iter().all(|call| http::may_run_twice(call.request));
        let body = batch::written(calls);
        let ask = HttpRequest {
            deadline,
            body: body.into(),
            content_type: HeaderValue::from_static("application/json"),
            ..self.shared.control_call(Method::POST, "batch")
        };
        let answer = self.send_async(ask, is_idempotent).await?;
        batch::read(answer, calls.len())
    }

    /// Asks whether it can work.
    pub(crate) fn health(&self) -> Result<(), Failure> {
        self.run_control_call(self.shared.control_call(Method::GET, "healthz")).map(|_| ())
    }

    /// Takes its state, if it has any.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        if !self.shared.capabilities.endpoints.contains("snapshot") {
            return Ok(None);
        }
        let mut ask = self.shared.control_call(Method::GET, "snapshot");
        ask.answer_bytes_max = self.shared.program.limits.max_snapshot_bytes;
        let answer = self.run_control_call(ask)?;
        let Some(version) = answer.header(&SNAPSHOT_VERSION) else { return Ok(None) };
        let version = version.parse().map_err(|_| {
            let message =
                format!("answered `/snapshot` with the version `{version}`; expected a whole number");
            Failure::Other(Error::new(ErrorKind::Protocol, message))
        })?;
        Ok(Some(Snapshot::new(version, answer.body)))
    }

    /// Gives it a state, before its first call.
    pub(crate) fn restore(&self, snapshot: Snapshot) -> Result<(), Failure> {
        if !self.shared.capabilities.endpoints.contains("restore") {
            let message = "was given a state, and has no endpoint `restore`";
            return Err(Failure::Other(Error::new(ErrorKind::StartFailed, message)));
        }
        let mut ask = self.shared.control_call(Method::POST, "restore");
        ask.headers.push((SNAPSHOT_VERSION, HeaderValue::from(snapshot.version())));
        ask.body = snapshot.into_bytes().into();
        self.run_control_call(ask).map(|_| ())
    }

    fn run_control_call(&self, ask: HttpRequest) -> Result<HttpResponse, Failure> {
        let what = ask.endpoint.clone();
        let asked = self.shared.send_until::<Blocking>(ask, true);
        let until = Instant::now() + CONTROL_CALL_TIMEOUT;
        let Some(answer) = wire::block_on(Some(until), asked) else {
            if Instant::now() < until {
                return Err(Failure::Other(not_waited(None)));
            }
            let waited = CONTROL_CALL_TIMEOUT.as_secs();
            let message = format!("did not answer `/{what}` within {waited} s");
            return Err(Failure::Other(Error::new(ErrorKind::DeadlineExceeded, message)));
        };
        reply::success(answer.map_err(Failure::Other)?)
    }

    /// Ends it: with a grace if it is `graceful`, and with all that it started. Blocks, so not on
    /// a thread of the runtime.
    pub(crate) fn shut_down(&self, graceful: bool) -> Result<(), Failure> {
        let (done, ended) = oneshot::channel();
        let ordered = self.orders.send(Command::Stop { graceful, done });
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
fn deadline_error() -> Error {
    let message = "did not answer before the deadline; its connection was closed, so it can see \
                   that nobody waits";
    Error::new(ErrorKind::DeadlineExceeded, message)
}

#[cold]
fn cancelled_error() -> Error {
    Error::new(ErrorKind::Cancelled, "was called, and its caller took the call back")
}

/// Why a wait ended that had an end only there.
#[cold]
fn not_waited(until: Option<Instant>) -> Error {
    if until.is_some_and(|until| until <= Instant::now()) {
        return deadline_error();
    }
    let message =
        "could not be waited for: this program has too many files open; raise `ulimit -n`";
    Error::new(ErrorKind::Overloaded, message)
}

#[cold]
fn aborted_error() -> Error {
    let message = "was called, and ended before it had answered: it took longer than the \
                   `drain_timeout` of the host; call again";
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
