//! Calls of `hotbay check` to a library, from two further threads: what a plugin binds to a
//! thread shows there, and not on the one that opens the library.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, PluginHandle, Reply};

use crate::input::Input;

/// How long a call may take. It cannot be ended: its thread is left behind.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Calls `plugin` on two threads, one after the other, with the sample or an empty input. The
/// reply of the first is freed on the second, that of the second on this one. Returns what went
/// wrong; an error that the plugin returns is an answer.
pub(crate) fn call(plugin: &PluginHandle, sample: Option<&Input>) -> Vec<String> {
    let mut failures = Vec::new();
    let mut before: Option<Reply> = None;
    for _ in 0..2 {
        let (plugin, input) = (plugin.clone(), sample.map_or_else(Input::empty, Input::copy));
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let calling = thread::spawn(move || {
                let answer = plugin.call(input.into_request());
                drop(before);
                answer
            });
            // Joined, so that what the call left on its thread is gone before the shutdown. The
            // destructors of thread-locals may never return, so the join is waited for with a limit.
            if let Ok(answer) = calling.join() {
                // The receiver may have given up.
                let _ = sender.send(answer);
            }
        });
        before = match receiver.recv_timeout(WAIT_MAX) {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(error)) => {
                failures.extend(failure(&error));
                None
            }
            Err(_) => {
                let limit = WAIT_MAX.as_secs();
                failures.push(format!("a call and its thread did not end within {limit} s"));
                return failures;
            }
        };
    }
    failures
}

fn failure(error: &hotbay::Error) -> Option<String> {
    // Panics arrive as events.
    let is_answer = matches!(
        error.kind(),
        ErrorKind::Plugin
            | ErrorKind::InvalidInput
            | ErrorKind::PermissionDenied
            | ErrorKind::Panicked
    );
    (!is_answer).then(|| format!("call: {}", error.full_message()))
}
