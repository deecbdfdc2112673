//! The plugin `storage`, as a library in a host.

#[cfg(unix)]
mod restarts;
mod swaps;

use std::path::PathBuf;

use hotbay::contract::CallErrorKind;
use hotbay::{Host, Request};
use hotbay_tests::{Plugins, block_on, host, loaded};
use serde_json::{Value, json};
use storage_contract::{KeyValue, StoreErrorKind};

fn install(plugins: &Plugins, config: Value) -> PathBuf {
    plugins.add("storage", "storage").config(config).set("handover", "pause").write()
}

fn opened(plugins: &Plugins, config: Value) -> Host {
    let host = host(plugins);
    loaded(&host, install(plugins, config));
    host
}

/// Unloads the plugin, of which nothing remains, also on this thread, which has called it.
fn unload(host: &Host) {
    let report = block_on(host.unload("storage")).unwrap();
    assert_eq!(report.retain_reason, None, "{report:?}");
    assert!(host.retained().is_empty(), "{:?}", host.retained());
}

#[test]
fn store_is_called_by_its_contract_and_in_json() {
    let plugins = Plugins::new();
    let host = opened(&plugins, json!({ "file": plugins.dir().join("data.sqlite") }));
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
