//! Cached replies: which requests are equal, for how long, and what is never cached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hotbay::hotbay_plugin::{Config, HostServices};
use hotbay::{
    CallContext, CancellationToken, Error, ErrorKind, Host, HostBuilder, Manifest, Output, Payload,
    Plugin, PluginError, PluginInfo, Reply, Request, ResponseCache,
};
use hotbay_tests::{Plugins, block_on, loaded, quarantine, reloaded, until};
use serde_json::json;

use crate::scripted_plugin::{NEVER, ScriptedPlugin};

/// Returns a plugin that counts its calls and returns the count, fails, or returns a long reply.
fn counting(builder: HostBuilder, cache: ResponseCache) -> (Host, Arc<AtomicU64>) {
    let reached = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&reached);
    let builder = builder.register_fn("counts", move |_, input| {
        let count = count.fetch_add(1, Ordering::Relaxed);
        match input.as_text()? {
            "panic" => panic!("on request"),
            "error" => Err(PluginError::new(1, "on request")),
            "long" => Ok(Output::bytes(vec![b'x'; 100_000])),
            _ => Ok(Output::text(count.to_string())),
        }
    });
    (builder.cache("counts", cache).build().unwrap(), reached)
}

/// Returns a cache whose replies do not expire during a test.
fn forever() -> ResponseCache {
    ResponseCache::new().with_max_age(NEVER)
}

/// Makes the same call by every call method.
fn all_call_methods(host: &Host, plugin: &str, request: Request<'_>) -> Vec<Result<Reply, Error>> {
    let handle = host.plugin(plugin).unwrap();
    let pipeline = host.pipeline([plugin]).unwrap();
    vec![
        handle.call(request.clone()),
        handle.pin().unwrap().call(request.clone()),
        block_on(handle.execute(request.clone())),
        block_on(pipeline.run(request)),
    ]
}

fn info(host: &Host) -> PluginInfo {
    host.list().remove(0)
}

fn hits_and_misses(host: &Host) -> (u64, u64) {
    let info = info(host);
    (info.stats.cache_hits, info.stats.cache_misses)
}

#[test]
fn equal_requests_reach_plugin_once() {
    let (host, reached) = counting(Host::builder(), forever());
    let token = CancellationToken::new();
    let bounded = || Request::text("q").with_timeout(NEVER).with_cancellation_token(token.clone());
    let generation = info(&host).generation.unwrap();
    for request in [Request::text("q"), bounded(), Request::text("q").with_idempotent(true)] {
        for outcome in all_call_methods(&host, "counts", request) {
            let reply = outcome.unwrap();
            assert_eq!((reply.as_text().unwrap(), reply.generation()), ("0", generation));
            assert_eq!(reply.content_type(), "text/plain; charset=utf-8");
        }
    }
    assert_eq!(reached.load(Ordering::Relaxed), 1);
    assert_eq!((hits_and_misses(&host), info(&host).stats.calls), ((11, 1), 12));
}

#[test]
fn disabled_cache_calls_plugin_every_time() {
    let manifest = Manifest::new("counts", "1.0.0").unwrap();
    let builder = Host::builder().cache("another", forever());
    let host = builder.register::<Counts>(manifest).build().unwrap();
    for (answer, outcome) in
        all_call_methods(&host, "counts", Request::text("q")).iter().enumerate()
    {
        let reply = outcome.as_ref().unwrap();
        assert_eq!(reply.as_text().unwrap(), answer.to_string());
    }
    assert_eq!(hits_and_misses(&host), (0, 0));
    assert_eq!(info(&host).stats.cache_bytes, 0);
}

#[test]
fn requests_differing_in_key_are_cached_apart() {
    let operation = Manifest::new("checked", "1.0.0")
        .and_then(|manifest| manifest.with_permission("read"))
        .and_then(|manifest| manifest.with_permission("write"))
        .unwrap();
    let host =
        Host::builder().register::<Counts>(operation).cache("checked", forever()).build().unwrap();
    let checked = host.plugin("checked").unwrap();
    let questions = || {
        [
            Request::text("q"),
            Request::text("r"),
            Request::bytes(b"q"),
            Request::text("q").with_operation("read"),
            Request::text("q").with_operation("write"),
        ]
    };
    for _ in 0..2 {
        for (answer, request) in questions().into_iter().enumerate() {
            assert_eq!(checked.call(request).unwrap().as_text().unwrap(), answer.to_string());
        }
    }
    assert_eq!(hits_and_misses(&host), (5, 5));
    let error = checked.call(Request::text("q").with_operation("exec")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(hits_and_misses(&host), (5, 5), "a refused request is not looked up");
}

/// Returns the number of earlier calls.
struct Counts(AtomicU64);

impl Plugin for Counts {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self(AtomicU64::new(0)))
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Ok(Output::text(self.0.fetch_add(1, Ordering::Relaxed).to_string()))
    }
}

#[test]
fn refused_request_is_refused_despite_cached_reply() {
    let reached = Arc::new(AtomicU64::new(0));
    let (count, is_open) = (Arc::clone(&reached), Arc::new(AtomicU64::new(1)));
    let open = Arc::clone(&is_open);
    let host = Host::builder()
        .register_fn("counts", move |_, _| {
            Ok(Output::text(count.fetch_add(1, Ordering::Relaxed).to_string()))
        })
        .validate("counts", move |_| match open.load(Ordering::Relaxed) {
            0 => Err("not now".to_owned()),
            _ => Ok(()),
        })
        .cache("counts", forever())
        .build()
        .unwrap();
    let counts = host.plugin("counts").unwrap();
    counts.call(Request::text("q")).unwrap();
    is_open.store(0, Ordering::Relaxed);
    assert_eq!(counts.call(Request::text("q")).unwrap_err().kind(), ErrorKind::InvalidInput);
    is_open.store(1, Ordering::Relaxed);
    assert_eq!(counts.call(Request::text("q")).unwrap().as_text().unwrap(), "0");
    assert_eq!(reached.load(Ordering::Relaxed), 1);
}

#[test]
fn errors_are_not_cached_and_quarantine_serves_cached() {
    let policy = quarantine(|policy| policy.max_faults = 2);
    let (host, reached) = counting(Host::builder().quarantine(policy), forever());
    let counts = host.plugin("counts").unwrap();
    assert_eq!(counts.call(Request::text("q")).unwrap().as_text().unwrap(), "0");
    for (input, kind) in [("error", ErrorKind::Plugin), ("panic", ErrorKind::Panicked)] {
        for _ in 0..2 {
            assert_eq!(counts.call(Request::text(input)).unwrap_err().kind(), kind);
        }
    }
    assert_eq!((reached.load(Ordering::Relaxed), hits_and_misses(&host)), (5, (0, 5)));
    assert_eq!(counts.call(Request::text("new")).unwrap_err().kind(), ErrorKind::Quarantined);
    assert_eq!(counts.call(Request::text("q")).unwrap().as_text().unwrap(), "0");
}

#[test]
fn expired_reply_is_requested_again() {
    let (host, reached) =
        counting(Host::builder(), ResponseCache::new().with_max_age(Duration::ZERO));
    let counts = host.plugin("counts").unwrap();
    for answer in ["0", "1", "2"] {
        assert_eq!(counts.call(Request::text("q")).unwrap().as_text().unwrap(), answer);
    }
    assert_eq!((reached.load(Ordering::Relaxed), hits_and_misses(&host)), (3, (0, 3)));
    assert_eq!(info(&host).stats.cache_bytes, 0, "expired replies are dropped");
}

#[test]
fn cache_respects_byte_limits() {
    let max_bytes = 64_000;
    let (host, reached) = counting(Host::builder(), forever().with_max_bytes(max_bytes));
    let counts = host.plugin("counts").unwrap();
    for _ in 0..2 {
        assert_eq!(counts.call(Request::text("long")).unwrap().as_bytes().len(), 100_000);
    }
    assert_eq!((reached.load(Ordering::Relaxed), info(&host).stats.cache_bytes), (2, 0));
    let question_call = |question: u64| counts.call(Request::text(&question.to_string())).unwrap();
    let first = question_call(0).into_vec();
    for question in 1..1000 {
        question_call(question);
        assert!(info(&host).stats.cache_bytes <= max_bytes);
        assert_eq!(question_call(0).as_bytes(), first, "frequently requested replies stay");
    }
    assert!(info(&host).stats.cache_bytes > max_bytes / 2);
    assert_eq!(reached.load(Ordering::Relaxed), 1002);
    question_call(999);
    assert_eq!(reached.load(Ordering::Relaxed), 1002, "the latest reply is cached");
    question_call(1);
    assert_eq!(reached.load(Ordering::Relaxed), 1003, "the oldest reply is not cached");
}

#[test]
fn reload_and_unload_clear_cache() {
    let plugins = Plugins::new();
    let install = |answers: &str| {
        plugins.add("swapped", "faulty").config(json!({ "answers": answers })).write()
    };
    let host = Host::builder().cache("swapped", forever()).build().unwrap();
    let handle = loaded(&host, install("one"));
    let question_call = || {
        let outcomes = all_call_methods(&host, "swapped", Request::text("q")).into_iter();
        outcomes.map(|outcome| outcome.unwrap().into_vec()).collect::<Vec<_>>()
    };
    assert_eq!(question_call(), [b"one"; 4]);
    let pinned = handle.pin().unwrap();
    install("two");
    let generation = reloaded(&host, "swapped");
    assert_eq!(pinned.call(Request::text("q")).unwrap_err().kind(), ErrorKind::Retired);
    drop(pinned);
    let bytes = info(&host).stats.cache_bytes;
    assert_eq!(question_call(), [b"two"; 4]);
    assert_eq!(handle.call(Request::text("q")).unwrap().generation(), generation);
    assert_eq!((hits_and_misses(&host), info(&host).stats.cache_bytes), ((7, 2), bytes));
    block_on(host.unload("swapped")).unwrap();
    assert_eq!(handle.call(Request::text("q")).unwrap_err().kind(), ErrorKind::Retired);
    loaded(&host, install("three"));
    assert_eq!(question_call()[0], b"three");
    assert_eq!(handle.call(Request::text("q")).unwrap_err().kind(), ErrorKind::Retired);
}

#[test]
fn concurrent_equal_requests_both_reach_plugin() {
    let scripted = ScriptedPlugin::new();
    let fixture = scripted.host(|builder| builder.cache("scripted", forever()));
    thread::scope(|scope| {
        let question_call = || fixture.handle.call(Request::text("wait")).unwrap().into_vec();
        let both = [scope.spawn(question_call), scope.spawn(question_call)];
        until("both calls run", || (scripted.inputs().len() == 2).then_some(()));
        scripted.release_all();
        assert_eq!(both.map(|one| one.join().unwrap()), [b"wait", b"wait"]);
    });
    fixture.handle.call(Request::text("wait")).unwrap();
    assert_eq!((hits_and_misses(&fixture.host), scripted.inputs().len()), ((1, 2), 2));
}

#[test]
fn cache_counters_belong_to_plugin() {
    let (host, _) = counting(Host::builder(), forever());
    let counts = host.plugin("counts").unwrap();
    for question in ["a", "b", "a"] {
        counts.call(Request::text(question)).unwrap();
    }
    let stats = host.stats().plugins.remove(0).stats;
    assert_eq!((stats.cache_hits, stats.cache_misses), (1, 2));
    assert_eq!(stats.cache_bytes, info(&host).stats.cache_bytes);
    assert!(stats.cache_bytes > 0);
}

#[test]
fn host_after_shutdown_serves_nothing_from_cache() {
    let (host, _) = counting(Host::builder(), forever());
    let counts = host.plugin("counts").unwrap();
    counts.call(Request::text("q")).unwrap();
    block_on(host.shutdown(Duration::ZERO));
    assert_eq!(counts.call(Request::text("q")).unwrap_err().kind(), ErrorKind::Shutdown);
}

#[test]
fn cache_for_invalid_name_fails_host_build() {
    let error = Host::builder().cache("Not OK", ResponseCache::new()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.full_message().contains("`Not OK`"), "{error:?}");
}
