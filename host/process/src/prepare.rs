//! Prepares a child between fork and exec.
//!
//! The blocks cite these rules. A forked child has a single thread, and any lock may be held
//! forever by a thread that does not exist in it:
//!
//! - **P1** Only system calls that take no lock: `prctl`, `getppid`, `getrlimit`, `setrlimit`
//!   (directly by rustix), `close_range` (by its number), and of libc `signal`, `sigemptyset` and
//!   `pthread_sigmask`, which POSIX lists as async-signal-safe; and those of `Enforcement::enter`.
//! - **P2** No allocation or deallocation: the closure holds plain numbers and a sandbox, which it
//!   only borrows, and errors are error numbers of the system.
//! - **P3** No panic: no indexing, no arithmetic that can overflow.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;

use hotbay_sandbox::Enforcement;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::Command;

use crate::launch::ChildLimits;

/// Makes `command` start its program as a host's child: killed with the host, limited, and with
/// default signal handling.
pub(crate) fn child(command: &mut Command, limits: ChildLimits, sandbox: Option<Arc<Enforcement>>) {
    let host = std::process::id();
    let prepare = move || {
        die_with(host)?;
        for signal in SIGNALS {
            set_signal(signal, libc::SIG_DFL);
        }
        unblock_signals();
        close_files_on_exec();
        limit_all(limits)?;
        // Last: it may deny the calls above.
        sandbox.as_ref().map_or(Ok(()), |sandbox| sandbox.enter())
    };
    // SAFETY: P1, P2, P3.
    unsafe { command.pre_exec(prepare) };
}

/// The signals with the same numbers on every Unix. Ignored ones would stay ignored after exec.
const SIGNALS: std::ops::RangeInclusive<libc::c_int> = 1..=31;

/// Requests SIGKILL for this process when the thread that spawned it exits.
#[cfg(target_os = "linux")]
fn die_with(host: u32) -> io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A host that exited before this line no longer sends a signal.
    match getppid() {
        Some(parent) if parent.as_raw_nonzero().get().unsigned_abs() == host => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// Does nothing on this system: only the guardian notices the exit of the host.
#[cfg(not(target_os = "linux"))]
fn die_with(_: u32) -> io::Result<()> {
    Ok(())
}

fn set_signal(signal: libc::c_int, action: libc::sighandler_t) {
    // SAFETY: P1; sets no handler, and a failure (SIGKILL, SIGSTOP) changes nothing.
    unsafe { libc::signal(signal, action) };
}

fn unblock_signals() {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: P1; the pointer is valid for a set, which the call fully initializes.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: P1; the set was initialized above, and no old set is returned.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

/// Marks all files except the standard streams as close-on-exec, so that the child does not inherit
/// files of the application or of its parents. Linux before 5.11 does not support this; the files
/// are then inherited.
#[cfg(target_os = "linux")]
fn close_files_on_exec() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: P1; it accesses no memory, and closes nothing in the host.
    unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
}

/// Does nothing: this system has no such call.
#[cfg(not(target_os = "linux"))]
fn close_files_on_exec() {}

fn limit_all(limits: ChildLimits) -> io::Result<()> {
    limit(Resource::Core, 0, 0)?;
    if let Some(descriptors) = limits.descriptors {
        limit(Resource::Nofile, descriptors, descriptors)?;
    }
    if let Some(cpu_s) = limits.cpu_s {
        // SIGXCPU states the reason; SIGKILL follows a second later if it is ignored.
        limit(Resource::Cpu, cpu_s, cpu_s.saturating_add(1))?;
    }
    if let Some(file_bytes) = limits.file_bytes {
        limit(Resource::Fsize, file_bytes, file_bytes)?;
    }
    if let Some(memory_bytes) = limits.memory_bytes {
        // Not the address space: runtimes reserve much more than they use.
        limit(Resource::Data, memory_bytes, memory_bytes)?;
    }
    Ok(())
}

/// Sets a limit, at most the host's own hard limit, which only root can raise.
fn limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let hard = getrlimit(resource).maximum.map_or(hard, |own| own.min(hard));
    let limit = Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) };
    Ok(setrlimit(resource, limit)?)
}
