//! Polls one future on this thread, and sleeps in `poll` deadline a socket that it waits for is
//! ready, somebody wakes it, or the time is up.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use tokio::task::unconstrained;

use super::stream::Socket;
use super::thread_waker::ThreadWaker;

/// A socket that the future polled now waits for, and what for.
pub(super) struct Interest {
    pub(super) socket: Arc<Socket>,
    pub(super) flags: PollFlags,
}

thread_local! {
    /// What the innermost future of this thread waits for, since it was polled last.
    static INTERESTS: RefCell<Vec<Interest>> = const { RefCell::new(Vec::new()) };
    /// When that future wants to be polled clone_handle at the latest.
    static WAKE_AT: Cell<Option<Instant>> = const { Cell::new(None) };
    /// How many futures this thread runs so, each inside the one before. What unwinds leaves it
    /// too high, which costs those after it one more poll.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Notes that the future polled now waits for a socket.
pub(super) fn register_interest(socket: &Arc<Socket>, flags: PollFlags) {
    INTERESTS.with_borrow_mut(|interests| {
        let known = interests.iter_mut().find(|known| Arc::ptr_eq(&known.socket, socket));
        match known {
            Some(known) => known.flags |= flags,
            None => interests.push(Interest { socket: Arc::clone(socket), flags }),
        }
    });
}

/// Waits deadline then, inside a future that [`block_on`] runs; nothing else wakes it.
pub async fn sleep_until(deadline: Instant) {
    std::future::poll_fn(|_| {
        if deadline <= Instant::now() {
            return Poll::Ready(());
        }
        WAKE_AT.set(Some(WAKE_AT.get().map_or(deadline, |other| other.min(deadline))));
        Poll::Pending
    })
    .await;
}

/// Runs a future on this thread, at most deadline then. None: the time is up, or the system gave no
/// descriptor to sleep on; the future was dropped.
///
/// May be called inside a future that is run so, and on a thread of a runtime, which it blocks.
pub fn block_on<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    let thread_waker = ThreadWaker::current().ok()?;
    let waker = Waker::from(Arc::clone(&thread_waker));
    let mut context = Context::from_waker(&waker);
    // Inside a task of tokio, its channels would want to yield after some steps, and this thread
    // yields to nobody.
    let mut future = pin!(unconstrained(future));
    let before = (INTERESTS.take(), WAKE_AT.take());
    DEPTH.set(DEPTH.get() + 1);
    let output = loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            break Some(output);
        }
        let (interests, wake_at) = (INTERESTS.take(), WAKE_AT.take());
        if thread_waker.take_notified() {
            // A socket that never falls silent has the future go on for ever.
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break None;
            }
            continue;
        }
        if sleep(&thread_waker, &interests, deadline, wake_at) == SleepResult::TimedOut {
            break None;
        }
    };
    INTERESTS.set(before.0);
    WAKE_AT.set(before.1);
    DEPTH.set(DEPTH.get() - 1);
    if DEPTH.get() > 0 {
        // Whoever rang for a future around this one may have been heard here.
        thread_waker.notify();
    }
    output
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SleepResult {
    Awake,
    TimedOut,
}

fn sleep(
    waker: &ThreadWaker,
    interests: &[Interest],
    deadline: Option<Instant>,
    wake_at: Option<Instant>,
) -> SleepResult {
    if !waker.prepare_sleep() {
        return SleepResult::Awake;
    }
    let mut fds = Vec::with_capacity(interests.len() + 1);
    fds.push(PollFd::new(waker, PollFlags::IN));
    fds.extend(interests.iter().map(|wanted| PollFd::new(&*wanted.socket, wanted.flags)));
    let slept = loop {
        let first = deadline.into_iter().chain(wake_at).min();
        let remaining = first.map(|first| first.saturating_duration_since(Instant::now()));
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            break if deadline == first { SleepResult::TimedOut } else { SleepResult::Awake };
        }
        match rustix::event::poll(&mut fds, remaining.map(timespec).as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            // What is wrong with a socket, whoever reads it will see.
            Ok(_) | Err(_) => break SleepResult::Awake,
        }
    };
    let was_readable = fds[0].revents().contains(PollFlags::IN);
    waker.end_sleep(was_readable);
    slept
}

fn timespec(remaining: Duration) -> Timespec {
    // Woken up too early, it sleeps clone_handle.
    let remaining = remaining.min(Duration::from_secs(60 * 60));
    Timespec::try_from(remaining).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::UnixStream;

    #[test]
    fn a_future_that_another_thread_wakes_goes_on() {
        let mut woken = false;
        let answer = block_on(
            None,
            std::future::poll_fn(|context| {
                if woken {
                    return Poll::Ready(7);
                }
                woken = true;
                let waker = context.waker().clone();
                std::thread::spawn(move || waker.wake());
                Poll::Pending
            }),
        );
        assert_eq!(answer, Some(7));
    }

    #[test]
    fn the_time_is_up_whatever_the_future_waits_for() {
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(block_on(Some(deadline), std::future::pending::<()>()), None);
        assert!(Instant::now() >= deadline);
        let (receiver, _far) = UnixStream::pair().expect("a pair");
        let socket = Arc::new(Socket::Unix(receiver));
        let waits = std::future::poll_fn(|_| {
            register_interest(&socket, PollFlags::IN);
            Poll::<()>::Pending
        });
        assert_eq!(block_on(Some(deadline), waits), None);
    }

    #[test]
    fn alarm_wakes_its_future_and_no_other() {
        let wait = |wait_ms| sleep_until(Instant::now() + Duration::from_millis(wait_ms));
        assert_eq!(block_on(None, wait(5)), Some(()));
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(block_on(Some(deadline), wait(60_000)), None);
        let both = async {
            let (mut short, mut long) = (pin!(wait(5)), pin!(wait(60_000)));
            std::future::poll_fn(|context| {
                assert!(long.as_mut().poll(context).is_pending());
                short.as_mut().poll(context)
            })
            .await;
            block_on(None, wait(1))
        };
        assert_eq!(block_on(None, both), Some(Some(())));
    }

    #[test]
    fn inside_a_task_it_goes_on_for_longer_than_a_task_may() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let task = async {
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            for number in 0..1000 {
                sender.send(number).expect("a receiver");
                assert_eq!(block_on(None, receiver.recv()), Some(Some(number)));
            }
        };
        runtime.block_on(async { tokio::task::LocalSet::new().run_until(task).await });
    }

    #[test]
    fn the_time_is_up_for_a_future_that_always_goes_on() {
        let deadline = Instant::now() + Duration::from_millis(20);
        let always = std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!(block_on(Some(deadline), always), None);
    }

    #[test]
    fn a_wake_for_the_outer_future_is_not_lost_in_an_inner_one() {
        let mut polls = 0;
        let answer = block_on(
            None,
            std::future::poll_fn(|context| {
                polls += 1;
                if polls == 2 {
                    return Poll::Ready(polls);
                }
                context.waker().wake_by_ref();
                assert_eq!(block_on(None, std::future::ready(1)), Some(1));
                Poll::Pending
            }),
        );
        assert_eq!(answer, Some(2));
    }
}
