//! A plugin in a process, as its generation holds it: asked in this thread or by a future, and
//! asked again where that is safe.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hotbay_plugin::{Output, Snapshot, wire};
use hyper::Method;
use hyper::header::HeaderValue;
use tokio::sync::{mpsc, oneshot, watch};

use super::dialect::Capabilities;
use super::http::{
    Answer, Ask, Broken, CALL_ID, Here, OnTasks, Ran, SNAPSHOT_VERSION, TRACE, Way, Why,
};
use super::program::Program;
use super::state::{Live, Order, Phase};
use super::{batch, reply};
use crate::call::{Failure, Request};
use crate::error::{Error, ErrorKind};

/// How often one call is sent at most.
const SENDS_MAX: u32 = 5;

/// How long a call waits before it is sent again to the same process.
const AGAIN_IN: Duration = Duration::from_millis(5);

/// Longest time for what is asked besides calls.
const ERRAND_WAIT_MAX: Duration = Duration::from_secs(30);

/// A plugin in a process of its own.
pub(crate) struct Process {
    pub(super) shared: Arc<Shared>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
}

/// What those who call a process share with the task that watches it.
pub(super) struct Shared {
    pub(super) program: Arc<Program>,
    pub(super) capabilities: Capabilities,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) phase: watch::Sender<Phase>,
    /// Weak, so that the task hears when nobody gives orders any more.
    pub(super) orders: mpsc::WeakUnboundedSender<Order>,
    /// Calls that are under way.
    pub(super) running: AtomicU32,
    /// Whether the process that serves has answered a call.
    pub(super) has_served: AtomicBool,
}

/// A call, as a process needs it.
#[derive(Debug)]
pub(crate) struct ProcessCall<'c> {
    pub(crate) request: &'c Request<'c>,
    pub(crate) call_id: u64,
}

impl Process {
    /// Calls it in this thread.
    pub(crate) fn call(&self, call: &ProcessCall<'_>) -> Result<Output, Failure> {
        let Some(token) = call.request.cancellation_token() else {
            return self.call_until(call, std::future::pending());
        };
        self.call_until(call, token.cancelled())
    }

    fn call_until(
        &self,
        call: &ProcessCall<'_>,
        taken_back: impl Future<Output = ()>,
    ) -> Result<Output, Failure> {
        let ask = self.shared.ask_of(call)?;
        let deadline = ask.deadline;
        let asked = self.shared.ask::<Here>(ask, call.request.is_idempotent());
        let asked = first(asked, taken_back);
        match wire::block_on(deadline, asked) {
            Some(Some(answer)) => reply::output(answer.map_err(Failure::Other)?),
            Some(None) => Err(Failure::Other(cancelled())),
            None => Err(Failure::Other(late())),
        }
    }

    /// Calls it; a future for any executor, whose drop takes the call back.
    pub(crate) async fn call_later(&self, call: &ProcessCall<'_>) -> Result<Output, Failure> {
        let ask = self.shared.ask_of(call)?;
        let answer = self.ask_later(ask, call.request.is_idempotent()).await?;
        reply::output(answer)
    }

    async fn ask_later(&self, ask: Ask, is_idempotent: bool) -> Result<Answer, Failure> {
        let deadline = ask.deadline;
        let asked = self.shared.ask::<OnTasks>(ask, is_idempotent);
        let answer = match deadline {
            None => asked.await,
            Some(deadline) => match self.shared.timer(deadline, asked).await {
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
        let is_idempotent = calls.iter().all(|call| call.request.is_idempotent());
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
        let answer = wire::block_on(Some(Instant::now() + ERRAND_WAIT_MAX), asked);
        let Some(answer) = answer else {
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

    /// The process that serves, if one does.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &*self.shared.phase.borrow() {
            Phase::Serving(live) => Some(live.pid),
            _ => None,
        }
    }
}

impl Shared {
    fn ask_of(&self, call: &ProcessCall<'_>) -> Result<Ask, Failure> {
        let request = call.request;
        let content_type = HeaderValue::try_from(request.content_type()).map_err(|_| {
            let found = request.content_type();
            let message = format!("was not called: `{found}` is no content type");
            Failure::Other(Error::new(ErrorKind::Input, message))
        })?;
        let endpoint = request.named_endpoint().unwrap_or("execute");
        self.check_endpoint(endpoint)?;
        let mut headers = vec![(CALL_ID, HeaderValue::from(call.call_id))];
        if let Some(trace) = request.trace() {
            headers.push((TRACE, reply::traceparent(trace)));
        }
        Ok(Ask {
            method: Method::POST,
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
        if endpoints.is_empty() || endpoints.contains(endpoint) {
            return Ok(());
        }
        let known: Vec<_> = endpoints.iter().map(String::as_str).collect();
        let known = known.join("`, `");
        let message = format!("was not called: it has no endpoint `{endpoint}`; it has `{known}`");
        Err(Failure::Other(Error::new(ErrorKind::Unsupported, message)))
    }

    fn errand(&self, method: Method, endpoint: &str) -> Ask {
        Ask {
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
    async fn ask<W: Way>(&self, ask: Ask, is_idempotent: bool) -> Result<Answer, Error> {
        let _running = Running::of(&self.running);
        let mut sent = 0;
        loop {
            let live = self.live(ask.deadline).await?;
            let broken = match live.client.ask::<W>(&ask).await {
                Ok(answer) => {
                    self.has_served.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(broken) => broken,
            };
            sent += 1;
            let is_safe = broken.ran == Ran::No || is_idempotent;
            let may_help = broken.why == Why::Disconnected;
            if !(is_safe && may_help) || sent == SENDS_MAX {
                return Err(error_of(&broken, sent));
            }
            self.moment(&live).await;
        }
    }

    /// Waits until another process serves, or a little while: a connection may end for reasons
    /// that have nothing to do with its process.
    async fn moment(&self, live: &Live) {
        let mut phase = self.phase.subscribe();
        let other = phase.wait_for(|phase| match phase {
            Phase::Serving(now) => now.pid != live.pid,
            _ => true,
        });
        let until = Instant::now() + AGAIN_IN;
        let _ = self.timer(until, async { other.await.is_ok() }).await;
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
                Phase::Ended => return Err(ended()),
                Phase::Down { why, until } if deadline.is_none_or(|late| late <= until) => {
                    return Err(down(&why, until));
                }
                Phase::Asleep => self.wake(),
                Phase::Starting | Phase::Down { .. } => {}
            }
            if phases.changed().await.is_err() {
                return Err(ended());
            }
        }
    }

    fn wake(&self) {
        if let Some(orders) = self.orders.upgrade() {
            // The task has ended: the phase says so.
            let _ = orders.send(Order::Wake);
        }
    }

    /// What `future` answers by then; its timer is the runtime's, whoever polls.
    async fn timer<F: Future>(&self, until: Instant, future: F) -> Option<F::Output> {
        let sleep = {
            let _inside = self.runtime.enter();
            tokio::time::sleep_until(until.into())
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            () = sleep => None,
        }
    }
}

/// Counts a call that is under way.
struct Running<'s>(&'s AtomicU32);

impl<'s> Running<'s> {
    fn of(running: &'s AtomicU32) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Self(running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn first<T>(asked: impl Future<Output = T>, or: impl Future<Output = ()>) -> Option<T> {
    tokio::select! {
        biased;
        answer = asked => Some(answer),
        () = or => None,
    }
}

#[cold]
fn error_of(broken: &Broken, sent: u32) -> Error {
    let kind = match broken.why {
        Why::Disconnected => ErrorKind::Disconnected,
        Why::Protocol => ErrorKind::Protocol,
        Why::TooLarge => ErrorKind::Output,
    };
    let what = match broken.ran {
        Ran::No => "was not called",
        Ran::Perhaps => "was called, and gave no answer; the call may have run",
    };
    let times = if sent > 1 { format!(" ({sent} attempts)") } else { String::new() };
    Error::new(kind, format!("{what}{times}")).caused_by(broken.message.clone())
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

#[cold]
fn ended() -> Error {
    Error::new(ErrorKind::Retired, "has ended, and its process with it; look it up again")
}

#[cold]
fn down(why: &str, until: Instant) -> Error {
    let wait = until.saturating_duration_since(Instant::now()).as_millis();
    let message = format!("was not called: its process does not run; it is started in {wait} ms");
    Error::new(ErrorKind::Start, message).caused_by(why.to_owned())
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("plugin", &self.shared.program.name)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}
