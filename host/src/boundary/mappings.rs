//! What the system's loader has mapped, and where. Opens nothing that is not mapped already.

use std::ffi::CStr;
#[cfg(not(target_os = "linux"))]
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Opens what is mapped already under this name, and closes it.
pub(super) fn close_again(path: &Path) {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // Maps nothing: what is not there stays so.
    let flags = libc::RTLD_NOLOAD | RTLD_NOW | RTLD_LOCAL;
    // SAFETY: B7 (nothing new is opened), and nobody has a pointer into it any more (B1).
    #[allow(clippy::disallowed_methods, reason = "this is the one place that opens libraries")]
    let again = unsafe { Library::open(Some(path), flags) };
    if let Ok(again) = again {
        let _ = again.close();
    }
}

/// Whether the library that was opened as `path` is mapped at `address`.
#[cfg(target_os = "linux")]
pub(super) fn lies_in(address: usize, path: &Path) -> bool {
    segments(path).iter().any(|segment| segment.contains(&address))
}

/// Where the library that was opened as `path` is mapped. Asked inside the loader's own walk,
/// during which nobody can take a name away.
#[cfg(target_os = "linux")]
pub(super) fn segments(path: &Path) -> Vec<Range<usize>> {
    struct Wanted<'p> {
        path: &'p Path,
        segments: Vec<Range<usize>>,
    }

    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _: usize,
        wanted: *mut std::ffi::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader gives a valid entry for this visit.
        let info = unsafe { &*info };
        // SAFETY: the value below, which nobody else uses meanwhile.
        let wanted = unsafe { &mut *wanted.cast::<Wanted<'_>>() };
        if info.dlpi_name.is_null() || info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: not null, and the loader's own C string.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        if name.to_bytes() != wanted.path.as_os_str().as_bytes() {
            return 0;
        }
        // SAFETY: the loader's own table of as many headers.
        let segments =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        // The widths of the fields differ between targets.
        #[allow(clippy::unnecessary_cast, reason = "needed on 32-bit targets")]
        let ranges =
            segments.iter().filter(|segment| segment.p_type == libc::PT_LOAD).map(|segment| {
                let start = (info.dlpi_addr as usize).wrapping_add(segment.p_vaddr as usize);
                start..start.wrapping_add(segment.p_memsz as usize)
            });
        wanted.segments = ranges.collect();
        1
    }

    let mut wanted = Wanted { path, segments: Vec::new() };
    // SAFETY: the visitor does not unwind, and `wanted` outlives the walk.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut wanted).cast()) };
    wanted.segments
}

/// The files of all libraries that are mapped, as they were opened.
#[cfg(target_os = "linux")]
pub(super) fn mapped_files() -> Vec<PathBuf> {
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _: usize,
        found: *mut std::ffi::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader gives a valid entry for this visit.
        let name = unsafe { (*info).dlpi_name };
        if name.is_null() {
            return 0;
        }
        // SAFETY: not null, and the loader's own C string.
        let name = unsafe { CStr::from_ptr(name) };
        // SAFETY: the value below, which nobody else uses meanwhile.
        let found = unsafe { &mut *found.cast::<Vec<PathBuf>>() };
        found.push(std::ffi::OsStr::from_bytes(name.to_bytes()).into());
        0
    }

    let mut found = Vec::new();
    // SAFETY: the visitor does not unwind, and `found` outlives the walk.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    found
}

/// No dependencies are staged here.
#[cfg(not(target_os = "linux"))]
pub(super) fn mapped_files() -> Vec<PathBuf> {
    Vec::new()
}

/// The system reports one address at a time.
#[cfg(not(target_os = "linux"))]
pub(super) fn segments(_: &Path) -> Vec<Range<usize>> {
    Vec::new()
}

/// Whether the library that was opened as `path` is mapped at `address`.
#[cfg(not(target_os = "linux"))]
pub(super) fn lies_in(address: usize, path: &Path) -> bool {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    let address = std::ptr::without_provenance(address);
    // SAFETY: asks the loader what it knows of an address, any address.
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return false;
    }
    // SAFETY: written by the call above.
    let name = unsafe { info.assume_init() }.dli_fname;
    // SAFETY: not null after success, and the loader's own C string.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_bytes() == path.as_os_str().as_bytes()
}
