//! The database: one connection that writes, and several that read meanwhile.
//!
//! POSIX locks belong to a process, and end when any of its descriptors of the file is closed. So two
//! copies of SQLite in one process, such as those of two builds of this plugin, damage a database that
//! both have open. A lock of another kind therefore admits one instance of the plugin at a time, and an
//! instance closes the database before its state is handed over.

mod error;
mod lock;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Instant;
use std::{fs, io};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, params,
};
use storage_contract::{Entry, StoreError, StoreErrorKind};

use crate::backend::{Backend, Change, KeyRange, check_removal, conflict, stored_revision};
use crate::config::{CommonSettings, Synchronous};
use crate::pool::Pool;
use error::error_of_io;
pub(crate) use error::of_sqlite;
use lock::InstanceLock;
use schema::migrate;

/// Maximum time in milliseconds for which reads do not notice that the file was removed or replaced: a check takes half
/// as long as a read.
const CHECK_INTERVAL_MS: u64 = 100;

/// In place of the time of a check that found the file: the next read checks it again.
const NOT_FOUND: u64 = u64::MAX;

/// A database, which is closed while the state of the plugin is handed over.
#[derive(Debug)]
pub(crate) struct Sqlite {
    database: DatabaseFile,
    open: RwLock<Option<Open>>,
}

/// What each connection needs.
#[derive(Debug)]
struct DatabaseFile {
    /// Absolute and without links, so that all names of a database have one lock.
    path: PathBuf,
    readers: usize,
    common: CommonSettings,
}

/// An open database.
#[derive(Debug)]
struct Open {
    /// The file as it was opened: its device and number, if the system has them.
    identity: Option<(u64, u64)>,
    opened: Instant,
    /// When it was last checked, in milliseconds after it was opened.
    checked: AtomicU64,
    /// One connection: callers wait for each other here, instead of polling SQLite's lock.
    writer: Pool<Option<Connection>>,
    readers: Pool<Option<Connection>>,
    /// Released last.
    _lock: InstanceLock,
}

impl Open {
    /// Returns `None` if another instance has the database open.
    fn new(database: &DatabaseFile) -> Result<Option<Self>, StoreError> {
        let Some(lock) = InstanceLock::acquire(&database.path)? else { return Ok(None) };
        check_names(&database.path)?;
        let timeout = database.common.timeout;
        let readers = std::iter::repeat_with(|| None).take(database.readers).collect();
        Ok(Some(Self {
            writer: Pool::new(vec![Some(database.open_writer()?)], timeout),
            identity: identity(&database.path),
            opened: Instant::now(),
            checked: AtomicU64::new(0),
            readers: Pool::new(readers, timeout),
            _lock: lock,
        }))
    }

    /// Fails if the file was removed or replaced: SQLite would still write to the old one.
    fn check_file(&self, file: &Path) -> Result<(), StoreError> {
        if self.identity.is_none() || identity(file) == self.identity {
            self.checked.store(self.milliseconds(), Ordering::Relaxed);
            return Ok(());
        }
        self.checked.store(NOT_FOUND, Ordering::Relaxed);
        let file = file.display();
        let message = format!(
            "the database `{file}` was removed or replaced; remove `{file}-wal` and `{file}-shm`, \
             which belong to the former one, and reload the plugin"
        );
        Err(StoreError::new(StoreErrorKind::Failed, message))
    }

    /// Checks the file unless that was done a short time ago.
    fn check_file_sometimes(&self, file: &Path) -> Result<(), StoreError> {
        let due = self.checked.load(Ordering::Relaxed).saturating_add(CHECK_INTERVAL_MS);
        if self.milliseconds() < due && due != NOT_FOUND { Ok(()) } else { self.check_file(file) }
    }

    fn milliseconds(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }
}

impl Sqlite {
    /// Opens the database, which is created if it does not exist. If another instance has it open,
    /// such as the build that this one replaces, it is opened when it is needed.
    pub(crate) fn open(
        common: CommonSettings,
        file: &Path,
        readers: usize,
    ) -> Result<Self, StoreError> {
        let path = resolved(file).map_err(|error| cannot_open(file, error_of_io(&error)))?;
        let database = DatabaseFile { path, readers, common };
        let sqlite = Self { database, open: RwLock::default() };
        sqlite.open_if_free()?;
        Ok(sqlite)
    }

    /// Runs a call with the open database, which is opened if it was closed.
    fn with_open<T>(
        &self,
        call: impl FnOnce(&Open) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Held during the call, so that closing waits for it.
        if let Some(open) = &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            return call(open);
        }
        self.open_if_free()?;
        match &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            Some(open) => call(open),
            None => Err(self.in_use()),
        }
    }

    /// Opens the database if it is closed, unless another instance has it open.
    fn open_if_free(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            let opened = Open::new(&self.database);
            *open = opened.map_err(|error| cannot_open(&self.database.path, error))?;
        }
        Ok(())
    }

    #[cold]
    fn in_use(&self) -> StoreError {
        let file = self.database.path.display();
        let message = format!("another instance of this plugin has `{file}` open");
        StoreError::new(StoreErrorKind::Unavailable, message)
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        self.with_open(|open| {
            open.check_file_sometimes(&self.database.path)?;
            open.readers.with(|place| {
                let connection = match place {
                    Some(connection) => connection,
                    None => place.insert(self.database.open_reader()?),
                };
                read(connection).map_err(|error| of_sqlite(&error))
            })
        })
    }

    /// Runs `write` with the connection that writes.
    fn with_writer<T>(
        &self,
        write: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with_open(|open| {
            open.check_file(&self.database.path)?;
            open.writer.with(|place| {
                let connection = match place {
                    Some(connection) => connection,
                    None => place.insert(self.database.open_writer()?),
                };
                write(connection)
            })
        })
    }

    /// Sets a property of the connection that writes.
    #[cfg(test)]
    pub(crate) fn set_writer(&self, pragma: &str, value: u32) {
        let set = |writer: &Connection| {
            writer.pragma_update(None, pragma, value).map_err(|error| of_sqlite(&error))
        };
        self.with_writer(set).expect("the pragma is valid");
    }
}

impl Backend for Sqlite {
    fn load(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.read(|connection| {
            let statement = "SELECT value, revision FROM entries WHERE key = ?1";
            let mut statement = connection.prepare_cached(statement)?;
            let entry = |row: &rusqlite::Row<'_>| {
                Ok(Entry { value: row.get(0)?, revision: row.get::<_, i64>(1)? as u64 })
            };
            statement.query_row([key], entry).optional()
        })
    }

    fn list(&self, range: KeyRange<'_>) -> Result<Vec<Vec<u8>>, StoreError> {
        let KeyRange { from, end, after, max } = range;
        self.read(|connection| {
            let select = "SELECT key FROM entries WHERE key >= ?1 AND key > ?2";
            let statement = match end {
                Some(_) => format!("{select} AND key < ?4 ORDER BY key LIMIT ?3"),
                None => format!("{select} ORDER BY key LIMIT ?3"),
            };
            let mut statement = connection.prepare_cached(&statement)?;
            let key = |row: &rusqlite::Row<'_>| row.get(0);
            match &end {
                Some(end) => statement.query_map(params![from, after, max, end], key)?.collect(),
                None => statement.query_map(params![from, after, max], key)?.collect(),
            }
        })
    }

    /// Makes the changes in one transaction, which is rolled back if one fails.
    fn change(&self, changes: Vec<Change<'_>>) -> Result<Vec<u64>, StoreError> {
        let fail = |error| of_sqlite(&error);
        self.with_writer(|connection| {
            // The connection is used by this thread alone.
            let behavior = TransactionBehavior::Immediate;
            let transaction = Transaction::new_unchecked(connection, behavior).map_err(fail)?;
            let run = |change: &Change<'_>| match change {
                Change::Save { key, value, expected } => {
                    let saved = save(&transaction, key, value, *expected).map_err(fail)?;
                    saved.ok_or_else(conflict)
                }
                Change::Delete { key, expected } => delete(&transaction, key, *expected),
            };
            let revisions = changes.iter().map(run).collect::<Result<_, _>>()?;
            transaction.commit().map_err(fail)?;
            Ok(revisions)
        })
    }

    fn check(&self) -> Result<(), StoreError> {
        let last = "SELECT last FROM revisions";
        self.read(|connection| connection.query_row(last, [], |_| Ok(())))
    }

    /// Closes the database once the calls that run have ended.
    fn close(&self) {
        let open = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(open);
    }
}

/// Returns `None` if the value has another revision.
fn save(
    transaction: &Transaction<'_>,
    key: &[u8],
    value: &[u8],
    expected: Option<u64>,
) -> Result<Option<u64>, rusqlite::Error> {
    let next = "UPDATE revisions SET last = last + 1 RETURNING last";
    let revision: i64 = transaction.prepare_cached(next)?.query_row([], |row| row.get(0))?;
    let changed = match expected {
        None => {
            let save = "INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3) \
                        ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3";
            transaction.prepare_cached(save)?.execute(params![key, value, revision])?
        }
        Some(0) => {
            let save = "INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3) \
                        ON CONFLICT (key) DO NOTHING";
            transaction.prepare_cached(save)?.execute(params![key, value, revision])?
        }
        Some(expected) => {
            let save = "UPDATE entries SET value = ?2, revision = ?3 \
                        WHERE key = ?1 AND revision = ?4";
            let expected = stored_revision(expected);
            transaction.prepare_cached(save)?.execute(params![key, value, revision, expected])?
        }
    };
    Ok((changed == 1).then_some(revision as u64))
}

fn delete(
    transaction: &Transaction<'_>,
    key: &[u8],
    expected: Option<u64>,
) -> Result<u64, StoreError> {
    let found = || {
        let find = "SELECT revision FROM entries WHERE key = ?1";
        let mut find = transaction.prepare_cached(find)?;
        find.query_row([key], |row| row.get::<_, i64>(0)).optional()
    };
    let remove =
        || transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key]);
    if check_removal(found().map_err(|error| of_sqlite(&error))?, expected)? {
        remove().map_err(|error| of_sqlite(&error))?;
    }
    Ok(0)
}

impl DatabaseFile {
    /// Opens the database, creates or migrates its tables, and then sets its modes: a database of
    /// another application stays as it is.
    fn open_writer(&self) -> Result<Connection, StoreError> {
        let create = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut connection = self.connect(create)?;
        migrate(&mut connection)?;
        self.set_modes(&connection)?;
        Ok(connection)
    }

    fn open_reader(&self) -> Result<Connection, StoreError> {
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        self.set_modes(&connection)?;
        Ok(connection)
    }

    fn connect(&self, flags: OpenFlags) -> Result<Connection, StoreError> {
        let fail = |error| of_sqlite(&error);
        // Each connection is used by one thread at a time.
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(fail)?;
        connection.busy_timeout(self.common.timeout).map_err(fail)?;
        Ok(connection)
    }

    fn set_modes(&self, connection: &Connection) -> Result<(), StoreError> {
        let fail = |error| of_sqlite(&error);
        // With it, a database can be read while it is written. Some network file systems do not
        // support it, and the pragma then leaves the mode as it is.
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).map_err(fail)?;
        let synchronous = match self.common.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", synchronous).map_err(fail)
    }
}

/// Maximum number of links that lead to a file, as on Linux.
const MAX_LINKS: usize = 40;

/// Returns the absolute path of a file that may not exist yet, without links.
fn resolved(file: &Path) -> io::Result<PathBuf> {
    let mut file = std::path::absolute(file)?;
    for _ in 0..MAX_LINKS {
        match fs::canonicalize(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            resolved => return resolved,
        }
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return Ok(file) };
        let folder = fs::canonicalize(folder)?;
        let path = folder.join(name);
        // SQLite creates the target of a link that does not exist.
        match fs::read_link(&path) {
            Ok(target) => file = folder.join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links lead to the file"))
}

/// Fails if the file has several names that are not links: each would have its own lock and log.
fn check_names(file: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let names = match fs::metadata(file) {
            Ok(metadata) if metadata.is_file() => metadata.nlink(),
            _ => 1,
        };
        if names > 1 {
            let message = format!("the file has {names} names (hard links), expected one");
            return Err(StoreError::new(StoreErrorKind::Failed, message));
        }
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

#[cold]
fn cannot_open(file: &Path, error: StoreError) -> StoreError {
    StoreError::new(error.kind(), format!("cannot open `{}`: {error}", file.display()))
}

/// Returns the device and number of a file; `None` if it does not exist or the system has none.
fn identity(file: &Path) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(file).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    {
        // An open file cannot be removed.
        let _ = file;
        None
    }
}
