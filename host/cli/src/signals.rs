//! Stop requests: signals, and a closed stdout. The first one is reported; a second signal ends the
//! process at once.

use std::io;
use std::thread;
use std::time::Duration;
#[cfg(unix)]
use std::time::Instant;

#[cfg(unix)]
use signal_hook::consts::SIGHUP;
use signal_hook::consts::{SIGINT, SIGTERM};
#[cfg(unix)]
use signal_hook::iterator::Signals;
use tokio::sync::mpsc::Sender;

/// Signals within this time count as one: `timeout` and some shells send a signal to the process
/// and to its group.
#[cfg(unix)]
const DUPLICATE_WINDOW: Duration = Duration::from_millis(250);

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopRequest {
    /// Ctrl-C, SIGTERM, or SIGHUP when the terminal closes.
    Signal,
    /// The reader closed stdout.
    #[cfg_attr(not(unix), allow(dead_code, reason = "only Unix reports it"))]
    ReaderClosed,
    /// The grace period for running calls is over.
    GraceExpired,
}

/// Sends [`StopRequest::GraceExpired`] after `grace`. Sends nothing if no thread can be started.
pub(crate) fn expire_grace_after(grace: Duration, sender: &Sender<StopRequest>) {
    let sender = sender.clone();
    let _ = thread::Builder::new().name("hotbay-grace".to_owned()).spawn(move || {
        thread::sleep(grace);
        let _ = sender.try_send(StopRequest::GraceExpired);
    });
}

/// Starts to send stop requests to `sender`.
pub(crate) fn listen(sender: &Sender<StopRequest>) -> io::Result<()> {
    listen_to_signals(sender.clone())?;
    #[cfg(unix)]
    listen_to_stdout(sender.clone())?;
    Ok(())
}

#[cfg(unix)]
fn listen_to_signals(sender: Sender<StopRequest>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("hotbay-signals".to_owned()).spawn(move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            match first {
                None => first = Some(Instant::now()),
                Some(first) if first.elapsed() < DUPLICATE_WINDOW => {}
                // Without destructors, one of which may be what hangs.
                Some(_) => signal_hook::low_level::exit(128 + signal),
            }
            // A full channel contains a request already.
            let _ = sender.try_send(StopRequest::Signal);
        }
    })?;
    Ok(())
}

/// Polls a flag, since a signal cannot wake a thread here.
#[cfg(not(unix))]
fn listen_to_signals(sender: Sender<StopRequest>) -> io::Result<()> {
    use std::sync::atomic::{AtomicBool, Ordering};
    const POLL_INTERVAL: Duration = Duration::from_millis(100);
    let received = std::sync::Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order, so that the first signal only arms the shutdown.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, received.clone())?;
        signal_hook::flag::register(signal, received.clone())?;
    }
    thread::Builder::new().name("hotbay-signals".to_owned()).spawn(move || {
        while !received.load(Ordering::Relaxed) {
            thread::sleep(POLL_INTERVAL);
        }
        let _ = sender.try_send(StopRequest::Signal);
    })?;
    Ok(())
}

/// Waits until the reader of a pipe closes it, so that the command does not run on until its next
/// output fails.
#[cfg(unix)]
fn listen_to_stdout(sender: Sender<StopRequest>) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    thread::Builder::new().name("hotbay-stdout".to_owned()).spawn(move || {
        let stdout = io::stdout();
        loop {
            let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                    let _ = sender.try_send(StopRequest::ReaderClosed);
                    return;
                }
                // This kind of stdout does not report it.
                _ => return,
            }
        }
    })?;
    Ok(())
}
