//! Counts live threads, and threads that hold a value of a thread key whose destructor is in this
//! library, by interposing on the C library.
//!
//! `export_plugin!` defines hidden functions of the same names in the plugin's library, so that
//! calls of the library, including those of std, arrive here first. This code runs while threads
//! start and exit, so it must not block or use a thread-local with a destructor.
//!
//! A thread has ended when the system no longer knows its id. Its function returns earlier, before
//! the destructors of its thread-locals run.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::{mem, ptr};

use super::symbols::{find_library_range, real};

/// `thrd_error` of C11.
const THRD_ERROR: c_int = 2;

/// Start function of a POSIX thread.
pub type StartFn = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
/// Start function of a C11 thread.
pub type StartC11Fn = unsafe extern "C" fn(*mut c_void) -> c_int;
/// The destructor of a thread key.
pub type KeyDestructor = unsafe extern "C" fn(*mut c_void);

thread_local! {
    static IS_PLUGIN_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Number of requested threads that have not registered their id yet.
static STARTING: AtomicU32 = AtomicU32::new(0);
/// Number of threads requested so far. Only grows, so that a count detects concurrent starts.
static REQUESTED: AtomicU64 = AtomicU64::new(0);
static THREADS: ThreadIds = ThreadIds::new();
static COUNTS: AtomicBool = AtomicBool::new(false);

static KEY_THREADS: ThreadIds = ThreadIds::new();
/// Thread keys of this library, plus one. Zero marks a free slot, the highest bit a key that was
/// released.
static KEYS: [AtomicU32; MAX_KEYS] = [const { AtomicU32::new(0) }; MAX_KEYS];

const MAX_THREAD_IDS: usize = 1024;
const MAX_KEYS: usize = 64;
const RELEASED: u32 = 1 << 31;

/// A set of thread ids; ids of dead threads are replaced.
struct ThreadIds {
    ids: [AtomicI32; MAX_THREAD_IDS],
    /// Number of ids that did not fit. If it is not zero, the library is never unmapped.
    overflowed: AtomicU32,
}

impl ThreadIds {
    const fn new() -> Self {
        Self { ids: [const { AtomicI32::new(0) }; MAX_THREAD_IDS], overflowed: AtomicU32::new(0) }
    }

    fn add(&self, id: c_int) {
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
    fn count_alive(&self, except: c_int) -> u32 {
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

fn current_thread_id() -> c_int {
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
    find_library_range();
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

/// Returns the number of other threads that hold a value of a key. The host calls this on the
/// thread that opened the library, which is still needed.
pub(super) fn key_threads() -> u32 {
    KEY_THREADS.count_alive(current_thread_id())
}

/// Interposes on `pthread_key_create`.
///
/// # Safety
///
/// The contract of `pthread_key_create`.
pub unsafe extern "C" fn pthread_key_create(
    key: *mut c_uint,
    destructor: Option<KeyDestructor>,
) -> c_int {
    type Real = unsafe extern "C" fn(*mut c_uint, Option<KeyDestructor>) -> c_int;
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let Some(real) = real(&REAL, c"pthread_key_create") else {
        return libc::EAGAIN;
    };
    // SAFETY: L1.
    let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
    // SAFETY: the caller's contract.
    let result = unsafe { real(key, destructor) };
    if result == 0 && destructor.is_some() {
        // SAFETY: the call succeeded, so the key was written.
        track_key(unsafe { *key });
    }
    result
}

fn track_key(key: c_uint) {
    let was_tracked = KEYS
        .iter()
        .any(|slot| slot.compare_exchange(0, key + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok());
    if !was_tracked {
        // The key cannot be released later, so the library must stay mapped.
        KEY_THREADS.overflowed.fetch_add(1, Ordering::Release);
    }
}

/// Interposes on `pthread_key_delete`.
///
/// # Safety
///
/// The contract of `pthread_key_delete`.
pub unsafe extern "C" fn pthread_key_delete(key: c_uint) -> c_int {
    if !forget_key(key) {
        return 0;
    }
    // SAFETY: the caller's contract.
    unsafe { delete_key(key) }
}

/// Stops tracking a key. Returns `false` if it was already released: its number may now be the key
/// of another library.
fn forget_key(key: c_uint) -> bool {
    for slot in &KEYS {
        let found = slot.load(Ordering::Acquire);
        if found == (key + 1) | RELEASED {
            return false;
        }
        if found == key + 1 {
            slot.store(0, Ordering::Release);
        }
    }
    true
}

/// Interposes on `tss_create`. In glibc, C11 keys are POSIX keys.
///
/// # Safety
///
/// The contract of `tss_create`.
pub unsafe extern "C" fn tss_create(key: *mut c_uint, destructor: Option<KeyDestructor>) -> c_int {
    // SAFETY: the caller's contract.
    let result = unsafe { pthread_key_create(key, destructor) };
    if result == 0 { 0 } else { THRD_ERROR }
}

/// Interposes on `tss_delete`.
///
/// # Safety
///
/// The contract of `tss_delete`.
pub unsafe extern "C" fn tss_delete(key: c_uint) {
    // SAFETY: the caller's contract.
    unsafe { pthread_key_delete(key) };
}

/// Interposes on `tss_set`.
///
/// # Safety
///
/// The contract of `tss_set`.
pub unsafe extern "C" fn tss_set(key: c_uint, value: *const c_void) -> c_int {
    // SAFETY: the caller's contract.
    let result = unsafe { pthread_setspecific(key, value) };
    if result == 0 { 0 } else { THRD_ERROR }
}

unsafe fn delete_key(key: c_uint) -> c_int {
    type Real = unsafe extern "C" fn(c_uint) -> c_int;
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let Some(real) = real(&REAL, c"pthread_key_delete") else {
        return libc::EINVAL;
    };
    // SAFETY: L1.
    let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
    // SAFETY: the caller's contract.
    unsafe { real(key) }
}

/// Interposes on `pthread_setspecific`.
///
/// # Safety
///
/// The contract of `pthread_setspecific`.
pub unsafe extern "C" fn pthread_setspecific(key: c_uint, value: *const c_void) -> c_int {
    type Real = unsafe extern "C" fn(c_uint, *const c_void) -> c_int;
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let Some(real) = real(&REAL, c"pthread_setspecific") else {
        return libc::ENOMEM;
    };
    if !value.is_null() && KEYS.iter().any(|slot| slot.load(Ordering::Acquire) == key + 1) {
        // Counted before the value is set, so that no value is ever uncounted.
        KEY_THREADS.add(current_thread_id());
    }
    // SAFETY: L1.
    let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
    // SAFETY: the caller's contract.
    unsafe { real(key, value) }
}

/// Deletes all tracked keys.
pub(super) fn release_keys() {
    for slot in &KEYS {
        let key = slot.load(Ordering::Acquire);
        let is_held = key != 0 && key & RELEASED == 0;
        let released = key | RELEASED;
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        if is_held && slot.compare_exchange(key, released, success, failure).is_ok() {
            // SAFETY: a key of this library, which only this exchange released.
            unsafe { delete_key(key - 1) };
        }
    }
}

/// Returns the interposer in this file of the function with the given name.
pub(super) fn interposer_of(name: &[u8]) -> Option<*mut c_void> {
    let found = match name {
        b"pthread_create" => pthread_create as *const (),
        b"thrd_create" => thrd_create as *const (),
        b"pthread_key_create" => pthread_key_create as *const (),
        b"pthread_key_delete" => pthread_key_delete as *const (),
        b"pthread_setspecific" => pthread_setspecific as *const (),
        b"tss_create" => tss_create as *const (),
        b"tss_delete" => tss_delete as *const (),
        b"tss_set" => tss_set as *const (),
        _ => return None,
    };
    Some(found.cast_mut().cast())
}
