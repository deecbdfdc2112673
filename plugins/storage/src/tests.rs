//! Tests of the plugin without a host.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use hotbay_plugin::testing::{FakeHost, Started};
use proptest::prelude::*;
use rusqlite::{Connection, ErrorCode, ffi};
use serde_json::{Value, json};
use storage_contract::{MAX_KEY_BYTES, MAX_PAGE, MAX_VALUE_BYTES, StoreErrorKind};
use tempfile::TempDir;

use super::*;
use crate::error::of_sqlite;

/// A folder with a database.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("storage.sqlite")
    }

    fn try_open(&self) -> Result<Started<Storage>, PluginError> {
        let config = json!({
            "file": self.file(), "readers": 2, "timeout_ms": 30, "synchronous": "normal",
        });
        FakeHost::new().start::<Storage>(config)
    }

    fn open(&self) -> Started<Storage> {
        self.try_open().unwrap()
    }
}

fn opened() -> (Folder, Started<Storage>) {
    let folder = Folder::new();
    let storage = folder.open();
    (folder, storage)
}

fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind()
}

fn keys(storage: &Storage, prefix: &[u8]) -> Vec<Vec<u8>> {
    storage.list(prefix, b"", MAX_PAGE).unwrap().keys
}

#[test]
fn values_of_all_sizes_survive_a_restart() {
    let (folder, storage) = opened();
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let longest = vec![7; MAX_KEY_BYTES];
    let sql: &[u8] = b"'; DROP TABLE entries; --";
    for key in [b"a".as_slice(), &[0], &every_byte, &longest, sql] {
        for value in [b"".as_slice(), &every_byte, sql] {
            let revision = storage.plugin().save(key, value, None).unwrap();
            let entry = Entry { value: value.to_vec(), revision };
            assert_eq!(storage.plugin().load(key).unwrap(), entry);
        }
    }
    let largest = vec![1; MAX_VALUE_BYTES];
    storage.plugin().save(b"large", &largest, None).unwrap();
    storage.shutdown().unwrap();
    let storage = folder.open();
    assert!(storage.plugin().load(b"large").unwrap().value == largest);
    assert_eq!(storage.plugin().load(sql).unwrap().value, sql);
    assert_eq!(keys(storage.plugin(), b"").len(), 6);
}

#[test]
fn input_out_of_range_is_rejected() {
    let (_folder, storage) = opened();
    let storage = storage.plugin();
    let long = vec![0; MAX_KEY_BYTES + 1];
    for key in [b"".as_slice(), &long] {
        assert_eq!(kind(storage.save(key, b"", None)), StoreErrorKind::InvalidInput);
        assert_eq!(kind(storage.load(key)), StoreErrorKind::InvalidInput);
        assert_eq!(kind(storage.delete(key, None)), StoreErrorKind::InvalidInput);
    }
    let large = vec![0; MAX_VALUE_BYTES + 1];
    assert_eq!(kind(storage.save(b"a", &large, None)), StoreErrorKind::InvalidInput);
    for limit in [0, MAX_PAGE + 1] {
        assert_eq!(kind(storage.list(b"", b"", limit)), StoreErrorKind::InvalidInput);
    }
    let many = vec![Change::Delete { key: b"a".to_vec(), expected: None }; 10_001];
    assert_eq!(kind(storage.batch(many)), StoreErrorKind::InvalidInput);
    assert_eq!(keys(storage, b"").len(), 0);
}

#[test]
fn changes_depend_on_the_expected_revision() {
    let (_folder, storage) = opened();
    let storage = storage.plugin();
    assert_eq!(kind(storage.save(b"a", b"1", Some(5))), StoreErrorKind::Conflict);
    let first = storage.save(b"a", b"1", Some(0)).unwrap();
    assert_eq!(kind(storage.save(b"a", b"2", Some(0))), StoreErrorKind::Conflict);
    let second = storage.save(b"a", b"2", Some(first)).unwrap();
    assert!(second > first);
    for stale in [first, u64::MAX] {
        assert_eq!(kind(storage.save(b"a", b"3", Some(stale))), StoreErrorKind::Conflict);
        assert_eq!(kind(storage.delete(b"a", Some(stale))), StoreErrorKind::Conflict);
    }
    assert_eq!(storage.load(b"a").unwrap(), Entry { value: b"2".to_vec(), revision: second });
    storage.delete(b"a", Some(second)).unwrap();
    for expected in [None, Some(second)] {
        assert_eq!(kind(storage.delete(b"a", expected)), StoreErrorKind::NotFound);
    }
    assert_eq!(kind(storage.load(b"a")), StoreErrorKind::NotFound);
    // A revision is never used again.
    assert!(storage.save(b"a", b"1", Some(0)).unwrap() > second);
}

#[test]
fn batch_changes_all_or_nothing() {
    let (_folder, storage) = opened();
    let storage = storage.plugin();
    let save = |key: &[u8], expected| Change::Save { key: key.to_vec(), value: vec![1], expected };
    let delete = |key: &[u8]| Change::Delete { key: key.to_vec(), expected: None };
    let revisions = storage.batch(vec![save(b"a", None), save(b"b", Some(0)), delete(b"a")]);
    let [first, second, removed] = revisions.unwrap()[..] else { panic!("three revisions") };
    assert!(second > first && removed == 0);
    assert!(storage.batch(Vec::new()).unwrap().is_empty());
    let failing = vec![save(b"c", None), delete(b"b"), save(b"d", Some(9))];
    assert_eq!(kind(storage.batch(failing)), StoreErrorKind::Conflict);
    assert_eq!(keys(storage, b""), [b"b"]);
    assert_eq!(storage.load(b"b").unwrap().revision, second);
}

#[test]
fn pages_list_the_keys_of_a_prefix() {
    let (_folder, storage) = opened();
    let storage = storage.plugin();
    let all: [&[u8]; 8] = [b"a", b"a/", b"a/1", b"a/2", b"b", b"\xFE", b"\xFF", b"\xFF\xFF\x00"];
    for key in all {
        storage.save(key, b"", None).unwrap();
    }
    assert_eq!(keys(storage, b""), all);
    assert_eq!(keys(storage, b"a/"), all[1..4]);
    assert_eq!(keys(storage, b"\xFF"), all[6..]);
    assert_eq!(keys(storage, b"\xFE"), all[5..6]);
    assert_eq!(keys(storage, b"c").len(), 0);
    let (mut found, mut after) = (Vec::new(), Vec::new());
    loop {
        let page = storage.list(b"", &after, 3).unwrap();
        found.extend(page.keys);
        if !page.has_more {
            break;
        }
        after = found.last().cloned().unwrap();
    }
    assert_eq!(found, all);
    assert!(!storage.list(b"", b"", 8).unwrap().has_more);
}

#[test]
fn database_of_another_application_or_a_newer_build_is_refused() {
    let check = |prepare: &dyn Fn(&Folder), expected: &str| {
        let folder = Folder::new();
        prepare(&folder);
        let before = fs::read(folder.file()).unwrap_or_default();
        let error = folder.try_open().unwrap_err();
        assert!(error.message().contains(expected), "{error}");
        assert!(fs::read(folder.file()).unwrap_or_default() == before, "the file was changed");
    };
    let run = |sql: &'static str| {
        move |folder: &Folder| Connection::open(folder.file()).unwrap().execute_batch(sql).unwrap()
    };
    check(&run("CREATE TABLE other (id INTEGER)"), "another application");
    let newer = |folder: &Folder| {
        drop(folder.open());
        run("PRAGMA user_version = 9")(folder);
    };
    check(&newer, "the database has version 9");
    check(&|folder| fs::write(folder.file(), "not a database, but long enough").unwrap(), "failed");
    check(&|folder| fs::create_dir(folder.file()).unwrap(), "cannot open");
}

#[test]
fn folder_that_does_not_exist_is_reported() {
    let config = json!({ "file": "/nonexistent-folder/storage.sqlite" });
    let error = FakeHost::new().start::<Storage>(config).unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (500, false));
    let expected = "cannot open `/nonexistent-folder/storage.sqlite`: ";
    assert!(error.message().starts_with(expected), "{error}");
}

#[test]
fn locked_database_is_unavailable_until_it_is_free() {
    let (folder, storage) = opened();
    let other = Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = storage.plugin().save(b"a", b"1", None).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.is_retryable());
    // It can still be read.
    assert_eq!(kind(storage.plugin().load(b"a")), StoreErrorKind::NotFound);
    other.execute_batch("COMMIT").unwrap();
    storage.plugin().save(b"a", b"1", None).unwrap();
}

#[test]
fn one_instance_at_a_time_uses_a_database() {
    let (folder, storage) = opened();
    let error = folder.try_open().unwrap_err();
    assert!(error.message().contains("another instance of this plugin"), "{error}");
    assert!(error.is_retryable());
    // As in a swap: the next build is started before the state is handed over.
    let settings = serde_json::from_value(json!({ "file": folder.file() })).unwrap();
    let next = Database::open(&settings).unwrap();
    assert_eq!(kind(next.check()), StoreErrorKind::Unavailable);
    assert!(storage.plugin().snapshot().unwrap().is_none());
    next.check().unwrap();
    assert_eq!(kind(storage.plugin().save(b"a", b"1", None)), StoreErrorKind::Unavailable);
    // The swap fails, and this build serves again.
    drop(next);
    storage.plugin().save(b"a", b"1", None).unwrap();
    // Another name of the file is the same database.
    #[cfg(unix)]
    {
        let link = folder.0.path().join("link.sqlite");
        std::os::unix::fs::symlink(folder.file(), &link).unwrap();
        let settings = serde_json::from_value(json!({ "file": link })).unwrap();
        let linked = Database::open(&settings).unwrap();
        assert_eq!(kind(linked.check()), StoreErrorKind::Unavailable);
    }
}

#[cfg(unix)]
#[test]
fn all_names_of_a_new_database_have_one_lock() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new();
    let (first, second) = (folder.0.path().join("first"), folder.0.path().join("second"));
    symlink(folder.file(), &first).unwrap();
    symlink("first", &second).unwrap();
    let open = |file| {
        let settings = serde_json::from_value(json!({ "file": file })).unwrap();
        Database::open(&settings).unwrap()
    };
    // Neither the links' target nor its name existed.
    let database = open(second);
    database.check().unwrap();
    for file in [folder.file(), first] {
        assert_eq!(kind(open(file).check()), StoreErrorKind::Unavailable);
    }
}

#[cfg(unix)]
#[test]
fn file_with_two_names_and_links_in_a_circle_are_refused() {
    let (folder, storage) = opened();
    storage.plugin().save(b"a", b"1", None).unwrap();
    drop(storage);
    let other = folder.0.path().join("other");
    fs::hard_link(folder.file(), &other).unwrap();
    let error = folder.try_open().unwrap_err();
    assert!(error.message().contains("2 names"), "{error}");
    fs::remove_file(&other).unwrap();
    folder.open().plugin().load(b"a").unwrap();
    fs::remove_file(folder.file()).unwrap();
    std::os::unix::fs::symlink(folder.file(), folder.file()).unwrap();
    assert!(folder.try_open().unwrap_err().message().contains("links"));
}

#[test]
fn removed_or_replaced_file_fails_changes() {
    let (folder, storage) = opened();
    storage.plugin().save(b"a", b"1", None).unwrap();
    fs::remove_file(folder.file()).unwrap();
    let error = storage.plugin().save(b"b", b"1", None).unwrap_err();
    assert!(error.to_string().contains("removed or replaced"), "{error}");
    fs::write(folder.file(), "").unwrap();
    assert_eq!(kind(storage.plugin().save(b"b", b"1", None)), StoreErrorKind::Failed);
    assert_eq!(kind(storage.plugin().load(b"a")), StoreErrorKind::Failed);
}

#[test]
fn errors_of_the_database_have_their_class() {
    for (code, expected) in [
        (ffi::SQLITE_BUSY, StoreErrorKind::Unavailable),
        (ffi::SQLITE_CANTOPEN, StoreErrorKind::Unavailable),
        (ffi::SQLITE_IOERR, StoreErrorKind::Unavailable),
        (ffi::SQLITE_READONLY, StoreErrorKind::ReadOnly),
        (ffi::SQLITE_FULL, StoreErrorKind::Full),
        (ffi::SQLITE_TOOBIG, StoreErrorKind::InvalidInput),
        (ffi::SQLITE_CORRUPT, StoreErrorKind::Failed),
    ] {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        assert_eq!(of_sqlite(&error).kind(), expected, "{error}");
    }
    assert_eq!(ffi::Error::new(ffi::SQLITE_FULL).code, ErrorCode::DiskFull);
}

#[test]
fn full_database_keeps_its_values() {
    let (folder, storage) = opened();
    storage.plugin().save(b"a", b"1", None).unwrap();
    drop(storage);
    // The number of pages is limited for a connection; the plugin's writer is that connection here.
    let settings = serde_json::from_value(json!({ "file": folder.file() })).unwrap();
    let database = Database::open(&settings).unwrap();
    database.limit_pages(8);
    let error = database.write(|change| change.save(b"b", &[0; 1 << 16], None)).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Full, "{error}");
    assert_eq!(database.load(b"a").unwrap().value, b"1");
    database.write(|change| change.save(b"a", b"2", None)).unwrap();
}

fn call(storage: &Started<Storage>, request: &Value) -> Result<Value, PluginError> {
    let request = request.to_string();
    storage.execute(Payload::text(&request))?.parse_json()
}

#[test]
fn requests_in_json_have_text_or_base64() {
    let (_folder, storage) = opened();
    let save = json!({ "save": { "key": "a", "value": "b" } });
    assert_eq!(call(&storage, &save).unwrap(), json!({ "revision": 1 }));
    let bytes = json!({ "base64": "AP8=" });
    let save = json!({ "save": { "key": bytes, "value": bytes, "expected": 0 } });
    assert_eq!(call(&storage, &save).unwrap(), json!({ "revision": 2 }));
    let load = json!({ "load": { "key": bytes } });
    assert_eq!(call(&storage, &load).unwrap(), json!({ "value": bytes, "revision": 2 }));
    let list = json!({ "list": {} });
    let expected = json!({ "keys": [bytes, "a"], "has_more": false });
    assert_eq!(call(&storage, &list).unwrap(), expected);
    let changes = json!({ "batch": [
        { "delete": { "key": "a" } },
        { "save": { "key": "c", "value": "" } },
    ] });
    assert_eq!(call(&storage, &changes).unwrap(), json!({ "revisions": [0, 3] }));
    let delete = json!({ "delete": { "key": "a" } });
    let error = call(&storage, &delete).unwrap_err();
    assert_eq!((error.code(), error.message()), (404, "no value has this key"));
    for invalid in [
        json!({ "drop": {} }),
        json!({ "load": {} }),
        json!({ "load": { "key": 1 } }),
        json!({ "load": { "key": { "base64": "?" } } }),
        json!({ "load": { "key": "a", "value": "b" } }),
        json!([]),
    ] {
        assert_eq!(call(&storage, &invalid).unwrap_err().code(), 400, "{invalid}");
    }
}

#[test]
fn invalid_config_is_rejected() {
    for config in [
        json!({}),
        json!({ "file": 1 }),
        json!({ "file": "a", "synchronous": "off" }),
        json!({ "file": "a", "path": "b" }),
        json!({ "file": "a", "readers": 0 }),
        json!({ "file": "a", "timeout_ms": 3_000_000_000_u64 }),
    ] {
        assert_eq!(FakeHost::new().start::<Storage>(config).unwrap_err().code(), 400);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn store_behaves_like_a_sorted_map(
        steps in proptest::collection::vec((0..4_u8, "[ab]{1,2}", any::<u8>()), 1..60)
    ) {
        let (_folder, storage) = opened();
        let storage = storage.plugin();
        let mut model: BTreeMap<Vec<u8>, (Vec<u8>, u64)> = BTreeMap::new();
        for (step, key, value) in steps {
            let (key, value) = (key.into_bytes(), vec![value]);
            match step {
                0 => {
                    let revision = storage.save(&key, &value, None).unwrap();
                    model.insert(key, (value, revision));
                }
                1 => {
                    let expected = model.get(&key).map_or(0, |(_, revision)| *revision);
                    let revision = storage.save(&key, &value, Some(expected)).unwrap();
                    model.insert(key, (value, revision));
                }
                2 => prop_assert_eq!(storage.delete(&key, None).is_ok(), model.remove(&key).is_some()),
                _ => {
                    let found = storage.load(&key).ok().map(|entry| (entry.value, entry.revision));
                    prop_assert_eq!(found.as_ref(), model.get(&key));
                }
            }
        }
        for prefix in [&b""[..], b"a", b"ab", b"b"] {
            let expected: Vec<_> =
                model.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
            prop_assert_eq!(keys(storage, prefix), expected);
        }
    }
}
