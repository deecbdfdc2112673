//! Async methods: tasks on the plugin's runtime.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use hotbay::contract::{CallErrorKind, Handle, Serves};
use hotbay::{Call, CancellationToken, Error, ErrorKind, Host, HostEvent, Layer, Next, Reply};
use hotbay_tests::{Plugins, StopOnDrop, block_on, host, limits, loaded, reloaded, until};
use text_contract::{AsyncWork, Failure, Record};

fn worker(plugins: &Plugins) -> (Host, Handle<dyn AsyncWork>) {
    let host = host(plugins);
    loaded(&host, plugins.add("worker", "async-worker").write());
    let work = host.contract::<dyn AsyncWork>("worker").expect("it serves the contract");
    (host, work)
}

pub(super) async fn check_all(work: &impl AsyncWork) {
    let record = Record { text: "a b".to_owned(), ..Record::default() };
    let enriched = work.enrich(record.clone()).await.unwrap();
    assert_eq!(enriched, Record { words: Some(2), added: true, ..record });
    assert_eq!(work.delay(1, "later").await.unwrap(), "later");
    assert_eq!(work.sum(&[1.0, 2.5]).await.unwrap(), 3.5);
    assert_eq!(work.twice("ab").await.unwrap(), "abab");
    assert_eq!(work.fail(Failure::None).await.unwrap(), 7);
    let error = work.fail(Failure::Error).await.unwrap_err();
    assert_eq!(error.plugin_error().map(|error| error.code()), Some(7));
    let error = work.fail(Failure::Panic).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Panicked);
    assert!(Error::from(error).full_message().contains("work failed"));
}

#[test]
fn library_serves_async_methods() {
    let plugins = Plugins::new();
    let (_host, work) = worker(&plugins);
    block_on(async {
        check_all(&work).await;
        check_all(&work.pin().unwrap()).await;
        check_all(&work.pooled()).await;
    });
}

#[test]
fn value_of_the_program_serves_async_methods() {
    let serves = Serves::new().with::<dyn AsyncWork>();
    let own = text_plugins::AsyncWorker::default();
    let host = Host::builder().serve("own", own, serves).build().unwrap();
    block_on(check_all(&host.contract::<dyn AsyncWork>("own").unwrap()));
}

struct PassThrough;

impl Layer for PassThrough {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        next.call(call)
    }
}

#[test]
fn async_methods_pass_layers_on_workers() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).layer(PassThrough).build().unwrap();
    loaded(&host, plugins.add("worker", "async-worker").write());
    let work = host.contract::<dyn AsyncWork>("worker").unwrap();
    block_on(check_all(&work));
}

#[test]
fn calls_run_concurrently_and_are_counted() {
    let plugins = Plugins::new();
    let (host, work) = worker(&plugins);
    let texts: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    let calls = texts.iter().map(|text| work.delay(20, text));
    let answers = block_on(join_all(calls));
    for (text, answer) in texts.iter().zip(answers) {
        assert_eq!(answer.unwrap(), *text);
    }
    let [info] = &*host.list() else { panic!("one plugin") };
    assert_eq!((info.stats.calls, info.stats.errors), (200, 0));
}

/// Repeats a call until its future is dropped: one that ends before the plugin starts has no future.
#[track_caller]
fn until_dropped(work: &Handle<dyn AsyncWork>, mut call: impl FnMut()) {
    let before = work.dropped().unwrap();
    until("the future is dropped", || {
        call();
        (work.dropped().unwrap() > before).then_some(())
    });
}

#[test]
fn dropped_future_is_dropped_in_the_plugin() {
    let plugins = Plugins::new();
    let (_host, work) = worker(&plugins);
    until_dropped(&work, || {
        block_on(async {
            let forever = std::pin::pin!(work.forever());
            let delay = std::pin::pin!(work.delay(5, ""));
            futures_util::future::select(forever, delay).await;
        });
    });
}

#[test]
fn call_ends_at_its_deadline_and_when_cancelled() {
    let plugins = Plugins::new();
    let (_host, work) = worker(&plugins);
    until_dropped(&work, || {
        let error = block_on(work.with_timeout(Duration::from_millis(20)).forever()).unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    });
    let error = block_on(work.with_timeout(Duration::from_millis(20)).block()).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    until_dropped(&work, || {
        let token = CancellationToken::new();
        let cancellable = work.with_cancellation_token(token.clone());
        let error = block_on(async {
            let call = cancellable.forever();
            let cancel = async {
                work.delay(5, "").await.unwrap();
                token.cancel();
            };
            futures_util::future::join(call, cancel).await.0.unwrap_err()
        });
        assert_eq!(error.kind(), CallErrorKind::Cancelled);
    });
}

/// Panics whenever it is woken.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("a waker, on purpose"));
    }
}

#[test]
fn panicking_waker_does_not_unwind_into_the_plugin() {
    let plugins = Plugins::new();
    let (_host, work) = worker(&plugins);
    let mut call = std::pin::pin!(work.delay(1, "answered"));
    let waker = Waker::from(Arc::new(Panics));
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // This call ends after that one, whose waker has panicked on the plugin's thread.
    block_on(work.delay(100, "")).unwrap();
    assert_eq!(block_on(call).unwrap(), "answered");
}

#[test]
fn task_sees_its_deadline() {
    let plugins = Plugins::new();
    let (_host, work) = worker(&plugins);
    assert_eq!(block_on(work.limits()).unwrap(), (false, false));
    let limited = work.with_timeout(Duration::from_secs(86_400));
    assert_eq!(block_on(limited.limits()).unwrap(), (true, false));
}

#[test]
fn unload_waits_for_tasks_and_unmaps_the_library() {
    let plugins = Plugins::new();
    let (host, work) = worker(&plugins);
    let report = block_on(async {
        let call = work.delay(50, "answered");
        let unload = async {
            work.delay(1, "").await.unwrap();
            host.unload("worker").await.unwrap()
        };
        let (answer, report) = futures_util::future::join(call, unload).await;
        assert_eq!(answer.unwrap(), "answered");
        report
    });
    assert_eq!(report.retain_reason, None, "{report:?}");
    assert_eq!(host.retained().len(), 0);
    let error = block_on(work.delay(0, "")).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Unavailable);
}

#[test]
fn unload_ends_tasks_that_outlast_the_drain() {
    let plugins = Plugins::new();
    let limits = limits(|limits| limits.drain_timeout = Duration::from_millis(20));
    let host = Host::builder().plugin_dir(plugins.dir()).limits(limits).build().unwrap();
    loaded(&host, plugins.add("worker", "async-worker").write());
    let work = host.contract::<dyn AsyncWork>("worker").unwrap();
    // A call without options takes another path once the method is known.
    block_on(work.delay(0, "")).unwrap();
    let limited = work.with_timeout(Duration::from_secs(86_400));
    let (first, second, report) = block_on(async {
        let unload = async {
            work.delay(1, "").await.unwrap();
            host.unload("worker").await.unwrap()
        };
        futures_util::future::join3(work.forever(), limited.forever(), unload).await
    });
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(Error::from(error).kind(), ErrorKind::Retired);
    }
    // A task that still used the plugin would fail its shutdown.
    assert!(report.shutdown_error.is_none(), "{report:?}");
    assert_eq!(report.retain_reason, None, "{report:?}");
}

/// Answers every HTTP request with the same page, until it is dropped.
fn page_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let page = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\npage";
            let _ = stream.write_all(page.as_bytes());
        }
    });
    address
}

#[test]
fn http_requests_survive_reloads() {
    let plugins = Plugins::new();
    let (host, work) = worker(&plugins);
    let address = page_server().to_string();
    let is_done = AtomicBool::new(false);
    let mut events = host.events();
    let answered = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = 0;
                    while !is_done.load(Ordering::Relaxed) {
                        assert_eq!(block_on(work.fetch(&address)).expect("answered"), "page");
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        // Also if a reload fails.
        let stop = StopOnDrop(&is_done);
        for round in 0..200 {
            plugins.add("worker", "async-worker").set("description", format!("{round}")).write();
            reloaded(&host, "worker");
        }
        drop(stop);
        callers.into_iter().map(|caller| caller.join().expect("no panic")).sum::<u32>()
    });
    assert!(answered > 200, "{answered}");
    let mut closed = 0;
    while closed < 200 {
        match block_on(events.next()).expect("the host lives") {
            HostEvent::Closed { .. } => closed += 1,
            HostEvent::Kept { reason, .. } => panic!("a library was kept: {reason}"),
            _ => {}
        }
    }
    assert_eq!(host.retained().len(), 0);
}
