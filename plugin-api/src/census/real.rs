//! The functions of the C library itself, behind those that stand in front of them.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{mem, ptr};

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
            let found = unsafe { look_up_version(all, name, version.as_ptr()) };
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

/// The C library's `dlvsym`.
///
/// # Safety
///
/// The contract of `dlvsym`.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn look_up_version(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> *mut c_void {
    type Real = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void;
    // SAFETY: L1.
    let real = unsafe { mem::transmute::<*mut c_void, Real>(versioned()) };
    // SAFETY: this function's contract.
    unsafe { real(handle, name, version) }
}

/// The address of the C library's `dlvsym`. Its name stands for the function in front of it in
/// this library; with a version it is the C library's own. This version is in all of them.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn versioned() -> *mut c_void {
    let found: *mut c_void;
    // SAFETY: reads an address that the loader wrote.
    unsafe {
        asm!(
            ".symver hotbay_real_dlvsym, dlvsym@GLIBC_2.2.5",
            "mov {found}, qword ptr [rip + hotbay_real_dlvsym@GOTPCREL]",
            found = out(reg) found,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    found
}

/// The C library's `dlvsym`; nothing stands in front of it here.
///
/// # Safety
///
/// The contract of `dlvsym`.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn look_up_version(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> *mut c_void {
    // SAFETY: this function's contract.
    unsafe { libc::dlvsym(handle, name, version) }
}
