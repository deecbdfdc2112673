//! A plugin in a process, as held by its generation: called from this thread or by a future, with
//! retries if that is safe.

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
use crate::error::{Diagnosis, Error, ErrorKind};

/// Timeout of control calls: `/healthz`, `/snapshot`, `/restore`.
const CONTROL_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A plugin that runs in its own process.
pub(crate) struct Process {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

/// The part of a call that a process needs.
#[derive(Debug)]
pub(crate) struct ProcessCall<'c> {
    pub(crate) request: &'c Request<'c>,
    pub(crate) call_id: u64,
}

impl Process {
    /// Calls the plugin from this thread, until `aborted` completes.
    pub(crate) fn call(
        &self,
        call: &ProcessCall<'_>,
        aborted: impl Future<Output = ()>,
    ) -> Result<Output, Failure> {
        let Some(token) = call.request.cancellation_token() else {
            return self.call_until(call, std::future::pending(), aborted);
        };
        self.call_until(call, token.cancelled(), aborted)
    }

    fn call_until(
        &self,
        call: &ProcessCall<'_>,
        cancelled: impl Future<Output = ()>,
        aborted: impl Future<Output = ()>,
    ) -> Result<Output, Failure> {
        let http_request = self.shared.http_request(call)?;
        let deadline = http_request.deadline;
        let sending =
            self.shared.send_until::<Blocking>(http_request, http::may_run_twice(call.request));
        let sending = async {
            tokio::select! {
                biased;
                response = sending => response,
                () = cancelled => Err(cancelled_error()),
                () = aborted => Err(aborted_error()),
            }
        };
        let response =
            wire::block_on(deadline, sending).unwrap_or_else(|| Err(wait_error(deadline)));
        reply::output(response.map_err(Failure::Other)?)
    }

    /// Calls the plugin; a future for any executor, which cancels the call on drop.
    pub(crate) async fn call_async(&self, call: &ProcessCall<'_>) -> Result<Output, Failure> {
        let http_request = self.shared.http_request(call)?;
        let response = self.send_async(http_request, http::may_run_twice(call.request)).await?;
        reply::output(response)
    }

    async fn send_async(
        &self,
        http_request: HttpRequest,
        is_idempotent: bool,
    ) -> Result<HttpResponse, Failure> {
        let deadline = http_request.deadline;
        let sending = self.shared.send_until::<Async>(http_request, is_idempotent);
        let response = match deadline {
            None => sending.await,
            Some(deadline) => match Async::timeout_at(deadline, sending).await {
                Some(response) => response,
                None => Err(deadline_error()),
            },
        };
        response.map_err(Failure::Other)
    }

    /// Returns the maximum batch size, or `None` if it does not support batches.
    pub(crate) fn max_batch(&self) -> Option<usize> {
        self.shared.capabilities.endpoints.contains("batch").then_some(batch::MAX_BATCH)
    }

    /// Calls it with several requests at once, which all share one retry policy.
    pub(crate) async fn call_many(
        &self,
        calls: &[ProcessCall<'_>],
    ) -> Result<Vec<Result<Output, Failure>>, Failure> {
        let deadline = calls.iter().filter_map(|call| call.request.deadline()).min();
        let is_idempotent = calls.iter().all(|call| http::may_run_twice(call.request));
        let body = batch::encode(calls);
        let http_request = HttpRequest {
            deadline,
            body: body.into(),
            content_type: HeaderValue::from_static("application/json"),
            ..self.shared.control_call(Method::POST, "batch")
        };
        let response = self.send_async(http_request, is_idempotent).await?;
        batch::decode(response, calls.len())
    }

    /// Queries whether it is healthy.
    pub(crate) fn health(&self) -> Result<(), Failure> {
        self.run_control_call(self.shared.control_call(Method::GET, "healthz")).map(|_| ())
    }

    /// Takes a snapshot of its state, if it has any.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        if !self.shared.capabilities.endpoints.contains("snapshot") {
            return Ok(None);
        }
        let mut http_request = self.shared.control_call(Method::GET, "snapshot");
        http_request.max_response_bytes = self.shared.program.limits.max_snapshot_bytes;
        let response = self.run_control_call(http_request)?;
        let Some(version) = response.header(&SNAPSHOT_VERSION) else { return Ok(None) };
        let version = version.parse().map_err(|_| {
            let message = format!(
                "returned the invalid version `{version}` for `/snapshot`; expected a whole number"
            );
            Failure::Other(Error::new(ErrorKind::Protocol, message))
        })?;
        Ok(Some(Snapshot::new(version, response.body)))
    }

    /// Restores a state, before the first call.
    pub(crate) fn restore(&self, snapshot: Snapshot) -> Result<(), Failure> {
        if !self.shared.capabilities.endpoints.contains("restore") {
            let message = "cannot restore a state: endpoint `restore` not found";
            return Err(Failure::Other(Error::new(ErrorKind::StartFailed, message)));
        }
        let mut http_request = self.shared.control_call(Method::POST, "restore");
        http_request.headers.push((SNAPSHOT_VERSION, HeaderValue::from(snapshot.version())));
        http_request.body = snapshot.into_bytes().into();
        self.run_control_call(http_request).map(|_| ())
    }

    fn run_control_call(&self, http_request: HttpRequest) -> Result<HttpResponse, Failure> {
        let what = http_request.endpoint.clone();
        let sending = self.shared.send_until::<Blocking>(http_request, true);
        let until = Instant::now() + CONTROL_CALL_TIMEOUT;
        let Some(response) = wire::block_on(Some(until), sending) else {
            if Instant::now() < until {
                return Err(Failure::Other(wait_error(None)));
            }
            let waited = CONTROL_CALL_TIMEOUT.as_secs();
            let message = format!("did not respond to `/{what}` within {waited} s");
            return Err(Failure::Other(Error::new(ErrorKind::DeadlineExceeded, message)));
        };
        reply::success(response.map_err(Failure::Other)?)
    }

    /// Stops the process and its descendants, with a grace period if `graceful`. Blocks, so it must
    /// not run on a thread of the runtime.
    pub(crate) fn shut_down(&self, graceful: bool) -> Result<(), Failure> {
        let (done, stopped) = oneshot::channel();
        let sent = self.commands.send(Command::Stop { graceful, done });
        if sent.is_err() {
            return Ok(());
        }
        match wire::block_on(None, stopped) {
            Some(Ok(Err(Diagnosis { message, hint }))) => {
                let error = Error::new(ErrorKind::Plugin, message).with_optional_hint(hint);
                Err(Failure::Other(error))
            }
            // The runtime has shut down, and the process with it.
            _ => Ok(()),
        }
    }

    /// Returns the program from which it was started.
    pub(crate) fn program(&self) -> &Arc<Program> {
        &self.shared.program
    }

    /// Returns the names by which it is looked up: the kinds of its types, and the types with their
    /// aliases.
    pub(crate) fn contracts(&self) -> Vec<(String, Vec<String>)> {
        let types = &self.shared.capabilities.types;
        let kinds: BTreeSet<_> = types.iter().map(|offered| offered.group.clone()).collect();
        let kinds = kinds.into_iter().filter(|kind| !kind.is_empty());
        let types = types.iter().map(|offered| (offered.name.clone(), offered.aliases.clone()));
        kinds.map(|kind| (kind, Vec::new())).chain(types).collect()
    }

    /// Returns the socket of the current process, if a second process of the program would use the
    /// same path.
    pub(crate) fn fixed_socket(&self) -> Option<PathBuf> {
        match &*self.shared.phase.borrow() {
            Phase::Serving(live) => live.fixed_socket.clone(),
            _ => None,
        }
    }

    /// Returns declared config types that are missing and members that are not delivered, as
    /// sentences.
    pub(crate) fn config_notes(&self) -> Vec<String> {
        config_types::notes(&self.shared.capabilities, &self.shared.program.config)
    }

    /// Returns the id of the current process, if one serves.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &*self.shared.phase.borrow() {
            Phase::Serving(live) => Some(live.pid),
            _ => None,
        }
    }
}

#[cold]
fn deadline_error() -> Error {
    let message = "did not respond before the deadline; its connection was closed";
    Error::new(ErrorKind::DeadlineExceeded, message)
}

#[cold]
fn cancelled_error() -> Error {
    Error::new(ErrorKind::Cancelled, "was called, but the caller cancelled the call")
}

/// Returns why a blocking wait stopped without a result.
#[cold]
fn wait_error(until: Option<Instant>) -> Error {
    if until.is_some_and(|until| until <= Instant::now()) {
        return deadline_error();
    }
    let message = "was not called: this program has too many open files to wait for a response";
    Error::new(ErrorKind::Overloaded, message).with_hint("raise `ulimit -n`")
}

#[cold]
fn aborted_error() -> Error {
    let message = "was unloaded before it answered: the call exceeded the host's `drain_timeout`";
    Error::new(ErrorKind::Retired, message).with_hint("call again")
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("plugin", &self.shared.program.name)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}
