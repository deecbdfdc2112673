//! Tests of the plugin without a host, on each database.

#[cfg(unix)]
mod postgres;
mod sqlite;

use std::any::Any;
use std::collections::BTreeMap;
use std::thread;

use hotbay_plugin::testing::{FakeHost, Started};
use proptest::prelude::*;
use serde_json::{Value, json};
use storage_contract::{MAX_BATCH, MAX_KEY_BYTES, MAX_PAGE, MAX_VALUE_BYTES, StoreErrorKind};

use super::*;

/// A new database for a test.
trait Fixture {
    /// The time in which calls that do not wait for each other end.
    const TIMEOUT_MS: u64;
    /// A short time, in which a database that is not locked responds.
    const LOCK_TIMEOUT_MS: u64;

    /// Returns the fields of the config that name the database.
    fn config(&self) -> Value;

    /// Keeps others from changing the database until the result is dropped.
    fn lock(&self) -> Box<dyn Any>;

    /// Lets the database only be read by a store that is opened next.
    fn open_read_only(&self) -> Store;

    fn config_with(&self, fields: Value) -> Value {
        let mut config = self.config();
        let (Some(config_fields), Value::Object(fields)) = (config.as_object_mut(), fields) else {
            panic!("configs are objects");
        };
        config_fields.extend(fields);
        config
    }

    fn settings(&self, fields: Value) -> Settings {
        Settings::parse(&Config::from(self.config_with(fields))).unwrap()
    }

    fn try_open(&self) -> Result<Started<Storage>, PluginError> {
        let fields = json!({ "timeout_ms": Self::TIMEOUT_MS, "synchronous": "normal" });
        FakeHost::new().start::<Storage>(self.config_with(fields))
    }

    fn open(&self) -> Started<Storage> {
        self.try_open().unwrap()
    }

    /// Opens a store that does not wait for long.
    fn open_impatient(&self) -> Store {
        let fields = json!({ "timeout_ms": Self::LOCK_TIMEOUT_MS });
        Store::open(&self.settings(fields)).unwrap()
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind()
}

fn keys(storage: &Storage, prefix: &[u8]) -> Vec<Vec<u8>> {
    storage.list(prefix, b"", MAX_PAGE).unwrap().keys
}

fn values_of_all_sizes_survive_a_restart(fixture: &impl Fixture) {
    let storage = fixture.open();
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
    let storage = fixture.open();
    assert!(storage.plugin().load(b"large").unwrap().value == largest);
    assert_eq!(storage.plugin().load(sql).unwrap().value, sql);
    assert_eq!(keys(storage.plugin(), b"").len(), 6);
}

fn input_out_of_range_is_rejected(fixture: &impl Fixture) {
    let storage = fixture.open();
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

fn changes_depend_on_the_expected_revision(fixture: &impl Fixture) {
    let storage = fixture.open();
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

fn batch_changes_all_or_nothing(fixture: &impl Fixture) {
    let storage = fixture.open();
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

fn pages_list_the_keys_of_a_prefix(fixture: &impl Fixture) {
    let storage = fixture.open();
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

fn call(storage: &Started<Storage>, request: &Value) -> Result<Value, PluginError> {
    let request = request.to_string();
    storage.execute(Payload::text(&request))?.parse_json()
}

fn requests_in_json_have_text_or_base64(fixture: &impl Fixture) {
    let storage = fixture.open();
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

fn locked_database_is_unavailable_until_it_is_free(fixture: &impl Fixture) {
    let store = fixture.open_impatient();
    let lock = fixture.lock();
    let error = store.save(b"a", b"1", None).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable());
    // It can still be read.
    assert_eq!(kind(store.load(b"a")), StoreErrorKind::NotFound);
    drop(lock);
    store.save(b"a", b"1", None).unwrap();
}

fn read_only_database_can_be_read(fixture: &impl Fixture) {
    let revision = fixture.open().plugin().save(b"a", b"1", None).unwrap();
    let store = fixture.open_read_only();
    let key = || b"a".to_vec();
    assert_eq!(kind(store.save(b"a", b"2", None)), StoreErrorKind::ReadOnly);
    assert_eq!(kind(store.delete(b"a", Some(revision))), StoreErrorKind::ReadOnly);
    let delete = Change::Delete { key: key(), expected: None };
    let error = store.batch(vec![delete]).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::ReadOnly, "{error}");
    assert_eq!(PluginError::from(error).code(), 403);
    store.check().unwrap();
    assert_eq!(store.load(b"a").unwrap(), Entry { value: b"1".to_vec(), revision });
    assert_eq!(store.list(b"", b"", 1).unwrap().keys, [b"a"]);
}

fn concurrent_changes_are_not_lost(fixture: &impl Fixture) {
    const THREADS: u64 = 8;
    const CHANGES: u64 = 25;
    let storage = fixture.open();
    let storage = storage.plugin();
    let add_one = || {
        let entry = storage.load(b"total").unwrap();
        let number = u64::from_le_bytes(entry.value.try_into().unwrap()) + 1;
        storage.save(b"total", &number.to_le_bytes(), Some(entry.revision))
    };
    storage.save(b"total", &0_u64.to_le_bytes(), Some(0)).unwrap();
    let mut revisions: Vec<u64> = thread::scope(|scope| {
        let run = || {
            let mut own = Vec::new();
            while own.len() < CHANGES as usize {
                match add_one() {
                    Ok(revision) => own.push(revision),
                    Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
                }
            }
            assert!(own.is_sorted());
            own
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len() as u64, THREADS * CHANGES);
    let entry = storage.load(b"total").unwrap();
    assert_eq!(entry.value, (THREADS * CHANGES).to_le_bytes());
    assert_eq!(Some(&entry.revision), revisions.last());
}

fn batch_of_the_maximum_size_is_made(fixture: &impl Fixture) {
    let storage = fixture.open();
    let storage = storage.plugin();
    let save = |number: usize| Change::Save {
        key: format!("{number:05}").into_bytes(),
        // Some are longer than what is sent ahead.
        value: vec![1; if number.is_multiple_of(1000) { 2 << 20 } else { 1 }],
        expected: Some(0),
    };
    let mut changes: Vec<_> = (0..MAX_BATCH).map(save).collect();
    let revisions = storage.batch(changes.clone()).unwrap();
    assert_eq!(revisions.len(), MAX_BATCH);
    assert!(revisions.is_sorted_by(|a, b| a < b));
    assert_eq!(storage.load(b"09999").unwrap().revision, revisions[MAX_BATCH - 1]);
    assert_eq!(storage.load(b"01000").unwrap().value.len(), 2 << 20);
    // The last one fails.
    for change in &mut changes[..MAX_BATCH - 1] {
        if let Change::Save { value, expected, .. } = change {
            (*value, *expected) = (vec![2], None);
        }
    }
    assert_eq!(kind(storage.batch(changes)), StoreErrorKind::Conflict);
    assert_eq!(storage.load(b"00001").unwrap(), Entry { value: vec![1], revision: revisions[1] });
}

#[test]
fn invalid_config_is_rejected() {
    for (config, expected) in [
        (json!({ "work_timeout_ms": 5 }), "`work_timeout_ms` is set without `dsn`"),
        (
            json!({ "file": "a", "dsn": "host=b" }),
            "`file` (SQLite) and `dsn` (PostgreSQL) are both",
        ),
        (json!({ "file": 1 }), "invalid config"),
        (json!({ "file": "a", "synchronous": "off" }), "invalid config"),
        (json!({ "file": "a", "path": "b" }), "invalid config"),
        (json!({ "file": "a", "readers": 0 }), "`readers` is 0; expected 1 to 64"),
        (json!({ "file": "a", "timeout_ms": 3_000_000_000_u64 }), "expected 1 to 600000"),
        (json!({ "file": "a", "connections": 2 }), "`connections` is set without `dsn`"),
        (json!({ "dsn": "host=a", "readers": 2 }), "`readers` is set without `file`"),
        (json!({ "dsn": "host=a", "connections": 65 }), "`connections` is 65; expected 1 to 64"),
        (json!({ "dsn": "user=a" }), "`dsn` has no host"),
        (json!({ "dsn": "host=a port=x" }), "`dsn` is invalid: "),
        (json!({ "dsn": "postgres://a@b/c?speed=high" }), "`dsn` is invalid: "),
        (json!({ "dsn": "host=a sslmode=require" }), "demands TLS (`sslmode=require`)"),
        (json!({ "dsn": "postgres://a/b?sslmode=verify-full" }), "demands TLS"),
        (json!({ "dsn": "host=a channel_binding=require" }), "demands TLS"),
    ] {
        let checked = Storage::validate_config(&Config::from(config.clone())).unwrap_err();
        let error = FakeHost::new().start::<Storage>(config.clone()).unwrap_err();
        assert_eq!((error.code(), &error), (400, &checked));
        assert!(error.message().contains(expected), "{config}: {error}");
    }
}

/// What a store must contain: each value with its revision.
#[derive(Debug, Default)]
struct Model {
    values: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
}

/// Which revision a change expects.
#[derive(Clone, Copy, Debug)]
enum Expectation {
    Any,
    Absent,
    Current,
    Stale,
}

/// Whether a value is saved or removed, its key, the value, and the expected revision.
type Step = (bool, Vec<u8>, u8, Expectation);

impl Model {
    fn expected(&self, key: &[u8], expectation: Expectation) -> Option<u64> {
        let current = self.values.get(key).map_or(0, |(_, revision)| *revision);
        match expectation {
            Expectation::Any => None,
            Expectation::Absent => Some(0),
            Expectation::Current => Some(current),
            // One that no change of the same batch can get.
            Expectation::Stale => Some(current.checked_sub(1).unwrap_or(1 << 40)),
        }
    }

    /// Makes a change, with the revision of a value that is saved.
    fn change(&mut self, change: Change, revision: u64) -> Result<(), StoreErrorKind> {
        let (Change::Save { key, expected, .. } | Change::Delete { key, expected }) = &change;
        let current = self.values.get(key).map(|(_, revision)| *revision);
        let is_expected = expected.is_none_or(|expected| expected == current.unwrap_or(0));
        match change {
            Change::Save { .. } if !is_expected => return Err(StoreErrorKind::Conflict),
            Change::Save { key, value, .. } => _ = self.values.insert(key, (value, revision)),
            Change::Delete { expected: Some(0), .. } if current.is_none() => {}
            Change::Delete { .. } if current.is_none() => return Err(StoreErrorKind::NotFound),
            Change::Delete { .. } if !is_expected => return Err(StoreErrorKind::Conflict),
            Change::Delete { key, .. } => _ = self.values.remove(&key),
        }
        Ok(())
    }

    /// Makes all changes or none. `revisions` are those of the store, if it made them.
    fn batch(&mut self, changes: Vec<Change>, revisions: &[u64]) -> Result<(), StoreErrorKind> {
        let before = self.values.clone();
        // Of those that it did not make, none is an expected one.
        let mut revisions = revisions.iter().copied().chain(std::iter::repeat(u64::MAX));
        let mut changes = changes.into_iter().zip(&mut revisions);
        let made = changes.try_for_each(|(change, revision)| self.change(change, revision));
        if made.is_err() {
            self.values = before;
        }
        made
    }
}

fn store_behaves_like_a_sorted_map(fixture: &impl Fixture) {
    let storage = fixture.open();
    let storage = storage.plugin();
    let expectation = prop_oneof![
        Just(Expectation::Any),
        Just(Expectation::Absent),
        Just(Expectation::Current),
        Just(Expectation::Stale),
    ];
    let key = proptest::collection::vec(prop_oneof![Just(0), Just(b'a'), Just(u8::MAX)], 1..4);
    let step = (any::<bool>(), key.clone(), any::<u8>(), expectation);
    // Each list of steps is one batch; lists of one are single changes, too.
    let batches = proptest::collection::vec((proptest::collection::vec(step, 1..6), key), 1..20);
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() };
    let newest = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let run = |batches: Vec<(Vec<Step>, Vec<u8>)>| {
        for key in keys(storage, b"") {
            storage.delete(&key, None).unwrap();
        }
        let mut model = Model::default();
        for (steps, prefix) in batches {
            let change = |(is_save, key, value, expectation): Step| {
                let expected = model.expected(&key, expectation);
                match is_save {
                    true => Change::Save { key, value: vec![value], expected },
                    false => Change::Delete { key, expected },
                }
            };
            let changes: Vec<_> = steps.into_iter().map(change).collect();
            let made = match &changes[..] {
                [Change::Save { key, value, expected }] => {
                    storage.save(key, value, *expected).map(|revision| vec![revision])
                }
                [Change::Delete { key, expected }] => {
                    storage.delete(key, *expected).map(|()| vec![0])
                }
                _ => storage.batch(changes.clone()),
            };
            for revision in made.iter().flatten().filter(|revision| **revision > 0) {
                prop_assert!(*revision > newest.replace(*revision));
            }
            let revisions = made.clone().unwrap_or_default();
            prop_assert_eq!(made.map(drop).map_err(|e| e.kind()), model.batch(changes, &revisions));
            let expected: Vec<_> =
                model.values.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
            prop_assert_eq!(keys(storage, &prefix), expected);
            let found = storage.load(&prefix).ok().map(|entry| (entry.value, entry.revision));
            prop_assert_eq!(found.as_ref(), model.values.get(&prefix));
        }
        Ok(())
    };
    runner.run(&batches, run).unwrap();
}

/// Runs the tests above on each database.
macro_rules! on_each_database {
    ($($test:ident),* $(,)?) => {
        mod on_sqlite {
            $(
                #[test]
                fn $test() {
                    super::$test(&super::sqlite::Folder::new());
                }
            )*
        }

        #[cfg(unix)]
        mod on_postgres {
            $(
                #[test]
                fn $test() {
                    if let Some(database) = super::postgres::Place::new() {
                        super::$test(&database);
                    }
                }
            )*
        }
    };
}

on_each_database!(
    values_of_all_sizes_survive_a_restart,
    input_out_of_range_is_rejected,
    changes_depend_on_the_expected_revision,
    batch_changes_all_or_nothing,
    batch_of_the_maximum_size_is_made,
    pages_list_the_keys_of_a_prefix,
    requests_in_json_have_text_or_base64,
    locked_database_is_unavailable_until_it_is_free,
    read_only_database_can_be_read,
    concurrent_changes_are_not_lost,
    store_behaves_like_a_sorted_map,
);
