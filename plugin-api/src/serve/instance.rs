//! The plugin's value: exclusively owned until the first call, shared from then on. After that, a
//! call reads it with one atomic load.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The plugin's value and the stage that it is in.
#[derive(Debug)]
pub(super) struct Instance<T> {
    shared: OnceLock<Arc<T>>,
    stage: Mutex<Stage<T>>,
}

#[derive(Debug)]
enum Stage<T> {
    /// Not called yet.
    Fresh(Arc<T>),
    /// `restore` is running.
    Restoring,
    Shared,
}

/// The reason access to the plugin was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccessError {
    /// `restore` is running.
    Restoring,
    /// The plugin was already called.
    AlreadyCalled,
    /// A health check or a snapshot is running.
    InUse,
}

impl AccessError {
    /// Returns the message for the host.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Restoring => "a state is being restored",
            Self::AlreadyCalled => "cannot restore a state after the first call",
            Self::InUse => "cannot restore a state while a health check or a snapshot is running",
        }
    }
}

impl<T> Instance<T> {
    pub(super) fn new(plugin: T) -> Self {
        Self { shared: OnceLock::new(), stage: Mutex::new(Stage::Fresh(Arc::new(plugin))) }
    }

    /// Returns the plugin for a call; from the first call on, the plugin is shared.
    #[inline]
    pub(super) fn for_call(&self) -> Result<&T, AccessError> {
        match self.shared.get() {
            Some(plugin) => Ok(plugin),
            None => self.first_call(),
        }
    }

    #[cold]
    fn first_call(&self) -> Result<&T, AccessError> {
        let mut stage = self.lock();
        match std::mem::replace(&mut *stage, Stage::Shared) {
            Stage::Fresh(plugin) => Ok(self.shared.get_or_init(|| plugin)),
            Stage::Restoring => {
                *stage = Stage::Restoring;
                Err(AccessError::Restoring)
            }
            Stage::Shared => Ok(self.shared.get().expect("set before the lock was released")),
        }
    }

    /// Returns the plugin for a health check or a snapshot, which do not count as calls.
    pub(super) fn get(&self) -> Result<Arc<T>, AccessError> {
        if let Some(plugin) = self.shared.get() {
            return Ok(Arc::clone(plugin));
        }
        match &*self.lock() {
            Stage::Fresh(plugin) => Ok(Arc::clone(plugin)),
            Stage::Restoring => Err(AccessError::Restoring),
            Stage::Shared => {
                Ok(Arc::clone(self.shared.get().expect("set before the lock was released")))
            }
        }
    }

    /// Runs `restore` with exclusive access, before the first call only. If it unwinds, the plugin
    /// stays unavailable.
    pub(super) fn with_exclusive<A>(
        &self,
        body: impl FnOnce(&mut T) -> A,
    ) -> Result<A, AccessError> {
        let mut plugin = self.take_fresh()?;
        let result = match Arc::get_mut(&mut plugin) {
            Some(plugin) => Ok(body(plugin)),
            None => Err(AccessError::InUse),
        };
        *self.lock() = Stage::Fresh(plugin);
        result
    }

    fn take_fresh(&self) -> Result<Arc<T>, AccessError> {
        let mut stage = self.lock();
        match std::mem::replace(&mut *stage, Stage::Restoring) {
            Stage::Fresh(plugin) => Ok(plugin),
            Stage::Restoring => Err(AccessError::Restoring),
            Stage::Shared => {
                *stage = Stage::Shared;
                Err(AccessError::AlreadyCalled)
            }
        }
    }

    /// Returns the plugin, if no other reference is left.
    pub(super) fn into_inner(self) -> Option<T> {
        let stage = self.stage.into_inner().unwrap_or_else(PoisonError::into_inner);
        let plugin = match stage {
            Stage::Fresh(plugin) => plugin,
            Stage::Restoring => return None,
            Stage::Shared => self.shared.into_inner()?,
        };
        Arc::into_inner(plugin)
    }

    fn lock(&self) -> MutexGuard<'_, Stage<T>> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_access_ends_with_the_first_call() {
        let instance = Instance::new(1);
        assert_eq!(*instance.get().unwrap(), 1);
        assert_eq!(instance.with_exclusive(|plugin| *plugin = 2), Ok(()));
        let reference = instance.get().unwrap();
        assert_eq!(instance.with_exclusive(|_| ()), Err(AccessError::InUse));
        drop(reference);
        assert_eq!(instance.for_call(), Ok(&2));
        assert_eq!(instance.with_exclusive(|_| ()), Err(AccessError::AlreadyCalled));
        assert_eq!((instance.for_call(), *instance.get().unwrap()), (Ok(&2), 2));
        assert_eq!(instance.into_inner(), Some(2));
    }

    #[test]
    fn access_is_rejected_while_a_state_is_restored() {
        let instance = Instance::new(1);
        let inside = instance.with_exclusive(|_| (instance.for_call().err(), instance.get().err()));
        assert_eq!(inside, Ok((Some(AccessError::Restoring), Some(AccessError::Restoring))));
        assert_eq!(instance.for_call(), Ok(&1));
    }
}
