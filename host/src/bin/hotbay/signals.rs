//! Who asks a running command to end: a signal, or a reader of stdout that has gone.
//! Says so once; a second signal ends the process at once, whatever it is doing.

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

/// `timeout` and some shells send a signal to the process and to its group: that is one wish.
#[cfg(unix)]
const SAME_WITHIN: Duration = Duration::from_millis(250);

/// Asks to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// By Ctrl-C, SIGTERM, or SIGHUP when its terminal closes.
    Signal,
    /// Nobody reads stdout any more.
    #[cfg_attr(not(unix), allow(dead_code, reason = "only Unix tells"))]
    ReaderGone,
    /// What runs was waited for long enough.
    Enough,
}

/// Tells `asked` after that long that it is enough. Without a thread for it nobody is told.
pub(crate) fn enough_after(wait_max: Duration, asked: &Sender<Ask>) {
    let asked = asked.clone();
    let _ = thread::Builder::new().name("hotbay-enough".to_owned()).spawn(move || {
        thread::sleep(wait_max);
        let _ = asked.try_send(Ask::Enough);
    });
}

/// Tells `asked` of every wish to end, from now on.
pub(crate) fn listen(asked: &Sender<Ask>) -> io::Result<()> {
    listen_to_signals(asked.clone())?;
    #[cfg(unix)]
    listen_to_stdout(asked.clone())?;
    Ok(())
}

#[cfg(unix)]
fn listen_to_signals(asked: Sender<Ask>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("hotbay-signals".to_owned()).spawn(move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            match first {
                None => first = Some(Instant::now()),
                Some(first) if first.elapsed() < SAME_WITHIN => {}
                // Without destructors: what hangs is what one is tired of.
                Some(_) => signal_hook::low_level::exit(128 + signal),
            }
            // One that is full says it already.
            let _ = asked.try_send(Ask::Signal);
        }
    })?;
    Ok(())
}

/// Where a signal cannot wake a thread, one looks at a flag.
#[cfg(not(unix))]
fn listen_to_signals(asked: Sender<Ask>) -> io::Result<()> {
    use std::sync::atomic::{AtomicBool, Ordering};
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    let once = std::sync::Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order, so that the first signal only arms it.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, once.clone())?;
        signal_hook::flag::register(signal, once.clone())?;
    }
    thread::Builder::new().name("hotbay-signals".to_owned()).spawn(move || {
        while !once.load(Ordering::Relaxed) {
            thread::sleep(LOOK_EVERY);
        }
        let _ = asked.try_send(Ask::Signal);
    })?;
    Ok(())
}

/// Waits until the other end of a pipe is closed, so that a host whose reader has died does not
/// live on until its next event.
#[cfg(unix)]
fn listen_to_stdout(asked: Sender<Ask>) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    thread::Builder::new().name("hotbay-stdout".to_owned()).spawn(move || {
        let stdout = io::stdout();
        loop {
            let mut ends = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut ends, None) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) if ends[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                    let _ = asked.try_send(Ask::ReaderGone);
                    return;
                }
                // No such thing can be told of this stdout.
                _ => return,
            }
        }
    })?;
    Ok(())
}
