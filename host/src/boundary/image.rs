//! A mapped library: opens it, finds symbols, closes it, and checks that it was unmapped.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hotbay_plugin::contract::internal::RawContract;
use hotbay_plugin::text::{Lines, MAX_MESSAGE_BYTES, escaped, start_of};

use super::{Contracts, Variables, mappings, traces};
use crate::artifact::stage::Staged;
use crate::error::boundary::BoundaryError;
use crate::sync::ShardedCounter;
use crate::worker::{Finish, OpeningThread, RunOutcome, WorkerThreads};

/// A library that is mapped into this process, or compiled-in code.
pub(crate) struct Image {
    /// `None` if compiled in. Never dropped automatically: B2.
    library: Option<ManuallyDrop<libloading::Library>>,
    path: PathBuf,
    /// Its file, from which debuggers, profilers and backtraces read symbols; kept while it is
    /// mapped.
    file: Option<Staged>,
    /// An address inside the mapping.
    address: usize,
    /// Its mapped address ranges; empty if the system does not report them.
    segments: Vec<Range<usize>>,
    /// Whether a signal handler was ever found in it.
    held_handler: AtomicBool,
    /// The thread that opened it.
    opening_thread: OnceLock<OpeningThread>,
    /// What `contract.rs` found in it.
    contracts: OnceLock<Contracts>,
    outputs: &'static ShardedCounter,
}

/// The result of closing a library.
#[must_use]
#[derive(Debug)]
pub(crate) enum Close {
    /// It is no longer mapped.
    Unmapped,
    /// The system keeps it mapped, for a while or forever; the handle is closed.
    Pinned(Box<Image>),
}

impl Image {
    /// Returns the image of compiled-in code, which serves these contracts.
    pub(crate) fn compiled_in(contracts: Contracts) -> Self {
        Self { contracts: contracts.into(), ..Self::new(None, PathBuf::new()) }
    }

    fn new(library: Option<ManuallyDrop<libloading::Library>>, path: PathBuf) -> Self {
        Self {
            library,
            path,
            file: None,
            address: 0,
            segments: Vec::new(),
            held_handler: AtomicBool::new(false),
            opening_thread: OnceLock::new(),
            contracts: OnceLock::new(),
            outputs: ShardedCounter::lend(),
        }
    }

    /// Maps a private copy, whose name was never opened before, and runs its initializers. Its
    /// symbols are not visible to other libraries. The copy is removed when the library is
    /// unmapped.
    pub(crate) fn open(file: Staged) -> Result<Self, BoundaryError> {
        let path = file.path();
        let library = open(path).map_err(|error| BoundaryError::Open(loader_message(&error)))?;
        let mut image = Self::new(Some(ManuallyDrop::new(library)), path.to_owned());
        let stamp = std::ffi::CString::new(hotbay_plugin::stamp::SYMBOL).unwrap_or_default();
        image.address = image.symbol(&stamp).map_or(0, |address| address.addr());
        image.segments = mappings::segments(path);
        image.file = Some(file);
        Ok(image)
    }

    /// Returns the files below a folder that are mapped as libraries.
    pub(crate) fn mapped_below(folder: &Path) -> Vec<PathBuf> {
        let mut mapped = mappings::mapped_files();
        mapped.retain(|path| path.starts_with(folder));
        mapped
    }

    /// Compares the mapped files with the verified ones: each dependency is mapped from its copy,
    /// and nothing from the plugin's own folder that was not mapped `before`.
    pub(crate) fn check_linked(&self, before: &[PathBuf]) -> Result<(), BoundaryError> {
        let Some(file) = self.file.as_ref().filter(|file| !file.copies().is_empty()) else {
            return Ok(());
        };
        let mapped = mappings::mapped_files();
        for copy in file.copies() {
            if mapped.contains(copy) {
                continue;
            }
            let is_namesake = |other: &&PathBuf| other.file_name() == copy.file_name();
            let other = mapped.iter().find(is_namesake);
            let other = other.map_or("nothing".to_owned(), |it| format!("`{}`", it.display()));
            let verified = copy.display().to_string();
            return Err(BoundaryError::Mixed { mapped: other, verified });
        }
        let Some(origin) = file.origin() else { return Ok(()) };
        let is_new = |path: &&PathBuf| path.starts_with(origin) && !before.contains(path);
        match mapped.iter().find(is_new) {
            None => Ok(()),
            Some(original) => Err(BoundaryError::Mixed {
                mapped: format!("`{}`", original.display()),
                verified: file.path().display().to_string(),
            }),
        }
    }

    /// Reads the contracts of the library: compares their tables with the text that it exports.
    pub(crate) fn read_contracts(
        &self,
        tables: &'static [RawContract],
    ) -> Result<(), BoundaryError> {
        // SAFETY: B7 (the probe found a NUL after the start of the text in the file), B1.
        let text = self
            .symbol(c"HOTBAY_PLUGIN_CONTRACTS")
            .map(|text| unsafe { CStr::from_ptr(text.cast()) }.to_bytes());
        let contracts = Contracts::of_library(tables, text)?;
        // `library_loader` calls this once for each image that it opens.
        let _ = self.contracts.set(contracts);
        Ok(())
    }

    /// Returns the contracts of the code.
    pub(crate) fn contracts(&self) -> Option<&Contracts> {
        self.contracts.get()
    }

    /// Keeps the thread that opened it until the library is closed.
    pub(crate) fn attach(&self, opening_thread: OpeningThread) {
        // `library_loader` calls this once for each image that it opens.
        let _ = self.opening_thread.set(opening_thread);
    }

    /// Returns the thread that opened it while it accepts jobs.
    pub(crate) fn opening_thread(&self) -> Option<&OpeningThread> {
        self.opening_thread.get().filter(|opening_thread| opening_thread.is_open())
    }

    /// Runs `job` on the thread that opened it, or on a worker thread if there is none. Waits for
    /// it at most `timeout`.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        workers: &WorkerThreads,
        timeout: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> RunOutcome<T> {
        match self.opening_thread() {
            Some(opening_thread) => opening_thread.run(timeout, job),
            None => workers.run(timeout, job),
        }
    }

    /// Stops the thread that opened it; returns `false` if it does not exit within `timeout`.
    pub(crate) fn stop_opening_thread(&self, timeout: Duration) -> bool {
        self.opening_thread
            .get()
            .is_none_or(|opening_thread| opening_thread.finish(timeout) == Finish::Ended)
    }

    /// Returns its bytes of address space; zero if the system does not report them.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len() as u64).sum()
    }

    /// Returns the address of an exported symbol.
    pub(crate) fn symbol(&self, name: &CStr) -> Option<*const c_void> {
        let library = self.library.as_ref()?;
        // SAFETY: only the address of the symbol is taken; each use states why it is valid.
        let symbol = unsafe { library.get::<*const c_void>(name) }.ok()?;
        // SAFETY: the address is used while the image is mapped (B1).
        unsafe { symbol.try_as_raw_ptr() }.map(<*mut c_void>::cast_const)
    }

    /// Returns the counter of live outputs.
    #[inline]
    pub(crate) fn outputs(&self) -> &'static ShardedCounter {
        self.outputs
    }

    /// Returns whether this is a library, not compiled-in code.
    pub(crate) fn is_library(&self) -> bool {
        self.library.is_some()
    }

    /// Returns whether a signal handler of this process is in the library, or was at an earlier
    /// check: a later handler of the same signal may still call it.
    pub(crate) fn held_signal_handler(&self) -> bool {
        if self.is_library() && traces::signal_handlers().any(|address| self.contains(address)) {
            self.held_handler.store(true, Ordering::Relaxed);
        }
        self.held_handler.load(Ordering::Relaxed)
    }

    /// Returns whether a variable of the C library points into it.
    pub(crate) fn variables(&self) -> Variables {
        if !self.is_library() {
            return Variables::Free;
        }
        traces::variables(|address| address != 0 && self.contains(address))
    }

    /// Returns whether an address is in the library, which is mapped.
    fn contains(&self, address: usize) -> bool {
        if self.segments.is_empty() {
            return mappings::lies_in(address, &self.path);
        }
        self.segments.iter().any(|segment| segment.contains(&address))
    }

    /// Returns whether it is still mapped after a close. Closes it once more, in case the reason
    /// why the system kept it mapped is gone.
    pub(crate) fn is_still_mapped(&self) -> bool {
        self.is_mapped() && {
            mappings::close_again(&self.path);
            self.is_mapped()
        }
    }

    /// Returns whether it is still mapped after a close.
    fn is_mapped(&self) -> bool {
        mappings::lies_in(self.address, &self.path)
    }

    /// Unmaps the library. Nothing points into it anymore (B1, B2, B6).
    pub(crate) fn close(mut self) -> Close {
        let Some(library) = self.library.take() else {
            ShardedCounter::give_back(self.outputs);
            return Close::Unmapped;
        };
        // After an error, the library stays mapped, which the check below finds.
        let _ = ManuallyDrop::into_inner(library).close();
        if self.is_mapped() {
            return Close::Pinned(Box::new(self));
        }
        ShardedCounter::give_back(self.outputs);
        Close::Unmapped
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Returns the loader's message with its causes.
fn loader_message(error: &libloading::Error) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    // It repeats names from the library.
    escaped(start_of(&message, MAX_MESSAGE_BYTES), Lines::One).into_owned()
}

#[cfg(unix)]
#[allow(clippy::disallowed_methods, reason = "this is the one place that opens libraries")]
fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // `RTLD_NOW`, so that a missing symbol is an error here and not an abort at a call.
    // SAFETY: B7.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

#[cfg(not(unix))]
#[allow(clippy::disallowed_methods, reason = "this is the one place that opens libraries")]
fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: B7.
    unsafe { libloading::Library::new(path) }
}
