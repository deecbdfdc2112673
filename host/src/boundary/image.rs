//! A mapped library: open, find, close, and a look whether it is really gone.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hotbay_plugin::text::{Lines, MAX_MESSAGE_BYTES, escaped, start_of};

use super::{Variables, mappings, traces};
use crate::artifact::staged::Staged;
use crate::error::boundary::BoundaryError;
use crate::pool::{Finish, OpeningThread, RunOutcome, WorkerThreads};
use crate::sync::ShardedCounter;

/// A library that is mapped into this process, or code that was always part of it.
pub(crate) struct Image {
    /// None: compiled in. Never dropped by itself: B2.
    library: Option<ManuallyDrop<libloading::Library>>,
    path: PathBuf,
    /// Its file, which debuggers, profilers and backtraces read symbols from: kept as long as it
    /// is mapped.
    file: Option<Staged>,
    /// An address inside the mapping.
    address: usize,
    /// Where it is mapped; empty if the system does not report it.
    segments: Vec<Range<usize>>,
    /// Whether a signal handler was ever found in it.
    held_handler: AtomicBool,
    /// The thread that opened it, if it lives on.
    opener: OnceLock<OpeningThread>,
    outputs: &'static ShardedCounter,
}

/// What became of a library that was to be closed.
#[must_use]
#[derive(Debug)]
pub(crate) enum Close {
    /// It is not mapped any more.
    Unmapped,
    /// The system keeps it mapped, for a while or forever; closed all the same.
    Pinned(Box<Image>),
}

impl Image {
    /// Code that is part of this program.
    pub(crate) fn compiled_in() -> Self {
        Self::new(None, PathBuf::new())
    }

    fn new(library: Option<ManuallyDrop<libloading::Library>>, path: PathBuf) -> Self {
        Self {
            library,
            path,
            file: None,
            address: 0,
            segments: Vec::new(),
            held_handler: AtomicBool::new(false),
            opener: OnceLock::new(),
            outputs: ShardedCounter::lend(),
        }
    }

    /// Maps a private copy, whose name was never opened before, and runs its initialisers. Its
    /// symbols are seen by nobody else. The copy is removed when the library is unmapped.
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

    /// The files below a folder that are mapped as libraries.
    pub(crate) fn mapped_below(folder: &Path) -> Vec<PathBuf> {
        let mut mapped = mappings::mapped_files();
        mapped.retain(|path| path.starts_with(folder));
        mapped
    }

    /// Compares what the loader mapped with what was verified: each dependency is mapped from its
    /// copy, and nothing from the plugin's own folder that was not there `before`.
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

    /// Keeps the thread that opened it until it is closed.
    pub(crate) fn attach(&self, opener: OpeningThread) {
        // `reload::inside` calls this once for each image that it opens.
        let _ = self.opener.set(opener);
    }

    /// The thread that opened it, as long as it takes jobs.
    pub(crate) fn opener(&self) -> Option<&OpeningThread> {
        self.opener.get().filter(|opener| opener.is_open())
    }

    /// Runs `job` on the thread that opened it and waits for it, at most `wait_max`. On a thread of
    /// the crew if there is none.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        crew: &WorkerThreads,
        wait_max: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> RunOutcome<T> {
        match self.opener() {
            Some(opener) => opener.run(wait_max, job),
            None => crew.run(wait_max, job),
        }
    }

    /// Ends the thread that opened it; returns `false` if it does not end within `wait_max`.
    pub(crate) fn end_opener(&self, wait_max: Duration) -> bool {
        self.opener.get().is_none_or(|opener| opener.finish(wait_max) == Finish::Ended)
    }

    /// Bytes of the address space that it takes; zero if the system does not report them.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len() as u64).sum()
    }

    /// The address of an exported symbol.
    pub(crate) fn symbol(&self, name: &CStr) -> Option<*const c_void> {
        let library = self.library.as_ref()?;
        // SAFETY: the symbol is only taken as an address here; who uses it says why it may.
        let symbol = unsafe { library.get::<*const c_void>(name) }.ok()?;
        // SAFETY: the address is used while the image is mapped (B1).
        unsafe { symbol.try_as_raw_ptr() }.map(<*mut c_void>::cast_const)
    }

    /// Counts the outputs that are out.
    #[inline]
    pub(crate) fn outputs(&self) -> &'static ShardedCounter {
        self.outputs
    }

    /// Whether this is a library at all.
    pub(crate) fn is_library(&self) -> bool {
        self.library.is_some()
    }

    /// Whether a signal handler of this process lies in the library, or did at an earlier look: a
    /// later handler of the same signal may still call it.
    pub(crate) fn held_signal_handler(&self) -> bool {
        if self.is_library() && traces::signal_handlers().any(|address| self.contains(address)) {
            self.held_handler.store(true, Ordering::Relaxed);
        }
        self.held_handler.load(Ordering::Relaxed)
    }

    /// Whether a variable of the C library points into it.
    pub(crate) fn variables(&self) -> Variables {
        if !self.is_library() {
            return Variables::Free;
        }
        traces::variables(|address| address != 0 && self.contains(address))
    }

    /// Whether an address lies in the library, which is mapped.
    fn contains(&self, address: usize) -> bool {
        if self.segments.is_empty() {
            return mappings::lies_in(address, &self.path);
        }
        self.segments.iter().any(|segment| segment.contains(&address))
    }

    /// Whether the system still has it, after a close that it did not follow. It follows one
    /// later, when what pinned the library has gone, so this closes it once more.
    pub(crate) fn is_still_mapped(&self) -> bool {
        self.is_mapped() && {
            mappings::close_again(&self.path);
            self.is_mapped()
        }
    }

    /// Whether the system still has it, after a close.
    fn is_mapped(&self) -> bool {
        mappings::lies_in(self.address, &self.path)
    }

    /// Unmaps the library. Nothing points into it any more (B1, B2, B6).
    pub(crate) fn close(mut self) -> Close {
        let Some(library) = self.library.take() else {
            ShardedCounter::give_back(self.outputs);
            return Close::Unmapped;
        };
        // An error to close is a library that stays; the look below tells.
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

/// The loader's own words; some hide behind a general message.
fn loader_message(error: &libloading::Error) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    // It repeats names that stand in the library.
    escaped(start_of(&message, MAX_MESSAGE_BYTES), Lines::One).into_owned()
}

#[cfg(unix)]
#[allow(clippy::disallowed_methods, reason = "this is the one place that opens libraries")]
fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // Now, so that a missing symbol is an error here and not an abort at a call.
    // SAFETY: B7.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

#[cfg(not(unix))]
#[allow(clippy::disallowed_methods, reason = "this is the one place that opens libraries")]
fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: B7.
    unsafe { libloading::Library::new(path) }
}
