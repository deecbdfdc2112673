//! Calls a library from two other threads, for `hotbay check`: finds state that a plugin binds to
//! the thread that loaded it.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, PluginHandle, Reply};

use crate::input::Input;

/// The time limit of a call. The thread of a call that exceeds it is abandoned.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Calls `plugin` on two threads, one after the other, with the sample or an empty input. Returns
/// the failures; an error that the plugin returns is not one.
///
/// Frees the first reply on the second thread, and the second reply on this one.
pub(crate) fn call_on_two_threads(plugin: &PluginHandle, sample: Option<&Input>) -> Vec<String> {
    let mut failures = Vec::new();
    let mut previous: Option<Reply> = None;
    for _ in 0..2 {
        let (plugin, input) = (plugin.clone(), sample.map_or_else(Input::empty, Input::copy));
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let call = thread::spawn(move || {
                let outcome = plugin.call(input.into_request());
                drop(previous);
                outcome
            });
            // The join runs the thread's destructors before the shutdown. They may never return, so
            // the join has a time limit too.
            if let Ok(outcome) = call.join() {
                // The receiver may have timed out.
                let _ = sender.send(outcome);
            }
        });
        previous = match receiver.recv_timeout(TIMEOUT) {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(error)) => {
                failures.extend(failure(&error));
                None
            }
            Err(_) => {
                let limit = TIMEOUT.as_secs();
                failures
                    .push(format!("a call from another thread did not return within {limit} s"));
                return failures;
            }
        };
    }
    failures
}

fn failure(error: &hotbay::Error) -> Option<String> {
    // Panics are reported as events.
    let is_expected = matches!(
        error.kind(),
        ErrorKind::Plugin
            | ErrorKind::InvalidInput
            | ErrorKind::PermissionDenied
            | ErrorKind::Panicked
    );
    (!is_expected).then(|| format!("call: {}", error.full_message()))
}
