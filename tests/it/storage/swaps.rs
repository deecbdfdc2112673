//! Swaps of the plugin while it is called.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hotbay_tests::{Plugins, StopOnDrop, reloaded};
use serde_json::{Value, json};
use storage_contract::{KeyValue, StoreErrorKind};

use super::{install, opened, unload};

const WRITERS: u64 = 4;

/// Adds one to a number by the revision that was read, and saves a key of its writer alone.
fn write_until(is_done: &AtomicBool, store: &impl KeyValue, writer: u64, total: &AtomicU64) -> u64 {
    let mut written = 0_u64;
    while !is_done.load(Ordering::Relaxed) {
        let key = format!("writer-{writer}-{written}");
        store.save(key.as_bytes(), &written.to_le_bytes(), Some(0)).unwrap();
        written += 1;
        loop {
            let entry = store.load(b"total").unwrap();
            let number = u64::from_le_bytes(entry.value.try_into().unwrap());
            match store.save(b"total", &(number + 1).to_le_bytes(), Some(entry.revision)) {
                Ok(_) => break,
                // Another writer was faster.
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
            }
        }
        total.fetch_add(1, Ordering::Relaxed);
    }
    written
}

#[test]
fn swaps_on_sqlite_lose_and_double_no_write() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.sqlite");
    swap_often(200, |number| json!({ "file": file, "readers": number, "synchronous": "normal" }));
}

/// In its own process, whose threads are counted.
#[cfg(unix)]
#[test]
fn swaps_on_postgres_lose_and_double_no_write() {
    const CHILD: &str = "HOTBAY_STORAGE_SWAPS";
    if std::env::var_os(CHILD).is_none() {
        let test = concat!(module_path!(), "::swaps_on_postgres_lose_and_double_no_write");
        return super::restarts::run_with_postgres(test, CHILD);
    }
    let server = hotbay_test_postgres::Server::start().expect("it is installed");
    let database = server.database();
    let dsn = database.dsn();
    // Fewer: each swap opens new connections.
    swap_often(50, |number| json!({ "dsn": dsn, "connections": number, "synchronous": "normal" }));
    assert_eq!(hotbay_tests::threads("storage-pg"), Vec::<String>::new());
    assert_eq!(hotbay_tests::mappings("libstorage"), 0);
    assert_eq!(database.run("SELECT count(*) FROM pg_stat_activity WHERE client_port = -1"), "1");
}

/// Swaps the plugin under load. `config` returns one with a number of connections, so that each build
/// has another one.
fn swap_often(swaps: u64, config: impl Fn(u64) -> Value) {
    let plugins = Plugins::new();
    let host = opened(&plugins, config(4));
    let store = host.contract::<dyn KeyValue>("storage").unwrap();
    store.save(b"total", &0_u64.to_le_bytes(), Some(0)).unwrap();
    let (is_done, total) = (AtomicBool::new(false), AtomicU64::new(0));
    let written: Vec<u64> = std::thread::scope(|scope| {
        let stop = StopOnDrop(&is_done);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (is_done, store, total) = (&is_done, &store, &total);
                scope.spawn(move || {
                    let _stop = StopOnDrop(is_done);
                    write_until(is_done, store, writer, total)
                })
            })
            .collect();
        for swap in 0..swaps {
            install(&plugins, config(3 + swap % 2));
            reloaded(&host, "storage");
            assert!(!is_done.load(Ordering::Relaxed), "a writer failed");
        }
        drop(stop);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let found = store.load(b"total").unwrap().value;
    assert_eq!(u64::from_le_bytes(found.try_into().unwrap()), total.load(Ordering::Relaxed));
    for (writer, written) in written.iter().enumerate() {
        assert!(*written > 0);
        let prefix = format!("writer-{writer}-");
        let (mut found, mut after) = (0, Vec::new());
        loop {
            let page = store.list(prefix.as_bytes(), &after, 1000).unwrap();
            found += page.keys.len() as u64;
            if !page.has_more {
                break;
            }
            after = page.keys.last().cloned().unwrap();
        }
        assert_eq!(found, *written);
    }
    unload(&host);
}
