//! A lock that admits one instance of the plugin to a database, also within one process (Unix; on other
//! systems, the locks of SQLite do that).

use std::fs::File;
use std::path::Path;

use storage_contract::{StoreError, StoreErrorKind};

use super::error::error_of_io;

/// A lock on `FILE.lock`, which ends when it is dropped. The file stays: another instance may wait to
/// lock it.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    #[cfg_attr(not(unix), allow(dead_code, reason = "only held"))]
    file: File,
    /// The process that locked it: a forked child must not release it.
    #[cfg(unix)]
    process: u32,
}

impl InstanceLock {
    /// Locks the database. Returns `None` if another instance has locked it.
    pub(crate) fn acquire(database: &Path) -> Result<Option<Self>, StoreError> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = Path::new(&path);
        let open = File::options().create(true).truncate(false).write(true).open(path);
        let file = open.map_err(|error| {
            let error = error_of_io(&error);
            StoreError::new(error.kind(), format!("cannot create `{}`: {error}", path.display()))
        })?;
        #[cfg(unix)]
        {
            use rustix::fs::{FlockOperation, flock};
            use rustix::io::Errno;

            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => {
                    let message = format!("cannot lock `{}`: {error}", path.display());
                    return Err(StoreError::new(StoreErrorKind::Unavailable, message));
                }
            }
            Ok(Some(Self { file, process: std::process::id() }))
        }
        #[cfg(not(unix))]
        Ok(Some(Self { file }))
    }
}

#[cfg(unix)]
impl Drop for InstanceLock {
    fn drop(&mut self) {
        // Closing the file is not enough while a child that was just forked still has it.
        if self.process == std::process::id() {
            let _ = rustix::fs::flock(&self.file, rustix::fs::FlockOperation::Unlock);
        }
    }
}
