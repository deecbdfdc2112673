//! The plugins of a host, one entry per name. A name is reserved while its plugin is loaded or
//! unloaded, so no plugin is loaded twice, and no required plugin is unloaded. The lock is held for
//! lookups only.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hotbay_manifest::{Manifest, StartCandidate, start_order};

use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::HostEvent;
use crate::generation::{ProcessTable, State};
use crate::handle::PluginHandle;
use crate::id::{GenerationId, PluginName};
use crate::loader::{Build, Candidate, Dependent, LoadOptions, Loaded, PluginSettings};
use crate::metrics::{PluginInfo, PluginState, PluginStats};
use crate::providers::{Changes, Offers};
use crate::slot::Slot;
use crate::sync::{ProcessEpoch, lock};

#[derive(Debug)]
pub(super) struct Registry {
    entries: RwLock<Entries>,
    pub(super) changes: Changes,
    pub(super) shutdown: ShutdownLatch,
    process: ProcessEpoch,
}

#[derive(Debug, Default)]
struct Entries {
    by_name: BTreeMap<PluginName, Entry>,
    is_closed: bool,
    /// The number of loads.
    loads: u64,
}

#[derive(Debug)]
struct Entry {
    manifest: Arc<Manifest>,
    /// The manifest of the build that a reload is starting.
    next: Option<Arc<Manifest>>,
    folder: Option<PathBuf>,
    options: Arc<LoadOptions>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Loading,
    Serving { handle: PluginHandle, slot: Arc<Slot>, build: Box<Build>, offers: Offers, order: u64 },
    Unloading,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self {
            entries: RwLock::default(),
            changes: Changes::default(),
            shutdown: ShutdownLatch::default(),
            process: ProcessEpoch::now(),
        }
    }

    /// Fails in a forked child, before it could wait for a lock.
    fn check_process(&self) -> Result<(), Error> {
        if self.process.is_current() { Ok(()) } else { Err(Error::forked()) }
    }

    /// Reserves the name of a plugin that is about to be loaded.
    pub(super) fn reserve(&self, candidate: &Candidate) -> Result<Reservation<'_>, Error> {
        let manifest = &candidate.manifest;
        let mut entries = self.write();
        if entries.is_closed {
            return Err(shutting_down());
        }
        if let Some(there) = entries.by_name.get(manifest.name()) {
            return Err(duplicate(candidate, there));
        }
        check_requirements(candidate, &entries)?;
        let entry = Entry {
            manifest: Arc::new(manifest.clone()),
            next: None,
            folder: candidate.folder.clone(),
            options: Arc::clone(&candidate.options),
            stage: Stage::Loading,
        };
        entries.by_name.insert(manifest.name().clone(), entry);
        Ok(Reservation { registry: self, name: manifest.name().clone() })
    }

    /// Fails once the host was shut down.
    #[cfg(feature = "config-file")]
    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.read().is_closed { Err(shutting_down()) } else { Ok(()) }
    }

    /// Returns whether a plugin is loading or serves from the folder of a candidate with its name.
    pub(super) fn is_present(&self, candidate: &Candidate) -> bool {
        let entries = self.read();
        let there = entries.by_name.get(candidate.manifest.name());
        there.is_some_and(|there| {
            there.folder == candidate.folder && !matches!(there.stage, Stage::Unloading)
        })
    }

    pub(super) fn find(&self, name: &str) -> Result<PluginHandle, Error> {
        self.check_process()?;
        let entries = self.read();
        if let Some(Entry { stage: Stage::Serving { handle, .. }, .. }) = entries.by_name.get(name)
        {
            return Ok(handle.clone());
        }
        Err(not_serving(name, &entries))
    }

    /// Returns the plugin that serves under a name.
    pub(super) fn serving_plugin(&self, name: &PluginName) -> Result<ServingPlugin, Error> {
        let entries = self.read();
        match entries.by_name.get(name.as_str()) {
            Some(Entry { stage: Stage::Serving { slot, build, .. }, folder, options, .. }) => {
                Ok(ServingPlugin {
                    slot: Arc::clone(slot),
                    build: (**build).clone(),
                    folder: folder.clone(),
                    options: Arc::clone(options),
                })
            }
            _ => Err(not_serving(name.as_str(), &entries)),
        }
    }

    /// Starts the reload of the plugin in `slot` as `next`. Until the result is dropped, the plugins
    /// that `next` requires are not unloaded, and no plugin is loaded that does not accept its version.
    pub(super) fn begin_reload(
        &self,
        next: &Candidate,
        slot: &Arc<Slot>,
    ) -> Result<Reloading<'_>, Error> {
        let name = next.manifest.name();
        let mut entries = self.write();
        check_requirements(next, &entries)?;
        let dependents = entries.dependents(name.as_str()).collect();
        let Some(entry) = entries.by_name.get_mut(name.as_str()).filter(|it| it.is_of(slot)) else {
            return Err(slot.unloaded_error());
        };
        let next = Arc::new(next.manifest.clone());
        entry.next = Some(Arc::clone(&next));
        Ok(Reloading { registry: self, next, dependents })
    }

    /// Records the new build of a plugin. Returns its generation, or `None` if the plugin was unloaded
    /// meanwhile.
    pub(super) fn replace(
        &self,
        name: &PluginName,
        of: &Arc<Slot>,
        new: Build,
    ) -> Option<GenerationId> {
        let mut entries = self.write();
        let entry = entries.by_name.get_mut(name.as_str())?;
        let Stage::Serving { slot, build, offers, .. } = &mut entry.stage else { return None };
        if !Arc::ptr_eq(slot, of) {
            return None;
        }
        entry.manifest = Arc::clone(&new.manifest);
        entry.next = None;
        *offers = offers_of(&new);
        **build = new;
        slot.generation().map(|generation| generation.id)
    }

    /// Frees the name of a plugin that no longer serves, unless it is being unloaded.
    pub(super) fn remove(&self, name: &PluginName, of: &Arc<Slot>) {
        let mut entries = self.write();
        if entries.by_name.get(name.as_str()).is_some_and(|entry| entry.is_of(of)) {
            entries.by_name.remove(name.as_str());
        }
    }

    /// Starts the unload of a plugin. Its name is free when the result is dropped.
    pub(super) fn begin_unload(
        &self,
        name: &str,
        scope: UnloadScope,
    ) -> Result<Unloading<'_>, Error> {
        let mut entries = self.write();
        let Some(Entry { stage: Stage::Serving { slot, .. }, folder, .. }) =
            entries.by_name.get(name)
        else {
            return Err(not_serving(name, &entries));
        };
        if scope == UnloadScope::CompiledIn && folder.is_some() {
            let message = "cannot be unregistered: it was loaded from a folder";
            let error = Error::new(ErrorKind::Unsupported, message).of(&slot.name);
            return Err(error.with_hint("use `Host::unload`"));
        }
        let slot = Arc::clone(slot);
        let mut dependents: Vec<_> =
            entries.dependents(name).map(|dependent| format!("`{}`", dependent.name)).collect();
        dependents.dedup();
        if !dependents.is_empty() {
            let message =
                format!("cannot be unloaded: it is required by {}", dependents.join(", "));
            let error = Error::new(ErrorKind::Requires, message).of(&slot.name);
            return Err(error.with_hint("unload its dependents first"));
        }
        if let Some(entry) = entries.by_name.get_mut(name) {
            entry.stage = Stage::Unloading;
        }
        Ok(Unloading { registry: self, slot })
    }

    /// Closes the registry. Returns its plugins in levels, such that each requires only plugins of
    /// later levels, or `None` if it was closed already. Plugins whose requirements are not met, or
    /// form a cycle, are the first levels, one by one in the reverse order of their loads.
    pub(super) fn close(&self) -> Option<Vec<Vec<Arc<Slot>>>> {
        let mut entries = self.write();
        if std::mem::replace(&mut entries.is_closed, true) {
            return None;
        }
        let serving: Vec<_> = std::mem::take(&mut entries.by_name)
            .into_values()
            .filter_map(|entry| match entry.stage {
                Stage::Serving { slot, order, .. } => Some((entry.manifest, slot, order)),
                Stage::Loading | Stage::Unloading => None,
            })
            .collect();
        drop(entries);
        let manifests: Vec<_> =
            serving.iter().map(|(manifest, ..)| StartCandidate::from(&**manifest)).collect();
        let order = start_order(&manifests);
        let slots = |level: Vec<usize>| {
            level.into_iter().map(|index| Arc::clone(&serving[index].1)).collect()
        };
        // No other plugin requires one of these.
        let mut refused: Vec<_> = order.refused.into_iter().map(|(index, _)| index).collect();
        refused.sort_by_key(|&index| Reverse(serving[index].2));
        let refused = refused.into_iter().map(|index| vec![index]);
        Some(refused.chain(order.levels.into_iter().rev()).map(slots).collect())
    }

    pub(super) fn list(&self) -> Vec<PluginInfo> {
        let serving = |entry: &Entry| match &entry.stage {
            Stage::Serving { slot, .. } => Some((entry.info()?, Arc::clone(slot))),
            Stage::Loading | Stage::Unloading => None,
        };
        let found: Vec<_> =
            self.with_open(|entries| entries.by_name.values().filter_map(serving).collect());
        let table = ProcessTable::default();
        let measured = found.into_iter().map(|(mut info, slot)| {
            // Without the lock, since it reads files.
            info.process_usage = slot.process_usage(&table);
            info
        });
        measured.collect()
    }

    /// Returns the snapshot of a plugin that serves.
    pub(super) fn info(&self, name: &PluginName) -> Option<PluginInfo> {
        self.read().by_name.get(name.as_str()).and_then(Entry::info)
    }

    pub(super) fn names(&self) -> Vec<PluginName> {
        self.with_open(|entries| entries.by_name.keys().cloned().collect())
    }

    /// Returns the plugins that serve, and how each was loaded.
    pub(super) fn serving(&self) -> Vec<Loadable> {
        let entries = self.read();
        let serving = entries.by_name.values();
        let serving = serving.filter(|entry| matches!(entry.stage, Stage::Serving { .. }));
        let loadable = |entry: &Entry| Loadable {
            manifest: Arc::clone(&entry.manifest),
            folder: entry.folder.clone(),
            options: Arc::clone(&entry.options),
            settings: match &entry.stage {
                Stage::Serving { build, .. } => Arc::clone(&build.settings),
                _ => Arc::default(),
            },
        };
        serving.map(loadable).collect()
    }

    /// Returns the results of `visit` for the serving plugins, sorted by name.
    pub(super) fn with_entries<T>(
        &self,
        mut visit: impl FnMut(&Manifest, Option<&Path>, &Offers, &PluginHandle) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.check_process()?;
        let entries = self.read();
        if entries.is_closed {
            return Err(shutting_down());
        }
        let found = entries.by_name.values().filter_map(|entry| match &entry.stage {
            Stage::Serving { handle, offers, .. } => {
                visit(&entry.manifest, entry.folder.as_deref(), offers, handle)
            }
            Stage::Loading | Stage::Unloading => None,
        });
        Ok(found.collect())
    }

    /// Returns the result of `read`, or the default in a forked child.
    fn with_open<T: Default>(&self, read: impl FnOnce(&Entries) -> T) -> T {
        if self.process.is_current() { read(&self.read()) } else { T::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        let entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        self.changes.increment();
        entries
    }
}

impl Entries {
    /// Returns the requirements of a plugin by others, sorted by name.
    fn dependents(&self, name: &str) -> impl Iterator<Item = Dependent> {
        let manifests = self.by_name.values().flat_map(|it| [Some(&it.manifest), it.next.as_ref()]);
        manifests.flatten().filter_map(move |manifest| {
            let required = manifest.requires().get(name)?.clone();
            Some(Dependent { name: manifest.name().clone(), required })
        })
    }
}

impl Entry {
    /// Returns whether the plugin serves in `of`.
    fn is_of(&self, of: &Arc<Slot>) -> bool {
        match &self.stage {
            Stage::Serving { slot, .. } => Arc::ptr_eq(slot, of),
            Stage::Loading | Stage::Unloading => false,
        }
    }

    fn info(&self) -> Option<PluginInfo> {
        let Stage::Serving { slot, build, order, .. } = &self.stage else { return None };
        Some(snapshot(slot, build, &self.manifest, self.folder.as_ref(), *order))
    }
}

/// The plugins that an unload accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnloadScope {
    Any,
    /// Plugins of this program only.
    CompiledIn,
}

/// A plugin that serves.
#[derive(Debug)]
pub(super) struct ServingPlugin {
    pub(super) slot: Arc<Slot>,
    pub(super) build: Build,
    pub(super) folder: Option<PathBuf>,
    pub(super) options: Arc<LoadOptions>,
}

/// A plugin that serves, and how it was loaded.
#[derive(Debug)]
pub(super) struct Loadable {
    pub(super) manifest: Arc<Manifest>,
    pub(super) folder: Option<PathBuf>,
    pub(super) options: Arc<LoadOptions>,
    /// The settings that its build was started with.
    #[cfg_attr(not(feature = "config-file"), allow(dead_code, reason = "only a file changes"))]
    pub(super) settings: Arc<PluginSettings>,
}

/// The reserved name of a plugin that is being loaded; freed on drop unless it was filled.
#[derive(Debug)]
pub(super) struct Reservation<'t> {
    registry: &'t Registry,
    name: PluginName,
}

impl Reservation<'_> {
    /// Enters the loaded plugin. Returns the event to emit, or the slot if the registry was closed
    /// meanwhile.
    pub(super) fn fill(self, handle: PluginHandle, loaded: Loaded) -> Result<HostEvent, Arc<Slot>> {
        let Loaded { slot, build } = loaded;
        let Some(generation) = slot.generation() else {
            return Err(slot);
        };
        let mut entries = self.registry.write();
        entries.loads += 1;
        let order = entries.loads;
        let Some(entry) = entries.by_name.get_mut(self.name.as_str()) else {
            return Err(slot);
        };
        let offers = offers_of(&build);
        let build = Box::new(build);
        entry.stage = Stage::Serving { handle, slot, build, offers, order };
        Ok(HostEvent::Loaded {
            plugin: self.name.clone(),
            version: generation.version.clone(),
            generation: generation.id,
        })
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut entries = self.registry.write();
        let entry = entries.by_name.get(self.name.as_str());
        if entry.is_some_and(|entry| matches!(entry.stage, Stage::Loading)) {
            entries.by_name.remove(self.name.as_str());
        }
    }
}

/// A plugin that is being reloaded.
#[derive(Debug)]
pub(super) struct Reloading<'t> {
    registry: &'t Registry,
    next: Arc<Manifest>,
    /// The requirements of the plugin by others.
    pub(super) dependents: Vec<Dependent>,
}

impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        let mut entries = self.registry.write();
        if let Some(entry) = entries.by_name.get_mut(self.next.name().as_str()) {
            entry.next.take_if(|next| Arc::ptr_eq(next, &self.next));
        }
    }
}

/// A plugin that is being unloaded; its name is free when this is dropped.
#[derive(Debug)]
pub(super) struct Unloading<'t> {
    registry: &'t Registry,
    slot: Arc<Slot>,
}

impl Unloading<'_> {
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for Unloading<'_> {
    fn drop(&mut self) {
        self.registry.write().by_name.remove(self.slot.name.as_str());
    }
}

/// Returns the contracts that a build offers, in its manifest and in its own declaration.
fn offers_of(build: &Build) -> Offers {
    Offers::declared(&build.manifest).and(build.offers.iter().cloned())
}

fn check_requirements(candidate: &Candidate, entries: &Entries) -> Result<(), Error> {
    for (name, required) in candidate.manifest.requires() {
        let found = entries.by_name.get(name.as_str());
        let found = found.filter(|entry| matches!(entry.stage, Stage::Serving { .. }));
        let problem = match found {
            None => format!("it requires `{name}` {required}, which is not loaded"),
            Some(entry) if !required.matches(entry.manifest.version()) => {
                let found = entry.manifest.version();
                format!("it requires `{name}` {required}, but {found} is loaded")
            }
            Some(Entry { next: Some(next), .. }) if !required.matches(next.version()) => {
                let found = next.version();
                format!("it requires `{name}` {required}, but {found} is being loaded")
            }
            Some(_) => continue,
        };
        let failed = candidate.failed(LoadStep::Requires, ErrorKind::Requires);
        return Err(failed.caused_by(problem));
    }
    Ok(())
}

fn duplicate(candidate: &Candidate, loaded: &Entry) -> Error {
    let duplicate =
        |message| Error::new(ErrorKind::Duplicate, message).of(candidate.manifest.name());
    let message = match (&candidate.folder, &loaded.folder) {
        (None, None) => return duplicate("is already registered".to_owned()),
        (Some(new), Some(old)) if new == old => {
            return duplicate(format!("is already loaded from `{}`", old.display()));
        }
        (Some(new), Some(old)) => format!(
            "is already loaded from `{}`; another one was found in `{}`",
            old.display(),
            new.display()
        ),
        (Some(folder), None) => format!(
            "is already compiled into the program; another one was found in `{}`",
            folder.display()
        ),
        (None, Some(folder)) => format!("is already loaded from `{}`", folder.display()),
    };
    duplicate(message).with_hint("change the `name` of one of them")
}

/// Returns the snapshot of the plugin in `slot`, which was loaded as number `epoch` of its host.
fn snapshot(
    slot: &Slot,
    build: &Build,
    manifest: &Arc<Manifest>,
    folder: Option<&PathBuf>,
    epoch: u64,
) -> PluginInfo {
    let generation = slot.generation();
    let state = match generation.as_ref().map(|generation| generation.state()) {
        Some(State::Serving | State::Draining) if slot.health.is_quarantined() => {
            PluginState::Quarantined
        }
        Some(State::Serving) => PluginState::Serving,
        Some(State::Draining) => PluginState::Draining,
        None if slot.is_paused() => PluginState::Paused,
        Some(State::Retired | State::Closed | State::Kept(_)) | None => PluginState::Retired,
    };
    PluginInfo {
        name: slot.name.clone(),
        version: manifest.version().clone(),
        generation: generation.map(|generation| generation.id),
        state,
        folder: folder.cloned(),
        manifest: Arc::clone(manifest),
        input_schema: slot.input_schema(),
        pid: slot.pid(),
        process_usage: None,
        notes: build.notes.clone(),
        confinement: build.confinement.clone(),
        signature: build.signature.status(),
        stats: stats(slot, epoch),
    }
}

fn stats(slot: &Slot, epoch: u64) -> PluginStats {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &slot.counters;
    PluginStats {
        epoch,
        calls: slot.calls(),
        errors: count(&counters.errors),
        faults: count(&counters.faults),
        exits: count(&counters.exits),
        restarts: count(&counters.restarts),
        refused: count(&counters.refused),
        shed: count(&counters.shed),
        abandoned: count(&counters.abandoned),
        log_lines_dropped: count(&counters.log_lines_dropped),
        cache_hits: count(&counters.cache.hits),
        cache_misses: count(&counters.cache.misses),
        cache_bytes: count(&counters.cache.bytes),
        waiting: slot.queued() as u64,
        running: slot.running().0 as u64,
        live_bytes: slot.live_bytes(),
        latencies: counters.latencies.snapshot(),
    }
}

/// Returns the error for a plugin that does not serve: it is being loaded or unloaded, or unknown,
/// or the host was shut down.
fn not_serving(name: &str, entries: &Entries) -> Error {
    if entries.is_closed {
        return shutting_down();
    }
    let Some(entry) = entries.by_name.get(name) else { return not_found(name, entries) };
    let message = match entry.stage {
        Stage::Unloading => "is being unloaded",
        // Includes a plugin that started to serve after the caller's check.
        Stage::Loading | Stage::Serving { .. } => "is still being loaded",
    };
    Error::new(ErrorKind::NotFound, message).of(entry.manifest.name())
}

fn not_found(name: &str, entries: &Entries) -> Error {
    let names = entries.by_name.keys().map(PluginName::as_str);
    let hint = nearest(name, names, "loaded plugins");
    let hint = hint.unwrap_or_else(|| "load it with `Host::load` or `Host::load_all`".to_owned());
    let error = match PluginName::new(name) {
        Ok(name) => Error::new(ErrorKind::NotFound, "not found").of(&name),
        Err(_) => Error::new(ErrorKind::NotFound, format!("plugin `{name}` not found")),
    };
    error.with_hint(hint)
}

/// Returns a hint for a name that is not among `known`: the nearest one, or the first ones after
/// `label`. `None` if `known` is empty.
pub(super) fn nearest<'n>(
    name: &str,
    known: impl Iterator<Item = &'n str> + Clone,
    label: &str,
) -> Option<String> {
    if let Some(near) = hotbay_manifest::nearest(name, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let names: Vec<_> = known.take(8).collect();
    (!names.is_empty()).then(|| format!("{label}: `{}`", names.join("`, `")))
}

pub(super) fn shutting_down() -> Error {
    Error::new(ErrorKind::Shutdown, "the host was shut down")
}

/// A latch that opens once.
#[derive(Debug, Default)]
pub(super) struct ShutdownLatch {
    is_open: Mutex<bool>,
    opened: Condvar,
}

/// Opens a latch on drop.
#[derive(Debug)]
pub(super) struct OpenOnDrop<'g>(&'g ShutdownLatch);

impl Drop for OpenOnDrop<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_open) = true;
        self.0.opened.notify_all();
    }
}

impl ShutdownLatch {
    /// Returns a guard that opens the latch on drop.
    pub(super) fn open_on_drop(&self) -> OpenOnDrop<'_> {
        OpenOnDrop(self)
    }

    pub(super) fn wait(&self) {
        let is_open = lock(&self.is_open);
        drop(self.opened.wait_while(is_open, |is_open| !*is_open));
    }
}
