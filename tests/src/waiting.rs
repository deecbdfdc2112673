//! Waiting for what a host does: for futures, for events, for a state. Always with a limit far
//! above what is needed, so that a test that hangs says so; nothing here measures time.

use std::fmt::Debug;
use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

use hotbay::{Events, HostEvent};

/// What no test comes near unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Runs a future to its end on this thread.
///
/// # Panics
///
/// When it takes longer than [`LIMIT`].
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O can always be made");
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, future).await })
        .unwrap_or_else(|_| panic!("not done after {LIMIT:?}"))
}

/// Waits for the first event that is wanted; those before it are thrown away.
///
/// # Panics
///
/// When it does not come within [`LIMIT`], or the host goes.
pub fn event(events: &mut Events, expected: impl Fn(&HostEvent) -> bool) -> HostEvent {
    let mut seen = events_until(events, expected);
    seen.pop().expect("the wanted one is the last")
}

/// Waits for the first event that is wanted; answers with all up to it.
///
/// # Panics
///
/// When it does not come within [`LIMIT`], or the host goes.
pub fn events_until(events: &mut Events, expected: impl Fn(&HostEvent) -> bool) -> Vec<HostEvent> {
    let mut seen = Vec::new();
    let all = &mut seen;
    let waited = block_on(async move {
        let wait = async {
            while let Some(event) = events.next().await {
                all.push(event);
                if all.last().is_some_and(&expected) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(LIMIT / 2, wait).await
    });
    match waited {
        Ok(true) => seen,
        Ok(false) => panic!("the host went before the event came; seen: {seen:#?}"),
        Err(_) => panic!("the event did not come; seen: {seen:#?}"),
    }
}

/// Asks again and again, giving way in between, until there is an answer.
///
/// # Panics
///
/// When there is none within [`LIMIT`].
pub fn until<T: Debug>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < LIMIT, "waited in vain until {what}");
        thread::yield_now();
    }
}
