//! The system calls by which a thread confines itself, and those that query what a kernel supports.
//!
//! The blocks cite these rules:
//!
//! - **E1** Each call is a single system call: it takes no lock and allocates nothing, and a failure
//!   returns an error number.
//! - **E2** Pointers are valid for the length that the call gets, for the whole call.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
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

/// Returns the ids of the user and the group by which this process accesses files.
pub(crate) fn effective_ids() -> (u32, u32) {
    // SAFETY: E1; it accesses no memory, and cannot fail.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: E1; it accesses no memory, and cannot fail.
    let gid = unsafe { libc::getegid() };
    (uid, gid)
}

/// Moves this process into new namespaces.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: E1; it accesses no memory.
    done(unsafe { libc::unshare(flags) }.into())
}

/// Writes a text to a file of the kernel, as a whole.
pub(crate) fn write_file(path: &CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: E1, E2.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: E1, E2.
    let written = unsafe { libc::write(file, text.as_ptr().cast(), text.len()) };
    let result = done(if written < 0 { -1 } else { 0 });
    // SAFETY: E1; the file was opened above.
    unsafe { libc::close(file) };
    result
}

/// Keeps programs that user 0 executes from getting the capabilities of root.
pub(crate) fn give_root_no_capabilities() -> io::Result<()> {
    /// `SECBIT_NOROOT`, and that it cannot be cleared.
    const NO_ROOT: libc::c_ulong = 0b11;
    // SAFETY: E1; it accesses no memory.
    done(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NO_ROOT, 0, 0, 0) }.into())
}

/// Runs `attempt` in a copy of this process, which exits at once. `attempt` must neither allocate,
/// nor take a lock, nor panic. Fails with the error number of `attempt`, or 0 if it was killed.
///
/// The process is invisible to this one: it runs no handlers of forks or signals, its exit sends no
/// signal, and only waiting for all kinds of children returns it.
pub(crate) fn try_in_child(attempt: impl Fn() -> io::Result<()>) -> Result<(), i32> {
    const UNKNOWN: i32 = 255;
    let code = |error: io::Error| error.raw_os_error().unwrap_or(UNKNOWN);
    let signals = block_signals();
    // SAFETY: E1. The child has its own memory and a copy of this stack. A lock may be held forever
    // in it, but `attempt` takes none.
    let child =
        unsafe { libc::syscall(libc::SYS_clone, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize) };
    if child == 0 {
        let code = attempt().map_or_else(code, |()| 0);
        // SAFETY: E1; it runs no handlers.
        unsafe { libc::_exit(code) };
    }
    let waited = if child < 0 { Err(io::Error::last_os_error()) } else { wait_for(child) };
    restore_signals(&signals);
    let status = waited.map_err(code)?;
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, code) => Err(code),
        (false, _) => Err(0),
    }
}

/// Returns how a child exited, of which this process gets no signal.
fn wait_for(child: libc::c_long) -> io::Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: E1, E2: it writes one number. All signals are blocked, so none interrupts it.
    let waited = unsafe { libc::waitpid(child as libc::pid_t, &raw mut status, libc::__WALL) };
    if waited < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}

/// Blocks all signals of this thread, and returns those that were blocked before.
fn block_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: E2: it initializes the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: E1, E2: it reads the set that was initialized above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: the call above initialized it; with valid arguments, it cannot fail.
    unsafe { before.assume_init() }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: E1, E2.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
}

/// Gives up all capabilities of this thread, and so of what it executes without new privileges. With
/// `keep_low_ports`, keeps that to listen on ports below 1024.
pub(crate) fn drop_capabilities(keep_low_ports: bool) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_NET_BIND_SERVICE: u32 = 10;
    let mut header = Header { version: VERSION_3, pid: 0 };
    // The second has the capabilities from 32.
    let mut sets = [Sets { effective: 0, permitted: 0, inheritable: 0 }; 2];
    if keep_low_ports {
        // SAFETY: E1, E2: it reads and writes the header, and writes two sets.
        done(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
        let mask = 1 << CAP_NET_BIND_SERVICE;
        let Sets { effective, permitted, inheritable } = sets[0];
        sets[0] = Sets {
            effective: effective & mask,
            permitted: permitted & mask,
            inheritable: inheritable & mask,
        };
        sets[1] = Sets { effective: 0, permitted: 0, inheritable: 0 };
    }
    // SAFETY: E1, E2: it reads and writes the header, and reads two sets.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_in_a_child_is_returned() {
        let failed = || Err(io::Error::from_raw_os_error(libc::EXDEV));
        assert_eq!(try_in_child(|| Ok(())), Ok(()));
        assert_eq!(try_in_child(failed), Err(libc::EXDEV));
        let exit_by_signal = || {
            // SAFETY: E1; it accesses no memory, and cannot fail.
            let own = unsafe { libc::getpid() };
            // SAFETY: E1; it accesses no memory.
            unsafe { libc::kill(own, libc::SIGKILL) };
            Ok(())
        };
        assert_eq!(try_in_child(exit_by_signal), Err(0));
    }
}
