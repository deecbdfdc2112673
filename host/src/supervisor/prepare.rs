//! What a child does between fork and exec.
//!
//! Rules that the blocks cite. A forked child has one thread, and any lock of the host may be
//! held for ever by a thread that is not there any more:
//!
//! - **P1** Only system calls that take no lock: `prctl`, `getppid`, `getrlimit`, `setrlimit`
//!   (rustix makes them as such), `close_range` (by its number), and of libc `signal`,
//!   `sigemptyset` and `pthread_sigmask`, which POSIX lists as async-signal-safe.
//! - **P2** Nothing allocates or frees: what is needed was copied into the closure as plain
//!   numbers, and errors are numbers of the system.
//! - **P3** Nothing panics: no indexing, no arithmetic that can overflow.

use std::io;
use std::mem::MaybeUninit;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::Command;

use super::child::ChildLimits;

/// Has `command` start a program as a host's child: ended when the host is, with limits, and
/// with every signal as a new program expects it.
pub(super) fn child(command: &mut Command, limits: ChildLimits) {
    let host = std::process::id();
    let prepare = move || {
        end_with(host)?;
        for signal in SIGNALS {
            set_signal(signal, libc::SIG_DFL);
        }
        block_no_signal();
        hand_no_file_down();
        limit_all(limits)
    };
    // SAFETY: P1, P2, P3.
    unsafe { command.pre_exec(prepare) };
}

/// The signals that every Unix numbers so. Ignored ones would stay ignored after exec.
const SIGNALS: std::ops::RangeInclusive<libc::c_int> = 1..=31;

/// Asks for SIGKILL when the thread that spawned this process ends.
#[cfg(target_os = "linux")]
fn end_with(host: u32) -> io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A host that ended before the line above sends nothing any more.
    match getppid() {
        Some(parent) if parent.as_raw_nonzero().get().unsigned_abs() == host => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// Nothing of the kind here: only the guardian notices that the host is gone.
#[cfg(not(target_os = "linux"))]
fn end_with(_: u32) -> io::Result<()> {
    Ok(())
}

fn set_signal(signal: libc::c_int, action: libc::sighandler_t) {
    // SAFETY: P1; no handler is set, and a refusal (SIGKILL, SIGSTOP) changes nothing.
    unsafe { libc::signal(signal, action) };
}

fn block_no_signal() {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: P1; the pointer is to a set that this writes whole.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: P1; the set was written above, and the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

/// Has everything but the standard streams closed by exec: what the application itself opened
/// without that, or got from whoever started it, is none of the child's business. Kernels that
/// do not know the call (before Linux 5.11) hand it down.
#[cfg(target_os = "linux")]
fn hand_no_file_down() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: P1; it touches no memory, and nothing is closed in the host.
    unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
}

/// No such call here.
#[cfg(not(target_os = "linux"))]
fn hand_no_file_down() {}

fn limit_all(limits: ChildLimits) -> io::Result<()> {
    limit(Resource::Core, 0, 0)?;
    if let Some(descriptors) = limits.descriptors {
        limit(Resource::Nofile, descriptors, descriptors)?;
    }
    if let Some(cpu_s) = limits.cpu_s {
        // SIGXCPU tells why; SIGKILL a second later for who does not listen.
        limit(Resource::Cpu, cpu_s, cpu_s.saturating_add(1))?;
    }
    if let Some(memory_bytes) = limits.memory_bytes {
        // Not the address space: runtimes reserve a lot of it and use little.
        limit(Resource::Data, memory_bytes, memory_bytes)?;
    }
    Ok(())
}

/// Sets a limit, at most as high as the host's own hard one, which only root can raise.
fn limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let hard = getrlimit(resource).maximum.map_or(hard, |own| own.min(hard));
    let limit = Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) };
    Ok(setrlimit(resource, limit)?)
}
