//! Finds the limits of a sandbox that may be why a program exited, or does not get ready, by its signal
//! and its last output.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use hotbay_manifest::{SandboxLimits, SandboxRule};

use crate::output::Tail;

/// What programs print in lower case, and the signals that end them, when they reach a limit.
const SYMPTOMS: [(SandboxRule, &[&str], &[i32]); 5] = [
    (
        SandboxRule::MemoryBytes,
        &[
            "memoryerror",
            "cannot allocate memory",
            "out of memory",
            "memory allocation",
            "bad_alloc",
        ],
        &[libc::SIGKILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGTRAP, libc::SIGILL],
    ),
    (
        SandboxRule::Processes,
        &["resource temporarily unavailable", "can't start new thread", "cannot fork", "eagain"],
        &[],
    ),
    (SandboxRule::CpuSeconds, &[], &[libc::SIGXCPU, libc::SIGKILL]),
    (SandboxRule::OpenFiles, &["too many open files", "emfile"], &[]),
    (SandboxRule::FileBytes, &["file too large", "efbig"], &[libc::SIGXFSZ]),
];

/// Returns which of the limits that are set may be the reason: those whose symptoms were seen, or all
/// if the program was starting, and failed without output. It has no status if it still runs.
pub(crate) fn causes(
    limits: &SandboxLimits,
    status: Option<ExitStatus>,
    tail: &Tail,
    was_starting: bool,
) -> Vec<SandboxRule> {
    let is_set = |rule: SandboxRule| {
        limits.entries().into_iter().any(|(one, limit)| one == rule && limit.is_some())
    };
    let set: Vec<_> = SYMPTOMS.into_iter().filter(|(rule, ..)| is_set(*rule)).collect();
    let lines: Vec<_> = tail.lines().map(str::to_ascii_lowercase).collect();
    let signal = status.and_then(|status| status.signal());
    let is_seen = |(_, words, signals): &(SandboxRule, &[&str], &[i32])| {
        let has = |word: &&str| lines.iter().any(|line| line.contains(word));
        words.iter().any(has) || signal.is_some_and(|signal| signals.contains(&signal))
    };
    let seen: Vec<_> =
        set.iter().filter(|symptom| is_seen(symptom)).map(|(rule, ..)| *rule).collect();
    let has_failed = !status.is_some_and(|status| status.success());
    let is_unknown = seen.is_empty() && was_starting && lines.is_empty() && has_failed;
    if is_unknown { set.into_iter().map(|(rule, ..)| rule).collect() } else { seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_by_their_symptoms() {
        let limits = SandboxLimits::default()
            .with_memory_bytes(Some(1))
            .with_cpu_seconds(Some(1))
            .with_call_cpu_millis(Some(1))
            .with_open_files(Some(1));
        let check = |raw: i32, lines: &[&str], was_starting: bool, expected: &[SandboxRule]| {
            let mut tail = Tail::default();
            lines.iter().for_each(|line| tail.push(line));
            let found = causes(&limits, Some(ExitStatus::from_raw(raw)), &tail, was_starting);
            assert_eq!(found, expected, "{raw} {lines:?}");
        };
        use SandboxRule::{CpuSeconds, MemoryBytes, OpenFiles};
        let failed = 1 << 8;
        check(failed, &["ModuleNotFoundError: No module named 'attrs'"], true, &[]);
        check(failed, &["Traceback", "MemoryError"], true, &[MemoryBytes]);
        check(failed, &["OSError: [Errno 24] Too many open files"], false, &[OpenFiles]);
        check(failed, &["OSError: [Errno 27] File too large"], false, &[]);
        check(failed, &[], true, &[MemoryBytes, CpuSeconds, OpenFiles]);
        check(failed, &[], false, &[]);
        let set = [MemoryBytes, CpuSeconds, OpenFiles];
        assert_eq!(causes(&limits, None, &Tail::default(), true), set);
        check(0, &[], true, &[]);
        check(libc::SIGXCPU, &["text"], false, &[CpuSeconds]);
        check(libc::SIGKILL, &[], false, &[MemoryBytes, CpuSeconds]);
        check(libc::SIGABRT, &["memory allocation of 300 bytes failed"], false, &[MemoryBytes]);
    }
}
