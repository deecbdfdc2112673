//! The database: one connection that writes, and several that read meanwhile.
//!
//! POSIX locks belong to a process, and end when any of its descriptors of the file is closed. So two
//! copies of SQLite in one process, such as those of two builds of this plugin, damage a database that
//! both have open. A lock of another kind therefore admits one instance of the plugin at a time, and an
//! instance closes the database before its state is handed over.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::{fs, io};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, params,
};
use storage_contract::{
    Change, Entry, MAX_BATCH, MAX_KEY_BYTES, MAX_PAGE, MAX_VALUE_BYTES, Page, StoreError,
    StoreErrorKind,
};

use crate::config::Settings;
use crate::error::{error_of_io, of_sqlite};
use crate::lock::InstanceLock;
use crate::pool::Pool;
use crate::schema::migrate;

/// A database, which is closed while the state of the plugin is handed over.
#[derive(Debug)]
pub(crate) struct Database {
    /// Its path is absolute and without links, so that all names of a database have one lock.
    settings: Settings,
    open: RwLock<Option<Open>>,
}

/// An open database.
#[derive(Debug)]
struct Open {
    /// The file as it was opened: its device and number, if the system has them.
    file: Option<(u64, u64)>,
    /// One connection: callers wait for each other here, instead of polling SQLite's lock.
    writer: Pool,
    readers: Pool,
    /// Released last.
    _lock: InstanceLock,
}

impl Open {
    /// Returns `None` if another instance has the database open.
    fn new(settings: &Settings) -> Result<Option<Self>, StoreError> {
        let Some(lock) = InstanceLock::acquire(&settings.file)? else { return Ok(None) };
        check_names(&settings.file)?;
        let writer = Pool::new(1, settings.timeout());
        writer.with(|| open_writer(settings), |_| Ok(()))?;
        Ok(Some(Self {
            file: identity(&settings.file),
            writer,
            readers: Pool::new(settings.readers, settings.timeout()),
            _lock: lock,
        }))
    }

    /// Fails if the file was removed or replaced: SQLite would still write to the old one.
    fn check_file(&self, file: &Path) -> Result<(), StoreError> {
        if self.file.is_none() || identity(file) == self.file {
            return Ok(());
        }
        let file = file.display();
        let message = format!(
            "the database `{file}` was removed or replaced; remove `{file}-wal` and `{file}-shm`, \
             which belong to the former one, and reload the plugin"
        );
        Err(StoreError::new(StoreErrorKind::Failed, message))
    }
}

impl Database {
    /// Opens the database, which is created if it does not exist. If another instance has it open,
    /// such as the build that this one replaces, it is opened when it is needed.
    pub(crate) fn open(settings: &Settings) -> Result<Self, StoreError> {
        let mut settings = settings.clone();
        settings.file = resolved(&settings.file)
            .map_err(|error| cannot_open(&settings.file, error_of_io(&error)))?;
        let database = Self { settings, open: RwLock::default() };
        database.open_if_free()?;
        Ok(database)
    }

    /// Closes the database until the next call, once the calls that run have ended.
    pub(crate) fn close(&self) {
        let open = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(open);
    }

    /// Runs a call with the open database, which is opened if it was closed.
    fn with_open<T>(
        &self,
        call: impl FnOnce(&Open) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut call = Some(call);
        let mut run = |open: &Open| {
            open.check_file(&self.settings.file)?;
            call.take().map_or_else(|| Err(self.in_use()), |call| call(open))
        };
        // Held during the call, so that closing waits for it.
        if let Some(open) = &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            return run(open);
        }
        self.open_if_free()?;
        match &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            Some(open) => run(open),
            None => Err(self.in_use()),
        }
    }

    /// Opens the database if it is closed, unless another instance has it open.
    fn open_if_free(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            let opened = Open::new(&self.settings);
            *open = opened.map_err(|error| cannot_open(&self.settings.file, error))?;
        }
        Ok(())
    }

    #[cold]
    fn in_use(&self) -> StoreError {
        let file = self.settings.file.display();
        let message = format!("another instance of this plugin has `{file}` open");
        StoreError::new(StoreErrorKind::Unavailable, message)
    }

    /// Checks that the database answers.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let last = "SELECT last FROM revisions";
        self.read(|connection| connection.query_row(last, [], |_| Ok(())))
    }

    pub(crate) fn load(&self, key: &[u8]) -> Result<Entry, StoreError> {
        check_key(key)?;
        let found = self.read(|connection| {
            let statement = "SELECT value, revision FROM entries WHERE key = ?1";
            let mut statement = connection.prepare_cached(statement)?;
            let entry = |row: &rusqlite::Row<'_>| {
                Ok(Entry { value: row.get(0)?, revision: row.get::<_, i64>(1)? as u64 })
            };
            statement.query_row([key], entry).optional()
        })?;
        found.ok_or_else(not_found)
    }

    pub(crate) fn list(&self, prefix: &[u8], after: &[u8], limit: u32) -> Result<Page, StoreError> {
        if !(1..=MAX_PAGE).contains(&limit) {
            let message = format!("the limit is {limit}; expected 1 to {MAX_PAGE}");
            return Err(StoreError::new(StoreErrorKind::InvalidInput, message));
        }
        let end = end_of_prefix(prefix);
        let mut keys: Vec<Vec<u8>> = self.read(|connection| {
            let from = "SELECT key FROM entries WHERE key >= ?1 AND key > ?2";
            let statement = match end {
                Some(_) => format!("{from} AND key < ?4 ORDER BY key LIMIT ?3"),
                None => format!("{from} ORDER BY key LIMIT ?3"),
            };
            let mut statement = connection.prepare_cached(&statement)?;
            let key = |row: &rusqlite::Row<'_>| row.get(0);
            match &end {
                Some(end) => {
                    statement.query_map(params![prefix, after, limit + 1, end], key)?.collect()
                }
                None => statement.query_map(params![prefix, after, limit + 1], key)?.collect(),
            }
        })?;
        let has_more = keys.len() > limit as usize;
        keys.truncate(limit as usize);
        Ok(Page { keys, has_more })
    }

    pub(crate) fn batch(&self, changes: &[Change]) -> Result<Vec<u64>, StoreError> {
        if changes.len() > MAX_BATCH {
            let message = format!("{} changes; expected at most {MAX_BATCH}", changes.len());
            return Err(StoreError::new(StoreErrorKind::InvalidInput, message));
        }
        self.write(|transaction| {
            let run = |change: &Change| match change {
                Change::Save { key, value, expected } => transaction.save(key, value, *expected),
                Change::Delete { key, expected } => transaction.delete(key, *expected).map(|()| 0),
            };
            changes.iter().map(run).collect()
        })
    }

    /// Runs changes in one transaction, which is rolled back if they fail.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&Changing<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let fail = |error| of_sqlite(&error);
        self.with_open(|open| {
            let reopen = || open_writer(&self.settings);
            open.writer.with(reopen, |connection| {
                // The connection is used by this thread alone.
                let behavior = TransactionBehavior::Immediate;
                let transaction = Transaction::new_unchecked(connection, behavior);
                let changing = Changing(transaction.map_err(fail)?);
                let changed = change(&changing)?;
                changing.0.commit().map_err(fail)?;
                Ok(changed)
            })
        })
    }

    /// Limits the size of the file, as a full disk does.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        let set = |open: &Open| {
            open.writer.with(
                || open_writer(&self.settings),
                |writer| {
                    writer.pragma_update(None, "max_page_count", pages).map_err(|e| of_sqlite(&e))
                },
            )
        };
        self.with_open(set).expect("the pragma is valid");
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        let connect = || {
            let connection = connect(&self.settings, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            set_modes(&connection, &self.settings)?;
            Ok(connection)
        };
        self.with_open(|open| {
            open.readers
                .with(connect, |connection| read(connection).map_err(|error| of_sqlite(&error)))
        })
    }
}

/// A transaction that changes values.
pub(crate) struct Changing<'c>(Transaction<'c>);

impl Changing<'_> {
    /// Stores a value, and returns its revision.
    pub(crate) fn save(
        &self,
        key: &[u8],
        value: &[u8],
        expected: Option<u64>,
    ) -> Result<u64, StoreError> {
        check_key(key)?;
        if value.len() > MAX_VALUE_BYTES {
            let message =
                format!("a value of {} bytes; expected up to {MAX_VALUE_BYTES}", value.len());
            return Err(StoreError::new(StoreErrorKind::InvalidInput, message));
        }
        self.try_save(key, value, expected).map_err(|error| of_sqlite(&error))?.ok_or_else(conflict)
    }

    fn try_save(
        &self,
        key: &[u8],
        value: &[u8],
        expected: Option<u64>,
    ) -> Result<Option<u64>, rusqlite::Error> {
        let next = "UPDATE revisions SET last = last + 1 RETURNING last";
        let revision: i64 = self.0.prepare_cached(next)?.query_row([], |row| row.get(0))?;
        let insert = "INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3)";
        let changed = match expected {
            None => {
                let save =
                    format!("{insert} ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3");
                self.0.prepare_cached(&save)?.execute(params![key, value, revision])?
            }
            Some(0) => {
                let save = format!("{insert} ON CONFLICT (key) DO NOTHING");
                self.0.prepare_cached(&save)?.execute(params![key, value, revision])?
            }
            Some(expected) => {
                let save = "UPDATE entries SET value = ?2, revision = ?3 \
                            WHERE key = ?1 AND revision = ?4";
                let expected = i64::try_from(expected).unwrap_or(i64::MAX);
                self.0.prepare_cached(save)?.execute(params![key, value, revision, expected])?
            }
        };
        Ok((changed == 1).then_some(revision as u64))
    }

    /// Removes a value.
    pub(crate) fn delete(&self, key: &[u8], expected: Option<u64>) -> Result<(), StoreError> {
        check_key(key)?;
        let found = self.try_delete(key, expected).map_err(|error| of_sqlite(&error))?;
        match found {
            Deleted::Yes => Ok(()),
            Deleted::NotFound => Err(not_found()),
            Deleted::Conflict => Err(conflict()),
        }
    }

    fn try_delete(&self, key: &[u8], expected: Option<u64>) -> Result<Deleted, rusqlite::Error> {
        let find = "SELECT revision FROM entries WHERE key = ?1";
        let mut find = self.0.prepare_cached(find)?;
        let found = find.query_row([key], |row| row.get::<_, i64>(0)).optional()?;
        match (found, expected) {
            (None, None | Some(1..)) => return Ok(Deleted::NotFound),
            // It was expected not to exist.
            (None, Some(0)) => return Ok(Deleted::Yes),
            (Some(found), Some(expected)) if found as u64 != expected => {
                return Ok(Deleted::Conflict);
            }
            _ => {}
        }
        self.0.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?;
        Ok(Deleted::Yes)
    }
}

enum Deleted {
    Yes,
    NotFound,
    Conflict,
}

/// Opens the database, creates or migrates its tables, and then sets its modes: a database of another
/// application stays as it is.
fn open_writer(settings: &Settings) -> Result<Connection, StoreError> {
    let create = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut connection = connect(settings, create)?;
    migrate(&mut connection)?;
    set_modes(&connection, settings)?;
    Ok(connection)
}

fn connect(settings: &Settings, flags: OpenFlags) -> Result<Connection, StoreError> {
    let fail = |error| of_sqlite(&error);
    // Each connection is used by one thread at a time.
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&settings.file, flags).map_err(fail)?;
    connection.busy_timeout(settings.timeout()).map_err(fail)?;
    Ok(connection)
}

fn set_modes(connection: &Connection, settings: &Settings) -> Result<(), StoreError> {
    let fail = |error| of_sqlite(&error);
    // With it, a database can be read while it is written. Some network file systems do not support it,
    // and the pragma then leaves the mode as it is.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).map_err(fail)?;
    let synchronous = settings.synchronous.as_str();
    connection.pragma_update(None, "synchronous", synchronous).map_err(fail)
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

/// Returns the first key after all keys with a prefix; `None` if there is none.
fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) {
        return Ok(());
    }
    let message = format!("a key of {} bytes; expected 1 to {MAX_KEY_BYTES}", key.len());
    Err(StoreError::new(StoreErrorKind::InvalidInput, message))
}

fn not_found() -> StoreError {
    StoreError::new(StoreErrorKind::NotFound, "no value has this key")
}

fn conflict() -> StoreError {
    StoreError::new(StoreErrorKind::Conflict, "the value has another revision than expected")
}
