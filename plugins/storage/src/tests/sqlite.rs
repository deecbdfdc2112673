//! Tests of what only SQLite has.

use std::fs;
use std::path::PathBuf;

use rusqlite::{Connection, ErrorCode, ffi};
use tempfile::TempDir;

use super::*;
use crate::backend::{Backend, Change as BackendChange};
use crate::sqlite::{Sqlite, of_sqlite};

/// A folder with a database.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("storage.sqlite")
    }

    /// Opens it without the checks of the store.
    fn open_database(&self) -> Sqlite {
        let common = self.settings(json!({})).common;
        Sqlite::open(common, &self.file(), 1).unwrap()
    }
}

impl Fixture for Folder {
    const TIMEOUT_MS: u64 = 30_000;
    const LOCK_TIMEOUT_MS: u64 = 30;

    fn config(&self) -> Value {
        json!({ "file": self.file(), "readers": 2 })
    }

    fn lock(&self) -> Box<dyn Any> {
        let other = Connection::open(self.file()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        Box::new(other)
    }

    fn open_read_only(&self) -> Store {
        let database = self.open_database();
        database.set_writer("query_only", 1);
        Store::on(database)
    }
}

fn save<'a>(key: &'a [u8], value: &'a [u8]) -> Vec<BackendChange<'a>> {
    vec![BackendChange::Save { key: key.into(), value: value.into(), expected: None }]
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
fn one_instance_at_a_time_uses_a_database() {
    let folder = Folder::new();
    let storage = folder.open();
    let error = folder.try_open().unwrap_err();
    assert!(error.message().contains("another instance of this plugin"), "{error}");
    assert!(error.is_retryable());
    // As in a swap: the next build is started before the state is handed over.
    let next = folder.open_database();
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
        let linked = Sqlite::open(folder.settings(json!({})).common, &link, 1).unwrap();
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
    let open = |file: std::path::PathBuf| {
        Sqlite::open(folder.settings(json!({})).common, &file, 1).unwrap()
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
    let folder = Folder::new();
    let storage = folder.open();
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
    let folder = Folder::new();
    let storage = folder.open();
    storage.plugin().save(b"a", b"1", None).unwrap();
    fs::remove_file(folder.file()).unwrap();
    let error = storage.plugin().save(b"b", b"1", None).unwrap_err();
    assert!(error.to_string().contains("removed or replaced"), "{error}");
    fs::write(folder.file(), "").unwrap();
    assert_eq!(kind(storage.plugin().save(b"b", b"1", None)), StoreErrorKind::Failed);
    assert_eq!(kind(storage.plugin().load(b"a")), StoreErrorKind::Failed);
}

#[test]
fn removed_file_fails_reads_soon() {
    let folder = Folder::new();
    let storage = folder.open();
    storage.plugin().save(b"a", b"1", None).unwrap();
    fs::remove_file(folder.file()).unwrap();
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let error = loop {
        match storage.plugin().load(b"a") {
            Err(error) => break error,
            Ok(entry) => assert_eq!(entry.value, b"1"),
        }
        assert!(std::time::Instant::now() < limit, "the file is still read");
    };
    assert_eq!(error.kind(), StoreErrorKind::Failed);
    assert!(error.to_string().contains("removed or replaced"), "{error}");
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
    let folder = Folder::new();
    let storage = folder.open();
    storage.plugin().save(b"a", b"1", None).unwrap();
    drop(storage);
    // The number of pages is limited for a connection; the plugin's writer is that connection here.
    let database = folder.open_database();
    database.set_writer("max_page_count", 8);
    let error = database.change(save(b"b", &[0; 1 << 16])).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Full, "{error}");
    assert_eq!(database.load(b"a").unwrap().unwrap().value, b"1");
    database.change(save(b"a", b"2")).unwrap();
}
