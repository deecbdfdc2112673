//! Polls one future on the current thread. Sleeps in `poll` until a socket is ready, the future is
//! woken, or the deadline passes.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tokio::task::unconstrained;
use wake_fd::WakeFd;

/// A socket that the current future waits for, with the events that it waits for.
struct Interest {
    socket: Arc<dyn AsFd>,
    flags: PollFlags,
}

thread_local! {
    /// Interests that the innermost future of this thread registered during its last poll.
    static INTERESTS: RefCell<Vec<Interest>> = const { RefCell::new(Vec::new()) };
    /// Time at which that future must be polled again.
    static WAKE_AT: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The number of the current round: see [`round`].
    static ROUND: Cell<u64> = const { Cell::new(0) };
    /// Number of nested `block_on` calls of this thread. Unwinding leaves it too high, which costs
    /// later calls one additional poll.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// The next thread begins at this round, so that the rounds of threads differ.
static NEXT_FIRST_ROUND: AtomicU64 = AtomicU64::new(1 << 32);

/// Returns a number that is greater after each sleep of this thread, and at the begin of each
/// [`block_on`]. While it stays the same, a socket without data needs no second read: what arrives
/// meanwhile ends the sleep.
pub(super) fn round() -> u64 {
    ROUND.get()
}

fn begin_round() {
    let last = match ROUND.get() {
        0 => NEXT_FIRST_ROUND.fetch_add(1 << 32, Ordering::Relaxed),
        last => last,
    };
    ROUND.set(last + 1);
}

/// Registers that the current future waits for a socket.
pub(super) fn register_interest(socket: Arc<dyn AsFd>, flags: PollFlags) {
    INTERESTS.with_borrow_mut(|interests| {
        let existing = interests.iter_mut().find(|other| Arc::ptr_eq(&other.socket, &socket));
        match existing {
            Some(existing) => existing.flags |= flags,
            None => interests.push(Interest { socket, flags }),
        }
    });
}

/// Waits until `deadline`, inside a future that [`block_on`] runs.
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

/// Runs a future on the current thread. Returns `None` and drops the future if `deadline` passes,
/// or if the system has no descriptor left to sleep on.
///
/// May be nested, and may be called on a thread of a runtime, which it blocks.
pub fn block_on<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    let thread_waker = ThreadWaker::current().ok()?;
    let waker = Waker::from(Arc::clone(&thread_waker));
    let mut context = Context::from_waker(&waker);
    // Inside a tokio task, tokio's cooperative budget would make channels yield, but this thread
    // has no scheduler to yield to.
    let mut future = pin!(unconstrained(future));
    let outer = (INTERESTS.take(), WAKE_AT.take());
    DEPTH.set(DEPTH.get() + 1);
    begin_round();
    let output = loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            break Some(output);
        }
        let (interests, wake_at) = (INTERESTS.take(), WAKE_AT.take());
        if thread_waker.take_notified() {
            // A future that is always woken would otherwise run past its deadline.
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break None;
            }
            continue;
        }
        if sleep(&thread_waker, &interests, deadline, wake_at) == SleepResult::TimedOut {
            break None;
        }
        begin_round();
    };
    INTERESTS.set(outer.0);
    WAKE_AT.set(outer.1);
    DEPTH.set(DEPTH.get() - 1);
    if DEPTH.get() > 0 {
        // A notification for an outer future may have been consumed here.
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
    fds.extend(interests.iter().map(|interest| PollFd::new(&interest.socket, interest.flags)));
    let result = loop {
        let first = deadline.into_iter().chain(wake_at).min();
        let remaining = first.map(|first| first.saturating_duration_since(Instant::now()));
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            break if deadline == first { SleepResult::TimedOut } else { SleepResult::Awake };
        }
        match rustix::event::poll(&mut fds, remaining.map(timespec).as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            // The next read or write of a socket reports its error.
            Ok(_) | Err(_) => break SleepResult::Awake,
        }
    };
    let was_readable = fds[0].revents().contains(PollFlags::IN);
    waker.end_sleep(was_readable);
    result
}

fn timespec(remaining: Duration) -> Timespec {
    // The caller sleeps again if it wakes up early.
    let remaining = remaining.min(Duration::from_secs(60 * 60));
    Timespec::try_from(remaining).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
}

/// Not notified, and the thread does not sleep.
const IDLE: u8 = 0;
/// Notified since the thread last checked.
const NOTIFIED: u8 = 1;
/// The thread sleeps or is about to: a notification must make the descriptor readable.
const SLEEPING: u8 = 2;

/// Wakes one thread that sleeps in `poll`, from any thread.
#[derive(Debug)]
struct ThreadWaker {
    state: AtomicU8,
    wake_fd: WakeFd,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<ThreadWaker>>> = const { RefCell::new(None) };
}

impl ThreadWaker {
    /// Returns the waker of the current thread; creates it on first use.
    fn current() -> io::Result<Arc<Self>> {
        CURRENT.with_borrow_mut(|current| {
            if let Some(waker) = current {
                return Ok(Arc::clone(waker));
            }
            let waker = Arc::new(Self { state: AtomicU8::new(IDLE), wake_fd: WakeFd::new()? });
            *current = Some(Arc::clone(&waker));
            Ok(waker)
        })
    }

    /// Returns whether the thread was notified since the last check.
    fn take_notified(&self) -> bool {
        self.state.swap(IDLE, Ordering::Acquire) == NOTIFIED
    }

    /// Marks the thread as about to sleep; returns `false` if it was notified.
    fn prepare_sleep(&self) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state.compare_exchange(IDLE, SLEEPING, success, failure).is_ok()
    }

    /// Marks the thread as awake; keeps notifications that arrived meanwhile. The descriptor may
    /// be readable because of a notification before this sleep.
    fn end_sleep(&self, was_readable: bool) {
        if was_readable {
            self.wake_fd.drain();
        }
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        // A failure means that the thread was notified; the next check sees it.
        let _ = self.state.compare_exchange(SLEEPING, IDLE, success, failure);
    }

    /// Notifies the thread and wakes it if it sleeps.
    fn notify(&self) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING {
            self.wake_fd.signal();
        }
    }
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

impl AsFd for ThreadWaker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_fd.as_fd()
    }
}

#[cfg(target_os = "linux")]
mod wake_fd {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};

    /// A descriptor that becomes readable when it is signaled.
    #[derive(Debug)]
    pub(super) struct WakeFd(OwnedFd);

    impl WakeFd {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        pub(super) fn signal(&self) {
            // A failed write means that the descriptor is already readable.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        pub(super) fn drain(&self) {
            // Only this thread reads it, so it is still readable.
            let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
        }
    }

    impl AsFd for WakeFd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod wake_fd {
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::net::UnixStream;

    /// A descriptor that becomes readable when it is signaled.
    #[derive(Debug)]
    pub(super) struct WakeFd {
        receiver: UnixStream,
        sender: UnixStream,
    }

    impl WakeFd {
        pub(super) fn new() -> io::Result<Self> {
            let (receiver, sender) = UnixStream::pair()?;
            receiver.set_nonblocking(true)?;
            sender.set_nonblocking(true)?;
            Ok(Self { receiver, sender })
        }

        pub(super) fn signal(&self) {
            // A failed write means that the descriptor is already readable.
            let _ = (&self.sender).write(&[1]);
        }

        pub(super) fn drain(&self) {
            // Only this thread reads it, so it is still readable.
            let _ = (&self.receiver).read(&mut [0; 64]);
        }
    }

    impl AsFd for WakeFd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.receiver.as_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::UnixStream;

    #[test]
    fn future_woken_by_another_thread_is_polled_again() {
        let mut woken = false;
        let output = block_on(
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
        assert_eq!(output, Some(7));
    }

    #[test]
    fn deadline_ends_pending_future() {
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(block_on(Some(deadline), std::future::pending::<()>()), None);
        assert!(Instant::now() >= deadline);
        let (socket, _peer) = UnixStream::pair().expect("socket pair");
        let socket = Arc::new(socket);
        let waits = std::future::poll_fn(|_| {
            register_interest(Arc::<UnixStream>::clone(&socket), PollFlags::IN);
            Poll::<()>::Pending
        });
        assert_eq!(block_on(Some(deadline), waits), None);
    }

    #[test]
    fn sleep_until_wakes_only_its_own_future() {
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
    fn nested_in_task_ignores_the_cooperative_budget() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let task = async {
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            for number in 0..1000 {
                sender.send(number).expect("receiver");
                assert_eq!(block_on(None, receiver.recv()), Some(Some(number)));
            }
        };
        runtime.block_on(async { tokio::task::LocalSet::new().run_until(task).await });
    }

    #[test]
    fn deadline_ends_future_that_always_wakes_itself() {
        let deadline = Instant::now() + Duration::from_millis(20);
        let always = std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!(block_on(Some(deadline), always), None);
    }

    #[test]
    fn inner_block_on_keeps_wakes_of_the_outer_future() {
        let mut polls = 0;
        let output = block_on(
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
        assert_eq!(output, Some(2));
    }
}
