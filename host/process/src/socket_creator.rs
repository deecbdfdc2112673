//! Which process made the socket on the other end of a connection listen.
//!
//! - S1: a call of `getsockopt` gets pointers to a value and its size, which live until it returns.
//! - S2: the kernel writes a value of the type that an option has, and returns its size, which is
//!   compared.
//! - S3: each value of `SO_PEERPIDFD` is a new descriptor without another owner.

use std::io;
use std::os::fd::AsFd;

use rustix::process::Pid;

/// The process that made a Unix socket listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "it is not known"))]
pub(crate) enum Creator {
    /// It runs. Kernels before 6.5 also return it after it has exited.
    Running(Pid),
    /// It has exited: another process can have its id.
    Exited,
    /// This process cannot see it, or it is not known.
    Invisible,
}

/// Returns the process that made the socket on the other end of a connected Unix socket listen.
#[cfg(target_os = "linux")]
pub(crate) fn creator(socket: impl AsFd) -> io::Result<Creator> {
    linux::creator(socket.as_fd())
}

/// Returns the process that made the socket on the other end of a connected Unix socket listen.
#[cfg(not(target_os = "linux"))]
pub(crate) fn creator(_: impl AsFd) -> io::Result<Creator> {
    Ok(Creator::Invisible)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::MaybeUninit;
    use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::{Errno, retry_on_intr};

    use super::*;

    pub(super) fn creator(socket: BorrowedFd<'_>) -> io::Result<Creator> {
        // SAFETY: S2: a `ucred` is valid whatever its numbers are.
        let found: libc::ucred = unsafe { option(socket, libc::SO_PEERCRED) }?;
        // The id is 0 for a process of a namespace that this one cannot see.
        let Some(process) = Pid::from_raw(found.pid) else { return Ok(Creator::Invisible) };
        // SAFETY: S2: every number is valid.
        let descriptor: RawFd = match unsafe { option(socket, libc::SO_PEERPIDFD) } {
            Ok(descriptor) => descriptor,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOPROTOOPT) => return Ok(Creator::Running(process)),
                Some(Errno::SRCH | Errno::INVAL) => return Ok(Creator::Exited),
                _ => return Err(error),
            },
        };
        // SAFETY: S3.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let mut exit = [PollFd::new(&descriptor, PollFlags::IN)];
        match retry_on_intr(|| poll(&mut exit, Some(&Timespec::default())))? {
            0 => Ok(Creator::Running(process)),
            _ => Ok(Creator::Exited),
        }
    }

    /// Reads an option of a socket.
    ///
    /// # Safety
    ///
    /// Every value that the kernel writes for this option must be a valid `T`.
    unsafe fn option<T>(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let size = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
        let mut written = size;
        // SAFETY: S1.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                value.as_mut_ptr().cast(),
                &raw mut written,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if written != size {
            return Err(io::Error::other("the kernel returned an option of another size"));
        }
        // SAFETY: S2: all of it was written, and the caller ensures that it is valid.
        Ok(unsafe { value.assume_init() })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn creator_is_known_after_it_closed_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let socket = UnixStream::connect(&path).expect("a connection");
        assert_eq!(creator(&socket).expect("known"), Creator::Running(rustix::process::getpid()));
        drop(listener);
        assert_eq!(creator(&socket).expect("known"), Creator::Running(rustix::process::getpid()));
    }
}
