//! The system calls by which a thread confines itself, and those that query what a kernel supports.
//!
//! The blocks cite these rules:
//!
//! - **E1** Each call is a single system call: it takes no lock and allocates nothing, and a failure
//!   returns an error number.
//! - **E2** Pointers are valid for the length that the call gets, for the whole call.

use std::io;
use std::os::fd::RawFd;
use std::ptr;

use seccompiler::sock_filter;

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const RULESET_VERSION: libc::c_ulong = 1;

/// Returns the version of the Landlock ABI, or 0.
pub(crate) fn landlock_abi() -> u32 {
    let none = ptr::null::<libc::c_void>();
    // SAFETY: E1; the call accesses no memory with these arguments.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, RULESET_VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Returns whether the kernel can install a filter that returns error numbers.
pub(crate) fn has_seccomp() -> bool {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: E1, E2: it reads one number.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0_usize,
            ptr::from_ref(&action),
        )
    };
    result == 0
}

/// Moves this process into the control group whose `cgroup.procs` is open as `members`.
pub(crate) fn join_group(members: RawFd) -> io::Result<()> {
    const THIS_PROCESS: &[u8; 1] = b"0";
    // SAFETY: E1, E2.
    let written = unsafe { libc::write(members, THIS_PROCESS.as_ptr().cast(), 1) };
    done(if written == 1 { 0 } else { -1 })
}

/// Keeps this thread and what it executes from gaining privileges, which the other calls require.
pub(crate) fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: E1; it accesses no memory.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

/// Restricts this thread by a Landlock ruleset.
pub(crate) fn restrict_by_landlock(ruleset: RawFd) -> io::Result<()> {
    // SAFETY: E1; it accesses no memory.
    done(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0_usize) })
}

/// Installs a filter of system calls for this thread.
pub(crate) fn install_filter(filter: &[sock_filter]) -> io::Result<()> {
    let Ok(len) = u16::try_from(filter.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    // The kernel only reads it. Both types have the layout of the kernel's.
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: E1, E2: it copies the program and its `len` instructions.
    done(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0_usize,
            ptr::from_ref(&program),
        )
    })
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
