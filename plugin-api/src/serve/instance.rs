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
    Away,
    Shared,
}

/// Why access to the plugin was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// `restore` is running.
    Restoring,
    /// The plugin was already called.
    WasCalled,
    /// A health check or a snapshot is running.
    InUse,
}

impl<T> Instance<T> {
    pub(super) fn new(plugin: T) -> Self {
        Self { shared: OnceLock::new(), stage: Mutex::new(Stage::Fresh(Arc::new(plugin))) }
    }

    /// Returns the plugin for a call; from the first call on, the plugin is shared.
    #[inline]
    pub(super) fn called(&self) -> Result<&T, Refused> {
        match self.shared.get() {
            Some(plugin) => Ok(plugin),
            None => self.first_call(),
        }
    }

    #[cold]
    fn first_call(&self) -> Result<&T, Refused> {
        let mut stage = self.lock();
        match std::mem::replace(&mut *stage, Stage::Shared) {
            Stage::Fresh(plugin) => Ok(self.shared.get_or_init(|| plugin)),
            Stage::Away => {
                *stage = Stage::Away;
                Err(Refused::Restoring)
            }
            Stage::Shared => Ok(self.shared.get().expect("set before the lock was released")),
        }
    }

    /// Returns the plugin for a health check or a snapshot, which do not count as calls.
    pub(super) fn seen(&self) -> Result<Arc<T>, Refused> {
        if let Some(plugin) = self.shared.get() {
            return Ok(Arc::clone(plugin));
        }
        match &*self.lock() {
            Stage::Fresh(plugin) => Ok(Arc::clone(plugin)),
            Stage::Away => Err(Refused::Restoring),
            Stage::Shared => {
                Ok(Arc::clone(self.shared.get().expect("set before the lock was released")))
            }
        }
    }

    /// Runs `restore` with exclusive access, before the first call only. If it unwinds, the plugin
    /// stays unavailable.
    pub(super) fn alone<A>(&self, work: impl FnOnce(&mut T) -> A) -> Result<A, Refused> {
        let mut plugin = self.take()?;
        let answer = match Arc::get_mut(&mut plugin) {
            Some(plugin) => Ok(work(plugin)),
            None => Err(Refused::InUse),
        };
        *self.lock() = Stage::Fresh(plugin);
        answer
    }

    fn take(&self) -> Result<Arc<T>, Refused> {
        let mut stage = self.lock();
        match std::mem::replace(&mut *stage, Stage::Away) {
            Stage::Fresh(plugin) => Ok(plugin),
            Stage::Away => Err(Refused::Restoring),
            Stage::Shared => {
                *stage = Stage::Shared;
                Err(Refused::WasCalled)
            }
        }
    }

    /// Returns the plugin, if no other reference is left.
    pub(super) fn into_inner(self) -> Option<T> {
        let stage = self.stage.into_inner().unwrap_or_else(PoisonError::into_inner);
        let plugin = match stage {
            Stage::Fresh(plugin) => plugin,
            Stage::Away => return None,
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
        assert_eq!(*instance.seen().unwrap(), 1);
        assert_eq!(instance.alone(|plugin| *plugin = 2), Ok(()));
        let looks = instance.seen().unwrap();
        assert_eq!(instance.alone(|_| ()), Err(Refused::InUse));
        drop(looks);
        assert_eq!(instance.called(), Ok(&2));
        assert_eq!(instance.alone(|_| ()), Err(Refused::WasCalled));
        assert_eq!((instance.called(), *instance.seen().unwrap()), (Ok(&2), 2));
        assert_eq!(instance.into_inner(), Some(2));
    }

    #[test]
    fn access_is_rejected_while_a_state_is_restored() {
        let instance = Instance::new(1);
        let inside = instance.alone(|_| (instance.called().err(), instance.seen().err()));
        assert_eq!(inside, Ok((Some(Refused::Restoring), Some(Refused::Restoring))));
        assert_eq!(instance.called(), Ok(&1));
    }
}
