//! The tag that every process of a launch inherits: finding its carriers and ending them, also
//! those that left the group. Linux only; elsewhere nothing lists the environments of others.

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The variable that carries the tag.
pub(super) const VARIABLE: &str = "HOTBAY_LAUNCH";

/// Ends all that carry `tag`, on a thread where that may take a while; here and now if the
/// runtime is ending.
pub(super) fn kill_all_in_background(tag: String, runtime: &Handle) -> JoinHandle<()> {
    let left = LeftBehind(tag);
    runtime.spawn(async move {
        // If it cannot be run, it is dropped, which does the same.
        let _ = tokio::task::spawn_blocking(move || drop(left)).await;
    })
}

/// What carries this tag is ended when this is dropped.
pub(super) struct LeftBehind(pub(super) String);

impl Drop for LeftBehind {
    fn drop(&mut self) {
        carriers::end_all(&self.0);
    }
}

/// The tag that a process carries, by its name below `/proc`.
#[cfg(target_os = "linux")]
pub(super) fn of(process: &str) -> Option<Vec<u8>> {
    let environment = std::fs::read(format!("/proc/{process}/environ")).ok()?;
    let tag = |entry: &[u8]| {
        entry.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec)
    };
    environment.split(|byte| *byte == 0).find_map(tag)
}

#[cfg(target_os = "linux")]
pub(super) mod carriers {
    use std::fs::{self, File};
    use std::io::Read;
    use std::time::Duration;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use super::VARIABLE;

    /// More than the system gives to any program.
    const ENVIRONMENT_BYTES_MAX: u64 = 8 << 20;
    /// Whoever starts processes faster than this ends them stays.
    const ROUNDS_MAX: u32 = 200;
    /// Processes that were killed need a moment to be gone.
    const BETWEEN_ROUNDS: Duration = Duration::from_millis(1);
    /// Executing a program takes microseconds, and longer where the processors are busy.
    const LOOKS_MAX: u32 = 200;
    const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

    pub(super) fn end_all(tag: &str) {
        let entry = entry(tag);
        for _ in 0..ROUNDS_MAX {
            let carriers = carrying(&entry);
            if carriers.is_empty() {
                return;
            }
            for pid in carriers {
                end(pid, &entry);
            }
            std::thread::sleep(BETWEEN_ROUNDS);
        }
    }

    /// Who carries `tag` now.
    pub(in crate::supervisor) fn all(tag: &str) -> Vec<Pid> {
        carrying(&entry(tag))
    }

    fn entry(tag: &str) -> Vec<u8> {
        format!("{VARIABLE}={tag}").into_bytes()
    }

    fn carrying(entry: &[u8]) -> Vec<Pid> {
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = processes.flatten().filter_map(|process| {
            Pid::from_raw(process.file_name().to_str()?.parse().ok().filter(|pid| *pid > 0)?)
        });
        pids.filter(|pid| carries(*pid, entry)).collect()
    }

    /// Whether a process carries the tag. While it executes a program it shows no environment,
    /// so one that shows none is looked at again.
    fn carries(pid: Pid, entry: &[u8]) -> bool {
        for _ in 0..LOOKS_MAX {
            match look(pid, entry) {
                Look::Carries => return true,
                Look::CarriesNot => return false,
                Look::Unclear => std::thread::sleep(BETWEEN_LOOKS),
            }
        }
        false
    }

    enum Look {
        Carries,
        /// Also what is said of those of others, which cannot be read, and of those that ended.
        CarriesNot,
        Unclear,
    }

    fn look(pid: Pid, entry: &[u8]) -> Look {
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        let Ok(file) = File::open(format!("{folder}/environ")) else { return Look::CarriesNot };
        let mut environment = Vec::new();
        match file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment) {
            Err(_) => Look::CarriesNot,
            Ok(0) => look_at_nothing(&fs::read_to_string(format!("{folder}/stat"))),
            Ok(_) if environment.split(|byte| *byte == 0).any(|own| own == entry) => Look::Carries,
            Ok(_) => Look::CarriesNot,
        }
    }

    /// What to make of a process that shows no environment, by its `stat`.
    fn look_at_nothing(stat: &std::io::Result<String>) -> Look {
        /// Of the kernel, or ending: neither has an environment.
        const KERNEL_OR_ENDING: u64 = 0x0020_0000 | 0x4;
        let Some((_, stat)) = stat.as_ref().ok().and_then(|stat| stat.rsplit_once(") ")) else {
            return Look::CarriesNot;
        };
        // The first of these fields is the third that proc(5) counts.
        let fields: Vec<&str> = stat.split_whitespace().collect();
        let number = |at: usize| fields.get(at - 3).and_then(|field| field.parse::<u64>().ok());
        let (flags, start, end) = (number(9), number(50), number(51));
        // Over, or asleep: one that executes a program runs, or waits for a disk. The first process
        // of a machine may show nothing for ever.
        let is_over = matches!(fields.first(), Some(&("Z" | "X" | "S" | "I" | "T" | "t")));
        match (flags, start, end) {
            _ if is_over => Look::CarriesNot,
            (Some(flags), ..) if flags & KERNEL_OR_ENDING != 0 => Look::CarriesNot,
            (_, Some(start), Some(end)) if start == end && end != 0 => Look::CarriesNot,
            (Some(_), Some(_), Some(_)) => Look::Unclear,
            _ => Look::CarriesNot,
        }
    }

    /// The id may have become a stranger's since it was found, so it is looked at again once it
    /// is held.
    fn end(pid: Pid, entry: &[u8]) {
        let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if carries(pid, entry) {
            // It may have ended by itself.
            let _ = pidfd_send_signal(&held, Signal::KILL);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_a_process_that_executes_a_program_shows_nothing_for_a_moment() {
            let unclear = |state: &str, flags: &str, start: &str, end: &str| {
                let between = "0 ".repeat(5);
                let rest = "0 ".repeat(40);
                let stat = format!("7 (a ) Z) {state} {between}{flags} {rest}{start} {end} 0\n");
                matches!(look_at_nothing(&Ok(stat)), Look::Unclear)
            };
            assert!(unclear("R", "4194304", "0", "0"), "it executes a program");
            assert!(unclear("D", "4194304", "100", "200"), "it did when it was read");
            assert!(!unclear("S", "4194304", "100", "100"), "it has no variables");
            assert!(!unclear("Z", "4194304", "0", "0"), "it ended");
            assert!(!unclear("S", "4194560", "0", "0"), "it sleeps, as the first process does");
            assert!(!unclear("R", "4194308", "0", "0"), "it is ending");
            assert!(!unclear("S", "2129984", "0", "0"), "it is a thread of the kernel");
            let gone = Err(std::io::Error::from(std::io::ErrorKind::NotFound));
            assert!(matches!(look_at_nothing(&gone), Look::CarriesNot));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod carriers {
    pub(super) fn end_all(_: &str) {}
}
