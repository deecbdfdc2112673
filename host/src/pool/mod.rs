//! Bounded work: a queue with a limit, and threads that are joined. Knows no plugins.

mod crew;
mod queue;
mod ticket;

pub(crate) use crew::{Crew, Errand};
pub(crate) use queue::{Epoch, Pushed, Queue, Work};
pub(crate) use ticket::{Teller, Ticket, ticket};
