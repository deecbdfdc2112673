//! What the processes of a control group use, as the kernel counts it.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// What the processes of a control group use. `None` if its controllers or the kernel do not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Memory, including the cache of files that they accessed, in bytes.
    pub memory_bytes: Option<u64>,
    /// The highest such memory since the group was created, in bytes. Needs Linux 5.19.
    pub peak_memory_bytes: Option<u64>,
    /// Processor time, including that of processes that have exited.
    pub cpu_time: Option<Duration>,
}

impl GroupUsage {
    /// Reads the files of the group in `folder`. Accesses the disk.
    pub fn read(folder: &Path) -> Self {
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse().ok();
        Self {
            memory_bytes: number("memory.current"),
            peak_memory_bytes: number("memory.peak"),
            cpu_time: read("cpu.stat").as_deref().and_then(cpu_time),
        }
    }
}

/// Returns the total of `cpu.stat`.
fn cpu_time(stat: &str) -> Option<Duration> {
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    micros.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_processor_time_is_read() {
        let stat = "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1500)));
        assert_eq!(cpu_time("user_usec 1\n"), None);
    }

    #[test]
    fn missing_group_uses_nothing_known() {
        assert_eq!(GroupUsage::read(Path::new("/missing/group")), GroupUsage::default());
    }
}
