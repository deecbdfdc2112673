//! What callers hold: a plugin by its name, whatever generation serves.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hotbay_plugin::Snapshot;

use crate::call::{Reply, Request};
use crate::error::{Error, ErrorKind};
use crate::generation::Token;
use crate::id::{GenerationId, PluginName};
use crate::layers::{Stack, stack};
use crate::pool::{Teller, Ticket, Work, ticket};
use crate::slot::{Call, Slot, Visit};

/// A plugin of a host. Cheap to clone; lives through reloads.
#[derive(Clone)]
pub struct PluginHandle {
    inner: Arc<Inner>,
}

struct Inner {
    stack: Stack,
    slot: Arc<Slot>,
}

impl Inner {
    /// Inlined into the caller, so that the reply lies where the caller wants it: a reply that
    /// was just written is not moved without waiting for the stores.
    #[inline(always)]
    fn visit(&self, visit: Visit<'_>) -> Result<Reply, Error> {
        let mut answer = Ok(Reply::vacant());
        if let Ok(reply) = &mut answer
            && let Err(error) = self.walk(visit, reply)
        {
            answer = Err(error);
        }
        answer
    }

    /// The corridor, once.
    #[inline(never)]
    fn walk(&self, visit: Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        self.stack.call(visit, reply)
    }
}

impl PluginHandle {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        Self { inner: Arc::new(Inner { stack: stack(&slot), slot }) }
    }

    /// The plugin's name.
    pub fn name(&self) -> &PluginName {
        &self.inner.slot.name
    }

    /// Calls the plugin in this thread; costs nanoseconds, for plugins that are trusted to end.
    ///
    /// Blocks as long as the plugin takes. What the plugin leaves on this thread, such as a
    /// thread-local value, may keep its library mapped after an unload until this thread ends.
    ///
    /// # Errors
    ///
    /// `Plugin` with the plugin's own error, `Panicked` with the fault, `Quarantined`,
    /// `Retired`, `Input` and `Output` for what is too large.
    #[inline(always)]
    pub fn call(&self, request: Request<'_>) -> Result<Reply, Error> {
        self.inner.visit(Visit { request: &request, lease: None })
    }

    /// Queues a call for the plugin's own threads, at once; the future waits for the answer.
    ///
    /// Runs on any executor. The call runs even if the future is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and `Overloaded` when the queue is full.
    pub fn execute(&self, request: Request<'_>) -> Execute {
        let (teller, ticket) = ticket();
        let inner = Arc::clone(&self.inner);
        let request = request.into_owned();
        let queued = self.inner.slot.enqueue(Box::new(Pooled { inner, request, teller }));
        match queued {
            Ok(()) => Execute(Answer::Waits { ticket, slot: Arc::clone(&self.inner.slot) }),
            Err(error) => Execute(Answer::Refused(Some(error))),
        }
    }

    /// Asks the plugin whether it can work, on a thread of its own.
    ///
    /// # Errors
    ///
    /// `Plugin` with the plugin's own error, `Panicked`, `Retired`, and `Overloaded` while the
    /// plugin is paused for a reload.
    pub async fn health(&self) -> Result<(), Error> {
        let answer = self.inner.slot.pin_now()?.ask(|instance| instance.health())?;
        self.answer(answer).await
    }

    /// Takes the state that the plugin would hand to its next build; none if it has none.
    /// [`Host::load_with_state`](crate::Host::load_with_state) gives it to a plugin.
    ///
    /// # Errors
    ///
    /// As [`health`](Self::health).
    pub async fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        let answer = self.inner.slot.pin_now()?.ask(|instance| instance.snapshot())?;
        self.answer(answer).await
    }

    async fn answer<T>(&self, answer: Ticket<Result<T, Error>>) -> Result<T, Error> {
        answer.await.unwrap_or_else(|| Err(lost(&self.inner.slot)))
    }

    /// Holds the current generation, for many calls at raw speed.
    ///
    /// # Errors
    ///
    /// `Retired` after an unload.
    pub fn pin(&self) -> Result<Pinned, Error> {
        let token = self.inner.slot.pin()?;
        Ok(Pinned { token, inner: Arc::clone(&self.inner) })
    }
}

/// A call in the queue.
struct Pooled {
    inner: Arc<Inner>,
    request: Request<'static>,
    teller: Teller<Result<Reply, Error>>,
}

impl Work for Pooled {
    fn run(self: Box<Self>, generation: u64) {
        let slot = &self.inner.slot;
        let answer = slot.under_lease(generation, |token| {
            self.inner.visit(Visit { request: &self.request, lease: Some(token) })
        });
        match answer {
            Some(answer) => self.teller.tell(answer),
            None => Arc::clone(slot).hand_back(self),
        }
    }

    fn never(self: Box<Self>) {
        self.teller.tell(Err(self.inner.slot.retired()));
    }
}

impl fmt::Debug for PluginHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHandle").field("name", self.name()).finish()
    }
}

/// A call that ended without an answer: something of the host's own panicked around it, such as
/// a subscriber of its log.
#[cold]
fn lost(slot: &Slot) -> Error {
    Error::new(ErrorKind::Bug, "was called, and the call ended without an answer").of(&slot.name)
}

/// A hold on one generation of a plugin. Whatever ends that generation waits until this is
/// dropped, so drop it when a call answers `Retired`.
pub struct Pinned {
    token: Arc<Token>,
    inner: Arc<Inner>,
}

impl Pinned {
    /// Calls the generation in this thread, counted and guarded as every call.
    ///
    /// # Errors
    ///
    /// Those of [`PluginHandle::call`]; `Retired` once another generation is current.
    #[inline(always)]
    pub fn call(&self, request: Request<'_>) -> Result<Reply, Error> {
        if !self.token.generation().is_current() {
            return Err(self.not_current());
        }
        self.inner.visit(Visit { request: &request, lease: Some(&self.token) })
    }

    /// The generation that is held.
    pub fn generation(&self) -> GenerationId {
        self.token.generation().id
    }

    #[cold]
    fn not_current(&self) -> Error {
        let generation = self.generation();
        let message =
            format!("is pinned at generation {generation}, which has ended; pin it again");
        let error = Error::new(ErrorKind::Retired, message);
        error.of(&self.inner.slot.name).in_generation(generation)
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned")
            .field("plugin", &self.inner.slot.name)
            .field("generation", &self.generation())
            .finish()
    }
}

/// A pooled call: a future of its reply.
#[must_use = "the call runs, but its outcome is only here"]
pub struct Execute(Answer);

enum Answer {
    Waits { ticket: Ticket<Result<Reply, Error>>, slot: Arc<Slot> },
    Refused(Option<Error>),
}

impl Future for Execute {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Answer::Waits { ticket, slot } => Pin::new(ticket)
                .poll(context)
                .map(|answer| answer.unwrap_or_else(|| Err(lost(slot)))),
            Answer::Refused(error) => match error.take() {
                Some(error) => Poll::Ready(Err(error)),
                // Polled after it was ready, as no future may be.
                None => Poll::Pending,
            },
        }
    }
}

impl fmt::Debug for Execute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execute").finish_non_exhaustive()
    }
}
