//! Finds pointers into a library that the loader does not know: signal handlers, the environment,
//! and variables of the C library. Only reads.

#[cfg(target_os = "linux")]
use std::ffi::CStr;

/// The highest signal number.
#[cfg(unix)]
const MAX_SIGNAL: i32 = 64;
/// Pointers that a program can set, and that the C library follows.
#[cfg(target_os = "linux")]
const VARIABLES: [&CStr; 8] = [
    c"stdin",
    c"stdout",
    c"stderr",
    c"program_invocation_name",
    c"program_invocation_short_name",
    c"obstack_alloc_failed_handler",
    c"error_print_progname",
    c"argp_program_version_hook",
];
/// Maximum number of environment entries that are read.
#[cfg(target_os = "linux")]
const MAX_ENTRIES: usize = 1 << 16;
/// Number of entries that are read at once.
#[cfg(target_os = "linux")]
const CHUNK: usize = 256;

/// Returns the addresses of the installed signal handlers.
#[cfg(unix)]
pub(super) fn signal_handlers() -> impl Iterator<Item = usize> {
    (1..=MAX_SIGNAL).filter_map(|signal| {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: queries the action of a signal and writes it; changes nothing.
        let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
        if result != 0 {
            return None;
        }
        // SAFETY: written by the call above; all zeros are a valid action.
        let handler = unsafe { action.assume_init() }.sa_sigaction;
        (handler != libc::SIG_DFL && handler != libc::SIG_IGN).then_some(handler)
    })
}

/// Returns nothing: the system has no signal handlers.
#[cfg(not(unix))]
pub(super) fn signal_handlers() -> impl Iterator<Item = usize> {
    std::iter::empty()
}

/// Whether a variable of the C library points into a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "they are read on Linux only"))]
pub(crate) enum Variables {
    /// No variable points into it.
    Free,
    /// This one does.
    Held(&'static str),
    /// The system does not let this process read its own memory.
    Unreadable,
}

/// Finds the first variable of the C library that points to an address that `contains` accepts.
/// Includes all entries of the environment.
#[cfg(target_os = "linux")]
pub(super) fn variables(contains: impl Fn(usize) -> bool) -> Variables {
    let known = [7_usize];
    if read(known.as_ptr().addr(), &mut [0]) != 1 {
        return Variables::Unreadable;
    }
    if environment_is_in(&contains) {
        return Variables::Held("environ");
    }
    let is_in = |name: &&CStr| value_of(name).is_some_and(&contains);
    let held = VARIABLES.into_iter().find(is_in).and_then(|name| name.to_str().ok());
    held.map_or(Variables::Free, Variables::Held)
}

/// Returns `Free`: they are not read on this system.
#[cfg(not(target_os = "linux"))]
pub(super) fn variables(_: impl Fn(usize) -> bool) -> Variables {
    Variables::Free
}

#[cfg(target_os = "linux")]
fn environment_is_in(contains: &impl Fn(usize) -> bool) -> bool {
    let Some(list) = value_of(c"environ").filter(|list| *list != 0) else { return false };
    if contains(list) {
        return true;
    }
    let mut entries = [0; CHUNK];
    for chunk in 0..MAX_ENTRIES / CHUNK {
        let count = read(list.wrapping_add(chunk * size_of_val(&entries)), &mut entries);
        let end = entries[..count].iter().position(|entry| *entry == 0);
        if entries[..end.unwrap_or(count)].iter().any(|entry| contains(*entry)) {
            return true;
        }
        if end.is_some() || count < CHUNK {
            return false;
        }
    }
    false
}

/// Returns the value of a pointer variable of the C library.
#[cfg(target_os = "linux")]
fn value_of(name: &CStr) -> Option<usize> {
    // SAFETY: the name is a C string; only looks up an address.
    let variable = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    let mut value = [0];
    (!variable.is_null() && read(variable.addr(), &mut value) == 1).then_some(value[0])
}

/// Reads words of this process; returns how many could be read.
///
/// The kernel reads them: another thread may change the environment meanwhile, and an unmapped
/// address is then an error, not a crash.
#[cfg(target_os = "linux")]
fn read(address: usize, words: &mut [usize]) -> usize {
    const PAGE: usize = 4096;
    let mut done = 0;
    while done < size_of_val(words) {
        // One read per page, since the next page may not be mapped.
        // The address wraps, since a plugin may have set it to anything.
        let from = address.wrapping_add(done);
        let length = (size_of_val(words) - done).min(PAGE - from % PAGE);
        let into = words.as_mut_ptr().wrapping_byte_add(done);
        let local = libc::iovec { iov_base: into.cast(), iov_len: length };
        let from = std::ptr::without_provenance_mut(from);
        let remote = libc::iovec { iov_base: from, iov_len: length };
        // SAFETY: returns the process ID; has no arguments.
        let process = unsafe { libc::getpid() };
        // SAFETY: writes at most `length` bytes, all of them into `words`; any bits are a valid
        // word.
        let mut count = unsafe {
            libc::process_vm_readv(process, &raw const local, 1, &raw const remote, 1, 0)
        };
        if count < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT) {
            // Some containers forbid this system call.
            // SAFETY: as above: `length` bytes of `words` from `done` on, which nothing else uses.
            let bytes = unsafe { std::slice::from_raw_parts_mut(into.cast::<u8>(), length) };
            count = read_from_file(address.wrapping_add(done), bytes);
        }
        done += usize::try_from(count).unwrap_or(0);
        if usize::try_from(count) != Ok(length) {
            break;
        }
    }
    done / size_of::<usize>()
}

/// Reads memory of this process as a file; returns how many bytes could be read.
#[cfg(target_os = "linux")]
fn read_from_file(address: usize, bytes: &mut [u8]) -> isize {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::open("/proc/self/mem");
    let read = memory.and_then(|memory| memory.read_at(bytes, address as u64));
    read.ok().and_then(|count| isize::try_from(count).ok()).unwrap_or(-1)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn environment_is_found_only_at_its_list() {
        let list = value_of(c"environ").unwrap();
        assert_eq!(variables(|address| address == list), Variables::Held("environ"));
        assert_eq!(variables(|_| false), Variables::Free);
        let stdout = value_of(c"stdout").unwrap();
        assert_eq!(variables(|address| address == stdout), Variables::Held("stdout"));
    }

    #[test]
    fn file_read_returns_the_same_memory() {
        let words = [1_usize, 2, 3];
        let mut bytes = [0; 16];
        assert_eq!(read_from_file(words.as_ptr().addr(), &mut bytes), 16);
        assert_eq!(bytes[..8], 1_usize.to_ne_bytes());
        assert_eq!(read_from_file(8, &mut bytes), -1);
    }

    #[test]
    fn unmapped_address_reads_nothing() {
        assert_eq!(read(8, &mut [0; 4]), 0);
        let words = [1_usize, 2, 3];
        let mut copy = [0; 3];
        assert_eq!(read(words.as_ptr().addr(), &mut copy), 3);
        assert_eq!(copy, words);
    }
}
