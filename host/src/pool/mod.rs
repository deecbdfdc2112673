//! Bounded work: a queue with a limit, threads that are joined, and a clock for what waits.
//! Knows no plugins.

mod clock;
mod crew;
mod line;
mod queue;
mod ticket;
mod work;

pub(crate) use clock::{Clock, Hand, Timed};
pub(crate) use crew::{Crew, Employer, Errand};
pub(crate) use line::{Epoch, QueueLimits, Seat};
pub(crate) use queue::{Pushed, Queue, Taken};
pub(crate) use ticket::{Teller, Ticket, ticket};
pub(crate) use work::{Never, Overrun, Patience, Ran, Work};
