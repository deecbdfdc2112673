//! Thread keys whose destructors lie in this library, and the threads that hold a value of one:
//! seen by standing in front of the C library, as in `on_linux`.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::{mem, ptr};

use super::on_linux::{Ids, THRD_ERROR, own_id};
use super::real::real;

/// The destructor of a thread key.
pub type KeyDestructor = unsafe extern "C" fn(*mut c_void);

static KEY_THREADS: Ids = Ids::new();
/// The thread keys of this library, plus one; zero is free. With the highest bit: given back.
static KEYS: [AtomicU32; KEYS_MAX] = [const { AtomicU32::new(0) }; KEYS_MAX];

const KEYS_MAX: usize = 64;
const GIVEN_BACK: u32 = 1 << 31;

/// Threads that hold a value of a key, besides the one that counts: the host counts on the thread
/// that opened the library while that one is to live on.
pub(super) fn key_threads() -> u32 {
    KEY_THREADS.alive(own_id())
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
