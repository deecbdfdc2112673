//! A library whose async methods break the rules of their C functions.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use hotbay::contract::{CallErrorKind, Handle};
use hotbay::{Error, Host};
use hotbay_tests::{Plugins, block_on, host, limits, loaded};
use text_contract::{AsyncWork, Failure, Record};

fn bad(plugins: &Plugins) -> (Host, Handle<dyn AsyncWork>) {
    let host = host(plugins);
    loaded(&host, plugins.add("bad", "bad-tasks").write());
    let work = host.contract::<dyn AsyncWork>("bad").expect("it serves the contract");
    (host, work)
}

#[test]
fn only_the_first_completion_counts() {
    let plugins = Plugins::new();
    let (host, work) = bad(&plugins);
    block_on(async {
        for _ in 0..100 {
            assert_eq!(work.delay(0, "").await.unwrap(), "first");
        }
    });
    let [info] = &*host.list() else { panic!("one plugin") };
    assert_eq!((info.stats.calls, info.stats.errors), (100, 0));
}

#[test]
fn completion_during_the_unload_is_ignored() {
    let plugins = Plugins::new();
    let (host, work) = bad(&plugins);
    assert_eq!(block_on(work.twice("")).unwrap(), "first");
    let report = block_on(host.unload("bad")).unwrap();
    assert_eq!(report.retain_reason, None, "{report:?}");
}

#[test]
fn invalid_results_and_codes_are_errors() {
    let plugins = Plugins::new();
    let (_host, work) = bad(&plugins);
    let check = |error: hotbay::contract::CallError, kind, text: &str| {
        assert_eq!(error.kind(), kind, "{error:?}");
        let message = Error::from(error).full_message();
        assert!(message.contains(text), "{message}");
    };
    let error = block_on(work.enrich(Record::default())).unwrap_err();
    check(error, CallErrorKind::InvalidOutput, "that does not match its type");
    let error = block_on(work.fetch("")).unwrap_err();
    check(error, CallErrorKind::Other, "77");
    let error = block_on(work.limits()).unwrap_err();
    check(error, CallErrorKind::Other, "99");
    let error = work.pooled().dropped().unwrap_err();
    check(error, CallErrorKind::Other, "98");
}

#[test]
fn task_that_never_ends_keeps_its_library() {
    let plugins = Plugins::new();
    let limits = limits(|limits| {
        limits.drain_timeout = Duration::from_millis(20);
        limits.stop_timeout = Duration::from_millis(100);
    });
    let host = Host::builder().plugin_dir(plugins.dir()).limits(limits).build().unwrap();
    loaded(&host, plugins.add("bad", "bad-tasks").write());
    let work = host.contract::<dyn AsyncWork>("bad").unwrap();
    let error = block_on(work.with_timeout(Duration::from_millis(20)).forever()).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    {
        let mut dropped = pin!(work.fail(Failure::None));
        assert!(dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let report = block_on(host.unload("bad")).unwrap();
    assert!(report.retain_reason.is_some(), "{report:?}");
    assert_eq!(host.retained().len(), 1);
}
