//! Live threads and thread keys, seen by standing in front of the C library.
//!
//! `export_plugin!` defines hidden functions of the same names in the plugin's library, so that
//! the library's own calls, std's among them, come here first. Nothing here allocates, blocks
//! or touches a thread-local that has a destructor: it runs while threads start and end.
//!
//! A thread has ended when the system no longer knows its id, not when its function returned:
//! destructors of thread-locals run in between.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::{mem, ptr};

use super::in_front;
pub use super::in_front::*;

/// `thrd_error` of C11.
const THRD_ERROR: c_int = 2;

/// The function that a thread starts in.
pub type StartFn = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
/// The function that a thread of C11 starts in.
pub type StartC11Fn = unsafe extern "C" fn(*mut c_void) -> c_int;
/// The destructor of a thread key.
pub type KeyDestructor = unsafe extern "C" fn(*mut c_void);

thread_local! {
    static STARTED_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Threads that were asked for and have not told their id yet.
static STARTING: AtomicU32 = AtomicU32::new(0);
/// Threads that were ever asked for; only grows, so that a count sees whether it was overtaken.
static ASKED_FOR: AtomicU64 = AtomicU64::new(0);
static THREADS: Ids = Ids::new();
static KEY_THREADS: Ids = Ids::new();
/// The thread keys of this library, plus one; zero is free. With the highest bit: given back.
static KEYS: [AtomicU32; KEYS_MAX] = [const { AtomicU32::new(0) }; KEYS_MAX];
static COUNTS: AtomicBool = AtomicBool::new(false);

const KEYS_MAX: usize = 64;
const GIVEN_BACK: u32 = 1 << 31;
const IDS_MAX: usize = 1024;

/// Ids of threads, of which the dead ones make room for new ones.
struct Ids {
    ids: [AtomicI32; IDS_MAX],
    /// Threads for which there was no room; once there is one, the library is never unmapped.
    lost: AtomicU32,
}

impl Ids {
    const fn new() -> Self {
        Self { ids: [const { AtomicI32::new(0) }; IDS_MAX], lost: AtomicU32::new(0) }
    }

    fn add(&self, id: c_int) {
        let start = id.unsigned_abs() as usize;
        let slots = || (0..IDS_MAX).map(|step| &self.ids[(start + step) % IDS_MAX]);
        for slot in slots() {
            let found = slot.load(Ordering::Relaxed);
            if found == id {
                return;
            }
            if found == 0 && take(slot, 0, id) {
                return;
            }
        }
        for slot in slots() {
            let found = slot.load(Ordering::Relaxed);
            if !is_alive(found) && take(slot, found, id) {
                return;
            }
        }
        self.lost.fetch_add(1, Ordering::Release);
    }

    /// How many of them are alive, besides `except`.
    fn alive(&self, except: c_int) -> u32 {
        let ids = self.ids.iter().map(|slot| slot.load(Ordering::Acquire));
        let alive = ids.filter(|id| *id != 0 && *id != except && is_alive(*id)).count();
        self.lost.load(Ordering::Acquire).saturating_add(u32::try_from(alive).unwrap_or(u32::MAX))
    }
}

fn take(slot: &AtomicI32, found: c_int, id: c_int) -> bool {
    slot.compare_exchange(found, id, Ordering::Release, Ordering::Relaxed).is_ok()
}

fn is_alive(id: c_int) -> bool {
    // SAFETY: asks for the process's id; no arguments.
    let process = unsafe { libc::getpid() };
    // SAFETY: signal 0 only asks whether the thread exists.
    let answer = unsafe { libc::syscall(libc::SYS_tgkill, process, id, 0) };
    answer == 0
}

fn own_id() -> c_int {
    // SAFETY: asks for the thread's id; no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as c_int }
}

pub(super) fn live_threads() -> u32 {
    let before = ASKED_FOR.load(Ordering::SeqCst);
    let found = STARTING.load(Ordering::SeqCst).saturating_add(THREADS.alive(0));
    // A thread that starts another and ends while the ids are read may hide both.
    let overtaken = ASKED_FOR.load(Ordering::SeqCst) != before;
    if overtaken { found.max(1) } else { found }
}

/// Threads that hold a value of a key, besides the one that counts: the host counts on the thread
/// that opened the library while that one is to live on.
pub(super) fn key_threads() -> u32 {
    KEY_THREADS.alive(own_id())
}

pub(super) fn counts() -> bool {
    COUNTS.load(Ordering::Relaxed)
}

pub(super) fn on_plugin_thread() -> bool {
    STARTED_HERE.get()
}

/// Says that the functions of this file stand in front of the C library's.
pub fn stand_in_front() {
    COUNTS.store(true, Ordering::Relaxed);
    in_front::find_range();
}

/// What a thread of the plugin starts with. `F` is the type of its function.
struct Start<F> {
    function: F,
    argument: *mut c_void,
}

/// Stands in front of `pthread_create`.
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
    counted(Start { function, argument }, |start| {
        // SAFETY: the caller's contract; `start` is owned by the new thread from here on.
        unsafe { real(thread, attributes, started, start) }
    })
}

/// Stands in front of `thrd_create`.
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
    counted(Start { function, argument }, |start| {
        // SAFETY: the caller's contract; `start` is owned by the new thread from here on.
        unsafe { real(thread, started_c11, start) }
    })
}

/// Counts a thread that `create` starts; it answers with zero if it did.
fn counted<F>(start: Start<F>, create: impl FnOnce(*mut c_void) -> c_int) -> c_int {
    let start = Box::into_raw(Box::new(start));
    // In this order: whoever reads the second before the first was there sees it grow later.
    STARTING.fetch_add(1, Ordering::SeqCst);
    ASKED_FOR.fetch_add(1, Ordering::SeqCst);
    let answer = create(start.cast());
    if answer != 0 {
        STARTING.fetch_sub(1, Ordering::SeqCst);
        // SAFETY: no thread was started, so the box is still ours.
        drop(unsafe { Box::from_raw(start) });
    }
    answer
}

/// What a counted thread begins with.
///
/// # Safety
///
/// `start` was made by [`counted`] with this `F`, and given to this thread alone.
unsafe fn begin<F>(start: *mut c_void) -> Start<F> {
    // SAFETY: this function's contract.
    let start = *unsafe { Box::from_raw(start.cast::<Start<F>>()) };
    THREADS.add(own_id());
    STARTING.fetch_sub(1, Ordering::SeqCst);
    STARTED_HERE.set(true);
    start
}

unsafe extern "C" fn started(start: *mut c_void) -> *mut c_void {
    // SAFETY: made by `pthread_create` above and given to this thread alone.
    let start = unsafe { begin::<StartFn>(start) };
    // SAFETY: the function and argument that the caller of `pthread_create` gave.
    unsafe { (start.function)(start.argument) }
}

unsafe extern "C" fn started_c11(start: *mut c_void) -> c_int {
    // SAFETY: made by `thrd_create` above and given to this thread alone.
    let start = unsafe { begin::<StartC11Fn>(start) };
    // SAFETY: the function and argument that the caller of `thrd_create` gave.
    unsafe { (start.function)(start.argument) }
}

/// Stands in front of `pthread_key_create`.
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
    let answer = unsafe { real(key, destructor) };
    if answer == 0 && destructor.is_some() {
        // SAFETY: the call succeeded, so the key was written.
        remember_key(unsafe { *key });
    }
    answer
}

fn remember_key(key: c_uint) {
    let free = KEYS
        .iter()
        .any(|slot| slot.compare_exchange(0, key + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok());
    if !free {
        // No destructor of this key could be called back: the library has to stay.
        KEY_THREADS.lost.fetch_add(1, Ordering::Release);
    }
}

/// Stands in front of `pthread_key_delete`.
///
/// # Safety
///
/// The contract of `pthread_key_delete`.
pub unsafe extern "C" fn pthread_key_delete(key: c_uint) -> c_int {
    if !is_left(key) {
        return 0;
    }
    // SAFETY: the caller's contract.
    unsafe { delete(key) }
}

/// Forgets a key that is deleted. No if it was given back already: its number may be the key of
/// another library by now.
fn is_left(key: c_uint) -> bool {
    for slot in &KEYS {
        let found = slot.load(Ordering::Acquire);
        if found == (key + 1) | GIVEN_BACK {
            return false;
        }
        if found == key + 1 {
            slot.store(0, Ordering::Release);
        }
    }
    true
}

/// Stands in front of `tss_create`. C11's keys are those of POSIX under another name.
///
/// # Safety
///
/// The contract of `tss_create`.
pub unsafe extern "C" fn tss_create(key: *mut c_uint, destructor: Option<KeyDestructor>) -> c_int {
    // SAFETY: the caller's contract.
    let answer = unsafe { pthread_key_create(key, destructor) };
    if answer == 0 { 0 } else { THRD_ERROR }
}

/// Stands in front of `tss_delete`.
///
/// # Safety
///
/// The contract of `tss_delete`.
pub unsafe extern "C" fn tss_delete(key: c_uint) {
    // SAFETY: the caller's contract.
    unsafe { pthread_key_delete(key) };
}

/// Stands in front of `tss_set`.
///
/// # Safety
///
/// The contract of `tss_set`.
pub unsafe extern "C" fn tss_set(key: c_uint, value: *const c_void) -> c_int {
    // SAFETY: the caller's contract.
    let answer = unsafe { pthread_setspecific(key, value) };
    if answer == 0 { 0 } else { THRD_ERROR }
}

unsafe fn delete(key: c_uint) -> c_int {
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

/// Stands in front of `pthread_setspecific`.
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
        // Before the value is set: there is no moment at which it is set and not counted.
        KEY_THREADS.add(own_id());
    }
    // SAFETY: L1.
    let real = unsafe { mem::transmute::<*mut c_void, Real>(real) };
    // SAFETY: the caller's contract.
    unsafe { real(key, value) }
}

pub(super) fn release_keys() {
    for slot in &KEYS {
        let key = slot.load(Ordering::Acquire);
        let is_held = key != 0 && key & GIVEN_BACK == 0;
        let given_back = key | GIVEN_BACK;
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        if is_held && slot.compare_exchange(key, given_back, success, failure).is_ok() {
            // SAFETY: a key of this library, marked by this exchange alone.
            unsafe { delete(key - 1) };
        }
    }
}

/// The function of this file in front of the one with this name.
pub(super) fn counting(name: &[u8]) -> Option<*mut c_void> {
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

/// Finds the C library's function, once.
///
/// Invariant L1: what is found under the name of a function of the C library is that function.
/// `RTLD_DEFAULT` and not `RTLD_NEXT`, which would bypass the interceptors of sanitizers.
pub(super) fn real(cache: &AtomicPtr<c_void>, name: &CStr) -> Option<*mut c_void> {
    let mut found = cache.load(Ordering::Acquire);
    if found.is_null() {
        // SAFETY: the name is a C string.
        found = unsafe { look_up(libc::RTLD_DEFAULT, name.as_ptr()) };
        cache.store(found, Ordering::Release);
    }
    (!found.is_null()).then_some(found)
}

/// The C library's `dlsym`. Its name stands for the function in front of it in this library, so
/// it is found by its versions: the first of all systems since glibc 2.34, then those of single
/// processors.
///
/// # Safety
///
/// The contract of `dlsym`.
pub(super) unsafe fn look_up(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    type Real = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
    const VERSIONS: [&CStr; 13] = [
        c"GLIBC_2.34",
        c"GLIBC_2.2.5",
        c"GLIBC_2.17",
        c"GLIBC_2.27",
        c"GLIBC_2.0",
        c"GLIBC_2.2",
        c"GLIBC_2.3",
        c"GLIBC_2.4",
        c"GLIBC_2.33",
        c"GLIBC_2.35",
        c"GLIBC_2.36",
        c"GLIBC_2.32",
        c"GLIBC_2.29",
    ];
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let mut found = REAL.load(Ordering::Acquire);
    if found.is_null() {
        let (all, name) = (libc::RTLD_DEFAULT, c"dlsym".as_ptr());
        let of = |version: &CStr| {
            // SAFETY: both are C strings.
            let found = unsafe { libc::dlvsym(all, name, version.as_ptr()) };
            (!found.is_null()).then_some(found)
        };
        found = VERSIONS.into_iter().find_map(of).unwrap_or(ptr::null_mut());
        REAL.store(found, Ordering::Release);
    }
    if found.is_null() {
        return found;
    }
    // SAFETY: L1.
    let real = unsafe { mem::transmute::<*mut c_void, Real>(found) };
    // SAFETY: this function's contract.
    unsafe { real(handle, name) }
}
