//! SQLite without a plugin: the statements, modes and connections of the plugin `storage`, and none of
//! its checks.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

/// Maximum number of connections that read.
pub(crate) const READERS: usize = 4;
/// Maximum time for a connection or a lock, in milliseconds.
pub(crate) const TIMEOUT: u64 = 60_000;

pub(crate) struct BareStore {
    writer: Pool,
    readers: Pool,
}

impl BareStore {
    pub(crate) fn open(file: &Path) -> anyhow::Result<Self> {
        connect(file)?.execute_batch(
            "CREATE TABLE entries (
                 key BLOB NOT NULL PRIMARY KEY,
                 value BLOB NOT NULL,
                 revision INTEGER NOT NULL
             ) STRICT;
             CREATE TABLE revisions (last INTEGER NOT NULL) STRICT;
             INSERT INTO revisions (last) VALUES (0);",
        )?;
        Ok(Self { writer: Pool::new(file, 1), readers: Pool::new(file, READERS) })
    }

    pub(crate) fn load(&self, key: &[u8]) -> rusqlite::Result<(Vec<u8>, u64)> {
        self.readers.with(|connection| {
            let load = "SELECT value, revision FROM entries WHERE key = ?1";
            let mut load = connection.prepare_cached(load)?;
            load.query_row([key], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))
        })
    }

    pub(crate) fn save(&self, key: &[u8], value: &[u8]) -> rusqlite::Result<u64> {
        self.writer.with(|connection| {
            let behavior = TransactionBehavior::Immediate;
            let transaction = Transaction::new_unchecked(connection, behavior)?;
            let next = "UPDATE revisions SET last = last + 1 RETURNING last";
            let revision: i64 =
                transaction.prepare_cached(next)?.query_row([], |row| row.get(0))?;
            let save = "INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3) \
                        ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3";
            transaction.prepare_cached(save)?.execute(params![key, value, revision])?;
            transaction.commit()?;
            Ok(revision as u64)
        })
    }
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(Duration::from_millis(TIMEOUT))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// Connections that are used by one caller at a time.
struct Pool {
    file: PathBuf,
    /// `None` for those that are not open yet.
    idle: Mutex<Vec<Option<Connection>>>,
    returned: Condvar,
}

impl Pool {
    fn new(file: &Path, max: usize) -> Self {
        let idle = Mutex::new(std::iter::repeat_with(|| None).take(max).collect());
        Self { file: file.to_owned(), idle, returned: Condvar::new() }
    }

    fn with<T>(
        &self,
        call: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let idle = self.idle.lock().expect("no call panics");
        let idle = self.returned.wait_while(idle, |idle| idle.is_empty());
        let connection = idle.expect("no call panics").pop().flatten();
        let connection = connection.map_or_else(|| connect(&self.file), Ok)?;
        let result = call(&connection);
        self.idle.lock().expect("no call panics").push(Some(connection));
        self.returned.notify_one();
        result
    }
}
