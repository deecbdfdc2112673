//! PostgreSQL that is not reachable, or is restarted while the plugin is called.

use std::collections::BTreeSet;
use std::env;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hotbay_test_postgres::Server;
use hotbay_tests::{
    Plugins, StopOnDrop, host, library, mappings, refused, run_in_subprocess, threads, until,
};
use serde_json::json;
use storage_contract::{KeyValue, StoreError, StoreErrorKind};

use super::{install, opened, unload};

const WRITERS: usize = 4;
const READERS: usize = 2;
const RESTARTS: usize = 3;

/// Runs a test in its own process if PostgreSQL is installed.
pub(super) fn run_with_postgres(test: &str, variable: &str) {
    if Server::is_installed() {
        // Built before the subprocess starts, which then does not need to build it.
        library("storage");
        run_in_subprocess(test, &[(variable, "1")]);
    }
}

/// The number of calls of a thread that succeeded and that failed.
#[derive(Debug, Default)]
struct Calls {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Calls {
    /// Counts a call. Returns whether it succeeded.
    fn count<T>(&self, result: Result<T, StoreError>) -> bool {
        match result {
            Ok(_) => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(error) => {
                // The commit of a change may be cut off.
                let is_known = error.kind() != StoreErrorKind::OutcomeUnknown;
                assert!(!is_known || error.kind() == StoreErrorKind::Unavailable, "{error}");
                assert_eq!(error.is_retryable(), is_known, "{error}");
                self.failed.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }
}

/// Waits until each thread has made more calls with a result.
fn wait_for_each(calls: &[Calls], is_done: &AtomicBool, result: impl Fn(&Calls) -> &AtomicU64) {
    for calls in calls {
        let result = result(calls);
        // The current call may have started before.
        let expected = result.load(Ordering::Relaxed) + 3;
        until("calls have the expected result", || {
            assert!(!is_done.load(Ordering::Relaxed), "a call failed with another error");
            (result.load(Ordering::Relaxed) >= expected).then_some(())
        });
    }
}

#[test]
fn restarts_of_postgres_lose_no_acknowledged_write() {
    const CHILD: &str = "HOTBAY_STORAGE_RESTARTS";
    if env::var_os(CHILD).is_none() {
        let test = concat!(module_path!(), "::restarts_of_postgres_lose_no_acknowledged_write");
        return run_with_postgres(test, CHILD);
    }
    let mut server = Server::start().expect("it is installed");
    let database = server.database();
    let plugins = Plugins::new();
    let host = opened(&plugins, json!({ "dsn": database.dsn(), "timeout_ms": 20_000 }));
    let store = host.contract::<dyn KeyValue>("storage").unwrap();
    let is_done = AtomicBool::new(false);
    let calls: Vec<Calls> = (0..WRITERS + READERS).map(|_| Calls::default()).collect();
    let written: Vec<(BTreeSet<u64>, u64)> = thread::scope(|scope| {
        let stop = StopOnDrop(&is_done);
        let (writers, readers) = calls.split_at(WRITERS);
        let (store, is_done) = (&store, &is_done);
        let write = |(writer, calls)| {
            move || {
                let _stop = StopOnDrop(is_done);
                write_until(is_done, store, writer, calls)
            }
        };
        let writers: Vec<_> =
            writers.iter().enumerate().map(|one| scope.spawn(write(one))).collect();
        for calls in readers {
            scope.spawn(move || {
                let _stop = StopOnDrop(is_done);
                while !is_done.load(Ordering::Relaxed) {
                    calls.count(store.list(b"0/", b"", 10));
                }
            });
        }
        for _ in 0..RESTARTS {
            wait_for_each(&calls, is_done, |calls| &calls.succeeded);
            server.stop();
            wait_for_each(&calls, is_done, |calls| &calls.failed);
            server.resume();
        }
        wait_for_each(&calls, is_done, |calls| &calls.succeeded);
        drop(stop);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for (writer, (acknowledged, attempted)) in written.into_iter().enumerate() {
        let found = numbers_of(&store, writer);
        assert!(found.is_superset(&acknowledged), "writer {writer}: an acknowledged write is lost");
        // Those that failed may have been made, and no others.
        assert!(found.into_iter().all(|number| number < attempted));
    }
    unload(&host);
    assert_eq!((threads("storage-pg"), mappings("libstorage")), (Vec::new(), 0));
}

/// Saves a new key with each call. Returns the numbers of those that were acknowledged, and of all.
fn write_until(
    is_done: &AtomicBool,
    store: &impl KeyValue,
    writer: usize,
    calls: &Calls,
) -> (BTreeSet<u64>, u64) {
    let (mut acknowledged, mut attempted) = (BTreeSet::new(), 0);
    while !is_done.load(Ordering::Relaxed) {
        let key = format!("{writer}/{attempted:010}");
        if calls.count(store.save(key.as_bytes(), b"", Some(0))) {
            acknowledged.insert(attempted);
        }
        attempted += 1;
    }
    (acknowledged, attempted)
}

fn numbers_of(store: &impl KeyValue, writer: usize) -> BTreeSet<u64> {
    let prefix = format!("{writer}/");
    let (mut found, mut after) = (BTreeSet::new(), Vec::new());
    loop {
        let page = store.list(prefix.as_bytes(), &after, 1000).unwrap();
        let number = |key: &Vec<u8>| -> u64 {
            std::str::from_utf8(&key[prefix.len()..]).unwrap().parse().unwrap()
        };
        found.extend(page.keys.iter().map(number));
        if !page.has_more {
            return found;
        }
        after = page.keys.last().cloned().unwrap();
    }
}

/// A name is resolved on another thread, which must have ended.
#[test]
fn failed_load_with_a_name_of_a_server_leaves_nothing() {
    const CHILD: &str = "HOTBAY_STORAGE_NAME";
    if env::var_os(CHILD).is_none() {
        library("storage");
        let test = concat!(module_path!(), "::failed_load_with_a_name_of_a_server_leaves_nothing");
        run_in_subprocess(test, &[(CHILD, "1")]);
        return;
    }
    let plugins = Plugins::new();
    let host = host(&plugins);
    let folder = install(&plugins, json!({ "dsn": "host=localhost port=1 user=a" }));
    let error = refused(&host, folder);
    assert!(error.full_message().contains("cannot open the database"), "{}", error.full_message());
    assert!(host.retained().is_empty(), "{:?}", host.retained());
    assert_eq!(mappings("libstorage"), 0);
}
