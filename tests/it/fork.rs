//! A child forked from a host's process: nothing inherited works, and nothing hangs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use hotbay::contract::CallError;
use hotbay::metrics::{CollectError, Collector, CollectorLimits, MemoryStore};
use hotbay::pool::{PoolLimits, Stopped, SubmitErrorKind, TaskError, WorkerPool};
use hotbay::{CancellationToken, ErrorKind, Host, Output, Request};
use hotbay_tests::{LIMIT, Plugins, block_on};
use text_contract::AsyncWork;

/// Runs `check` in a forked child, and expects it to return in time.
#[track_caller]
fn in_forked_child(check: impl FnOnce()) {
    // SAFETY: the child uses only objects of this test, allocates (which `fork` of the C library
    // supports), and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "the system forks");
    if child == 0 {
        // A panic hook would wait for the stderr lock, which another thread may have held.
        let returned = catch_unwind(AssertUnwindSafe(check));
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(i32::from(returned.is_err())) };
    }
    let deadline = Instant::now() + LIMIT;
    let mut status = 0;
    // SAFETY: a child of this process that was not waited for.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > deadline {
            // SAFETY: as above, so the ID still belongs to the child.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("the child hangs");
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 0), "{status:#x}");
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("ready at once")
}

fn kind<T>(result: Result<T, hotbay::Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn host_in_forked_child_fails_with_forked() {
    let plugins = Plugins::new();
    let folder = plugins.add("forked", "faulty").write();
    let host = Host::builder().build().unwrap();
    let plugin = block_on(host.load(&folder)).unwrap();
    let replaced = plugin.pin().unwrap();
    plugins
        .add("forked", "faulty")
        .set("limits", serde_json::json!({ "output_bytes": 1000 }))
        .write();
    block_on(host.reload("forked")).unwrap();
    let pinned = plugin.pin().unwrap();
    let pipeline = host.pipeline(["forked"]).unwrap();
    let waiting = plugin.execute(Request::text("hi"));
    let mut events = host.events();
    let forked = Some(ErrorKind::Forked);
    in_forked_child(|| {
        assert_eq!(kind(plugin.call(Request::text("hi"))), forked);
        assert_eq!(kind(pinned.call(Request::text("hi"))), forked);
        assert_eq!(kind(replaced.call(Request::text("hi"))), forked);
        assert_eq!(kind(plugin.pin()), forked);
        assert_eq!(kind(now(plugin.execute(Request::text("hi")))), forked);
        assert_eq!(kind(now(waiting)), forked);
        assert_eq!(kind(now(plugin.health())), forked);
        assert_eq!(kind(now(plugin.snapshot())), forked);
        assert_eq!(kind(now(pipeline.run(Request::text("hi")))), forked);
        assert_eq!(kind(host.plugin("forked")), forked);
        assert_eq!(kind(host.pipeline(["forked"])), forked);
        assert_eq!(kind(now(host.load(&folder))), forked);
        assert_eq!(kind(now(host.reload("forked"))), forked);
        assert_eq!(kind(now(host.unload("forked"))), forked);
        let report = now(host.load_all());
        assert_eq!(report.refused[0].error.kind(), ErrorKind::Forked);
        assert!(host.list().is_empty() && host.retained().is_empty());
        assert!(host.stats().plugins.is_empty());
        assert!(events.next_blocking().is_none() && now(events.next()).is_none());
        now(host.shutdown(LIMIT));
        drop((pinned, plugin, host));
    });
}

#[test]
fn host_dropped_in_forked_child_keeps_parents_files() {
    let plugins = Plugins::new();
    let folder = plugins.add("parents", "faulty").write();
    let host = Host::builder().build().unwrap();
    let plugin = block_on(host.load(&folder)).unwrap();
    block_on(plugin.execute(Request::text("hi"))).unwrap();
    let mut of_child = Some(host.clone());
    in_forked_child(|| drop(of_child.take()));
    drop(of_child);
    assert_eq!(plugin.call(Request::text("hi")).unwrap().as_bytes(), b"hi");
    block_on(host.reload("parents")).unwrap();
    block_on(host.shutdown(LIMIT));
}

#[test]
fn forked_child_may_build_its_own_host() {
    let outer = Host::builder().build().unwrap();
    in_forked_child(|| {
        let build = || {
            Host::builder()
                .register_fn("own", |_, input| Ok(Output::text(input.as_text()?)))
                .build()
        };
        let host = build().unwrap();
        let own = host.plugin("own").unwrap();
        assert_eq!(own.call(Request::text("hi")).unwrap().as_bytes(), b"hi");
        assert_eq!(outer.list().len(), 0);
        block_on(host.shutdown(LIMIT));
    });
}

#[test]
fn worker_pool_in_forked_child_accepts_nothing() {
    let pool = WorkerPool::new(PoolLimits::default(), &CancellationToken::new()).unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let ticket = pool.submit(move || held.recv().is_ok()).unwrap();
    let queued = pool.submit(|| true).unwrap();
    let of_child = pool.clone();
    in_forked_child(|| {
        let pool = of_child;
        let refused = pool.submit(|| true).err().map(|error| error.kind());
        assert_eq!(refused, Some(SubmitErrorKind::Forked));
        assert_eq!((pool.stop(), pool.cancel()), (Stopped::Forked, Stopped::Forked));
        assert_eq!(ticket.wait(), Err(TaskError::Forked));
        assert!(pool.results().is_empty());
        drop((queued, pool));
    });
    drop(release);
}

#[test]
fn collector_in_forked_child_accepts_nothing() {
    let store = Arc::new(MemoryStore::default());
    let limits = CollectorLimits::default();
    let collector = Collector::start(store, limits, CancellationToken::new()).unwrap();
    collector.record_blocking("before").unwrap();
    in_forked_child(|| {
        let refused = collector.record_blocking("after");
        assert!(matches!(refused, Err(CollectError::Forked)), "{refused:?}");
        drop(collector);
    });
}

/// Polls a future once.
fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    future.poll(&mut cx).is_pending()
}

#[test]
fn typed_call_of_the_parent_fails_in_a_forked_child() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    block_on(host.load(&plugins.add("worker", "async-worker").write())).unwrap();
    let worker = host.contract::<dyn AsyncWork>("worker").unwrap();
    // The methods are known after the first call; then one without options is only a task.
    block_on(worker.delay(0, "known")).unwrap();
    let (limited, pinned) = (worker.with_timeout(LIMIT), worker.pin().unwrap());
    let mut brief = Box::pin(worker.forever());
    let mut in_full = Box::pin(limited.forever());
    let mut of_pin = Box::pin(pinned.forever());
    let mut dropped = Box::pin(worker.forever());
    assert!(is_pending(brief.as_mut()) && is_pending(in_full.as_mut()));
    assert!(is_pending(of_pin.as_mut()) && is_pending(dropped.as_mut()));
    in_forked_child(|| {
        let forked = Some(ErrorKind::Forked);
        let result = |result: Result<(), CallError>| kind(result.map_err(hotbay::Error::from));
        assert_eq!(result(now(brief)), forked);
        assert_eq!(result(now(in_full)), forked);
        assert_eq!(result(now(of_pin)), forked);
        assert_eq!(result(now(worker.forever())), forked);
        drop(dropped);
    });
}
