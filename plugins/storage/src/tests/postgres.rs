//! Tests of what only PostgreSQL has.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hotbay_test_postgres::{Database, Server};

use super::*;

/// A database on the server of this process.
pub(super) struct Place(Database);

/// Ends all sessions of a database but the one that runs it.
const END_SESSIONS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                            WHERE datname = current_database() AND pid <> pg_backend_pid()";

impl Place {
    /// Returns `None` if PostgreSQL is not installed.
    pub(super) fn new() -> Option<Self> {
        Server::shared().map(|server| Self(server.database()))
    }

    /// Returns the config with other or more options of the dsn.
    fn with_options(&self, options: &str) -> Value {
        json!({ "dsn": format!("{}&{options}", self.0.dsn()) })
    }

    /// Creates a user who is named after the database, since all databases of a server share them.
    fn create_user(&self, prefix: &str, options: &str) -> String {
        let user = format!("{prefix}_{}", self.0.name());
        self.0.run(&format!("CREATE ROLE {user} LOGIN {options}"));
        user
    }

    fn dsn_of(&self, user: &str) -> String {
        self.0.dsn().replace("user=postgres", &format!("user={user}"))
    }
}

impl Fixture for Place {
    const TIMEOUT_MS: u64 = 60_000;
    const LOCK_TIMEOUT_MS: u64 = 2_000;

    fn config(&self) -> Value {
        json!({ "dsn": self.0.dsn(), "connections": 3 })
    }

    fn lock(&self) -> Box<dyn Any> {
        let mut session = self.0.session();
        session.run("BEGIN; SELECT * FROM storage_revisions FOR UPDATE");
        Box::new(session)
    }

    fn open_read_only(&self) -> Store {
        let name = self.0.name();
        self.0.run(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
        Store::open(&self.settings(json!({ "timeout_ms": Self::TIMEOUT_MS }))).unwrap()
    }
}

fn start(config: Value) -> Result<Started<Storage>, PluginError> {
    FakeHost::new().start::<Storage>(config)
}

#[test]
fn lost_connections_are_replaced() {
    let Some(place) = Place::new() else { return };
    let storage = place.open();
    let storage = storage.plugin();
    let mut revision = storage.save(b"a", b"0", Some(0)).unwrap();
    for _ in 0..3 {
        assert_eq!(storage.load(b"a").unwrap().revision, revision);
        place.0.run(END_SESSIONS);
        // Neither a read nor a change that was not made is visible to the caller.
        assert_eq!(storage.load(b"a").unwrap().revision, revision);
        revision = storage.save(b"a", b"1", Some(revision)).unwrap();
        place.0.run(END_SESSIONS);
        revision = storage.save(b"a", b"2", Some(revision)).unwrap();
    }
}

#[test]
fn connection_lost_in_a_commit_is_reported() {
    let Some(place) = Place::new() else { return };
    let storage = place.open();
    let storage = storage.plugin();
    place.0.run(
        "CREATE SEQUENCE attempts;
         CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM nextval('attempts');
             PERFORM pg_terminate_backend(pg_backend_pid());
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER die AFTER INSERT ON storage_entries
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()",
    );
    // Also with a connection that was used before.
    for attempt in 1..=2 {
        let error = storage.save(b"a", b"1", None).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::OutcomeUnknown, "{error}");
        assert!(error.to_string().contains("the change may have been made"), "{error}");
        assert_eq!(place.0.run("SELECT last_value FROM attempts"), attempt.to_string());
        assert_eq!(kind(storage.load(b"a")), StoreErrorKind::NotFound);
        assert_eq!(kind(storage.delete(b"a", None)), StoreErrorKind::NotFound);
    }
}

/// The process of the server is stopped by a signal, as if its machine hung: in a commit, and before.
#[test]
fn frozen_server_ends_no_call_without_an_error() {
    for (timing, expected) in [
        ("INITIALLY DEFERRED", StoreErrorKind::OutcomeUnknown),
        ("INITIALLY IMMEDIATE", StoreErrorKind::Unavailable),
    ] {
        let Some(place) = Place::new() else { return };
        let limits = json!({ "timeout_ms": 2_000, "work_timeout_ms": 500 });
        let storage = start(place.config_with(limits)).unwrap();
        let storage = storage.plugin();
        let revision = storage.save(b"a", b"1", None).unwrap();
        place.0.run(&format!(
            "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 EXECUTE $copy$ COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; kill -STOP $PPID' $copy$;
                 RETURN NULL;
             END $$;
             CREATE CONSTRAINT TRIGGER hang AFTER UPDATE ON storage_entries
                 DEFERRABLE {timing} FOR EACH ROW EXECUTE FUNCTION hang()"
        ));
        let error = storage.save(b"a", b"2", None).unwrap_err();
        assert_eq!(error.kind(), expected, "{timing}: {error}");
        assert!(error.to_string().contains("did not respond in time: a call"), "{error}");
        // The frozen process still has its locks, but reads need none.
        assert_eq!(storage.load(b"a").unwrap().revision, revision);
        assert_eq!(kind(storage.save(b"b", b"1", None)), StoreErrorKind::Unavailable);
        // It wakes up, ends its transaction, and notices that its client is gone.
        place.0.run(
            "DO $$ DECLARE process integer; BEGIN
                 FOR process IN SELECT pid FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()
                 LOOP
                     EXECUTE format('COPY (SELECT 1) TO PROGRAM %L',
                         'cat >/dev/null; kill -CONT ' || process || ' || true');
                 END LOOP;
             END $$",
        );
        let start = Instant::now();
        while storage.save(b"b", b"1", None).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "{timing}: the lock is still held");
        }
        let is_unchanged = storage.load(b"a").unwrap().revision == revision;
        assert!(is_unchanged || expected == StoreErrorKind::OutcomeUnknown, "{timing}");
    }
}

#[test]
fn errors_of_the_server_have_their_class() {
    let Some(place) = Place::new() else { return };
    let storage = place.open();
    let storage = storage.plugin();
    storage.save(b"a", b"1", None).unwrap();
    let change = || storage.save(b"a", b"2", None);
    for (code, expected) in [
        ("53100", StoreErrorKind::Full),
        ("53200", StoreErrorKind::Unavailable),
        ("40001", StoreErrorKind::Unavailable),
        ("40P01", StoreErrorKind::Unavailable),
        ("57014", StoreErrorKind::Unavailable),
        ("58030", StoreErrorKind::Unavailable),
        ("25006", StoreErrorKind::ReadOnly),
        ("42501", StoreErrorKind::ReadOnly),
        ("XX001", StoreErrorKind::Failed),
        ("22000", StoreErrorKind::Failed),
    ] {
        place.0.run(&format!(
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION 'the reason' USING ERRCODE = '{code}';
             END $$;
             CREATE OR REPLACE TRIGGER fail BEFORE UPDATE ON storage_entries
                 FOR EACH ROW EXECUTE FUNCTION fail()"
        ));
        let error = change().unwrap_err();
        assert_eq!(error.kind(), expected, "{code}: {error}");
        assert!(error.to_string().contains(&format!("the reason ({code})")), "{error}");
        // The connection is still used, and nothing was changed.
        assert_eq!(storage.load(b"a").unwrap().value, b"1");
    }
    place.0.run("DROP TRIGGER fail ON storage_entries");
    change().unwrap();
}

#[test]
fn deadlock_with_another_session_is_retryable() {
    let Some(place) = Place::new() else { return };
    let storage = place.open();
    let storage = storage.plugin();
    storage.save(b"a", b"1", None).unwrap();
    // The store has the revisions when it waits for the value.
    let mut other = place.0.session();
    other.run("SET deadlock_timeout = '1h'; BEGIN; SELECT * FROM storage_entries FOR UPDATE");
    let error = thread::scope(|scope| {
        let change = scope.spawn(|| storage.save(b"a", b"2", None));
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while place.0.run(waits) == "0" {
            assert!(!change.is_finished(), "the change waits for the other session");
        }
        other.run("SELECT * FROM storage_revisions FOR UPDATE");
        change.join().unwrap().unwrap_err()
    });
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("40P01"), "{error}");
    drop(other);
    storage.save(b"a", b"2", None).unwrap();
}

#[test]
fn user_without_privileges_reads_or_is_refused() {
    let Some(place) = Place::new() else { return };
    place.open().plugin().save(b"a", b"1", None).unwrap();
    let user = place.create_user("reader", "");
    let config = json!({ "dsn": place.dsn_of(&user) });
    let error = start(config.clone()).unwrap_err();
    assert_eq!(error.code(), 403, "{error}");
    place.0.run(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}"));
    let storage = start(config).unwrap();
    assert_eq!(storage.plugin().load(b"a").unwrap().value, b"1");
    assert_eq!(kind(storage.plugin().save(b"a", b"2", None)), StoreErrorKind::ReadOnly);
    place.0.run(&format!("DROP OWNED BY {user}"));
    drop(storage);
    place.0.run(&format!("DROP ROLE {user}"));
}

#[test]
fn user_with_a_password_is_authenticated() {
    let Some(place) = Place::new() else { return };
    place.0.run("CREATE ROLE with_password");
    let user = place.create_user("member", "SUPERUSER IN ROLE with_password PASSWORD 'of \u{e9}'");
    let dsn = place.dsn_of(&user);
    let storage = start(json!({ "dsn": format!("{dsn}&password=of%20%C3%A9") })).unwrap();
    storage.plugin().save(b"a", b"1", None).unwrap();
    for wrong in [dsn.clone(), format!("{dsn}&password=wrong")] {
        let error = start(json!({ "dsn": wrong })).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (500, false), "{error}");
        assert!(error.message().contains("password"), "{error}");
        assert!(!error.message().contains("wrong"), "{error}");
    }
    drop(storage);
    place.0.run(&format!("REASSIGN OWNED BY {user} TO postgres; DROP ROLE {user}"));
}

#[test]
fn connections_are_limited() {
    let Some(place) = Place::new() else { return };
    let storage = start(place.config_with(json!({ "connections": 2 }))).unwrap();
    let (is_done, most) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        for number in 0..6_u8 {
            let (storage, is_done) = (storage.plugin(), &is_done);
            scope.spawn(move || {
                while !is_done.load(Ordering::Relaxed) {
                    storage.save(&[number], b"", None).unwrap();
                    storage.load(&[number]).unwrap();
                }
            });
        }
        let count =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hotbay storage'
                     AND datname = current_database()";
        for _ in 0..20 {
            most.fetch_max(place.0.run(count).parse().unwrap(), Ordering::Relaxed);
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert_eq!(most.into_inner(), 2);
    // A server with too few is unavailable.
    let user = place.create_user("limited", "CONNECTION LIMIT 1");
    place.0.run(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}"));
    let error = start(json!({ "dsn": place.dsn_of(&user), "connections": 2 })).unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (503, true), "{error}");
    assert!(error.message().contains("53300"), "{error}");
    place.0.run(&format!("DROP OWNED BY {user}; DROP ROLE {user}"));
}

#[test]
fn one_connection_reads_and_writes() {
    let Some(place) = Place::new() else { return };
    let storage = start(place.config_with(json!({ "connections": 1 }))).unwrap();
    storage.plugin().save(b"a", b"1", None).unwrap();
    assert_eq!(storage.plugin().load(b"a").unwrap().value, b"1");
}

#[test]
fn removed_database_is_reported() {
    let Some(place) = Place::new() else { return };
    let storage = place.open();
    storage.plugin().save(b"a", b"1", None).unwrap();
    place.0.run("DROP TABLE storage_entries");
    assert_eq!(kind(storage.plugin().load(b"a")), StoreErrorKind::Failed);
    let other = Server::shared().unwrap().database();
    other.run(&format!("DROP DATABASE {} WITH (FORCE)", place.0.name()));
    for _ in 0..2 {
        let error = storage.plugin().load(b"a").unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Failed, "{error}");
        assert!(error.to_string().contains("does not exist"), "{error}");
        assert_eq!(kind(storage.plugin().save(b"a", b"1", None)), StoreErrorKind::Failed);
    }
    let error = place.try_open().unwrap_err();
    assert!(error.message().starts_with("cannot open the database: "), "{error}");
}

#[test]
fn unreachable_server_is_unavailable() {
    for dsn in ["host=/nonexistent-folder user=a", "host=127.0.0.1 port=1 user=a"] {
        let error = start(json!({ "dsn": dsn })).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (503, true), "{error}");
    }
}

#[test]
fn silent_server_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = json!({ "dsn": format!("host=127.0.0.1 port={port} user=a"), "timeout_ms": 100 });
    let error = start(config).unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (503, true), "{error}");
    assert!(error.message().contains("did not respond in time: connecting"), "{error}");
}

#[test]
fn tables_of_another_application_or_a_newer_build_are_refused() {
    let check = |prepare: &str, expected: &str| {
        let Some(place) = Place::new() else { return };
        place.0.run(prepare);
        let tables = "SELECT table_name, column_name FROM information_schema.columns
                      WHERE table_schema = 'public' ORDER BY 1, 2";
        let before = place.0.run(tables);
        let error = place.try_open().unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (500, false), "{error}");
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(place.0.run(tables), before);
    };
    for table in ["storage_entries", "storage_revisions", "storage_schema"] {
        check(&format!("CREATE TABLE {table} (id integer)"), "another application");
    }
    check("CREATE VIEW storage_entries AS SELECT 1", "another application");
    let other = "CREATE TABLE storage_schema (application text, version integer);
                 INSERT INTO storage_schema VALUES ('other', 1)";
    check(other, "another application");
    let newer = other.replace("'other', 1", "'hbkv', 9");
    check(&newer, "the database has version 9");
}

#[test]
fn tables_are_in_the_schema_of_the_dsn() {
    let Some(place) = Place::new() else { return };
    place.open().plugin().save(b"a", b"1", None).unwrap();
    place.0.run("CREATE SCHEMA \"a tenant\"");
    // The tables of later schemas of the path are not used.
    let options = "options=-c%20search_path%3D%22a%5C%20tenant%22%2Cpublic";
    let storage = start(place.with_options(options)).unwrap();
    assert_eq!(kind(storage.plugin().load(b"a")), StoreErrorKind::NotFound);
    storage.plugin().save(b"b", b"1", None).unwrap();
    assert_eq!(place.0.run("SELECT count(*) FROM \"a tenant\".storage_entries"), "1");
    let error = start(place.with_options("options=-c%20search_path%3Dmissing")).unwrap_err();
    assert!(error.message().contains("no schema of the `search_path` exists"), "{error}");
}

#[test]
fn isolation_of_the_dsn_changes_nothing() {
    let Some(place) = Place::new() else { return };
    let options = "options=-c%20default_transaction_isolation%3Dserializable";
    let storage = start(place.with_options(options)).unwrap();
    let storage = storage.plugin();
    thread::scope(|scope| {
        for number in 0..4_u8 {
            scope.spawn(move || {
                for _ in 0..20 {
                    storage.save(&[number], b"", None).unwrap();
                    storage.load(&[number]).unwrap();
                }
            });
        }
    });
}

#[test]
fn several_hosts_open_and_change_a_database_at_once() {
    let Some(place) = Place::new() else { return };
    thread::scope(|scope| {
        for number in 0..6_u8 {
            let place = &place;
            scope.spawn(move || {
                let storage = place.open();
                for change in 0..20_u8 {
                    storage.plugin().save(&[number, change], b"", Some(0)).unwrap();
                }
            });
        }
    });
    let storage = place.open();
    assert_eq!(keys(storage.plugin(), b"").len(), 120);
    let revisions = "SELECT count(DISTINCT revision), max(revision) FROM storage_entries";
    assert_eq!(place.0.run(revisions), "120|120");
}

#[test]
fn synchronous_sets_the_wait_of_a_commit() {
    let Some(place) = Place::new() else { return };
    let name = place.0.name();
    // A setting is seen by a trigger, which runs in the session of the store.
    place.open();
    place.0.run(
        "CREATE TABLE seen (setting text);
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO seen VALUES (current_setting('synchronous_commit'));
             RETURN NULL;
         END $$;
         CREATE TRIGGER see AFTER INSERT ON storage_entries
             FOR EACH ROW EXECUTE FUNCTION see()",
    );
    for (of_server, synchronous, expected) in [
        ("on", "full", "on"),
        ("on", "normal", "off"),
        ("off", "full", "on"),
        ("remote_apply", "full", "remote_apply"),
    ] {
        place.0.run(&format!("ALTER DATABASE {name} SET synchronous_commit = {of_server}"));
        let storage = start(place.config_with(json!({ "synchronous": synchronous }))).unwrap();
        storage.plugin().save(expected.as_bytes(), b"", None).unwrap();
        storage.plugin().delete(expected.as_bytes(), None).unwrap();
        assert_eq!(place.0.run("DELETE FROM seen RETURNING setting"), expected, "{of_server}");
    }
}
