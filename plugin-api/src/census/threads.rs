//! Counts live threads by interposing on the C library.
//!
//! `export_plugin!` defines hidden functions of the same names in the plugin's library, so that
//! calls of the library, including those of std, arrive here first. This code runs while threads
//! start and exit, so it must not block or use a thread-local with a destructor.
//!
//! A thread has ended when the system no longer knows its id. Its function returns earlier, before
//! the destructors of its thread-locals run.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::{mem, ptr};

use super::interpose;
use super::symbols::real;

/// `thrd_error` of C11.
pub(super) const THRD_ERROR: c_int = 2;

/// Start function of a POSIX thread.
pub type StartFn = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
/// Start function of a C11 thread.
pub type StartC11Fn = unsafe extern "C" fn(*mut c_void) -> c_int;

thread_local! {
    static IS_PLUGIN_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Number of requested threads that have not registered their id yet.
static STARTING: AtomicU32 = AtomicU32::new(0);
/// Number of threads requested so far. Only grows, so that a count detects concurrent starts.
static REQUESTED: AtomicU64 = AtomicU64::new(0);
static THREADS: ThreadIds = ThreadIds::new();
static COUNTS: AtomicBool = AtomicBool::new(false);

const MAX_THREAD_IDS: usize = 1024;

/// A set of thread ids; ids of dead threads are replaced.
pub(super) struct ThreadIds {
    ids: [AtomicI32; MAX_THREAD_IDS],
    /// Number of ids that did not fit. If it is not zero, the library is never unmapped.
    pub(super) overflowed: AtomicU32,
}

impl ThreadIds {
    pub(super) const fn new() -> Self {
        Self { ids: [const { AtomicI32::new(0) }; MAX_THREAD_IDS], overflowed: AtomicU32::new(0) }
    }

    pub(super) fn add(&self, id: c_int) {
        let start = id.unsigned_abs() as usize;
        let slots = || (0..MAX_THREAD_IDS).map(|step| &self.ids[(start + step) % MAX_THREAD_IDS]);
        for slot in slots() {
            let found = slot.load(Ordering::Relaxed);
            if found == id {
                return;
            }
            if found == 0 && replace(slot, 0, id) {
                return;
            }
        }
        for slot in slots() {
            let found = slot.load(Ordering::Relaxed);
            if !is_alive(found) && replace(slot, found, id) {
                return;
            }
        }
        self.overflowed.fetch_add(1, Ordering::Release);
    }

    /// Returns the number of live threads, without `except`.
    pub(super) fn count_alive(&self, except: c_int) -> u32 {
        let ids = self.ids.iter().map(|slot| slot.load(Ordering::Acquire));
        let alive = ids.filter(|id| *id != 0 && *id != except && is_alive(*id)).count();
        self.overflowed
            .load(Ordering::Acquire)
            .saturating_add(u32::try_from(alive).unwrap_or(u32::MAX))
    }
}

fn replace(slot: &AtomicI32, found: c_int, id: c_int) -> bool {
    slot.compare_exchange(found, id, Ordering::Release, Ordering::Relaxed).is_ok()
}

fn is_alive(id: c_int) -> bool {
    // SAFETY: takes no arguments and returns the process id.
    let process = unsafe { libc::getpid() };
    // SAFETY: signal 0 only checks whether the thread exists.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, id, 0) };
    result == 0
}

pub(super) fn current_thread_id() -> c_int {
    // SAFETY: takes no arguments and returns the thread id.
    unsafe { libc::syscall(libc::SYS_gettid) as c_int }
}

pub(super) fn live_threads() -> u32 {
    let before = REQUESTED.load(Ordering::SeqCst);
    let found = STARTING.load(Ordering::SeqCst).saturating_add(THREADS.count_alive(0));
    // A thread that starts another one and exits while the ids are read may hide both.
    let overtaken = REQUESTED.load(Ordering::SeqCst) != before;
    if overtaken { found.max(1) } else { found }
}

pub(super) fn is_counting() -> bool {
    COUNTS.load(Ordering::Relaxed)
}

pub(super) fn on_plugin_thread() -> bool {
    IS_PLUGIN_THREAD.get()
}

/// Records that the interposers are linked into this library.
pub fn enable_counting() {
    COUNTS.store(true, Ordering::Relaxed);
    interpose::find_library_range();
}

/// Start function and argument of a plugin's thread.
struct ThreadStart<F> {
    function: F,
    argument: *mut c_void,
}

/// Interposes on `pthread_create`.
///
/// # Safety
///
/// The contract of `pthread_create`.
pub unsafe extern "C" fn pthread_create(
    thread: *mut c_void,
    attributes: *const c_void,
    function: StartFn,
    argument: *mut c_void,
) -> c_int {
    type Real = unsafe extern "C" fn(*mut c_void, *const c_void, StartFn, *mut c_void) -> c_int;
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let Some(real) = real(&REAL, c"pthread_create") else {
        return libc::EAGAIN;
    };
    // SAFETY: L1 (the C library's function of this name has this type).
    let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
    create_counted(ThreadStart { function, argument }, |start| {
        // SAFETY: the caller's contract; `start` is owned by the new thread from here on.
        unsafe { real(thread, attributes, thread_main, start) }
    })
}

/// Interposes on `thrd_create`.
///
/// # Safety
///
/// The contract of `thrd_create`.
pub unsafe extern "C" fn thrd_create(
    thread: *mut c_void,
    function: StartC11Fn,
    argument: *mut c_void,
) -> c_int {
    type Real = unsafe extern "C" fn(*mut c_void, StartC11Fn, *mut c_void) -> c_int;
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let Some(real) = real(&REAL, c"thrd_create") else {
        return THRD_ERROR;
    };
    // SAFETY: L1.
    let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
    create_counted(ThreadStart { function, argument }, |start| {
        // SAFETY: the caller's contract; `start` is owned by the new thread from here on.
        unsafe { real(thread, thread_main_c11, start) }
    })
}

/// Counts the thread that `create` starts. `create` returns zero on success.
fn create_counted<F>(start: ThreadStart<F>, create: impl FnOnce(*mut c_void) -> c_int) -> c_int {
    let start = Box::into_raw(Box::new(start));
    // In this order: `live_threads` reads `REQUESTED` first and checks it again at the end.
    STARTING.fetch_add(1, Ordering::SeqCst);
    REQUESTED.fetch_add(1, Ordering::SeqCst);
    let result = create(start.cast());
    if result != 0 {
        STARTING.fetch_sub(1, Ordering::SeqCst);
        // SAFETY: no thread was started, so this function still owns the box.
        drop(unsafe { Box::from_raw(start) });
    }
    result
}

/// Registers the current thread and returns its start function and argument.
///
/// # Safety
///
/// `start` was made by [`create_counted`] with this `F`, and given to this thread alone.
unsafe fn register_thread<F>(start: *mut c_void) -> ThreadStart<F> {
    // SAFETY: this function's contract.
    let start = *unsafe { Box::from_raw(start.cast::<ThreadStart<F>>()) };
    THREADS.add(current_thread_id());
    STARTING.fetch_sub(1, Ordering::SeqCst);
    IS_PLUGIN_THREAD.set(true);
    start
}

unsafe extern "C" fn thread_main(start: *mut c_void) -> *mut c_void {
    // SAFETY: made by `pthread_create` above and given to this thread alone.
    let start = unsafe { register_thread::<StartFn>(start) };
    // SAFETY: the function and argument that the caller of `pthread_create` gave.
    unsafe { (start.function)(start.argument) }
}

unsafe extern "C" fn thread_main_c11(start: *mut c_void) -> c_int {
    // SAFETY: made by `thrd_create` above and given to this thread alone.
    let start = unsafe { register_thread::<StartC11Fn>(start) };
    // SAFETY: the function and argument that the caller of `thrd_create` gave.
    unsafe { (start.function)(start.argument) }
}

/// Returns the interposer in this file of the function with the given name.
pub(super) fn interposer_of(name: &[u8]) -> Option<*mut c_void> {
    let found = match name {
        b"pthread_create" => pthread_create as *const (),
        b"thrd_create" => thrd_create as *const (),
        _ => return None,
    };
    Some(found.cast_mut().cast())
}
