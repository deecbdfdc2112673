//! The plugin `storage`, as a library in a host.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hotbay::contract::CallErrorKind;
use hotbay::{Host, Request};
use hotbay_tests::{Plugins, StopOnDrop, block_on, host, loaded, reloaded};
use serde_json::{Value, json};
use storage_contract::{KeyValue, StoreErrorKind};

const WRITERS: u64 = 4;

fn install(plugins: &Plugins, file: &Path, readers: u64) -> std::path::PathBuf {
    let config = json!({ "file": file, "readers": readers, "synchronous": "normal" });
    let plugin = plugins.add("storage", "storage").config(config);
    plugin.set("handover", "pause").write()
}

fn opened(plugins: &Plugins) -> Host {
    let host = host(plugins);
    loaded(&host, install(plugins, &plugins.dir().join("data.sqlite"), 4));
    host
}

#[test]
fn store_is_called_by_its_contract_and_in_json() {
    let plugins = Plugins::new();
    let host = opened(&plugins);
    let store = host.contract::<dyn KeyValue>("storage").unwrap();
    let revision = store.save(b"a", b"\x00\xFF", Some(0)).unwrap();
    assert_eq!(store.pooled().load(b"a").unwrap().value, b"\x00\xFF");
    let error = store.save(b"a", b"", Some(revision + 1)).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
    assert_eq!(store.load(b"b").unwrap_err().kind(), StoreErrorKind::NotFound);
    assert_eq!(
        host.providers_of::<dyn KeyValue>().unwrap().list(b"", b"", 9).unwrap().keys,
        [b"a"]
    );
    let request = json!({ "load": { "key": "a" } }).to_string();
    let reply = host.plugin("storage").unwrap().call(Request::text(&request)).unwrap();
    let reply: Value = serde_json::from_slice(reply.as_bytes()).unwrap();
    assert_eq!(reply, json!({ "value": { "base64": "AP8=" }, "revision": revision }));
    block_on(host.unload("storage")).unwrap();
    let error = store.load(b"a").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Call(CallErrorKind::Unavailable), "{error}");
}

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
fn swaps_lose_and_double_no_write() {
    const SWAPS: u64 = 200;
    let plugins = Plugins::new();
    let host = opened(&plugins);
    let file = plugins.dir().join("data.sqlite");
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
        for swap in 0..SWAPS {
            install(&plugins, &file, 3 + swap % 2);
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
    let report = block_on(host.unload("storage")).unwrap();
    assert_eq!(report.retain_reason, None, "{report:?}");
    assert!(host.retained().is_empty(), "{:?}", host.retained());
}
