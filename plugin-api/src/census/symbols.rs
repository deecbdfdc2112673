//! Finds the C library's own functions, which the interposers call, and the address range of this
//! library.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::{mem, ptr};

/// Returns the C library's function with the given name, and caches it.
///
/// Invariant L1: the symbol with the name of a C library function is that function.
/// `RTLD_NEXT` instead of `RTLD_DEFAULT` would bypass the interceptors of sanitizers.
pub(super) fn real(cache: &AtomicPtr<c_void>, name: &CStr) -> Option<*mut c_void> {
    let mut found = cache.load(Ordering::Acquire);
    if found.is_null() {
        // SAFETY: the name is a C string.
        found = unsafe { look_up(libc::RTLD_DEFAULT, name.as_ptr()) };
        cache.store(found, Ordering::Release);
    }
    (!found.is_null()).then_some(found)
}

/// Calls the C library's `dlsym`. In this library, the plain name refers to the interposer, so the
/// function is found by its symbol version: `GLIBC_2.34` is common to all architectures, the others
/// are specific to some.
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

/// Calls the C library's `dlvsym`.
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
    let real = unsafe { mem::transmute::<*mut c_void, Real>(dlvsym_address()) };
    // SAFETY: this function's contract.
    unsafe { real(handle, name, version) }
}

/// Returns the address of the C library's `dlvsym`. In this library, the plain name refers to the
/// interposer; with a version it refers to the C library. All of its releases have this version.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn dlvsym_address() -> *mut c_void {
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

/// Calls the C library's `dlvsym`, which has no interposer on this architecture.
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

/// Address range of this library; zeros until it is known.
static LIBRARY_RANGE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Returns whether an address is in this library, or `true` if its range is unknown.
pub(super) fn is_in_library(address: usize) -> bool {
    if address == 0 {
        return false;
    }
    if LIBRARY_RANGE[1].load(Ordering::Acquire) == 0 {
        find_library_range();
    }
    let (start, end) =
        (LIBRARY_RANGE[0].load(Ordering::Acquire), LIBRARY_RANGE[1].load(Ordering::Acquire));
    end == 0 || (start..end).contains(&address)
}

/// Determines the address range of this library. Called early, because the walk takes a lock of
/// the loader.
pub(super) fn find_library_range() {
    // SAFETY: the callback does not unwind and ignores its data.
    unsafe { libc::dl_iterate_phdr(Some(find_own_segments), ptr::null_mut()) };
}

unsafe extern "C" fn find_own_segments(
    info: *mut libc::dl_phdr_info,
    _: usize,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the loader passes a valid entry for this call.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the loader's table has this number of headers.
    let segments = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    // The widths of the fields differ between targets.
    #[allow(clippy::unnecessary_cast, reason = "needed on 32-bit targets")]
    let ranges = segments.iter().filter(|segment| segment.p_type == libc::PT_LOAD).map(|segment| {
        let start = (info.dlpi_addr as usize).wrapping_add(segment.p_vaddr as usize);
        (start, start.wrapping_add(segment.p_memsz as usize))
    });
    let own = (&raw const LIBRARY_RANGE).addr();
    if !ranges.clone().any(|(start, end)| (start..end).contains(&own)) {
        return 0;
    }
    LIBRARY_RANGE[0]
        .store(ranges.clone().map(|(start, _)| start).min().unwrap_or(0), Ordering::Release);
    LIBRARY_RANGE[1].store(ranges.map(|(_, end)| end).max().unwrap_or(0), Ordering::Release);
    1
}
