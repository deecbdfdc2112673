//! Live threads, seen by standing in front of the C library.
//!
//! `export_plugin!` defines hidden functions of the same names in the plugin's library, so that
//! the library's own calls, std's among them, come here first. Nothing here allocates, blocks
//! or touches a thread-local that has a destructor: it runs while threads start and end.
//!
//! A thread has ended when the system no longer knows its id, not when its function returned:
//! destructors of thread-locals run in between.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::{mem, ptr};

use super::in_front;
pub use super::in_front::*;
pub use super::keys::*;
use super::real::real;

/// `thrd_error` of C11.
pub(super) const THRD_ERROR: c_int = 2;

/// The function that a thread starts in.
pub type StartFn = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
/// The function that a thread of C11 starts in.
pub type StartC11Fn = unsafe extern "C" fn(*mut c_void) -> c_int;

thread_local! {
    static STARTED_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Threads that were asked for and have not told their id yet.
static STARTING: AtomicU32 = AtomicU32::new(0);
/// Threads that were ever asked for; only grows, so that a count sees whether it was overtaken.
static ASKED_FOR: AtomicU64 = AtomicU64::new(0);
static THREADS: Ids = Ids::new();
static COUNTS: AtomicBool = AtomicBool::new(false);

const IDS_MAX: usize = 1024;

/// Ids of threads, of which the dead ones make room for new ones.
pub(super) struct Ids {
    ids: [AtomicI32; IDS_MAX],
    /// Threads for which there was no room; once there is one, the library is never unmapped.
    pub(super) lost: AtomicU32,
}

impl Ids {
    pub(super) const fn new() -> Self {
        Self { ids: [const { AtomicI32::new(0) }; IDS_MAX], lost: AtomicU32::new(0) }
    }

    pub(super) fn add(&self, id: c_int) {
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
    pub(super) fn alive(&self, except: c_int) -> u32 {
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

pub(super) fn own_id() -> c_int {
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

/// The function of this file in front of the one with this name.
pub(super) fn counting(name: &[u8]) -> Option<*mut c_void> {
    let found = match name {
        b"pthread_create" => pthread_create as *const (),
        b"thrd_create" => thrd_create as *const (),
        _ => return None,
    };
    Some(found.cast_mut().cast())
}
