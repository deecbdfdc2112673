//! A plugin in a process, as held by the host: called from this thread or by a future. Requests go
//! to the current process, or to the next one, with retries if that is safe.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hotbay_plugin::{Output, Snapshot, wire};
use hotbay_protocol::{MAX_BATCH, endpoint};
use hotbay_sandbox::{Confinement, Kernel};
use hyper::Method;
use hyper::header::HeaderValue;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};

use crate::call::{self, Call};
use crate::capabilities::ServedContract;
use crate::config;
use crate::connection::{Async, Blocking, Transport};
use crate::error::{Diagnosis, Error, ErrorKind, Failure};
use crate::exchange::{CallExchange, Exchange, Opening};
use crate::http::{
    Delivery, HttpRequest, HttpResponse, RequestError, RequestErrorKind, SNAPSHOT_VERSION,
};
use crate::program::Program;
use crate::restart::ExitCause;
use crate::state::{Command, Live, Phase, Running, Shared};
use crate::stream::ItemLines;
use crate::usage::{ProcessTable, Usage};

/// Timeout of control calls: `/healthz`, `/snapshot`, `/restore`.
const CONTROL_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A plugin that runs in its own process.
pub struct Process {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
}

impl Process {
    /// Calls the plugin from this thread, until `cancelled` or `aborted` completes.
    ///
    /// # Errors
    ///
    /// The failure of the plugin, or of the call.
    pub fn call(
        &self,
        call: &Call<'_>,
        cancelled: impl Future<Output = ()>,
        aborted: impl Future<Output = ()>,
    ) -> Result<Output, Failure> {
        let exchange = self.exchange(call)?;
        let deadline = call.deadline;
        let sending = self.shared.send_until::<Blocking, _>(exchange, call.may_run_twice());
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
        call.outcome(response?)
    }

    /// Calls the plugin; a future for any executor, which cancels the call on drop.
    ///
    /// # Errors
    ///
    /// The failure of the plugin, or of the call.
    pub async fn call_async(&self, call: &Call<'_>) -> Result<Output, Failure> {
        let response = self.send_async(self.exchange(call)?, call.may_run_twice()).await?;
        call.outcome(response)
    }

    fn exchange<'c>(&'c self, call: &'c Call<'c>) -> Result<CallExchange<'c>, Failure> {
        let max_response_bytes = self.shared.program.limits.max_response_bytes;
        CallExchange::new(call, &self.shared.capabilities, max_response_bytes)
    }

    /// Calls a method that returns a stream; a future for any executor. Dropping it cancels the call.
    ///
    /// # Errors
    ///
    /// The failure of the plugin, or of the call. Later failures are those of the items.
    pub async fn open_stream(&self, call: &Call<'_>) -> Result<ItemLines, Failure> {
        let max_item_bytes = self.shared.program.limits.max_response_bytes;
        let http_request = call.http_request(&self.shared.capabilities, max_item_bytes)?;
        let (deadline, is_idempotent) = (http_request.deadline, call.may_run_twice());
        let shared = Arc::clone(&self.shared);
        // In a task of the host's runtime, since the socket outlives the runtime of this caller.
        let opening = async move {
            let sending = async {
                let response =
                    shared.send_until::<Async, _>(Opening(http_request), is_idempotent).await?;
                response.into_items(max_item_bytes, shared.timers.clone()).await
            };
            match deadline {
                None => sending.await,
                Some(deadline) => Async::timeout_at(&shared.timers, deadline, sending)
                    .await
                    .unwrap_or_else(|| Err(deadline_error().into())),
            }
        };
        let task = AbortOnDrop(self.shared.timers.spawn(opening));
        task.await.unwrap_or_else(|_| Err(stopped_error().into()))
    }

    async fn send_async(
        &self,
        exchange: impl Exchange<Async, Response = HttpResponse>,
        is_idempotent: bool,
    ) -> Result<HttpResponse, Failure> {
        let deadline = exchange.deadline();
        let sending = self.shared.send_until::<Async, _>(exchange, is_idempotent);
        let response = match deadline {
            None => sending.await,
            Some(deadline) => match Async::timeout_at(&self.shared.timers, deadline, sending).await
            {
                Some(response) => response,
                None => Err(deadline_error()),
            },
        };
        Ok(response?)
    }

    /// Returns the maximum batch size, or `None` if it does not support batches.
    pub fn max_batch(&self) -> Option<usize> {
        if self.shared.activity.tracks_calls() {
            // A limit applies to each of its calls.
            return None;
        }
        self.shared.capabilities.endpoints.contains(endpoint::BATCH).then_some(MAX_BATCH)
    }

    /// Calls it with several requests at once, which all share one retry policy.
    ///
    /// # Errors
    ///
    /// The failure of the batch; each call has its own result.
    pub async fn call_many(
        &self,
        calls: &[Call<'_>],
    ) -> Result<Vec<Result<Output, Failure>>, Failure> {
        let deadline = calls.iter().filter_map(|call| call.deadline).min();
        let is_idempotent = calls.iter().all(Call::may_run_twice);
        let body = call::encode_batch(calls);
        let http_request = HttpRequest {
            deadline,
            body: body.into(),
            content_type: HeaderValue::from_static("application/json"),
            ..self.shared.control_call(Method::POST, endpoint::BATCH)
        };
        let response = self.send_async(http_request, is_idempotent).await?;
        call::decode_batch(response, calls.len())
    }

    /// Queries whether it is healthy.
    ///
    /// # Errors
    ///
    /// The failure of the plugin, or of the request.
    pub fn health(&self) -> Result<(), Failure> {
        self.run_control_call(self.shared.control_call(Method::GET, endpoint::HEALTH)).map(|_| ())
    }

    /// Takes a snapshot of its state, if it has any.
    ///
    /// # Errors
    ///
    /// The failure of the plugin, or of the request.
    pub fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        if !self.shared.capabilities.endpoints.contains(endpoint::SNAPSHOT) {
            return Ok(None);
        }
        let mut http_request = self.shared.control_call(Method::GET, endpoint::SNAPSHOT);
        http_request.max_response_bytes = self.shared.program.limits.max_snapshot_bytes;
        let response = self.run_control_call(http_request)?;
        let Some(version) = response.header(&SNAPSHOT_VERSION) else { return Ok(None) };
        let version = version.parse().map_err(|_| {
            let message = format!(
                "returned the invalid version `{version}` for `/snapshot`; expected a whole number"
            );
            Error::new(ErrorKind::Protocol, message)
        })?;
        Ok(Some(Snapshot::new(version, response.body)))
    }

    /// Restores a state, before the first call.
    ///
    /// # Errors
    ///
    /// The failure of the plugin, or of the request.
    pub fn restore(&self, snapshot: Snapshot) -> Result<(), Failure> {
        if !self.shared.capabilities.endpoints.contains(endpoint::RESTORE) {
            let message = "cannot restore a state: endpoint `restore` not found";
            return Err(Error::new(ErrorKind::StartFailed, message).into());
        }
        let mut http_request = self.shared.control_call(Method::POST, endpoint::RESTORE);
        http_request.headers.push((SNAPSHOT_VERSION, HeaderValue::from(snapshot.version())));
        http_request.body = snapshot.into_bytes().into();
        self.run_control_call(http_request).map(|_| ())
    }

    fn run_control_call(&self, http_request: HttpRequest) -> Result<HttpResponse, Failure> {
        let what = http_request.endpoint.clone();
        let sending = self.shared.send_until::<Blocking, _>(http_request, true);
        let until = Instant::now() + CONTROL_CALL_TIMEOUT;
        let Some(response) = wire::block_on(Some(until), sending) else {
            if Instant::now() < until {
                return Err(wait_error(None).into());
            }
            let waited = CONTROL_CALL_TIMEOUT.as_secs();
            let message = format!("did not respond to `/{what}` within {waited} s");
            return Err(Error::new(ErrorKind::DeadlineExceeded, message).into());
        };
        call::success(response?)
    }

    /// Stops the process and its descendants, with a grace period if `graceful`. Blocks, so it must
    /// not run on a thread of the runtime.
    ///
    /// # Errors
    ///
    /// `StopFailed` if it was asked to exit, and did not exit with success.
    pub fn shut_down(&self, graceful: bool) -> Result<(), Failure> {
        let (done, stopped) = oneshot::channel();
        let sent = self.commands.send(Command::Stop { graceful, done });
        if sent.is_err() {
            return Ok(());
        }
        match wire::block_on(None, stopped) {
            Some(Ok(Err(why))) => Err(Error::of_diagnosis(ErrorKind::StopFailed, why).into()),
            // The runtime has shut down, and the process with it.
            _ => Ok(()),
        }
    }

    /// Returns the program from which it was started.
    pub fn program(&self) -> &Arc<Program> {
        &self.shared.program
    }

    /// Returns the typed contracts that it serves.
    pub fn served_contracts(&self) -> &[ServedContract] {
        &self.shared.capabilities.contracts
    }

    /// Returns the names by which it is looked up: the kinds of its types, and the types with their
    /// aliases.
    pub fn contracts(&self) -> Vec<(String, Vec<String>)> {
        let types = &self.shared.capabilities.types;
        let kinds: BTreeSet<_> = types.iter().map(|offered| offered.group.clone()).collect();
        let kinds = kinds.into_iter().filter(|kind| !kind.is_empty());
        let types = types.iter().map(|offered| (offered.name.clone(), offered.aliases.clone()));
        kinds.map(|kind| (kind, Vec::new())).chain(types).collect()
    }

    /// Returns the socket of the current process, if a second process of the program would use the
    /// same path.
    pub fn fixed_socket(&self) -> Option<PathBuf> {
        match &*self.shared.phase.borrow() {
            Phase::Serving(live) => live.fixed_socket.clone(),
            _ => None,
        }
    }

    /// Returns what this machine enforces of its sandbox; `None` if it has none.
    pub fn confinement(&self) -> Option<Confinement> {
        let policy = self.shared.program.sandbox.as_ref()?;
        Some(Confinement::new(policy, Kernel::of_policy(policy)))
    }

    /// Returns declared config types that are missing and members that are not delivered, as
    /// sentences.
    pub fn config_notes(&self) -> Vec<String> {
        config::notes(&self.shared.capabilities, &self.shared.program.config)
    }

    /// Returns the id of the current process, if one serves.
    pub fn pid(&self) -> Option<u32> {
        match &*self.shared.phase.borrow() {
            Phase::Serving(live) => Some(live.pid),
            _ => None,
        }
    }

    /// Returns what the current process and its descendants use, if one serves. Linux only. Reads
    /// `/proc`.
    pub fn usage(&self, table: &ProcessTable) -> Option<Usage> {
        let live = match &*self.shared.phase.borrow() {
            Phase::Serving(live) => Arc::clone(live),
            _ => return None,
        };
        live.meter.usage(table)
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

/// A task that is aborted when its caller drops it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The maximum number of attempts per call.
const MAX_SENDS: u32 = 5;

/// Delay before a call is sent to the same process again; doubled each time.
const RETRY_DELAY: Duration = Duration::from_millis(5);
const MAX_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Time for which a process that accepts no connections is retried: an exiting process closes its
/// socket first, and may then finish other work.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for which a call that was lost waits for the reason: a process closes its connections shortly
/// before its exit is noticed.
const EXIT_REASON_TIMEOUT: Duration = Duration::from_millis(250);

impl Shared {
    fn control_call(&self, method: Method, endpoint: &str) -> HttpRequest {
        HttpRequest {
            method,
            endpoint: endpoint.to_owned(),
            content_type: HeaderValue::from_static("application/octet-stream"),
            body: bytes::Bytes::new(),
            deadline: None,
            headers: Vec::new(),
            max_response_bytes: self.program.limits.max_response_bytes,
        }
    }

    /// Sends a request to the current process, or to the next one. Retries if the request
    /// definitely did not run, or is idempotent.
    async fn send_until<W: Transport, E: Exchange<W>>(
        &self,
        exchange: E,
        is_idempotent: bool,
    ) -> Result<E::Response, Error> {
        let mut sending = Sending {
            shared: self,
            deadline: exchange.deadline(),
            unanswered_by: None,
            _running: self.activity.begin(E::IS_CALL),
        };
        let (mut sent, mut retry_delay) = (0, RETRY_DELAY);
        let mut unreachable_since = None;
        loop {
            let live = self.live(exchange.deadline()).await?;
            let sent_at = Instant::now();
            sending.unanswered_by = Some(live.pid);
            let outcome = exchange.exchange(&live.client).await;
            sending.unanswered_by = None;
            let error = match outcome {
                Ok(response) => {
                    self.activity.answered(Instant::now());
                    return Ok(response);
                }
                Err(error) => error,
            };
            if error.delivery == Delivery::MaybeSent {
                self.activity.lost();
            }
            sent += 1;
            let may_help = error.kind == RequestErrorKind::Disconnected;
            let is_safe = error.delivery == Delivery::NotSent
                || is_idempotent
                || may_help && self.raced_idle_exit::<W>(&error, &live, sent_at).await;
            let is_exhausted = match error.delivery {
                Delivery::MaybeSent => sent >= MAX_SENDS,
                Delivery::NotSent => {
                    let since = *unreachable_since.get_or_insert_with(Instant::now);
                    sent >= MAX_SENDS && since.elapsed() >= EXIT_TIMEOUT
                }
            };
            if !(is_safe && may_help) || is_exhausted {
                let mut failure = error_of(&error, sent);
                if may_help
                    && error.delivery == Delivery::MaybeSent
                    && let Some(reason) = self.exit_reason::<W>(&live, exchange.deadline()).await
                {
                    failure = failure.caused_by(reason);
                }
                return Err(failure);
            }
            self.wait_for_other::<W>(&live, retry_delay).await;
            retry_delay = (retry_delay * 2).min(MAX_RETRY_DELAY);
        }
    }

    /// Returns why the process of a lost connection exited; waits for that if it has just exited.
    async fn exit_reason<W: Transport>(
        &self,
        live: &Live,
        deadline: Option<Instant>,
    ) -> Option<Diagnosis> {
        let mut reason = live.exit_reason.subscribe();
        let known = async { reason.wait_for(Option::is_some).await.ok()?.clone() };
        let until = Instant::now() + EXIT_REASON_TIMEOUT;
        // The error is more than that the deadline has passed.
        let until = deadline
            .and_then(|deadline| deadline.checked_sub(EXIT_REASON_TIMEOUT))
            .map_or(until, |latest| latest.min(until));
        W::timeout_at(&self.timers, until, known).await.flatten()
    }

    /// Returns whether the request raced with an idle exit: no byte of a response came, and the
    /// process soon exited as an idle one does. Such a process answers every received request before
    /// it exits, so this one did not run. In the older dialects no process exits when idle.
    async fn raced_idle_exit<W: Transport>(
        &self,
        error: &RequestError,
        live: &Live,
        sent: Instant,
    ) -> bool {
        let idle_timeout = self.program.limits.idle_timeout;
        let may_race = || self.activity.may_race_idle_exit(idle_timeout, sent, Instant::now());
        if error.has_response || !self.capabilities.is_ours() || !may_race() {
            return false;
        }
        self.wait_for_other::<W>(live, EXIT_TIMEOUT).await;
        live.end.get() == Some(&ExitCause::Idle)
    }

    /// Waits until another process serves, or for `timeout`: a connection may close while its
    /// process continues to run.
    async fn wait_for_other<W: Transport>(&self, live: &Live, timeout: Duration) {
        let mut phase = self.phase.subscribe();
        let other = phase.wait_for(|phase| match phase {
            Phase::Serving(now) => now.pid != live.pid,
            _ => true,
        });
        let until = Instant::now() + timeout;
        let _ = W::timeout_at(&self.timers, until, async { other.await.is_ok() }).await;
    }

    /// Returns the current process; waits while it is starting, and wakes it if it is idle.
    async fn live(&self, deadline: Option<Instant>) -> Result<Arc<Live>, Error> {
        if let Phase::Serving(live) = &*self.phase.borrow() {
            return Ok(Arc::clone(live));
        }
        let mut phases = self.phase.subscribe();
        loop {
            let phase = phases.borrow_and_update().clone();
            match phase {
                Phase::Serving(live) => return Ok(live),
                Phase::Stopped => return Err(stopped_error()),
                Phase::Backoff { why, until } if deadline.is_none_or(|end| end <= until) => {
                    return Err(backoff_error(&why, until));
                }
                Phase::Idle => self.wake(),
                Phase::Starting | Phase::Backoff { .. } => {}
            }
            if phases.changed().await.is_err() {
                return Err(stopped_error());
            }
        }
    }

    fn wake(&self) {
        if let Some(commands) = self.commands.upgrade() {
            // If the task has ended, the phase shows that.
            let _ = commands.send(Command::Wake);
        }
    }
}

/// A call in flight. If it is dropped after its deadline, the process is checked for a hang.
struct Sending<'s> {
    shared: &'s Shared,
    deadline: Option<Instant>,
    /// The process that has not responded yet.
    unanswered_by: Option<u32>,
    _running: Running<'s>,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let (Some(pid), Some(deadline)) = (self.unanswered_by, self.deadline) else { return };
        if deadline <= Instant::now()
            && self.shared.activity.suspect()
            && let Some(commands) = self.shared.commands.upgrade()
        {
            // If the task has ended, so has the process.
            let _ = commands.send(Command::CheckHung { pid });
        }
    }
}

#[cold]
fn error_of(error: &RequestError, sent: u32) -> Error {
    let kind = match error.kind {
        RequestErrorKind::Disconnected => ErrorKind::Disconnected,
        RequestErrorKind::Protocol => ErrorKind::Protocol,
        RequestErrorKind::TooLarge => ErrorKind::InvalidOutput,
    };
    let what = match (error.delivery, error.kind) {
        (Delivery::NotSent, _) => "was not called",
        (Delivery::MaybeSent, RequestErrorKind::Disconnected) => {
            "was called and may have run, but returned no response"
        }
        (Delivery::MaybeSent, RequestErrorKind::Protocol | RequestErrorKind::TooLarge) => {
            "was called, but its response was rejected"
        }
    };
    let times = if sent > 1 { format!(" ({sent} attempts)") } else { String::new() };
    Error::new(kind, format!("{what}{times}")).caused_by(error.message.clone())
}

#[cold]
fn stopped_error() -> Error {
    Error::new(ErrorKind::Retired, "was stopped, together with its process")
        .with_hint("look the plugin up again")
}

#[cold]
fn backoff_error(why: &Diagnosis, until: Instant) -> Error {
    let wait = until.saturating_duration_since(Instant::now());
    let wait_ms = wait.as_millis();
    let message =
        format!("was not called: its process is not running (next start in {wait_ms} ms)");
    Error::new(ErrorKind::StartFailed, message).caused_by(why.clone()).with_retry_after(wait)
}
