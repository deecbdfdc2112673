//! A lock that admits one instance of the plugin to a database, also within one process.

use std::fs::File;
use std::path::Path;

use storage_contract::{StoreError, StoreErrorKind};

/// A lock on `FILE.lock`, which ends when it is dropped. The file stays: another instance may wait to
/// lock it.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    _file: File,
}

impl InstanceLock {
    /// Locks the database. Returns `None` if another instance has locked it.
    pub(crate) fn acquire(database: &Path) -> Result<Option<Self>, StoreError> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = Path::new(&path);
        let fail = |message| StoreError::new(StoreErrorKind::Unavailable, message);
        let open = File::options().create(true).truncate(false).write(true).open(path);
        let file =
            open.map_err(|error| fail(format!("cannot create `{}`: {error}", path.display())))?;
        #[cfg(unix)]
        {
            use rustix::fs::{FlockOperation, flock};
            use rustix::io::Errno;

            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => {
                    return Err(fail(format!("cannot lock `{}`: {error}", path.display())));
                }
            }
        }
        Ok(Some(Self { _file: file }))
    }
}
