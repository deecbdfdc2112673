//! The corridor walked by a future, for calls that run as tasks instead of on threads of their
//! plugin. The same steps in the same order as [`Step`]; each holds its guards while it waits.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::{Either, select};

use super::{Slot, Step, Visit};
use crate::call::{Reply, Standing};
use crate::error::{Error, ErrorKind, bug};
use crate::generation::{Asked, Token};

/// One step of the corridor that a future walks.
pub(crate) trait Stride: Step {
    /// Walks on, to fill `reply`. The visit comes with a lease.
    fn stride<'a>(
        &'a self,
        visit: &'a Visit<'a>,
        reply: &'a mut Reply,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'a;
}

impl Slot {
    /// A hold on the generation of this number, if it is current.
    pub(crate) fn lease_of(&self, generation: u64) -> Option<Arc<Token>> {
        self.current.load_full().filter(|token| token.generation().id.get() == generation)
    }

    /// Says whether calls may run as tasks.
    pub(crate) fn set_walkable(&self, is_walkable: bool) {
        self.is_walkable.store(is_walkable, Ordering::Relaxed);
    }

    /// Whether each call may be the one that decides whether others are made.
    pub(crate) fn is_on_probation(&self) -> bool {
        self.health.has_to_ask()
    }

    /// What a call is told that was taken back while it ran.
    #[cold]
    pub(crate) fn taken_back(&self) -> Error {
        let message = "was called, and its caller took the call back";
        Error::new(ErrorKind::Cancelled, message).of(&self.name)
    }

    /// What a call is told that ran on in a generation that had to end.
    #[cold]
    fn cut_off(&self, token: &Token) -> Error {
        let message = "was called, and ended before it had answered: it took longer than the \
                       `drain_wait_max` of the host; call again";
        let error = Error::new(ErrorKind::Retired, message).of(&self.name);
        error.in_generation(token.generation().id)
    }

    /// Waits for an answer for as long as somebody wants it and the plugin is there; dropped,
    /// what is waited for ends.
    pub(crate) async fn while_wanted<T>(
        &self,
        token: &Token,
        standing: &Standing,
        answer: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let ended = pin!(token.generation().calls_cut_off());
        let left = pin!(standing.left());
        match select(pin!(answer), select(left, ended)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((Either::Left(_), _)) => {
                Err(self.taken_back().in_generation(token.generation().id))
            }
            Either::Right((Either::Right(_), _)) => Err(self.cut_off(token)),
        }
    }
}

impl Stride for Arc<Slot> {
    /// The end of the corridor: calls the generation of the lease, or has that done together
    /// with others.
    async fn stride<'a>(&'a self, visit: &'a Visit<'a>, reply: &'a mut Reply) -> Result<(), Error> {
        let Visit { request, call_id, .. } = *visit;
        let (Some(token), Some(standing)) = (visit.lease, visit.standing) else {
            return Err(bug!("a task called `{}` without a lease", self.name));
        };
        if let Some(place) = visit.place {
            let answer = place.wait(call_id).await;
            *reply = answer.map_err(|error| error.of_if_nobody(&self.name))?;
            return Ok(());
        }
        let asked = Asked { request, standing: Some(standing), call_id };
        self.while_wanted(token, standing, token.call_later(asked, reply)).await
    }
}
