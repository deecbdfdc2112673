//! Threads that call a plugin in a loop, and the outcomes of their calls.

use std::sync::atomic::{AtomicBool, Ordering};

use hotbay::{Error, PluginHandle, Reply, Request};
use serde_json::{Value, json};

use super::swapper::runtime;

/// Number of calls that one thread keeps queued.
const QUEUED: usize = 8;

/// Returns the configs of the two builds of `transform`.
pub(crate) fn configs() -> [Value; 2] {
    [json!({ "mode": "upper" }), json!({ "mode": "lower" })]
}

/// The way in which calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallMethod {
    /// On the caller's thread.
    Call,
    /// Queued, several at once.
    Execute,
}

/// The outcomes of the calls of one or several threads.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) made: u64,
    /// Replies by the build that returns capitals, and by the other.
    pub(crate) by_build: [u64; 2],
    pub(crate) failed: u64,
    /// Other replies.
    pub(crate) wrong: u64,
    /// The first unexpected outcome.
    pub(crate) first: Option<String>,
}

/// Calls a `transform` plugin that returns capitals or lower-case letters, until `stop`.
pub(crate) fn calls(
    handle: &PluginHandle,
    method: CallMethod,
    stop: &AtomicBool,
) -> anyhow::Result<Calls> {
    let mut calls = Calls::default();
    match method {
        CallMethod::Call => {
            while !stop.load(Ordering::Relaxed) {
                let text = calls.next();
                let answer = handle.call(Request::text(&text));
                calls.note(&text, answer);
            }
        }
        CallMethod::Execute => {
            let runtime = runtime()?;
            while !stop.load(Ordering::Relaxed) {
                let queued: Vec<_> = (0..QUEUED)
                    .map(|_| {
                        let text = calls.next();
                        let answer = handle.execute(Request::text(&text));
                        (text, answer)
                    })
                    .collect();
                for (text, answer) in queued {
                    let answer = runtime.block_on(answer);
                    calls.note(&text, answer);
                }
            }
        }
    }
    Ok(calls)
}

impl Calls {
    fn next(&mut self) -> String {
        self.made += 1;
        format!("Call {}", self.made)
    }

    fn note(&mut self, text: &str, answer: Result<Reply, Error>) {
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => {
                self.failed += 1;
                self.first.get_or_insert_with(|| error.full_message());
                return;
            }
        };
        match reply.as_text() {
            Ok(found) if found == text.to_uppercase() => self.by_build[0] += 1,
            Ok(found) if found == text.to_lowercase() => self.by_build[1] += 1,
            found => {
                self.wrong += 1;
                self.first.get_or_insert_with(|| format!("`{text}` was answered by {found:?}"));
            }
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.made += other.made;
        self.failed += other.failed;
        self.wrong += other.wrong;
        for (sum, of_build) in self.by_build.iter_mut().zip(other.by_build) {
            *sum += of_build;
        }
        self.first = self.first.take().or(other.first);
    }

    /// Returns the number of calls without an outcome.
    pub(crate) fn lost(&self) -> u64 {
        self.made - self.by_build.iter().sum::<u64>() - self.failed - self.wrong
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.failed + self.wrong + self.lost() == 0 && self.by_build.iter().all(|&count| count > 0)
    }
}
