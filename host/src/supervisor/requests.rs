//! Sends requests to the current process of a plugin, or to the next one, with retries if that is
//! safe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::header::HeaderValue;
use tokio::sync::{mpsc, watch};

use super::activity::{Activity, Running};
use super::dialect::Capabilities;
use super::http::{
    self, CALL_ID, Delivery, HttpRequest, HttpResponse, RequestError, RequestErrorKind, TRACE,
    Transport,
};
use super::process::ProcessCall;
use super::program::Program;
use super::reply;
use super::restart::ExitCause;
use super::state::{Command, Live, Phase};
use crate::call::Failure;
use crate::error::{Diagnosis, Error, ErrorKind};

/// The maximum number of attempts per call.
const MAX_SENDS: u32 = 5;

/// Delay before a call is sent to the same process again; doubled each time.
const RETRY_DELAY: Duration = Duration::from_millis(5);
const MAX_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Time for which a process that accepts no connections is retried: an exiting process closes its
/// socket first, and may then finish other work.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// State shared by the callers of a process and its watch task.
pub(super) struct Shared {
    pub(super) program: Arc<Program>,
    pub(super) capabilities: Capabilities,
    pub(super) phase: watch::Sender<Phase>,
    /// Weak, so that the task notices when all senders are dropped.
    pub(super) commands: mpsc::WeakUnboundedSender<Command>,
    pub(super) activity: Activity,
}

impl Shared {
    pub(super) fn http_request(&self, call: &ProcessCall<'_>) -> Result<HttpRequest, Failure> {
        let request = call.request;
        let content_type = HeaderValue::try_from(request.content_type()).map_err(|_| {
            let found = request.content_type();
            let message = format!("was not called: `{found}` is not a valid content type");
            Failure::Other(Error::new(ErrorKind::InvalidInput, message))
        })?;
        let endpoint = request.endpoint().unwrap_or("execute");
        self.check_endpoint(endpoint)?;
        let mut headers = vec![(CALL_ID, HeaderValue::from(call.call_id))];
        if let Some(trace) = request.trace() {
            headers.push((TRACE, reply::traceparent(trace)));
        }
        http::add_headers(request, &mut headers)?;
        Ok(HttpRequest {
            method: http::method(request)?,
            endpoint: endpoint.to_owned(),
            content_type,
            body: bytes::Bytes::copy_from_slice(request.as_bytes()),
            deadline: request.deadline(),
            headers,
            max_response_bytes: self.program.limits.max_response_bytes,
        })
    }

    /// Rejects an endpoint that a program of ours does not declare; the older dialects declare
    /// none.
    fn check_endpoint(&self, endpoint: &str) -> Result<(), Failure> {
        let endpoints = &self.capabilities.endpoints;
        if endpoints.is_empty() && http::is_endpoint(endpoint) {
            return Ok(());
        }
        if endpoints.is_empty() {
            let endpoint = endpoint.escape_debug();
            let message = format!("was not called: `{endpoint}` is not a valid endpoint");
            return Err(Failure::Other(Error::new(ErrorKind::InvalidInput, message)));
        }
        if endpoints.contains(endpoint) {
            return Ok(());
        }
        let known: Vec<_> = endpoints.iter().map(String::as_str).collect();
        let known = known.join("`, `");
        let message =
            format!("was not called: endpoint `{endpoint}` not found; the program has `{known}`");
        Err(Failure::Other(Error::new(ErrorKind::Unsupported, message)))
    }

    pub(super) fn control_call(&self, method: Method, endpoint: &str) -> HttpRequest {
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
    pub(super) async fn send_until<W: Transport>(
        &self,
        http_request: HttpRequest,
        is_idempotent: bool,
    ) -> Result<HttpResponse, Error> {
        let mut sending = Sending {
            shared: self,
            deadline: http_request.deadline,
            unanswered_by: None,
            _running: self.activity.begin(),
        };
        let (mut sent, mut retry_delay) = (0, RETRY_DELAY);
        let mut unreachable_since = None;
        loop {
            let live = self.live(http_request.deadline).await?;
            let sent_at = Instant::now();
            sending.unanswered_by = Some(live.pid);
            let outcome = live.client.send::<W>(&http_request).await;
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
                return Err(error_of(&error, sent));
            }
            self.wait_for_other::<W>(&live, retry_delay).await;
            retry_delay = (retry_delay * 2).min(MAX_RETRY_DELAY);
        }
    }

    /// Returns whether the request raced with an idle exit: no byte of a response came, and the
    /// process exited as an idle one does. Such a process answers every received request before it
    /// exits, so this one did not run.
    async fn raced_idle_exit<W: Transport>(
        &self,
        error: &RequestError,
        live: &Live,
        sent: Instant,
    ) -> bool {
        let idle_timeout = self.program.limits.idle_timeout;
        if error.has_response || !self.activity.may_race_idle_exit(idle_timeout, sent) {
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
        let _ = W::timeout_at(until, async { other.await.is_ok() }).await;
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
    let what = match error.delivery {
        Delivery::NotSent => "was not called",
        Delivery::MaybeSent => "was called and may have run, but returned no response",
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
