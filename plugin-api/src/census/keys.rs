//! Tracks thread keys whose destructors are in this library, and threads that hold a value of one,
//! by interposing on the C library.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::{mem, ptr};

use super::symbols::real;
use super::threads::{THRD_ERROR, ThreadIds, current_thread_id};

/// The destructor of a thread key.
pub type KeyDestructor = unsafe extern "C" fn(*mut c_void);

static KEY_THREADS: ThreadIds = ThreadIds::new();
/// Thread keys of this library, plus one. Zero marks a free slot, the highest bit a key that was
/// released.
static KEYS: [AtomicU32; MAX_KEYS] = [const { AtomicU32::new(0) }; MAX_KEYS];

const MAX_KEYS: usize = 64;
const RELEASED: u32 = 1 << 31;

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
