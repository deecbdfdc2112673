//! Values and futures of a plugin that panic when they are dropped.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use hotbay::contract::{CallError, CallErrorKind, Handle};
use hotbay::{CancellationToken, Error, ErrorKind, Host, HostEvent};
use hotbay_tests::{LIMIT, Plugins, block_on, event, limits, loaded, run_in_subprocess, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use text_contract::{Echoes, Fragile, Leftovers};

use super::runtimes::program;
use super::streams::is_pending;

fn unclean(plugins: &Plugins) -> (Host, Handle<dyn Leftovers>) {
    let limits = limits(|limits| limits.drain_timeout = Duration::from_millis(20));
    let builder = Host::builder().plugin_dir(plugins.dir()).limits(limits).quarantine(None);
    let host = builder.build().unwrap();
    loaded(&host, plugins.add("unclean", "unclean").write());
    let leftovers = host.contract("unclean").expect("it serves the contract");
    (host, leftovers)
}

fn fragile(text: &str) -> Fragile {
    Fragile { text: text.to_owned() }
}

fn faults(host: &Host) -> u64 {
    host.list()[0].stats.faults
}

/// Asserts that the plugin serves and can be unloaded.
fn check_end(host: &Host, leftovers: &Handle<dyn Leftovers>) {
    assert_eq!(leftovers.build().unwrap(), 1);
    let echoes = host.contract::<dyn Echoes>("unclean").unwrap();
    assert_eq!(block_on(echoes.echo_later(1, "a")).unwrap(), "a");
    let report = block_on(host.unload("unclean")).unwrap();
    assert!(report.shutdown_error.is_none(), "{report:?}");
    assert_eq!(report.retain_reason, None, "{report:?}");
    assert_eq!(host.retained().len(), 0);
}

/// Ends calls that never return, in each way in which a caller can: by dropping the call, by its
/// token, and at its deadline.
fn end_calls(
    leftovers: &Handle<dyn Leftovers>,
    call: impl AsyncFn(Handle<dyn Leftovers>) -> Result<(), CallError>,
) {
    let wait_for_start = |count| {
        until("the call runs", || (leftovers.started().unwrap() == count).then_some(()));
    };
    let before = leftovers.started().unwrap();
    {
        let mut call = pin!(call(leftovers.clone()));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        wait_for_start(before + 1);
    }
    let token = CancellationToken::new();
    let cancellable = leftovers.with_cancellation_token(token.clone());
    let mut cancelled = pin!(call(cancellable));
    assert!(cancelled.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    wait_for_start(before + 2);
    token.cancel();
    assert_eq!(block_on(cancelled).unwrap_err().kind(), CallErrorKind::Cancelled);
    let limited = leftovers.with_timeout(Duration::from_millis(50));
    // On a loaded machine, calls may exceed the deadline before they start.
    until("a call starts before its deadline", || {
        let error = block_on(call(limited.clone())).unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
        (leftovers.started().unwrap() > before + 2).then_some(())
    });
}

/// Waits until the panic of each call that ran is counted.
fn wait_for_faults(host: &Host, leftovers: &Handle<dyn Leftovers>) {
    let is_counted = || faults(host) == leftovers.started().unwrap();
    until("the panics are counted", || is_counted().then_some(()));
}

#[test]
fn panicking_future_of_ended_call_is_a_fault() {
    let plugins = Plugins::new();
    let (host, leftovers) = unclean(&plugins);
    let mut events = host.events();
    end_calls(&leftovers, async |leftovers| leftovers.panic_when_dropped().await);
    wait_for_faults(&host, &leftovers);
    assert_eq!(leftovers.panicked().unwrap(), faults(&host));
    let HostEvent::Faulted { fault, own_thread, .. } =
        event(&mut events, |event| matches!(event, HostEvent::Faulted { .. }))
    else {
        unreachable!("the event matches")
    };
    assert_eq!(fault.message(), "a future was dropped");
    assert!(own_thread);
    check_end(&host, &leftovers);
}

#[test]
fn panicking_argument_of_ended_call_is_a_fault() {
    let plugins = Plugins::new();
    let (host, leftovers) = unclean(&plugins);
    end_calls(&leftovers, async |leftovers| leftovers.hold(fragile("it")).await);
    wait_for_faults(&host, &leftovers);
    check_end(&host, &leftovers);
}

#[test]
fn panicking_argument_fails_its_method() {
    let plugins = Plugins::new();
    let (host, leftovers) = unclean(&plugins);
    for error in [
        leftovers.consume(fragile("it")).unwrap_err(),
        leftovers.pooled().consume(fragile("it")).unwrap_err(),
        block_on(leftovers.consume_later(fragile("it"))).unwrap_err(),
        block_on(leftovers.pooled().consume_later(fragile("it"))).unwrap_err(),
    ] {
        assert_eq!(error.kind(), CallErrorKind::Panicked);
        assert_eq!(Error::from(error).fault().unwrap().message(), "it was dropped");
    }
    assert_eq!(faults(&host), 4);
    check_end(&host, &leftovers);
}

#[test]
fn panicking_stream_is_a_fault() {
    let plugins = Plugins::new();
    let (host, leftovers) = unclean(&plugins);
    // Opened, waited for, and ended by its deadline.
    drop(leftovers.fragile_stream().unwrap());
    let mut stream = leftovers.fragile_stream().unwrap();
    assert!(is_pending(&mut stream));
    drop(stream);
    let limited = leftovers.with_timeout(Duration::from_millis(50));
    let error = until("a stream is opened", || limited.fragile_stream().ok());
    let error = error.into_iter().next().unwrap().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    until("all are dropped", || (leftovers.panicked().unwrap() >= 3).then_some(()));
    until("the panics are counted", || {
        (faults(&host) == leftovers.panicked().unwrap()).then_some(())
    });
    check_end(&host, &leftovers);
}

#[test]
fn panicking_values_do_not_prevent_unload() {
    let plugins = Plugins::new();
    let (host, leftovers) = unclean(&plugins);
    let mut events = host.events();
    block_on(leftovers.detach(fragile("detached"))).unwrap();
    let mut stream = leftovers.fragile_stream().unwrap();
    let (future, argument, report) = block_on(async {
        let unload = async {
            let is_started = || leftovers.started().unwrap() == 2;
            until("both calls run", || is_started().then_some(()));
            host.unload("unclean").await.unwrap()
        };
        let mut calls = [
            Box::pin(leftovers.panic_when_dropped()) as std::pin::Pin<Box<dyn Future<Output = _>>>,
            Box::pin(leftovers.hold(fragile("argument"))),
        ];
        for call in &mut calls {
            assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        let [future, argument] = calls;
        futures_util::future::join3(future, argument, unload).await
    });
    for error in [future, argument, stream.next().unwrap().map(drop)] {
        assert_eq!(Error::from(error.unwrap_err()).kind(), ErrorKind::Retired);
    }
    assert!(report.shutdown_error.is_none(), "{report:?}");
    assert_eq!(report.retain_reason, None, "{report:?}");
    assert_eq!(host.retained().len(), 0);
    let mut messages = Vec::new();
    while let Some(event) = events.try_next() {
        if let HostEvent::Faulted { fault, .. } = event {
            messages.push(fault.message().to_owned());
        }
    }
    messages.sort();
    let dropped = "a future was dropped";
    assert_eq!(messages, [dropped, dropped, "argument was dropped", "detached was dropped"]);
}

#[test]
fn panicking_values_do_not_end_their_program() {
    let plugins = Plugins::new();
    let builder = Host::builder().plugin_dir(plugins.dir());
    let host = builder.quarantine(None).build().unwrap();
    loaded(&host, program(&plugins, "unclean").install());
    let leftovers: Handle<dyn Leftovers> = host.contract("unclean").unwrap();
    end_calls(&leftovers, async |leftovers| leftovers.panic_when_dropped().await);
    wait_for_faults(&host, &leftovers);
    end_calls(&leftovers, async |leftovers| leftovers.hold(fragile("it")).await);
    wait_for_faults(&host, &leftovers);
    let (before, dropped) = (faults(&host), leftovers.panicked().unwrap());
    // It never has an item, so nothing is written to the connection.
    drop(leftovers.fragile_stream().unwrap());
    until("the panic is counted", || (faults(&host) == before + 1).then_some(()));
    assert_eq!(leftovers.panicked().unwrap(), dropped + 1);
    for error in [
        leftovers.consume(fragile("it")).unwrap_err(),
        block_on(leftovers.consume_later(fragile("it"))).unwrap_err(),
    ] {
        assert_eq!(error.kind(), CallErrorKind::Panicked);
    }
    assert_eq!(host.list()[0].stats.exits, 0);
    check_end(&host, &leftovers);
}

/// Marks the process of the next test.
const IN_SUBPROCESS: &str = "HOTBAY_TEST_FEW_DESCRIPTORS";

#[test]
fn runtime_that_cannot_start_fails_its_calls() {
    if std::env::var_os(IN_SUBPROCESS).is_none() {
        let test = concat!(module_path!(), "::runtime_that_cannot_start_fails_its_calls");
        run_in_subprocess(test, &[(IN_SUBPROCESS, "1")]);
        return;
    }
    let plugins = Plugins::new();
    let (host, leftovers) = unclean(&plugins);
    let mut stream = leftovers.fragile_stream().unwrap();
    let limit = getrlimit(Resource::Nofile);
    // The runtime needs descriptors; the host and its open files do not.
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    for error in [
        block_on(leftovers.hold(fragile("it"))).unwrap_err(),
        block_on(leftovers.pooled().consume_later(fragile("it"))).unwrap_err(),
        block_on(leftovers.with_timeout(LIMIT).panic_when_dropped()).unwrap_err(),
    ] {
        let own = error.plugin_error().unwrap_or_else(|| panic!("{error:?}"));
        assert_eq!((own.code(), own.is_retryable()), (503, true));
    }
    let error = Error::from(stream.next().unwrap().unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Retired, "{}", error.full_message());
    drop(stream);
    let stats = host.list()[0].stats.clone();
    assert_eq!(leftovers.panicked().unwrap(), 1);
    assert_eq!(stats.faults, 1, "{stats:?}");
    setrlimit(Resource::Nofile, limit).unwrap();
    check_end(&host, &leftovers);
}
