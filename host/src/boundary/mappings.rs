//! The libraries that the dynamic loader has mapped, and where. Opens no library that is not
//! mapped already.

use std::ffi::CStr;
#[cfg(not(target_os = "linux"))]
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Opens the library that is already mapped under this name, and closes it.
pub(super) fn close_again(path: &Path) {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // Maps no new library.
    let flags = libc::RTLD_NOLOAD | RTLD_NOW | RTLD_LOCAL;
    // SAFETY: B7 (nothing new is opened), and no pointer into it is used anymore (B1).
    #[allow(clippy::disallowed_methods, reason = "this is the one place that opens libraries")]
    let library = unsafe { Library::open(Some(path), flags) };
    if let Ok(library) = library {
        let _ = library.close();
    }
}

/// Returns whether the library that was opened as `path` is mapped at `address`.
#[cfg(target_os = "linux")]
pub(super) fn lies_in(address: usize, path: &Path) -> bool {
    segments(path).iter().any(|segment| segment.contains(&address))
}

/// Returns where the library that was opened as `path` is mapped. Compares names inside the
/// loader's iteration, during which no library is unmapped.
#[cfg(target_os = "linux")]
pub(super) fn segments(path: &Path) -> Vec<Range<usize>> {
    struct Target<'p> {
        path: &'p Path,
        segments: Vec<Range<usize>>,
    }

    unsafe extern "C" fn callback(
        info: *mut libc::dl_phdr_info,
        _: usize,
        target: *mut std::ffi::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader gives a valid entry for this call.
        let info = unsafe { &*info };
        // SAFETY: points to the value below, which nothing else uses meanwhile.
        let target = unsafe { &mut *target.cast::<Target<'_>>() };
        if info.dlpi_name.is_null() || info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: not null, and the loader's own C string.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        if name.to_bytes() != target.path.as_os_str().as_bytes() {
            return 0;
        }
        // SAFETY: the loader's own table with this number of headers.
        let segments =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        // The widths of the fields differ between targets.
        #[allow(clippy::unnecessary_cast, reason = "needed on 32-bit targets")]
        let ranges =
            segments.iter().filter(|segment| segment.p_type == libc::PT_LOAD).map(|segment| {
                let start = (info.dlpi_addr as usize).wrapping_add(segment.p_vaddr as usize);
                start..start.wrapping_add(segment.p_memsz as usize)
            });
        target.segments = ranges.collect();
        1
    }

    let mut target = Target { path, segments: Vec::new() };
    // SAFETY: the callback does not unwind, and `target` outlives the iteration.
    unsafe { libc::dl_iterate_phdr(Some(callback), (&raw mut target).cast()) };
    target.segments
}

/// Returns the files of all mapped libraries, as they were opened.
#[cfg(target_os = "linux")]
pub(super) fn mapped_files() -> Vec<PathBuf> {
    unsafe extern "C" fn callback(
        info: *mut libc::dl_phdr_info,
        _: usize,
        found: *mut std::ffi::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader gives a valid entry for this call.
        let name = unsafe { (*info).dlpi_name };
        if name.is_null() {
            return 0;
        }
        // SAFETY: not null, and the loader's own C string.
        let name = unsafe { CStr::from_ptr(name) };
        // SAFETY: points to the value below, which nothing else uses meanwhile.
        let found = unsafe { &mut *found.cast::<Vec<PathBuf>>() };
        found.push(std::ffi::OsStr::from_bytes(name.to_bytes()).into());
        0
    }

    let mut found = Vec::new();
    // SAFETY: the callback does not unwind, and `found` outlives the iteration.
    unsafe { libc::dl_iterate_phdr(Some(callback), (&raw mut found).cast()) };
    found
}

/// Returns nothing: dependencies are not staged on this system.
#[cfg(not(target_os = "linux"))]
pub(super) fn mapped_files() -> Vec<PathBuf> {
    Vec::new()
}

/// Returns nothing: the system only looks up single addresses.
#[cfg(not(target_os = "linux"))]
pub(super) fn segments(_: &Path) -> Vec<Range<usize>> {
    Vec::new()
}

/// Returns whether the library that was opened as `path` is mapped at `address`.
#[cfg(not(target_os = "linux"))]
pub(super) fn lies_in(address: usize, path: &Path) -> bool {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    let address = std::ptr::without_provenance(address);
    // SAFETY: queries the loader about an address; any address is valid.
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return false;
    }
    // SAFETY: written by the call above.
    let name = unsafe { info.assume_init() }.dli_fname;
    // SAFETY: not null after success, and the loader's own C string.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_bytes() == path.as_os_str().as_bytes()
}
