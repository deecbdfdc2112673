//! How a process is asked: whichever serves now, the next one if need be, and again where that is
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
use crate::error::{Error, ErrorKind};

/// How often one call is sent at most.
const MAX_SENDS: u32 = 5;

/// How long a call waits before it is sent again to the same process; twice as long each time.
const RETRY_DELAY: Duration = Duration::from_millis(5);
const MAX_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long a process that takes no connections is asked again: one that leaves closes its socket
/// first, and may then still have work of its own to finish.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// What those who call a process share with the task that watches it.
pub(super) struct Shared {
    pub(super) program: Arc<Program>,
    pub(super) capabilities: Capabilities,
    pub(super) phase: watch::Sender<Phase>,
    /// Weak, so that the task hears when nobody gives orders any more.
    pub(super) commands: mpsc::WeakUnboundedSender<Command>,
    pub(super) activity: Activity,
}

impl Shared {
    pub(super) fn http_request(&self, call: &ProcessCall<'_>) -> Result<HttpRequest, Failure> {
        let request = call.request;
        let content_type = HeaderValue::try_from(request.content_type()).map_err(|_| {
            let found = request.content_type();
            let message = format!("was not called: `{found}` is no content type");
            Failure::Other(Error::new(ErrorKind::InvalidInput, message))
        })?;
        let endpoint = request.named_endpoint().unwrap_or("execute");
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
            answer_bytes_max: self.program.limits.answer_bytes_max,
        })
    }

    /// Refuses what a program of ours does not serve; the older dialects do not say what they do.
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
        let message = format!("was not called: it has no endpoint `{endpoint}`; it has `{known}`");
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
            answer_bytes_max: self.program.limits.answer_bytes_max,
        }
    }

    /// Asks the process that serves, or the next one: again where the request surely did not run,
    /// or may run twice.
    pub(super) async fn send_until<W: Transport>(
        &self,
        ask: HttpRequest,
        is_idempotent: bool,
    ) -> Result<HttpResponse, Error> {
        let mut sending = Sending {
            shared: self,
            deadline: ask.deadline,
            asked: None,
            _running: self.activity.begin(),
        };
        let (mut sent, mut again_in) = (0, RETRY_DELAY);
        let mut refused_since = None;
        loop {
            let live = self.live(ask.deadline).await?;
            let sent_at = Instant::now();
            sending.asked = Some(live.pid);
            let answered = live.client.send::<W>(&ask).await;
            sending.asked = None;
            let broken = match answered {
                Ok(answer) => {
                    self.activity.answered(Instant::now());
                    return Ok(answer);
                }
                Err(broken) => broken,
            };
            if broken.delivery == Delivery::MaybeSent {
                self.activity.lost();
            }
            sent += 1;
            let may_help = broken.kind == RequestErrorKind::Disconnected;
            let is_safe = broken.delivery == Delivery::NotSent
                || is_idempotent
                || may_help && self.met_idle_exit::<W>(&broken, &live, sent_at).await;
            let is_enough = match broken.delivery {
                Delivery::MaybeSent => sent >= MAX_SENDS,
                Delivery::NotSent => {
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    sent >= MAX_SENDS && since.elapsed() >= EXIT_TIMEOUT
                }
            };
            if !(is_safe && may_help) || is_enough {
                return Err(error_of(&broken, sent));
            }
            self.moment::<W>(&live, again_in).await;
            again_in = (again_in * 2).min(MAX_RETRY_DELAY);
        }
    }

    /// Whether a request met an exit that was due to the idle time: no byte of a response came,
    /// and the process exited as one does that was idle. It answers what it has taken before it
    /// exits so, hence the request did not run.
    async fn met_idle_exit<W: Transport>(
        &self,
        broken: &RequestError,
        live: &Live,
        sent: Instant,
    ) -> bool {
        let idle_max = self.program.limits.idle_max;
        if broken.has_response || !self.activity.may_race_idle_exit(idle_max, sent) {
            return false;
        }
        self.moment::<W>(live, EXIT_TIMEOUT).await;
        live.end.get() == Some(&ExitCause::Idle)
    }

    /// Waits until another process serves, or a little while: a connection may end for reasons
    /// that have nothing to do with its process.
    async fn moment<W: Transport>(&self, live: &Live, wait_max: Duration) {
        let mut phase = self.phase.subscribe();
        let other = phase.wait_for(|phase| match phase {
            Phase::Serving(now) => now.pid != live.pid,
            _ => true,
        });
        let until = Instant::now() + wait_max;
        let _ = W::timeout_at(until, async { other.await.is_ok() }).await;
    }

    /// The process that serves; waits while it is started, and has it started if it is asleep.
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
                Phase::Backoff { why, until } if deadline.is_none_or(|late| late <= until) => {
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
        if let Some(orders) = self.commands.upgrade() {
            // The task has ended: the phase says so.
            let _ = orders.send(Command::Wake);
        }
    }
}

/// A call while it is sent and waits for its answer; dropped in that wait after its deadline, it
/// has its process suspected.
struct Sending<'s> {
    shared: &'s Shared,
    deadline: Option<Instant>,
    /// The process that has not answered yet.
    asked: Option<u32>,
    _running: Running<'s>,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let (Some(pid), Some(deadline)) = (self.asked, self.deadline) else { return };
        if deadline <= Instant::now()
            && self.shared.activity.suspect()
            && let Some(orders) = self.shared.commands.upgrade()
        {
            // The task has ended: so has the process.
            let _ = orders.send(Command::CheckHung { pid });
        }
    }
}

#[cold]
fn error_of(broken: &RequestError, sent: u32) -> Error {
    let kind = match broken.kind {
        RequestErrorKind::Disconnected => ErrorKind::Disconnected,
        RequestErrorKind::Protocol => ErrorKind::Protocol,
        RequestErrorKind::TooLarge => ErrorKind::InvalidOutput,
    };
    let what = match broken.delivery {
        Delivery::NotSent => "was not called",
        Delivery::MaybeSent => "was called, and gave no answer; the call may have run",
    };
    let times = if sent > 1 { format!(" ({sent} attempts)") } else { String::new() };
    Error::new(kind, format!("{what}{times}")).caused_by(broken.message.clone())
}

#[cold]
fn stopped_error() -> Error {
    Error::new(ErrorKind::Retired, "has ended, and its process with it; look it up again")
}

#[cold]
fn backoff_error(why: &str, until: Instant) -> Error {
    let wait = until.saturating_duration_since(Instant::now()).as_millis();
    let message = format!("was not called: its process does not run; it is started in {wait} ms");
    Error::new(ErrorKind::StartFailed, message).caused_by(why.to_owned())
}
