//! What the processes of a program use together: from its control group, or else from `/proc`. Linux
//! only; other systems report nothing.
//!
//! A process belongs to a program if it is in its group, or descends from such a process. One that has
//! left the group and whose parent has exited is not found; confined processes cannot leave it.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hotbay_sandbox::GroupUsage;
use rustix::process::Pid;

use crate::child::Child;

/// What the process of a plugin and its descendants use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// The highest known memory since the process started, in bytes.
    pub peak_memory_bytes: u64,
    /// Processor time since the process started.
    pub cpu_time: Duration,
}

/// The processes of this machine, as of the first use of the table.
#[derive(Debug, Default)]
pub struct ProcessTable(OnceCell<Vec<Row>>);

/// A process, as in its `stat` (see proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    pid: i32,
    parent: i32,
    group: i32,
    has_exited: bool,
    /// Of the process, and of those that it has waited for.
    cpu_ticks: u64,
    resident_pages: u64,
}

/// What the processes of a program use at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) processes: u64,
    /// Resident memory. Pages that processes share count once for each.
    pub(crate) memory_bytes: u64,
}

/// The processor time of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    pub(crate) used: Duration,
    /// How much more it may have used.
    pub(crate) error: Duration,
}

/// Measures what the processes of a launch use.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    main: i32,
    group: Option<i32>,
    /// Belongs to the group, and not to the program.
    guardian: Option<i32>,
    cgroup: Option<PathBuf>,
    /// The highest sum that was measured.
    peak_bytes: AtomicU64,
}

impl Meter {
    pub(crate) fn new(child: &Child) -> Self {
        let (group, guardian) = child.group();
        let raw = |pid: Pid| pid.as_raw_nonzero().get();
        Self {
            main: child.pid().cast_signed(),
            group: group.map(raw),
            guardian: guardian.map(raw),
            cgroup: child.cgroup(),
            peak_bytes: AtomicU64::new(0),
        }
    }

    #[cfg(test)]
    pub(crate) fn of_process(main: i32) -> Self {
        Self { main, ..Self::default() }
    }

    /// Returns what the processes use now; `None` if they have exited. Blocks.
    pub(crate) fn usage(&self, table: &ProcessTable) -> Option<Usage> {
        let group = self.group_usage();
        let memory_bytes = match group.memory_bytes {
            Some(bytes) => bytes,
            None => Some(self.sum(table)).filter(|sum| sum.processes > 0)?.memory_bytes,
        };
        let peak_memory_bytes = group.peak_memory_bytes.unwrap_or_else(|| {
            let seen = self.peak_bytes.fetch_max(memory_bytes, Ordering::Relaxed);
            seen.max(memory_bytes).max(peak_of_process(self.main))
        });
        let cpu_time = self.cpu_time(table).used;
        Some(Usage { memory_bytes, peak_memory_bytes, cpu_time })
    }

    /// Returns what all processes use now, without the control group. Blocks.
    pub(crate) fn sum(&self, table: &ProcessTable) -> Sum {
        let page_bytes = rustix::param::page_size() as u64;
        let mut sum = Sum::default();
        for row in self.members(table.rows()).filter(|row| !row.has_exited) {
            sum.processes += 1;
            let bytes = row.resident_pages.saturating_mul(page_bytes);
            sum.memory_bytes = sum.memory_bytes.saturating_add(bytes);
        }
        self.peak_bytes.fetch_max(sum.memory_bytes, Ordering::Relaxed);
        sum
    }

    /// Returns the processor time that the processes have used. Blocks.
    pub(crate) fn cpu_time(&self, table: &ProcessTable) -> CpuTime {
        if let Some(used) = self.group_usage().cpu_time {
            return CpuTime { used, error: Duration::ZERO };
        }
        let tick = Duration::from_secs(1) / ticks_per_second();
        let mut time = CpuTime::default();
        for row in self.members(table.rows()) {
            let ticks = u32::try_from(row.cpu_ticks).unwrap_or(u32::MAX);
            time.used = time.used.saturating_add(tick * ticks);
            // User and system time are each rounded down.
            time.error += 2 * tick;
        }
        time
    }

    /// Returns the ids of the processes.
    pub(crate) fn processes(&self, table: &ProcessTable) -> Vec<u32> {
        let members = self.members(table.rows());
        members.filter_map(|row| u32::try_from(row.pid).ok()).collect()
    }

    fn group_usage(&self) -> GroupUsage {
        self.cgroup.as_deref().map(GroupUsage::read).unwrap_or_default()
    }

    /// Returns the processes of the program.
    fn members<'t>(&self, rows: &'t [Row]) -> impl Iterator<Item = &'t Row> {
        let is_root = |row: &Row| row.pid == self.main || Some(row.group) == self.group;
        let mut is_member: Vec<bool> = rows.iter().map(is_root).collect();
        let is_guardian = |row: &Row| Some(row.pid) == self.guardian;
        let mut pending: Vec<_> =
            (0..rows.len()).filter(|at| is_member[*at] && !is_guardian(&rows[*at])).collect();
        let mut members = pending.clone();
        while let Some(parent) = pending.pop() {
            for (at, row) in rows.iter().enumerate() {
                if row.parent == rows[parent].pid && !is_member[at] {
                    is_member[at] = true;
                    pending.push(at);
                    members.push(at);
                }
            }
        }
        members.into_iter().map(|at| &rows[at])
    }
}

fn ticks_per_second() -> u32 {
    u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(u32::MAX).max(1)
}

impl ProcessTable {
    fn rows(&self) -> &[Row] {
        self.0.get_or_init(read_all)
    }
}

#[cfg(target_os = "linux")]
fn read_all() -> Vec<Row> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let rows = processes.flatten().filter_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        Row::parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    });
    rows.collect()
}

#[cfg(not(target_os = "linux"))]
fn read_all() -> Vec<Row> {
    Vec::new()
}

/// Returns the highest resident memory of a process, or 0.
fn peak_of_process(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    peak_in_status(&status).unwrap_or(0)
}

fn peak_in_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nothing is read there"))]
impl Row {
    fn parse(pid: i32, stat: &str) -> Option<Self> {
        const FIRST_FIELD: usize = 3;
        // The name of the program may have spaces and parentheses.
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - FIRST_FIELD).copied();
        let number = |at: usize| field(at)?.parse::<i64>().ok();
        // User and system time, and those of the processes that it has waited for.
        let ticks: i64 = (14..=17).filter_map(number).sum();
        Some(Self {
            pid,
            parent: field(4)?.parse().ok()?,
            group: field(5)?.parse().ok()?,
            has_exited: matches!(field(3)?, "Z" | "X"),
            cpu_ticks: ticks.try_into().unwrap_or(0),
            resident_pages: field(24)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: i32, parent: i32, group: i32) -> Row {
        Row { pid, parent, group, has_exited: false, cpu_ticks: 1, resident_pages: 1 }
    }

    fn meter(main: i32, group: i32, guardian: i32) -> Meter {
        let peak_bytes = AtomicU64::new(0);
        let (group, guardian) = (Some(group), Some(guardian));
        Meter { main, group, guardian, cgroup: None, peak_bytes }
    }

    fn table(rows: Vec<Row>) -> ProcessTable {
        ProcessTable(OnceCell::from(rows))
    }

    #[test]
    fn line_of_stat_is_parsed() {
        let stat = "7 (a) b) S 1 5 1 0 0 0 0 0 0 0 10 20 3 4 20 0 1 0 0 9 42 0";
        let expected = Row { cpu_ticks: 37, resident_pages: 42, ..row(7, 1, 5) };
        assert_eq!(Row::parse(7, stat), Some(expected));
        let exited = Row::parse(7, &stat.replace(") S", ") Z"));
        assert_eq!(exited, Some(Row { has_exited: true, ..expected }));
        assert_eq!(Row::parse(7, "7 (a"), None);
    }

    #[test]
    fn group_and_descendants_count_without_guardian() {
        let rows = vec![
            row(10, 1, 10),
            row(11, 1, 10),
            row(12, 11, 10),
            // It left the group, and started another one.
            row(13, 12, 13),
            row(14, 13, 13),
            // Its parent has exited.
            row(15, 1, 10),
            row(16, 1, 16),
            Row { has_exited: true, ..row(17, 11, 10) },
        ];
        let meter = meter(11, 10, 10);
        let mut found: Vec<_> = meter.members(&rows).map(|row| row.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [11, 12, 13, 14, 15, 17]);
        let table = table(rows);
        let sum = meter.sum(&table);
        assert_eq!(sum.processes, 5);
        assert_eq!(sum.memory_bytes, 5 * rustix::param::page_size() as u64);
        let tick = Duration::from_secs(1) / ticks_per_second();
        assert_eq!(meter.cpu_time(&table), CpuTime { used: 6 * tick, error: 12 * tick });
    }

    #[test]
    fn control_group_takes_precedence() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |file: &str, text: &str| {
            std::fs::write(folder.path().join(file), text).expect("a file");
        };
        write("memory.current", "70\n");
        write("memory.peak", "90\n");
        write("cpu.stat", "usage_usec 2000\n");
        let meter = Meter { cgroup: Some(folder.path().to_owned()), ..meter(-1, 10, 10) };
        let (memory_bytes, peak_memory_bytes) = (70, 90);
        let cpu_time = Duration::from_millis(2);
        let expected = Usage { memory_bytes, peak_memory_bytes, cpu_time };
        assert_eq!(meter.usage(&table(Vec::new())), Some(expected));
        std::fs::remove_file(folder.path().join("memory.peak")).expect("a file");
        let older = meter.usage(&table(Vec::new())).expect("a group");
        assert_eq!(older.peak_memory_bytes, 70);
    }

    #[test]
    fn peak_is_the_highest_sum() {
        // No process has this id.
        let (meter, page) = (meter(-1, 10, 10), rustix::param::page_size() as u64);
        let usage = |pages| {
            let table = table(vec![Row { resident_pages: pages, ..row(-1, 1, 10) }]);
            let usage = meter.usage(&table).expect("it runs");
            (usage.memory_bytes / page, usage.peak_memory_bytes / page)
        };
        assert_eq!([usage(5), usage(9), usage(4)], [(5, 5), (9, 9), (4, 9)]);
        assert_eq!(meter.usage(&table(Vec::new())), None);
        assert_eq!(peak_in_status("VmPeak:\t 9 kB\nVmHWM:\t     7 kB\n"), Some(7 * 1024));
    }
}
